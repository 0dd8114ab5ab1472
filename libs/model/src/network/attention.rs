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
    Architecture, Compute, ModelError,
    ops::{Heads, Kernels, Segments},
    precision::full,
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
    query_bias: Option<Param<Tensor<B, 1>>>,
    key_bias: Option<Param<Tensor<B, 1>>>,
    value_bias: Option<Param<Tensor<B, 1>>>,
    out_bias: Option<Param<Tensor<B, 1>>>,
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
        let mut bias = |part: &str, size| match a.block.attention_bias {
            false => Ok(None),
            true => {
                param(source, &format!("{name}.{part}_bias"), [size], Start::Zero, device).map(Some)
            }
        };
        let (query_bias, key_bias) = (bias("query", d)?, bias("key", narrow)?);
        let (value_bias, out_bias) = (bias("value", narrow)?, bias("out", d)?);
        let mut lora = |part: &str, shape| {
            let name = format!("{name}.{part}");
            Lora::build(&name, shape, adapters.attention_rank, adapters, source, device)
        };
        Ok(Self {
            query,
            key,
            value,
            out,
            query_bias,
            key_bias,
            value_bias,
            out_bias,
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
            ..self
        }
    }

    /// Every token looks at every token of its text, or at those before it.
    ///
    /// `x`: `[rows, d_model]`, and so is the result. `seen`: keys and values of the text's rows
    /// before; those of `x` are added.
    pub(super) fn forward(
        &self,
        x: Tensor<B, 2>,
        heads: Heads,
        segments: &Segments,
        compute: Compute,
        seen: Option<&mut Seen<B>>,
    ) -> Tensor<B, 2> {
        let matrices =
            [&self.query, &self.key, &self.value].map(|matrix| compute.hold(matrix.val()));
        let changes = [&self.query_lora, &self.key_lora, &self.value_lora];
        let biases = [&self.query_bias, &self.key_bias, &self.value_bias];
        let mut own = changes.into_iter().zip(biases);
        let [query, key, value] = B::project_all(x.clone(), matrices).map(|y| {
            let (lora, bias) = own.next().expect("one for each of three matrices");
            let y = match lora {
                Some(lora) => y + lora.forward(x.clone(), compute),
                None => y,
            };
            compute.hold(biased(y, bias))
        });
        let prefix = self.prefix.as_ref().map(Prefix::val);
        let mut prefix = prefix.map(|(keys, values)| (compute.hold(keys), compute.hold(values)));
        if let Some(seen) = seen {
            let rows = (B::turn(key.clone(), heads, segments), value.clone());
            let before = seen.extended(rows);
            prefix = match (prefix, before) {
                (Some(prefix), Some(before)) => Some(joined(prefix, before)),
                (prefix, before) => prefix.or(before),
            };
        }
        let seen = compute.hold(B::attend(query, key, value, prefix, heads, segments));
        let out = compute.hold(self.out.val());
        let y = match &self.out_lora {
            None => B::project(seen, out),
            Some(lora) => B::project(seen.clone(), out) + lora.forward(seen, compute),
        };
        compute.hold(biased(y, &self.out_bias))
    }
}

/// What attention keeps of rows that it has seen: their keys, turned by position, and values,
/// `[rows, kv_heads * head_width]` each.
#[derive(Debug, Clone)]
pub(super) struct Seen<B: Backend>(Option<(Tensor<B, 2>, Tensor<B, 2>)>);

impl<B: Kernels> Seen<B> {
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    /// Adds rows, and returns what was there before.
    fn extended(
        &mut self,
        rows: (Tensor<B, 2>, Tensor<B, 2>),
    ) -> Option<(Tensor<B, 2>, Tensor<B, 2>)> {
        let before = self.0.take();
        self.0 = Some(match before.clone() {
            Some(before) => joined(before, rows),
            None => rows,
        });
        before
    }
}

fn joined<B: Kernels>(
    (keys, values): (Tensor<B, 2>, Tensor<B, 2>),
    (more_keys, more_values): (Tensor<B, 2>, Tensor<B, 2>),
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    (Tensor::cat(vec![keys, more_keys], 0), Tensor::cat(vec![values, more_values], 0))
}

/// In f32 where there is a bias.
fn biased<B: Kernels>(x: Tensor<B, 2>, bias: &Option<Param<Tensor<B, 1>>>) -> Tensor<B, 2> {
    match bias {
        None => x,
        Some(bias) => full(x) + bias.val().unsqueeze(),
    }
}
