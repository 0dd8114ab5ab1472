//! Texts of one step as tensors, one behind the other.
use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::{Features, ops::Segments};

/// What [`crate::Network::forward`] takes.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// `[rows]`: the tokens of all texts, one text behind the other; no padding.
    pub(crate) tokens: Tensor<B, 1, Int>,
    /// Which rows are whose.
    pub(crate) segments: Segments,
    /// `[batch, classes]`: evidence of the wide path, a constant here.
    pub(crate) wide: Option<Tensor<B, 2>>,
}

impl<B: Backend> Batch<B> {
    /// A text without tokens counts as one token, 0.
    ///
    /// # Panics
    /// When `features` is empty.
    #[must_use]
    pub fn new(features: &[&Features], device: &B::Device) -> Self {
        Self::of_tokens(features.iter().map(|features| &features.tokens[..]), device)
    }

    /// The same of bare tokens.
    ///
    /// # Panics
    /// When there is no text.
    #[must_use]
    pub fn of_tokens<'a>(texts: impl IntoIterator<Item = &'a [u32]>, device: &B::Device) -> Self {
        let texts: Vec<&[u32]> =
            texts.into_iter().map(|text| if text.is_empty() { &[0][..] } else { text }).collect();
        assert!(!texts.is_empty(), "a batch has at least one text");
        let segments = Segments::new(texts.iter().map(|text| text.len()));
        let id = |token: &u32| i32::try_from(*token).expect("a vocabulary has at most 2^24 tokens");
        let tokens: Vec<i32> = texts.into_iter().flatten().map(id).collect();
        let tokens = TensorData::new(tokens, [segments.rows()]);
        Self { tokens: Tensor::from_data(tokens, device), segments, wide: None }
    }

    /// Adds what [`crate::WideTable::logits`] returned for the same texts to the logits.
    ///
    /// # Panics
    /// When `logits` is not `[batch, classes]`, row by row.
    #[must_use]
    pub fn with_wide(mut self, logits: Vec<f32>, classes: usize) -> Self {
        assert_eq!(logits.len(), self.len() * classes, "wide logits are [batch, classes]");
        let data = TensorData::new(logits, [self.len(), classes]);
        self.wide = Some(Tensor::from_data(data, &self.tokens.device()));
        self
    }

    /// Texts in it; never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.segments.texts()
    }

    /// Tokens of all texts.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.segments.rows()
    }
}
