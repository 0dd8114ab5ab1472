//! Prequential accuracy on real streams: our generations beside scikit-learn and River, updated in
//! the same batches. `benchmarks/quality/run.sh` runs it.
use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, process::Command};

use anyhow::Context as _;
use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use tidegate_benchmarks::{
    Report, crate_version,
    learner::Seconds,
    streams::{self, Stream},
    table,
};
use tidegate_learning::Recipe;

mod ours;
mod scores;

use scores::{Scores, difference, score};

/// Prequential accuracy, beside scikit-learn and River.
#[derive(Parser)]
struct Options {
    /// The unpacked e-mail corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// The unpacked opinions.
    #[arg(long)]
    opinions: PathBuf,
    /// Python with scikit-learn and River.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/quality.json", overrides_with = "out")]
    out: PathBuf,
    /// What an earlier `make demo` found, to be quoted if it is there.
    #[arg(long, default_value = "demo-report/report.json")]
    demo_report: PathBuf,
    /// Our own cold start on all so far is done before each so many-th batch.
    #[arg(long, default_value = "8")]
    scratch_every: NonZeroUsize,
    /// Only these streams, separated by commas.
    #[arg(long, value_delimiter = ',')]
    streams: Vec<String>,
    /// What this file changes of the default recipe, for our updates.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// On the first fifth of each stream and scored there: what settings are chosen on. Writes
    /// nothing.
    #[arg(long)]
    development: bool,
    /// A few batches, to see whether it runs; writes nothing.
    #[arg(long)]
    quick: bool,
}

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
    passive_aggressive: Learner,
    complement_nb: Learner,
    river: Learner,
    river_at_once: Learner,
    scratch: Learner,
    hindsight: Learner,
    versions: BTreeMap<String, String>,
}

/// A line of the table.
struct Line {
    who: &'static str,
    scores: Scores,
    training: Seconds,
    predictions: Vec<Option<String>>,
    /// Learns when we do: what ours is to be above of.
    batch: bool,
}

const OURS: &str = "tidegate, hot updates";
const OWN_SCRATCH: &str = "tidegate, from scratch each batch";
const SCRATCH: &str = "TF-IDF + logistic regression, from scratch each batch";
const AT_ONCE: &str = "labels at once: River's complement naive Bayes";
const HINDSIGHT: &str = "limit: TF-IDF with hindsight (5 folds)";

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let recipe = match &options.recipe {
        Some(path) => Recipe::from_toml(&std::fs::read_to_string(path)?)?,
        None => Recipe::default(),
    };
    let mut report = Report::begin(
        "quality",
        "prequential accuracy on the last four fifths of each stream, learners updated in the same \
         batches",
    );
    let mut streams = streams::all(&options.corpus, &options.opinions)?;
    streams.retain(|s| options.streams.is_empty() || options.streams.iter().any(|n| n == s.name));
    if options.development {
        return development(&options, &streams, &recipe);
    }
    let mut rows = table(&[
        "stream",
        "",
        "accuracy",
        "macro-F1",
        "ours less it",
        "95 %",
        "CPU s",
        "ours / its",
    ]);
    let mut notes = Vec::new();
    let mut results = serde_json::Map::new();
    for stream in &mut streams {
        if options.quick {
            stream.batches.truncate(6);
        }
        let (lines, cold_start) = measure(&options, stream, &recipe, &mut report.versions)?;
        results.insert(stream.name.to_owned(), told(stream, &lines, cold_start, &mut rows));
        let texts: usize = stream.batches.iter().map(Vec::len).sum();
        notes.push(format!(
            "{}: {}; {texts} texts in {} batches, {} predictions count; our cold start took {:.1} \
             CPU s",
            stream.name,
            stream.about,
            stream.batches.len(),
            lines[0].scores.n,
            cold_start.cpu_s,
        ));
    }
    notes.push(format!(
        "{OWN_SCRATCH}: done before each {}th batch, compared there; CPU s as if before each",
        options.scratch_every
    ));
    let gated = gated(&options.demo_report);
    if let Some(gated) = &gated {
        notes.push(format!(
            "the demo of {} had {:.4} after its first 250 mails: it learns from 85 % of them (the \
             rest judges), one day is poisoned, and the gate may block",
            gated.date, gated.accuracy
        ));
    }
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    report.result = json!({ "streams": results, "gated_demo": gated });
    if options.quick || !options.streams.is_empty() || options.recipe.is_some() {
        let aside = tempfile::tempdir()?;
        return report.publish(&rows, &notes, &aside.path().join("quality.json"));
    }
    report.publish(&rows, &notes, &options.out)
}

/// Scores where settings may be chosen; peers' beside ours.
fn development(options: &Options, streams: &[Stream], recipe: &Recipe) -> anyhow::Result<()> {
    for stream in streams {
        let mut short = stream.clone();
        let (skipped, mut kept) = (scores::skipped(stream), 0);
        short.batches.retain(|batch| {
            kept += batch.len();
            kept <= skipped
        });
        let ours = ours::updated(&short, recipe, 1)?;
        let folder = tempfile::tempdir()?;
        let peer = peer(options, &short, folder.path())?;
        // All of it is before what counts in a report.
        let found = |predictions: &[Option<String>]| score(stream, predictions, true);
        let say = |who: &str, scores: &Scores, cpu_s: f64| {
            println!(
                "{}, {who}: accuracy {:.4}, macro-F1 {:.4} over {}; {cpu_s:.1} CPU s",
                stream.name, scores.accuracy, scores.macro_f1, scores.n
            );
        };
        say("tidegate", &found(&ours.predictions), ours.training.cpu_s);
        for (who, learner) in [
            ("TF-IDF + logistic regression", peer.scratch),
            ("SGD", peer.sgd),
            ("passive-aggressive", peer.passive_aggressive),
            ("complement naive Bayes", peer.complement_nb),
            ("River's complement naive Bayes", peer.river),
        ] {
            say(who, &found(&middle(learner.runs, &found)), learner.seconds.cpu_s);
        }
    }
    Ok(())
}

/// The middle one of several seeds.
fn middle(
    mut runs: Vec<Vec<Option<String>>>,
    scores: &impl Fn(&[Option<String>]) -> Scores,
) -> Vec<Option<String>> {
    runs.sort_by(|a, b| scores(a).accuracy.total_cmp(&scores(b).accuracy));
    runs.swap_remove(runs.len() / 2)
}

/// Everybody on one stream; ours first, then our own full retraining.
fn measure(
    options: &Options,
    stream: &Stream,
    recipe: &Recipe,
    versions: &mut BTreeMap<String, String>,
) -> anyhow::Result<(Vec<Line>, Seconds)> {
    let folder = tempfile::tempdir()?;
    let ours = ours::updated(stream, recipe, 0)?;
    let own = ours::from_scratch(stream, options.scratch_every.get())?;
    let peer = peer(options, stream, folder.path())?;
    versions.extend(peer.versions);
    let line = |who, batch, predictions: Vec<Option<String>>, training| {
        let scores = score(stream, &predictions, false);
        Line { who, scores, training, predictions, batch }
    };
    let of = |who, batch, learner: Learner| {
        let predictions = middle(learner.runs, &|runs| score(stream, runs, false));
        line(who, batch, predictions, learner.seconds)
    };
    let lines = vec![
        line(OURS, true, ours.predictions, ours.training),
        line(OWN_SCRATCH, true, own.predictions, own.training),
        of(SCRATCH, true, peer.scratch),
        of("SGD, hashed 1-2-grams", true, peer.sgd),
        of("passive-aggressive, the same", true, peer.passive_aggressive),
        of("complement naive Bayes, hashed", true, peer.complement_nb),
        of("River's complement naive Bayes", true, peer.river),
        of(AT_ONCE, false, peer.river_at_once),
        of(HINDSIGHT, false, peer.hindsight),
    ];
    Ok((lines, ours.cold_start))
}

/// Adds a stream's lines to the table; the same as JSON.
fn told(
    stream: &Stream,
    lines: &[Line],
    cold_start: Seconds,
    rows: &mut comfy_table::Table,
) -> serde_json::Value {
    let ours = &lines[0];
    let mut learners = Vec::new();
    for line in lines {
        let less = difference(stream, &ours.predictions, &line.predictions);
        let ratio = ours.training.cpu_s / line.training.cpu_s;
        let itself = line.who == OURS;
        let or_dash = |text: String| if itself { "-".to_owned() } else { text };
        rows.add_row(vec![
            stream.name.to_owned(),
            line.who.to_owned(),
            format!("{:.4}", line.scores.accuracy),
            format!("{:.4}", line.scores.macro_f1),
            or_dash(format!("{:+.2}", less.points)),
            or_dash(format!("{:+.2} to {:+.2}", less.low, less.high)),
            format!("{:.1}", line.training.cpu_s),
            or_dash(format!("{ratio:.3} x")),
        ]);
        learners.push(json!({
            "learner": line.who,
            "in_the_same_batches": line.batch,
            "scores": line.scores,
            "training": line.training,
            "ours_less_it": less,
            "cpu_ours_to_its": ratio,
        }));
    }
    let behind: Vec<&str> = lines[1..]
        .iter()
        .filter(|line| line.batch)
        .filter(|line| difference(stream, &ours.predictions, &line.predictions).points <= 0.0)
        .map(|line| line.who)
        .collect();
    json!({
        "about": stream.about,
        "texts": stream.batches.iter().map(Vec::len).sum::<usize>(),
        "batches": stream.batches.len(),
        "cold_start": cold_start,
        "learners": learners,
        "not_below_ours": behind,
    })
}

/// Writes the batches and runs scikit-learn and River on them.
fn peer(options: &Options, stream: &Stream, folder: &std::path::Path) -> anyhow::Result<Peer> {
    let mut lines = String::new();
    for (batch, texts) in stream.batches.iter().enumerate() {
        for text in texts {
            let line = json!({ "batch": batch, "text": text.text, "label": text.label });
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
    }
    let input = folder.join("batches.jsonl");
    std::fs::write(&input, lines)?;
    eprintln!("{}: scikit-learn and River", stream.name);
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
