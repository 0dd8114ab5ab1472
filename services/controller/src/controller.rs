//! The loop that acts on the fold, under a lease.
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use croner::Cron;
use futures::StreamExt as _;
use tidegate_contracts::{Actor, JobId, JobKind, ListenConfig, Outcome};
use tidegate_ledger::{
    ArtifactStore, Author, Fact, Fence, GenerationRecord, GenerationState, JobState, Lease, Ledger,
    LedgerError, PromotedBy, State,
};
use tidegate_stream::Stream;
use tidegate_telemetry::metrics;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::{ControllerConfig, ControllerConfigError, backlog::Backlog, grpc, http, mirror};

const LEASE: &str = "controller";
const TTL: Duration = Duration::from_secs(10);
/// The fold is looked at this often even when nothing happens (clock, lag).
const TICK: Duration = Duration::from_millis(500);
/// A blocked or refused first candidate is tried again when this much more data has come.
const RETRY_GROWTH: f64 = 1.5;

/// Schedule, queue, policy, approvals; the control API and the dashboard.
pub struct Controller {
    pub(crate) config: ControllerConfig,
    pub(crate) stream: Stream,
    pub(crate) ledger: Ledger,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) listen: ListenConfig,
    pub(crate) backlog: Mutex<Backlog>,
}

impl Controller {
    /// A controller that does nothing yet.
    ///
    /// # Errors
    /// [`ControllerConfigError`] names the field.
    pub fn new(
        config: ControllerConfig,
        stream: Stream,
        ledger: Ledger,
        artifacts: ArtifactStore,
        listen: ListenConfig,
    ) -> Result<Arc<Self>, ControllerConfigError> {
        config.validate()?;
        let backlog = Mutex::default();
        Ok(Arc::new(Self { config, stream, ledger, artifacts, listen, backlog }))
    }

    /// Adds `tidegate.v1.Control`.
    pub fn grpc(self: &Arc<Self>, routes: &mut RoutesBuilder) {
        routes.add_service(grpc::service(self.clone()));
    }

    /// The same over HTTP/JSON under `/api/v1`, and the dashboard.
    #[must_use]
    pub fn http(self: &Arc<Self>) -> axum::Router {
        http::router(self.clone())
    }

    /// Acts until `shutdown`. Stands by while another controller holds the lease.
    ///
    /// # Errors
    /// Only what cannot heal by waiting.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let counting = self.clone().count(shutdown.clone());
        let acting = self.clone().act_while_leader(shutdown.clone());
        let mirroring = mirror::run(self.stream.clone(), self.ledger.clone(), shutdown.clone());
        let (counting, acting, mirroring) = tokio::join!(counting, acting, mirroring);
        counting.and(acting).and(mirroring)
    }

    /// Follows the curated topic from its start.
    async fn count(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let topic = self.stream.topics().curated.clone();
        let follow = async {
            loop {
                let marks = match self.stream.watermarks(&topic).await {
                    Ok(marks) => marks,
                    Err(error) => {
                        tracing::warn!(%error, "the curated topic cannot be read yet");
                        tokio::time::sleep(TICK).await;
                        continue;
                    }
                };
                *self.backlog.lock().expect("counting does not panic") = Backlog::default();
                let from =
                    marks.into_iter().map(|(partition, (low, _))| (partition, low)).collect();
                let mut source = match self.stream.tail(&topic, from).await {
                    Ok(source) => source,
                    Err(error) => {
                        tracing::warn!(%error, "the curated topic cannot be followed yet");
                        tokio::time::sleep(TICK).await;
                        continue;
                    }
                };
                loop {
                    match source.next().await {
                        Ok(record) => {
                            self.backlog.lock().expect("counting does not panic").add(&record);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "following the curated topic again");
                            break;
                        }
                    }
                }
                tokio::time::sleep(TICK).await;
            }
        };
        shutdown.run_until_cancelled(follow).await;
        Ok(())
    }

    async fn act_while_leader(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let holder = format!("{}-{}", std::process::id(), uuid::Uuid::new_v4());
        while !shutdown.is_cancelled() {
            match self.ledger.lease(LEASE, &holder, TTL).await {
                Ok(Some(lease)) => {
                    tracing::info!(token = lease.token(), "controller holds the lease");
                    if let Err(error) = self.act(&lease, &shutdown).await {
                        tracing::warn!("the controller stands by: {error:#}");
                    }
                    lease.release().await;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the ledger does not answer"),
            }
            shutdown.run_until_cancelled(tokio::time::sleep(TICK)).await;
        }
        Ok(())
    }

    async fn act(&self, lease: &Lease, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let fence = Fence::new(LEASE, lease.token());
        let author = Author { actor: Actor::new("controller"), fence: Some(fence) };
        let mut clocks: Vec<Clock> = self.config.crons()?.into_iter().map(Clock::new).collect();
        let mut entries = self.ledger.watch(self.ledger.head().await?.seq + 1);
        let mut renewed = tokio::time::Instant::now();
        loop {
            if renewed.elapsed() > TTL / 3 {
                lease.renew().await?;
                renewed = tokio::time::Instant::now();
            }
            self.decide_verdicts(&author).await?;
            self.request_due(&author, &mut clocks).await?;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(TICK) => {}
                Some(entry) = entries.next() => { entry?; }
            }
        }
    }

    /// Turns verdicts into promotions and quarantines; each once, whatever happened before.
    async fn decide_verdicts(&self, author: &Author) -> Result<(), LedgerError> {
        loop {
            let decided = self
                .ledger
                .decide(author, |state| Ok(self.due_by_verdict(state, Utc::now())))
                .await;
            match decided {
                Ok(Some(entry)) => {
                    tracing::info!(entry = entry.seq, kind = entry.fact.kind(), "decided");
                    metrics::counter("tidegate_decisions_total", "Decisions by kind.", &["kind"])
                        .with_label_values(&[entry.fact.kind()])
                        .inc();
                }
                Ok(None) => return Ok(()),
                Err(LedgerError::Refused(refusal)) => {
                    tracing::warn!(%refusal, "a decision was refused");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next entry that the verdicts call for.
    pub(crate) fn due_by_verdict(&self, state: &State, now: DateTime<Utc>) -> Option<Fact> {
        let aside = state.generations().iter().find(|one| {
            matches!(one.state, GenerationState::Blocked | GenerationState::Rejected)
                && !one.quarantined
        });
        if let Some(one) = aside {
            let why = one.verdict.as_ref().and_then(|v| v.reasons.first().cloned());
            return Some(Fact::WindowQuarantined {
                generation: one.id,
                window: one.window.clone(),
                reason: why.unwrap_or_else(|| one.state.as_str().to_owned()),
            });
        }
        self.promotion(state, state.candidate()?, now)
    }

    /// The promotion a candidate has earned: by policy, or by enough approvals. The one place
    /// where policy is applied; API, CLI and dashboard come through here too.
    pub(crate) fn promotion(
        &self,
        state: &State,
        one: &GenerationRecord,
        now: DateTime<Utc>,
    ) -> Option<Fact> {
        let verdict = one.verdict.as_ref()?;
        if verdict.champion != state.champion() {
            return None;
        }
        let policy = &self.config.policy;
        let given = one.approvals_in_force(now).len();
        let by = if verdict.outcome == Outcome::AutoPromote && policy.auto_promote.of(one.kind) {
            PromotedBy::Policy
        } else if given >= policy.approvals.of(one.kind) as usize {
            PromotedBy::Approval
        } else {
            return None;
        };
        let (generation, previous) = (one.id, state.champion());
        Some(Fact::Promoted { generation, previous, verdict: verdict.id, by })
    }

    /// Requests what clock, lag or an empty slot call for.
    async fn request_due(&self, author: &Author, clocks: &mut [Clock]) -> Result<(), LedgerError> {
        let now = Utc::now();
        for clock in clocks.iter_mut() {
            if clock.due(now) {
                let kind = clock.kind;
                let reason = format!("scheduled ({})", clock.cron.pattern);
                self.request(author, |state| {
                    (state.champion().is_some() && !active(state, kind))
                        .then(|| (kind, reason.clone()))
                })
                .await?;
            }
        }
        self.request(author, |state| self.due_by_data(state)).await
    }

    async fn request<F>(&self, author: &Author, due: F) -> Result<(), LedgerError>
    where
        F: Fn(&State) -> Option<(JobKind, String)> + Send + Sync,
    {
        let entry = self
            .ledger
            .decide(author, |state| {
                Ok(due(state).map(|(kind, reason)| Fact::JobRequested {
                    job: JobId::generate(),
                    kind,
                    reason,
                }))
            })
            .await?;
        if let Some(entry) = entry {
            tracing::info!(entry = entry.seq, "job requested");
        }
        Ok(())
    }

    fn due_by_data(&self, state: &State) -> Option<(JobKind, String)> {
        if any_active(state) {
            return None;
        }
        let backlog = self.backlog.lock().expect("counting does not panic");
        if state.champion().is_none() {
            // A candidate that waits for an operator is not overtaken by another first one.
            if state.candidate().is_some() {
                return None;
            }
            let labelled = backlog.waiting(&std::collections::BTreeMap::new());
            let tried = state.generations().last().map_or(0, |last| {
                labelled - backlog.waiting(&last.window.watermark()).min(labelled)
            });
            let failed = state.jobs().last().is_some_and(|job| job.state == JobState::Failed);
            let wanted =
                self.config.bootstrap.min_labelled.max((tried as f64 * RETRY_GROWTH) as u64);
            // A job that failed for good is not asked for again until somebody has looked.
            return (labelled >= wanted && !failed).then(|| {
                (JobKind::ColdStart, format!("{labelled} labelled records and no champion"))
            });
        }
        let waiting = backlog.waiting(&state.considered_up_to());
        let trigger = &self.config.lag_trigger;
        let long = waiting >= trigger.min_records && backlog.quiet_for() >= self.config.max_wait();
        (waiting >= trigger.records || long)
            .then(|| (JobKind::HotUpdate, format!("{waiting} labelled records wait")))
    }

    /// Labelled training records the champion has not learnt.
    pub(crate) fn lag(&self, state: &State) -> u64 {
        let backlog = self.backlog.lock().expect("counting does not panic");
        backlog.waiting(&state.learnt_up_to())
    }

    /// Reads a generation's verdict document.
    pub(crate) async fn verdict_document(
        &self,
        one: &GenerationRecord,
    ) -> anyhow::Result<tidegate_contracts::Verdict> {
        let verdict = one.verdict.as_ref().context("it has no verdict yet")?;
        let bytes = self.artifacts.get(&verdict.id).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

fn open(state: JobState) -> bool {
    matches!(state, JobState::Requested | JobState::Running)
}

fn active(state: &State, kind: JobKind) -> bool {
    state.jobs().iter().any(|job| job.kind == kind && open(job.state))
}

/// A job is under way, or its candidate is not judged yet.
fn any_active(state: &State) -> bool {
    state.jobs().iter().any(|job| open(job.state)) || !state.awaiting_verdict().is_empty()
}

/// One schedule, and when it is next due.
struct Clock {
    kind: JobKind,
    cron: Cron,
    next: Option<DateTime<Utc>>,
}

impl Clock {
    fn new((kind, cron): (JobKind, Cron)) -> Self {
        let next = cron.find_next_occurrence(&Utc::now(), false).ok();
        Self { kind, cron, next }
    }

    fn due(&mut self, now: DateTime<Utc>) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.next = self.cron.find_next_occurrence(&now, false).ok();
        true
    }
}
