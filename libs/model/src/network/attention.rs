//! Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over a whole text.
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::{
    Adapters, Source, Start,
    adapters::{Lora, Prefix, folded},
    param,
};
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
    query_lora: Option<Lora<B>>,
    key_lora: Option<Lora<B>>,
    value_lora: Option<Lora<B>>,
    out_lora: Option<Lora<B>>,
    prefix: Option<Prefix<B>>,
}

impl<B: Kernels> Attention<B> {
    pub(super) fn build(
        name: &str,
        a: &Architecture,
        adapters: &Adapters,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let (d, narrow) = (a.d_model, a.kv_heads * a.head_width());
        let into = Start::fan_in(d);
        let mut matrix = |part: &str, shape, start| {
            param(source, &format!("{name}.{part}"), shape, start, device)
        };
        let query = matrix("query", [d, d], into)?;
        let key = matrix("key", [d, narrow], into)?;
        let value = matrix("value", [d, narrow], into)?;
        let out = matrix("out", [d, d], Start::residual(d, a.layers))?;
        let mut lora = |part: &str, shape| {
            let name = format!("{name}.{part}");
            Lora::build(&name, shape, adapters.attention_rank, adapters, source, device)
        };
        Ok(Self {
            query,
            key,
            value,
            out,
            query_lora: lora("query", [d, d])?,
            key_lora: lora("key", [d, narrow])?,
            value_lora: lora("value", [d, narrow])?,
            out_lora: lora("out", [d, d])?,
            prefix: Prefix::build(name, narrow, adapters.prefix, source, device)?,
        })
    }

    /// The same answers, with low-rank changes folded into their matrices.
    pub(super) fn folded(self) -> Self {
        let fold = |matrix, lora: &Option<Lora<B>>| folded(matrix, lora.as_ref().map(Lora::change));
        Self {
            query: fold(self.query, &self.query_lora),
            key: fold(self.key, &self.key_lora),
            value: fold(self.value, &self.value_lora),
            out: fold(self.out, &self.out_lora),
            query_lora: None,
            key_lora: None,
            value_lora: None,
            out_lora: None,
            prefix: self.prefix,
        }
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
        let matrices = [&self.query, &self.key, &self.value].map(Param::val);
        let changes = [&self.query_lora, &self.key_lora, &self.value_lora];
        let mut changes = changes.into_iter();
        let [query, key, value] = B::project_all(x.clone(), matrices).map(|y| {
            match changes.next().and_then(Option::as_ref) {
                Some(lora) => y + lora.forward(x.clone()),
                None => y,
            }
        });
        let prefix = self.prefix.as_ref().map(Prefix::val);
        let seen = B::attend(query, key, value, prefix, heads, segments);
        product(seen, &self.out, &self.out_lora)
    }
}

fn product<B: Kernels>(
    x: Tensor<B, 2>,
    matrix: &Param<Tensor<B, 2>>,
    lora: &Option<Lora<B>>,
) -> Tensor<B, 2> {
    match lora {
        None => B::project(x, matrix.val()),
        Some(lora) => B::project(x.clone(), matrix.val()) + lora.forward(x),
    }
}
