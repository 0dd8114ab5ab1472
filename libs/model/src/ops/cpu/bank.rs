//! What one expert does to a block of rows: `(silu(x gate) * (x up)) down`, or
//! `gelu(x up + a) down + b`.
use super::{
    fresh::{Blank, blank, copied, fresh, written},
    product::{View, add_product, product},
    simd::{add_scaled, normal, sigmoid, widest},
};

/// The matrices of experts of one size.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Bank<'a> {
    pub(in crate::ops) d_model: usize,
    pub(in crate::ops) width: usize,
    pub(in crate::ops) form: Form<'a>,
    /// `[experts, d_model, width]`.
    pub(in crate::ops) up: &'a [f32],
    /// `[experts, width, d_model]`.
    pub(in crate::ops) down: &'a [f32],
}

/// What stands between both matrices.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum Form<'a> {
    SwiGlu {
        /// `[experts, d_model, width]`.
        gate: &'a [f32],
    },
    Gelu {
        /// `[experts, width]`.
        up_bias: &'a [f32],
        /// `[experts, d_model]`.
        down_bias: &'a [f32],
    },
}

impl<'a> Bank<'a> {
    fn of(&self, matrices: &'a [f32], expert: usize) -> &'a [f32] {
        let size = self.d_model * self.width;
        &matrices[expert * size..(expert + 1) * size]
    }

    /// Numbers that a row has behind the gate.
    pub(super) fn gates(&self) -> usize {
        match self.form {
            Form::SwiGlu { .. } => self.width,
            Form::Gelu { .. } => 0,
        }
    }

    fn gate(&self, gate: &'a [f32], expert: usize) -> View<'a> {
        View::new(self.of(gate, expert), self.d_model, self.width)
    }

    fn up(&self, expert: usize) -> View<'a> {
        View::new(self.of(self.up, expert), self.d_model, self.width)
    }

    fn down(&self, expert: usize) -> View<'a> {
        View::new(self.of(self.down, expert), self.width, self.d_model)
    }

    /// `x`: `[rows, d_model]`. Writes `x gate` (of GELU nothing) and `x up` with its bias,
    /// `[rows, width]`, and the answers, `[rows, d_model]`.
    pub(super) fn forward<'b>(
        &self,
        expert: usize,
        x: &[f32],
        [g, u, y]: [&'b mut Blank; 3],
    ) -> [&'b mut [f32]; 3] {
        let (rows, d, width) = (x.len() / self.d_model, self.d_model, self.width);
        let x = View::new(x, rows, d);
        let u = product(u, x, self.up(expert));
        let mut h = blank(u.len());
        let (g, h) = match self.form {
            Form::SwiGlu { gate } => {
                let g = product(g, x, self.gate(gate, expert));
                let h = copied(&mut h, std::iter::once(&*g));
                widest(
                    #[inline(always)]
                    || {
                        for (h, u) in h.iter_mut().zip(&*u) {
                            *h = *h * sigmoid(*h) * u;
                        }
                    },
                );
                (g, h)
            }
            Form::Gelu { up_bias, .. } => {
                add_to_rows(u, &up_bias[expert * width..][..width]);
                let h = copied(&mut h, std::iter::once(&*u));
                widest(
                    #[inline(always)]
                    || h.iter_mut().for_each(|h| *h *= normal(*h).0),
                );
                (written(g, std::iter::empty()), h)
            }
        };
        let y = product(y, View::new(h, rows, width), self.down(expert));
        if let Form::Gelu { down_bias, .. } = self.form {
            add_to_rows(y, &down_bias[expert * d..][..d]);
        }
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
        let (rows, d, width) = (u.len() / self.width, self.d_model, self.width);
        let mut dh = blank(u.len());
        let dh = product(&mut dh, View::new(dy, rows, d), self.down(expert).t());
        let h = copied(h, std::iter::once(&*u));
        // Both are replaced by what the gradient of the hidden layer is multiplied by.
        widest(
            #[inline(always)]
            || match self.form {
                Form::SwiGlu { .. } => {
                    for (h, (g, u)) in h.iter_mut().zip(g.iter_mut().zip(u.iter_mut())) {
                        let s = sigmoid(*g);
                        let silu = *g * s;
                        *h = silu * *u;
                        *g = s * (1.0 + *g * (1.0 - s)) * *u;
                        *u = silu;
                    }
                }
                Form::Gelu { .. } => {
                    for (h, u) in h.iter_mut().zip(u.iter_mut()) {
                        let (below, density) = normal(*u);
                        *h = *u * below;
                        *u = u.mul_add(density, below);
                    }
                }
            },
        );
        if let Some((weight, dweight)) = weight {
            widest(
                #[inline(always)]
                || {
                    let rows = dh.chunks_exact_mut(width).zip(h.chunks_exact_mut(width));
                    let rows = rows.zip(dy.chunks_exact(d));
                    for (((dh, h), dy), (weight, dweight)) in rows.zip(weight.iter().zip(dweight)) {
                        *dweight = super::simd::dot(dh, h);
                        if let Form::Gelu { down_bias, .. } = self.form {
                            *dweight += super::simd::dot(dy, &down_bias[expert * d..][..d]);
                        }
                        dh.iter_mut().for_each(|dh| *dh *= weight);
                        h.iter_mut().for_each(|h| *h *= weight);
                    }
                },
            );
        }
        let dh = &*dh;
        let times_dh = |x: &mut [f32]| {
            widest(
                #[inline(always)]
                || x.iter_mut().zip(dh).for_each(|(x, dh)| *x *= dh),
            );
        };
        times_dh(u);
        let (u, up) = (View::new(u, rows, width), self.up(expert).t());
        let dx = match self.form {
            Form::SwiGlu { gate } => {
                times_dh(g);
                let g = View::new(g, rows, width);
                let dx = product(dx, g, self.gate(gate, expert).t());
                add_product(dx, u, up);
                dx
            }
            Form::Gelu { .. } => product(dx, u, up),
        };
        [h, dx]
    }
}

fn add_to_rows(rows: &mut [f32], bias: &[f32]) {
    widest(
        #[inline(always)]
        || rows.chunks_exact_mut(bias.len()).for_each(|row| add_scaled(row, 1.0, bias)),
    );
}

/// What the matrices and biases of experts learn; empty where a form has none.
pub(in crate::ops) struct Learnt {
    pub(in crate::ops) gate: Vec<f32>,
    pub(in crate::ops) up: Vec<f32>,
    pub(in crate::ops) down: Vec<f32>,
    pub(in crate::ops) up_bias: Vec<f32>,
    pub(in crate::ops) down_bias: Vec<f32>,
}

/// Rows of one expert on the way back.
pub(super) struct Block<'a> {
    /// Gradient of the answers, `[rows, d_model]`.
    pub(super) dy: &'a [f32],
    /// `x gate`, `[rows, width]`, where there is one; replaced by its gradient.
    pub(super) g: &'a mut [f32],
    /// The same of `x up`, with its bias.
    pub(super) u: &'a mut [f32],
    /// Of each row's answer, and where the gradient of that goes, `[rows]`.
    pub(super) weight: Option<(&'a [f32], &'a mut [f32])>,
}

/// What the way back needs of the way there: `x gate`, where there is one, and `x up` with its bias,
/// `[rows, width]` each.
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
