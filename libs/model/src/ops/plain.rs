//! The operators as their formulas read, composed of burn's own: what the other forms are held to.
use burn::tensor::{
    IndexingUpdateOp, Int, Tensor, TensorData,
    activation::{log_softmax, silu, softmax},
    backend::Backend,
};

use super::{Dispatch, Heads, Segments};

/// Added to the scores of what must not be seen; its weight is then exactly 0.
const MASKED: f32 = -1e9;

pub(super) fn rms_norm<B: Backend>(
    x: Tensor<B, 2>,
    gain: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, 2> {
    let mean_square = (x.clone() * x.clone()).mean_dim(1);
    let scale = mean_square.add_scalar(epsilon).sqrt();
    x / scale * gain.unsqueeze()
}

pub(super) fn layer_norm<B: Backend>(
    x: Tensor<B, 2>,
    gain: Tensor<B, 1>,
    bias: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, 2> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / variance.add_scalar(epsilon).sqrt() * gain.unsqueeze() + bias.unsqueeze()
}

/// By the error function: burn's own has the gradient of its approximation by tanh.
fn gelu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let erf = x.clone().div_scalar(std::f64::consts::SQRT_2).erf();
    x * erf.add_scalar(1.0).mul_scalar(0.5)
}

pub(super) fn gelu_feed_forward<B: Backend>(
    x: Tensor<B, 2>,
    [up, down]: [Tensor<B, 2>; 2],
    [a, b]: [Tensor<B, 1>; 2],
) -> Tensor<B, 2> {
    gelu(x.matmul(up) + a.unsqueeze()).matmul(down) + b.unsqueeze()
}

pub(super) fn feed_forward<B: Backend>(
    x: Tensor<B, 2>,
    gate: Tensor<B, 2>,
    up: Tensor<B, 2>,
    down: Tensor<B, 2>,
) -> Tensor<B, 2> {
    (silu(x.clone().matmul(gate)) * x.matmul(up)).matmul(down)
}

/// Texts are padded to the longest: `[texts, kv_heads, group * longest, width]`.
pub(super) fn attention<B: Backend>(
    query: Tensor<B, 2>,
    key: Tensor<B, 2>,
    value: Tensor<B, 2>,
    prefix: Option<(Tensor<B, 2>, Tensor<B, 2>)>,
    heads: Heads,
    segments: &Segments,
) -> Tensor<B, 2> {
    let device = query.device();
    let [rows, all] = query.dims();
    let (n, s, kv, width) = (segments.texts(), segments.longest(), heads.keys, heads.width);
    let group = heads.group();
    let query = rotate(query, heads, segments).mul_scalar((width as f64).sqrt().recip());
    let key = rotate(key, heads, segments);

    let padded: Vec<i32> = segments
        .ranges()
        .flat_map(|range| (0..s).map(move |at| if at < range.len() { range.start + at } else { 0 }))
        .map(|row| row as i32)
        .collect();
    let padded: Tensor<B, 1, Int> = Tensor::from_data(TensorData::new(padded, [n * s]), &device);
    // The queries that share a key head stand one below the other, so that keys and values are not
    // repeated.
    let query = query
        .select(0, padded.clone())
        .reshape([n, s, kv, group, width])
        .permute([0, 2, 3, 1, 4])
        .reshape([n, kv, group * s, width]);
    let of_keys = |x: Tensor<B, 2>| {
        x.select(0, padded.clone()).reshape([n, s, kv, width]).permute([0, 2, 1, 3])
    };
    let (mut key, mut value) = (of_keys(key), of_keys(value));
    let mut before = 0;
    if let Some((keys, values)) = prefix {
        before = keys.dims()[0];
        let of_all = |x: Tensor<B, 2>| {
            x.reshape([1, before, kv, width]).permute([0, 2, 1, 3]).expand([n, kv, before, width])
        };
        key = Tensor::cat(vec![of_all(keys), key], 2);
        value = Tensor::cat(vec![of_all(values), value], 2);
    }
    let mut scores = query.matmul(key.swap_dims(2, 3));
    if heads.causal || segments.ranges().any(|range| range.len() < s) {
        scores = scores + mask(before, heads.causal, group, segments, &device);
    }
    let seen = softmax(scores, 3)
        .matmul(value)
        .reshape([n, kv, group, s, width])
        .permute([0, 3, 1, 2, 4])
        .reshape([n * s, all]);
    let real: Vec<i32> = segments
        .ranges()
        .enumerate()
        .flat_map(|(text, range)| (0..range.len()).map(move |at| (text * s + at) as i32))
        .collect();
    seen.select(0, Tensor::from_data(TensorData::new(real, [rows]), &device))
}

/// `[texts, 1, group * longest, before + longest]`: 0 where a query may look.
fn mask<B: Backend>(
    before: usize,
    causal: bool,
    group: usize,
    segments: &Segments,
    device: &B::Device,
) -> Tensor<B, 4> {
    let (n, s) = (segments.texts(), segments.longest());
    let mut mask = Vec::with_capacity(n * group * s * (before + s));
    for range in segments.ranges() {
        for _ in 0..group {
            for query in 0..s {
                mask.extend(std::iter::repeat_n(0.0, before));
                let seen = |key| key < range.len() && (!causal || key <= query);
                mask.extend((0..s).map(|key| if seen(key) { 0.0 } else { MASKED }));
            }
        }
    }
    Tensor::from_data(TensorData::new(mask, [n, 1, group * s, before + s]), device)
}

/// Turns each head of each row by its position. `x`: `[rows, heads * width]`.
///
/// `x * cos + (x Q) * sin`, where `Q` is the quarter turn of each head: fewer passes over memory
/// than slicing and joining halves.
pub(super) fn rotate<B: Backend>(
    x: Tensor<B, 2>,
    heads: Heads,
    segments: &Segments,
) -> Tensor<B, 2> {
    if heads.rope_base.is_none() {
        return x;
    }
    let device = x.device();
    let [rows, all] = x.dims();
    let (half, of_heads) = (heads.width / 2, all / heads.width);
    let angles = heads.angles(segments.longest());
    let (cos, sin) = (&angles.cos, &angles.sin);
    let spread = |table: &[f32]| -> Tensor<B, 2> {
        let mut values = Vec::with_capacity(rows * all);
        for position in segments.ranges().flat_map(|range| 0..range.len()) {
            let position = heads.first + position;
            let angles = &table[position * half..(position + 1) * half];
            (0..2 * of_heads).for_each(|_| values.extend_from_slice(angles));
        }
        Tensor::from_data(TensorData::new(values, [rows, all]), &device)
    };
    let mut quarter_turn = vec![0.0_f32; all * all];
    for start in (0..all).step_by(heads.width) {
        for (first, second) in (start..start + half).zip(start + half..) {
            quarter_turn[second * all + first] = -1.0;
            quarter_turn[first * all + second] = 1.0;
        }
    }
    let quarter_turn = Tensor::from_data(TensorData::new(quarter_turn, [all, all]), &device);
    x.clone() * spread(cos) + x.matmul(quarter_turn) * spread(sin)
}

pub(super) fn experts<B: Backend>(
    x: Tensor<B, 2>,
    gate: Tensor<B, 3>,
    up: Tensor<B, 3>,
    down: Tensor<B, 3>,
    weight: Tensor<B, 1>,
    dispatch: &Dispatch,
) -> Tensor<B, 2> {
    sent(x, weight, dispatch, |x| (silu(x.clone().matmul(gate)) * x.matmul(up)).matmul(down))
}

pub(super) fn gelu_experts<B: Backend>(
    x: Tensor<B, 2>,
    [up, down]: [Tensor<B, 3>; 2],
    [a, b]: [Tensor<B, 2>; 2],
    weight: Tensor<B, 1>,
    dispatch: &Dispatch,
) -> Tensor<B, 2> {
    let [a, b]: [Tensor<B, 3>; 2] = [a, b].map(|bias| bias.unsqueeze_dim(1));
    sent(x, weight, dispatch, |x| gelu(x.matmul(up) + a).matmul(down) + b)
}

/// Sends rows to experts, `[experts, capacity, d_model]` at once, and sums their answers. Every
/// expert gets as many slots as the fullest one needs; empty ones weigh 0.
fn sent<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    dispatch: &Dispatch,
    answer: impl FnOnce(Tensor<B, 3>) -> Tensor<B, 3>,
) -> Tensor<B, 2> {
    let device = x.device();
    let [rows, d_model] = x.dims();
    let experts = dispatch.starts().len() - 1;
    let zeros = Tensor::zeros([rows, d_model], &device);
    if dispatch.rows().is_empty() {
        return zeros;
    }
    let capacity = dispatch.starts().windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
    let slots = experts * capacity;
    let (mut row, mut cell, mut filled) = (vec![0; slots], vec![0; slots], vec![0.0_f32; slots]);
    for (expert, ends) in dispatch.starts().windows(2).enumerate() {
        for (slot, at) in (expert * capacity..).zip(ends[0]..ends[1]) {
            row[slot] = dispatch.rows()[at] as i32;
            cell[slot] = at as i32;
            filled[slot] = 1.0;
        }
    }
    let indices = |list: Vec<i32>| -> Tensor<B, 1, Int> {
        Tensor::from_data(TensorData::new(list, [slots]), &device)
    };
    let filled = Tensor::<B, 1>::from_data(TensorData::new(filled, [slots]), &device);
    let weight = weight.select(0, indices(cell)) * filled;
    let row = indices(row);
    let sent = x.select(0, row.clone()).reshape([experts, capacity, d_model]);
    let answer = answer(sent).reshape([slots, d_model]) * weight.reshape([slots, 1]);
    zeros.select_assign(0, row, answer, IndexingUpdateOp::Add)
}

pub(super) fn cross_entropy<B: Backend>(logits: Tensor<B, 2>, targets: &[u32]) -> Tensor<B, 1> {
    let at: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
    let at = Tensor::from_data(TensorData::new(at, [targets.len(), 1]), &logits.device());
    log_softmax(logits, 1).gather(1, at).mean().neg()
}
