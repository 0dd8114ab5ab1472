//! Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over a whole text.
use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::softmax, backend::Backend},
};

use super::{Places, Source, Start, param};
use crate::{Architecture, ModelError};

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
    heads: usize,
    kv_heads: usize,
}

impl<B: Backend> Attention<B> {
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
            heads: a.heads,
            kv_heads: a.kv_heads,
        })
    }

    /// Every real token looks at every real token of its text.
    ///
    /// `x`: `[texts * longest, d_model]`, and so is the result.
    pub(super) fn forward(&self, x: Tensor<B, 2>, places: &Places<B>) -> Tensor<B, 2> {
        let [rows, d_model] = x.dims();
        let (n, s, kv) = (places.texts, places.longest, self.kv_heads);
        let (group, width) = (self.heads / kv, d_model / self.heads);
        let query = places.query_rotation.apply(x.clone().matmul(self.query.val()));
        let key = places.key_rotation.apply(x.clone().matmul(self.key.val()));
        let value = x.matmul(self.value.val());
        // The queries that share a key head stand one below the other, so that keys and values
        // are not repeated: [n, kv, group * s, width].
        let query = query.reshape([n, s, kv, group, width]).permute([0, 2, 3, 1, 4]).reshape([
            n,
            kv,
            group * s,
            width,
        ]);
        let key = key.reshape([n, s, kv, width]).permute([0, 2, 3, 1]);
        let value = value.reshape([n, s, kv, width]).permute([0, 2, 1, 3]);
        let mut scores = query.matmul(key);
        if let Some(mask) = &places.mask {
            scores = scores + mask.clone();
        }
        let seen = softmax(scores, 3).matmul(value);
        let seen = seen
            .reshape([n, kv, group, s, width])
            .permute([0, 3, 1, 2, 4])
            .reshape([rows, d_model]);
        seen.matmul(self.out.val())
    }
}
