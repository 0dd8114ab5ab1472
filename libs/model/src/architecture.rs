//! The numbers that say which network it is. They never change within a generation's weights.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tidegate_contracts::Part;

use crate::{
    AudioShape, BlockForm, FeatureShape, FeedForward, ImageShape, Modality, ModelError,
    front_ends::{AUDIO_PATCH, TERMS},
};

/// What a network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of the classes seen so far. Every token sees its whole text.
    #[default]
    Classification,
    /// A number, by how likely each of a few levels is ([`crate::Levels`]). Else as classification:
    /// the levels are its classes.
    Regression,
    /// What token comes next, for each token. A token sees only those before it.
    NextToken,
}

impl Task {
    /// Its name, as in an architecture.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Regression => "regression",
            Self::NextToken => "next_token",
        }
    }

    /// Whether it answers with the likelihoods of labels: of classes, or of a number's levels.
    #[must_use]
    pub const fn has_labels(self) -> bool {
        matches!(self, Self::Classification | Self::Regression)
    }
}

/// How a router scores experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Each expert by itself (DeepSeek-V3, arXiv 2412.19437, eq. 15).
    #[default]
    Sigmoid,
    /// Experts against each other (Switch, arXiv 2101.03961, eq. 1).
    Softmax,
}

/// Shape of the network. Written as `architecture.json` into every generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Architecture {
    /// What it answers.
    pub task: Task,
    /// Width of a token. A multiple of `2 * heads`.
    pub d_model: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads` (grouped-query attention).
    pub kv_heads: usize,
    /// Tokens of a text that are read; what follows is only seen by the wide path.
    pub context: usize,
    /// Rows of the token embedding; at least the 256 bytes.
    pub vocab: usize,
    /// Routed experts in each layer.
    pub experts: usize,
    /// Routed experts that each token is sent to.
    pub top_k: usize,
    /// How the router scores them.
    pub affinity: Affinity,
    /// Groups of routed experts, of equal size; divides `experts`.
    pub expert_groups: usize,
    /// Groups that one token's experts are chosen from (node-limited routing, DeepSeek-V3 section
    /// 2.1.2). As many as there are groups: no limit.
    pub top_groups: usize,
    /// Experts that see every token, as one of their summed width.
    pub shared_experts: usize,
    /// Hidden width of one expert.
    pub expert_width: usize,
    /// First layers that have one expert, which sees every token, in place of the routed ones
    /// (DeepSeek-V3, section 4.2).
    pub dense_layers: usize,
    /// How a block is made.
    pub block: BlockForm,
    /// Rows of the wide path's table; a power of two.
    pub wide_buckets: usize,
    /// Longest word n-gram of the wide path.
    pub wide_ngram: usize,
    /// Bytes of a text that are read at all; the rest is cut off before anything is computed, so
    /// that the work of a prediction is bounded.
    pub text_bytes: usize,
    /// Base of the rotary position embedding.
    pub rope_base: f64,
    /// Added under the root of a norm.
    pub norm_epsilon: f64,
    /// Parts that are read beside text. A cold start adds those that its window has.
    pub modalities: BTreeSet<Modality>,
    /// How images are cut.
    pub image: ImageShape,
    /// How sounds are cut.
    pub audio: AudioShape,
    /// How tabular features become tokens.
    pub features: FeatureShape,
}

impl Default for Architecture {
    /// Small enough that two CPU cores train hundreds of e-mails a second.
    fn default() -> Self {
        Self {
            task: Task::Classification,
            d_model: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            context: 96,
            vocab: 2048,
            experts: 8,
            top_k: 2,
            affinity: Affinity::Sigmoid,
            expert_groups: 1,
            top_groups: 1,
            shared_experts: 1,
            expert_width: 64,
            dense_layers: 0,
            block: BlockForm::default(),
            wide_buckets: 1 << 18,
            wide_ngram: 2,
            text_bytes: 8192,
            rope_base: 10_000.0,
            norm_epsilon: 1e-5,
            modalities: BTreeSet::new(),
            image: ImageShape::default(),
            audio: AudioShape::default(),
            features: FeatureShape::default(),
        }
    }
}

impl Architecture {
    /// Width of one attention head.
    #[must_use]
    pub fn head_width(&self) -> usize {
        self.d_model / self.heads
    }

    /// The same with `more` routed experts in each layer that is not dense, as many more in each
    /// group.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] when groups would be of different sizes, there were too many, or
    /// every layer is dense.
    pub fn with_experts(&self, more: usize) -> Result<Self, ModelError> {
        if !more.is_multiple_of(self.expert_groups) {
            let need = format!(
                "groups are of equal size, so {more} more would have to be a multiple of \
                 expert_groups = {}",
                self.expert_groups
            );
            return Err(wrong("experts", self.experts + more, need));
        }
        if self.dense_layers == self.layers {
            let need = "every layer is dense: there is none with routed experts to add to";
            return Err(wrong("dense_layers", self.dense_layers, need.to_owned()));
        }
        let grown = Self { experts: self.experts + more, ..self.clone() };
        grown.validate()?;
        Ok(grown)
    }

    /// The experts, by index, that the last [`Architecture::with_experts`] of `more` added: the last
    /// ones of each group.
    pub fn new_experts(&self, more: usize) -> impl Iterator<Item = usize> + use<> {
        let (group, added) = (self.experts / self.expert_groups, more / self.expert_groups);
        (0..self.experts).filter(move |at| at % group >= group - added.min(group))
    }

    /// The token that stands before and behind a text whose next tokens are learnt: the last of the
    /// vocabulary, which no tokenizer gives.
    #[must_use]
    pub fn end_of_text(&self) -> u32 {
        (self.vocab - 1) as u32
    }

    /// Columns of the head: its labels, or the vocabulary.
    #[must_use]
    pub fn outputs(&self, labels: usize) -> usize {
        match self.task {
            Task::Classification | Task::Regression => labels,
            Task::NextToken => self.vocab,
        }
    }

    /// Rows and columns of the wide path's table; a model of next tokens has none.
    #[must_use]
    pub fn wide_shape(&self, outputs: usize) -> [usize; 2] {
        match self.task {
            Task::Classification | Task::Regression => [self.wide_buckets, outputs],
            Task::NextToken => [0, 0],
        }
    }

    /// Tokens that a tokenizer may have at most.
    #[must_use]
    pub fn tokenizer_vocab(&self) -> usize {
        match self.task {
            Task::Classification | Task::Regression => self.vocab,
            Task::NextToken => self.vocab - 1,
        }
    }

    /// Routed experts of this layer, and how many of them each token is sent to.
    #[must_use]
    pub fn experts_of(&self, layer: usize) -> (usize, usize) {
        if layer < self.dense_layers { (1, 1) } else { (self.experts, self.top_k) }
    }

    /// Experts that one token meets in all layers, shared ones included.
    #[must_use]
    pub fn experts_met(&self) -> usize {
        (0..self.layers).map(|layer| self.experts_of(layer).1 + self.shared_experts).sum()
    }

    /// Matrices of one expert, each of `d_model` by `expert_width`.
    #[must_use]
    pub fn expert_matrices(&self) -> usize {
        match self.block.feed_forward {
            FeedForward::SwiGlu => 3,
            FeedForward::Gelu => 2,
        }
    }

    /// Numbers of one expert's biases.
    #[must_use]
    pub fn expert_biases(&self) -> usize {
        match self.block.feed_forward {
            FeedForward::SwiGlu => 0,
            FeedForward::Gelu => self.d_model + self.expert_width,
        }
    }

    /// Checks every field against its range and its neighbours.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] names the first field that is wrong and what would be right.
    pub fn validate(&self) -> Result<(), ModelError> {
        let ranges = [
            ("d_model", self.d_model, 2, 1 << 16),
            ("layers", self.layers, 1, 1024),
            ("heads", self.heads, 1, 1024),
            ("kv_heads", self.kv_heads, 1, 1024),
            ("context", self.context, 1, 1 << 20),
            ("vocab", self.vocab, 256, 1 << 24),
            ("experts", self.experts, 1, 4096),
            ("top_k", self.top_k, 1, self.experts),
            ("expert_groups", self.expert_groups, 1, self.experts),
            ("top_groups", self.top_groups, 1, self.expert_groups),
            ("shared_experts", self.shared_experts, 0, 64),
            ("expert_width", self.expert_width, 1, 1 << 16),
            ("dense_layers", self.dense_layers, 0, self.layers),
            ("wide_buckets", self.wide_buckets, 1, 1 << 28),
            ("wide_ngram", self.wide_ngram, 1, 8),
            ("text_bytes", self.text_bytes, 1, 1 << 24),
        ];
        within(&ranges)?;
        if !self.d_model.is_multiple_of(2 * self.heads) {
            let need = format!("must be a multiple of 2 * heads = {}", 2 * self.heads);
            return Err(wrong("d_model", self.d_model, need));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let need = format!("must divide heads = {}", self.heads);
            return Err(wrong("kv_heads", self.kv_heads, need));
        }
        if !self.experts.is_multiple_of(self.expert_groups) {
            let need = format!("must divide experts = {}", self.experts);
            return Err(wrong("expert_groups", self.expert_groups, need));
        }
        let reachable = self.experts / self.expert_groups * self.top_groups;
        if self.top_k > reachable {
            let need = format!("must be at most {reachable}, the experts of top_groups groups");
            return Err(wrong("top_k", self.top_k, need));
        }
        if !self.wide_buckets.is_power_of_two() {
            return Err(wrong("wide_buckets", self.wide_buckets, "must be a power of two".into()));
        }
        for (field, value) in [("rope_base", self.rope_base), ("norm_epsilon", self.norm_epsilon)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(wrong(field, value, "must be a finite number above 0".into()));
            }
        }
        self.validate_front_ends()
    }

    fn validate_front_ends(&self) -> Result<(), ModelError> {
        let (image, audio, features) = (&self.image, &self.audio, &self.features);
        let ranges = [
            ("image.side", image.side, 0, 1024),
            ("image.patch", image.patch, 1, 256),
            ("image.limit", image.limit, 1, 64),
            ("audio.seconds", audio.seconds, 0, 600),
            ("audio.mels", audio.mels, AUDIO_PATCH, 128),
            ("audio.limit", audio.limit, 1, 64),
            ("features.tokens", features.tokens, 0, 1000),
            ("features.rows", features.rows, 2, 1 << 24),
        ];
        within(&ranges)?;
        if !image.side.is_multiple_of(image.patch) {
            let need = format!("must be a multiple of image.patch = {}", image.patch);
            return Err(wrong("image.side", image.side, need));
        }
        if !audio.mels.is_multiple_of(AUDIO_PATCH) {
            let need = format!("must be a multiple of {AUDIO_PATCH}");
            return Err(wrong("audio.mels", audio.mels, need));
        }
        if !features.rows.is_power_of_two() {
            return Err(wrong("features.rows", features.rows, "must be a power of two".into()));
        }
        if let Some(modality) = self.modalities.iter().find(|modality| !self.can_read(**modality)) {
            let need = "its size in this architecture is 0: give it one, or leave it out";
            return Err(wrong("modalities", modality.as_str(), need.into()));
        }
        if self.task == Task::NextToken && !self.modalities.is_empty() {
            let need = "a network of next tokens reads text alone: leave `modalities` empty";
            return Err(wrong("modalities", self.reads()[1], need.into()));
        }
        Ok(())
    }

    /// Whether its front-end for these parts has a size.
    #[must_use]
    pub const fn can_read(&self, modality: Modality) -> bool {
        match modality {
            Modality::Image => self.image.side > 0,
            Modality::Audio => self.audio.seconds > 0,
            Modality::Features => self.features.tokens > 0,
        }
    }

    /// Rows of the feature table that one token does not use.
    #[must_use]
    pub fn idle_feature_rows(&self) -> usize {
        if self.modalities.contains(&Modality::Features) {
            self.features.rows.saturating_sub(TERMS)
        } else {
            0
        }
    }

    /// Names of the parts that it reads.
    #[must_use]
    pub fn reads(&self) -> Vec<&'static str> {
        std::iter::once("text").chain(self.modalities.iter().map(|m| m.as_str())).collect()
    }

    /// Whether it reads any of `parts`.
    #[must_use]
    pub fn reads_any(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| {
            Modality::of(part).is_none_or(|modality| self.modalities.contains(&modality))
        })
    }
}

/// Field, value, lowest and highest.
fn within(ranges: &[(&'static str, usize, usize, usize)]) -> Result<(), ModelError> {
    for &(field, value, low, high) in ranges {
        if value < low || value > high {
            return Err(wrong(field, value, format!("must be {low} to {high}")));
        }
    }
    Ok(())
}

fn wrong(field: &'static str, value: impl ToString, need: String) -> ModelError {
    ModelError::Architecture { field, value: value.to_string(), need }
}
