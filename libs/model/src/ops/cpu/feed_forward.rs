//! One SwiGLU network that every row passes.
use rayon::prelude::*;

use super::{
    block,
    swiglu::{Bank, Block, Hidden, Outer, outer_all},
};

/// `x`: `[rows, d_model]`; returns `[rows, d_model]`.
pub(in crate::ops) fn feed_forward(x: &[f32], bank: Bank<'_>) -> (Vec<f32>, Hidden) {
    let (d, width) = (bank.d_model, bank.width);
    let block = block(x.len() / d);
    let mut hidden = Hidden::new(x.len() / d * width);
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(block * d)
        .zip(x.par_chunks(block * d))
        .zip(hidden.gate.par_chunks_mut(block * width))
        .zip(hidden.up.par_chunks_mut(block * width))
        .for_each(|(((y, x), g), u)| bank.forward(0, x, g, u, y));
    (y, hidden)
}

/// Gradients of `x`, and of `gate`, `up` and `down` where they learn.
pub(in crate::ops) fn feed_forward_backward(
    x: &[f32],
    bank: Bank<'_>,
    hidden: Hidden,
    dy: &[f32],
    matrices_learn: bool,
) -> (Vec<f32>, Option<[Vec<f32>; 3]>) {
    let (d, width) = (bank.d_model, bank.width);
    let Hidden { gate: mut g, up: mut u } = hidden;
    let block = block(x.len() / d);
    let mut h = vec![0.0; g.len()];
    let mut dx = vec![0.0; x.len()];
    dx.par_chunks_mut(block * d)
        .zip(dy.par_chunks(block * d))
        .zip(h.par_chunks_mut(block * width))
        .zip(g.par_chunks_mut(block * width).zip(u.par_chunks_mut(block * width)))
        .for_each(|(((dx, dy), h), (g, u))| {
            bank.backward(0, Block { dy, g, u, h, dx, weight: None });
        });
    if !matrices_learn {
        return (dx, None);
    }
    let [mut dgate, mut dup, mut ddown] = [(); 3].map(|()| vec![0.0; d * width]);
    outer_all(vec![
        Outer { out: &mut dgate, a: x, b: &g, cols: width },
        Outer { out: &mut dup, a: x, b: &u, cols: width },
        Outer { out: &mut ddown, a: &h, b: dy, cols: d },
    ]);
    (dx, Some([dgate, dup, ddown]))
}
