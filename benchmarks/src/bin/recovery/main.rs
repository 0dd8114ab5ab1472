//! How soon work goes on: the first step of a training job that was killed, and the first answer of
//! a large generation that was promoted; each beside PyTorch. `benchmarks/recovery/run.sh` runs it.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tidegate_benchmarks::{Report, crate_version, table};

mod resume;
mod swap;

/// Recovery, beside PyTorch.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Option<Options>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be the job that is killed; this program starts it by itself.
    #[command(hide = true)]
    Learn {
        /// Its mails.
        window: PathBuf,
        /// Where its checkpoints go.
        checkpoints: PathBuf,
    },
}

#[derive(Args)]
struct Options {
    /// The unpacked corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// Python with PyTorch.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/recovery.json", overrides_with = "out")]
    out: PathBuf,
    /// Kills of our job.
    #[arg(long, default_value_t = 12)]
    kills: usize,
    /// Runs of each peer.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Promotions of a generation that was not in memory.
    #[arg(long, default_value_t = 3)]
    swaps: usize,
    /// Transformer layers of that generation, 15 million weights each.
    #[arg(long, default_value_t = 7)]
    layers: usize,
}

/// The smallest, the middle and the largest of some seconds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
struct Spread {
    n: usize,
    least_s: f64,
    median_s: f64,
    most_s: f64,
}

impl Spread {
    fn of(mut seconds: Vec<f64>) -> anyhow::Result<Self> {
        seconds.sort_by(f64::total_cmp);
        let n = seconds.len();
        let (least_s, most_s) =
            seconds.first().copied().zip(seconds.last().copied()).context("no run")?;
        Ok(Self { n, least_s, median_s: seconds[n / 2], most_s })
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match (cli.command, cli.options) {
        (Some(Command::Learn { window, checkpoints }), _) => resume::learn(&window, &checkpoints),
        (None, Some(options)) => measure(&options),
        (None, None) => anyhow::bail!("--corpus and --python are needed"),
    }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    // `RUST_LOG=tidegate_gateway=debug` shows where the time of a swap goes.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut report = Report::begin(
        "recovery",
        "seconds from a kill to the first resumed step, and from a promotion to the first answer",
    );
    let folder = tempfile::tempdir()?;
    let killed = resume::kill(&options.corpus, folder.path(), options.kills)?;
    let peer = Peer { python: &options.python, folder: folder.path(), runs: options.runs };
    let torch_resume = peer.resume()?;
    let swapped = swap::promote(&options.corpus, folder.path(), options.swaps, options.layers)?;
    let (torch_load, versions) = peer.load(&swapped)?;
    let (resumed, served) =
        (Spread::of(killed.seconds.clone())?, Spread::of(swapped.seconds.clone())?);

    let mut rows = table(&["", "least s", "median s", "most s", "ours is", "runs"]);
    let mut row = |what: &str, of: Spread, ours: Spread| {
        rows.add_row(vec![
            what.to_owned(),
            format!("{:.3}", of.least_s),
            format!("{:.3}", of.median_s),
            format!("{:.3}", of.most_s),
            format!("{:.2} x", ours.median_s / of.median_s),
            of.n.to_string(),
        ]);
    };
    row("kill -9 to the first resumed step: tidegate", resumed, resumed);
    row("a new PyTorch process to its first step", torch_resume, resumed);
    row("promotion to the first answer: tidegate", served, served);
    row("PyTorch, loading to the first answer", torch_load, served);
    report.versions = versions;
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    report.result = json!({
        "resume": { "ours": resumed, "pytorch": torch_resume,
            "steps_lost": killed.steps_lost, "checkpoint_bytes": killed.checkpoint_bytes },
        "swap": { "ours": served, "pytorch": torch_load, "parameters": swapped.parameters,
            "prepare_ms": swapped.prepare_ms, "requests": swapped.requests,
            "failed_requests": swapped.failed },
    });
    let notes = [
        format!(
            "a checkpoint of {:.0} MB, at most every half second; {:.1} steps were lost on average",
            killed.checkpoint_bytes as f64 / 1e6,
            killed.steps_lost
        ),
        "resume: process start, reading and checking data and checkpoint, one step; PyTorch: \
         process start and imports, `torch.load` of weights and AdamW state, one step"
            .to_owned(),
        format!(
            "swap: {:.0} million weights, f32, read from the artifact store, verified by BLAKE3, \
             built, compared, warmed; {} requests meanwhile, a pause of 50 ms after each, {} \
             failed. PyTorch is running already: SHA-256 of the file, `load_file`, `load_state_dict`, one forward",
            swapped.parameters as f64 / 1e6,
            swapped.requests,
            swapped.failed
        ),
        "files come from the page cache where it still has them: a disk adds its own time"
            .to_owned(),
    ];
    report.publish(&rows, &notes, &options.out)
}

/// The peer's side: `benchmarks/recovery/peer.py`.
struct Peer<'a> {
    python: &'a Path,
    folder: &'a Path,
    runs: usize,
}

impl Peer<'_> {
    /// Seconds from the start of a process to its first step.
    fn resume(&self) -> anyhow::Result<Spread> {
        let checkpoint = self.folder.join("torch.ckpt");
        let job = json!({
            "architecture": tidegate_benchmarks::reference::architecture(),
            "checkpoint": checkpoint, "batch": 8, "threads": rayon::current_num_threads(),
        });
        self.call("make", &job)?;
        let mut seconds = Vec::new();
        for _ in 0..self.runs {
            let began = std::time::Instant::now();
            self.call("resume", &job)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        Spread::of(seconds)
    }

    /// Seconds of each load, and the versions of what loads.
    fn load(&self, swapped: &swap::Swapped) -> anyhow::Result<(Spread, BTreeMap<String, String>)> {
        let weights = self.folder.join("weights.safetensors");
        std::fs::write(&weights, &swapped.weights)?;
        let job = json!({
            "architecture": swapped.architecture, "classes": swapped.classes, "weights": weights,
            "runs": self.runs, "threads": rayon::current_num_threads(),
        });
        let answer: serde_json::Value = serde_json::from_str(&self.call("load", &job)?)?;
        let seconds: Vec<f64> = serde_json::from_value(answer["seconds"].clone())?;
        let versions = serde_json::from_value(answer["versions"].clone())?;
        Ok((Spread::of(seconds)?, versions))
    }

    fn call(&self, what: &str, job: &serde_json::Value) -> anyhow::Result<String> {
        let path = self.folder.join("job.json");
        std::fs::write(&path, serde_json::to_vec(job)?)?;
        let mut command = std::process::Command::new(self.python);
        let out = command.arg("benchmarks/recovery/peer.py").arg(what).arg(&path).output()?;
        let error = String::from_utf8_lossy(&out.stderr);
        anyhow::ensure!(out.status.success(), "peer, {what}: {error}");
        Ok(String::from_utf8(out.stdout)?)
    }
}
