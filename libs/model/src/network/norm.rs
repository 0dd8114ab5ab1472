//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467).
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::{Source, Start, param};
use crate::{ModelError, ops::Kernels};

#[derive(Module, Debug)]
pub(super) struct RmsNorm<B: Backend> {
    /// `[width]`.
    gain: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Kernels> RmsNorm<B> {
    pub(super) fn build(
        name: &str,
        width: usize,
        epsilon: f64,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let gain = param(source, &format!("{name}.gain"), [width], Start::One, device)?;
        Ok(Self { gain, epsilon })
    }

    /// Each row by itself. `x`: `[rows, width]`, and so is the result.
    pub(super) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        B::rms_norm(x, self.gain.val(), self.epsilon)
    }
}
