//! Where the rows of a batch stand in padded texts, and by what they are turned: made once a batch.
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::ops::{Heads, Segments};

/// Positions whose queries are scored at a time: of a causal text those after the block are never
/// computed, which saves three eighths of 1,024, and scores are not all there at once.
pub(super) const BLOCK: usize = 256;

/// Added to the scores of what must not be seen; its weight is then exactly 0.
const MASKED: f32 = -1e9;

/// Of one batch and one way to divide attention.
pub(super) struct Places<B: Backend> {
    heads: Heads,
    before: usize,
    /// Nothing where all texts are of one length: rows then stand as in padded texts.
    padding: Option<Padding<B>>,
    /// From the first position on, `[1, longest, 1, width / 2]`.
    pub(super) cos: Tensor<B, 4>,
    pub(super) sin: Tensor<B, 4>,
    /// Of each block of queries.
    pub(super) blocks: Vec<Block<B>>,
}

struct Padding<B: Backend> {
    /// The row at each place, `[texts * longest]`; any at an empty one.
    rows: Tensor<B, 1, Int>,
    /// The place of each row, `[rows]`.
    places: Tensor<B, 1, Int>,
    /// 1 where there is a row, f32 `[texts * longest, 1]`.
    filled: Tensor<B, 2>,
}

/// Queries of some positions.
pub(super) struct Block<B: Backend> {
    /// Positions.
    pub(super) start: usize,
    pub(super) length: usize,
    /// Keys that any of them sees.
    pub(super) keys: usize,
    /// Added to the scores, f32: `[1, 1, length * group, keys]`, or `[texts, 1, 1, keys]`.
    pub(super) mask: Option<Tensor<B, 4>>,
}

impl<B: Backend> Places<B> {
    /// Those of this batch, kept with it. `before`: keys of a prefix.
    pub(super) fn of(
        segments: &Segments,
        heads: Heads,
        before: usize,
        device: &B::Device,
    ) -> Arc<Self> {
        let same = |places: &Self| places.heads == heads && places.before == before;
        segments.kept(same, || Self::new(segments, heads, before, device))
    }

    fn new(segments: &Segments, heads: Heads, before: usize, device: &B::Device) -> Self {
        let (longest, half) = (segments.longest(), heads.width / 2);
        let angles = heads.angles(longest);
        let table = |all: &[f32]| {
            let own = &all[heads.first * half..][..longest * half];
            let data = TensorData::new(own.to_vec(), [1, longest, 1, half]);
            Tensor::<B, 4>::from_data(data, device)
        };
        let ragged = segments.ranges().any(|range| range.len() < longest);
        let blocks = (0..longest).step_by(BLOCK).map(|start| {
            let length = BLOCK.min(longest - start);
            let keys = before + if heads.causal { start + length } else { longest };
            let mask = if heads.causal {
                // Places behind a shorter text are behind its queries too.
                Some(Self::causal(heads.group(), before, start, length, device))
            } else if ragged {
                Some(Self::short(segments, before, device))
            } else {
                None
            };
            Block { start, length, keys, mask }
        });
        Self {
            heads,
            before,
            padding: ragged.then(|| Padding::new(segments, device)),
            cos: table(&angles.cos),
            sin: table(&angles.sin),
            blocks: blocks.collect(),
        }
    }

    /// A query sees the prefix and what stands before it.
    fn causal(
        group: usize,
        before: usize,
        start: usize,
        length: usize,
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let keys = before + start + length;
        let first = start as i64;
        let query = Tensor::<B, 1, Int>::arange(first..first + length as i64, device).float();
        let query = query.reshape([length, 1]).expand([length, group]).reshape([length * group, 1]);
        let key = Tensor::<B, 1, Int>::arange(-(before as i64)..(keys - before) as i64, device);
        let ahead = key.float().reshape([1, keys]) - query;
        let hidden = ahead.greater_elem(0.5).float().mul_scalar(MASKED);
        hidden.reshape([1, 1, length * group, keys])
    }

    /// Nobody sees the places behind a short text.
    fn short(segments: &Segments, before: usize, device: &B::Device) -> Tensor<B, 4> {
        let (texts, keys) = (segments.texts(), before + segments.longest());
        let lengths: Vec<f32> =
            segments.ranges().map(|range| (before + range.len()) as f32).collect();
        let lengths = Tensor::<B, 2>::from_data(TensorData::new(lengths, [texts, 1]), device);
        let key = Tensor::<B, 1, Int>::arange(0..keys as i64, device).float();
        let behind = key.reshape([1, keys]) - lengths;
        let hidden = behind.greater_elem(-0.5).float().mul_scalar(MASKED);
        hidden.reshape([texts, 1, 1, keys])
    }

    /// `[rows, all]` to `[texts * longest, all]`; empty places hold any row.
    pub(super) fn padded(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.padding {
            None => x,
            Some(padding) => x.select(0, padding.rows.clone()),
        }
    }

    /// The same with zeros in empty places, of f32.
    pub(super) fn padded_with_zeros(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.padding {
            None => x,
            Some(padding) => x.select(0, padding.rows.clone()) * padding.filled.clone(),
        }
    }

    /// `[texts * longest, all]` to `[rows, all]`.
    pub(super) fn packed(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.padding {
            None => x,
            Some(padding) => x.select(0, padding.places.clone()),
        }
    }
}

impl<B: Backend> Padding<B> {
    fn new(segments: &Segments, device: &B::Device) -> Self {
        let (texts, longest) = (segments.texts(), segments.longest());
        let mut rows = vec![0_i32; texts * longest];
        let mut filled = vec![0.0_f32; texts * longest];
        let mut places = Vec::with_capacity(segments.rows());
        for (text, range) in segments.ranges().enumerate() {
            for (place, row) in (text * longest..).zip(range) {
                rows[place] = row as i32;
                filled[place] = 1.0;
                places.push(place as i32);
            }
        }
        let list = |list: Vec<i32>| -> Tensor<B, 1, Int> {
            let size = list.len();
            Tensor::from_data(TensorData::new(list, [size]), device)
        };
        let filled = TensorData::new(filled, [texts * longest, 1]);
        let filled = Tensor::from_data(filled, device);
        Self { rows: list(rows), places: list(places), filled }
    }
}
