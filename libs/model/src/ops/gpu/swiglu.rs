//! SwiGLU of one network, or of many at once.
use burn::tensor::{Tensor, activation::sigmoid, backend::Backend};

use super::in_format;
use crate::precision::full;

/// What the way back needs, `[.., rows, width]`: before the SiLU, and what it is multiplied with.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Hidden<B: Backend, const D: usize> {
    gate: Tensor<B, D>,
    up: Tensor<B, D>,
}

/// `x`: `[.., rows, d_model]`; `gate`, `up`: `[.., d_model, width]`; `down`: `[.., width, d_model]`.
pub(in crate::ops) fn forward<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    [gate, up, down]: [Tensor<B, D>; 3],
) -> (Tensor<B, D>, Hidden<B, D>) {
    let hidden = Hidden { gate: x.clone().matmul(gate), up: x.matmul(up) };
    let dtype = hidden.gate.dtype();
    let gate = full(hidden.gate.clone());
    let product = gate.clone() * sigmoid(gate) * full(hidden.up.clone());
    (in_format(product, dtype).matmul(down), hidden)
}

/// What [`backward`] finds.
pub(super) struct Found<B: Backend, const D: usize> {
    pub(super) x: Tensor<B, D>,
    /// f32 `[.., rows, 1]`, where there are weights.
    pub(super) weight: Option<Tensor<B, D>>,
    /// Of gate, up and down, where they learn.
    pub(super) matrices: Option<[Tensor<B, D>; 3]>,
}

/// Gradients, where a row's answer counts `weight` times: f32 `[.., rows, 1]`, 1 where there is none.
pub(super) fn backward<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    [gate, up, down]: [Tensor<B, D>; 3],
    hidden: Hidden<B, D>,
    weight: Option<Tensor<B, D>>,
    dy: Tensor<B, D>,
    matrices_learn: bool,
) -> Found<B, D> {
    let dtype = dy.dtype();
    let (g, u) = (full(hidden.gate), full(hidden.up));
    let share = sigmoid(g.clone());
    let silu = g.clone() * share.clone();
    let product = silu.clone() * u.clone();
    let dproduct = full(dy.clone().matmul(down.transpose()));
    // An answer's part in the loss is that of its product: no need for the answer itself.
    let dweight = weight.as_ref().map(|_| (dproduct.clone() * product.clone()).sum_dim(D - 1));
    let (product, dproduct) = match weight {
        Some(weight) => (product * weight.clone(), dproduct * weight),
        None => (product, dproduct),
    };
    // d silu(g) / dg = s + g s (1 - s)
    let slope = share.clone() + silu.clone() * (share.neg().add_scalar(1.0));
    let dgate = in_format(dproduct.clone() * u * slope, dtype);
    let dup = in_format(dproduct * silu, dtype);
    let matrices = matrices_learn.then(|| {
        let x = x.transpose();
        [
            x.clone().matmul(dgate.clone()),
            x.matmul(dup.clone()),
            in_format(product, dtype).transpose().matmul(dy),
        ]
    });
    let dx = dgate.matmul(gate.transpose()) + dup.matmul(up.transpose());
    Found { x: dx, weight: dweight, matrices }
}
