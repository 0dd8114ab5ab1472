//! The latency that the gateway adds to the bare forward of its model, one text a request.
//! `benchmarks/gateway/run.sh` runs it.
use std::{path::PathBuf, sync::Arc};

use clap::{Args, Parser, Subcommand};
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tidegate_benchmarks::{Report, client, corpus, crate_version, table};
use tidegate_contracts::proto::inference::ModelInferResponse;
use tidegate_model::{Input, Model};

mod echo;
mod latency;
mod open;
mod sequential;
mod service;

use latency::{Latencies, Percentiles};

/// Latency added by the gateway.
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
    /// Be the echo server; this program starts it by itself.
    #[command(hide = true)]
    Echo {
        /// The message it answers with, encoded.
        answer: PathBuf,
    },
}

#[derive(Args)]
struct Options {
    /// The unpacked corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// The `tidegate` program.
    #[arg(long)]
    tidegate: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/gateway.json", overrides_with = "out")]
    out: PathBuf,
    /// Requests of the one client that waits.
    #[arg(long, default_value_t = 2_000)]
    requests: usize,
    /// Seconds of each block of the open loop.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Blocks of the open loop.
    #[arg(long, default_value_t = 4)]
    blocks: usize,
}

/// Mails that the served model learns.
const TAUGHT: usize = 900;
/// Mails that are asked about; others than those.
const ASKED: usize = 1_000;

/// Latencies of the three that answer requests.
struct Measured {
    bare: Latencies,
    echo: Latencies,
    gateway: Latencies,
}

impl Measured {
    fn new() -> Self {
        Self { bare: Latencies::new(), echo: Latencies::new(), gateway: Latencies::new() }
    }
}

/// The same, as percentiles, with what follows from them.
#[derive(Clone, Copy, serde::Serialize)]
struct Split {
    bare: Percentiles,
    gateway: Percentiles,
    echo: Percentiles,
    added_p50_us: f64,
    added_p99_us: f64,
}

impl Split {
    fn of(measured: &Measured) -> Self {
        let (bare, gateway) = (measured.bare.percentiles(), measured.gateway.percentiles());
        Self {
            bare,
            gateway,
            echo: measured.echo.percentiles(),
            added_p50_us: gateway.p50_us - bare.p50_us,
            added_p99_us: gateway.p99_us - bare.p99_us,
        }
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli { command: Some(Command::Echo { answer }), .. } => echo::serve(&answer),
        Cli { options: Some(options), .. } => run(&options),
        Cli { .. } => anyhow::bail!("--corpus and --tidegate are needed"),
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let mut report = Report::begin(
        "gateway",
        "latency that the gateway adds to the bare forward, one text a request",
    );
    let folder = tempfile::tempdir()?;
    let mut mails = corpus::mails(&options.corpus)?;
    mails.shuffle(&mut ChaCha8Rng::seed_from_u64(7));
    anyhow::ensure!(mails.len() >= TAUGHT + ASKED, "the corpus has only {} mails", mails.len());
    let (taught, others) = mails.split_at(TAUGHT);
    let texts: Arc<Vec<String>> =
        Arc::new(others[..ASKED].iter().map(|mail| mail.text.clone()).collect());

    let runtime = service::runtime()?;
    let mut service = service::Service::start(&options.tidegate, folder.path())?;
    eprintln!("tidegate learns {TAUGHT} mails from nothing");
    let mut gateway = runtime.block_on(service.learn(taught))?;
    let response = runtime.block_on(client::ask(&mut gateway, &texts[0]))?;
    let model = runtime.block_on(service.model(&response))?;
    same_answer(&model, &texts[0], &response)?;
    let echo = echo::Echo::start(&response, folder.path())?;
    let socket = echo::Socket::connect(echo.at.tcp, &response)?;
    let echo_client = runtime.block_on(client::connect(echo.at.grpc))?;

    eprintln!("sequentially: {} requests of each", options.requests);
    let sides = sequential::Sides {
        model: &model,
        gateway: gateway.clone(),
        echo: echo_client.clone(),
        socket,
    };
    let before = service.inside()?;
    let closed = sequential::run(&runtime, sides, &texts, options.requests)?;
    let inside = service.inside()?.since(&before);
    let one = Split::of(&closed.measured);
    let limit = closed.socket.percentiles();
    let added = |q: f64| closed.added_us[((closed.added_us.len() - 1) as f64 * q) as usize];

    eprintln!("saturation");
    let workers = report.machine.cores.saturating_sub(1).max(1);
    let saturation = open::saturation(&runtime, &gateway, &texts, options.seconds)?;
    let bare_capacity = workers as f64 * 1e6 / one.bare.mean_us;
    let rate = saturation.min(bare_capacity) / 2.0;
    let load = open::Load { rate, seconds: options.seconds, blocks: options.blocks, workers };
    eprintln!("open loop at {rate:.0} requests/s");
    let open = open::run(&runtime, &model, [&gateway, &echo_client], &texts, load)?;
    let half = Split::of(&open.measured);
    let late = open.lateness.percentiles();

    report.versions = ["tonic", "burn"].map(|name| (name.to_owned(), crate_version(name))).into();
    let generation: String = response.model_version.chars().take(8).collect();
    report.result = json!({
        "unit": "microseconds",
        "text_bytes_mean": texts.iter().map(String::len).sum::<usize>() as f64 / ASKED as f64,
        "sequential": one,
        "sequential_added_of_each_text": { "p50_us": added(0.5), "p99_us": added(0.99) },
        "sequential_inside_means": inside,
        "half_of_saturation": half,
        "saturation_requests_per_s": saturation,
        "bare_capacity_requests_per_s": bare_capacity,
        "rate_requests_per_s": rate,
        "requests_left_late": late,
        "limit_tcp_round_trip": limit,
        "failed_requests": 0,
        "ratio": {
            "gateway_to_bare_p50": one.gateway.p50_us / one.bare.p50_us,
            "gateway_to_bare_p99": one.gateway.p99_us / one.bare.p99_us,
            "added_to_bare_tonic_p50": one.added_p50_us / one.echo.p50_us,
            "added_to_tcp_p50": one.added_p50_us / limit.p50_us,
            "half_of_saturation_gateway_to_bare_p50": half.gateway.p50_us / half.bare.p50_us,
            "half_of_saturation_gateway_to_bare_p99": half.gateway.p99_us / half.bare.p99_us,
        },
    });

    let rows = rows(&one, &half, &limit);
    let notes = [
        format!(
            "milliseconds; generation {generation}, texts of {:.0} bytes on average; no request failed",
            texts.iter().map(String::len).sum::<usize>() as f64 / ASKED as f64
        ),
        format!(
            "of each single text, sequentially, the gateway adds {:.3} ms in the median: {:.1} % of \
             its forward",
            added(0.5) / 1e3,
            100.0 * added(0.5) / one.bare.p50_us
        ),
        format!(
            "means, one client: forward {:.3} ms here and {:.3} in the gateway, which also waits {:.3} \
             for a model thread and spends {:.3} on its own; {:.3} on the wire and in the client",
            one.bare.mean_us / 1e3,
            inside.forward_us / 1e3,
            inside.queued_us / 1e3,
            (inside.answering_us - inside.forward_us - inside.queued_us) / 1e3,
            (one.gateway.mean_us - inside.answering_us) / 1e3
        ),
        format!(
            "half of saturation: {rate:.0} requests/s by a Poisson process, from when each was due; \
             the bare forward has the same arrivals behind a bare queue ({workers} worker)"
        ),
        format!(
            "saturation: the gateway {saturation:.0} requests/s (it batches; the clients use the same \
             cores), the bare forward {bare_capacity:.0}",
        ),
        format!(
            "requests left {:.3} ms late in the median, {:.3} ms at p99",
            late.p50_us / 1e3,
            late.p99_us / 1e3
        ),
    ];
    report.publish(&rows, &notes, &options.out)
}

fn rows(one: &Split, half: &Split, limit: &Percentiles) -> comfy_table::Table {
    let mut rows = table(&["", "one client p50", "p99", "half of saturation p50", "p99"]);
    let ms = |us: f64| format!("{:.3}", us / 1e3);
    let mut row = |who: &str, figures: [f64; 4]| {
        let mut cells = vec![who.to_owned()];
        cells.extend(figures.map(ms));
        rows.add_row(cells);
    };
    let both = |of: fn(&Split) -> Percentiles| {
        let (one, half) = (of(one), of(half));
        [one.p50_us, one.p99_us, half.p50_us, half.p99_us]
    };
    let (bare, gateway, echo) = (both(|s| s.bare), both(|s| s.gateway), both(|s| s.echo));
    let less = |a: [f64; 4], b: [f64; 4]| std::array::from_fn(|i| a[i] - b[i]);
    row("bare forward", bare);
    row("tidegate, over gRPC", gateway);
    row("added by tidegate", less(gateway, bare));
    row("  bare tonic, same messages", echo);
    row("  added beyond bare tonic", less(less(gateway, bare), echo));
    rows.add_row(vec![
        "limit: TCP there and back".to_owned(),
        ms(limit.p50_us),
        ms(limit.p99_us),
        "-".to_owned(),
        "-".to_owned(),
    ]);
    rows
}

/// Both sides run the same model, or the comparison would mean nothing.
fn same_answer(model: &Model, text: &str, response: &ModelInferResponse) -> anyhow::Result<()> {
    let scores = model.predict(&[Input::text(text)])?.swap_remove(0);
    let (index, probability) = scores.best();
    let (label, answered) =
        client::answer(response).ok_or_else(|| anyhow::anyhow!("the answer has no label"))?;
    let same = model.labels()[index].as_str().as_bytes() == label;
    anyhow::ensure!(
        same && (probability - answered).abs() < 1e-4,
        "gateway and bare forward answer differently: {answered} and {probability}"
    );
    Ok(())
}
