//! The operators burn lacks, behind one seam: a newer burn, or another device, changes this folder.
//!
//! Every operator exists in two forms. The **plain** one (`plain.rs`) is composed of burn's own
//! operators, runs on any backend, and is differentiated by burn. On the CPU it is replaced by one
//! **fused** pass over memory (`cpu/`), with a backward pass of its own (`flex.rs`). Tests hold
//! the fused form to the plain one, gradients included.
mod cpu;
mod flex;
mod layout;
mod plain;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
use burn::backend::{Autodiff, autodiff::checkpoint::strategy::CheckpointStrategy};
use burn::tensor::{Tensor, backend::AutodiffBackend};

use crate::Fp8Backend;

pub(crate) use self::layout::{Dispatch, Heads, Segments};

/// A backend the network runs on: burn's operators, and these.
///
/// Rows are the tokens of all texts of a batch, one text behind the other, without padding
/// ([`Segments`] says where each begins).
pub trait Kernels: Fp8Backend {
    /// `x`: `[rows, inputs]`; `matrix`: `[inputs, outputs]`. Returns `[rows, outputs]`.
    #[doc(hidden)]
    fn project(x: Tensor<Self, 2>, matrix: Tensor<Self, 2>) -> Tensor<Self, 2> {
        x.matmul(matrix)
    }

    /// The same with three matrices at once.
    #[doc(hidden)]
    fn project_all(x: Tensor<Self, 2>, matrices: [Tensor<Self, 2>; 3]) -> [Tensor<Self, 2>; 3] {
        matrices.map(|matrix| Self::project(x.clone(), matrix))
    }

    /// `x / sqrt(mean(x^2) + epsilon) * gain`, each row by itself (Zhang and Sennrich 2019, arXiv
    /// 1910.07467).
    ///
    /// `x`: `[rows, width]`; `gain`: `[width]`. Returns `[rows, width]`.
    #[doc(hidden)]
    fn rms_norm(x: Tensor<Self, 2>, gain: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        plain::rms_norm(x, gain, epsilon)
    }

    /// Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) within each text, with
    /// rotary positions (Su et al. 2021, arXiv 2104.09864) on queries and keys.
    ///
    /// `query`: `[rows, heads * width]`; `key`, `value`: `[rows, kv_heads * width]`; `prefix`: keys
    /// and values that every text sees before its own, without a position,
    /// `[prefix, kv_heads * width]`. Returns `[rows, heads * width]`.
    #[doc(hidden)]
    fn attend(
        query: Tensor<Self, 2>,
        key: Tensor<Self, 2>,
        value: Tensor<Self, 2>,
        prefix: Option<(Tensor<Self, 2>, Tensor<Self, 2>)>,
        heads: Heads,
        segments: &Segments,
    ) -> Tensor<Self, 2> {
        plain::attention(query, key, value, prefix, heads, segments)
    }

    /// A SwiGLU feed-forward (Shazeer 2020, arXiv 2002.05202): `(silu(x gate) * (x up)) down`.
    ///
    /// `x`: `[rows, d_model]`; `gate`, `up`: `[d_model, width]`; `down`: `[width, d_model]`.
    #[doc(hidden)]
    fn feed_forward(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
        down: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        plain::feed_forward(x, gate, up, down)
    }

    /// Sends each row to its experts, and sums what they return by weight.
    ///
    /// `x`: `[rows, d_model]`; `gate`, `up`: `[experts, d_model, width]`; `down`:
    /// `[experts, width, d_model]`; `weight`: `[assignments]`, in the order of
    /// [`Dispatch::rows`]. Returns `[rows, d_model]`.
    #[doc(hidden)]
    fn experts(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 3>,
        up: Tensor<Self, 3>,
        down: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        dispatch: &Dispatch,
    ) -> Tensor<Self, 2> {
        plain::experts(x, gate, up, down, weight, dispatch)
    }

    /// Mean over the rows of `-ln softmax(logits)[target]`, `[1]`.
    ///
    /// `logits`: `[rows, classes]`; `targets`: `[rows]`, each below `classes`.
    #[doc(hidden)]
    fn cross_entropy(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1> {
        plain::cross_entropy(logits, targets)
    }

    /// One step of AdamW. `state`: the parameter, and both moments. Returns them moved.
    #[doc(hidden)]
    fn adamw<const D: usize>(
        state: [Tensor<Self, D>; 3],
        gradient: Tensor<Self, D>,
        by: &AdamW,
    ) -> [Tensor<Self, D>; 3] {
        plain::adamw(state, gradient, by)
    }
}

/// One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101,
/// algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of itself that a parameter loses, times the rate.
    pub weight_decay: f64,
    /// What the gradient is multiplied by first: for clipping and unscaling without a pass of their
    /// own.
    pub gradient_scale: f64,
    /// Steps done, this one included; at least 1.
    pub time: u64,
}

impl AdamW {
    /// What the moments are short of, having begun at 0: `1 - beta^time`.
    fn corrections(&self) -> (f64, f64) {
        let time = self.time as f64;
        (1.0 - self.beta_1.powf(time), 1.0 - self.beta_2.powf(time))
    }

    /// Moves one parameter. `state`: the parameter and its two moments, all of one shape.
    #[must_use]
    pub fn step<B: Kernels, const D: usize>(
        &self,
        state: [Tensor<B, D>; 3],
        gradient: Tensor<B, D>,
    ) -> [Tensor<B, D>; 3] {
        B::adamw(state, gradient, self)
    }
}

/// A backend that learns.
pub trait Learns: AutodiffBackend<InnerBackend: Kernels> + Kernels {}

impl<B: AutodiffBackend<InnerBackend: Kernels> + Kernels> Learns for B {}

#[cfg(feature = "cuda")]
impl Kernels for crate::CudaBackend {}

#[cfg(feature = "cuda")]
impl<C: CheckpointStrategy> Kernels for Autodiff<crate::CudaBackend, C> {}
