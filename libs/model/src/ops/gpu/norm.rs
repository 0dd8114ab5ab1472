//! RMSNorm, and LayerNorm.
use burn::tensor::{Tensor, backend::Backend};

use super::in_format;
use crate::precision::full;

/// Returns the result, in the format of `x`, and what each row was multiplied by, f32 `[rows, 1]`.
///
/// `x`: `[rows, width]`; `gain`: f32 `[width]`.
pub(in crate::ops) fn forward<B: Backend>(
    x: Tensor<B, 2>,
    gain: Tensor<B, 1>,
    epsilon: f64,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let dtype = x.dtype();
    let x = full(x);
    let mean_square = (x.clone() * x.clone()).mean_dim(1);
    let scale = mean_square.add_scalar(epsilon).sqrt().recip();
    let y = x * scale.clone() * full(gain).unsqueeze();
    (in_format(y, dtype), scale)
}

/// Gradients of `x`, in its format, and of `gain`.
pub(super) fn backward<B: Backend>(
    x: Tensor<B, 2>,
    gain: Tensor<B, 1>,
    scale: Tensor<B, 2>,
    dy: Tensor<B, 2>,
) -> (Tensor<B, 2>, Tensor<B, 1>) {
    let dtype = x.dtype();
    let (normed, dy) = (full(x) * scale.clone(), full(dy));
    let dgain = (dy.clone() * normed.clone()).sum_dim(0).squeeze_dim(0);
    let dnormed = dy * full(gain).unsqueeze();
    let along = (dnormed.clone() * normed.clone()).mean_dim(1);
    (in_format((dnormed - normed * along) * scale, dtype), dgain)
}

/// See [`crate::Kernels::normalised`]; differentiated by burn.
pub(in crate::ops) fn layer<B: Backend>(
    x: Tensor<B, 2>,
    gain: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let x = full(x);
    let centred = x.clone() - x.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    let normed = centred / variance.add_scalar(epsilon).sqrt();
    in_format(normed * full(gain).unsqueeze() + full(bias).unsqueeze(), dtype)
}
