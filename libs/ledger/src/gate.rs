//! Who may become champion: the invariants of approvals, overrides and promotions.
use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{Actor, ArtifactHash, GenerationId, Outcome};

use crate::{
    GenerationRecord, GenerationState, PromotedBy, Refusal, StageEnd, StageOutcome, State,
    state::refuse,
};

/// Different people who override what is blocked, at least; policy may ask for more.
pub const OVERRIDERS: usize = 2;
/// An override counts no longer than this.
const LONGEST_OVERRIDE: TimeDelta = TimeDelta::days(7);

impl State {
    /// What every approval is bound to.
    pub(crate) fn check_approval(
        &self,
        one: &GenerationRecord,
        verdict: &ArtifactHash,
        expires: DateTime<Utc>,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let name = one.id.short();
        let Some(standing) = &one.verdict else {
            return refuse(format!("{name} has no verdict to approve under yet"));
        };
        if standing.id != *verdict {
            return refuse("the verdict has changed since it was read: read it again");
        }
        if standing.champion != self.champion() {
            return refuse(format!(
                "{name} was judged against another champion than the present one"
            ));
        }
        if expires <= now {
            return refuse("an approval must expire in the future");
        }
        // Nobody approves what they asked for themselves.
        if self.job(&one.job).is_some_and(|job| &job.requested_by == actor) {
            return refuse(format!("{actor} requested this job: another person must approve it"));
        }
        if one.approvals_in_force(now).iter().any(|a| &a.approver == actor) {
            return refuse(format!("{actor} has approved {name} already"));
        }
        Ok(())
    }

    /// An approval waives nothing, of what is not blocked; an override waives exactly what blocks.
    pub(crate) fn check_waivers(
        &self,
        one: &GenerationRecord,
        waives: &[String],
        expires: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let name = one.id.short();
        if waives.is_empty() {
            return self.open_generation(&one.id).map(|_| ());
        }
        if one.state != GenerationState::Blocked {
            let state = one.state.as_str();
            return refuse(format!("{name} is {state}: only what is blocked is overridden"));
        }
        let Some(needed) = one.waivable() else {
            return refuse(format!(
                "{name} cannot be overridden: a leak, an altered or missing file and what could not \
                 be measured are never waived"
            ));
        };
        let (needed_set, given): (BTreeSet<_>, BTreeSet<_>) =
            (needed.iter().collect(), waives.iter().collect());
        if needed_set != given || needed.len() != waives.len() {
            let needed = needed.join(", ");
            return refuse(format!("an override of {name} waives exactly: {needed}"));
        }
        if expires > now + LONGEST_OVERRIDE {
            return refuse("an override expires within 7 days");
        }
        Ok(())
    }

    /// The choke point: no generation becomes champion but through here.
    pub(crate) fn check_promotion(
        &self,
        generation: &GenerationId,
        previous: Option<&GenerationId>,
        verdict: &ArtifactHash,
        by: PromotedBy,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let (one, name) = (self.known(generation)?, generation.short());
        let Some(standing) = &one.verdict else {
            return refuse(format!("{name} has no verdict: nothing is promoted unjudged"));
        };
        if standing.id != *verdict {
            return refuse(format!("{name} stands under another verdict"));
        }
        if previous != self.champion().as_ref() || standing.champion != self.champion() {
            return refuse(format!(
                "{name} was judged against another champion than the present one: it is stale"
            ));
        }
        if standing.digest.is_none() && self.head().seq >= self.keys().unsigned_until {
            return refuse(format!(
                "the verdict on {name} is not signed: the next job makes another"
            ));
        }
        if by == PromotedBy::Override {
            let given = one.approvals_in_force(now).len();
            if one.state != GenerationState::Blocked || given < OVERRIDERS {
                let why = format!("{given} overrides in force, {OVERRIDERS} are needed");
                return refuse(format!("{name} is {}: {why}", one.state.as_str()));
            }
            return Ok(());
        }
        self.open_generation(generation)?;
        let passed =
            |end: Option<&StageEnd>| end.is_some_and(|end| end.outcome == StageOutcome::Passed);
        let open = one.stages.iter().find(|stage| !passed(stage.ended.as_ref()));
        if let (PromotedBy::Policy, Some(open)) = (by, open) {
            return refuse(format!("{name} has not passed {}", open.stage));
        }
        match (by, standing.outcome) {
            (_, Outcome::Blocked) => refuse(format!("{name} is blocked by its verdict")),
            (PromotedBy::Policy, Outcome::NeedsApproval) => {
                refuse(format!("{name} needs an approval: policy alone may not promote it"))
            }
            (PromotedBy::Approval, _) if one.approvals_in_force(now).is_empty() => {
                refuse(format!("{name} has no approval in force"))
            }
            _ => Ok(()),
        }
    }
}
