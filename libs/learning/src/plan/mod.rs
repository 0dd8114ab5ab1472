//! What a job will take, before it is run; and how far off that was.
mod memory;
mod parameters;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_contracts::JobKind;

use crate::SearchPlan;

pub(crate) use self::{memory::Held, parameters::shares};
pub use self::{
    memory::{Memory, PeakMemory},
    parameters::{Parameters, TrainedShare},
};

/// What a job will take on this machine. Counts are exact; time and energy are measured on its own
/// first steps, memory is reckoned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which course of the recipe.
    pub kind: JobKind,
    /// What is to be done before, where the architecture is searched: all else is then said of the
    /// recipe's own, since nobody knows which one will win.
    #[serde(default)]
    pub search: Option<SearchPlan>,
    /// What learns, in words.
    pub method: String,
    /// Of the generation that it will make.
    pub parameters: Parameters,
    /// What each method would train of it.
    pub methods: Vec<TrainedShare>,
    /// At its fullest.
    pub memory: Memory,
    /// What is to be done.
    pub work: Work,
    /// How long it will take.
    pub time: Time,
    /// What it will use.
    pub energy: Energy,
    /// Where time and energy are from.
    pub probe: Probe,
    /// The budget that will end it before all steps are done; its steps and tokens are cut
    /// accordingly.
    pub ended_by: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Examples of the window.
    pub examples: usize,
    /// Examples that can be replayed.
    pub replayed: usize,
    /// Classes of the generation.
    pub classes: usize,
    /// Steps.
    pub steps: u64,
    /// Tokens of all steps that the deep path takes part in. Exact where these are all steps, nothing
    /// is replayed, and no budget cuts an epoch.
    pub tokens: u64,
}

/// Seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Of all.
    pub seconds: f64,
    /// Of tokenizer, features and weights, and of the champion's answers.
    pub prepare_s: f64,
    /// Of the steps, checkpoints included.
    pub steps_s: f64,
    /// Of the generation's files.
    pub finish_s: f64,
}

/// Joules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Of all; nothing where the machine has no meter.
    pub joules: Option<f64>,
    /// How it is found: `rapl`, `nvml`, `cpu_time_model` or `none`.
    pub method: String,
}

/// The steps that time and energy were measured on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Real steps of this job, after a few that were not counted.
    pub steps: usize,
    /// Their tokens.
    pub tokens: u64,
    /// What they took.
    pub seconds: f64,
}

/// One line of what was planned beside what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The name, as in a generation's metrics.
    pub what: String,
    /// Before the job.
    pub planned: f64,
    /// After it.
    pub found: f64,
    /// How far off the plan was, as a share of what was found.
    pub off: f64,
}

impl Plan {
    /// Beside what the job measured of itself, and the memory that it came to take, if that is
    /// known. `metrics`: as in [`crate::Trained`].
    #[must_use]
    pub fn beside(&self, metrics: &BTreeMap<String, f64>, memory: Option<u64>) -> Vec<Finding> {
        let planned = [
            ("steps", Some(self.work.steps as f64)),
            ("tokens", Some(self.work.tokens as f64)),
            ("trained_share", Some(self.parameters.trained_share)),
            ("seconds", Some(self.time.seconds)),
            ("tokens_per_s", Some(self.work.tokens as f64 / self.time.seconds.max(1e-9))),
            ("energy_joules", self.energy.joules),
            ("memory_bytes", Some(self.memory.total as f64)),
        ];
        let found = |what: &str| match what {
            "memory_bytes" => memory.map(|bytes| bytes as f64),
            other => metrics.get(other).copied(),
        };
        let finding = |(what, planned): (&str, Option<f64>)| {
            let (planned, found) = (planned?, found(what)?);
            let off = if planned == found { 0.0 } else { planned / found - 1.0 };
            Some(Finding { what: what.to_owned(), planned, found, off })
        };
        planned.into_iter().filter_map(finding).collect()
    }
}

/// Seconds of a step of `tokens` tokens, from steps that were measured: tokens and seconds of each.
/// The least-squares line through them, which tells what each step takes from what each token
/// takes; of no negative slope, and through the origin at the steepest.
pub(crate) fn seconds_of(samples: &[(f64, f64)], tokens: f64) -> f64 {
    let count = (samples.len() as f64).max(1.0);
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (mean_tokens, mean_seconds) = (mean(&|s| s.0), mean(&|s| s.1));
    let covariance = mean(&|s| (s.0 - mean_tokens) * (s.1 - mean_seconds));
    let variance = mean(&|s| (s.0 - mean_tokens).powi(2));
    let steepest = mean_seconds / mean_tokens.max(1.0);
    let slope =
        if variance > 0.0 { (covariance / variance).clamp(0.0, steepest) } else { steepest };
    mean_seconds + slope * (tokens - mean_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_takes_is_told_from_what_a_token_takes() {
        let line: Vec<(f64, f64)> =
            [50.0, 100.0, 150.0, 400.0].map(|tokens| (tokens, 0.3 + 0.002 * tokens)).into();
        assert!((seconds_of(&line, 200.0) - 0.7).abs() < 1e-9);
        // Steps of one length tell nothing apart: all is taken for the tokens'.
        assert!((seconds_of(&[(100.0, 0.5); 3], 200.0) - 1.0).abs() < 1e-9);
        // A longer step that took less is chance.
        assert!((seconds_of(&[(100.0, 0.5), (200.0, 0.4)], 300.0) - 0.45).abs() < 1e-9);
        assert!(seconds_of(&[], 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_plan_is_set_beside_what_was_found_where_anything_was() {
        let none = tidegate_model::Adapters::default();
        let (a, method) = (tidegate_model::Architecture::default(), crate::Method::default());
        let plan = Plan {
            kind: JobKind::ColdStart,
            search: None,
            method: method.to_string(),
            parameters: Parameters::of(&a, 2, &none, &method),
            methods: shares(&a, 2, &none),
            memory: Memory::default(),
            work: Work { steps: 10, tokens: 100, ..Work::default() },
            time: Time { seconds: 3.0, ..Time::default() },
            energy: Energy { joules: None, method: "none".to_owned() },
            probe: Probe::default(),
            ended_by: None,
        };
        let metrics = BTreeMap::from([
            ("steps".to_owned(), 10.0),
            ("seconds".to_owned(), 2.0),
            ("energy_joules".to_owned(), 8.0),
        ]);
        let found = plan.beside(&metrics, None);
        let lines: Vec<(&str, f64)> = found.iter().map(|f| (f.what.as_str(), f.off)).collect();
        assert_eq!(lines, [("steps", 0.0), ("seconds", 0.5)]);
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }
}
