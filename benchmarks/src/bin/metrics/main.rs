//! Metrics and their bootstrap intervals, beside scikit-learn and fairlearn on the same answers.
//! `benchmarks/metrics/run.sh` runs it.
use std::{collections::BTreeMap, path::PathBuf};

use clap::Parser;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::json;
use tidegate_benchmarks::{
    Report, table,
    turns::{Peer, Samples, Timed, timed},
};
use tidegate_contracts::Class;
use tidegate_evaluation::{
    Classes, Groups, Metric, Scored,
    bootstrap::{Bootstrapped, Resampling},
};
use tidegate_model::Scores;

/// Metrics, beside scikit-learn and fairlearn.
#[derive(Parser)]
struct Options {
    /// Python with scikit-learn and fairlearn.
    #[arg(long)]
    python: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/metrics.json", overrides_with = "out")]
    out: PathBuf,
    /// Answers that are judged.
    #[arg(long, default_value_t = 4_000)]
    rows: usize,
    /// Resamples of an interval.
    #[arg(long, default_value_t = 2_000)]
    resamples: usize,
    /// Seconds of each turn of values.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Turns of values; intervals get one each.
    #[arg(long, default_value_t = 3)]
    turns: usize,
}

const CLASSES: usize = 4;
const GROUPS: usize = 4;

/// Of the whole, and of groups where it is a gap.
const METRICS: [(&str, Metric); 8] = [
    ("balanced_accuracy", Metric::BalancedAccuracy),
    ("macro_f1", Metric::MacroF1),
    ("mcc", Metric::Mcc),
    ("kappa", Metric::Kappa),
    ("log_loss", Metric::LogLoss),
    ("auroc", Metric::Auroc),
    ("demographic_parity", Metric::DemographicParity),
    ("equalized_odds", Metric::EqualizedOdds),
];

/// Values may differ by so much: models answer in f32.
const VALUES_APART: f64 = 1e-6;

/// Ends of intervals may differ by so much of their width: other draws, and ours are corrected for
/// bias and skewness.
const ENDS_APART: f64 = 0.25;

/// What the peer says first.
#[derive(Deserialize)]
struct First {
    values: BTreeMap<String, f64>,
    versions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Interval {
    samples_s: Vec<f64>,
    low: f64,
    high: f64,
}

/// Answers of one model.
struct Answers {
    scored: Scored,
    /// Class 0 against the others.
    binary: Scored,
    groups: Groups,
    group: Vec<usize>,
    probabilities: Vec<f64>,
    rows: Vec<usize>,
}

impl Answers {
    fn draw(rows: usize) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut truth, mut scores, mut group) = (vec![], vec![], vec![]);
        for _ in 0..rows {
            let label = rng.random_range(0..CLASSES);
            let mut weights: Vec<f32> = (0..CLASSES).map(|_| rng.random_range(0.05..1.0)).collect();
            weights[label] += 0.6;
            let sum: f32 = weights.iter().sum();
            truth.push(label);
            scores.push(Scores { probabilities: weights.into_iter().map(|w| w / sum).collect() });
            group.push(rng.random_range(0..GROUPS));
        }
        let scored = scored(CLASSES, truth.clone(), &scores)?;
        let of_two = |row: usize| {
            let p = f32::from(u8::from(scored.said[row] == 0));
            Scores { probabilities: vec![1.0 - p, p] }
        };
        let two: Vec<Scores> = (0..rows).map(of_two).collect();
        let is_first = truth.iter().map(|&label| usize::from(label == 0)).collect();
        let binary = self::scored(2, is_first, &two)?;
        let all: Vec<usize> = (0..rows).collect();
        let groups = Groups::new(&all, |row| Some(group[row].to_string()), &binary, 1, 1);
        let probabilities =
            scores.iter().flat_map(|s| s.probabilities.iter().map(|&p| f64::from(p))).collect();
        Ok(Self { scored, binary, groups, group, probabilities, rows: all })
    }

    fn value(&self, metric: Metric) -> Option<f64> {
        if is_gap(metric) {
            self.groups.gap(metric, &self.binary)
        } else {
            self.scored.value(metric, &self.rows)
        }
    }

    fn interval(&self, metric: Metric, resamples: usize) -> Option<Bootstrapped> {
        let how = Resampling { strata: &[], count: resamples, level: 0.9, seed: 1 };
        if is_gap(metric) {
            self.groups.interval(metric, &self.binary, how)
        } else {
            self.scored.interval(metric, &self.rows, how)
        }
    }

    /// The job's files.
    fn write(&self, folder: &std::path::Path) -> anyhow::Result<serde_json::Value> {
        let mut job = json!({ "rows": self.rows.len(), "classes": CLASSES });
        for (name, values) in
            [("truth", &self.scored.truth), ("said", &self.scored.said), ("group", &self.group)]
        {
            let path = folder.join(name);
            let bytes = values.iter().flat_map(|&value| (value as i64).to_le_bytes());
            std::fs::write(&path, bytes.collect::<Vec<u8>>())?;
            job[name] = json!(path);
        }
        let path = folder.join("probabilities");
        let bytes = self.probabilities.iter().flat_map(|p| p.to_le_bytes());
        std::fs::write(&path, bytes.collect::<Vec<u8>>())?;
        job["probabilities"] = json!(path);
        Ok(job)
    }
}

fn scored(classes: usize, truth: Vec<usize>, scores: &[Scores]) -> anyhow::Result<Scored> {
    let labels: Vec<Class> = (0..classes).map(|class| Class::new(class.to_string())).collect();
    Ok(Scored::new(&Classes::new(&labels), &labels, truth, scores)?)
}

fn is_gap(metric: Metric) -> bool {
    matches!(metric, Metric::DemographicParity | Metric::EqualizedOdds)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut report = Report::begin(
        "metrics",
        "seconds of a metric and of its bootstrap interval, beside scikit-learn and fairlearn",
    );
    let answers = Answers::draw(options.rows)?;
    let folder = tempfile::tempdir()?;
    let job = answers.write(folder.path())?;
    let script = "benchmarks/metrics/peer.py";
    let (mut peer, first) = Peer::start::<First>(&options.python, script, &job, folder.path())?;
    for (name, metric) in METRICS {
        let (ours, theirs) = (answers.value(metric).unwrap_or(f64::NAN), first.values[name]);
        let same = (ours - theirs).abs() < VALUES_APART;
        anyhow::ensure!(same, "{name}: ours is {ours}, theirs {theirs}");
    }

    let mut samples = Samples::default();
    for turn in 1..=options.turns {
        eprintln!("values, turn {turn} of {}", options.turns);
        for (name, metric) in METRICS {
            let seconds = options.seconds;
            let ours = timed(seconds, || {
                std::hint::black_box(answers.value(metric));
                Ok(())
            })?;
            samples.add(&format!("{name} value ours"), ours);
            let theirs = peer.ask::<Timed>(&format!("value {name} {seconds}"))?;
            samples.add(&format!("{name} value theirs"), theirs);
        }
        samples.add("limit", limit(&answers, options.seconds)?);
    }
    for (name, metric) in METRICS {
        eprintln!("interval of {name}");
        let mut found = None;
        let ours = timed(options.seconds, || {
            found = answers.interval(metric, options.resamples);
            Ok(())
        })?;
        samples.add(&format!("{name} interval ours"), ours);
        let theirs: Interval = peer.ask(&format!("interval {name} {} 1", options.resamples))?;
        check(name, is_gap(metric), found, &theirs)?;
        let theirs = Timed { samples_s: theirs.samples_s };
        samples.add(&format!("{name} interval theirs"), theirs);
    }
    publish(&mut report, first, &samples, &options)
}

/// Intervals of the same width, nearly; of gaps, which noise makes larger, ours are corrected by
/// more, so they only have to meet.
fn check(
    name: &str,
    is_gap: bool,
    ours: Option<Bootstrapped>,
    theirs: &Interval,
) -> anyhow::Result<()> {
    let Some(Bootstrapped { interval: ours, .. }) = ours else {
        anyhow::bail!("{name}: ours has no interval");
    };
    let width = theirs.high - theirs.low;
    let apart = (ours.low - theirs.low).abs().max((ours.high - theirs.high).abs());
    let same = if is_gap {
        ours.low < theirs.high && theirs.low < ours.high
    } else {
        apart < ENDS_APART * width
    };
    let (low, high) = (theirs.low, theirs.high);
    anyhow::ensure!(same, "{name}: our interval is {ours:?}, theirs {low} to {high}");
    Ok(())
}

/// Reading labels and answers once, which no metric does without.
fn limit(answers: &Answers, seconds: f64) -> anyhow::Result<Timed> {
    timed(seconds, || {
        let pairs = answers.scored.truth.iter().zip(&answers.scored.said);
        std::hint::black_box(pairs.filter(|(truth, said)| truth == said).count());
        Ok(())
    })
}

fn publish(
    report: &mut Report,
    first: First,
    samples: &Samples,
    options: &Options,
) -> anyhow::Result<()> {
    let mut rows = table(&["", "value", "theirs", "ratio", "interval", "theirs", "ratio"]);
    let mut result = serde_json::Map::new();
    let mut least = (f64::INFINITY, f64::INFINITY);
    for (name, _) in METRICS {
        let of = |what: &str| samples.quantile(&format!("{name} {what}"), 0.5);
        let [value, value_theirs, interval, interval_theirs] =
            ["value ours", "value theirs", "interval ours", "interval theirs"].map(of);
        let ratios = (value_theirs / value, interval_theirs / interval);
        least = (least.0.min(ratios.0), least.1.min(ratios.1));
        rows.add_row(vec![
            name.to_owned(),
            format!("{:.1} us", value * 1e6),
            format!("{:.1} us", value_theirs * 1e6),
            format!("{:.0} x", ratios.0),
            format!("{:.2} ms", interval * 1e3),
            format!("{:.0} ms", interval_theirs * 1e3),
            format!("{:.0} x", ratios.1),
        ]);
        result.insert(
            name.to_owned(),
            json!({
                "value_s": { "ours": value, "theirs": value_theirs, "ratio": ratios.0 },
                "interval_s": { "ours": interval, "theirs": interval_theirs, "ratio": ratios.1 },
            }),
        );
    }
    let limit = samples.quantile("limit", 0.5);
    report.versions = first.versions;
    report.result = json!({
        "rows": options.rows,
        "classes": CLASSES,
        "groups": GROUPS,
        "resamples": options.resamples,
        "metrics": result,
        "limit_s": limit,
        "ratio": { "value": least.0, "interval": least.1 },
    });
    let notes = [
        format!(
            "at least {:.0} x for a value, {:.0} x for an interval of {} resamples; {} answers, \
             {CLASSES} classes, {GROUPS} groups, one thread each",
            least.0, least.1, options.resamples, options.rows
        ),
        format!("limit of a value: reading labels and answers once, {:.1} us", limit * 1e6),
        "the same values; ours are BCa intervals with their jackknife, theirs percentiles"
            .to_owned(),
    ];
    report.publish(&rows, &notes, &options.out)
}
