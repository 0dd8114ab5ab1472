//! Cross entropy of rows with one right answer each.
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, backend::Backend};

/// What the way back needs.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Entropy<B: Backend> {
    /// `[rows, classes]`.
    logits: Tensor<B, 2>,
    /// `[rows, 1]`.
    targets: Tensor<B, 2, Int>,
    /// Logarithm of the sum of each row's exponentials, `[rows, 1]`.
    log_sums: Tensor<B, 2>,
}

/// See [`crate::Kernels::cross_entropy`]. `logits` are f32.
pub(in crate::ops) fn forward<B: Backend>(
    logits: Tensor<B, 2>,
    targets: &[u32],
) -> (Tensor<B, 1>, Entropy<B>) {
    let targets: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
    let shape = [targets.len(), 1];
    let targets = Tensor::from_data(TensorData::new(targets, shape), &logits.device());
    let highest = logits.clone().max_dim(1);
    let log_sums = (logits.clone() - highest.clone()).exp().sum_dim(1).log() + highest;
    let right = logits.clone().gather(1, targets.clone());
    let loss = (log_sums.clone() - right).mean();
    (loss, Entropy { logits, targets, log_sums })
}

/// `(softmax - one-hot) * dloss / rows`. `dloss`: `[1]`.
pub(super) fn backward<B: Backend>(of: Entropy<B>, dloss: Tensor<B, 1>) -> Tensor<B, 2> {
    let Entropy { logits, targets, log_sums } = of;
    let [rows, _] = logits.dims();
    let ones = Tensor::ones([rows, 1], &logits.device());
    let softmax = (logits - log_sums).exp();
    // One index a row: a thread each.
    let apart = softmax.scatter(1, targets, Tensor::neg(ones), IndexingUpdateOp::Add);
    apart * dloss.div_scalar(rows as f32).reshape([1, 1])
}
