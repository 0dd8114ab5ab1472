//! The operators burn lacks, behind one seam: a newer burn, or another device, changes this folder.
//!
//! Every operator exists in three forms. On the CPU it is one **fused** pass over memory (`cpu/`), with
//! a backward pass of its own (`flex.rs`). On a **GPU** it is composed of burn's operators in the way
//! that suits one (`gpu/`). What both are held to, gradients included, is the **plain** form
//! (`plain.rs`), which is as the formula reads and is differentiated by burn. What only a pretrained
//! encoder has (LayerNorm, and GELU where it is not in experts on the CPU) is composed everywhere.
mod check;
mod cpu;
mod flex;
mod gpu;
mod layout;
#[cfg(test)]
mod plain;
mod portable;
#[cfg(test)]
mod tests;

use std::fmt;

use burn::tensor::{Int, Tensor, backend::AutodiffBackend};

pub use self::{
    check::{Compared, operators_beside_cpu},
    portable::PortableBackend,
};
pub(crate) use self::{
    cpu::matrix_product,
    layout::{Dispatch, Heads, Segments},
};
use crate::{
    Affinity, Compute, Fp8Backend,
    network::{Routed, Routing},
};

/// Keeps the normalisation finite when every chosen affinity underflows.
const TINY: f64 = 1e-9;

/// A backend the network runs on: burn's operators, and these.
///
/// Rows are the tokens of all texts of a batch, one text behind the other, without padding
/// ([`Segments`] says where each begins).
pub trait Kernels: Fp8Backend {
    /// Who was sent to which expert.
    #[doc(hidden)]
    type Sent: Clone + fmt::Debug;

    /// `x` as a tensor of this format; of the gradient too. An operator takes tensors of one format
    /// and returns that; sums inside it are of f32.
    #[doc(hidden)]
    fn held<const D: usize>(x: Tensor<Self, D>, compute: Compute) -> Tensor<Self, D> {
        x.cast(compute.dtype())
    }

    /// Rows of a table. `table`: `[entries, width]`; `at`: `[rows]`. Returns `[rows, width]`.
    #[doc(hidden)]
    fn embed(table: Tensor<Self, 2>, at: Tensor<Self, 1, Int>) -> Tensor<Self, 2> {
        table.select(0, at)
    }

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
    fn rms_norm(x: Tensor<Self, 2>, gain: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2>;

    /// `(x - mean(x)) / sqrt(var(x) + epsilon) * gain + bias`, each row by itself (Ba et al. 2016,
    /// arXiv 1607.06450).
    ///
    /// `x`: `[rows, width]`; `gain`, `bias`: f32 `[width]`. Returns `[rows, width]`.
    #[doc(hidden)]
    fn normalised(
        x: Tensor<Self, 2>,
        gain: Tensor<Self, 1>,
        bias: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        gpu::layer_norm(x, gain, bias, epsilon)
    }

    /// Keys as [`Kernels::attend`] takes them for a prefix: turned by their positions.
    ///
    /// `x`: `[rows, kv_heads * width]`, and so is the result.
    #[doc(hidden)]
    fn turn(x: Tensor<Self, 2>, heads: Heads, segments: &Segments) -> Tensor<Self, 2> {
        gpu::turn(x, heads, segments)
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
    ) -> Tensor<Self, 2>;

    /// A SwiGLU feed-forward (Shazeer 2020, arXiv 2002.05202): `(silu(x gate) * (x up)) down`.
    ///
    /// `x`: `[rows, d_model]`; `gate`, `up`: `[d_model, width]`; `down`: `[width, d_model]`.
    #[doc(hidden)]
    fn feed_forward(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 2>,
        up: Tensor<Self, 2>,
        down: Tensor<Self, 2>,
    ) -> Tensor<Self, 2>;

    /// Chooses each row's experts. `affinity`: f32 `[rows, experts]`; `bias`: f32 `[experts]`, added
    /// for the choice. Neither learns from it.
    #[doc(hidden)]
    fn route(
        affinity: Tensor<Self, 2>,
        bias: Tensor<Self, 1>,
        how: &Routing<'_>,
    ) -> (Self::Sent, Routed);

    /// What each choice counts in its row's sum: its affinity; of sigmoid ones its share of the
    /// chosen. f32 `[assignments]`, in the order of `sent`.
    #[doc(hidden)]
    fn weights(affinity: Tensor<Self, 2>, kind: Affinity, sent: &Self::Sent) -> Tensor<Self, 1>;

    /// A GELU feed-forward (Hendrycks and Gimpel 2016, arXiv 1606.08415): `gelu(x up + a) down + b`.
    ///
    /// `x`: `[rows, d_model]`; `matrices`: `up`, `[d_model, width]`, and `down`,
    /// `[width, d_model]`; `biases`: `a`, f32 `[width]`, and `b`, f32 `[d_model]`.
    #[doc(hidden)]
    fn gelu_feed_forward(
        x: Tensor<Self, 2>,
        matrices: [Tensor<Self, 2>; 2],
        biases: [Tensor<Self, 1>; 2],
    ) -> Tensor<Self, 2> {
        gpu::gelu(x, matrices, biases)
    }

    /// Sends each row to its experts, and sums what they return by weight.
    ///
    /// `x`: `[rows, d_model]`; `gate`, `up`: `[experts, d_model, width]`; `down`:
    /// `[experts, width, d_model]`; `weight`: as [`Kernels::weights`] returns it. Returns
    /// `[rows, d_model]`.
    #[doc(hidden)]
    fn experts(
        x: Tensor<Self, 2>,
        gate: Tensor<Self, 3>,
        up: Tensor<Self, 3>,
        down: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2>;

    /// The same with experts of GELU.
    ///
    /// `matrices`: `up`, `[experts, d_model, width]`, and `down`, `[experts, width, d_model]`;
    /// `biases`: of both, f32 `[experts, width]` and `[experts, d_model]`.
    #[doc(hidden)]
    fn gelu_experts(
        x: Tensor<Self, 2>,
        matrices: [Tensor<Self, 3>; 2],
        biases: [Tensor<Self, 2>; 2],
        weight: Tensor<Self, 1>,
        sent: &Self::Sent,
    ) -> Tensor<Self, 2>;

    /// Mean over the rows of `-ln softmax(logits)[target]`, `[1]`.
    ///
    /// `logits`: `[rows, classes]`; `targets`: `[rows]`, each below `classes`.
    #[doc(hidden)]
    fn cross_entropy(logits: Tensor<Self, 2>, targets: &[u32]) -> Tensor<Self, 1>;

    /// One step of AdamW. `state`: the parameter, and both moments. Returns them moved.
    #[doc(hidden)]
    fn adamw<const D: usize>(
        state: [Tensor<Self, D>; 3],
        gradient: Tensor<Self, D>,
        by: &AdamW,
    ) -> [Tensor<Self, D>; 3] {
        gpu::adamw(state, gradient, by)
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
