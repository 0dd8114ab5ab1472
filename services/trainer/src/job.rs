//! One job, from request to registered candidate.
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tidegate_contracts::{ArtifactHash, Domain, GenerationId, JobKind};
use tidegate_learning::{
    CheckpointDir, Job, LearningError, Recipe, StartingPoint, Trained, manifest, train,
};
use tidegate_ledger::{ArtifactError, Fact, JobRecord, JobState};
use tidegate_model::in_background;
use tidegate_telemetry::metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    data::{self, Aside, Data},
    observer::{Report, Reporter},
    trainer::Trainer,
};

/// How often progress is published.
const PROGRESS: Duration = Duration::from_secs(1);

/// Domains named to who asked for one that is not there.
const DOMAINS: usize = 20;

/// How a job ended for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its candidate is registered.
    Registered(GenerationId),
    /// It failed, for good or until the next attempt.
    Failed,
    /// It was stopped between two steps and is still running by the ledger.
    Stopped,
}

/// Why an attempt is given up.
struct Failure {
    reason: String,
    retry: bool,
}

impl Failure {
    fn for_good(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), retry: false }
    }
}

/// What an attempt trains.
struct Attempt {
    record: JobRecord,
    number: u32,
    job: Job,
    /// When it began.
    began: Instant,
}

/// Runs the job of `record` as far as it goes.
///
/// # Errors
/// Ledger, stream or store are away: to be tried again as it stands.
pub(crate) async fn run(
    trainer: &Trainer,
    record: JobRecord,
    cancel: &CancellationToken,
) -> anyhow::Result<Ended> {
    let kind = record.kind;
    let ended = match begin(trainer, record).await? {
        Ok(attempt) => match work(trainer, &attempt, cancel).await? {
            Ok(ended) => ended,
            Err(failure) => fail(trainer, &attempt.record, attempt.number, failure).await?,
        },
        Err((record, number, failure)) => fail(trainer, &record, number, failure).await?,
    };
    let outcome = match ended {
        Ended::Registered(_) => "registered",
        Ended::Failed => "failed",
        Ended::Stopped => "stopped",
    };
    metrics::counter("tidegate_trainer_jobs_total", "Ends of attempts.", &["kind", "outcome"])
        .with_label_values(&[kind.as_str(), outcome])
        .inc();
    Ok(ended)
}

/// Fixes window and parent, or takes those of the first attempt, and writes that it starts.
async fn begin(
    trainer: &Trainer,
    record: JobRecord,
) -> anyhow::Result<Result<Attempt, (JobRecord, u32, Failure)>> {
    let number = record.attempts + 1;
    let (window, parent) = match record.started.clone() {
        Some((_, window, parent)) => (window, parent),
        None => {
            let state = trainer.ledger.state().await?;
            let topic = &trainer.stream.topics().curated;
            let marks = trainer.stream.watermarks(topic).await?;
            let learnt = state.learnt_up_to();
            let max = trainer.config.max_window;
            let window = data::choose(record.kind, topic, &marks, &learnt, max);
            let parent = match record.kind {
                JobKind::ColdStart => None,
                JobKind::HotUpdate => state.champion(),
                JobKind::Transfer => record.source.or_else(|| state.champion()),
            };
            (window, parent)
        }
    };
    let started = Fact::JobStarted {
        job: record.job.clone(),
        attempt: number,
        window: window.clone(),
        parent,
    };
    let wanted = record.job.clone();
    let entry = trainer
        .record(|state| {
            let open = state.job(&wanted).is_some_and(|job| {
                matches!(job.state, JobState::Requested | JobState::Running)
                    && job.attempts < number
            });
            open.then(|| started.clone())
        })
        .await?;
    anyhow::ensure!(entry.is_some(), "job {} was taken or ended meanwhile", record.job);
    tracing::info!(job = %record.job, kind = %record.kind, attempt = number, offsets = window.len(), "job started");

    let failed = |failure| Ok(Err((record.clone(), number, failure)));
    if number > trainer.config.max_starts {
        let starts = trainer.config.max_starts;
        return failed(Failure::for_good(format!("it was started {starts} times and never ended")));
    }
    if window.is_empty() {
        return failed(Failure::for_good(
            "the window is empty: nothing was curated since the last one",
        ));
    }
    let start = match (record.kind, parent) {
        (JobKind::ColdStart, _) => StartingPoint::Scratch,
        (kind, None) => return failed(Failure::for_good(LearningError::NoChampion(kind.as_str()))),
        (_, Some(parent)) => match trainer.artifacts.generation(&parent).await {
            Ok(champion) => StartingPoint::Champion(champion),
            Err(error @ ArtifactError::Store(_)) => return Err(error.into()),
            Err(error) => {
                let reason = format!("generation {} to start from: {error}", parent.short());
                return failed(Failure::for_good(reason));
            }
        },
    };
    let state = trainer.ledger.state().await?;
    // Of its first start: a later attempt learns from the same records.
    let without = state.job(&record.job).and_then(|job| job.started.as_ref());
    let without = without.map(|(at, ..)| state.quarantined_producers(*at)).unwrap_or_default();
    let job = Job {
        without,
        id: record.job.clone(),
        kind: record.kind,
        seed: seed(&trainer.recipe, &record),
        recipe: trainer.recipe.clone(),
        start,
        window,
        device: trainer.device,
    };
    Ok(Ok(Attempt { record, number, job, began: Instant::now() }))
}

/// The same for every attempt, another for every job.
fn seed(recipe: &Recipe, record: &JobRecord) -> u64 {
    let hash = ArtifactHash::of(record.job.as_str().as_bytes());
    let (bytes, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    recipe.seed ^ u64::from_le_bytes(*bytes)
}

/// Reads, trains, publishes.
async fn work(
    trainer: &Trainer,
    attempt: &Attempt,
    cancel: &CancellationToken,
) -> anyhow::Result<Result<Ended, Failure>> {
    let set_aside = trainer.ledger.state().await?.set_aside();
    let domain = attempt.record.domain.as_ref();
    let Job { window, without, .. } = &attempt.job;
    let aside = Aside { windows: &set_aside, producers: without };
    let data = Data::read(&trainer.stream, window, domain, aside, cancel).await?;
    if cancel.is_cancelled() {
        return Ok(Ok(Ended::Stopped));
    }
    if let Some(failure) = none_of(domain, &data) {
        return Ok(Err(failure));
    }
    tracing::info!(
        job = %attempt.job.id, examples = data.examples.len(), others = data.others,
        unreadable = data.unreadable, set_aside = data.set_aside,
        producers_set_aside = data.of_producers_set_aside, "window read",
    );
    let checkpoints = CheckpointDir::open(trainer.data_dir.join("checkpoints"))?;
    let newest_label = data.newest_label;
    let trained = match teach(trainer, attempt, data, &checkpoints, cancel).await? {
        Ok(trained) => trained,
        Err(LearningError::Cancelled { step }) => {
            tracing::info!(job = %attempt.job.id, step, "training stopped; it goes on from its checkpoint");
            return Ok(Ok(Ended::Stopped));
        }
        Err(error) => {
            return Ok(Err(Failure { retry: error.is_retryable(), reason: error.to_string() }));
        }
    };
    let manifest = manifest(&attempt.job, &trained, newest_label);
    let generation = trainer
        .until_done(cancel, "publish a generation", || {
            trainer.artifacts.put_generation(&manifest, &trained.files)
        })
        .await;
    let Some(generation) = generation else { return Ok(Ok(Ended::Stopped)) };
    let registered = Fact::CandidateRegistered {
        job: attempt.job.id.clone(),
        generation,
        parent: attempt.job.start.parent(),
        kind: attempt.job.kind,
        window: attempt.job.window.clone(),
    };
    let entry = trainer
        .until_done(cancel, "register a candidate", || {
            trainer.record(|state| running(state, attempt).then(|| registered.clone()))
        })
        .await;
    let Some(entry) = entry else { return Ok(Ok(Ended::Stopped)) };
    anyhow::ensure!(entry.is_some(), "job {} was taken over meanwhile", attempt.job.id);
    checkpoints.clear(&attempt.job.id)?;
    let seconds = attempt.began.elapsed().as_secs_f64();
    metrics::histogram(
        "tidegate_trainer_job_seconds",
        "Wall time of attempts that registered a candidate.",
        &["kind"],
        metrics::SECONDS,
    )
    .with_label_values(&[attempt.job.kind.as_str()])
    .observe(seconds);
    tracing::info!(job = %attempt.job.id, generation = %generation.short(), seconds, "candidate registered");
    Ok(Ok(Ended::Registered(generation)))
}

/// A domain without examples, and what there is in its place.
fn none_of(domain: Option<&Domain>, data: &Data) -> Option<Failure> {
    let domain = domain.filter(|_| data.examples.is_empty())?;
    let others: Vec<String> = data
        .elsewhere
        .iter()
        .take(DOMAINS)
        .map(|(domain, count)| format!("`{domain}` ({count})"))
        .collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    Some(Failure::for_good(format!(
        "the window has no labelled training example of domain `{domain}`; it has of: {others}"
    )))
}

/// Whether this attempt is still the one that counts.
fn running(state: &tidegate_ledger::State, attempt: &Attempt) -> bool {
    state
        .job(&attempt.job.id)
        .is_some_and(|job| job.state == JobState::Running && job.attempts == attempt.number)
}

/// Trains on a thread of its own, and tells ledger and metrics how far it is.
async fn teach(
    trainer: &Trainer,
    attempt: &Attempt,
    data: Data,
    checkpoints: &CheckpointDir,
    cancel: &CancellationToken,
) -> anyhow::Result<Result<Trained, LearningError>> {
    let (mut reporter, reports) = Reporter::new(&attempt.job.id, attempt.job.kind, attempt.number);
    let (job, dir) = (attempt.job.clone(), checkpoints.clone());
    let stop = cancel.clone();
    let mut training = tokio::task::spawn_blocking(move || {
        in_background(|| train(&job, &data.examples, &dir, &mut reporter, &stop))
    });
    let mut news = News::new(trainer, attempt, reports);
    let mut ticks = tokio::time::interval(PROGRESS);
    let result = loop {
        tokio::select! {
            result = &mut training => break result,
            _ = ticks.tick() => news.publish().await,
        }
    };
    news.publish().await;
    result.context("the training thread panicked")
}

/// Publishes what is new. Failing to is a log line: training does not depend on it.
struct News<'a> {
    trainer: &'a Trainer,
    attempt: &'a Attempt,
    reports: watch::Receiver<Report>,
    /// The last step that was written as a `CheckpointWritten`, and when.
    written: (u64, Option<Instant>),
}

impl<'a> News<'a> {
    fn new(trainer: &'a Trainer, attempt: &'a Attempt, reports: watch::Receiver<Report>) -> Self {
        Self { trainer, attempt, reports, written: (0, None) }
    }

    async fn publish(&mut self) {
        let report = self.reports.borrow_and_update().clone();
        if let Err(error) = self.trainer.put_progress(&report).await {
            tracing::debug!(%error, "progress was not published");
        }
        let every = Duration::from_secs(self.trainer.config.checkpoint_entry_s);
        let due = self.written.1.is_none_or(|at| at.elapsed() >= every);
        let Some((step, digest)) =
            report.checkpoint.filter(|(step, _)| due && *step > self.written.0)
        else {
            return;
        };
        let fact = Fact::CheckpointWritten { job: self.attempt.job.id.clone(), step, digest };
        let attempt = self.attempt;
        let entry =
            self.trainer.record(|state| running(state, attempt).then(|| fact.clone())).await;
        match entry {
            Ok(_) => self.written = (step, Some(Instant::now())),
            Err(error) => tracing::warn!(%error, step, "a checkpoint is not on the ledger yet"),
        }
    }
}

async fn fail(
    trainer: &Trainer,
    record: &JobRecord,
    attempt: u32,
    failure: Failure,
) -> anyhow::Result<Ended> {
    let Failure { reason, retry } = failure;
    let retry = retry && attempt < trainer.config.max_attempts;
    tracing::warn!(job = %record.job, attempt, reason, retry, "job failed");
    let fact = Fact::JobFailed { job: record.job.clone(), attempt, reason, retry };
    let wanted = record.job.clone();
    trainer
        .record(|state| {
            let open = state
                .job(&wanted)
                .is_some_and(|job| job.state == JobState::Running && job.attempts == attempt);
            open.then(|| fact.clone())
        })
        .await?;
    if !retry {
        CheckpointDir::open(trainer.data_dir.join("checkpoints"))?.clear(&record.job)?;
    }
    Ok(Ended::Failed)
}
