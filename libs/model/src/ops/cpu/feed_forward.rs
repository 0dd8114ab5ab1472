//! One network that every row passes; of SwiGLU.
use super::{
    bank::{Bank, Block, Hidden, Outer, outer_all},
    block,
    fresh::fresh,
};

/// `x`: `[rows, d_model]`; returns `[rows, d_model]`.
pub(in crate::ops) fn feed_forward(x: &[f32], bank: Bank<'_>) -> (Vec<f32>, Hidden) {
    let (d, width) = (bank.d_model, bank.width);
    let rows = x.len() / d;
    let tasks = x.chunks(block(rows, 3 * d * width) * d).map(|x| {
        let size = x.len() / d * width;
        (x, [size, size, x.len()])
    });
    let sizes = [rows * width, rows * width, x.len()];
    let [gate, up, y] =
        fresh(sizes, 3 * rows * width * d, tasks, |x, parts| bank.forward(0, x, parts));
    (y, Hidden { gate, up })
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
    let block = block(x.len() / d, 3 * d * width);
    let hidden = g.chunks_mut(block * width).zip(u.chunks_mut(block * width));
    let tasks = dy.chunks(block * d).zip(hidden).map(|(dy, (g, u))| {
        let sizes = [g.len(), dy.len()];
        (Block { dy, g, u, weight: None }, sizes)
    });
    let [h, dx] =
        fresh([x.len() / d * width, x.len()], 3 * x.len() * width, tasks, |block, parts| {
            bank.backward(0, block, parts)
        });
    if !matrices_learn {
        return (dx, None);
    }
    let matrices = outer_all(&[
        (0, Outer { a: x, b: &g, shape: [d, width] }),
        (1, Outer { a: x, b: &u, shape: [d, width] }),
        (2, Outer { a: &h, b: dy, shape: [width, d] }),
    ]);
    (dx, Some(matrices))
}
