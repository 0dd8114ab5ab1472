//! The controller's own hand: of many controllers the one with the lease acts.
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::StreamExt as _;
use tidegate_contracts::{Actor, ArtifactHash, JobId};
use tidegate_ledger::{Author, Fact, Fence, Lease, LedgerError, Refusal, State};
use tidegate_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::{
    QuarantineProducers,
    desk::Desk,
    mirror::mirror,
    notify::notify,
    policy, stages,
    tally::Tally,
    trigger::{self, Look, Request},
};

/// The lease that one controller holds.
const LEASE: &str = "controller";
/// How long to wait for what is away before the next try.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the counts are kept.
const KEEP: Duration = Duration::from_secs(10);

/// Stands by for the lease and acts while it is held, until `shutdown`.
pub(crate) async fn lead(desk: &Desk, shutdown: &CancellationToken) {
    let holder = format!("controller-{}-{}", std::process::id(), JobId::generate());
    let ttl = Duration::from_secs(desk.config.lease_s);
    let mut stands_by = false;
    while !shutdown.is_cancelled() {
        let asked = desk.ledger.lease(LEASE, &holder, ttl);
        let Some(lease) = shutdown.run_until_cancelled(asked).await else { return };
        match lease {
            Ok(Some(lease)) => {
                stands_by = false;
                with_lease(desk, lease, ttl, shutdown).await;
            }
            Ok(None) => {
                if !stands_by {
                    tracing::info!("another controller holds the lease; standing by");
                }
                stands_by = true;
                pause(ttl / 3, shutdown).await;
            }
            Err(error) => {
                tracing::warn!(%error, "no answer about the lease; asking again");
                pause(PATIENCE, shutdown).await;
            }
        }
    }
}

async fn with_lease(desk: &Desk, lease: Lease, ttl: Duration, shutdown: &CancellationToken) {
    let token = lease.token();
    tracing::info!(token, "controller holds the lease");
    let leads = metrics::gauge("tidegate_controller_leads", "1 where the lease is held.", &[]);
    leads.with_label_values::<&str>(&[]).set(1.0);
    let held = shutdown.child_token();
    let mut hand = Hand { desk, token, refused: None, kept: Tally::default(), looked: None };
    tokio::join!(
        async {
            hand.act(&held).await;
            held.cancel();
        },
        mirror(&desk.stream, &desk.ledger, &held),
        notify(desk, token, &held),
        renew(&lease, ttl, &held),
    );
    leads.with_label_values::<&str>(&[]).set(0.0);
    lease.release().await;
}

/// Renews the lease three times in its life; cancels `held` when it is lost.
async fn renew(lease: &Lease, ttl: Duration, held: &CancellationToken) {
    loop {
        pause(ttl / 3, held).await;
        if held.is_cancelled() {
            return;
        }
        if let Err(error) = lease.renew().await {
            tracing::warn!(%error, "the controller lost its lease: standing by");
            held.cancel();
            return;
        }
    }
}

async fn pause(time: Duration, cancel: &CancellationToken) {
    cancel.run_until_cancelled(tokio::time::sleep(time)).await;
}

/// What the holder of the lease acts with.
struct Hand<'a> {
    desk: &'a Desk,
    token: u64,
    /// What the ledger refused last, so that it is said once.
    refused: Option<String>,
    kept: Tally,
    /// The verdict whose producers were looked at last.
    looked: Option<ArtifactHash>,
}

impl Hand<'_> {
    /// Acts on every entry, and on the clock, until `held` is cancelled.
    async fn act(&mut self, held: &CancellationToken) {
        let poll = Duration::from_secs(self.desk.config.lag_trigger.poll_s);
        let mut entries = None;
        let mut kept_at = Instant::now();
        while !held.is_cancelled() {
            if kept_at.elapsed() >= KEEP {
                kept_at = Instant::now();
                self.keep().await;
            }
            match self.turn().await {
                // Again at once, until nothing is to be done.
                Ok(true) => continue,
                Ok(false) => {}
                Err(error @ (LedgerError::Fenced { .. } | LedgerError::LeaseLost(_))) => {
                    tracing::warn!(%error, "the controller stands by");
                    return;
                }
                Err(LedgerError::Refused(Refusal(reason))) => self.say_refused(reason),
                Err(error) => {
                    tracing::warn!(%error, "the controller waits and tries again");
                    pause(PATIENCE, held).await;
                }
            }
            let next = self.desk.ledger.head().await.map_or(1, |head| head.seq + 1);
            let entries = entries.get_or_insert_with(|| self.desk.ledger.watch(next));
            tokio::select! {
                () = held.cancelled() => {}
                () = tokio::time::sleep(poll) => {}
                _ = entries.next() => {}
            }
        }
        self.keep().await;
    }

    fn say_refused(&mut self, reason: String) {
        if self.refused.as_ref() != Some(&reason) {
            tracing::warn!(reason, "the ledger refused a step of the controller");
        }
        self.refused = Some(reason);
    }

    async fn keep(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        match self.desk.lag.keep(&self.desk.ledger, self.token, kept).await {
            Ok(kept) => self.kept = kept,
            Err(error) => tracing::debug!(%error, "the counts are not kept; a restart counts anew"),
        }
    }

    /// At most one step; whether there was one.
    async fn turn(&mut self) -> Result<bool, LedgerError> {
        let desk = self.desk;
        let policy = &desk.config.policy;
        if self.record("controller", policy::due_quarantine).await? {
            return Ok(true);
        }
        if self.record("controller", |state| policy::due_rollback(state, policy)).await? {
            return Ok(true);
        }
        if self
            .record("controller", |state| policy::due_promotion(state, policy, Utc::now()))
            .await?
        {
            return Ok(true);
        }
        if self.record("controller", |state| stages::due_stage(state, policy, Utc::now())).await? {
            return Ok(true);
        }
        if policy.quarantine_producers == QuarantineProducers::Auto && self.set_aside().await? {
            return Ok(true);
        }
        let checkpoints = &desk.config.checkpoints;
        let due = |state: &State| policy::due_checkpoint(state, checkpoints, Utc::now());
        if self.record("controller", due).await? {
            return Ok(true);
        }
        let state = desk.ledger.state().await?;
        self.measure(&state);
        let Some(request) = self.wanted(&state) else { return Ok(false) };
        let job = JobId::generate();
        self.record(request.actor, |state| {
            // The head may have moved: ask only if it is still wanted.
            let Request { kind, reason, .. } =
                self.wanted(state).filter(|again| again.kind == request.kind)?;
            Some(Fact::job(job.clone(), kind, reason))
        })
        .await
    }

    /// Sets one producer aside whom the newest verdict names; whether there was one.
    async fn set_aside(&mut self) -> Result<bool, LedgerError> {
        let state = self.desk.ledger.state().await?;
        let newest = state.generations().iter().rev().find(|one| one.verdict.is_some());
        let Some((one, standing)) = newest.and_then(|one| Some((one, one.verdict.as_ref()?)))
        else {
            return Ok(false);
        };
        if self.looked == Some(standing.id) {
            return Ok(false);
        }
        let document = match self.desk.document(one).await {
            Ok(document) => document,
            Err(error) => {
                tracing::warn!(%error, "nobody is set aside: the verdict cannot be read");
                return Ok(false);
            }
        };
        let issued = standing.issued_at;
        let due = |state: &State| {
            let (producer, reason) =
                policy::accused(state, &document, issued).into_iter().next()?;
            Some(Fact::ProducerQuarantined { producer, reason })
        };
        let written = self.record("controller", due).await?;
        self.looked = (!written).then_some(standing.id);
        Ok(written)
    }

    fn wanted(&self, state: &State) -> Option<Request> {
        let Desk { config, schedule, lag, .. } = self.desk;
        let look = Look { state, tally: &lag.tally(), config, schedule, now: Utc::now() };
        look.next()
    }

    /// Writes what `decide` says of the newest state, under the lease's token.
    async fn record(
        &self,
        actor: &str,
        mut decide: impl FnMut(&State) -> Option<Fact> + Send,
    ) -> Result<bool, LedgerError> {
        let fence = Some(Fence::new(LEASE, self.token));
        let author = Author { actor: Actor::new(actor), fence };
        let entry = self.desk.ledger.decide(&author, |state| Ok(decide(state))).await?;
        if let Some(entry) = &entry {
            let (kind, seq) = (entry.fact.kind(), entry.seq);
            tracing::info!(kind, seq, actor, "the controller decided");
        }
        Ok(entry.is_some())
    }

    fn measure(&self, state: &State) {
        let tally = self.desk.lag.tally();
        let waiting = metrics::gauge(
            "tidegate_controller_waiting_records",
            "Labelled training records since the last job's window (considered) or since what the \
             champion has learnt (learnt).",
            &["since"],
        );
        for (since, marks) in
            [("considered", state.considered_up_to()), ("learnt", state.learnt_up_to())]
        {
            waiting.with_label_values(&[since]).set(tally.since(&marks) as f64);
        }
        let active = metrics::gauge(
            "tidegate_controller_active_jobs",
            "Jobs requested or running, by kind.",
            &["kind"],
        );
        for kind in crate::view::KINDS {
            let open = f64::from(u8::from(trigger::active(state, kind).is_some()));
            active.with_label_values(&[kind.as_str()]).set(open);
        }
    }
}
