//! What a verdict leads to. Pure: state in, decision out.
use chrono::{DateTime, Utc};
use tidegate_contracts::{GenerationId, JobKind, Outcome};
use tidegate_ledger::{Fact, GenerationRecord, GenerationState, PromotedBy, Refusal, State};

use crate::PolicyConfig;

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
    /// Operators decide.
    Asks { given: usize, needed: usize, why: Asks },
}

/// Why operators decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Verdict,
    Policy(JobKind),
}

/// Where `one` stands at `now`.
pub(crate) fn gate(
    state: &State,
    one: &GenerationRecord,
    policy: &PolicyConfig,
    now: DateTime<Utc>,
) -> Gate {
    if !matches!(one.state, GenerationState::Candidate | GenerationState::NeedsApproval) {
        return Gate::Settled(one.state);
    }
    let Some(verdict) = &one.verdict else { return Gate::Unjudged };
    if verdict.champion != state.champion() {
        return Gate::Stale { judged: verdict.champion, present: state.champion() };
    }
    let why = match verdict.outcome {
        // The ledger's fold settles these; never open, even if it did not.
        Outcome::Blocked => return Gate::Settled(GenerationState::Blocked),
        Outcome::NeedsApproval => Asks::Verdict,
        Outcome::AutoPromote if policy.auto_promote.of(one.kind) => return Gate::Open,
        Outcome::AutoPromote => Asks::Policy(one.kind),
    };
    let needed = policy.approvals.of(one.kind);
    Gate::Asks { given: one.approvals_in_force(now).len(), needed, why }
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
            Self::Asks { given, needed, why } => {
                let why = match why {
                    Asks::Verdict => "the verdict asks for approval".to_owned(),
                    Asks::Policy(kind) => format!("policy asks for approval of every {kind}"),
                };
                if given < needed {
                    format!("{why}: {given} of {needed} given, {} more needed", needed - given)
                } else {
                    format!("{why}: {given} of {needed} given, that is enough")
                }
            }
        }
    }

    /// Whether operators may still say yes or no.
    pub(crate) fn is_open_to_decisions(&self) -> bool {
        matches!(self, Self::Open | Self::Asks { .. } | Self::Stale { .. } | Self::Unjudged)
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
        Gate::Asks { given, needed, .. } if given >= needed => PromotedBy::Approval,
        _ => {
            let words = gate.words();
            return Err(Refusal(format!("{} is not promoted: {words}", id.short())));
        }
    };
    let Some(verdict) = &one.verdict else {
        return Err(Refusal(format!("{} has no verdict", id.short())));
    };
    Ok(Fact::Promoted { generation: *id, previous: state.champion(), verdict: verdict.id, by })
}

/// The promotion that is due by itself, if any.
pub(crate) fn due_promotion(
    state: &State,
    policy: &PolicyConfig,
    now: DateTime<Utc>,
) -> Option<Fact> {
    promote(state, &state.candidate()?.id, policy, now).ok()
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
        let reasons = one.verdict.as_ref().map(|verdict| verdict.reasons.join("; "));
        format!("blocked: {}", reasons.unwrap_or_default())
    };
    Some(Fact::WindowQuarantined { generation: one.id, window: one.window.clone(), reason })
}

/// The rollback that is due by itself: the evaluator has found harm in the champion, and policy does
/// not leave that to operators.
pub(crate) fn due_rollback(state: &State, policy: &PolicyConfig) -> Option<Fact> {
    let one = state.generation(&state.champion()?)?;
    let harm = one.harm.as_ref().filter(|_| policy.rollback_on_harm)?;
    let to = state.earlier_champion()?;
    Some(Fact::RolledBack { to, from: one.id, reason: format!("harm: {harm}") })
}
