//! Assignments that found their expert full.
use serde::{Deserialize, Serialize};

/// Dropped assignments of tokens to experts, and all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Those that found their expert full.
    pub dropped: u64,
    /// All, those included.
    pub assignments: u64,
}

impl Drops {
    /// Dropped ones as a share of all.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.dropped as f64 / self.assignments.max(1) as f64
    }
}

impl std::ops::AddAssign for Drops {
    fn add_assign(&mut self, more: Self) {
        self.dropped += more.dropped;
        self.assignments += more.assignments;
    }
}
