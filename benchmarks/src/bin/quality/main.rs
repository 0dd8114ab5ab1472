//! Prequential accuracy on the demo's stream: our generations beside scikit-learn, updated in the
//! same batches. `benchmarks/quality/run.sh` runs it.
use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::Context as _;
use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use tidegate_benchmarks::{
    Report,
    corpus::{self, Mail},
    crate_version, table,
};

mod ours;
mod scores;

use ours::Seconds;
use scores::{difference, score};

/// Prequential accuracy, beside scikit-learn.
#[derive(Parser)]
struct Options {
    /// The unpacked corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// Python with scikit-learn.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/quality.json", overrides_with = "out")]
    out: PathBuf,
    /// What an earlier `make demo` found, to be quoted if it is there.
    #[arg(long, default_value = "demo-report/report.json")]
    demo_report: PathBuf,
    /// Batches, from the beginning of the stream; all of them when absent.
    #[arg(long)]
    batches: Option<usize>,
}

/// River's bag of words with complement naive Bayes, which learns each mail before the next one
/// comes: measured on this stream when the project began, on another machine and not in this run.
const ONE_BY_ONE: f64 = 0.975;

/// One learner of the peer.
#[derive(Deserialize)]
struct Learner {
    /// Predictions of each run.
    runs: Vec<Vec<Option<String>>>,
    #[serde(flatten)]
    seconds: Seconds,
}

#[derive(Deserialize)]
struct Peer {
    sgd: Learner,
    scratch: Learner,
    hindsight: Learner,
    versions: BTreeMap<String, String>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut report = Report::begin(
        "quality",
        "prequential accuracy after the first 250 mails, learners updated in the same batches",
    );
    let mut batches = corpus::days(&options.corpus)?;
    batches.truncate(options.batches.unwrap_or(usize::MAX));
    let mails: usize = batches.iter().map(Vec::len).sum();
    let folder = tempfile::tempdir()?;

    let ours = ours::replay(&batches, folder.path())?;
    let peer = peer(&options, &batches, folder.path())?;
    let best = score(&batches, &ours.predictions);
    let sgd: Vec<_> = peer.sgd.runs.iter().map(|run| score(&batches, run)).collect();
    let sgd_accuracy = mean(sgd.iter().map(|s| s.accuracy));
    let sgd_f1 = mean(sgd.iter().map(|s| s.macro_f1));
    let spread = sgd.iter().map(|s| (s.accuracy - sgd_accuracy).abs()).fold(0.0, f64::max);
    let scratch = score(&batches, &peer.scratch.runs[0]);
    let hindsight = score(&batches, &peer.hindsight.runs[0]);
    let to_sgd = difference(&batches, &ours.predictions, &peer.sgd.runs[0]);
    let to_scratch = difference(&batches, &ours.predictions, &peer.scratch.runs[0]);
    let training = ours.cold_start.plus(ours.hot_updates);
    let gated = gated(&options.demo_report);

    report.versions = peer.versions;
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    report.result = json!({
        "mails": mails,
        "batches": batches.len(),
        "counted": best.n,
        "ours": { "scores": best, "training": training, "cold_start": ours.cold_start },
        "sgd": {
            "accuracy": sgd_accuracy,
            "macro_f1": sgd_f1,
            "seeds": sgd.len(),
            "largest_deviation": spread,
            "training": peer.sgd.seconds,
        },
        "retrained_from_scratch": { "scores": scratch, "training": peer.scratch.seconds },
        "hindsight": hindsight,
        "one_by_one_not_in_this_run": ONE_BY_ONE,
        "gated_demo": gated,
        "ours_less_sgd": to_sgd,
        "ours_less_retrained": to_scratch,
        "ratio": {
            "error_ours_to_sgd": (1.0 - best.accuracy) / (1.0 - sgd_accuracy),
            "error_ours_to_retrained": (1.0 - best.accuracy) / (1.0 - scratch.accuracy),
            "error_ours_to_hindsight": (1.0 - best.accuracy) / (1.0 - hindsight.accuracy),
            "training_cpu_ours_to_retrained": training.cpu_s / peer.scratch.seconds.cpu_s,
            "training_cpu_ours_to_sgd": training.cpu_s / peer.sgd.seconds.cpu_s,
        },
    });

    let mut rows = table(&["", "accuracy", "macro-F1", "errors, ours is", "training s", "CPU s"]);
    let mut row = |who: &str, accuracy: f64, f1: Option<f64>, seconds: Option<Seconds>| {
        let of = |figure: fn(Seconds) -> f64| {
            seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1}", figure(seconds)))
        };
        rows.add_row(vec![
            who.to_owned(),
            format!("{accuracy:.4}"),
            f1.map_or_else(|| "-".to_owned(), |f1| format!("{f1:.4}")),
            format!("{:.2} x", (1.0 - best.accuracy) / (1.0 - accuracy)),
            of(|s| s.wall_s),
            of(|s| s.cpu_s),
        ]);
    };
    row("tidegate, hot updates", best.accuracy, Some(best.macro_f1), Some(training));
    if let Some(gated) = &gated {
        row("tidegate, through the gate (demo)", gated.accuracy, Some(gated.macro_f1), None);
    }
    row("SGD, hashed 1-2-grams", sgd_accuracy, Some(sgd_f1), Some(peer.sgd.seconds));
    row(
        "TF-IDF + logistic regression, from scratch",
        scratch.accuracy,
        Some(scratch.macro_f1),
        Some(peer.scratch.seconds),
    );
    row(
        "limit: the same with hindsight (5 folds)",
        hindsight.accuracy,
        Some(hindsight.macro_f1),
        None,
    );
    row("River, mail by mail (not this run)", ONE_BY_ONE, None, None);
    let mut notes = vec![
        format!("{mails} mails in {} batches; {} predictions count", batches.len(), best.n),
        format!(
            "ours less SGD's first seed: {:+.2} points (95 % interval {:+.2} to {:+.2}, batches \
             resampled); the table has the mean of {} seeds, none further than {:.2} points from it",
            to_sgd.points,
            to_sgd.low,
            to_sgd.high,
            sgd.len(),
            100.0 * spread
        ),
        format!(
            "ours less retrained: {:+.2} points ({:+.2} to {:+.2}) with {:.2} of its CPU time",
            to_scratch.points,
            to_scratch.low,
            to_scratch.high,
            training.cpu_s / peer.scratch.seconds.cpu_s
        ),
        format!("our cold start took {:.1} s of ours", ours.cold_start.wall_s),
    ];
    if let Some(gated) = &gated {
        notes.push(format!(
            "the demo's figure is of {}: it learns from 85 % of the mails (the rest judges), one \
             day is poisoned, and the gate may block",
            gated.date
        ));
    }
    report.publish(&rows, &notes, &options.out)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

/// Writes the batches and runs scikit-learn on them.
fn peer(
    options: &Options,
    batches: &[Vec<Mail>],
    folder: &std::path::Path,
) -> anyhow::Result<Peer> {
    let mut lines = String::new();
    for (batch, mails) in batches.iter().enumerate() {
        for mail in mails {
            let line = json!({ "batch": batch, "text": mail.text, "label": mail.label });
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
    }
    let input = folder.join("batches.jsonl");
    std::fs::write(&input, lines)?;
    eprintln!("scikit-learn");
    let output = Command::new(&options.python)
        .arg("benchmarks/quality/peer.py")
        .arg(&input)
        .output()
        .with_context(|| options.python.display().to_string())?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "benchmarks/quality/peer.py: {error}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The champion's figures in the demo's report.
#[derive(serde::Serialize)]
struct Gated {
    accuracy: f64,
    macro_f1: f64,
    date: String,
}

fn gated(report: &std::path::Path) -> Option<Gated> {
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).ok()?).ok()?;
    let figures = &report["prequential"]["after_first_250"];
    Some(Gated {
        accuracy: figures["accuracy"].as_f64()?,
        macro_f1: figures["macro_f1"].as_f64()?,
        date: report["machine"]["date"].as_str()?.to_owned(),
    })
}
