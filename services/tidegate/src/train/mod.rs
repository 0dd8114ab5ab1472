//! Training from a file, without a service: a plan of the job, or the job itself.
mod data;
mod show;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tidegate_contracts::{ArtifactHash, JobId, JobKind, SEARCH, SearchLog};
use tidegate_controller::job_report;
use tidegate_learning::{
    CheckpointDir, DIAGNOSIS, Diagnosis, Finding, Job, Observer, PeakMemory, Plan, Progress,
    Recipe, SearchProgress, StartingPoint, manifest,
};
use tidegate_ledger::{MANIFEST, Verified, write_folder};
use tidegate_model::{ARCHITECTURE, Architecture, Device, Input, Task, in_background};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Global,
    output::{Format, search_log},
};

/// Trains from a file. Without any of these the trainer runs as a service.
#[derive(clap::Args)]
pub(crate) struct TrainArgs {
    /// Events and labels as JSON lines, as `tidegate produce` takes them.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The recipe (TOML); the configured one when absent.
    #[arg(long, requires = "data")]
    recipe: Option<PathBuf>,
    /// A generation's folder to start from; from nothing when absent.
    #[arg(long, requires = "data")]
    champion: Option<PathBuf>,
    /// hot_update, cold_start or transfer; a hot update with a champion, else a cold start.
    #[arg(long, requires = "data")]
    kind: Option<JobKind>,
    /// The domain to learn; all that there are when absent.
    #[arg(long, requires = "data")]
    domain: Option<String>,
    /// Say what the job would take, and leave it at that.
    #[arg(long, requires = "data")]
    dry_run: bool,
    /// Where the generation is written. A job that was stopped goes on from there.
    #[arg(long, requires = "data", default_value = "generation")]
    out: PathBuf,
}

/// File of a generation that was trained so: what was planned, and how far off that was.
const PLAN: &str = "plan.json";

/// Beside the generation: what its job showed of its inside, in pictures.
const REPORT: &str = "report.html";

/// What a run says as JSON, and keeps as [`PLAN`].
#[derive(Serialize)]
struct Report<'a> {
    plan: &'a Plan,
    findings: &'a [Finding],
}

impl TrainArgs {
    /// Whether the trainer is to run as a service.
    pub(crate) fn is_service(&self) -> bool {
        self.data.is_none()
    }
}

pub(crate) async fn run(global: &Global, args: TrainArgs) -> anyhow::Result<ExitCode> {
    let data = args.data.clone().context("--data is needed")?;
    let (recipe, device) = configured(global, args.recipe.as_deref())?;
    let (format, cancel) = (global.output, CancellationToken::new());
    let stop = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let work = move || in_background(|| offline(&args, &data, recipe, device, format, &cancel));
    tokio::task::spawn_blocking(work).await.context("training panicked")??;
    Ok(ExitCode::SUCCESS)
}

fn configured(global: &Global, recipe: Option<&Path>) -> anyhow::Result<(Recipe, Device)> {
    let config = global.load()?;
    let Some(path) = recipe else { return Ok((config.trainer.recipe()?, config.device)) };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let recipe = Recipe::from_toml(&text).with_context(|| path.display().to_string())?;
    Ok((recipe, config.device))
}

fn offline(
    args: &TrainArgs,
    data: &Path,
    recipe: Recipe,
    device: Device,
    format: Format,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let folder = &args.out;
    ensure!(
        args.dry_run || !folder.join(MANIFEST).exists(),
        "{} holds a generation already: choose another folder by --out",
        folder.display()
    );
    let start = match &args.champion {
        None => StartingPoint::Scratch,
        Some(path) => {
            let champion =
                Verified::from_folder(path).with_context(|| path.display().to_string())?;
            StartingPoint::Champion(champion)
        }
    };
    let mut data = data::read(data, task(&recipe, &start)?)?;
    if let Some(domain) = &args.domain {
        data.keep_domain(domain)?;
    }
    if data.others > 0 {
        eprintln!("{} events that cannot be learnt from are left out", data.others);
    }
    let kind = args.kind.unwrap_or(match start {
        StartingPoint::Scratch => JobKind::ColdStart,
        StartingPoint::Champion(_) => JobKind::HotUpdate,
    });
    ensure!(
        kind != JobKind::ColdStart || matches!(start, StartingPoint::Scratch),
        "a cold start has no champion: leave out --champion, or order a transfer"
    );
    // The same inputs are the same job, so that one that was stopped finds its checkpoints.
    let (parent, domain) = (start.parent(), args.domain.as_deref().unwrap_or_default());
    let inputs = format!("{kind} {} {parent:?} {domain} {}", data.hash, recipe.to_toml());
    let id = JobId::new(format!("offline-{}", ArtifactHash::of(inputs.as_bytes()).short()));
    let (seed, window) = (recipe.seed, data.window);
    // Whose records these are is for who hands them over to choose.
    let without = std::collections::BTreeSet::new();
    let job = Job { id, kind, recipe, start, window, without, seed, device };

    let memory = PeakMemory::start();
    let plan = tidegate_learning::plan(&job, &data.examples)?;
    if args.dry_run {
        if format == Format::Json {
            println!("{}", serde_json::to_string_pretty(&plan)?);
            return Ok(());
        }
        return show::plan(&plan);
    }
    if format == Format::Table {
        show::plan(&plan)?;
    }
    memory.forget();
    let checkpoints = CheckpointDir::open(folder.join("checkpoints"))?;
    let mut bar = Bar::new(plan.work.steps);
    let mut trained =
        tidegate_learning::train(&job, &data.examples, &checkpoints, &mut bar, cancel)?;
    bar.0.finish_and_clear();
    let peak = memory.bytes();
    if let Some(bytes) = peak {
        trained.metrics.insert("memory_bytes".to_owned(), bytes as f64);
    }
    let log = trained.files.get(SEARCH).map(|bytes| serde_json::from_slice::<SearchLog>(bytes));
    let log = log.transpose().context(SEARCH)?;
    let findings = plan.beside(&trained.metrics, peak);
    for Finding { what, planned, .. } in &findings {
        trained.metrics.insert(format!("planned.{what}"), *planned);
    }
    let report = serde_json::to_vec_pretty(&Report { plan: &plan, findings: &findings })?;
    trained.files.insert(PLAN.to_owned(), report.into());
    let manifest = manifest(&job, &trained, None);
    let generation = write_folder(folder, &manifest, &trained.files)?;
    let diagnosis = Diagnosis::from_bytes(&trained.files[DIAGNOSIS])?;
    let page = folder.join(REPORT);
    std::fs::write(&page, job_report(&manifest, &diagnosis))
        .with_context(|| page.display().to_string())?;
    checkpoints.clear(&job.id)?;
    // Left alone where it holds what is not ours.
    drop(std::fs::remove_dir(folder.join("checkpoints")));
    match format {
        Format::Table => {
            if let Some(log) = &log {
                search_log(log)?;
            }
            show::transfer(&trained.metrics)?;
            show::findings(&findings)?;
            println!("generation {} in {}", generation.short(), folder.display());
            println!("what the job showed of its inside: {}", page.display());
        }
        Format::Json => {
            let report = serde_json::json!({
                "generation": generation.to_hex(), "folder": folder, "report": page,
                "plan": plan, "findings": findings, "metrics": trained.metrics, "search": log,
            });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
    }
    Ok(())
}

/// The champion's, as it keeps its network; else the recipe's.
fn task(recipe: &Recipe, start: &StartingPoint) -> anyhow::Result<Task> {
    let StartingPoint::Champion(champion) = start else { return Ok(recipe.architecture.task) };
    let bytes = champion.files().get(ARCHITECTURE);
    let bytes = bytes.with_context(|| format!("the champion has no file `{ARCHITECTURE}`"))?;
    let architecture: Architecture = serde_json::from_slice(bytes).context(ARCHITECTURE)?;
    Ok(architecture.task)
}

/// The texts of a file's events, labelled or not.
pub(crate) fn texts(path: &Path) -> anyhow::Result<Vec<Input>> {
    let data = data::read(path, Task::NextToken)?;
    Ok(data.examples.into_iter().map(|example| example.input).collect())
}

/// Progress on standard error.
struct Bar(ProgressBar);

impl Bar {
    fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{elapsed} {bar:30} {pos}/{len} {msg}");
        let bar = ProgressBar::new(steps);
        bar.set_style(style.expect("the template is valid"));
        Self(bar)
    }
}

impl Observer for Bar {
    fn progress(&mut self, now: &Progress) {
        self.0.set_length(now.steps);
        self.0.set_position(now.step);
        self.0.set_message(format!("loss {:.4}", now.loss));
    }

    fn checkpoint(&mut self, _: u64, _: ArtifactHash) {}

    fn search(&mut self, now: &SearchProgress<'_>) {
        self.0.set_length(now.steps);
        self.0.set_position(now.step);
        let rungs = now.log.rungs.len();
        self.0.set_message(format!("rung {} of {rungs}, candidate {}", now.rung, now.candidate));
    }
}
