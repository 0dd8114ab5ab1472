//! Cross entropy of rows with one right answer each.
use rayon::prelude::*;

use super::{
    BLOCK,
    simd::{exp_all, max, widest},
};

/// Returns the mean over the rows of `-ln softmax(logits)[target]`, and the softmax.
///
/// `logits`: `[rows, classes]`; `targets`: `[rows]`.
pub(in crate::ops) fn cross_entropy(logits: &[f32], targets: &[u32]) -> (f32, Vec<f32>) {
    let classes = logits.len() / targets.len();
    let mut probabilities = logits.to_vec();
    let losses: Vec<f64> = probabilities
        .par_chunks_mut(BLOCK * classes)
        .zip(targets.par_chunks(BLOCK))
        .map(|(rows, targets)| {
            widest(
                #[inline(always)]
                || {
                    let mut loss = 0.0;
                    for (row, target) in rows.chunks_exact_mut(classes).zip(targets) {
                        let (highest, right) = (max(row), row[*target as usize]);
                        let total = exp_all(row, highest);
                        let scale = total.recip();
                        row.iter_mut().for_each(|p| *p *= scale);
                        loss += f64::from(highest + total.ln() - right);
                    }
                    loss
                },
            )
        })
        .collect();
    let mean = losses.iter().sum::<f64>() / targets.len() as f64;
    (mean as f32, probabilities)
}

/// The gradient of the logits: `(softmax - one-hot) * gradient / rows`.
pub(in crate::ops) fn cross_entropy_backward(
    mut probabilities: Vec<f32>,
    targets: &[u32],
    gradient: f32,
) -> Vec<f32> {
    let classes = probabilities.len() / targets.len();
    let scale = gradient / targets.len() as f32;
    probabilities.par_chunks_mut(BLOCK * classes).zip(targets.par_chunks(BLOCK)).for_each(
        |(rows, targets)| {
            for (row, target) in rows.chunks_exact_mut(classes).zip(targets) {
                row[*target as usize] -= 1.0;
                widest(
                    #[inline(always)]
                    || row.iter_mut().for_each(|p| *p *= scale),
                );
            }
        },
    );
    probabilities
}
