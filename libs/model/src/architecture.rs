//! The numbers that say which network it is. They never change within a generation's weights.
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// What a network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One of the classes seen so far. Every token sees its whole text.
    #[default]
    Classification,
    /// What token comes next, for each token. A token sees only those before it.
    NextToken,
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
    /// Rows of the wide path's table; a power of two.
    pub wide_buckets: usize,
    /// Longest word n-gram of the wide path.
    pub wide_ngram: usize,
    /// Bytes of a text that are read at all; the rest is cut off before anything is computed, so
    /// that the work of a prediction is bounded.
    pub text_bytes: usize,
    /// Base of the rotary position embedding.
    pub rope_base: f64,
    /// Added under the root of RMSNorm.
    pub norm_epsilon: f64,
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
            wide_buckets: 1 << 18,
            wide_ngram: 2,
            text_bytes: 8192,
            rope_base: 10_000.0,
            norm_epsilon: 1e-5,
        }
    }
}

impl Architecture {
    /// Width of one attention head.
    #[must_use]
    pub fn head_width(&self) -> usize {
        self.d_model / self.heads
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
            ("wide_buckets", self.wide_buckets, 1, 1 << 28),
            ("wide_ngram", self.wide_ngram, 1, 8),
            ("text_bytes", self.text_bytes, 1, 1 << 24),
        ];
        for (field, value, low, high) in ranges {
            if value < low || value > high {
                return Err(wrong(field, value, format!("must be {low} to {high}")));
            }
        }
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
        Ok(())
    }
}

fn wrong(field: &'static str, value: impl ToString, need: String) -> ModelError {
    ModelError::Architecture { field, value: value.to_string(), need }
}
