//! Ours: a cold start, then a hot update for each batch. No gate, no stream: what is compared is
//! the learner.
use std::{collections::BTreeMap, path::Path, time::Instant};

use tidegate_benchmarks::corpus::Mail;
use tidegate_contracts::{Class, Domain, EventId, JobId, JobKind, Offset, Partition, Window};
use tidegate_learning::{
    CheckpointDir, Example, Job, NoObserver, Recipe, StartingPoint, manifest, train,
};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig, Verified};
use tidegate_model::{Device, Input, Model};
use tidegate_telemetry::energy::process_cpu_seconds;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// What came of the stream.
#[derive(Default)]
pub(crate) struct Replayed {
    /// In the order of the stream; none in the first batch.
    pub(crate) predictions: Vec<Option<String>>,
    pub(crate) cold_start: Seconds,
    pub(crate) hot_updates: Seconds,
}

/// Of training, features included.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Seconds {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
}

impl Seconds {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { wall_s: self.wall_s + other.wall_s, cpu_s: self.cpu_s + other.cpu_s }
    }
}

pub(crate) fn replay(batches: &[Vec<Mail>], folder: &Path) -> anyhow::Result<Replayed> {
    let recipe = Recipe::default();
    let store = ArtifactStore::open(&ArtifactsConfig::default(), folder)?;
    let checkpoints = CheckpointDir::open(folder.join("checkpoints"))?;
    let runtime = Runtime::new()?;
    let mut replayed = Replayed::default();
    let mut champion: Option<Verified> = None;
    let mut from = 0;
    for (i, batch) in batches.iter().enumerate() {
        match &champion {
            Some(champion) => replayed.predictions.extend(predict(champion, batch)?),
            None => replayed.predictions.extend(batch.iter().map(|_| None)),
        }
        let examples: Vec<Example> = batch.iter().map(example).collect();
        let kind = if i == 0 { JobKind::ColdStart } else { JobKind::HotUpdate };
        let job = job(kind, &recipe, champion.take(), from);
        let (began, cpu) = (Instant::now(), process_cpu_seconds().unwrap_or_default());
        let cancel = CancellationToken::new();
        let trained = train(&job, &examples, &checkpoints, &mut NoObserver, &cancel)?;
        let took = Seconds {
            wall_s: began.elapsed().as_secs_f64(),
            cpu_s: process_cpu_seconds().unwrap_or_default() - cpu,
        };
        let total = if i == 0 { &mut replayed.cold_start } else { &mut replayed.hot_updates };
        *total = total.plus(took);
        champion = Some(runtime.block_on(async {
            let id = store.put_generation(&manifest(&job, &trained, None), &trained.files).await?;
            store.generation(&id).await
        })?);
        from += batch.len();
        eprintln!("batch {} of {}: {:.1} s", i + 1, batches.len(), took.wall_s);
    }
    Ok(replayed)
}

fn predict(champion: &Verified, batch: &[Mail]) -> anyhow::Result<Vec<Option<String>>> {
    let model = Model::from_files(champion.files(), &Device::Cpu)?;
    let inputs: Vec<Input> = batch.iter().map(|mail| Input { text: mail.text.clone() }).collect();
    let scores = model.predict(&inputs)?;
    Ok(scores.iter().map(|s| Some(model.labels()[s.best().0].to_string())).collect())
}

fn job(kind: JobKind, recipe: &Recipe, parent: Option<Verified>, from: usize) -> Job {
    let offset = Offset(from as i64);
    let ranges = BTreeMap::from([(Partition(0), (offset, offset))]);
    Job {
        id: JobId::new(format!("batch-{from}")),
        kind,
        recipe: recipe.clone(),
        start: parent.map_or(StartingPoint::Scratch, StartingPoint::Champion),
        window: Window::new("curated", ranges).expect("an empty range is not inverted"),
        seed: recipe.seed ^ from as u64,
        device: Device::Cpu,
    }
}

fn example(mail: &Mail) -> Example {
    Example {
        id: EventId::new(mail.id.clone()),
        input: Input { text: mail.text.clone() },
        label: Class::new(mail.label),
        weight: 1.0,
        domain: Domain::new("email"),
        groups: BTreeMap::new(),
    }
}
