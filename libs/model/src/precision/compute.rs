//! The format that a network's products and activations are held in.
use burn::tensor::{DType, FloatDType, Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use crate::Kernels;

/// A number format of the network's products and activations. Parameters, their gradients and the
/// optimiser's state are f32 whatever it is: master weights (Micikevicius et al. 2018, arXiv
/// 1710.03740).
///
/// Sums accumulate in f32, and so are norms' statistics, softmax, routers, pooling, losses, tables of
/// tokens and positions, and the front-ends of other parts. A GPU
/// holds tensors of this format. A CPU **emulates** it: what an operator is given and what it
/// returns, gradients included, is rounded to the format and kept in f32, which costs a little time
/// and gives the same bits on every run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// 8 bits of exponent, 23 of fraction.
    #[default]
    F32,
    /// 8 and 7.
    Bf16,
    /// 5 and 10, up to 65,504: small gradients vanish unless the loss is scaled.
    F16,
}

impl Compute {
    /// As in a recipe.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    pub(crate) const fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// `x` as this format holds it; its gradient likewise.
    pub(crate) fn hold<B: Kernels, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        if self == Self::F32 { x } else { B::held(x, self) }
    }
}

/// `x` in f32, its gradient in what it came in.
pub(crate) fn full<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if x.dtype() == DType::F32 { x } else { x.cast(FloatDType::F32) }
}
