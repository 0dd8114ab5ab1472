//! What is asked for, and what comes back.
use std::collections::{BTreeMap, BTreeSet};

use burn::backend::Autodiff;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tidegate_contracts::{
    ArtifactHash, CODE_VERSION, Class, FileEntry, GenerationId, JobId, JobKind, Manifest, Producer,
    SEARCH, Window,
};
use tidegate_ledger::Verified;
use tidegate_model::{CpuBackend, Device};
use tidegate_telemetry::energy::{EnergyMeter, EnergyMethod, Measurement};
use tokio_util::sync::CancellationToken;

use crate::{
    CheckpointDir, Example, LearningError, Plan, Recipe, SearchProgress, Trains,
    clock::Clock,
    lesson::Lesson,
    search::{self, SearchPlan},
    session::{Outcome, Prepared, Session},
};

/// Where the weights come from.
// One a job: its size is of no weight beside the files.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum StartingPoint {
    /// Fresh ones.
    Scratch,
    /// Those of a generation whose files have been verified.
    Champion(Verified),
}

impl StartingPoint {
    /// The generation that is started from.
    #[must_use]
    pub fn parent(&self) -> Option<GenerationId> {
        match self {
            Self::Scratch => None,
            Self::Champion(champion) => Some(champion.id()),
        }
    }

    /// Its files; none from scratch.
    pub(crate) fn files(&self) -> Option<&BTreeMap<String, Bytes>> {
        match self {
            Self::Scratch => None,
            Self::Champion(champion) => Some(champion.files()),
        }
    }
}

/// One training job.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id; checkpoints are kept under it.
    pub id: JobId,
    /// Which course of the recipe.
    pub kind: JobKind,
    /// How.
    pub recipe: Recipe,
    /// From where.
    pub start: StartingPoint,
    /// What the examples were read from.
    pub window: Window,
    /// Producers from whom nothing is learnt, not even what an earlier job remembered.
    pub without: BTreeSet<Producer>,
    /// Of every random choice.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Loss, averaged over the last ten steps or so.
    pub loss: f64,
    /// Since this attempt began.
    pub examples_per_s: f64,
    /// Share of the tokens that the fullest expert of the last step got.
    pub expert_load_max_share: f64,
    /// Since this attempt began.
    pub tokens_per_s: f64,
    /// Model FLOPs utilisation: work of the architecture's matrix products as a share of what the
    /// device could do in this time; nothing until that is known.
    pub mfu: Option<f64>,
    /// Of all attempts.
    pub joules_per_token: f64,
    /// Of the routers' own losses, averaged as `loss` is; nothing where there are none.
    pub router_loss: Option<f64>,
    /// Share of the assignments of tokens to experts that were dropped in this job.
    pub drop_rate: f64,
    /// The same of each fairness group, by `name=value`; empty where nothing can be dropped.
    pub group_drop_rates: BTreeMap<String, f64>,
    /// Nothing where the loss is not scaled.
    pub loss_scale: Option<f64>,
    /// By name.
    pub layers: Vec<LayerProgress>,
    /// Of each layer's mixture.
    pub experts: Vec<ExpertsProgress>,
}

/// Parameters that belong together, as in [`crate::Layer`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerProgress {
    /// The first components of their names, as `blocks.0.attention`.
    pub name: String,
    /// Norm of the newest gradient, before clipping.
    pub gradient_norm: f64,
    /// Norm of the weights at the last measurement.
    pub weight_norm: f64,
    /// Norm of a step as a share of it.
    pub update_ratio: f64,
}

/// The experts of one layer, as in [`crate::Experts`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ExpertsProgress {
    /// Experts that get next to nothing.
    pub dead: usize,
    /// Of the router's affinities: 1 when it does not care, 0 when it is sure.
    pub entropy: f64,
    /// Share of the assignments that found their expert full.
    pub dropped: f64,
}

/// Is told what happens; called on the training thread, so it must be quick.
pub trait Observer: Send {
    /// A step is done.
    fn progress(&mut self, progress: &Progress);
    /// A checkpoint is safe on disk.
    fn checkpoint(&mut self, step: u64, digest: ArtifactHash);
    /// A step of an architecture search is done, or a candidate is judged. Those steps are not the
    /// job's own, which begin when the search is over.
    fn search(&mut self, _: &SearchProgress<'_>) {}
}

/// Looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn progress(&mut self, _: &Progress) {}
    fn checkpoint(&mut self, _: u64, _: ArtifactHash) {}
}

/// What a job made.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Every file of the generation; with the replay buffer and the optimiser's state, so that a
    /// hot update needs nothing but its own window.
    pub files: BTreeMap<String, Bytes>,
    /// The classes, by label index.
    pub labels: Vec<Class>,
    /// What the job measured of itself. Not reproducible: it holds times.
    pub metrics: BTreeMap<String, f64>,
}

/// Trains. Blocks until it is done; goes on from the newest valid checkpoint of this very job, if
/// `checkpoints` has one.
///
/// # Errors
/// [`LearningError`]; [`LearningError::Cancelled`] after `cancel`, with a checkpoint written.
pub fn train(
    job: &Job,
    examples: &[Example],
    checkpoints: &CheckpointDir,
    observer: &mut dyn Observer,
    cancel: &CancellationToken,
) -> Result<Trained, LearningError> {
    check(job)?;
    match &job.device {
        Device::Cpu => {
            let on = Default::default();
            learn::<Autodiff<CpuBackend>>(job, examples, checkpoints, observer, cancel, on)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => {
            let on = burn::backend::cuda::CudaDevice::new(*index);
            learn::<Autodiff<tidegate_model::CudaBackend>>(
                job,
                examples,
                checkpoints,
                observer,
                cancel,
                on,
            )
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(no_cuda(job)),
    }
}

/// The search, if there is to be one, and then the job itself.
fn learn<B: Trains>(
    job: &Job,
    examples: &[Example],
    checkpoints: &CheckpointDir,
    observer: &mut dyn Observer,
    cancel: &CancellationToken,
    device: B::Device,
) -> Result<Trained, LearningError> {
    let mut found = None;
    let mut searched = job.clone();
    if job.kind == JobKind::ColdStart && job.recipe.search.is_on() {
        let winner = search::run::<B>(job, examples, checkpoints, observer, cancel, &device)?;
        searched.recipe.architecture = winner.architecture.clone();
        found = Some(winner);
    }
    let job = &searched;
    let meter = EnergyMeter::detect();
    let clock = Clock::start(&meter);
    if job.recipe.course(job.kind).max_joules > 0.0 && meter.method() == EnergyMethod::None {
        tracing::warn!(job = %job.id, "max_joules bounds nothing: this machine has no energy meter");
    }
    let resumed = checkpoints.newest(job, examples);
    let lesson = Lesson::prepare(job, examples, resumed.as_ref())?;
    let mut session = Session::<B>::open(job, &lesson, resumed, device)?;
    let Outcome { mut files, mut metrics } =
        session.run(checkpoints, examples, clock, observer, cancel)?;
    if let Some(found) = found {
        let log = serde_json::to_vec_pretty(&found.log).expect("a log has string keys only");
        files.insert(SEARCH.to_owned(), log.into());
        metrics.extend(found.metrics);
    }
    Ok(Trained { files, labels: lesson.labels, metrics })
}

/// Says what [`train`] will take, from a few of the job's own steps, which learn for nobody. Leaves
/// nothing behind.
///
/// # Errors
/// [`LearningError`]: what the job would fail with at its beginning.
pub fn plan(job: &Job, examples: &[Example]) -> Result<Plan, LearningError> {
    let meter = EnergyMeter::detect();
    check(job)?;
    let stretch = meter.start();
    let lesson = Lesson::prepare(job, examples, None)?;
    let prepared = |stretch: Measurement<'_>| {
        let energy = stretch.stop();
        Prepared { seconds: energy.seconds, joules: energy.joules.map(|joules| joules.0) }
    };
    let plan = match &job.device {
        Device::Cpu => {
            let session =
                Session::<Autodiff<CpuBackend>>::open(job, &lesson, None, Default::default())?;
            session.plan(&meter, prepared(stretch))?
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => {
            let device = burn::backend::cuda::CudaDevice::new(*index);
            let session =
                Session::<Autodiff<tidegate_model::CudaBackend>>::open(job, &lesson, None, device)?;
            session.plan(&meter, prepared(stretch))?
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => return Err(no_cuda(job)),
    };
    if job.kind != JobKind::ColdStart || !job.recipe.search.is_on() {
        return Ok(plan);
    }
    let step_s = plan.time.steps_s / plan.work.steps.max(1) as f64;
    let search = Some(SearchPlan::of(&job.recipe, plan.work.classes, step_s)?);
    Ok(Plan { search, ..plan })
}

/// What is wrong whatever the examples.
fn check(job: &Job) -> Result<(), LearningError> {
    job.recipe.validate()?;
    if job.kind != JobKind::ColdStart && matches!(job.start, StartingPoint::Scratch) {
        return Err(LearningError::NoChampion(job.kind.as_str()));
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn no_cuda(job: &Job) -> LearningError {
    LearningError::Model(tidegate_model::ModelError::Device {
        device: job.device.to_string(),
        reason: "this build has no CUDA: build with `--features cuda`, or use `cpu`".to_owned(),
    })
}

/// The manifest of what `job` made. `newest_label`: the latest publication of a label in its window.
#[must_use]
pub fn manifest(job: &Job, trained: &Trained, newest_label: Option<DateTime<Utc>>) -> Manifest {
    let entry =
        |bytes: &Bytes| FileEntry { hash: ArtifactHash::of(bytes), size: bytes.len() as u64 };
    Manifest {
        format: 1,
        parent: job.start.parent(),
        job: job.id.clone(),
        kind: job.kind,
        files: trained.files.iter().map(|(name, bytes)| (name.clone(), entry(bytes))).collect(),
        labels: trained.labels.clone(),
        recipe: job.recipe.to_toml(),
        window: job.window.clone(),
        seed: job.seed,
        code_version: CODE_VERSION.to_owned(),
        created: Utc::now(),
        newest_label,
        metrics: trained.metrics.clone(),
    }
}
