//! Steps, rates and budgets.
use serde::{Deserialize, Serialize};

use super::bounds::{whole, within};
use crate::LearningError;

/// Steps, rates and budgets of one job kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// Passes over the window.
    pub epochs: u64,
    /// Examples of a step, rehearsed ones included.
    pub batch: usize,
    /// Examples that are in memory as tensors at once; the gradients of a step's micro-batches are
    /// added up before it is taken. 0: the whole batch. Changes nothing but rounding, unless
    /// `balancing` has a capacity factor or a balance loss: those are of a micro-batch.
    pub micro_batch: usize,
    /// Steps at most; 0: no bound but the epochs. The learning rate is annealed to this end.
    pub max_steps: u64,
    /// Seconds at most; training ends in good order when they are over. A job that meets this
    /// bound is not reproducible to the bit, so it is a safety net, not a setting.
    pub max_seconds: f64,
    /// Joules at most, by the energy meter of this machine; 0: no bound. Ends a job as
    /// `max_seconds` does, and is as little reproducible.
    pub max_joules: f64,
    /// Examples at most: the newest of the window.
    pub max_examples: usize,
    /// The deep path takes part in each so many-th step, the first one among them; 1: in all. In
    /// the others the wide path learns alone from the labels, which takes far less time: a window
    /// can then be gone through many times. Where the wide path has nothing to learn, as of
    /// pictures, it takes part in all.
    #[serde(default = "in_all")]
    pub deep_every: u64,
    /// Highest learning rate of the deep path (AdamW); 0 leaves the deep path as it is.
    pub deep_rate: f64,
    /// Highest learning rate of the wide path (Adagrad); 0 leaves the wide path as it is.
    pub wide_rate: f64,
    /// Share of the steps in which the rates rise from 0. Each job warms up anew, also a hot
    /// update whose champion's rates had fallen (Ibrahim et al. 2024, arXiv 2403.08763).
    pub warm_up: f64,
    /// What the rates fall to by a half cosine, as a share of the highest.
    pub final_rate: f64,
    /// Of AdamW, decoupled.
    pub weight_decay: f64,
    /// The deep path's gradient is scaled down to this norm at most.
    pub clip_norm: f64,
    /// Weight of the deep path's own loss beside that of both paths together. At 0 the deep path
    /// learns what the wide one leaves unexplained, which is best while examples are few; more
    /// makes it stand on its own feet.
    pub deep_loss: f64,
    /// The same for the wide path. Above 0 it goes on learning new words where both paths together
    /// are sure already.
    pub wide_loss: f64,
    /// How far rare classes count for more: a class of share s, in the window and what is replayed
    /// beside it together, weighs `s^-balance`. 0: every example alike; 1: every class alike. A
    /// first window often holds a few examples of what will be common a day later, and in a later
    /// one a class that it is full of must not drown those that are only replayed.
    pub balance: f64,
}

/// As before there was a choice.
const fn in_all() -> u64 {
    1
}

impl Course {
    /// Chosen by `examples/prequential.rs` on the first 40 % of the e-mail stream.
    pub(super) fn cold_start() -> Self {
        Self {
            epochs: 3,
            batch: 16,
            micro_batch: 0,
            max_steps: 0,
            max_seconds: 1_800.0,
            max_joules: 0.0,
            max_examples: 20_000,
            deep_every: 1,
            deep_rate: 5e-4,
            wide_rate: 1.0,
            warm_up: 0.1,
            final_rate: 0.1,
            weight_decay: 0.01,
            clip_norm: 1.0,
            deep_loss: 0.0,
            wide_loss: 1.0,
            balance: 0.5,
        }
    }

    /// Many passes of the wide path, few steps of the deep one: chosen on the first fifth of each
    /// stream of `benchmarks/quality`, and on the part of `benchmarks/continual` that is set aside
    /// for it. More steps of the deep path took longer, and were no better there on the whole.
    pub(super) fn hot_update() -> Self {
        Self {
            epochs: 6,
            deep_every: 48,
            balance: 1.0,
            max_seconds: 300.0,
            max_examples: 10_000,
            deep_rate: 2e-3,
            ..Self::cold_start()
        }
    }

    /// Whether the deep path takes part in this step.
    pub(crate) fn is_deep(&self, step: u64) -> bool {
        step.is_multiple_of(self.deep_every)
    }

    /// Steps before `step` that the deep path took part in.
    pub(crate) fn deep_steps(&self, step: u64) -> u64 {
        step.div_ceil(self.deep_every)
    }

    pub(super) fn validate(&self, name: &str) -> Result<(), LearningError> {
        let field = |field: &str| format!("{name}.{field}");
        whole(&field("epochs"), self.epochs as usize, 1, 10_000)?;
        whole(&field("batch"), self.batch, 1, 1 << 16)?;
        whole(&field("micro_batch"), self.micro_batch, 0, 1 << 16)?;
        whole(&field("max_examples"), self.max_examples, 1, 1 << 30)?;
        within(&field("max_seconds"), self.max_seconds, 0.001..=1e7)?;
        within(&field("max_joules"), self.max_joules, 0.0..=1e15)?;
        whole(&field("deep_every"), self.deep_every as usize, 1, 1 << 30)?;
        within(&field("deep_rate"), self.deep_rate, 0.0..=1.0)?;
        within(&field("wide_rate"), self.wide_rate, 0.0..=100.0)?;
        within(&field("warm_up"), self.warm_up, 0.0..=1.0)?;
        within(&field("final_rate"), self.final_rate, 0.0..=1.0)?;
        within(&field("weight_decay"), self.weight_decay, 0.0..=1.0)?;
        within(&field("clip_norm"), self.clip_norm, 1e-6..=1e9)?;
        within(&field("deep_loss"), self.deep_loss, 0.0..=100.0)?;
        within(&field("wide_loss"), self.wide_loss, 0.0..=100.0)?;
        within(&field("balance"), self.balance, 0.0..=1.0)
    }
}
