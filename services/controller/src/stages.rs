//! Which stages a candidate goes through between the gate and the champion, and on which terms.
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tidegate_contracts::JobKind;
use tidegate_ledger::{
    Fact, GenerationRecord, STAGE_PROGRESS, Stage, StageOutcome, StageProgress, StageTerms, State,
};

use crate::{
    ControllerError, PolicyConfig,
    desk::Desk,
    policy::{Gate, gate},
};

/// One stage, on live requests. Stages are gone through in the order in which they are listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageConfig {
    /// `shadow`: the candidate is asked beside the champion and nobody sees its answers; `canary`: it
    /// answers a share of the clients.
    pub stage: Stage,
    /// Of requests: those that are mirrored, or of clients: those that the candidate answers.
    pub share: f64,
    /// It passes no earlier.
    #[serde(with = "humantime_serde")]
    pub at_least: Duration,
    /// What is not shown until then leaves the candidate to operators.
    #[serde(with = "humantime_serde")]
    pub at_most: Duration,
    /// Requests that both have answered before it passes.
    pub requests: u64,
    /// Labelled records that both were compared on before it passes; 0 asks for none.
    pub labels: u64,
    /// Loss of accuracy on them that is tolerated, as a share of one.
    pub margin: f64,
    /// The probability with which each of its questions may be answered wrongly.
    pub alpha: f64,
    /// Share of requests that the candidate may fail where the champion answers.
    pub errors: f64,
    /// How many times the champion's time an answer may take, in the median.
    pub latency: f64,
    /// Candidates of these jobs go through it; of all when empty.
    pub kinds: Vec<JobKind>,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            stage: Stage::Shadow,
            share: 0.1,
            at_least: Duration::from_secs(3600),
            at_most: Duration::from_secs(24 * 3600),
            requests: 1_000,
            labels: 0,
            margin: 0.02,
            alpha: 0.01,
            errors: 0.02,
            latency: 2.0,
            kinds: vec![],
        }
    }
}

impl StageConfig {
    fn is_of(&self, kind: JobKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    fn terms(&self, now: DateTime<Utc>) -> StageTerms {
        let after = |time: Duration| {
            let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
            now.checked_add_signed(time).unwrap_or(DateTime::<Utc>::MAX_UTC)
        };
        StageTerms {
            share: self.share,
            earliest: after(self.at_least),
            until: after(self.at_most),
            requests: self.requests,
            labels: self.labels,
            margin: self.margin,
            alpha: self.alpha,
            errors: self.errors,
            latency: self.latency,
        }
    }

    fn wrong(&self) -> Option<(&'static str, String)> {
        let Self { share, margin, alpha, errors, latency, .. } = *self;
        let inside = |value: f64| value > 0.0 && value < 1.0;
        if !(share > 0.0 && share <= 1.0) {
            return Some(("share", format!("is {share}: above 0 and at most 1 is needed")));
        }
        if self.requests == 0 {
            return Some(("requests", "is 0: without requests nothing is shown".to_owned()));
        }
        if self.at_most.is_zero() || self.at_least > self.at_most {
            let (least, most) = (self.at_least, self.at_most);
            let reason = format!("is {most:?}, and it may not pass before {least:?} (at_least)");
            return Some(("at_most", reason));
        }
        if self.terms(Utc::now()).until == DateTime::<Utc>::MAX_UTC {
            return Some(("at_most", "is beyond any date: a day or two are usual".to_owned()));
        }
        for (field, value) in [("alpha", alpha), ("errors", errors)] {
            if !inside(value) {
                return Some((field, format!("is {value}: above 0 and below 1 is needed")));
            }
        }
        if !(0.0..1.0).contains(&margin) {
            return Some(("margin", format!("is {margin}: 0 or more and below 1 is needed")));
        }
        if self.labels > 0 && margin == 0.0 {
            let reason = "is 0: that an equal one loses nothing at all is never shown".to_owned();
            return Some(("margin", reason));
        }
        if !(latency.is_finite() && latency > 0.0) {
            return Some(("latency", format!("is {latency}: a factor above 0 is needed")));
        }
        None
    }
}

/// Checks the list.
pub(crate) fn validate(stages: &[StageConfig]) -> Result<(), ControllerError> {
    for (at, one) in stages.iter().enumerate() {
        let stage = one.stage;
        if let Some((field, reason)) = one.wrong() {
            let reason = format!("[{at}].{field} {reason} ({stage})");
            return Err(ControllerError::config("policy.stages", reason));
        }
        let kinds = crate::view::KINDS;
        let twice = |other: &&StageConfig| {
            other.stage == stage && kinds.iter().any(|&kind| one.is_of(kind) && other.is_of(kind))
        };
        if stages[..at].iter().any(|other| twice(&other)) {
            let reason = format!("[{at}].stage is {stage} again: each job goes through it once");
            return Err(ControllerError::config("policy.stages", reason));
        }
    }
    Ok(())
}

/// Where a candidate that policy would promote stands in its stages; `None` when they are behind it.
pub(crate) enum Tried<'a> {
    /// Is due.
    Due(&'a StageConfig),
    /// Runs until then.
    Runs(Stage, DateTime<Utc>),
    /// Ended, and showed too little.
    Undecided(Stage, &'a str),
}

pub(crate) fn tried<'a>(one: &'a GenerationRecord, policy: &'a PolicyConfig) -> Option<Tried<'a>> {
    // What was begun counts, also when the configuration has changed since.
    for record in &one.stages {
        match &record.ended {
            None => return Some(Tried::Runs(record.stage, record.terms.until)),
            Some(end) if end.outcome == StageOutcome::Passed => {}
            Some(end) => return Some(Tried::Undecided(record.stage, &end.reason)),
        }
    }
    // Nobody to be held against.
    one.verdict.as_ref()?.champion?;
    let due = |stage: &&StageConfig| {
        stage.is_of(one.kind) && one.stages.iter().all(|before| before.stage != stage.stage)
    };
    policy.stages.iter().find(due).map(Tried::Due)
}

/// The stage that is due by itself, if any.
pub(crate) fn due_stage(state: &State, policy: &PolicyConfig, now: DateTime<Utc>) -> Option<Fact> {
    let one = state.candidate()?;
    if !matches!(gate(state, one, policy, now), Gate::Staged { until: None, .. }) {
        return None;
    }
    let Some(Tried::Due(stage)) = tried(one, policy) else { return None };
    let verdict = one.verdict.as_ref()?;
    Some(Fact::StageStarted {
        generation: one.id,
        champion: verdict.champion?,
        verdict: verdict.id,
        stage: stage.stage,
        terms: stage.terms(now),
        seal: None,
    })
}

impl Desk {
    /// What the stage that `one` is in has seen, as the evaluator keeps it; `None`, with a log line, when it
    /// cannot be had.
    pub(crate) async fn stage_progress(&self, one: &GenerationRecord) -> Option<StageProgress> {
        let running = one.stages.last().filter(|stage| stage.ended.is_none())?;
        let kept = self.ledger.get_state(STAGE_PROGRESS).await;
        let kept = kept.inspect_err(|error| tracing::warn!(%error, "a stage is shown as it began"));
        let kept = serde_json::from_slice::<StageProgress>(&kept.ok()??).ok()?;
        Some(kept).filter(|kept| kept.generation == one.id && kept.stage == running.stage)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(stages: serde_json::Value) -> Result<(), String> {
        let stages: Vec<StageConfig> =
            serde_json::from_value(stages).map_err(|error| error.to_string())?;
        validate(&stages).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_stage_is_named_with_its_field() {
        check(json!([{"stage": "shadow"}, {"stage": "canary", "share": 0.05}])).unwrap();
        let split = json!([
            {"stage": "canary", "kinds": ["hot_update"]}, {"stage": "canary", "kinds": ["transfer"]}
        ]);
        check(split).unwrap();
        for (wrong, said) in [
            (json!([{"stage": "mirror"}]), "unknown variant `mirror`"),
            (json!([{"stage": "shadow", "shares": 1}]), "shares"),
            (json!([{"share": 0.0}]), "policy.stages [0].share is 0"),
            (json!([{}, {"stage": "canary", "errors": 0.0}]), "[1].errors is 0"),
            (json!([{"at_least": "2h", "at_most": "1h"}]), "[0].at_most"),
            (json!([{"at_most": "500000years"}]), "beyond any date"),
            (json!([{"requests": 0}]), "[0].requests"),
            (json!([{"labels": 10, "margin": 0.0}]), "[0].margin"),
            (json!([{"latency": -1.0}]), "[0].latency"),
            (json!([{}, {"kinds": ["transfer"]}]), "[1].stage is shadow again"),
        ] {
            let error = check(wrong.clone()).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
