//! Keeps the slot at the ledger's champion.
//!
//! It follows the ledger's *state*, not its single entries: what counts is who the champion is now.
//! That state takes in no verdict and no promotion that is not signed by who may, at its place: what was
//! written to the store past the gate is served by nobody.
//! Whatever fails, the generation that serves goes on serving. A generation whose bytes cannot be
//! read is tried again, ever more slowly up to [`SLOWEST`]; one whose verified bytes are wrong is
//! tried again when the ledger names it, or its verdict, anew. At a cold start with such a champion
//! the newest earlier champion that can be served answers, and the gateway says it is degraded.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use futures::{StreamExt as _, stream::BoxStream};
use tidegate_contracts::{ArtifactHash, GenerationId, Millis};
use tidegate_ledger::{
    Entry, Fact, GenerationRecord, GenerationState, Ledger, LedgerError, StageOutcome, State,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    error::PrepareError,
    front::Front,
    health::Health,
    prepare::Preparer,
    slot::{Served, retire},
    staging::Staged,
};

/// Pauses between tries.
const FASTEST: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(10);

/// A generation serves; told to the ledger by [`announce`](crate::announce::announce).
pub(crate) struct Swap {
    pub(crate) generation: GenerationId,
    pub(crate) prepare: Millis,
}

/// The one writer of the slot.
pub(crate) struct Keeper {
    pub(crate) front: Arc<Front>,
    pub(crate) ledger: Ledger,
    pub(crate) preparer: Preparer,
    pub(crate) health: Health,
    pub(crate) swaps: mpsc::UnboundedSender<Swap>,
    /// What cannot be served as it is.
    pub(crate) refused: Option<Wanted>,
    /// What cannot be tried as it is.
    pub(crate) unfit: Option<Wanted>,
    /// Generations that wait for their last request.
    pub(crate) retiring: JoinSet<()>,
}

/// Who should serve, by the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    generation: GenerationId,
    verdict: Option<ArtifactHash>,
}

impl Wanted {
    fn of(state: &State, generation: GenerationId) -> Self {
        let record = state.generation(&generation);
        let verdict = record.and_then(|record| record.verdict.as_ref()).map(|verdict| verdict.id);
        Self { generation, verdict }
    }
}

/// What to do after a turn.
enum Next {
    /// Wait for the ledger.
    Wait,
    /// Wait for the ledger or the end of a pause.
    Retry,
    /// The ledger has moved meanwhile.
    Again,
}

impl Keeper {
    /// Keeps the slot until `shutdown`. Returns the generations that still wait for a request.
    pub(crate) async fn keep(mut self, shutdown: &CancellationToken) -> JoinSet<()> {
        let mut champions = Champions::new(self.ledger.clone());
        let mut pause = FASTEST;
        loop {
            let Some(next) = shutdown.run_until_cancelled(self.turn(&mut champions)).await else {
                return self.retiring;
            };
            let due = match next {
                Next::Again => continue,
                Next::Wait => {
                    pause = FASTEST;
                    None
                }
                Next::Retry => Some(pause),
            };
            tokio::select! {
                () = shutdown.cancelled() => return self.retiring,
                () = champions.changed() => pause = FASTEST,
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {
                    pause = (pause * 2).min(SLOWEST);
                }
            }
        }
    }

    /// One look at the ledger, and at most one swap.
    async fn turn(&mut self, champions: &mut Champions) -> Next {
        while self.retiring.try_join_next().is_some() {}
        let state = match self.ledger.state().await {
            Ok(state) => state,
            Err(error) => {
                let serves = self.front.slot.champion().map(|served| served.id.short());
                tracing::warn!(%error, serves, "the ledger is away: serving goes on as it is");
                return Next::Retry;
            }
        };
        champions.follow(&state);
        let Some(champion) = state.champion() else { return Next::Wait };
        self.end_stage(&state);
        let wanted = Wanted::of(&state, champion);
        let serving = self.front.slot.champion();
        if serving.is_some_and(|serving| serving.id == champion) {
            self.say_whole();
            return self.follow_stage(&state).await;
        }
        if self.refused == Some(wanted) {
            return Next::Wait;
        }
        let started = Instant::now();
        match self.prepare(wanted).await {
            Ok(served) => {
                // A promotion or a rollback that came meanwhile wins; a ledger that is away does not.
                let now = self.ledger.state().await.ok().and_then(|state| state.champion());
                if now.is_some_and(|now| now != champion) {
                    self.retire(served);
                    return Next::Again;
                }
                self.install(served, started.elapsed()).await;
                self.refused = None;
                self.say_whole();
                // A stage may be on.
                Next::Again
            }
            Err(error) => self.cannot_serve(wanted, &error, &state).await,
        }
    }

    /// Tries nobody whom the ledger does not have in this stage; what has become the champion stays until
    /// it serves.
    fn end_stage(&mut self, state: &State) {
        let Some(staged) = self.front.slot.staged() else { return };
        let id = staged.served.id;
        let stands = state
            .staged()
            .is_some_and(|(one, running)| one.id == id && running.stage == staged.stage);
        let waits = state.champion() == Some(id)
            && self.front.slot.champion().is_none_or(|serving| serving.id != id);
        let same = |one: &&GenerationRecord| {
            one.id == id
                && one.state == GenerationState::Candidate
                && Some(staged.champion) == state.champion()
        };
        if let Some(one) = state.candidate().filter(same).filter(|_| !stands) {
            // It is kept, so that the next stage, or its promotion, is instant. What it has passed goes on
            // until then: its clients do not go back to the champion for a moment.
            let last = one.stages.last().and_then(|stage| stage.ended.as_ref());
            let passed = last.is_some_and(|end| end.outcome == StageOutcome::Passed);
            if !passed && staged.until > Instant::now() {
                let over = Staged { until: Instant::now(), ..staged.as_ref().clone() };
                drop(self.front.slot.stage(over));
            }
            return;
        }
        if !stands && !waits {
            drop(staged);
            if let Some(old) = self.front.slot.unstage() {
                tracing::info!(generation = old.id.short(), "is not tried any more");
                self.retire(old);
            }
        }
    }

    /// Prepares the candidate that the ledger has in a stage, as for a swap, and tries it.
    async fn follow_stage(&mut self, state: &State) -> Next {
        let Some((one, running)) = state.staged() else { return Next::Wait };
        let (generation, stage) = (one.id, running.stage);
        let now = self.front.slot.staged();
        if now.is_some_and(|now| now.served.id == generation && now.stage == stage) {
            return Next::Wait;
        }
        let wanted = Wanted::of(state, generation);
        let Ok(left) = (running.terms.until - Utc::now()).to_std() else { return Next::Wait };
        if self.unfit == Some(wanted) {
            return Next::Wait;
        }
        let until = Instant::now() + left;
        match self.prepare(wanted).await {
            Ok(served) => {
                let (champion, share) = (running.champion, running.terms.share);
                let staged = Staged { served, champion, stage, share, until };
                for old in self.front.slot.stage(staged) {
                    self.retire(old);
                }
                tracing::info!(generation = generation.short(), %stage, share, "is tried");
                // The stage may have ended meanwhile.
                Next::Again
            }
            Err(error) => {
                let (generation, will_retry) = (generation.short(), error.may_heal());
                tracing::error!(generation, %error, will_retry, "the candidate is not tried here");
                self.front.sight.swap_failed(error.result());
                if will_retry {
                    return Next::Retry;
                }
                self.unfit = Some(wanted);
                Next::Wait
            }
        }
    }

    /// Ready at once when it is still held, as after a rollback.
    async fn prepare(&self, wanted: Wanted) -> Result<Arc<Served>, PrepareError> {
        if let Some(held) = self.front.slot.held(&wanted.generation.to_hex()) {
            return Ok(held);
        }
        let recent = self.front.recent();
        self.preparer.prepare(wanted.generation, wanted.verdict, recent).await.map(Arc::new)
    }

    async fn install(&mut self, served: Arc<Served>, took: Duration) {
        let before = self.front.slot.champion();
        let retired = self.front.slot.install(served.clone());
        self.front.sight.swapped(&served.id, before.as_ref().map(|before| &before.id), took);
        self.health.set(true).await;
        tracing::info!(
            generation = served.id.short(),
            before = before.map(|before| before.id.short()),
            prepare_ms = took.as_millis(),
            classes = served.labels().len(),
            "serving a new generation"
        );
        // Only at shutdown does nobody listen.
        let _ = self.swaps.send(Swap { generation: served.id, prepare: took.into() });
        for old in retired {
            self.retire(old);
        }
    }

    fn retire(&mut self, old: Arc<Served>) {
        // It may be held still, when it was not prepared anew.
        if self.front.slot.held(&old.name).is_some_and(|held| Arc::ptr_eq(&held, &old)) {
            return;
        }
        let sight = self.front.sight.clone();
        self.retiring.spawn(async move {
            let id = old.id;
            retire(old).await;
            sight.forget(&id);
            tracing::debug!(generation = id.short(), "its last request is answered: dropped");
        });
    }

    async fn cannot_serve(&mut self, wanted: Wanted, error: &PrepareError, state: &State) -> Next {
        let generation = wanted.generation.short();
        self.front.sight.swap_failed(error.result());
        if self.front.slot.champion().is_none() {
            self.fall_back(wanted.generation, state).await;
        }
        let serves = self.front.slot.champion().map(|served| served.id.short());
        let may_heal = error.may_heal();
        tracing::error!(
            generation,
            %error,
            serves,
            will_retry = may_heal,
            "the ledger's champion is not served"
        );
        let by = serves.map_or_else(|| "nobody".to_owned(), |by| format!("generation {by}"));
        self.front.degraded.store(Some(Arc::new(format!(
            "the ledger's champion {generation} is not served: {error}; {by} answers"
        ))));
        self.front.sight.set_degraded(true);
        if may_heal {
            return Next::Retry;
        }
        self.refused = Some(wanted);
        Next::Wait
    }

    /// The newest earlier champion that can be served and was not rolled back from.
    async fn fall_back(&mut self, broken: GenerationId, state: &State) {
        let mut tried = vec![broken];
        for &generation in state.champions().iter().rev() {
            let judged_bad = state
                .generation(&generation)
                .is_some_and(|record| record.state == GenerationState::RolledBack);
            if judged_bad || tried.contains(&generation) {
                continue;
            }
            tried.push(generation);
            let started = Instant::now();
            match self.prepare(Wanted::of(state, generation)).await {
                Ok(served) => return self.install(served, started.elapsed()).await,
                Err(error) => {
                    let generation = generation.short();
                    tracing::error!(generation, %error, "an earlier champion is not served either");
                }
            }
        }
    }

    fn say_whole(&self) {
        if self.front.degraded.swap(None).is_some() {
            tracing::info!("the ledger's champion serves again");
        }
        self.front.sight.set_degraded(false);
    }
}

/// Tells when the ledger may have another champion, or another candidate in a stage.
struct Champions {
    ledger: Ledger,
    entries: Option<BoxStream<'static, Result<Entry, LedgerError>>>,
}

impl Champions {
    fn new(ledger: Ledger) -> Self {
        Self { ledger, entries: None }
    }

    /// Watches from after `state` on, unless it watches already.
    fn follow(&mut self, state: &State) {
        let ledger = &self.ledger;
        self.entries.get_or_insert_with(|| ledger.watch(state.head().seq + 1));
    }

    /// Cancel safe: an entry that was seen has its effect in the state that is read next.
    async fn changed(&mut self) {
        let Some(entries) = &mut self.entries else { return std::future::pending().await };
        loop {
            match entries.next().await {
                Some(Ok(entry)) => {
                    // Who serves, and who is tried.
                    if matches!(
                        entry.fact,
                        Fact::Promoted { .. }
                            | Fact::RolledBack { .. }
                            | Fact::StageStarted { .. }
                            | Fact::StageEnded { .. }
                            | Fact::CandidateRejected { .. }
                            | Fact::CandidateRegistered { .. }
                    ) {
                        return;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching the ledger failed: watching anew");
                    self.entries = None;
                    return tokio::time::sleep(FASTEST).await;
                }
                None => {
                    self.entries = None;
                    return tokio::time::sleep(FASTEST).await;
                }
            }
        }
    }
}
