//! Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over a whole text.
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::{Source, Start, param};
use crate::{
    Architecture, ModelError,
    ops::{Heads, Kernels, Segments},
};

#[derive(Module, Debug)]
pub(super) struct Attention<B: Backend> {
    /// `[d_model, heads * head_width]`.
    query: Param<Tensor<B, 2>>,
    /// `[d_model, kv_heads * head_width]`.
    key: Param<Tensor<B, 2>>,
    /// `[d_model, kv_heads * head_width]`.
    value: Param<Tensor<B, 2>>,
    /// `[heads * head_width, d_model]`.
    out: Param<Tensor<B, 2>>,
}

impl<B: Kernels> Attention<B> {
    pub(super) fn build(
        name: &str,
        a: &Architecture,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let narrow = a.kv_heads * a.head_width();
        let into = Start::fan_in(a.d_model);
        let mut matrix = |part: &str, shape, start| {
            param(source, &format!("{name}.{part}"), shape, start, device)
        };
        Ok(Self {
            query: matrix("query", [a.d_model, a.d_model], into)?,
            key: matrix("key", [a.d_model, narrow], into)?,
            value: matrix("value", [a.d_model, narrow], into)?,
            out: matrix("out", [a.d_model, a.d_model], Start::residual(a.d_model, a.layers))?,
        })
    }

    /// Every token looks at every token of its text, or at those before it.
    ///
    /// `x`: `[rows, d_model]`, and so is the result.
    pub(super) fn forward(
        &self,
        x: Tensor<B, 2>,
        heads: Heads,
        segments: &Segments,
    ) -> Tensor<B, 2> {
        let query = x.clone().matmul(self.query.val());
        let key = x.clone().matmul(self.key.val());
        let value = x.matmul(self.value.val());
        B::attend(query, key, value, None, heads, segments).matmul(self.out.val())
    }
}
