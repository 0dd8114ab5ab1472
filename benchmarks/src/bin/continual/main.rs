//! What is learnt, kept and forgotten over a sequence of tasks, by method.
//! `benchmarks/continual/run.sh` runs it.
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Serialize;
use serde_json::json;
use tidegate_benchmarks::{
    Report, crate_version,
    learner::{Learner, Seconds},
    streams::Text,
    table,
};

mod measures;
mod methods;
mod scenario;

use measures::{Accuracies, Measures, averaged};
use methods::Method;
use scenario::{Part, Scenario};

/// Accuracy, transfer and forgetting over sequences of tasks.
#[derive(Parser)]
struct Options {
    /// The unpacked e-mail corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// The unpacked opinions.
    #[arg(long)]
    opinions: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/continual.json", overrides_with = "out")]
    out: PathBuf,
    /// Orders of the tasks, each with seeds of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    orders: u64,
    /// Texts of a task at most.
    #[arg(long, default_value_t = 300)]
    most: usize,
    /// Only methods that begin so, separated by commas.
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// Only these scenarios, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// One more method: what this file changes of the default recipe.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// On the fifth of all texts that settings are chosen on; writes nothing.
    #[arg(long)]
    development: bool,
    /// One order of few texts, to see whether it runs; writes nothing.
    #[arg(long)]
    quick: bool,
}

/// One method on one scenario, over all orders.
#[derive(Serialize)]
struct Line {
    scenario: &'static str,
    method: String,
    toml: String,
    #[serde(flatten)]
    measures: Measures,
    acc_furthest_from_mean: f64,
    joint: bool,
    /// Of a run, on average.
    seconds: Seconds,
    runs: Vec<Measures>,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    let mut report = Report::begin(
        "continual",
        "what is known of all tasks after the last one, by how they were learnt one by one",
    );
    if options.quick {
        (options.orders, options.most) = (1, 120);
    }
    let own = options.recipe.as_ref().map(std::fs::read_to_string).transpose()?;
    let methods = methods::all(&options.methods, own)?;
    let part = if options.development { Part::Development } else { Part::Reported };
    let mut orders = Vec::new();
    for order in 0..options.orders {
        // Development has orders and seeds of its own.
        let order = if options.development { 1_000 + order } else { order };
        let mut scenarios =
            scenario::all(&options.corpus, &options.opinions, part, order, options.most)?;
        scenarios.retain(|scenario| {
            options.scenarios.is_empty() || options.scenarios.iter().any(|n| n == scenario.name)
        });
        orders.push((order, scenarios));
    }
    anyhow::ensure!(!orders[0].1.is_empty(), "--scenarios: none of these is known");
    let mut lines = Vec::new();
    for at in 0..orders[0].1.len() {
        for method in &methods {
            let mut runs = Vec::new();
            let mut seconds = Seconds::default();
            for (order, scenarios) in &orders {
                let (measures, took) = run(&scenarios[at], method, *order)?;
                runs.push(measures);
                seconds = seconds.plus(took);
            }
            lines.push(line(&orders[0].1[at], method, runs, seconds));
        }
    }
    report.versions.insert("burn".to_owned(), crate_version("burn"));
    let scenarios: Vec<_> = orders[0].1.iter().map(described).collect();
    report.result = json!({
        "scenarios": scenarios,
        "orders": options.orders,
        "texts_of_a_task_at_most": options.most,
        "lines": lines,
    });
    publish(&report, &lines, &orders[0].1, &options)
}

fn line(scenario: &Scenario, method: &Method, runs: Vec<Measures>, seconds: Seconds) -> Line {
    let count = runs.len() as f64;
    let (measures, acc_furthest_from_mean) = averaged(&runs);
    let seconds = Seconds { wall_s: seconds.wall_s / count, cpu_s: seconds.cpu_s / count };
    eprintln!("{}, {}: {measures:.1?}, {:.1} CPU s", scenario.name, method.name, seconds.cpu_s);
    Line {
        scenario: scenario.name,
        method: method.name.clone(),
        toml: method.toml.clone(),
        measures,
        acc_furthest_from_mean,
        joint: method.joint,
        seconds,
        runs,
    }
}

/// Of the first order.
fn described(scenario: &Scenario) -> serde_json::Value {
    let task = |task: &scenario::Task| json!({ "name": task.name, "train": task.train.len(), "test": task.test.len() });
    json!({
        "name": scenario.name,
        "about": scenario.about,
        "tasks": scenario.tasks.iter().map(task).collect::<Vec<_>>(),
    })
}

/// Learns the tasks, and judges after each on the test parts of all.
fn run(scenario: &Scenario, method: &Method, seed: u64) -> anyhow::Result<(Measures, Seconds)> {
    let mut learner = Learner::new(&method.recipe, seed)?;
    let judged = |learner: &Learner| -> anyhow::Result<Vec<f64>> {
        scenario.tasks.iter().map(|task| accuracy(learner, &task.test)).collect()
    };
    let mut after = Vec::new();
    for (at, task) in scenario.tasks.iter().enumerate() {
        if method.joint {
            learner.forget();
            learner.learn(scenario.tasks[..=at].iter().flat_map(|task| &task.train))?;
        } else {
            learner.learn(&task.train)?;
        }
        after.push(judged(&learner)?);
    }
    let accuracies = Accuracies { guessing: 1.0 / scenario.classes as f64, after };
    Ok((accuracies.measures(), learner.seconds))
}

fn accuracy(learner: &Learner, texts: &[Text]) -> anyhow::Result<f64> {
    let said = learner.answers(texts)?;
    let right = said.iter().zip(texts).filter(|(said, text)| said.as_deref() == Some(text.label));
    Ok(right.count() as f64 / texts.len().max(1) as f64)
}

fn publish(
    report: &Report,
    lines: &[Line],
    scenarios: &[Scenario],
    options: &Options,
) -> anyhow::Result<()> {
    let mut rows = table(&[
        "scenario",
        "method",
        "ACC",
        "+/-",
        "to joint",
        "BWT",
        "FWT",
        "forgetting",
        "CPU s",
    ]);
    for line in lines {
        let m = line.measures;
        let joint = lines.iter().find(|other| other.scenario == line.scenario && other.joint);
        let less = |joint: &Line| {
            if line.joint { "-".to_owned() } else { format!("{:+.1}", m.acc - joint.measures.acc) }
        };
        rows.add_row(vec![
            line.scenario.to_owned(),
            line.method.clone(),
            format!("{:.1}", m.acc),
            format!("{:.1}", line.acc_furthest_from_mean),
            joint.map_or_else(String::new, less),
            format!("{:+.1}", m.bwt),
            format!("{:+.1}", m.fwt),
            format!("{:+.1}", m.forgetting),
            format!("{:.1}", line.seconds.cpu_s),
        ]);
    }
    let mut notes: Vec<String> = scenarios
        .iter()
        .map(|scenario| {
            let tasks: Vec<_> = scenario
                .tasks
                .iter()
                .map(|task| format!("{} ({} + {})", task.name, task.train.len(), task.test.len()))
                .collect();
            format!("{}: {}; first order: {}", scenario.name, scenario.about, tasks.join("; "))
        })
        .collect();
    notes.push(
        "joint retraining forgets, too, where classes are added: what was told from one other class \
         has to be told from more"
            .to_owned(),
    );
    notes.push(format!(
        "means over {} orders and seeds, in points; in brackets texts to learn from and to judge by; \
         `+/-`: how far the furthest ACC is from the mean",
        options.orders
    ));
    let is_part = !options.methods.is_empty() || !options.scenarios.is_empty();
    if options.development || options.quick || is_part || options.recipe.is_some() {
        let aside = tempfile::tempdir()?;
        return report.publish(&rows, &notes, &aside.path().join("continual.json"));
    }
    report.publish(&rows, &notes, Path::new(&options.out))
}
