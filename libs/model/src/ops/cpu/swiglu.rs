//! What one SwiGLU expert does to a block of rows: `(silu(x gate) * (x up)) down`.
use rayon::prelude::*;

use super::{
    product::{View, product},
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

    /// `x`, `y`: `[rows, d_model]`; leaves `x gate` in `g` and `x up` in `u`, `[rows, width]`.
    pub(super) fn forward(
        &self,
        expert: usize,
        x: &[f32],
        g: &mut [f32],
        u: &mut [f32],
        y: &mut [f32],
    ) {
        let (rows, d, width) = (g.len() / self.width, self.d_model, self.width);
        let x = View::new(x, rows, d);
        product(g, width, false, x, self.gate(expert));
        product(u, width, false, x, self.up(expert));
        let mut h = vec![0.0; g.len()];
        widest(
            #[inline(always)]
            || {
                for ((h, g), u) in h.iter_mut().zip(&*g).zip(&*u) {
                    *h = g * sigmoid(*g) * u;
                }
            },
        );
        product(y, d, false, View::new(&h, rows, width), self.down(expert));
    }

    /// `g`, `u`: what the forward pass left; replaced by their gradients. `h`: receives the hidden
    /// layer times the row's weight, whose product with `dy` is the gradient of `down`. `dx`,
    /// `dy`: `[rows, d_model]`. `weight`: of each row's answer; `dweight`: its gradient.
    pub(super) fn backward(&self, expert: usize, block: Block<'_>) {
        let Block { dy, g, u, h, dx, weight } = block;
        let (rows, d, width) = (g.len() / self.width, self.d_model, self.width);
        let mut dh = vec![0.0; h.len()];
        product(&mut dh, width, false, View::new(dy, rows, d), self.down(expert).t());
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
        product(dx, d, false, View::new(g, rows, width), self.gate(expert).t());
        product(dx, d, true, View::new(u, rows, width), self.up(expert).t());
    }
}

/// Rows of one expert on the way back; see [`Bank::backward`].
pub(super) struct Block<'a> {
    pub(super) dy: &'a [f32],
    pub(super) g: &'a mut [f32],
    pub(super) u: &'a mut [f32],
    pub(super) h: &'a mut [f32],
    pub(super) dx: &'a mut [f32],
    pub(super) weight: Option<(&'a [f32], &'a mut [f32])>,
}

/// What the way back needs of the way there: `x gate` and `x up`, `[rows, width]` each.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Hidden {
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
}

impl Hidden {
    pub(super) fn new(size: usize) -> Self {
        Self { gate: vec![0.0; size], up: vec![0.0; size] }
    }
}

/// Rows of a result that one task computes.
const PART: usize = 64;

/// `out = a^T b` for the rows `a`: `[rows, out.len() / cols]` and `b`: `[rows, cols]`: what a matrix
/// learns from a batch.
pub(super) struct Outer<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) cols: usize,
}

/// Computes all, in parts of about one size.
pub(super) fn outer_all(tasks: Vec<Outer<'_>>) {
    let parts: Vec<_> = tasks
        .into_iter()
        .flat_map(|Outer { out, a, b, cols }| {
            let stride = out.len() / cols;
            out.chunks_mut(PART * cols)
                .enumerate()
                .map(move |(part, out)| (out, &a[(part * PART).min(a.len())..], stride, b, cols))
        })
        .collect();
    parts.into_par_iter().for_each(|(out, a, stride, b, cols)| {
        let rows = b.len() / cols;
        let a = View::strided(a, rows, out.len() / cols, stride).t();
        product(out, cols, false, a, View::new(b, rows, cols));
    });
}
