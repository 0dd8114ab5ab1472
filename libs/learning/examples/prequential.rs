//! Replays the e-mail stream prequentially: each batch is first predicted, then learnt.
//!
//! `cargo run -p tidegate-learning --example prequential -- [--corpus FOLDER] [--batch 150]
//! [--first 500] [--share 1.0] [--recipe FILE.toml] [--paths both|wide|deep|all]`
//!
//! Text is subject and body without tags, the first 4,000 characters. 15 % of the mails are held
//! out by the hash of their id: predicted, never learnt. `--share 0.4` ends after that share of
//! the stream, which is what the cold start's defaults were chosen on. `--paths wide` learns with
//! the wide path alone, `deep` with the deep path alone, `all` prints the ablation.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use tidegate_contracts::{Class, Domain, EventId, JobId, JobKind, Offset, Partition, Window};
use tidegate_learning::{
    CheckpointDir, Example, Job, NoObserver, Recipe, StartingPoint, Trained, manifest, train,
};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig, Verified};
use tidegate_model::{Device, Input, Model};
use tidegate_telemetry::energy::process_cpu_seconds;
use tokio_util::sync::CancellationToken;

#[path = "prequential/corpus.rs"]
mod corpus;

type Failure = Box<dyn std::error::Error>;

/// Scores are counted after this many mails, as in the figures of other learners.
const SKIPPED: usize = 250;

struct Options {
    corpus: PathBuf,
    batch: usize,
    first: usize,
    share: f64,
    recipe: Recipe,
    paths: Vec<&'static str>,
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let mut mails = corpus::read(&options.corpus)?;
    mails.truncate((mails.len() as f64 * options.share) as usize);
    let spam = mails.iter().filter(|mail| mail.spam).count();
    println!("{} mails, {spam} of them spam; batches of {}", mails.len(), options.batch);
    println!(
        "{:<6} {:>8} {:>8} {:>9} {:>8} {:>12} {:>12} {:>12}",
        "paths",
        "accuracy",
        "f1 spam",
        "held out",
        "updates",
        "cold cpu s",
        "update cpu s",
        "wall s"
    );
    for paths in &options.paths {
        replay(&options, &mails, paths)?;
    }
    Ok(())
}

fn replay(options: &Options, mails: &[corpus::Mail], paths: &str) -> Result<(), Failure> {
    let mut recipe = options.recipe.clone();
    for course in [&mut recipe.cold_start, &mut recipe.hot_update] {
        match paths {
            "wide" => course.deep_rate = 0.0,
            "deep" => course.wide_rate = 0.0,
            _ => {}
        }
    }
    let folder = std::env::temp_dir().join(format!("tidegate-prequential-{}", std::process::id()));
    let checkpoints = CheckpointDir::open(&folder)?;
    let began = Instant::now();
    let (mut score, mut held_out) = (Score::default(), Score::default());
    let mut champion: Option<Verified> = None;
    let (mut cold, mut hot, mut updates) = (0.0, 0.0, 0_u32);
    let mut from = 0;
    while from < mails.len() {
        let size = if from == 0 { options.first } else { options.batch };
        let batch = &mails[from..mails.len().min(from + size)];
        if let Some(champion) = &champion {
            predict(champion, batch, from, &mut score, &mut held_out)?;
        }
        let examples: Vec<Example> =
            batch.iter().filter(|mail| !mail.held_out).map(example).collect();
        let kind = if from == 0 { JobKind::ColdStart } else { JobKind::HotUpdate };
        let cpu = process_cpu_seconds().unwrap_or_default();
        let job = job(kind, &recipe, champion.take(), from);
        let cancel = CancellationToken::new();
        let trained = train(&job, &examples, &checkpoints, &mut NoObserver, &cancel)?;
        let cpu = process_cpu_seconds().unwrap_or_default() - cpu;
        match kind {
            JobKind::ColdStart => cold = cpu,
            _ => (hot, updates) = (hot + cpu, updates + 1),
        }
        if std::env::var("VERBOSE").is_ok() {
            let loss = trained.metrics["loss"];
            println!("  {from:>5} loss {loss:.3} cpu {cpu:.2} s, so far {score:?}");
        }
        champion = Some(publish(&folder, &job, &trained)?);
        from += batch.len();
    }
    println!(
        "{paths:<6} {:>8.4} {:>8.4} {:>9.4} {updates:>8} {cold:>12.1} {:>12.2} {:>12.1}",
        score.accuracy(),
        score.f1(),
        held_out.accuracy(),
        hot / f64::from(updates.max(1)),
        began.elapsed().as_secs_f64(),
    );
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Predicts, and counts from the 250th mail on; the first batch cannot be predicted.
fn predict(
    champion: &Verified,
    batch: &[corpus::Mail],
    from: usize,
    score: &mut Score,
    held_out: &mut Score,
) -> Result<(), Failure> {
    let model = Model::from_files(champion.files(), &Device::Cpu)?;
    let inputs: Vec<Input> = batch.iter().map(|mail| Input::text(&*mail.text)).collect();
    for ((at, mail), scores) in (from..).zip(batch).zip(model.predict(&inputs)?) {
        let says_spam = model.labels()[scores.best().0].as_str() == "spam";
        if at >= SKIPPED {
            score.count(mail.spam, says_spam);
            if mail.held_out {
                held_out.count(mail.spam, says_spam);
            }
        }
    }
    Ok(())
}

fn job(kind: JobKind, recipe: &Recipe, parent: Option<Verified>, from: usize) -> Job {
    let offset = Offset(from as i64);
    let ranges = BTreeMap::from([(Partition(0), (offset, offset))]);
    Job {
        id: JobId::new(format!("batch-{from}")),
        kind,
        without: std::collections::BTreeSet::new(),
        recipe: recipe.clone(),
        start: parent.map_or(StartingPoint::Scratch, StartingPoint::Champion),
        window: Window::new("curated", ranges).expect("an empty range is not inverted"),
        seed: recipe.seed ^ from as u64,
        device: Device::Cpu,
    }
}

/// Stores a generation and reads it back verified, as between trainer and gateway.
fn publish(folder: &Path, job: &Job, trained: &Trained) -> Result<Verified, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = ArtifactStore::open(&ArtifactsConfig::default(), folder)?;
        let id = store.put_generation(&manifest(job, trained, None), &trained.files).await?;
        Ok(store.generation(&id).await?)
    })
}

fn example(mail: &corpus::Mail) -> Example {
    Example {
        id: EventId::new(mail.id.clone()),
        input: Input::text(&*mail.text),
        label: Class::new(if mail.spam { "spam" } else { "ham" }),
        weight: 1.0,
        domain: Domain::new("email"),
        groups: BTreeMap::new(),
        producer: None,
    }
}

#[derive(Debug, Default)]
struct Score {
    right: u32,
    all: u32,
    hits: u32,
    false_alarms: u32,
    misses: u32,
}

impl Score {
    fn count(&mut self, is: bool, says: bool) {
        self.all += 1;
        self.right += u32::from(is == says);
        self.hits += u32::from(is && says);
        self.false_alarms += u32::from(!is && says);
        self.misses += u32::from(is && !says);
    }

    fn accuracy(&self) -> f64 {
        f64::from(self.right) / f64::from(self.all.max(1))
    }

    fn f1(&self) -> f64 {
        let both = f64::from(2 * self.hits + self.false_alarms + self.misses);
        f64::from(2 * self.hits) / both.max(1.0)
    }
}

fn options() -> Result<Options, Failure> {
    let home = std::env::var("HOME")?;
    let mut options = Options {
        corpus: PathBuf::from(home).join(".cache/tidegate/data/spam-assassin"),
        batch: 150,
        first: 500,
        share: 1.0,
        recipe: Recipe::default(),
        paths: vec!["both"],
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--corpus" => options.corpus = value.into(),
            "--batch" => options.batch = value.parse()?,
            "--first" => options.first = value.parse()?,
            "--share" => options.share = value.parse()?,
            "--recipe" => options.recipe = Recipe::from_toml(&std::fs::read_to_string(value)?)?,
            "--paths" => {
                options.paths = match value.as_str() {
                    "both" => vec!["both"],
                    "wide" => vec!["wide"],
                    "deep" => vec!["deep"],
                    "all" => vec!["wide", "deep", "both"],
                    other => {
                        return Err(format!("--paths {other}: use both, wide, deep or all").into());
                    }
                };
            }
            other => return Err(format!("{other} is not known").into()),
        }
    }
    Ok(options)
}
