//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467).
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::{Source, Start, param};
use crate::ModelError;

#[derive(Module, Debug)]
pub(super) struct RmsNorm<B: Backend> {
    /// `[width]`.
    gain: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Backend> RmsNorm<B> {
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

    /// `x / sqrt(mean(x^2) + epsilon) * gain`, each row by itself. `x`: `[rows, width]`.
    pub(super) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        let scale = mean_square.add_scalar(self.epsilon).sqrt();
        x / scale * self.gain.val().unsqueeze()
    }
}
