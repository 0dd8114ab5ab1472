//! A new domain from another domain's champion.
use serde::{Deserialize, Serialize};

use super::{
    Course, Expansion, Method, Train,
    bounds::{half, whole},
};
use crate::LearningError;

/// A new domain from another domain's champion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Which classes the generation knows.
    pub labels: NewLabels,
    /// Whether the source's replay buffer is kept, as far as its classes are among the
    /// generation's: those examples are rehearsed, and stay in the buffer. Off: the source is only
    /// a start, and none of its texts comes along.
    pub keep_replay: bool,
    /// Share of each class of the window that is not learnt from, but measures what is known of the
    /// new domain before and after. It enters the replay buffer, so that later updates learn it.
    pub held_back: f64,
    /// Few-shot accuracies are measured with so many examples of each class (or all it has).
    pub few_shot: Vec<usize>,
    /// Steps, rates and budgets.
    pub course: Course,
    /// Which parameters learn.
    pub method: Method,
}

/// The label set of a transfer's generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewLabels {
    /// `append` where the window has a class that the source knows, `replace` where it has none.
    #[default]
    Auto,
    /// The source's classes, and behind them those that are new.
    Append,
    /// A new head: the window's classes alone. Those that the source knows keep their columns.
    Replace,
}

impl Default for Transfer {
    /// Experts that were there keep what they know, two new ones a layer and all else learn.
    fn default() -> Self {
        let expansion = Expansion { experts: 2, ..Expansion::default() };
        let method = Method { train: Train::FrozenExperts, expansion, ..Method::default() };
        Self {
            labels: NewLabels::Auto,
            keep_replay: true,
            held_back: 0.2,
            few_shot: vec![1, 5, 20],
            course: Course::cold_start(),
            method,
        }
    }
}

impl Transfer {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        half("transfer.held_back", self.held_back)?;
        for &shots in &self.few_shot {
            whole("transfer.few_shot", shots, 1, 10_000)?;
        }
        whole("transfer.few_shot", self.few_shot.len(), 0, 16)?;
        self.course.validate("transfer.course")?;
        self.method.validate("transfer.method")
    }
}
