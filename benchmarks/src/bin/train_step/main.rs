//! Training steps of the reference mixture of experts, beside the same network in PyTorch.
//! `benchmarks/train_step/run.sh` runs it.
use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use burn::tensor::{Distribution, Tensor};
use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_benchmarks::{
    Report, crate_version, reference, table, training,
    turns::{Peer, Samples, Timed, timed},
};
use tidegate_model::{CpuBackend, Weights, in_haste};

mod ours;

use ours::{Ours, ours};

/// Training steps, beside PyTorch.
#[derive(Parser)]
struct Options {
    /// Python with PyTorch.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/train_step.json", overrides_with = "out")]
    out: PathBuf,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Turns of each.
    #[arg(long, default_value_t = 6)]
    turns: usize,
    /// Ways that the peer runs the network.
    #[arg(long, value_delimiter = ',', default_value = "sorted,grouped,compiled")]
    ways: Vec<String>,
}

/// What both sides are given.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    threads: usize,
    batch: usize,
    sequence: usize,
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    balance: f32,
    check_steps: usize,
    seed: u64,
}

/// What the peer says first.
#[derive(Deserialize)]
struct First {
    ways: BTreeMap<String, Way>,
    versions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Way {
    losses: Vec<f32>,
    logits_apart: f32,
}

/// Logits may differ by so much: sums in another order, over four layers.
const LOGITS_APART: f32 = 2e-3;
/// Losses may differ by so much, as a share, after a few steps.
const LOSSES_APART: f32 = 1e-3;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut report = Report::begin(
        "train_step",
        "tokens a second of the reference mixture of experts on the CPU, f32, forward and training",
    );
    let architecture = reference::architecture();
    let settings = Settings {
        threads: rayon::current_num_threads(),
        batch: 8,
        sequence: 128,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        balance: 1e-3,
        check_steps: 5,
        seed: 7,
    };
    let folder = tempfile::tempdir()?;
    let rows = training::rows(architecture.vocab as u32, 64, settings.sequence + 1);
    let mut ours = ours(&architecture, &settings, &rows);

    let [weights, tokens, logits] =
        ["weights.safetensors", "tokens.bin", "logits.bin"].map(|name| folder.path().join(name));
    let start = Weights::<CpuBackend>::init(
        &architecture,
        architecture.vocab,
        settings.seed,
        &Default::default(),
    );
    std::fs::write(&weights, start.to_safetensors()?)?;
    let bytes = rows.iter().flatten().flat_map(|token| token.to_le_bytes());
    std::fs::write(&tokens, bytes.collect::<Vec<u8>>())?;
    let mut job = serde_json::to_value(&settings)?;
    let fields = job.as_object_mut().context("settings are an object")?;
    fields.insert("weights".into(), json!(weights));
    fields.insert("tokens".into(), json!(tokens));
    fields.insert("logits".into(), json!(logits));
    fields.insert("architecture".into(), serde_json::to_value(&architecture)?);
    fields.insert("ways".into(), json!(options.ways));
    eprintln!("PyTorch loads and compiles");
    let script = "benchmarks/train_step/peer.py";
    let (mut peer, first) = Peer::start::<First>(&options.python, script, &job, folder.path())?;
    check(&mut ours, &first, &std::fs::read(&logits)?, &settings)?;

    let mut samples = Samples::default();
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {}", options.turns);
        let seconds = options.seconds;
        samples.add("matmul ours", matmul(seconds / 4.0)?);
        samples.add("matmul torch", peer.ask::<Timed>(&format!("matmul {}", seconds / 4.0))?);
        for what in ["forward", "train"] {
            samples.add(
                what,
                timed(seconds, || match what {
                    // As a request is answered, and as the trainer learns.
                    "forward" => in_haste(|| ours.forward().map(drop)),
                    _ => rayon::scope(|_| ours.step().map(drop)),
                })?,
            );
            for way in &options.ways {
                let turn = peer.ask(&format!("{what} {way} {seconds}"))?;
                samples.add(&format!("{what} {way}"), turn);
            }
        }
    }

    let tokens = (settings.batch * settings.sequence) as f64;
    let flops = reference::forward_flops(&architecture, settings.sequence);
    let peak = ["matmul ours", "matmul torch"]
        .map(|name| 2.0 * 1024_f64.powi(3) / samples.quantile(name, 0.5))
        .into_iter()
        .fold(0.0, f64::max);
    let rate = |name: &str| tokens / samples.quantile(name, 0.5);
    let mut rows = table(&["", "forward tok/s", "of peak", "training tok/s", "of peak", "steps"]);
    let mut row = |who: &str, forward: f64, train: f64, count: usize| {
        rows.add_row(vec![
            who.to_owned(),
            format!("{forward:.0}"),
            format!("{:.0} %", 100.0 * forward * flops / peak),
            format!("{train:.0}"),
            format!("{:.0} %", 100.0 * train * 3.0 * flops / peak),
            count.to_string(),
        ]);
    };
    let (forward, train) = (rate("forward"), rate("train"));
    row("tidegate", forward, train, samples.count("train"));
    let mut best = (0.0_f64, 0.0_f64);
    let mut ways = BTreeMap::new();
    for way in &options.ways {
        let of = |what: &str| rate(&format!("{what} {way}"));
        let found = (of("forward"), of("train"));
        best = (best.0.max(found.0), best.1.max(found.1));
        row(&format!("PyTorch, {way}"), found.0, found.1, samples.count(&format!("train {way}")));
        ways.insert(way.clone(), json!({ "forward": found.0, "train": found.1 }));
    }
    row("limit: every FLOP at the matmul rate", peak / flops, peak / flops / 3.0, 0);
    report.versions = first.versions;
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    report.versions.insert("gemm".to_owned(), crate_version("gemm"));
    report.result = json!({
        "settings": settings,
        "matmul_gflops": peak / 1e9,
        "matmul_gflops_ours": 2.0 * 1024_f64.powi(3) / samples.quantile("matmul ours", 0.5) / 1e9,
        "matmul_gflops_torch": 2.0 * 1024_f64.powi(3) / samples.quantile("matmul torch", 0.5) / 1e9,
        "forward_flops_a_token": flops,
        "ours": { "forward": forward, "train": train },
        "pytorch": ways,
        "ratio": { "forward": forward / best.0, "train": train / best.1 },
    });
    let notes = [
        format!(
            "ours is {:.2} x PyTorch's best way forward, {:.2} x in training; {} threads each",
            forward / best.0,
            train / best.1,
            settings.threads
        ),
        format!(
            "{:.2} MFLOP a token forward, three times that in training; matmul rate {:.0} GFLOP/s \
             (1024 x 1024, the better of both)",
            flops / 1e6,
            peak / 1e9
        ),
        "medians over all turns; the same losses over the first steps".to_owned(),
    ];
    report.publish(&rows, &notes, &options.out)
}

/// Both sides must do the same: logits before, and losses of the first steps.
fn check(ours: &mut Ours, first: &First, logits: &[u8], settings: &Settings) -> anyhow::Result<()> {
    let found = ours.forward()?;
    let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
    let apart = logits
        .chunks_exact(4)
        .zip(&found)
        .map(|(theirs, ours)| (word(theirs) - ours).abs())
        .fold(0.0, f32::max);
    anyhow::ensure!(apart < LOGITS_APART, "logits are {apart} apart: not the same network");
    ours.begin_again();
    let losses: Vec<f32> =
        (0..settings.check_steps).map(|_| ours.step()).collect::<anyhow::Result<_>>()?;
    for (way, theirs) in &first.ways {
        anyhow::ensure!(
            theirs.logits_apart < LOGITS_APART,
            "{way}: logits are {} apart from the peer's own",
            theirs.logits_apart
        );
        for (ours, theirs) in losses.iter().zip(&theirs.losses) {
            let same = (ours - theirs).abs() <= LOSSES_APART * theirs.abs();
            anyhow::ensure!(same, "{way}: our loss is {ours}, theirs {theirs}");
        }
    }
    eprintln!("logits at most {apart:.1e} apart; losses of ours: {losses:.4?}");
    Ok(())
}

/// Seconds of 1024 x 1024 products.
fn matmul(seconds: f64) -> anyhow::Result<Timed> {
    let device = Default::default();
    let random =
        || Tensor::<CpuBackend, 2>::random([1024, 1024], Distribution::Uniform(0.0, 1.0), &device);
    let (a, b) = (random(), random());
    timed(seconds, || {
        std::hint::black_box(a.clone().matmul(b.clone()));
        Ok(())
    })
}
