//! What one SwiGLU expert does to a block of rows: `(silu(x gate) * (x up)) down`.
use super::{
    fresh::{Blank, blank, copied, fresh, written},
    product::{View, add_product, product},
    simd::{sigmoid, widest},
};

/// The matrices of experts of one size.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Bank<'a> {
    pub(in crate::ops) d_model: usize,
    pub(in crate::ops) width: usize,
    /// `[experts, d_model, width]`.
    pub(in crate::ops) gate: &'a [f32],
    /// `[experts, d_model, width]`.
    pub(in crate::ops) up: &'a [f32],
    /// `[experts, width, d_model]`.
    pub(in crate::ops) down: &'a [f32],
}

impl<'a> Bank<'a> {
    fn of(&self, matrices: &'a [f32], expert: usize) -> &'a [f32] {
        let size = self.d_model * self.width;
        &matrices[expert * size..(expert + 1) * size]
    }

    fn gate(&self, expert: usize) -> View<'a> {
        View::new(self.of(self.gate, expert), self.d_model, self.width)
    }

    fn up(&self, expert: usize) -> View<'a> {
        View::new(self.of(self.up, expert), self.d_model, self.width)
    }

    fn down(&self, expert: usize) -> View<'a> {
        View::new(self.of(self.down, expert), self.width, self.d_model)
    }

    /// `x`: `[rows, d_model]`. Writes `x gate` and `x up`, `[rows, width]`, and the answers,
    /// `[rows, d_model]`.
    pub(super) fn forward<'b>(
        &self,
        expert: usize,
        x: &[f32],
        [g, u, y]: [&'b mut Blank; 3],
    ) -> [&'b mut [f32]; 3] {
        let (rows, d, width) = (x.len() / self.d_model, self.d_model, self.width);
        let x = View::new(x, rows, d);
        let g = product(g, x, self.gate(expert));
        let u = product(u, x, self.up(expert));
        let mut h = blank(g.len());
        let h = copied(&mut h, std::iter::once(&*g));
        widest(
            #[inline(always)]
            || {
                for (h, u) in h.iter_mut().zip(&*u) {
                    *h = *h * sigmoid(*h) * u;
                }
            },
        );
        let y = product(y, View::new(h, rows, width), self.down(expert));
        [g, u, y]
    }

    /// Writes the hidden layer times the row's weight, whose product with `dy` is the gradient of
    /// `down`, `[rows, width]`, and the gradient of `x`, `[rows, d_model]`.
    pub(super) fn backward<'b>(
        &self,
        expert: usize,
        block: Block<'_>,
        [h, dx]: [&'b mut Blank; 2],
    ) -> [&'b mut [f32]; 2] {
        let Block { dy, g, u, weight } = block;
        let (rows, d, width) = (g.len() / self.width, self.d_model, self.width);
        let mut dh = blank(g.len());
        let dh = product(&mut dh, View::new(dy, rows, d), self.down(expert).t());
        let h = copied(h, std::iter::once(&*g));
        widest(
            #[inline(always)]
            || {
                for (h, (g, u)) in h.iter_mut().zip(g.iter_mut().zip(u.iter_mut())) {
                    let s = sigmoid(*g);
                    let silu = *g * s;
                    *h = silu * *u;
                    *g = s * (1.0 + *g * (1.0 - s)) * *u;
                    *u = silu;
                }
            },
        );
        if let Some((weight, dweight)) = weight {
            widest(
                #[inline(always)]
                || {
                    let rows = dh.chunks_exact_mut(width).zip(h.chunks_exact_mut(width));
                    for ((dh, h), (weight, dweight)) in rows.zip(weight.iter().zip(dweight)) {
                        *dweight = super::simd::dot(dh, h);
                        dh.iter_mut().for_each(|dh| *dh *= weight);
                        h.iter_mut().for_each(|h| *h *= weight);
                    }
                },
            );
        }
        widest(
            #[inline(always)]
            || {
                for (dh, (g, u)) in dh.iter().zip(g.iter_mut().zip(u.iter_mut())) {
                    *g *= dh;
                    *u *= dh;
                }
            },
        );
        let dx = product(dx, View::new(g, rows, width), self.gate(expert).t());
        add_product(dx, View::new(u, rows, width), self.up(expert).t());
        [h, dx]
    }
}

/// Rows of one expert on the way back.
pub(super) struct Block<'a> {
    /// Gradient of the answers, `[rows, d_model]`.
    pub(super) dy: &'a [f32],
    /// `x gate`, `[rows, width]`; replaced by its gradient.
    pub(super) g: &'a mut [f32],
    /// The same of `x up`.
    pub(super) u: &'a mut [f32],
    /// Of each row's answer, and where the gradient of that goes, `[rows]`.
    pub(super) weight: Option<(&'a [f32], &'a mut [f32])>,
}

/// What the way back needs of the way there: `x gate` and `x up`, `[rows, width]` each.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Hidden {
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
}

/// `a^T b`: what a matrix of `shape` learns from the rows `a`: `[rows, shape[0]]`, and `b`:
/// `[rows, shape[1]]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) shape: [usize; 2],
}

/// Computes all. Those of one result are given with its number, one behind the other.
pub(super) fn outer_all<const N: usize>(outers: &[(usize, Outer<'_>)]) -> [Vec<f32>; N] {
    let mut sizes = [0; N];
    outers.iter().for_each(|(of, outer)| sizes[*of] += outer.shape[0] * outer.shape[1]);
    let part = part(outers.iter().map(|(_, outer)| outer.shape[0]).sum());
    let tasks = outers.iter().flat_map(|&(of, outer)| {
        let [all, cols] = outer.shape;
        (0..all).step_by(part).map(move |start| {
            let count = part.min(all - start);
            let mut sizes = [0; N];
            sizes[of] = count * cols;
            ((of, outer, start, count), sizes)
        })
    });
    let work = outers.iter().map(|(_, outer)| outer.a.len() * outer.shape[1]).sum();
    fresh(sizes, work, tasks, |(of, Outer { a, b, shape: [all, cols] }, start, count), parts| {
        let rows = b.len() / cols;
        let a = View::strided(&a[start.min(a.len())..], rows, count, all).t();
        let mut at = 0..N;
        parts.map(|part| match at.next() {
            Some(at) if at == of => product(part, a, View::new(b, rows, cols)),
            _ => written(part, std::iter::empty()),
        })
    })
}

/// Rows of a result that one task computes, of so many in all. Each task packs its `b` anew, so
/// large ones where there are tasks enough for every thread anyway.
fn part(rows: usize) -> usize {
    match rows.div_ceil(rayon::current_num_threads()) {
        many if many >= 1024 => 256,
        few => few.next_multiple_of(16).clamp(32, 128),
    }
}
