//! One step of AdamW.
use rayon::prelude::*;

use super::simd::widest;
use crate::ops::AdamW;

/// Elements that a task works on: half of a second-level cache.
const CHUNK: usize = 1 << 16;

/// Moves `parameter` and both moments, in one pass over memory.
pub(in crate::ops) fn adamw(
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    by: &AdamW,
) {
    let (b1, b2) = (by.beta_1 as f32, by.beta_2 as f32);
    let (keep, rate) = ((1.0 - by.rate * by.weight_decay) as f32, by.rate as f32);
    let (c1, c2) = by.corrections();
    let (c1, c2, epsilon) = (c1.recip() as f32, c2.recip() as f32, by.epsilon as f32);
    let scale = by.gradient_scale as f32;
    parameter
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
        .for_each(|((parameter, gradient), (first, second))| {
            widest(
                #[inline(always)]
                || {
                    let moments = first.iter_mut().zip(second.iter_mut());
                    for ((p, g), (m, v)) in parameter.iter_mut().zip(gradient).zip(moments) {
                        let g = g * scale;
                        *m = b1.mul_add(*m, (1.0 - b1) * g);
                        *v = b2.mul_add(*v, (1.0 - b2) * g * g);
                        let step = *m * c1 / ((*v * c2).sqrt() + epsilon);
                        *p = keep * *p - rate * step;
                    }
                },
            );
        });
}
