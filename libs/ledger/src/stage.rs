//! Stages between the gate and the champion: a candidate that passed is tried on live requests first.
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, GenerationId, Outcome};

use crate::{GenerationRecord, GenerationState, Refusal, State, state::refuse};

/// Under which the evaluator keeps the [`StageEvidence`] of the stage that runs, as JSON
/// ([`StageProgress`]), and whoever shows it finds it.
pub const STAGE_PROGRESS: &str = "stage/progress";

/// How a candidate is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is asked beside the champion, and nobody sees its answers.
    Shadow,
    /// It answers a share of the clients.
    Canary,
}

impl Stage {
    /// `shadow` or `canary`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        }
    }

    /// What an override waives of a candidate that this stage found harmful.
    #[must_use]
    pub fn waiver(self) -> String {
        format!("stage.{}", self.as_str())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageOutcome {
    /// The next stage, or the promotion, may follow.
    Passed,
    /// The candidate is worse than its terms let it be, beyond doubt.
    Harmful,
    /// Its time was over before either was shown: operators decide.
    Undecided,
}

impl StageOutcome {
    /// `passed`, `harmful` or `undecided`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Harmful => "harmful",
            Self::Undecided => "undecided",
        }
    }
}

/// What a stage asks before it ends. Fixed when it starts, so that who measures and who decided need
/// share no configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTerms {
    /// Of requests: those that are mirrored (shadow), or whose clients the candidate answers (canary).
    pub share: f64,
    /// It passes no earlier.
    pub earliest: DateTime<Utc>,
    /// It ends here, whatever is known.
    pub until: DateTime<Utc>,
    /// Requests that both have answered, at least.
    pub requests: u64,
    /// Labelled records that both were compared on, at least; with 0, none are needed to pass.
    pub labels: u64,
    /// Loss of accuracy that is tolerated, as a share of one.
    pub margin: f64,
    /// Probability with which a stage may end wrongly, for each of its questions.
    pub alpha: f64,
    /// Share of requests that the candidate may fail.
    pub errors: f64,
    /// How many times the champion's time an answer may take, in the median.
    pub latency: f64,
}

/// What both generations answered so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageEvidence {
    /// Requests that both were asked.
    pub requests: u64,
    /// Of these, the ones that the candidate failed and the champion answered.
    pub errors: u64,
    /// Of those that both answered, the ones with the same answer.
    pub agreed: u64,
    /// Of those that both answered, the ones that took the candidate longer than is tolerated.
    pub slow: u64,
    /// Labelled records that both were compared on.
    pub labels: u64,
    /// Of these, the ones that the candidate alone is right on.
    pub better: u64,
    /// Of these, the ones that the champion alone is right on.
    pub worse: u64,
    /// Logarithm of the evidence that the candidate loses more than the margin.
    pub log_harm: f64,
    /// Logarithm of the evidence that it loses less than the margin.
    pub log_pass: f64,
    /// Jensen and Shannon's distance between what the two answer: 0 where they give each label equally
    /// often, 1 where they share none.
    pub drift: f64,
}

/// The evidence of a stage that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageProgress {
    /// The candidate.
    pub generation: GenerationId,
    /// The stage.
    pub stage: Stage,
    /// So far.
    pub evidence: StageEvidence,
    /// What it waits for, in words.
    pub waits: Vec<String>,
}

/// A stage, folded.
#[derive(Debug, Clone, PartialEq)]
pub struct StageRecord {
    /// Which.
    pub stage: Stage,
    /// Beside whom.
    pub champion: GenerationId,
    /// On which terms.
    pub terms: StageTerms,
    /// When.
    pub started_at: DateTime<Utc>,
    /// How it ended, once it has.
    pub ended: Option<StageEnd>,
}

/// How a stage ended, folded.
#[derive(Debug, Clone, PartialEq)]
pub struct StageEnd {
    /// The conclusion.
    pub outcome: StageOutcome,
    /// What it rests on.
    pub evidence: StageEvidence,
    /// In words.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl GenerationRecord {
    /// The stage that found harm.
    #[must_use]
    pub fn harmful_stage(&self) -> Option<(&StageRecord, &StageEnd)> {
        let mut ended = self.stages.iter().filter_map(|one| Some((one, one.ended.as_ref()?)));
        ended.find(|(_, end)| end.outcome == StageOutcome::Harmful)
    }

    /// What an override of this one must waive: the checks that its verdict names, or the stage that
    /// found harm. `None` where nobody may override.
    #[must_use]
    pub fn waivable(&self) -> Option<Vec<String>> {
        match self.harmful_stage() {
            Some((stage, _)) => Some(vec![stage.stage.waiver()]),
            None => self.verdict.as_ref()?.waivable.clone(),
        }
    }

    /// Why it is blocked, the worst first.
    #[must_use]
    pub fn blocked_by(&self) -> Vec<String> {
        match self.harmful_stage() {
            Some((stage, end)) => vec![format!("{}: {}", stage.stage, end.reason)],
            None => self.verdict.as_ref().map(|one| one.reasons.clone()).unwrap_or_default(),
        }
    }
}

impl State {
    /// The candidate that is tried now, and how. Nobody once the champion has changed, or an operator has
    /// said no.
    #[must_use]
    pub fn staged(&self) -> Option<(&GenerationRecord, &StageRecord)> {
        let one = self.candidate().filter(|one| one.state == GenerationState::Candidate)?;
        let last = one.stages.last()?;
        let runs = last.ended.is_none() && Some(last.champion) == self.champion();
        runs.then_some((one, last))
    }

    /// Only what policy could promote at once is tried, one at a time, each stage once and after the
    /// ones before it.
    pub(crate) fn check_stage_start(
        &self,
        generation: &GenerationId,
        champion: &GenerationId,
        verdict: &ArtifactHash,
        stage: Stage,
        terms: &StageTerms,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let (one, name) = (self.open_generation(generation)?, generation.short());
        let Some(standing) = one.verdict.as_ref().filter(|standing| standing.id == *verdict) else {
            return refuse(format!("{name} does not stand under this verdict: it is not staged"));
        };
        if Some(*champion) != self.champion() || standing.champion != self.champion() {
            return refuse(format!(
                "{name} is staged beside the champion that it was judged against, or not at all"
            ));
        }
        if one.state != GenerationState::Candidate || standing.outcome != Outcome::AutoPromote {
            return refuse(format!(
                "{name} is not staged: its verdict would not let it be promoted"
            ));
        }
        if let Some((other, running)) = self.staged() {
            let (other, running) = (other.id.short(), running.stage);
            return refuse(format!("{other} is in {running}: one candidate is staged at a time"));
        }
        if one.stages.iter().any(|before| before.stage == stage) {
            return refuse(format!("{name} was in {stage} before: a stage is not repeated"));
        }
        let passed = |one: &StageRecord| {
            one.ended.as_ref().is_some_and(|end| end.outcome == StageOutcome::Passed)
        };
        if let Some(open) = one.stages.iter().find(|before| !passed(before)) {
            return refuse(format!("{name} has not passed {}", open.stage));
        }
        terms.check(now)
    }

    /// A stage passes only when it has seen what its terms ask.
    pub(crate) fn check_stage_end(
        &self,
        generation: &GenerationId,
        stage: Stage,
        outcome: StageOutcome,
        evidence: &StageEvidence,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let name = generation.short();
        let Some((_, running)) =
            self.staged().filter(|(one, running)| one.id == *generation && running.stage == stage)
        else {
            return refuse(format!("{name} is not in {stage}: there is nothing to end"));
        };
        let terms = &running.terms;
        let seen = now >= terms.earliest
            && evidence.requests >= terms.requests
            && evidence.labels >= terms.labels;
        if outcome == StageOutcome::Passed && !seen {
            return refuse(format!("{name} has not seen in {stage} what its terms ask for"));
        }
        Ok(())
    }
}

impl StageTerms {
    fn check(&self, now: DateTime<Utc>) -> Result<(), Refusal> {
        let share = |value: f64| value > 0.0 && value < 1.0;
        if !(self.share > 0.0 && self.share <= 1.0) {
            return refuse(format!("a stage takes a share of requests, not {}", self.share));
        }
        if self.until <= now || self.earliest > self.until {
            return refuse("a stage ends in the future, and not before it may pass");
        }
        let fit = share(self.alpha)
            && share(self.errors)
            && (0.0..1.0).contains(&self.margin)
            && self.latency > 0.0
            && self.requests > 0;
        if fit { Ok(()) } else { refuse("the terms of this stage can never be met") }
    }
}
