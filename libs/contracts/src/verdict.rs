//! What a suite found, with all its evidence. Written by the evaluator, read by the controller
//! (policy, dashboard) and the gateway (golden outputs).
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    ArtifactHash, Class, Domain, EventId, FrozenUse, GenerationId, GramsCo2e, JobId, JobKind,
    Joules, LineEvidence, Part, Window,
};

/// What the evaluator concludes. It has no right to promote: the controller applies policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every blocking check passed.
    AutoPromote,
    /// Something was inconclusive or asks for review.
    NeedsApproval,
    /// A blocking check failed, or could not be run.
    Blocked,
}

impl Outcome {
    /// `auto_promote`, `needs_approval` or `blocked`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AutoPromote => "auto_promote",
            Self::NeedsApproval => "needs_approval",
            Self::Blocked => "blocked",
        }
    }
}

/// The six layers of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Accuracy, F1, calibration.
    Quality,
    /// The same under perturbation.
    Robustness,
    /// Gaps between groups.
    Fairness,
    /// Latency and throughput.
    Efficiency,
    /// Energy and carbon.
    Cost,
    /// What is still known of earlier windows.
    Retention,
}

impl Layer {
    /// In the order they are shown.
    pub const ALL: [Self; 6] = [
        Self::Quality,
        Self::Robustness,
        Self::Fairness,
        Self::Efficiency,
        Self::Cost,
        Self::Retention,
    ];

    /// The layer's name in suites, metrics and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quality => "quality",
            Self::Robustness => "robustness",
            Self::Fairness => "fairness",
            Self::Efficiency => "efficiency",
            Self::Cost => "cost",
            Self::Retention => "retention",
        }
    }
}

/// What a check that does not pass does to the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Fail blocks; inconclusive needs approval.
    Block,
    /// Fail or error needs approval; inconclusive is only said.
    Review,
    /// Only said.
    Warn,
}

/// What one check found. Silence is never `Pass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// The interval lies inside the bound.
    Pass,
    /// The interval lies outside the bound.
    Fail,
    /// The interval crosses the bound.
    Inconclusive,
    /// Too few examples to say anything.
    Insufficient,
    /// It could not be measured.
    Error,
    /// There is no champion to compare with, so a relative bound says nothing.
    NotApplicable,
}

impl CheckState {
    /// The state's name in documents and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Insufficient => "insufficient",
            Self::Error => "error",
            Self::NotApplicable => "not_applicable",
        }
    }
}

/// What the slice of a failed check begins with that is about one producer; its name follows.
pub const PRODUCER_SLICE: &str = "producer=";

/// The check that no judged example was also learnt from; every suite has it.
pub const NO_LEAK: &str = "no-leak";

/// One check, with its number, interval, bound, sample size and reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The check's id in the suite.
    pub id: String,
    /// Its layer.
    pub layer: Layer,
    /// What was measured, e.g. `accuracy`.
    pub metric: String,
    /// The suite's frozen data that it asked; held-out examples of the stream when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// On which examples, e.g. `overall`, `earlier`, `format=html`, `past-2026q3: overall`.
    pub slice: String,
    /// What happens when it does not pass.
    pub severity: Severity,
    /// What it found.
    pub state: CheckState,
    /// The candidate's value.
    pub candidate: Option<f64>,
    /// The champion's value on the same examples.
    pub baseline: Option<f64>,
    /// The interval the decision rests on: of the candidate's value for an absolute bound, of the
    /// paired difference for a relative one.
    pub interval: Option<(f64, f64)>,
    /// The interval's confidence level, e.g. 0.95.
    pub level: f64,
    /// How the interval was made, e.g. `wilson`, `newcombe_paired`, `bootstrap_bca`.
    pub method: String,
    /// Examples it rests on.
    pub n: u64,
    /// Of a check that failed: how probable that would be by chance, so many checks being made at once
    /// (Holm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// The rule in words, e.g. `L(candidate - champion) > -0.03`.
    pub rule: String,
    /// What happened, in words, with the numbers.
    pub reason: String,
}

/// Which suite, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteRef {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Hash of its text.
    pub digest: ArtifactHash,
    /// What it judges, as its author says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
}

/// What was judged on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataEvidence {
    /// Held-out examples of windows before the candidate's.
    pub earlier: u64,
    /// Held-out examples of the candidate's own window.
    pub fresh: u64,
    /// Hash over ids, inputs and labels, in order.
    pub digest: ArtifactHash,
    /// The curated window they were read from.
    pub window: Window,
    /// Of the held-out examples, how many the candidate was also trained on, by id or by content. Must
    /// be 0.
    pub leaked: u64,
}

/// Energy with the method that found it; figures of different methods are never compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnergyEvidence {
    /// `rapl`, `nvml`, `cpu_time_model` or `none`.
    pub method: String,
    /// `None` when unknown; never 0 for unknown.
    pub joules: Option<Joules>,
    /// At `region`'s intensity.
    pub gco2e: Option<GramsCo2e>,
    /// The grid the carbon figure assumes.
    pub region: String,
}

/// An input with the candidate's answer: a gateway compares its own answer before it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// The text that was asked; empty where there are parts.
    pub text: String,
    /// All parts that were asked, where they are more than a text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// One per class, in the manifest's order.
    pub probabilities: Vec<f32>,
}

/// What makes a slice of the held-out examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceKind {
    /// Nothing: all of them.
    All,
    /// Of the candidate's window, or of one before.
    Age,
    /// One label.
    Class,
    /// One domain.
    Domain,
    /// One value of a group attribute.
    Group,
    /// One value of each of two group attributes.
    Groups,
}

/// Both models on a slice of the held-out examples. It informs: only checks decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceResult {
    /// What makes it.
    pub kind: SliceKind,
    /// Its name: `overall`, `earlier`, `fresh`, `class=spam`, `format=html, origin=list`.
    pub slice: String,
    /// Examples in it.
    pub n: u64,
    /// `accuracy`, or of numbers `mae`, the mean absolute error.
    pub metric: String,
    /// The candidate's value.
    pub candidate: f64,
    /// The champion's value on the same examples.
    pub champion: Option<f64>,
    /// Of the paired difference, candidate less champion; without a champion of the candidate's
    /// value.
    pub interval: Option<(f64, f64)>,
    /// The interval's confidence level.
    pub level: f64,
    /// How it was made: `newcombe_paired`, `wilson`, or of numbers `paired_t` and `t`.
    pub method: String,
}

/// What a model said of one example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The likeliest class, or the number.
    pub answer: Class,
    /// The probability of that class; numbers have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sure: Option<f64>,
}

/// A held-out example that one model gets right and the other wrong; of numbers, one that they
/// are differently far off on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The event.
    pub id: EventId,
    /// Where it comes from.
    pub domain: Domain,
    /// What is right.
    pub label: Class,
    /// Of the candidate's own window.
    pub fresh: bool,
    /// Whether the candidate is the one that is wrong, or further off.
    pub worse: bool,
    /// What the candidate says.
    pub candidate: ModelAnswer,
    /// What the champion says.
    pub champion: ModelAnswer,
    /// The beginning of its text, at most 160 characters; parts that are no text by their kind.
    pub excerpt: String,
}

/// The whole document. Stored by hash; the ledger names the hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Version of this format; 1.
    pub format: u32,
    /// Who was judged.
    pub generation: GenerationId,
    /// Against whom.
    pub champion: Option<GenerationId>,
    /// The job that made it.
    pub job: JobId,
    /// The kind of that job.
    pub kind: JobKind,
    /// By which suite.
    pub suite: SuiteRef,
    /// When.
    pub issued: DateTime<Utc>,
    /// Seed of every random choice of the evaluation.
    pub seed: u64,
    /// The conclusion.
    pub outcome: Outcome,
    /// Why, the worst first, in words.
    pub reasons: Vec<String>,
    /// Every check.
    pub checks: Vec<CheckResult>,
    /// Quality slice by slice, the largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<SliceResult>,
    /// Examples on which the two models differ most, those that got worse first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Changed>,
    /// What it was judged on.
    pub data: DataEvidence,
    /// The suite's frozen data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<FrozenUse>,
    /// What the error budget of the line of candidates says of this one; absent without a champion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LineEvidence>,
    /// What the evaluation itself used.
    pub energy: EnergyEvidence,
    /// Seconds the evaluation took.
    pub seconds: f64,
    /// The machine and the code, as name and value.
    pub environment: std::collections::BTreeMap<String, String>,
    /// Inputs with the candidate's answers.
    pub golden: Vec<Golden>,
}

impl Verdict {
    /// The checks that an override of this verdict must waive: of those that block, all that did not
    /// pass. `None` where nothing may be waived: it does not block, it refuses for another reason than
    /// a check (a missing file, an altered byte), examples leaked, or a check could not be measured.
    #[must_use]
    pub fn waivable(&self) -> Option<Vec<String>> {
        use CheckState::{Error, Fail, Inconclusive, Insufficient};
        if self.outcome != Outcome::Blocked || self.data.leaked > 0 {
            return None;
        }
        let unmet = |check: &&CheckResult| {
            let open = matches!(check.state, Fail | Error | Inconclusive | Insufficient);
            check.severity == Severity::Block && open
        };
        let unmet: Vec<&CheckResult> = self.checks.iter().filter(unmet).collect();
        let sacred = |check: &&CheckResult| check.state == Error || check.id == NO_LEAK;
        if unmet.is_empty() || unmet.iter().any(sacred) {
            return None;
        }
        Some(unmet.iter().map(|check| check.id.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_from_before_slices_is_read_and_says_nothing_of_them() {
        let hash = ArtifactHash::of(b"x");
        let old = serde_json::json!({
            "format": 1, "generation": hash.to_hex(), "champion": null, "job": "j",
            "kind": "cold_start",
            "suite": { "name": "s", "version": "1", "digest": hash.to_hex() },
            "issued": "2026-01-01T00:00:00Z", "seed": 1, "outcome": "blocked", "reasons": ["r"],
            "checks": [],
            "data": { "earlier": 0, "fresh": 0, "digest": hash.to_hex(),
                      "window": { "topic": "t", "ranges": {} }, "leaked": 0 },
            "energy": { "method": "none", "joules": null, "gco2e": null, "region": "WORLD" },
            "seconds": 0.0, "environment": {}, "golden": [],
        });
        let read: Verdict = serde_json::from_value(old.clone()).unwrap();
        assert!(read.slices.is_empty() && read.changed.is_empty() && read.suite.about.is_empty());
        assert!(read.frozen.is_empty() && read.line.is_none());
        assert_eq!(serde_json::to_value(&read).unwrap(), old);
    }
}
