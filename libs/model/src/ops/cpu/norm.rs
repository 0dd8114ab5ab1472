//! RMSNorm.
use super::{
    BLOCK,
    fresh::{MOVED, copied, fresh, written},
    simd::{add_scaled, dot, widest},
};

/// Returns the normed rows, and `1 / sqrt(mean(x^2) + epsilon)` of each.
pub(in crate::ops) fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let tasks = x.chunks(BLOCK * width).map(|x| (x, [x.len(), x.len() / width]));
    let [y, scales] =
        fresh([x.len(), x.len() / width], x.len() * MOVED, tasks, |x, [y, scales]| {
            let y = copied(y, std::iter::once(x));
            widest(
                #[inline(always)]
                || {
                    let scales = written(scales, std::iter::repeat(0.0));
                    for (y, scale) in y.chunks_exact_mut(width).zip(&mut *scales) {
                        *scale = (dot(y, y) / width as f32 + epsilon).sqrt().recip();
                        for (y, gain) in y.iter_mut().zip(gain) {
                            *y = *y * *scale * gain;
                        }
                    }
                    [y, scales]
                },
            )
        });
    (y, scales)
}

/// Returns the gradients of `x` and of `gain`.
///
/// With n = x scale: `dx = scale (g - n mean(g n))` where `g = dy gain`, and `dgain = sum(dy n)`.
pub(in crate::ops) fn rms_norm_backward(
    x: &[f32],
    gain: &[f32],
    scales: &[f32],
    dy: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let blocks = x.chunks(BLOCK * width).zip(dy.chunks(BLOCK * width));
    let tasks = blocks.zip(scales.chunks(BLOCK)).map(|((x, dy), s)| ((x, dy, s), [x.len(), width]));
    let sizes = [x.len(), scales.len().div_ceil(BLOCK) * width];
    let [dx, parts] = fresh(sizes, 2 * x.len() * MOVED, tasks, |(x, dy, scales), [dx, dgain]| {
        let dx = copied(dx, std::iter::once(dy));
        widest(
            #[inline(always)]
            || {
                let dgain = written(dgain, std::iter::repeat(0.0));
                let mut product = vec![0.0; width];
                let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((dx, x), scale) in rows.zip(scales) {
                    for ((product, x), dy) in product.iter_mut().zip(x).zip(&*dx) {
                        *product = x * dy;
                    }
                    add_scaled(dgain, *scale, &product);
                    let mean = dot(&product, gain) * scale * scale / width as f32;
                    for ((dx, x), gain) in dx.iter_mut().zip(x).zip(gain) {
                        *dx = scale * (*dx * gain - x * mean);
                    }
                }
                [dx, dgain]
            },
        )
    });
    let mut dgain = vec![0.0; width];
    for part in parts.chunks_exact(width) {
        add_scaled(&mut dgain, 1.0, part);
    }
    (dx, dgain)
}
