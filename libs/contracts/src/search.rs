//! How an architecture was found: part of a generation's lineage.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// File of a generation whose architecture was searched: a [`SearchLog`].
pub const SEARCH: &str = "search.json";

/// Every candidate of an architecture search, and what became of it. Reproducible: it holds no
/// times; those are in the job's metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchLog {
    /// Of so many candidates one was kept.
    pub eta: usize,
    /// Steps that a candidate had done at the end of each rung.
    pub rungs: Vec<u64>,
    /// Examples that candidates learnt from.
    pub learnt_from: usize,
    /// Examples that they were judged by.
    pub held_back: usize,
    /// In the order they were drawn; the first is the recipe's own where that is within the bounds.
    pub candidates: Vec<Candidate>,
    /// Index of the one that won.
    pub winner: Option<usize>,
    /// The budget that ended the search early.
    pub ended_by: Option<String>,
}

/// One architecture that was tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The numbers that were searched over, by name.
    pub architecture: BTreeMap<String, usize>,
    /// Of both paths.
    pub parameters: usize,
    /// That one token uses.
    pub active: usize,
    /// Work of a prediction, by token of a text of full length.
    pub flops_per_token: f64,
    /// One for each rung that it came to.
    pub scores: Vec<Score>,
    /// Why it is not the winner; nothing of one that is, or while the search goes on.
    pub dropped: Option<String>,
}

/// What a candidate came to in one rung.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Steps it had done.
    pub steps: u64,
    /// On what was held back.
    pub accuracy: f64,
}

impl Candidate {
    /// Its architecture in a line.
    #[must_use]
    pub fn describe(&self) -> String {
        let pairs: Vec<String> =
            self.architecture.iter().map(|(name, value)| format!("{name} {value}")).collect();
        pairs.join(", ")
    }
}
