//! The service: holds the lease, takes jobs, stops in good order.
use std::{fmt::Display, future::Future, path::PathBuf, time::Duration};

use futures::StreamExt as _;
use tidegate_contracts::{Actor, JobId};
use tidegate_learning::Recipe;
use tidegate_ledger::{
    ArtifactStore, Author, Entry, Fact, Fence, Lease, Ledger, LedgerError, State,
};
use tidegate_model::Device;
use tidegate_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::{TrainerConfig, job, observer::Report};

/// The lease that one trainer holds.
const LEASE: &str = "trainer";

/// How long to wait for what is away before the next try.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a trainer that holds the lease works with.
pub(crate) struct Trainer {
    pub(crate) config: TrainerConfig,
    pub(crate) recipe: Recipe,
    pub(crate) stream: Stream,
    pub(crate) ledger: Ledger,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) data_dir: PathBuf,
    pub(crate) device: Device,
    token: u64,
}

/// Trains what the ledger asks for until `shutdown`.
///
/// # Errors
/// Only for a configuration that cannot work; what is away is waited for.
pub async fn run(
    config: TrainerConfig,
    stream: Stream,
    ledger: Ledger,
    artifacts: ArtifactStore,
    data_dir: PathBuf,
    device: Device,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    let recipe = config.recipe()?;
    let holder = format!("trainer-{}-{}", std::process::id(), JobId::generate());
    let ttl = Duration::from_secs(config.lease_s);
    let mut trainer =
        Trainer { config, recipe, stream, ledger, artifacts, data_dir, device, token: 0 };
    while !shutdown.is_cancelled() {
        let lease = tokio::select! {
            () = shutdown.cancelled() => break,
            lease = trainer.ledger.lease(LEASE, &holder, ttl) => lease,
        };
        match lease {
            Ok(Some(lease)) => {
                trainer.token = lease.token();
                tracing::info!(token = trainer.token, "trainer holds the lease");
                trainer.with_lease(lease, ttl, &shutdown).await;
            }
            Ok(None) => pause(ttl / 3, &shutdown).await,
            Err(error) => {
                tracing::warn!(%error, "no answer about the lease; asking again");
                pause(PATIENCE, &shutdown).await;
            }
        }
    }
    Ok(())
}

impl Trainer {
    /// Works while the lease is held; gives it back at shutdown.
    async fn with_lease(&self, lease: Lease, ttl: Duration, shutdown: &CancellationToken) {
        let held = shutdown.child_token();
        let work = async {
            self.work(&held).await;
            // Nothing is left to protect: the renewal may end.
            held.cancel();
        };
        tokio::join!(work, keep(&lease, ttl, &held));
        lease.release().await;
    }

    /// Takes jobs until `held` is cancelled.
    async fn work(&self, held: &CancellationToken) {
        while !held.is_cancelled() {
            match self.next(held).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the trainer waits and tries again"
                    );
                    pause(PATIENCE, held).await;
                }
            }
        }
    }

    /// One job, or the wait for one.
    async fn next(&self, held: &CancellationToken) -> anyhow::Result<()> {
        let state = self.ledger.state().await?;
        if let Some(record) = state.next_job() {
            job::run(self, record.clone(), held).await?;
            return Ok(());
        }
        let mut entries = self.ledger.watch(state.head().seq + 1);
        tokio::select! {
            () = held.cancelled() => {}
            entry = entries.next() => {
                if let Some(entry) = entry {
                    entry?;
                }
            }
        }
        Ok(())
    }

    /// Appends what `decide` says of the newest state, under the lease's token.
    pub(crate) async fn record(
        &self,
        mut decide: impl FnMut(&State) -> Option<Fact> + Send,
    ) -> Result<Option<Entry>, LedgerError> {
        let fence = Some(Fence::new(LEASE, self.token));
        let author = Author { actor: Actor::new("trainer"), fence };
        self.ledger.decide(&author, |state| Ok(decide(state))).await
    }

    /// Puts the curve of a job where the dashboard finds it.
    pub(crate) async fn put_progress(&self, report: &Report) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec(report).expect("a report is plain numbers and text");
        self.ledger.put_state(&format!("progress/{}", report.job), self.token, &bytes).await
    }

    /// Tries until it succeeds, with a log line for each failure; nothing once `cancel` is.
    pub(crate) async fn until_done<T, E: Display, F: Future<Output = Result<T, E>>>(
        &self,
        cancel: &CancellationToken,
        what: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Option<T> {
        loop {
            match attempt().await {
                Ok(done) => return Some(done),
                Err(error) if cancel.is_cancelled() => {
                    tracing::warn!(%error, "could not {what} before the stop");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, "could not {what}; trying again");
                    pause(PATIENCE, cancel).await;
                }
            }
        }
    }
}

/// Renews the lease three times in its life; cancels `held` when it is lost.
async fn keep(lease: &Lease, ttl: Duration, held: &CancellationToken) {
    loop {
        pause(ttl / 3, held).await;
        if held.is_cancelled() {
            return;
        }
        if let Err(error) = lease.renew().await {
            tracing::warn!(%error, "the trainer lost its lease: training stops");
            held.cancel();
            return;
        }
    }
}

async fn pause(time: Duration, cancel: &CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
