//! How a block is made: ours by default, or that of a pretrained encoder.
use serde::{Deserialize, Serialize};

/// How a block normalises, where it does, how it knows positions, and what an expert computes. The
/// default is what is trained from scratch; a pretrained encoder ([`crate::Pretrained`]) keeps its
/// own form, since its weights mean something in no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlockForm {
    /// Of every row.
    pub norm: NormForm,
    /// Where it stands.
    pub placement: Placement,
    /// How attention knows who stands where.
    pub positions: Positions,
    /// What one expert computes.
    pub feed_forward: FeedForward,
    /// Whether queries, keys, values and what is attended to have a bias.
    pub attention_bias: bool,
}

/// How a row is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormForm {
    /// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467).
    #[default]
    Rms,
    /// LayerNorm (Ba et al. 2016, arXiv 1607.06450), with a bias.
    Layer,
}

/// Where a block normalises (Xiong et al. 2020, arXiv 2002.04745).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// What goes into attention and experts: `x + f(norm(x))`; and what goes into the head.
    #[default]
    Pre,
    /// Each sum: `norm(x + f(x))`; and the embedding.
    Post,
}

/// How attention knows who stands where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Queries and keys are turned (Su et al. 2021, arXiv 2104.09864).
    #[default]
    Rotary,
    /// A vector for each position of the context is added to the embedding.
    Learned,
}

/// What one expert computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedForward {
    /// `(silu(x gate) * (x up)) down` (Shazeer 2020, arXiv 2002.05202).
    #[default]
    SwiGlu,
    /// `gelu(x up + a) down + b` (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
}
