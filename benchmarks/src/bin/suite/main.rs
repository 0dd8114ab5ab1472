//! What a verdict costs: whole suites on an update's held-out mails, and how punctual the load is.
//! `benchmarks/suite/run.sh` runs it.
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Instant,
};

use anyhow::Context as _;
use chrono::Utc;
use clap::Parser;
use serde_json::json;
use tidegate_benchmarks::{
    Report,
    corpus::{self, Mail},
    learner::Learner,
    streams::Text,
    table,
};
use tidegate_contracts::{Class, ContentType, Event, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Predictor, Subject, Suite, evaluate,
};
use tidegate_learning::Recipe;
use tidegate_ledger::Verified;
use tidegate_model::{Device, Input, Model, ModelError, Scores};

/// What a verdict costs.
#[derive(Parser)]
struct Options {
    /// The unpacked corpus.
    #[arg(long)]
    corpus: PathBuf,
    /// Where the figures go.
    #[arg(long, default_value = "benchmarks/results/suite.json", overrides_with = "out")]
    out: PathBuf,
    /// Mails that the champion learns.
    #[arg(long, default_value_t = 1_000)]
    history: usize,
    /// Mails that the update learns.
    #[arg(long, default_value_t = 300)]
    window: usize,
    /// Held-out mails that judge.
    #[arg(long, default_value_t = 4_000)]
    held_out: usize,
    /// Predictions a second that the load generator is to keep up with.
    #[arg(long, default_value_t = 2_000)]
    qps: u32,
    /// Seconds of that load.
    #[arg(long, default_value_t = 20)]
    load_s: u64,
}

/// The daily one, and one that also attacks both models by their gradients.
const SUITES: [(&str, &str); 2] = [
    ("email", include_str!("../../../../eval-suites/email/suite.yaml")),
    ("robustness", include_str!("../../../../eval-suites/robustness/suite.yaml")),
];

/// Two generations, and the mails of an update.
struct Day {
    champion: Verified,
    candidate: Verified,
    models: [Model; 2],
    examples: Vec<EvalExample>,
    window: Vec<EvalExample>,
}

impl Day {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let mails = corpus::mails(&options.corpus)?;
        let needed = options.history + options.held_out + options.window;
        anyhow::ensure!(mails.len() >= needed, "{} mails: {needed} are needed", mails.len());
        let (history, rest) = mails.split_at(options.history);
        let (held_out, window) =
            rest[..options.held_out + options.window].split_at(options.held_out);
        let mut learner = Learner::new(&Recipe::default(), 1)?;
        let mut learn = |mails: &[Mail]| {
            let texts: Vec<Text> = mails.iter().map(text).collect();
            learner.learn(&texts)?;
            learner.champion().cloned().context("something was learnt")
        };
        let (champion, candidate) = (learn(history)?, learn(window)?);
        let built = |made: &Verified| Model::from_files(made.files(), &Device::Cpu);
        let models = [built(&champion)?, built(&candidate)?];
        // The last day's are the window's.
        let fresh = options.held_out - options.window.min(options.held_out);
        let examples: anyhow::Result<_> =
            held_out.iter().enumerate().map(|(at, mail)| example(mail, at >= fresh)).collect();
        let window: anyhow::Result<_> = window.iter().map(|mail| example(mail, true)).collect();
        Ok(Self { champion, candidate, models, examples: examples?, window: window? })
    }

    fn verdict(&self, suite: &Suite, memory: &mut Memory, fast: Option<&Fast>) -> Verdict {
        let [old, new] = &self.models;
        let predictor = |model| fast.map_or(model as &dyn Predictor, |fast| fast);
        let champion = Subject {
            id: self.champion.id(),
            predictor: predictor(old),
            manifest: self.champion.manifest(),
        };
        let manifest = self.candidate.manifest();
        let of = Evaluation {
            suite,
            candidate: Subject { id: self.candidate.id(), predictor: predictor(new), manifest },
            champion: Some(champion),
            anchor: Some(champion),
            examples: &self.examples,
            frozen: &[],
            window_labels: &self.window,
            trained: &HashSet::new(),
            copies: &Copies::default(),
            window: &manifest.window,
            line: Line::default(),
            region: "WORLD",
            pue: 1.0,
            seed: 1,
        };
        evaluate(&of, memory)
    }

    /// Seconds of both models' answers to what is held out, and nothing else.
    fn bare(&self) -> anyhow::Result<f64> {
        let inputs: Vec<Input> = self.examples.iter().map(|one| one.input.clone()).collect();
        let began = Instant::now();
        for model in &self.models {
            std::hint::black_box(model.predict(&inputs)?);
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

fn text(mail: &Mail) -> Text {
    let Mail { id, text, label, .. } = mail.clone();
    Text { id, domain: "email", text, label, date: None }
}

fn example(mail: &Mail, fresh: bool) -> anyhow::Result<EvalExample> {
    let event = Event::decode(ContentType::Json, mail.event.as_bytes(), Utc::now())?;
    let Event { id, domain, groups, parts, .. } = event;
    Ok(EvalExample {
        id,
        domain,
        input: Input { parts },
        label: Class::new(mail.label),
        groups,
        producer: None,
        fresh,
    })
}

/// Answers at once, so that nothing but the load's own clock is measured.
struct Fast(Vec<Class>);

impl Predictor for Fast {
    fn labels(&self) -> &[Class] {
        &self.0
    }

    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        let probabilities = vec![1.0 / self.0.len() as f32; self.0.len()];
        Ok(inputs.iter().map(|_| Scores { probabilities: probabilities.clone() }).collect())
    }
}

/// A suite of nothing but the load.
fn load(options: &Options) -> anyhow::Result<Suite> {
    let Options { qps, load_s, .. } = options;
    Ok(Suite::parse(&format!(
        "format: 1\nname: load\nversion: 1.0.0\n\
         limits: {{server_qps: {qps}, server_ms: {}}}\n\
         checks: [{{id: p99, layer: efficiency, metric: server_p99_ms, ceil: 50, severity: warn}}]\n",
        load_s * 1000
    ))?)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut report =
        Report::begin("suite", "seconds of a whole verdict, and how late its load comes");
    eprintln!("learning {} mails, then {}", options.history, options.window);
    let day = Day::new(&options)?;
    let bare = day.bare()?;
    let mut rows = table(&["suite", "checks", "first", "champion remembered", "over bare answers"]);
    let mut suites = BTreeMap::new();
    for (name, yaml) in SUITES {
        eprintln!("suite {name}");
        let suite = Suite::parse(yaml)?;
        let mut memory = Memory::default();
        let [first, again] = [(); 2].map(|()| day.verdict(&suite, &mut memory, None));
        anyhow::ensure!(first.checks.len() > suite.checks().len(), "{:?}", first.reasons);
        let ratio = first.seconds / bare;
        rows.add_row(vec![
            name.to_owned(),
            first.checks.len().to_string(),
            format!("{:.1} s", first.seconds),
            format!("{:.1} s", again.seconds),
            format!("{ratio:.1} x"),
        ]);
        suites.insert(
            name,
            json!({
                "version": suite.reference().version,
                "checks": first.checks.len(),
                "outcome": first.outcome,
                "first_s": first.seconds,
                "remembered_s": again.seconds,
                "over_bare": ratio,
            }),
        );
    }
    eprintln!("load");
    let load = load(&options)?;
    let fast = Fast(day.models[0].labels().to_vec());
    let [alone, model] = [Some(&fast), None].map(|fast| lag(&day, &load, fast));
    let (alone, model) = (alone?, model?);
    report.result = json!({
        "held_out": options.held_out,
        "window": options.window,
        "bare_s": bare,
        "suites": suites,
        "load": { "qps": options.qps, "lag_p99_ms": { "alone": alone, "with_model": model } },
    });
    let notes = [
        format!(
            "limit: both models' answers to the {} held-out mails alone take {bare:.1} s",
            options.held_out
        ),
        format!(
            "at {} predictions a second the load comes at most {alone:.3} ms late (p99); beside a \
             model that computes on the same cores, {model:.3} ms",
            options.qps
        ),
    ];
    report.publish(&rows, &notes, &options.out)
}

fn lag(day: &Day, load: &Suite, fast: Option<&Fast>) -> anyhow::Result<f64> {
    let verdict = day.verdict(load, &mut Memory::default(), fast);
    let said = verdict.environment.get("server.lag_p99_ms");
    Ok(said.with_context(|| format!("no load: {:?}", verdict.reasons))?.parse()?)
}
