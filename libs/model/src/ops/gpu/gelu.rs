//! GELU of one network, or of many at once; differentiated by burn.
use burn::tensor::{Tensor, backend::Backend};

use super::in_format;
use crate::precision::full;

/// Returns `[.., rows, d_model]`, in the format of `x`.
///
/// `x`: `[.., rows, d_model]`; `up`: `[.., d_model, width]`; `down`: `[.., width, d_model]`; `a`: f32
/// `[.., 1, width]`; `b`: f32 `[.., 1, d_model]`.
pub(super) fn forward<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    [up, down]: [Tensor<B, D>; 2],
    [a, b]: [Tensor<B, D>; 2],
) -> Tensor<B, D> {
    let dtype = x.dtype();
    let hidden = full(x.matmul(up)) + full(a);
    // By the error function: burn's own has the gradient of its approximation by tanh.
    let erf = hidden.clone().div_scalar(std::f64::consts::SQRT_2).erf();
    let hidden = hidden * erf.add_scalar(1.0).mul_scalar(0.5);
    in_format(full(in_format(hidden, dtype).matmul(down)) + full(b), dtype)
}

/// See [`crate::Kernels::gelu_feed_forward`].
pub(in crate::ops) fn feed_forward<B: Backend>(
    x: Tensor<B, 2>,
    matrices: [Tensor<B, 2>; 2],
    biases: [Tensor<B, 1>; 2],
) -> Tensor<B, 2> {
    forward(x, matrices, biases.map(Tensor::unsqueeze))
}
