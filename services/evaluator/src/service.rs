//! The service: holds the lease, takes candidates, stops in good order.
use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tidegate_contracts::{Actor, JobId};
use tidegate_evaluation::{Memory, Suite};
use tidegate_ledger::{
    ArtifactStore, Author, Entry, Fact, Fence, Holder, Lease, Ledger, LedgerError, State,
};
use tidegate_model::{Device, Model, Task};
use tidegate_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::{
    EvaluatorConfig, frozen::Known, held_out::HeldOut, judging::Loaded, live::Watch, stages::Trial,
};

/// The lease that one evaluator holds.
const LEASE: &str = "evaluator";

/// How long to wait for what is away before the next try.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait for an entry before the stream is looked at again.
const LOOK: Duration = Duration::from_secs(2);

/// The same while a candidate answers clients: harm is to end soon.
const LOOK_AT_STAGE: Duration = Duration::from_millis(500);

/// What an evaluator that holds the lease works with.
pub(crate) struct Evaluator {
    pub(crate) config: EvaluatorConfig,
    /// By what a candidate answers with.
    pub(crate) suites: Suites,
    pub(crate) stream: Stream,
    pub(crate) ledger: Ledger,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) device: Device,
    pub(crate) held_out: HeldOut,
    pub(crate) memory: Memory,
    /// The generations of the latest evaluation: one of them is the next one's champion.
    pub(crate) loaded: Vec<Loaded>,
    /// Over the present champion.
    pub(crate) watch: Option<Watch>,
    /// Of the candidate in its stage.
    pub(crate) trial: Option<Trial>,
    pub(crate) token: u64,
}

/// The suites in force.
pub(crate) struct Suites {
    pub(crate) classes: InForce,
    pub(crate) numbers: InForce,
}

/// A suite, and its frozen data.
#[derive(Clone)]
pub(crate) struct InForce {
    pub(crate) suite: Arc<Suite>,
    pub(crate) frozen: Arc<[Known]>,
}

impl Suites {
    fn new(config: &EvaluatorConfig) -> anyhow::Result<Self> {
        let of = |task| {
            let suite = config.suite(task)?;
            let frozen = config.frozen(&suite)?.into_iter().map(Known::new).collect();
            anyhow::Ok(InForce { suite: Arc::new(suite), frozen })
        };
        let numbers = of(Task::Regression)?;
        // A suite of one's own judges both.
        let classes =
            if config.suite.is_some() { numbers.clone() } else { of(Task::Classification)? };
        Ok(Self { classes, numbers })
    }

    /// The one that judges such a model.
    pub(crate) fn of(&self, model: &Model) -> &InForce {
        if model.levels().is_some() { &self.numbers } else { &self.classes }
    }
}

/// Judges every candidate of the ledger until `shutdown`.
///
/// # Errors
/// Only for a configuration, a suite or a key that cannot work; what is away is waited for.
pub async fn run(
    config: EvaluatorConfig,
    stream: Stream,
    ledger: Ledger,
    artifacts: ArtifactStore,
    device: Device,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    ledger.can_sign_for(&Holder::Evaluator)?;
    let suites = Suites::new(&config)?;
    for in_force in [&suites.classes, &suites.numbers] {
        let reference = in_force.suite.reference();
        tracing::info!(
            suite = reference.name,
            version = reference.version,
            digest = reference.digest.short(),
            frozen = in_force.frozen.len(),
            "a suite in force"
        );
    }
    let holder = format!("evaluator-{}-{}", std::process::id(), JobId::generate());
    let ttl = Duration::from_secs(config.lease_s);
    let mut evaluator = Evaluator {
        config,
        suites,
        stream,
        ledger,
        artifacts,
        device,
        held_out: HeldOut::default(),
        memory: Memory::default(),
        loaded: vec![],
        watch: None,
        trial: None,
        token: 0,
    };
    while !shutdown.is_cancelled() {
        let lease = tokio::select! {
            () = shutdown.cancelled() => break,
            lease = evaluator.ledger.lease(LEASE, &holder, ttl) => lease,
        };
        match lease {
            Ok(Some(lease)) => {
                evaluator.token = lease.token();
                tracing::info!(token = evaluator.token, "evaluator holds the lease");
                evaluator.with_lease(lease, ttl, &shutdown).await;
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

impl Evaluator {
    /// Works while the lease is held; gives it back at shutdown.
    async fn with_lease(&mut self, lease: Lease, ttl: Duration, shutdown: &CancellationToken) {
        let held = shutdown.child_token();
        let work = async {
            self.work(&held).await;
            // Nothing is left to protect: the renewal may end.
            held.cancel();
        };
        tokio::join!(work, keep(&lease, ttl, &held));
        lease.release().await;
    }

    /// Takes candidates until `held` is cancelled.
    async fn work(&mut self, held: &CancellationToken) {
        while !held.is_cancelled() {
            let step = tokio::select! {
                // What is measured meanwhile is dropped with the future, and measured anew by
                // whoever holds the lease next.
                () = held.cancelled() => return,
                step = self.next() => step,
            };
            if let Err(error) = step {
                let error = format!("{error:#}");
                tracing::warn!(error, "the evaluator waits and tries again");
                pause(PATIENCE, held).await;
            }
        }
    }

    /// One verdict, or the wait for a candidate.
    async fn next(&mut self) -> anyhow::Result<()> {
        let state = self.ledger.state().await?;
        if let Some(record) = state.awaiting_verdict().first() {
            return Box::pin(self.judge(record, &state)).await;
        }
        // What curation lets through is read while there is time: a candidate waits less.
        self.held_out.catch_up(&self.stream, &self.config).await?;
        if Box::pin(self.try_stage(&state)).await? {
            return Ok(());
        }
        if Box::pin(self.watch(&state)).await? {
            return Ok(());
        }
        let mut entries = self.ledger.watch(state.head().seq + 1);
        // Labels come without an entry.
        let look = if self.trial.is_some() { LOOK_AT_STAGE } else { LOOK };
        if let Ok(Some(entry)) = tokio::time::timeout(look, entries.next()).await {
            entry?;
        }
        Ok(())
    }

    /// Appends what `decide` says of the newest state, under the lease's token.
    pub(crate) async fn record(
        &self,
        mut decide: impl FnMut(&State) -> Option<Fact> + Send,
    ) -> Result<Option<Entry>, LedgerError> {
        let fence = Some(Fence::new(LEASE, self.token));
        let author = Author { actor: Actor::new("evaluator"), fence };
        self.ledger.decide(&author, |state| Ok(decide(state))).await
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
            tracing::warn!(%error, "the evaluator lost its lease: judging stops");
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
