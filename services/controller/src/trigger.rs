//! Which job is asked for next, and why. Pure: state and counts in, request out.
use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{JobKind, Window};
use tidegate_ledger::{JobRecord, JobState, Refusal, State};

use crate::{
    ControllerConfig,
    policy::{self, Gate},
    schedule::Schedule,
    tally::Tally,
};

/// After a failed job, so long before the next automatic one; doubled with each failure.
const AFTER_FAILURE: TimeDelta = TimeDelta::seconds(30);

/// A job to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: JobKind,
    pub(crate) actor: &'static str,
    pub(crate) reason: String,
}

/// All that the decision rests on.
pub(crate) struct Look<'a> {
    pub(crate) state: &'a State,
    pub(crate) tally: &'a Tally,
    pub(crate) config: &'a ControllerConfig,
    pub(crate) schedule: &'a Schedule,
    pub(crate) now: DateTime<Utc>,
}

/// Requested or running.
pub(crate) fn is_open(job: &JobRecord) -> bool {
    matches!(job.state, JobState::Requested | JobState::Running)
}

/// A job of this kind that is requested or running.
pub(crate) fn active(state: &State, kind: JobKind) -> Option<&JobRecord> {
    state.jobs().iter().find(|job| job.kind == kind && is_open(job))
}

impl Look<'_> {
    /// The next automatic job, if one is due.
    pub(crate) fn next(&self) -> Option<Request> {
        if self.is_held() {
            return None;
        }
        if self.state.champion().is_none() {
            return self.bootstrap();
        }
        self.lag()
            .or_else(|| self.cron(JobKind::HotUpdate))
            .or_else(|| self.cron(JobKind::ColdStart))
    }

    /// A candidate under judgement, or about to be promoted, must not be superseded by a newer one
    /// time and again; one that is being read by an operator not at once.
    fn is_held(&self) -> bool {
        let Some(candidate) = self.state.candidate() else { return false };
        match policy::gate(self.state, candidate, &self.config.policy, self.now) {
            Gate::Unjudged | Gate::Open | Gate::Staged { .. } => true,
            Gate::Asks { given, .. } => {
                let hold = i64::try_from(self.config.lag_trigger.hold_s).unwrap_or(i64::MAX);
                let issued = candidate.verdict.as_ref().map(|verdict| verdict.issued_at);
                let ended =
                    candidate.stages.iter().filter_map(|stage| Some(stage.ended.as_ref()?.at));
                let waited = issued.into_iter().chain(ended).max();
                let waited = waited.map(|at| (self.now - at).num_seconds());
                given > 0 || waited.is_none_or(|waited| waited < hold)
            }
            Gate::Settled(_) | Gate::Stale { .. } | Gate::Overridable { .. } => false,
        }
    }

    fn bootstrap(&self) -> Option<Request> {
        let any = self.state.next_job().is_some();
        let (total, needed) = (self.tally.total(), self.config.bootstrap.min_labelled);
        if any || total < needed || !self.may_start(JobKind::ColdStart) {
            return None;
        }
        // What was said no to, or waits for a yes, is asked for again only with half as much more.
        let before = self.state.generations().last();
        if before.is_some_and(|one| !self.tally.has_outgrown(&one.window)) {
            return None;
        }
        let reason =
            format!("no champion, and {total} labelled records are there ({needed} needed)");
        Some(Request { kind: JobKind::ColdStart, actor: "controller", reason })
    }

    fn lag(&self) -> Option<Request> {
        let lag = &self.config.lag_trigger;
        if !self.may_start(JobKind::HotUpdate) {
            return None;
        }
        let considered = self.state.considered_up_to();
        let waiting = self.tally.since(&considered);
        let reason = if waiting >= lag.records {
            format!("{waiting} labelled records wait ({} are enough)", lag.records)
        } else {
            let limit = i64::try_from(lag.max_wait_s?).unwrap_or(i64::MAX);
            let oldest = self.tally.oldest_since(&considered)?;
            let waited = (self.now - oldest).num_seconds();
            if waiting < lag.min_records || waited < limit {
                return None;
            }
            format!("{waiting} labelled records wait, the oldest for {waited} s (at most {limit})")
        };
        Some(Request { kind: JobKind::HotUpdate, actor: "controller", reason })
    }

    fn cron(&self, kind: JobKind) -> Option<Request> {
        let state = self.state;
        // A hot update with nothing new would fail; the time passes.
        let has_data = match kind {
            JobKind::HotUpdate => self.tally.since(&state.learnt_up_to()) > 0,
            _ => self.tally.total() > 0,
        };
        if !has_data || !self.may_start(kind) {
            return None;
        }
        let requests = state.jobs().iter().filter(|job| job.kind == kind);
        let promoted = state.generations().iter().filter_map(|one| one.promoted_at);
        let last = requests.map(|job| job.requested_at).chain(promoted).max()?;
        let time = self.schedule.due(kind, last, self.now)?;
        let actor = if kind == JobKind::ColdStart { "cron:cold_start" } else { "cron:hot_update" };
        let reason = format!("scheduled for {}", time.format("%Y-%m-%d %H:%M UTC"));
        Some(Request { kind, actor, reason })
    }

    /// One of a kind at a time, and not again and again when it fails.
    fn may_start(&self, kind: JobKind) -> bool {
        if active(self.state, kind).is_some() {
            return false;
        }
        let of_kind = self.state.jobs().iter().rev().filter(|job| job.kind == kind);
        let failed: Vec<_> = of_kind.take_while(|job| job.state == JobState::Failed).collect();
        let Some(last) = failed.first() else { return true };
        let attempts = u32::try_from(failed.len()).unwrap_or(u32::MAX);
        let more_data = |window: &Window| self.tally.has_outgrown(window);
        let has_grown = last.started.as_ref().is_some_and(|(_, window, _)| more_data(window));
        let pause = AFTER_FAILURE * 2_i32.pow((attempts - 1).min(16));
        let rested = last.finished_at.is_none_or(|at| self.now >= at + pause);
        rested && (attempts < self.config.policy.max_attempts || has_grown)
    }
}

/// Whether an operator may ask for a job of this kind now. `source`: whether it names what it starts
/// from.
///
/// # Errors
/// Says why not.
pub(crate) fn may_request(state: &State, kind: JobKind, source: bool) -> Result<(), Refusal> {
    if let Some(job) = active(state, kind) {
        let word = if job.state == JobState::Running { "running" } else { "requested" };
        let reason =
            format!("a {kind} is {word} already: job {} (one of a kind at a time)", job.job);
        return Err(Refusal(reason));
    }
    if state.champion().is_some() || kind == JobKind::ColdStart {
        return Ok(());
    }
    match kind {
        JobKind::Transfer if source => Ok(()),
        JobKind::Transfer => Err(Refusal(
            "a transfer starts from a champion, and there is none: ask for a cold_start, or name \
             another model's generation as its source"
                .to_owned(),
        )),
        _ => {
            let reason =
                format!("a {kind} starts from a champion, and there is none: ask for a cold_start");
            Err(Refusal(reason))
        }
    }
}

#[cfg(test)]
mod tests;
