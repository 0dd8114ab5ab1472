//! A cold start that looks for its architecture first.
use serde::{Deserialize, Serialize};
use tidegate_model::Architecture;

use super::bounds::{half, whole, within};
use crate::LearningError;

/// Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) over architectures, with the
/// rungs of Hyperband (Li et al. 2018, arXiv 1603.06560): each rung trains the candidates that are
/// left, from where they stopped, to `eta` times the steps of the rung before, and keeps the best
/// `1 / eta` of them. The winner is then trained as any cold start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Architectures that are tried: the recipe's own, and others drawn from `space`; 0: no search.
    /// Those outside of the bounds below are not.
    pub candidates: usize,
    /// Of so many candidates one is kept, and trained so many times as far.
    pub eta: usize,
    /// Rungs at most; the search ends when one candidate is left.
    pub rungs: usize,
    /// Steps of each candidate in the first rung.
    pub steps: u64,
    /// Seconds of the whole search at most; 0: no bound. Where it is met the best so far wins, and
    /// the job is not reproducible, so it is a safety net as `max_seconds` of a course is.
    pub max_seconds: f64,
    /// Share of each class of the window that candidates are judged by, and do not learn from.
    pub held_back: f64,
    /// Accuracies that are no further apart count as equal, and the candidate of less work a token
    /// is taken.
    pub tie: f64,
    /// Parameters of both paths at most; 0: no bound.
    pub max_parameters: usize,
    /// FLOPs of a prediction at most, by token of a text as long as `context`: what latency comes
    /// from; 0: no bound.
    pub max_flops_per_token: f64,
    /// Of which candidates are drawn.
    pub seed: u64,
    /// What they are drawn from.
    pub space: Space,
}

/// Values that each number of the architecture is drawn from. All else is as in the recipe's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Width of a token.
    pub d_model: Vec<usize>,
    /// Transformer blocks.
    pub layers: Vec<usize>,
    /// Query heads.
    pub heads: Vec<usize>,
    /// Key and value heads.
    pub kv_heads: Vec<usize>,
    /// Routed experts of each layer.
    pub experts: Vec<usize>,
    /// Of them, those that a token is sent to.
    pub top_k: Vec<usize>,
    /// Hidden width of one expert.
    pub expert_width: Vec<usize>,
}

impl Default for Search {
    /// Off. With a number of candidates it is the search of `docs/guides/operators.md`.
    fn default() -> Self {
        Self {
            candidates: 0,
            eta: 3,
            rungs: 3,
            steps: 60,
            max_seconds: 0.0,
            held_back: 0.2,
            tie: 0.005,
            max_parameters: 0,
            max_flops_per_token: 0.0,
            seed: 0,
            space: Space::default(),
        }
    }
}

impl Default for Space {
    fn default() -> Self {
        Self {
            d_model: vec![32, 64, 96, 128],
            layers: vec![1, 2, 3, 4],
            heads: vec![2, 4, 8],
            kv_heads: vec![1, 2, 4],
            experts: vec![4, 8, 16],
            top_k: vec![1, 2, 4],
            expert_width: vec![32, 64, 128],
        }
    }
}

impl Search {
    /// Whether a cold start is searched.
    pub(crate) const fn is_on(&self) -> bool {
        self.candidates > 0
    }

    /// Steps that a candidate has done at the end of a rung, counted from 0.
    pub(crate) fn steps_after(&self, rung: usize) -> u64 {
        self.steps * (self.eta as u64).pow(rung as u32)
    }

    /// Candidates that a rung trains, of so many at the start.
    pub(crate) fn of_rung(&self, rung: usize, candidates: usize) -> usize {
        (candidates / self.eta.pow(rung as u32)).max(1)
    }

    /// Rungs that are trained: none with a single candidate, which has won already.
    pub(crate) fn trained_rungs(&self, candidates: usize) -> usize {
        (0..self.rungs).take_while(|&rung| self.of_rung(rung, candidates) > 1).count()
    }

    pub(super) fn validate(&self) -> Result<(), LearningError> {
        whole("search.candidates", self.candidates, 0, 1_000)?;
        whole("search.eta", self.eta, 2, 100)?;
        whole("search.rungs", self.rungs, 1, 6)?;
        whole("search.steps", self.steps as usize, 1, 1 << 20)?;
        within("search.max_seconds", self.max_seconds, 0.0..=1e7)?;
        half("search.held_back", self.held_back)?;
        if self.held_back == 0.0 {
            let (field, value) = ("search.held_back".to_owned(), "0".to_owned());
            let need = "candidates are judged by what is held back: a share above 0 is needed";
            return Err(LearningError::Recipe { field, value, need });
        }
        within("search.tie", self.tie, 0.0..=1.0)?;
        within("search.max_flops_per_token", self.max_flops_per_token, 0.0..=1e18)?;
        for (field, values) in self.space.fields() {
            let field = format!("search.space.{field}");
            if values.is_empty() {
                let (value, need) = ("empty".to_owned(), "at least one value is needed");
                return Err(LearningError::Recipe { field, value, need });
            }
            for &value in values {
                whole(&field, value, 1, 1 << 16)?;
            }
        }
        Ok(())
    }
}

impl Space {
    /// Its lists by name.
    fn fields(&self) -> [(&'static str, &[usize]); 7] {
        [
            ("d_model", &self.d_model),
            ("layers", &self.layers),
            ("heads", &self.heads),
            ("kv_heads", &self.kv_heads),
            ("experts", &self.experts),
            ("top_k", &self.top_k),
            ("expert_width", &self.expert_width),
        ]
    }

    /// How many combinations there are, fitting or not.
    pub(crate) fn size(&self) -> u64 {
        self.fields().iter().fold(1, |all, (_, values)| all.saturating_mul(values.len() as u64))
    }

    /// Combination `at`, below [`Space::size`], of numbers that are otherwise those of `base`.
    pub(crate) fn combination(&self, mut at: u64, base: &Architecture) -> Architecture {
        let mut pick = |values: &[usize]| {
            let count = values.len() as u64;
            let value = values[(at % count) as usize];
            at /= count;
            value
        };
        Architecture {
            d_model: pick(&self.d_model),
            layers: pick(&self.layers),
            heads: pick(&self.heads),
            kv_heads: pick(&self.kv_heads),
            experts: pick(&self.experts),
            top_k: pick(&self.top_k),
            expert_width: pick(&self.expert_width),
            ..base.clone()
        }
    }
}
