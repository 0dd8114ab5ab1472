//! Texts of one step, padded to the longest, as tensors.
use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::Features;

/// What [`crate::Network::forward`] takes.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// `[batch, longest]`; 0 where there is no token.
    pub(crate) tokens: Tensor<B, 2, Int>,
    /// Tokens of each text, at least 1.
    pub(crate) lengths: Vec<usize>,
    /// `[batch, classes]`: evidence of the wide path, a constant here.
    pub(crate) wide: Option<Tensor<B, 2>>,
}

impl<B: Backend> Batch<B> {
    /// Pads to the longest of `features`. A text without tokens counts as one token, 0.
    ///
    /// # Panics
    /// When `features` is empty.
    #[must_use]
    pub fn new(features: &[&Features], device: &B::Device) -> Self {
        assert!(!features.is_empty(), "a batch has at least one text");
        let lengths: Vec<usize> = features.iter().map(|f| f.tokens.len().max(1)).collect();
        let longest = lengths.iter().copied().max().expect("a batch has at least one text");
        let mut tokens = vec![0_i32; features.len() * longest];
        for (row, features) in tokens.chunks_exact_mut(longest).zip(features) {
            for (cell, token) in row.iter_mut().zip(&features.tokens) {
                *cell = i32::try_from(*token).expect("a vocabulary has at most 2^24 tokens");
            }
        }
        let tokens = TensorData::new(tokens, [features.len(), longest]);
        Self { tokens: Tensor::from_data(tokens, device), lengths, wide: None }
    }

    /// Adds what [`crate::WideTable::logits`] returned for the same texts to the logits.
    ///
    /// # Panics
    /// When `logits` is not `[batch, classes]`, row by row.
    #[must_use]
    pub fn with_wide(mut self, logits: Vec<f32>, classes: usize) -> Self {
        assert_eq!(logits.len(), self.lengths.len() * classes, "wide logits are [batch, classes]");
        let data = TensorData::new(logits, [self.lengths.len(), classes]);
        self.wide = Some(Tensor::from_data(data, &self.tokens.device()));
        self
    }

    /// Texts in it; never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }
}
