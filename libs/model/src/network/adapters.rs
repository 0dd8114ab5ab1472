//! What learns beside frozen weights: low-rank changes and prefixes.
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{Source, Start, param};
use crate::{Architecture, Compute, ModelError, ops::Kernels};

/// Which adapters a network has, and how large. Written as `adapters.json` beside their weights.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adapters {
    /// Rank of the change of each attention matrix (LoRA, Hu et al. 2021, arXiv 2106.09685); 0:
    /// none.
    pub attention_rank: usize,
    /// Rank of the change of each expert matrix, shared experts included; 0: none.
    pub expert_rank: usize,
    /// A change is scaled by this over its rank, so that the rank may change and the learning rate
    /// stay (LoRA, section 4.1).
    pub alpha: f64,
    /// Keys and values that every text sees in each layer before its own (Prefix-Tuning, Li and
    /// Liang 2021, arXiv 2101.00190); 0: none.
    pub prefix: usize,
    /// Whether the classifier is kept with them, so that it learns, and classes are appended, while
    /// the base's file stays as it is.
    pub head: bool,
}

impl Adapters {
    /// Whether there is anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attention_rank == 0 && self.expert_rank == 0 && self.prefix == 0 && !self.head
    }

    /// Whether the parameter of this name (its path in the network) belongs to an adapter.
    #[must_use]
    pub fn own(name: &str) -> bool {
        name.split('.').any(|part| part.ends_with("_lora") || part == "prefix")
    }

    /// Whether the parameter of this name is kept with these adapters.
    #[must_use]
    pub fn keep(&self, name: &str) -> bool {
        Self::own(name) || (self.head && name.starts_with("head."))
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] names the first field that is wrong and what would be right.
    pub fn validate(&self, a: &Architecture) -> Result<(), ModelError> {
        let wrong = |field: &'static str, value: String, need: String| {
            Err(ModelError::Architecture { field, value, need })
        };
        let narrowest = a.kv_heads * a.head_width();
        for (field, rank, most) in [
            ("attention_rank", self.attention_rank, narrowest),
            ("expert_rank", self.expert_rank, a.expert_width.min(a.d_model)),
            ("prefix", self.prefix, 4_096),
        ] {
            if rank > most {
                return wrong(field, rank.to_string(), format!("must be at most {most}"));
            }
        }
        let scaled = self.attention_rank > 0 || self.expert_rank > 0;
        if scaled && !(self.alpha.is_finite() && self.alpha > 0.0) {
            let need = "must be a finite number above 0".to_owned();
            return wrong("alpha", self.alpha.to_string(), need);
        }
        Ok(())
    }

    pub(super) fn scale(&self, rank: usize) -> f64 {
        self.alpha / rank as f64
    }
}

/// A change of a matrix, `into out * scale`. Starts at 0: `into` is random, `out` is 0.
#[derive(Module, Debug)]
pub(super) struct Lora<B: Backend> {
    /// `[inputs, rank]`.
    into: Param<Tensor<B, 2>>,
    /// `[rank, outputs]`.
    out: Param<Tensor<B, 2>>,
    scale: f64,
}

impl<B: Kernels> Lora<B> {
    /// Nothing of rank 0.
    pub(super) fn build(
        name: &str,
        [inputs, outputs]: [usize; 2],
        rank: usize,
        adapters: &Adapters,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Option<Self>, ModelError> {
        if rank == 0 {
            return Ok(None);
        }
        let name = |part: &str| format!("{name}_lora.{part}");
        Ok(Some(Self {
            into: param(source, &name("into"), [inputs, rank], Start::fan_in(inputs), device)?,
            out: param(source, &name("out"), [rank, outputs], Start::Zero, device)?,
            scale: adapters.scale(rank),
        }))
    }

    /// `[inputs, outputs]`.
    pub(super) fn change(&self) -> Tensor<B, 2> {
        self.into.val().matmul(self.out.val()).mul_scalar(self.scale)
    }

    /// What it adds to the product of `x` with its matrix. `x`: `[rows, inputs]`.
    pub(super) fn forward(&self, x: Tensor<B, 2>, compute: Compute) -> Tensor<B, 2> {
        let [into, out] = [&self.into, &self.out].map(|matrix| compute.hold(matrix.val()));
        let narrow = compute.hold(B::project(x, into));
        B::project(narrow, out).mul_scalar(self.scale)
    }
}

/// The same for a matrix of each expert.
#[derive(Module, Debug)]
pub(super) struct ExpertLora<B: Backend> {
    /// `[experts, inputs, rank]`.
    into: Param<Tensor<B, 3>>,
    /// `[experts, rank, outputs]`.
    out: Param<Tensor<B, 3>>,
    scale: f64,
}

impl<B: Kernels> ExpertLora<B> {
    pub(super) fn build(
        name: &str,
        [experts, inputs, outputs]: [usize; 3],
        rank: usize,
        adapters: &Adapters,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Option<Self>, ModelError> {
        if rank == 0 {
            return Ok(None);
        }
        let name = |part: &str| format!("{name}_lora.{part}");
        let into = Start::fan_in(inputs);
        Ok(Some(Self {
            into: param(source, &name("into"), [experts, inputs, rank], into, device)?,
            out: param(source, &name("out"), [experts, rank, outputs], Start::Zero, device)?,
            scale: adapters.scale(rank),
        }))
    }

    /// `[experts, inputs, outputs]`.
    pub(super) fn change(&self) -> Tensor<B, 3> {
        self.into.val().matmul(self.out.val()).mul_scalar(self.scale)
    }
}

/// Learned keys and values of one layer.
#[derive(Module, Debug)]
pub(super) struct Prefix<B: Backend> {
    /// `[prefix, kv_heads * head_width]`.
    key: Param<Tensor<B, 2>>,
    /// `[prefix, kv_heads * head_width]`.
    value: Param<Tensor<B, 2>>,
}

impl<B: Kernels> Prefix<B> {
    pub(super) fn build(
        name: &str,
        width: usize,
        length: usize,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Option<Self>, ModelError> {
        if length == 0 {
            return Ok(None);
        }
        let name = |part: &str| format!("{name}.prefix.{part}");
        // Values of 0 change an answer only by the attention they take away: little at first.
        Ok(Some(Self {
            key: param(source, &name("key"), [length, width], Start::fan_in(width), device)?,
            value: param(source, &name("value"), [length, width], Start::Zero, device)?,
        }))
    }

    pub(super) fn val(&self) -> (Tensor<B, 2>, Tensor<B, 2>) {
        (self.key.val(), self.value.val())
    }
}

/// The matrix with its change folded in, under the same name.
pub(super) fn folded<B: Kernels, const D: usize>(
    matrix: Param<Tensor<B, D>>,
    change: Option<Tensor<B, D>>,
) -> Param<Tensor<B, D>> {
    match change {
        None => matrix,
        Some(change) => {
            let learns = matrix.val().is_require_grad();
            let sum = (matrix.val() + change).detach();
            Param::initialized(matrix.id, sum.set_require_grad(learns))
        }
    }
}
