//! What a GPU computes, beside the CPU; then how fast it trains a large mixture of experts.
//! `benchmarks/README.md` says how to carry it to a machine that has one.
use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use tidegate_benchmarks::{Report, crate_version, table};
use tidegate_model::{Device, Learns};

mod card;
mod checks;
mod jobs;
mod peer;
mod speed;

use card::Card;
use speed::{Measured, Sizes};

/// Checks and times a GPU.
#[derive(Parser)]
struct Options {
    /// `cuda:0`; or `cpu`: the operators that a GPU uses, on the CPU, which shows nothing but that
    /// they and this program work.
    #[arg(long, default_value = "cuda:0")]
    device: Device,
    /// A miniature of the network, for a CPU.
    #[arg(long)]
    small: bool,
    /// Python with PyTorch 2.8 or newer; without it there is no peer.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/gpu.json", overrides_with = "out")]
    out: PathBuf,
    /// Seconds of each measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// Texts of a step.
    #[arg(long)]
    batch: Option<NonZeroUsize>,
    /// Only the checks.
    #[arg(long)]
    checks_only: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    match options.device {
        Device::Cpu => {
            anyhow::ensure!(options.small, "on a CPU only the miniature ends: add --small");
            measure::<tidegate_model::PortableBackend>(&options, &Default::default(), None)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => {
            let device = burn::backend::cuda::CudaDevice::new(index);
            let card = Card::find(index)?;
            type Cuda = burn::backend::Autodiff<tidegate_model::CudaBackend>;
            measure::<Cuda>(&options, &device, Some(card))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => anyhow::bail!(
            "this build has no CUDA: build with `--features cuda` (`make bench-gpu` does), or use \
             `--device cpu --small`"
        ),
    }
}

fn measure<B: Learns>(
    options: &Options,
    device: &B::Device,
    card: Option<Card>,
) -> anyhow::Result<ExitCode> {
    let mut report = Report::begin(
        "gpu",
        "every operator and a training run beside the CPU's numbers; tokens a second of a mixture \
         of experts in bf16, and what share of the card's own matmul rate that is",
    );
    let name = card.as_ref().map_or("the CPU, by a GPU's operators", |card| card.name.as_str());
    eprintln!("checks on {name}");
    let mut checks = checks::operators::<B>(device);
    checks.extend(checks::steps::<B>(device)?);
    checks.extend(jobs::beside_cpu(options.device)?);
    let wrong = checks::show(&checks);
    if wrong > 0 {
        eprintln!("{wrong} of {} checks failed; nothing was timed", checks.len());
        return Ok(ExitCode::FAILURE);
    }
    if options.checks_only {
        return Ok(ExitCode::SUCCESS);
    }

    let sizes = Sizes::of(options.small, options.batch.map(NonZeroUsize::get), options.seconds);
    let architecture = &sizes.architecture;
    let (total, active) = sizes.parameters();
    eprintln!("{:.2} billion parameters, {:.2} a token", total as f64 / 1e9, active as f64 / 1e9);
    let mut matmul = speed::matmul::<B>(device, &sizes)?;
    let mut ours = Vec::new();
    for even in [true, false] {
        ours.push(speed::train::<B>(device, &sizes, even, card.as_ref())?);
    }
    let theirs = match &options.python {
        None => Err("no --python was given".to_owned()),
        Some(python) => peer::measure(python, &sizes).map_err(|error| format!("{error:#}")),
    };
    if let Ok(theirs) = &theirs {
        matmul.best = matmul.best.max(theirs.matmul_flops);
    }

    let flops = 3.0 * tidegate_benchmarks::reference::forward_flops(architecture, sizes.sequence);
    let share = |of: &Measured| of.tokens_per_s * flops / matmul.best;
    let mut rows =
        table(&["", "tok/s", "of the matmul rate", "memory GiB", "fullest expert", "steps"]);
    let mut add = |who: String, of: &Measured| {
        rows.add_row(vec![
            who,
            format!("{:.0}", of.tokens_per_s),
            format!("{:.1} %", 100.0 * share(of)),
            of.memory_gib.map_or_else(|| "?".to_owned(), |memory| format!("{memory:.1}")),
            format!("{:.2} x", of.fullest),
            of.steps.to_string(),
        ]);
    };
    for of in &ours {
        add(format!("tidegate, {}", of.way), of);
    }
    let mut ratio = BTreeMap::new();
    if let Ok(theirs) = &theirs {
        for of in &theirs.ways {
            add(format!("PyTorch, {}", of.way), of);
        }
        for own in &ours {
            let best = theirs.best(&own.routing);
            if best.is_finite() {
                ratio.insert(own.routing.clone(), own.tokens_per_s / best);
            }
        }
        report.versions.clone_from(&theirs.versions);
    }
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    report.versions.insert("cubecl".to_owned(), crate_version("cubecl"));
    report.result = json!({
        "device": card,
        "miniature": options.small,
        "architecture": architecture,
        "parameters": { "total": total, "active": active },
        "batch": sizes.batch,
        "sequence": sizes.sequence,
        "flops_a_token": flops,
        "matmul": matmul,
        "ours": ours.iter().map(|of| of.json(share(of))).collect::<Vec<_>>(),
        "pytorch": match &theirs {
            Ok(theirs) => json!(theirs.ways.iter().map(|of| of.json(share(of))).collect::<Vec<_>>()),
            Err(why) => json!({ "missing": why }),
        },
        "ratio": ratio,
        "checks": checks,
    });
    let mut notes = vec![
        format!("{name}; bf16, {} texts of {} tokens a step", sizes.batch, sizes.sequence),
        format!(
            "matmul rate {:.1} TFLOP/s, the best of all sizes{}",
            matmul.best / 1e12,
            if theirs.is_ok() { " and of both sides" } else { "" }
        ),
        format!("{} checks hold", checks.len()),
    ];
    notes.extend(ratio.iter().map(|(way, ratio)| format!("{ratio:.2} x PyTorch's best, {way}")));
    if let Err(why) = &theirs {
        notes.push(format!("no peer: {why}"));
    }
    if options.small {
        notes.push("a miniature: its speed says nothing of a GPU".to_owned());
    }
    report.publish(&rows, &notes, &options.out).context("the figures")?;
    Ok(ExitCode::SUCCESS)
}
