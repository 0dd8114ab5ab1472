//! Requests of one text, answered by the reference mixture of experts: ours beside PyTorch and ONNX
//! Runtime. `benchmarks/infer/run.sh` runs it.
use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use anyhow::Context as _;
use clap::Parser;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;
use serde::Deserialize;
use serde_json::json;
use tidegate_benchmarks::{
    Report, crate_version, reference, table,
    turns::{Peer, Samples, Timed},
};
use tidegate_model::{Batch, CpuBackend, Network, Weights};

/// Requests of one text, beside PyTorch and ONNX Runtime.
#[derive(Parser)]
struct Options {
    /// Python with PyTorch and ONNX Runtime.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/infer.json", overrides_with = "out")]
    out: PathBuf,
    /// Requests of each turn.
    #[arg(long, default_value_t = 200)]
    requests: usize,
    /// Turns of each.
    #[arg(long, default_value_t = 8)]
    turns: usize,
    /// Tokens of a text.
    #[arg(long, default_value_t = 64)]
    sequence: usize,
    /// Ways of the peers.
    #[arg(long, value_delimiter = ',', default_value = "eager,compiled,onnx")]
    ways: Vec<String>,
}

#[derive(Deserialize)]
struct First {
    ways: BTreeMap<String, Way>,
    versions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Way {
    logits_apart: f32,
}

#[derive(Deserialize)]
struct Latencies {
    microseconds: Vec<f64>,
}

#[derive(Deserialize)]
struct Throughput {
    requests: f64,
    seconds: f64,
}

const SEED: u64 = 7;
/// Sums in another order, over four layers.
const LOGITS_APART: f32 = 2e-3;
/// Threads that ask at the same time.
const CLIENTS: usize = 2;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut report = Report::begin(
        "infer",
        "latency of one text at a time, and throughput of two threads on one set of weights",
    );
    let a = reference::architecture();
    let threads = rayon::current_num_threads();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut row = |_| (0..options.sequence).map(|_| rng.random_range(0..a.vocab as u32)).collect();
    let rows: Vec<Vec<u32>> = (0..64).map(&mut row).collect();
    let start = Weights::<CpuBackend>::init(&a, a.vocab, SEED, &Default::default());
    let folder = tempfile::tempdir()?;
    let (weights, tokens) =
        (folder.path().join("weights.safetensors"), folder.path().join("tokens.bin"));
    std::fs::write(&weights, start.to_safetensors()?)?;
    let bytes = rows.iter().flatten().flat_map(|token| token.to_le_bytes());
    std::fs::write(&tokens, bytes.collect::<Vec<u8>>())?;
    let job = json!({
        "weights": weights, "tokens": tokens, "architecture": a, "threads": threads,
        "sequence": options.sequence, "warm_up": 50, "ways": options.ways,
        "folder": folder.path(),
    });
    eprintln!("PyTorch and ONNX Runtime load and compile");
    let script = "benchmarks/infer/peer.py";
    let (mut peer, first) = Peer::start::<First>(&options.python, script, &job, folder.path())?;
    let network = start.network;
    for (way, found) in &first.ways {
        let file = folder.path().join(format!("logits.{way}.bin"));
        let theirs = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
        let ours = answer(&network, &rows[0])?;
        let apart = theirs
            .chunks_exact(4)
            .zip(&ours)
            .map(|(theirs, ours)| (word(theirs) - ours).abs())
            .fold(found.logits_apart, f32::max);
        anyhow::ensure!(apart < LOGITS_APART, "{way}: logits are {apart} apart");
    }

    let mut samples = Samples::default();
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut next = rows.iter().cycle();
    for _ in 0..50 {
        answer(&network, next.next().context("rows go on")?)?;
    }
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {}", options.turns);
        let mut samples_s = Vec::with_capacity(options.requests);
        for row in next.by_ref().take(options.requests) {
            let began = Instant::now();
            tidegate_model::in_haste(|| answer(&network, row))?;
            samples_s.push(began.elapsed().as_secs_f64());
        }
        samples.add("ours", Timed { samples_s });
        rates.entry("ours".into()).or_default().push(throughput(&network, &rows, 1.0)?);
        for way in &options.ways {
            let found: Latencies = peer.ask(&format!("latency {way} {}", options.requests))?;
            let samples_s = found.microseconds.iter().map(|us| us / 1e6).collect();
            samples.add(way, Timed { samples_s });
            let found: Throughput = peer.ask(&format!("throughput {way} {CLIENTS} 1.0"))?;
            rates.entry(way.clone()).or_default().push(found.requests / found.seconds);
        }
    }

    let mut rows = table(&["", "p50 ms", "p99 ms", "ours is", "2 threads req/s", "ours is"]);
    let of = |name: &str| {
        let rate = tidegate_benchmarks::median(rates[name].clone());
        (samples.quantile(name, 0.5), samples.quantile(name, 0.99), rate)
    };
    let ours = of("ours");
    let mut result = BTreeMap::new();
    for name in std::iter::once("ours").chain(options.ways.iter().map(String::as_str)) {
        let (p50, p99, rate) = of(name);
        rows.add_row(vec![
            if name == "ours" { "tidegate".to_owned() } else { name.to_owned() },
            format!("{:.2}", 1e3 * p50),
            format!("{:.2}", 1e3 * p99),
            format!("{:.2} x", ours.0 / p50),
            format!("{rate:.0}"),
            format!("{:.2} x", ours.2 / rate),
        ]);
        let figures = json!({ "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "requests_s": rate });
        result.insert(name.to_owned(), figures);
    }
    let ratio: BTreeMap<&str, _> = options
        .ways
        .iter()
        .map(|way| {
            let (p50, _, rate) = of(way);
            (way.as_str(), json!({ "p50": ours.0 / p50, "throughput": ours.2 / rate }))
        })
        .collect();
    let flops = reference::forward_flops(&a, options.sequence) * options.sequence as f64;
    report.versions = first.versions;
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    report.result = json!({
        "sequence": options.sequence, "threads": threads, "requests": samples.count("ours"),
        "figures": result, "ratio": ratio, "flops": flops,
    });
    let notes = [
        format!("{} tokens a text; {threads} threads; logits of all tokens", options.sequence),
        format!("{:.0} MFLOP a request: {:.1} ms at 100 GFLOP/s", flops / 1e6, flops / 1e8),
        format!("{CLIENTS} threads: each computes alone, on the same weights, without a lock"),
    ];
    report.publish(&rows, &notes, &options.out)
}

fn answer(network: &Network<CpuBackend>, row: &[u32]) -> anyhow::Result<Vec<f32>> {
    let logits = network.forward(&Batch::of_tokens([row], &Default::default())).logits;
    logits.into_data().into_vec().ok().context("f32 on the CPU")
}

/// Requests a second of threads that each compute alone.
fn throughput(
    network: &Network<CpuBackend>,
    rows: &[Vec<u32>],
    seconds: f64,
) -> anyhow::Result<f64> {
    let began = Instant::now();
    let counts: Vec<anyhow::Result<usize>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let alone = ThreadPoolBuilder::new().num_threads(1).build()?;
                    let mut count = 0;
                    alone.install(|| -> anyhow::Result<()> {
                        for row in rows.iter().cycle().skip(client) {
                            if began.elapsed().as_secs_f64() > seconds {
                                break;
                            }
                            answer(network, row)?;
                            count += 1;
                        }
                        Ok(())
                    })?;
                    Ok(count)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client returns its error"))
            .collect()
    });
    let total: usize = counts.into_iter().sum::<anyhow::Result<usize>>()?;
    Ok(total as f64 / began.elapsed().as_secs_f64())
}
