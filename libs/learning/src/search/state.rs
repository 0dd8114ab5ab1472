//! What is kept of a search while it goes on.
use std::fs;

use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, Candidate, SearchLog};
use tidegate_model::Architecture;

use super::draw::{flops_per_token, parameters};
use crate::{CheckpointDir, LearningError, Search, lesson::Lesson};

/// Its file, beside the candidates' checkpoints.
const FILE: &str = "search.json";

/// What was found, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Of recipe, seed and examples: a search goes on with these only.
    fingerprint: ArtifactHash,
    pub(super) log: SearchLog,
    /// Of each candidate, over all attempts.
    pub(super) seconds: Vec<f64>,
    pub(super) joules: Vec<f64>,
}

impl State {
    pub(super) fn start(
        fingerprint: ArtifactHash,
        search: &Search,
        lesson: &Lesson,
        held_back: usize,
        architectures: &[Architecture],
    ) -> Self {
        let (count, classes) = (architectures.len(), lesson.labels.len());
        let log = SearchLog {
            eta: search.eta,
            rungs: (0..search.trained_rungs(count)).map(|rung| search.steps_after(rung)).collect(),
            learnt_from: lesson.fresh.len(),
            held_back,
            candidates: architectures.iter().map(|one| candidate(one, classes)).collect(),
            winner: None,
            ended_by: None,
        };
        Self { fingerprint, log, seconds: vec![0.0; count], joules: vec![0.0; count] }
    }

    /// That of an earlier attempt; nothing, with a log line, where it is of another search or no
    /// state at all.
    pub(super) fn read(dir: &CheckpointDir, fingerprint: ArtifactHash) -> Option<Self> {
        let path = dir.path().join(FILE);
        let bytes = fs::read(&path).ok()?;
        let path = path.display();
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(state) if state.fingerprint == fingerprint => {
                tracing::info!(%path, "going on with a search");
                Some(state)
            }
            Ok(_) => {
                tracing::warn!(%path, "search begun anew: what is there is of other data");
                None
            }
            Err(error) => {
                tracing::warn!(%path, %error, "search begun anew: what is there is damaged");
                None
            }
        }
    }

    /// Under a name of its own first, so that it is there whole or not at all.
    pub(super) fn write(&self, dir: &CheckpointDir) -> Result<(), LearningError> {
        let bytes = serde_json::to_vec(self).expect("a log has string keys only");
        dir.replace(FILE, &bytes)
    }

    /// The newest accuracy of a candidate.
    pub(super) fn score(&self, at: usize) -> f64 {
        self.log.candidates[at].scores.last().map_or(f64::NEG_INFINITY, |score| score.accuracy)
    }
}

fn candidate(a: &Architecture, classes: usize) -> Candidate {
    let numbers = [
        ("d_model", a.d_model),
        ("layers", a.layers),
        ("heads", a.heads),
        ("kv_heads", a.kv_heads),
        ("experts", a.experts),
        ("top_k", a.top_k),
        ("expert_width", a.expert_width),
    ];
    let parameters = parameters(a, classes);
    Candidate {
        architecture: numbers.map(|(name, value)| (name.to_owned(), value)).into(),
        parameters: parameters.total,
        active: parameters.active,
        flops_per_token: flops_per_token(a, classes),
        scores: Vec::new(),
        dropped: None,
    }
}
