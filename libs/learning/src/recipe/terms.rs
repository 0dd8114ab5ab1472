//! The continual-learning terms: what keeps a new generation from forgetting.
use serde::{Deserialize, Serialize};

use super::bounds::{whole, within};
use crate::LearningError;

/// The replay buffer: a balanced sample of all that was learnt, part of the generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    /// Examples it holds; 0: none.
    pub capacity: usize,
    /// Bytes kept of a text.
    pub text_bytes: usize,
    /// Bytes kept of a picture or a sound: a larger one is made smaller, or shorter.
    #[serde(default = "part_bytes")]
    pub part_bytes: usize,
    /// Share of each batch of a hot update that is replayed.
    pub share: f64,
    /// What has equal room in the buffer: each combination of these. None: every example alike.
    pub balance_by: Vec<BalanceBy>,
}

/// The counted part of the wide path: how often each gram was in texts of each class, over all jobs
/// ([`tidegate_model::Counts`]). It learns a class from its first texts and forgets nothing; how far
/// it can be relied on is found out on each window before it is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counting {
    /// Added to each count. 0: nothing is counted; what was stays in the wide path's weights.
    pub smoothing: f64,
}

/// A property of examples that the replay buffer is balanced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceBy {
    /// The label.
    Class,
    /// All fairness attributes together.
    Group,
    /// Where it comes from.
    Domain,
}

/// Examples are also learnt towards what the champion says of them (learning without forgetting:
/// Li and Hoiem 2016, arXiv 1606.09282). Of classifiers: where next tokens are learnt, replayed texts
/// are learnt as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// Share of a replayed example's loss, in steps of the deep path; the rest is its label's.
    pub weight: f64,
    /// The same for an example of the window, of a class that the champion knows.
    pub fresh_weight: f64,
    /// Softens both answers.
    pub temperature: f64,
}

/// Dark experience replay, DER++ (Buzzega et al. 2020, arXiv 2004.07211): replayed examples keep
/// the logits that the generation had for them which learnt them first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Der {
    /// Weight of the squared distance to those logits; 0: off, and no logits are recorded.
    pub alpha: f64,
    /// Weight of a replayed example's own loss while `alpha` is above 0.
    pub beta: f64,
}

/// Online elastic weight consolidation of the deep path (Schwarz et al. 2018, arXiv 1805.06370).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ewc {
    /// Lambda: weight of the penalty; 0: off, and no Fisher information is estimated.
    pub weight: f64,
    /// Gamma: what is left of the older Fisher information after each job.
    pub decay: f64,
    /// Examples that it is estimated from at the end of a job, one backward pass each.
    pub samples: usize,
}

/// Weight decay of the deep path towards the champion instead of 0 (L2-SP: Li et al. 2018,
/// arXiv 1802.01483).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct L2ToStart {
    /// Weight of half the squared distance; 0: off.
    pub weight: f64,
}

const fn part_bytes() -> usize {
    32 << 10
}

impl Default for Rehearsal {
    fn default() -> Self {
        let balance_by = vec![BalanceBy::Class];
        Self {
            capacity: 5_000,
            text_bytes: 4_096,
            part_bytes: part_bytes(),
            share: 0.5,
            balance_by,
        }
    }
}

impl Rehearsal {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        whole("rehearsal.capacity", self.capacity, 0, 1_000_000)?;
        whole("rehearsal.text_bytes", self.text_bytes, 1, 1 << 20)?;
        whole("rehearsal.part_bytes", self.part_bytes, 1_024, 8 << 20)?;
        within("rehearsal.share", self.share, 0.0..=0.95)?;
        let mut different = self.balance_by.clone();
        different.sort_unstable();
        different.dedup();
        if different.len() < self.balance_by.len() {
            return Err(LearningError::Recipe {
                field: "rehearsal.balance_by".to_owned(),
                value: format!("{:?}", self.balance_by).to_lowercase(),
                need: "name each property once",
            });
        }
        Ok(())
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self { smoothing: 0.5 }
    }
}

impl Counting {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        within("counting.smoothing", self.smoothing, 0.0..=1e3)
    }
}

impl Default for Distillation {
    fn default() -> Self {
        Self { weight: 0.0, fresh_weight: 0.0, temperature: 2.0 }
    }
}

impl Distillation {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        within("distillation.weight", self.weight, 0.0..=1.0)?;
        within("distillation.fresh_weight", self.fresh_weight, 0.0..=1.0)?;
        within("distillation.temperature", self.temperature, 0.1..=100.0)
    }
}

impl Default for Der {
    fn default() -> Self {
        Self { alpha: 0.0, beta: 1.0 }
    }
}

impl Der {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        within("der.alpha", self.alpha, 0.0..=1e3)?;
        within("der.beta", self.beta, 0.0..=1e3)
    }
}

impl Default for Ewc {
    fn default() -> Self {
        Self { weight: 0.0, decay: 0.9, samples: 128 }
    }
}

impl Ewc {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        within("ewc.weight", self.weight, 0.0..=1e9)?;
        within("ewc.decay", self.decay, 0.0..=1.0)?;
        whole("ewc.samples", self.samples, 1, 1 << 20)
    }
}

impl Default for L2ToStart {
    fn default() -> Self {
        Self { weight: 0.0 }
    }
}

impl L2ToStart {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        within("l2_to_start.weight", self.weight, 0.0..=1e6)
    }
}
