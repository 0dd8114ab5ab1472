//! How numbers are learnt.
use serde::{Deserialize, Serialize};

use super::bounds::{whole, within};
use crate::LearningError;

/// How numbers are learnt, where `architecture.task` is `regression` ([`tidegate_model::Levels`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// Levels of a cold start, at most; a hot update adds one where its window reaches beyond them.
    pub levels: usize,
    /// Width, in levels, of the normal distribution about a number that is learnt: neighbours of a
    /// level are learnt with it. 0: only the two about the number.
    pub spread: f64,
}

impl Default for Regression {
    fn default() -> Self {
        Self { levels: 16, spread: 0.75 }
    }
}

impl Regression {
    pub(super) fn validate(&self) -> Result<(), LearningError> {
        whole("regression.levels", self.levels, 2, 1024)?;
        within("regression.spread", self.spread, 0.0..=8.0)
    }
}
