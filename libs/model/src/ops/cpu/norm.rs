//! RMSNorm.
use rayon::prelude::*;

use super::{
    BLOCK,
    simd::{add_scaled, dot, widest},
};

/// Returns the normed rows, and `1 / sqrt(mean(x^2) + epsilon)` of each.
pub(in crate::ops) fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len();
    let mut y = vec![0.0; x.len()];
    let mut scales = vec![0.0; x.len() / width];
    y.par_chunks_mut(BLOCK * width)
        .zip(scales.par_chunks_mut(BLOCK))
        .zip(x.par_chunks(BLOCK * width))
        .for_each(|((y, scales), x)| {
            widest(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((y, x), scale) in rows.zip(scales) {
                        *scale = (dot(x, x) / width as f32 + epsilon).sqrt().recip();
                        for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                            *y = x * *scale * gain;
                        }
                    }
                },
            );
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
    let mut dx = vec![0.0; x.len()];
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(BLOCK * width)
        .zip(x.par_chunks(BLOCK * width))
        .zip(dy.par_chunks(BLOCK * width).zip(scales.par_chunks(BLOCK)))
        .map(|((dx, x), (dy, scales))| {
            widest(
                #[inline(always)]
                || {
                    let mut dgain = vec![0.0; width];
                    let mut product = vec![0.0; width];
                    let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((dx, x), (dy, scale)) in rows.zip(dy.chunks_exact(width).zip(scales)) {
                        for ((product, x), dy) in product.iter_mut().zip(x).zip(dy) {
                            *product = x * dy;
                        }
                        add_scaled(&mut dgain, *scale, &product);
                        let mean = dot(&product, gain) * scale * scale / width as f32;
                        for (((dx, x), dy), gain) in dx.iter_mut().zip(x).zip(dy).zip(gain) {
                            *dx = scale * (dy * gain - x * mean);
                        }
                    }
                    dgain
                },
            )
        })
        .collect();
    let mut dgain = vec![0.0; width];
    for part in parts {
        add_scaled(&mut dgain, 1.0, &part);
    }
    (dx, dgain)
}
