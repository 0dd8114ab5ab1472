//! What a verdict leads to. Pure: state in, decision out.
use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{
    CheckResult, CheckState, GenerationId, JobKind, Outcome, PRODUCER_SLICE, Producer, Verdict,
};
use tidegate_ledger::{
    Fact, GenerationRecord, GenerationState, PromotedBy, Refusal, Stage, State, VerdictRecord,
};

use crate::{
    PolicyConfig,
    config::{CheckpointConfig, ErrorBudget},
    stages::{Tried, tried},
};

/// Where a generation stands before the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Promoted, superseded or decided against.
    Settled(GenerationState),
    /// The evaluator has not judged it.
    Unjudged,
    /// It was judged against another champion than the present one.
    Stale { judged: Option<GenerationId>, present: Option<GenerationId> },
    /// Policy lets it through.
    Open,
    /// It is tried on live requests first; `until` is absent before the stage has begun. Enough
    /// approvals promote it at once.
    Staged { stage: Stage, until: Option<DateTime<Utc>>, given: usize, needed: usize },
    /// Operators decide.
    Asks { given: usize, needed: usize, why: Asks },
    /// Blocked, and operators may override it.
    Overridable { given: usize, needed: usize, waivable: Vec<String> },
}

/// Why operators decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asks {
    Verdict,
    Policy(JobKind),
    /// A stage ended and showed too little.
    Stage(Stage, String),
    /// It was judged by another suite than the champion.
    Suite {
        now: String,
        before: String,
    },
    /// The error budget of the line of candidates asks for more evidence.
    Line(String),
}

/// Why operators decide about a verdict that does not block; `None` where policy lets it through.
pub(crate) fn asks(
    state: &State,
    kind: JobKind,
    verdict: &VerdictRecord,
    policy: &PolicyConfig,
) -> Option<Asks> {
    if verdict.outcome == Outcome::NeedsApproval {
        return Some(Asks::Verdict);
    }
    if !policy.auto_promote.of(kind) {
        return Some(Asks::Policy(kind));
    }
    suite_changed(state, verdict, policy).or_else(|| more_evidence(verdict, policy))
}

fn suite_changed(state: &State, verdict: &VerdictRecord, policy: &PolicyConfig) -> Option<Asks> {
    let champion = verdict.champion.and_then(|id| state.generation(&id));
    let before = champion.and_then(|one| one.verdict.as_ref())?;
    let changed = before.digest.is_some() && before.digest != verdict.digest;
    (policy.approve_suite_changes && changed).then(|| {
        let name = |of: &VerdictRecord| {
            let digest = of.digest.map(|digest| digest.short()).unwrap_or_default();
            format!("{} ({digest})", of.suite)
        };
        Asks::Suite { now: name(verdict), before: name(before) }
    })
}

/// Of a verdict beside a champion.
fn more_evidence(verdict: &VerdictRecord, policy: &PolicyConfig) -> Option<Asks> {
    if policy.error_budget == ErrorBudget::Report || verdict.champion.is_none() {
        return None;
    }
    match &verdict.line {
        Some(line) if line.holds => None,
        Some(line) => Some(Asks::Line(line.says.clone())),
        None => Some(Asks::Line("its verdict is from before there was one".to_owned())),
    }
}

/// Approvals of `one` that count at `now`, by policy.
fn given(one: &GenerationRecord, policy: &PolicyConfig, now: DateTime<Utc>) -> usize {
    let in_force = one.approvals_in_force(now);
    in_force.iter().filter(|given| given.own_key || !policy.own_keys).count()
}

/// Where `one` stands at `now`.
pub(crate) fn gate(
    state: &State,
    one: &GenerationRecord,
    policy: &PolicyConfig,
    now: DateTime<Utc>,
) -> Gate {
    let waivable = one.waivable();
    match (one.state, waivable) {
        (GenerationState::Candidate | GenerationState::NeedsApproval, _) => {}
        (GenerationState::Blocked, Some(waivable)) => {
            let judged = one.verdict.as_ref().and_then(|verdict| verdict.champion);
            if judged != state.champion() {
                return Gate::Settled(one.state);
            }
            let needed = policy.approvals.r#override as usize;
            return Gate::Overridable { given: given(one, policy, now), needed, waivable };
        }
        _ => return Gate::Settled(one.state),
    }
    let Some(verdict) = &one.verdict else { return Gate::Unjudged };
    if verdict.champion != state.champion() {
        return Gate::Stale { judged: verdict.champion, present: state.champion() };
    }
    // The ledger's fold settles these; never open, even if it did not.
    if verdict.outcome == Outcome::Blocked {
        return Gate::Settled(GenerationState::Blocked);
    }
    let (given, needed) = (given(one, policy, now), policy.approvals.of(one.kind));
    let why = match asks(state, one.kind, verdict, policy) {
        Some(why) => why,
        None => match tried(one, policy) {
            None => return Gate::Open,
            Some(Tried::Due(due)) => {
                return Gate::Staged { stage: due.stage, until: None, given, needed };
            }
            Some(Tried::Runs(stage, until)) => {
                return Gate::Staged { stage, until: Some(until), given, needed };
            }
            Some(Tried::Undecided(stage, why)) => Asks::Stage(stage, why.to_owned()),
        },
    };
    Gate::Asks { given, needed, why }
}

impl Asks {
    /// The same in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Verdict => "the verdict asks for approval".to_owned(),
            Self::Policy(kind) => format!("policy asks for approval of every {kind}"),
            Self::Stage(stage, why) => format!("undecided in {stage}: {why}"),
            Self::Suite { now, before } => format!(
                "it was judged by suite {now} and the champion by {before}: policy asks for approval \
                 when the suite has changed"
            ),
            Self::Line(says) => {
                format!("policy keeps the error budget of the line of candidates ({says})")
            }
        }
    }
}

fn name(id: Option<GenerationId>) -> String {
    id.map_or_else(|| "no champion".to_owned(), |id| id.short())
}

impl Gate {
    /// The same in words, with what to do.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Settled(GenerationState::Blocked) => {
                "blocked by its verdict: there is no way around it, the next job makes another"
                    .to_owned()
            }
            Self::Settled(GenerationState::Champion) => "it is the champion".to_owned(),
            Self::Settled(GenerationState::Rejected) => {
                "rejected by an operator: the next job makes another".to_owned()
            }
            Self::Settled(GenerationState::RolledBack) => "it was rolled back from".to_owned(),
            Self::Settled(state) => {
                format!("{}: a newer generation has taken its place", state.as_str())
            }
            Self::Unjudged => {
                "waits for the evaluator's verdict: nothing is promoted unjudged".into()
            }
            Self::Stale { judged, present } => format!(
                "stale: it was judged against {}, and now {} serves; the next job covers its window",
                name(*judged),
                name(*present)
            ),
            Self::Open => "every blocking check passed, and policy promotes such candidates".into(),
            Self::Staged { stage, until: None, .. } => {
                format!("every blocking check passed: {stage} is next, before policy promotes it")
            }
            Self::Staged { stage, until: Some(until), needed, .. } => format!(
                "in {stage} until {} at the latest; {needed} to approve it promote it at once",
                until.format("%Y-%m-%d %H:%M UTC")
            ),
            Self::Asks { given, needed, why } => {
                let why = why.words();
                if given < needed {
                    format!("{why}: {given} of {needed} given, {} more needed", needed - given)
                } else {
                    format!("{why}: {given} of {needed} given, that is enough")
                }
            }
            Self::Overridable { given, needed, waivable } => format!(
                "blocked by its {}: there is no way around it by policy or approval, and the next \
                 job makes another; {needed} people together may override {} ({given} have)",
                if waivable.iter().any(|one| one.starts_with("stage.")) {
                    "stage"
                } else {
                    "verdict"
                },
                waivable.join(", ")
            ),
        }
    }

    /// Whether anything is left for operators to do about it.
    pub(crate) fn is_undecided(&self) -> bool {
        self.is_open_to_decisions()
            || matches!(self, Self::Overridable { .. } | Self::Settled(GenerationState::Blocked))
    }

    /// Whether operators may still say yes or no; what is blocked has its own way.
    pub(crate) fn is_open_to_decisions(&self) -> bool {
        matches!(
            self,
            Self::Open
                | Self::Staged { .. }
                | Self::Asks { .. }
                | Self::Stale { .. }
                | Self::Unjudged
        )
    }
}

/// The choke point: the one way to a promotion, for policy, approvals, CLI, API and dashboard.
/// The ledger checks its invariants again when the fact is written.
///
/// # Errors
/// Says what stands in the way.
pub(crate) fn promote(
    state: &State,
    id: &GenerationId,
    policy: &PolicyConfig,
    now: DateTime<Utc>,
) -> Result<Fact, Refusal> {
    let Some(one) = state.generation(id) else {
        return Err(Refusal(format!("no generation {}", id.short())));
    };
    let gate = gate(state, one, policy, now);
    let by = match &gate {
        Gate::Open => PromotedBy::Policy,
        Gate::Asks { given, needed, .. } | Gate::Staged { given, needed, .. }
            if given >= needed =>
        {
            PromotedBy::Approval
        }
        Gate::Overridable { given, needed, .. } if given >= needed => PromotedBy::Override,
        _ => {
            let words = gate.words();
            return Err(Refusal(format!("{} is not promoted: {words}", id.short())));
        }
    };
    let Some(verdict) = &one.verdict else {
        return Err(Refusal(format!("{} has no verdict", id.short())));
    };
    Ok(Fact::promotion(*id, state.champion(), verdict.id, by))
}

/// The promotion that is due by itself, if any.
pub(crate) fn due_promotion(
    state: &State,
    policy: &PolicyConfig,
    now: DateTime<Utc>,
) -> Option<Fact> {
    let overridden = state.generations().iter().rev().find(|one| {
        let gate = gate(state, one, policy, now);
        matches!(gate, Gate::Overridable { given, needed, .. } if given >= needed)
    });
    let due = overridden.or_else(|| state.candidate())?;
    promote(state, &due.id, policy, now).ok()
}

/// The oldest hot update that was said no to, by its verdict or by an operator, and whose window is
/// not set aside yet.
///
/// Rejected and blocked alike: the next hot update starts where the champion's lineage ends, so a
/// window that is not set aside would be learnt with the day after it, by the back door. The records
/// stay on the stream, and the ledger names them. Only hot updates: the window of a cold start or a transfer is
/// all of history, and setting that aside would take from the next hot update what the champion has
/// not learnt and nobody has said no to.
pub(crate) fn due_quarantine(state: &State) -> Option<Fact> {
    let declined = |one: &&GenerationRecord| {
        let harmed = one.state == GenerationState::RolledBack && one.harm.is_some();
        (harmed || matches!(one.state, GenerationState::Blocked | GenerationState::Rejected))
            && !one.quarantined
            && one.kind == JobKind::HotUpdate
    };
    let one = state.generations().iter().find(declined)?;
    let reason = if let Some(harm) = &one.harm {
        format!("rolled back: {harm}")
    } else if one.state == GenerationState::Rejected {
        "rejected by an operator".to_owned()
    } else {
        format!("blocked: {}", one.blocked_by().join("; "))
    };
    Some(Fact::WindowQuarantined { generation: one.id, window: one.window.clone(), reason })
}

/// Producers whom failed checks of a verdict name, each with what was found, but for those that are
/// set aside and those that somebody has decided about since it was issued.
pub(crate) fn accused(
    state: &State,
    verdict: &Verdict,
    issued: DateTime<Utc>,
) -> Vec<(Producer, String)> {
    let named = |check: &CheckResult| {
        let name = check.slice.strip_prefix(PRODUCER_SLICE)?;
        Some((Producer::from_header(name.as_bytes())?, check.reason.clone()))
    };
    let failed = verdict.checks.iter().filter(|check| check.state == CheckState::Fail);
    let mut all: Vec<(Producer, String)> = failed.filter_map(named).collect();
    all.dedup_by(|a, b| a.0 == b.0);
    let is_settled = |producer: &Producer| {
        state
            .producers()
            .iter()
            .any(|one| one.producer == *producer && (one.released.is_none() || one.since >= issued))
    };
    all.retain(|(producer, _)| !is_settled(producer));
    all
}

/// The checkpoint that is due.
pub(crate) fn due_checkpoint(
    state: &State,
    config: &CheckpointConfig,
    now: DateTime<Utc>,
) -> Option<Fact> {
    let every = TimeDelta::from_std(config.every).unwrap_or(TimeDelta::MAX);
    state.due_checkpoint(config.entries, every, now)
}

/// The rollback that is due by itself: the evaluator has found harm in the champion, and policy does
/// not leave that to operators.
pub(crate) fn due_rollback(state: &State, policy: &PolicyConfig) -> Option<Fact> {
    let one = state.generation(&state.champion()?)?;
    let harm = one.harm.as_ref().filter(|_| policy.rollback_on_harm)?;
    let to = state.earlier_champion()?;
    Some(Fact::RolledBack { to, from: one.id, reason: format!("harm: {harm}"), seal: None })
}
