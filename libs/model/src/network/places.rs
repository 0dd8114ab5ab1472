//! Where tokens stand in a padded batch: what is real, what angle a position has.
use burn::tensor::{Tensor, TensorData, backend::Backend};

/// Added to the scores of padding before the softmax; its weight is then exactly 0.
const MASKED: f32 = -1e9;

/// Constants of one forward pass, shared by all layers.
pub(super) struct Places<B: Backend> {
    /// Texts in the batch.
    pub(super) texts: usize,
    /// Tokens of each padded text.
    pub(super) longest: usize,
    /// Tokens of each text without padding.
    lengths: Vec<usize>,
    /// For queries; carries the `1/sqrt(head_width)` of the scores.
    pub(super) query_rotation: Rotation<B>,
    /// For keys.
    pub(super) key_rotation: Rotation<B>,
    /// `[texts, 1, 1, longest]`, [`MASKED`] at padding; nothing when there is no padding.
    pub(super) mask: Option<Tensor<B, 4>>,
}

impl<B: Backend> Places<B> {
    pub(super) fn new(
        lengths: &[usize],
        longest: usize,
        (heads, kv_heads, head_width): (usize, usize, usize),
        rope_base: f64,
        device: &B::Device,
    ) -> Self {
        let texts = lengths.len();
        let scale = (head_width as f64).sqrt().recip();
        let mask = lengths.iter().any(|length| *length < longest).then(|| {
            let mask = lengths.iter().flat_map(|length| {
                (0..longest).map(move |at| if at < *length { 0.0 } else { MASKED })
            });
            let mask = TensorData::new(mask.collect::<Vec<_>>(), [texts, 1, 1, longest]);
            Tensor::from_data(mask, device)
        });
        Self {
            texts,
            longest,
            lengths: lengths.to_vec(),
            query_rotation: Rotation::new(longest, heads, head_width, rope_base, scale, device),
            key_rotation: Rotation::new(longest, kv_heads, head_width, rope_base, 1.0, device),
            mask,
        }
    }

    /// Rows of the flattened batch that hold a token, in order.
    pub(super) fn real_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.lengths.iter().enumerate().flat_map(|(text, length)| {
            let start = text * self.longest;
            start..start + length
        })
    }

    /// `[texts, 1, longest]`: the matrix that takes the mean over each text's tokens.
    pub(super) fn pooling(&self, device: &B::Device) -> Tensor<B, 3> {
        let weights = self.lengths.iter().flat_map(|length| {
            let share = 1.0 / *length as f32;
            (0..self.longest).map(move |at| if at < *length { share } else { 0.0 })
        });
        let shape = [self.texts, 1, self.longest];
        Tensor::from_data(TensorData::new(weights.collect::<Vec<_>>(), shape), device)
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves paired: in each head,
/// dimension `i` turns with `i + head_width / 2` by `position * base^(-2i / head_width)`.
///
/// As one matrix product and two products by element: `x * cos + (x Q) * sin`, where `Q` is the
/// quarter turn. That is fewer passes over memory than slicing and joining halves.
pub(super) struct Rotation<B: Backend> {
    /// `[1, longest * width]`.
    cos: Tensor<B, 2>,
    /// `[1, longest * width]`.
    sin: Tensor<B, 2>,
    /// `[width, width]`.
    quarter_turn: Tensor<B, 2>,
}

impl<B: Backend> Rotation<B> {
    fn new(
        longest: usize,
        heads: usize,
        head_width: usize,
        base: f64,
        scale: f64,
        device: &B::Device,
    ) -> Self {
        let (width, half) = (heads * head_width, head_width / 2);
        let mut cos = Vec::with_capacity(longest * width);
        let mut sin = Vec::with_capacity(longest * width);
        let speeds: Vec<f64> =
            (0..half).map(|at| base.powf(-2.0 * at as f64 / head_width as f64)).collect();
        for position in 0..longest {
            let turns: Vec<_> =
                speeds.iter().map(|speed| (position as f64 * speed).sin_cos()).collect();
            for _ in 0..2 * heads {
                sin.extend(turns.iter().map(|(sin, _)| (sin * scale) as f32));
                cos.extend(turns.iter().map(|(_, cos)| (cos * scale) as f32));
            }
        }
        let mut quarter_turn = vec![0.0_f32; width * width];
        for start in (0..width).step_by(head_width) {
            for (first, second) in (start..start + half).zip(start + half..) {
                quarter_turn[second * width + first] = -1.0;
                quarter_turn[first * width + second] = 1.0;
            }
        }
        let row = |values| Tensor::from_data(TensorData::new(values, [1, longest * width]), device);
        Self {
            cos: row(cos),
            sin: row(sin),
            quarter_turn: Tensor::from_data(TensorData::new(quarter_turn, [width, width]), device),
        }
    }

    /// Turns each token by its position. `x`: `[texts * longest, width]`, and so is the result.
    pub(super) fn apply(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let [rows, width] = x.dims();
        let flat = [rows * width / self.cos.dims()[1], self.cos.dims()[1]];
        let turned = x.clone().matmul(self.quarter_turn.clone()).reshape(flat);
        (x.reshape(flat) * self.cos.clone() + turned * self.sin.clone()).reshape([rows, width])
    }
}
