//! Inputs of one step as tensors, one behind the other.
use burn::tensor::{Int, Tensor, TensorData, backend::Backend};

use crate::{Features, Patches, Rows, front_ends::TERMS, ops::Segments};

/// What [`crate::Network::forward`] takes.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// `[text rows]`: the tokens of all texts, one text behind the other; no padding.
    pub(crate) tokens: Tensor<B, 1, Int>,
    /// What is not text; where there is any.
    pub(crate) parts: Option<Parts<B>>,
    /// Which rows are whose.
    pub(crate) segments: Segments,
    /// `[batch, classes]`: evidence of the wide path, a constant here.
    pub(crate) wide: Option<Tensor<B, 2>>,
    /// `[text rows, d_model]`: added to the tokens' vectors, by who attacks them.
    pub(crate) nudge: Option<Tensor<B, 2>>,
}

/// Rows of all parts beside text, by kind.
#[derive(Debug, Clone)]
pub(crate) struct Parts<B: Backend> {
    /// `[patches, width]`, and the place of each in its picture, `[patches]`.
    pub(crate) image: Option<(Tensor<B, 2>, Tensor<B, 1, Int>)>,
    /// The same of sounds.
    pub(crate) audio: Option<(Tensor<B, 2>, Tensor<B, 1, Int>)>,
    /// Rows of the table, `[features * TERMS]`, and what each counts, `[features * TERMS, 1]`.
    pub(crate) features: Option<(Tensor<B, 1, Int>, Tensor<B, 2>)>,
    /// Tokens of each text, of none 0; they add up to those of the batch.
    pub(crate) texts: Vec<usize>,
    /// Where each row of the batch stands when texts, images, sounds and features stand one behind
    /// the other, `[rows]`.
    pub(crate) order: Tensor<B, 1, Int>,
}

impl<B: Backend> Batch<B> {
    /// An input of nothing counts as one token, 0.
    ///
    /// # Panics
    /// When `features` is empty.
    #[must_use]
    pub fn new(features: &[&Features], device: &B::Device) -> Self {
        if features.iter().all(|features| features.parts.is_empty()) {
            return Self::of_tokens(features.iter().map(|features| &features.tokens[..]), device);
        }
        let mut gathered = Gathered::default();
        for features in features {
            gathered.add(features);
        }
        let segments = Segments::new(features.iter().map(|features| features.rows()));
        let (tokens, parts) = gathered.tensors(device);
        Self { tokens, parts: Some(parts), segments, wide: None, nudge: None }
    }

    /// Each text without its last token, and for each row the token that follows it: what a network
    /// of next tokens learns from.
    ///
    /// # Panics
    /// When `features` is empty, or a text has less than two tokens.
    #[must_use]
    pub fn successors(features: &[&Features], device: &B::Device) -> (Self, Vec<u32>) {
        let tokens = || features.iter().map(|features| &features.tokens[..]);
        assert!(tokens().all(|tokens| tokens.len() > 1), "a text has at least two tokens");
        let targets = tokens().flat_map(|tokens| &tokens[1..]).copied().collect();
        (Self::of_tokens(tokens().map(|tokens| &tokens[..tokens.len() - 1]), device), targets)
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
        let tokens = indices(texts.into_iter().flatten().copied(), device);
        Self { tokens, parts: None, segments, wide: None, nudge: None }
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

    /// Where each token stands in its text, `[text rows]`; the first at `first`.
    pub(crate) fn positions(&self, first: usize, device: &B::Device) -> Tensor<B, 1, Int> {
        let lengths = match &self.parts {
            Some(parts) => parts.texts.clone(),
            None => self.segments.ranges().map(|range| range.len()).collect(),
        };
        let positions = lengths.into_iter().flat_map(|length| first..first + length);
        indices(positions.map(|at| at as u32), device)
    }

    /// Inputs in it; never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.segments.texts()
    }

    /// Rows of all inputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.segments.rows()
    }
}

fn indices<B: Backend>(values: impl Iterator<Item = u32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let index = |value| i32::try_from(value).expect("tables and batches have at most 2^31 rows");
    let values: Vec<i32> = values.map(index).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Rows by kind.
#[derive(Default)]
struct Gathered {
    tokens: Vec<u32>,
    image: Pictures,
    audio: Pictures,
    features: Vec<(u32, f32)>,
    /// Tokens of each text.
    texts: Vec<usize>,
    /// Kind of each row of the batch, and its place among its kind.
    order: Vec<(usize, usize)>,
}

#[derive(Default)]
struct Pictures {
    values: Vec<f32>,
    at: Vec<u32>,
}

impl Gathered {
    fn add(&mut self, features: &Features) {
        let tokens: &[u32] = match (&features.tokens[..], &features.parts[..]) {
            ([], []) => &[0],
            (tokens, _) => tokens,
        };
        self.place(0, self.tokens.len(), tokens.len());
        self.texts.push(tokens.len());
        self.tokens.extend_from_slice(tokens);
        for rows in &features.parts {
            match rows {
                Rows::Image(patches) => {
                    self.place(1, self.image.at.len(), patches.count);
                    self.image.add(patches);
                }
                Rows::Audio(patches) => {
                    self.place(2, self.audio.at.len(), patches.count);
                    self.audio.add(patches);
                }
                Rows::Features(tokens) => {
                    self.place(3, self.features.len() / TERMS, tokens.len());
                    self.features.extend(tokens.iter().flatten());
                }
            }
        }
    }

    fn place(&mut self, kind: usize, from: usize, count: usize) {
        self.order.extend((from..from + count).map(|at| (kind, at)));
    }

    fn tensors<B: Backend>(mut self, device: &B::Device) -> (Tensor<B, 1, Int>, Parts<B>) {
        // A tensor has at least one row; this one has no place.
        if self.tokens.is_empty() {
            self.tokens.push(0);
            self.texts.push(1);
        }
        let counts = [self.tokens.len(), self.image.at.len(), self.audio.at.len()];
        let starts = [0, counts[0], counts[0] + counts[1], counts.iter().sum()];
        let row = |(kind, at): (usize, usize)| {
            u32::try_from(starts[kind] + at).expect("a batch has at most 2^31 rows")
        };
        let order = indices(self.order.into_iter().map(row), device);
        let features = (!self.features.is_empty()).then(|| {
            let (rows, factors): (Vec<u32>, Vec<f32>) = self.features.into_iter().unzip();
            let shape = [factors.len(), 1];
            let factors = Tensor::from_data(TensorData::new(factors, shape), device);
            (indices(rows.into_iter(), device), factors)
        });
        let (image, audio) = (self.image.tensors(device), self.audio.tensors(device));
        let tokens = indices(self.tokens.into_iter(), device);
        (tokens, Parts { image, audio, features, texts: self.texts, order })
    }
}

impl Pictures {
    fn add(&mut self, patches: &Patches) {
        self.at.extend(0..u32::try_from(patches.count).expect("a picture has few patches"));
        self.values.extend(patches.bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0));
    }

    fn tensors<B: Backend>(self, device: &B::Device) -> Option<(Tensor<B, 2>, Tensor<B, 1, Int>)> {
        if self.at.is_empty() {
            return None;
        }
        let shape = [self.at.len(), self.values.len() / self.at.len()];
        let values = Tensor::from_data(TensorData::new(self.values, shape), device);
        Some((values, indices(self.at.into_iter(), device)))
    }
}
