//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), or LayerNorm (Ba et al. 2016, arXiv
//! 1607.06450).
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::{Source, Start, param};
use crate::{Architecture, Compute, ModelError, NormForm, ops::Kernels};

#[derive(Module, Debug)]
pub(super) struct Norm<B: Backend> {
    /// `[d_model]`.
    gain: Param<Tensor<B, 1>>,
    /// `[d_model]`; LayerNorm has one.
    bias: Option<Param<Tensor<B, 1>>>,
    epsilon: f64,
}

impl<B: Kernels> Norm<B> {
    pub(super) fn build(
        name: &str,
        a: &Architecture,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let mut row = |part: &str, start| {
            param(source, &format!("{name}.{part}"), [a.d_model], start, device)
        };
        let gain = row("gain", Start::One)?;
        let bias = match a.block.norm {
            NormForm::Rms => None,
            NormForm::Layer => Some(row("bias", Start::Zero)?),
        };
        Ok(Self { gain, bias, epsilon: a.norm_epsilon })
    }

    /// Each row by itself. `x`: `[rows, d_model]`, and so is the result.
    pub(super) fn forward(&self, x: Tensor<B, 2>, compute: Compute) -> Tensor<B, 2> {
        compute.hold(match &self.bias {
            None => B::rms_norm(x, self.gain.val(), self.epsilon),
            Some(bias) => B::normalised(x, self.gain.val(), bias.val(), self.epsilon),
        })
    }
}
