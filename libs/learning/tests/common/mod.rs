//! A stream small enough to train on in a test.
#![allow(dead_code)]
use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_contracts::{
    ArtifactHash, Class, Domain, EventId, JobId, JobKind, Manifest, Offset, Partition, Window,
};
use tidegate_learning::{
    CheckpointDir, Example, Job, LearningError, Observer, Progress, Recipe, StartingPoint, Trained,
    manifest, train,
};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig, Verified};
use tidegate_model::{Device, Input, Model};
use tokio_util::sync::CancellationToken;

/// A network that trains in milliseconds, and a checkpoint after every step.
pub(crate) fn recipe() -> Recipe {
    Recipe::from_toml(
        "[architecture]\nd_model = 16\nlayers = 1\nheads = 2\nkv_heads = 1\ncontext = 16\n\
         vocab = 300\nexperts = 4\nexpert_width = 16\nwide_buckets = 4096\n\
         [cold_start]\nepochs = 3\nbatch = 8\n[hot_update]\nepochs = 2\nbatch = 8\ndeep_every = 1\n\
         balance = 0.5\n[rehearsal]\nshare = 0.25\n[distillation]\nweight = 0.3\n\
         [checkpoints]\nsteps = 1\n",
    )
    .unwrap()
}

/// Words of a class, and words of none.
pub(crate) fn text(class: &str, at: usize) -> String {
    let words = match class {
        "spam" => ["winner", "free", "prize"],
        "ham" => ["meeting", "patch", "lunch"],
        "news" => ["election", "storm", "market"],
        other => panic!("no words for {other}"),
    };
    format!("{} {} about item {} of {}", words[at % 3], words[at / 3 % 3], at * 7 % 13, at % 5)
}

pub(crate) fn example(class: &str, at: usize) -> Example {
    Example {
        id: EventId::new(format!("{class}-{at}")),
        input: Input::text(text(class, at)),
        label: Class::new(class),
        weight: 1.0,
        domain: Domain::new("test"),
        groups: BTreeMap::new(),
        producer: None,
    }
}

/// `count` examples, the classes in turn, numbered from `from`.
pub(crate) fn examples(classes: &[&str], from: usize, count: usize) -> Vec<Example> {
    (from..from + count).map(|at| example(classes[at % classes.len()], at)).collect()
}

pub(crate) fn window(from: i64, to: i64) -> Window {
    Window::new("curated", BTreeMap::from([(Partition(0), (Offset(from), Offset(to)))])).unwrap()
}

pub(crate) fn cold_start(id: &str) -> Job {
    Job {
        id: JobId::new(id),
        kind: JobKind::ColdStart,
        without: std::collections::BTreeSet::new(),
        recipe: recipe(),
        start: StartingPoint::Scratch,
        window: window(0, 60),
        seed: 5,
        device: Device::Cpu,
    }
}

pub(crate) fn hot_update(id: &str, champion: Verified) -> Job {
    Job {
        kind: JobKind::HotUpdate,
        start: StartingPoint::Champion(champion),
        window: window(60, 100),
        ..cold_start(id)
    }
}

/// Stores what `job` made and reads it back verified.
pub(crate) fn published(job: &Job, trained: &Trained) -> Verified {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        let manifest: Manifest = manifest(job, trained, None);
        let id = store.put_generation(&manifest, &trained.files).await.unwrap();
        store.generation(&id).await.unwrap()
    })
}

/// Trains without disturbance.
pub(crate) fn trained(job: &Job, examples: &[Example]) -> Result<Trained, LearningError> {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointDir::open(folder.path()).unwrap();
    train(job, examples, &checkpoints, &mut Log::default(), &CancellationToken::new())
}

pub(crate) fn accuracy(files: &BTreeMap<String, Bytes>, examples: &[Example]) -> f64 {
    let model = Model::from_files(files, &Device::Cpu).unwrap();
    let inputs: Vec<Input> = examples.iter().map(|e| e.input.clone()).collect();
    let scores = model.predict(&inputs).unwrap();
    let right = scores.iter().zip(examples).filter(|(s, e)| model.labels()[s.best().0] == e.label);
    right.count() as f64 / examples.len() as f64
}

/// Remembers what it was told, and cancels after a step if asked to.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) steps: Vec<u64>,
    pub(crate) checkpoints: Vec<(u64, ArtifactHash)>,
    pub(crate) last: Option<Progress>,
    pub(crate) cancel_after: Option<(u64, CancellationToken)>,
}

impl Observer for Log {
    fn progress(&mut self, progress: &Progress) {
        assert!(progress.loss.is_finite() && progress.step <= progress.steps);
        self.steps.push(progress.step);
        self.last = Some(progress.clone());
        if let Some((step, cancel)) = &self.cancel_after
            && progress.step == *step
        {
            cancel.cancel();
        }
    }

    fn checkpoint(&mut self, step: u64, digest: ArtifactHash) {
        self.checkpoints.push((step, digest));
    }
}
