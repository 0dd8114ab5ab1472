//! Grouped-query attention over padded texts, a block of queries at a time. The way back computes
//! the weights of each block anew (FlashAttention, Dao et al. 2022, arXiv 2205.14135, section 3.1),
//! so that a layer keeps nothing of the size of its scores.
use std::sync::Arc;

use burn::tensor::{Tensor, backend::Backend};

use super::{
    in_format,
    places::{Block, Places},
};
use crate::{
    ops::{Heads, Segments},
    precision::full,
};

/// What the way back needs. Queries that share a key head stand one below the other: of the same
/// position `group` rows.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Attended<B: Backend> {
    /// Turned and scaled, `[texts, kv_heads, longest * group, width]`.
    query: Tensor<B, 4>,
    /// Turned, behind those of the prefix: `[texts, kv_heads, before + longest, width]`.
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    /// As `query`.
    out: Tensor<B, 4>,
    /// Logarithm of the sum of each query's exponentials, f32 `[texts, kv_heads, longest * group,
    /// 1]`.
    log_sums: Tensor<B, 4>,
    before: usize,
}

/// How rows are laid out.
struct Shape<B: Backend> {
    heads: Heads,
    texts: usize,
    longest: usize,
    places: Arc<Places<B>>,
}

impl<B: Backend> Shape<B> {
    fn new(heads: Heads, segments: &Segments, before: usize, device: &B::Device) -> Self {
        let places = Places::of(segments, heads, before, device);
        Self { heads, texts: segments.texts(), longest: segments.longest(), places }
    }

    /// `[texts * longest, count * width]` to `[texts, longest, count, width]`.
    fn split(&self, x: Tensor<B, 2>, count: usize) -> Tensor<B, 4> {
        x.reshape([self.texts, self.longest, count, self.heads.width])
    }

    /// `[texts, longest, heads, width]` to `[texts, kv_heads, longest * group, width]`.
    fn grouped(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (group, keys, width) = (self.heads.group(), self.heads.keys, self.heads.width);
        x.reshape([self.texts, self.longest, keys, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([self.texts, keys, self.longest * group, width])
    }

    /// The way back of [`Shape::grouped`].
    fn ungrouped(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (group, keys, width) = (self.heads.group(), self.heads.keys, self.heads.width);
        x.reshape([self.texts, keys, self.longest, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([self.texts, self.longest, keys * group, width])
    }

    /// `[texts, longest, count, width]` to `[rows, count * width]`.
    fn packed(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let [_, _, count, width] = x.dims();
        self.places.packed(x.reshape([self.texts * self.longest, count * width]))
    }

    /// Turns each head by its position, or back; times `scale`. Returns f32.
    fn turned(&self, x: Tensor<B, 4>, back: bool, scale: f64) -> Tensor<B, 4> {
        let half = self.heads.width / 2;
        let x = full(x);
        if self.heads.rope_base.is_none() {
            return if scale == 1.0 { x } else { x.mul_scalar(scale) };
        }
        let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let (cos, sin) = (self.places.cos.clone(), self.places.sin.clone());
        let sin = if back { sin.neg() } else { sin };
        let one = first.clone() * cos.clone() - second.clone() * sin.clone();
        let other = second * cos + first * sin;
        let turned = Tensor::cat(vec![one, other], 3);
        if scale == 1.0 { turned } else { turned.mul_scalar(scale) }
    }

    fn scale(&self) -> f64 {
        (self.heads.width as f64).sqrt().recip()
    }
}

/// See [`crate::Kernels::turn`].
pub(in crate::ops) fn turn<B: Backend>(
    x: Tensor<B, 2>,
    heads: Heads,
    segments: &Segments,
) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let shape = Shape::new(heads, segments, 0, &x.device());
    let x = shape.split(shape.places.padded(x), heads.keys);
    in_format(shape.packed(shape.turned(x, false, 1.0)), dtype)
}

/// See [`crate::Kernels::attend`].
pub(in crate::ops) fn forward<B: Backend>(
    [query, key, value]: [Tensor<B, 2>; 3],
    prefix: Option<(Tensor<B, 2>, Tensor<B, 2>)>,
    heads: Heads,
    segments: &Segments,
) -> (Tensor<B, 2>, Attended<B>) {
    let dtype = query.dtype();
    let before = prefix.as_ref().map_or(0, |(keys, _)| keys.dims()[0]);
    let shape = Shape::new(heads, segments, before, &query.device());
    let split = |x: Tensor<B, 2>, count| shape.split(shape.places.padded(x), count);
    let query = shape.turned(split(query, heads.queries), false, shape.scale());
    let query = shape.grouped(in_format(query, dtype));
    let key = in_format(shape.turned(split(key, heads.keys), false, 1.0), dtype);
    let mut key = key.permute([0, 2, 1, 3]);
    let mut value = split(value, heads.keys).permute([0, 2, 1, 3]);
    if let Some((keys, values)) = prefix {
        let of_all = |x: Tensor<B, 2>| {
            x.reshape([1, before, heads.keys, heads.width]).permute([0, 2, 1, 3]).expand([
                shape.texts,
                heads.keys,
                before,
                heads.width,
            ])
        };
        key = Tensor::cat(vec![of_all(keys), key], 2);
        value = Tensor::cat(vec![of_all(values), value], 2);
    }
    let (mut outs, mut log_sums) = (Vec::new(), Vec::new());
    for block in &shape.places.blocks {
        let scores = scores(&query, &key, block, heads.group());
        let highest = scores.clone().max_dim(3);
        let weights = (scores - highest.clone()).exp();
        let sum = weights.clone().sum_dim(3);
        log_sums.push(highest + sum.clone().log());
        let weights = in_format(weights / sum, dtype);
        outs.push(weights.matmul(value.clone().narrow(2, 0, block.keys)));
    }
    let (out, log_sums) = (joined(outs), joined(log_sums));
    let y = shape.packed(shape.ungrouped(out.clone()));
    (y, Attended { query, key, value, out, log_sums, before })
}

/// What [`backward`] finds, in the format of what came in.
pub(super) struct Found<B: Backend> {
    /// Of query, key and value.
    pub(super) own: [Tensor<B, 2>; 3],
    pub(super) prefix: Option<[Tensor<B, 2>; 2]>,
}

pub(super) fn backward<B: Backend>(
    attended: Attended<B>,
    heads: Heads,
    segments: &Segments,
    dy: Tensor<B, 2>,
) -> Found<B> {
    let Attended { query, key, value, out, log_sums, before } = attended;
    let dtype = query.dtype();
    let shape = Shape::new(heads, segments, before, &query.device());
    let dout = shape.split(shape.places.padded_with_zeros(full(dy)), heads.queries);
    let dout = shape.grouped(dout);
    let along = (dout.clone() * full(out)).sum_dim(3);
    let dout = in_format(dout, dtype);
    let group = heads.group();
    let mut dquery = Vec::new();
    let (mut dkey, mut dvalue) = (None, None);
    // The last block sees all keys, the others fewer and fewer.
    for block in shape.places.blocks.iter().rev() {
        let of_block = |x: &Tensor<B, 4>| rows(x, block, group);
        let (keys, values) =
            (key.clone().narrow(2, 0, block.keys), value.clone().narrow(2, 0, block.keys));
        let weights = (scores(&query, &key, block, group) - of_block(&log_sums)).exp();
        let dout = of_block(&dout);
        let dweights = full(dout.clone().matmul(values.transpose()));
        let dscores = in_format(weights.clone() * (dweights - of_block(&along)), dtype);
        let weights = in_format(weights, dtype);
        dvalue = Some(added(dvalue, full(weights.transpose().matmul(dout))));
        dkey = Some(added(dkey, full(dscores.clone().transpose().matmul(of_block(&query)))));
        dquery.push(dscores.matmul(keys));
    }
    dquery.reverse();
    let dquery = shape.turned(shape.ungrouped(joined(dquery)), true, shape.scale());
    let [dkey, dvalue]: [Tensor<B, 4>; 2] =
        [dkey, dvalue].map(|found| found.expect("there is at least one block"));
    let own = |x: &Tensor<B, 4>| x.clone().narrow(2, before, shape.longest).permute([0, 2, 1, 3]);
    let of_prefix = |x: Tensor<B, 4>| {
        let sum = x.narrow(2, 0, before).sum_dim(0).permute([0, 2, 1, 3]);
        in_format(sum.reshape([before, heads.keys * heads.width]), dtype)
    };
    let packed = |x: Tensor<B, 4>| in_format(shape.packed(x), dtype);
    let of_own =
        [packed(dquery), packed(shape.turned(own(&dkey), true, 1.0)), packed(own(&dvalue))];
    let prefix = (before > 0).then(|| [of_prefix(dkey), of_prefix(dvalue)]);
    Found { own: of_own, prefix }
}

/// f32 `[texts, kv_heads, length * group, keys]`, masked.
fn scores<B: Backend>(
    query: &Tensor<B, 4>,
    key: &Tensor<B, 4>,
    block: &Block<B>,
    group: usize,
) -> Tensor<B, 4> {
    let keys = key.clone().narrow(2, 0, block.keys).transpose();
    let scores = full(rows(query, block, group).matmul(keys));
    match &block.mask {
        None => scores,
        Some(mask) => scores + mask.clone(),
    }
}

/// Those of a block's queries.
fn rows<B: Backend>(x: &Tensor<B, 4>, block: &Block<B>, group: usize) -> Tensor<B, 4> {
    x.clone().narrow(2, block.start * group, block.length * group)
}

fn joined<B: Backend>(mut parts: Vec<Tensor<B, 4>>) -> Tensor<B, 4> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 2) }
}

/// Adds a part of the first keys.
fn added<B: Backend>(sum: Option<Tensor<B, 4>>, part: Tensor<B, 4>) -> Tensor<B, 4> {
    let Some(sum) = sum else { return part };
    let (all, keys) = (sum.dims()[2], part.dims()[2]);
    if all == keys {
        return sum + part;
    }
    let first = sum.clone().narrow(2, 0, keys) + part;
    Tensor::cat(vec![first, sum.narrow(2, keys, all - keys)], 2)
}
