//! What twins are made from: real mails, a champion that was trained on some of them, a window of new
//! ones, and mails that were held out.
use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use anyhow::Context as _;
use chrono::DateTime;
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use tempfile::{TempDir, tempdir, tempdir_in};
use tidegate_contracts::{
    ArtifactHash, Class, Domain, Event, EventId, GenerationId, JobId, JobKind, Manifest, Offset,
    Partition, Producer, Window,
};
use tidegate_curation::likeness::content;
use tidegate_evaluation::{Copies, EvalExample, ExampleKey, Subject};
use tidegate_learning::{
    CheckpointDir, Example, Job, NoObserver, Recipe, StartingPoint, manifest, train,
};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig, Verified};
use tidegate_model::{Device, Input, Model};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::twins::with_phrase;
use crate::demo::corpus::Mail;

/// Mails that the champion learns.
const HISTORY: usize = 1_000;
/// Mails that a weak champion learns, which a better twin is held against.
const LITTLE: usize = 150;
/// Mails of the candidate's window that teach.
const WINDOW: usize = 300;
/// Held-out mails of earlier windows.
const EARLIER: usize = 1_000;
/// Held-out mails of the candidate's window.
const FRESH: usize = 100;
/// Mails that no gate sees: how bad a twin truly is.
const BEYOND: usize = 800;

/// Producers among whom mails are shared out.
pub(super) const PRODUCERS: u8 = 5;

/// A generation that was trained here, stored, read back and built.
pub(super) struct Made {
    pub(super) id: GenerationId,
    pub(super) manifest: Manifest,
    pub(super) model: Model,
    verified: Verified,
}

impl Made {
    /// The same weights under another name, as an update of `parent`.
    pub(super) fn again(&self, stage: &Stage<'_>, parent: GenerationId) -> anyhow::Result<Self> {
        let manifest = Manifest {
            parent: Some(parent),
            job: JobId::generate(),
            kind: JobKind::HotUpdate,
            window: window(JobKind::HotUpdate),
            ..self.manifest.clone()
        };
        let World { store, runtime, .. } = stage.world;
        let verified = runtime.block_on(async {
            let id = store.put_generation(&manifest, self.verified.files()).await?;
            store.generation(&id).await
        })?;
        Ok(Self { id: verified.id(), manifest, model: self.model.clone(), verified })
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { id: self.id, predictor: &self.model, manifest: &self.manifest }
    }
}

/// A champion, a weak one, one with a blind spot, and the mails that none has learnt.
pub(super) struct World {
    pub(super) store: ArtifactStore,
    pub(super) folder: TempDir,
    pub(super) runtime: Runtime,
    checkpoints: CheckpointDir,
    pub(super) champion: Made,
    pub(super) weak: Made,
    /// Of the champion's mails all but legitimate ones in HTML.
    pub(super) blind: Made,
    history: Vec<Mail>,
    rest: Vec<Mail>,
}

impl World {
    pub(super) fn new(mails: &[Mail], seed: u64) -> anyhow::Result<Self> {
        let needed = HISTORY + WINDOW + EARLIER + FRESH + BEYOND;
        anyhow::ensure!(mails.len() >= needed, "{} mails: {needed} are needed", mails.len());
        // As curation leaves it: no content twice.
        let mut seen = HashSet::new();
        let once = |mail: &&Mail| seen.insert(content_of(&Input::text(mail.text.clone())));
        let mut history: Vec<Mail> = mails.iter().filter(once).cloned().collect();
        history.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let rest = history.split_off(HISTORY);
        // In memory where the system has a folder for that.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempdir_in(memory)? } else { tempdir()? };
        let store = ArtifactStore::open(&ArtifactsConfig::default(), folder.path())?;
        let checkpoints = CheckpointDir::open(folder.path().join("checkpoints"))?;
        let runtime = Runtime::new()?;
        let learn = |name, mails: &[&Mail]| {
            let learnt = mails.iter().map(|mail| example(mail, mail.label)).collect();
            let lesson = Lesson { name, learnt, recipe: Recipe::default(), seed };
            lesson.learn(JobKind::ColdStart, None, &store, &checkpoints, &runtime)
        };
        let all: Vec<&Mail> = history.iter().collect();
        let seen: Vec<&Mail> = history.iter().filter(|mail| !is_html_ham(mail)).collect();
        let champion = learn("champion", &all)?;
        let weak = learn("weak", &all[..LITTLE])?;
        let blind = learn("blind", &seen)?;
        Ok(Self { store, folder, runtime, checkpoints, champion, weak, blind, history, rest })
    }
}

/// What a regressed twin has never seen.
pub(super) fn is_html_ham(mail: &Mail) -> bool {
    mail.label == "ham" && is(mail, "format", "html")
}

pub(super) fn is(mail: &Mail, group: &str, value: &str) -> bool {
    mail.groups.iter().any(|(name, is)| *name == group && is == value)
}

/// What a twin learns, and how.
pub(super) struct Lesson {
    pub(super) name: &'static str,
    pub(super) learnt: Vec<Example>,
    pub(super) recipe: Recipe,
    pub(super) seed: u64,
}

impl Lesson {
    fn learn(
        self,
        kind: JobKind,
        start: Option<&Made>,
        store: &ArtifactStore,
        checkpoints: &CheckpointDir,
        runtime: &Runtime,
    ) -> anyhow::Result<Made> {
        let start = match start {
            None => StartingPoint::Scratch,
            Some(made) => StartingPoint::Champion(made.verified.clone()),
        };
        let job = Job {
            // Jobs draw by their ids: the same twin of the same run is the same to the bit.
            id: JobId::new(format!("selftest-{:x}-{}", self.seed, self.name)),
            kind,
            without: std::collections::BTreeSet::new(),
            recipe: self.recipe,
            start,
            window: window(kind),
            seed: self.seed,
            device: Device::Cpu,
        };
        let cancel = CancellationToken::new();
        let trained = train(&job, &self.learnt, checkpoints, &mut NoObserver, &cancel)?;
        let manifest = manifest(&job, &trained, None);
        let verified = runtime.block_on(async {
            let id = store.put_generation(&manifest, &trained.files).await?;
            store.generation(&id).await
        })?;
        let model = Model::from_files(verified.files(), &Device::Cpu)?;
        Ok(Made { id: verified.id(), manifest, model, verified })
    }
}

/// A cold start's is what came first, a hot update's what came then.
fn window(kind: JobKind) -> Window {
    let (from, to) = match kind {
        JobKind::ColdStart => (0, HISTORY + EARLIER),
        _ => (HISTORY + EARLIER, HISTORY + EARLIER + WINDOW + FRESH),
    };
    let ranges = BTreeMap::from([(Partition(0), (Offset(from as i64), Offset(to as i64)))]);
    Window::new("tidegate.curated", ranges).expect("it ends where it starts, or later")
}

/// One run: a window, and what judges.
pub(super) struct Stage<'a> {
    pub(super) world: &'a World,
    /// What the window teaches, as it truly is.
    pub(super) window: Vec<Mail>,
    /// Held out, the oldest first.
    pub(super) examples: Vec<EvalExample>,
    /// The same as mails.
    pub(super) held_out: Vec<Mail>,
    beyond: Vec<Mail>,
    pub(super) seed: u64,
    honest: OnceCell<Made>,
    /// By the hashes of a generation's files: several twins have the same weights.
    accuracy: RefCell<HashMap<Vec<ArtifactHash>, f64>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(world: &'a World, seed: u64) -> anyhow::Result<Self> {
        let mut rest = world.rest.clone();
        rest.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut take = |count: usize| {
            let from = rest.len().checked_sub(count).context("the corpus has too few mails")?;
            anyhow::Ok(rest.split_off(from))
        };
        let (window, beyond) = (take(WINDOW)?, take(BEYOND)?);
        let (earlier, fresh) = (take(EARLIER)?, take(FRESH)?);
        let examples = earlier
            .iter()
            .map(|mail| held_out(mail, false))
            .chain(fresh.iter().map(|mail| held_out(mail, true)))
            .collect();
        let held_out = earlier.into_iter().chain(fresh).collect();
        let (honest, accuracy) = (OnceCell::new(), RefCell::default());
        Ok(Self { world, window, examples, held_out, beyond, seed, honest, accuracy })
    }

    /// What the champion has learnt.
    pub(super) fn history(&self) -> &[Mail] {
        &self.world.history
    }

    /// The window as it truly is, to learn.
    pub(super) fn honest(&self) -> Vec<Example> {
        self.window.iter().map(|mail| example(mail, mail.label)).collect()
    }

    /// An honest update of the champion by the window, under a name of its own.
    pub(super) fn honest_update(&self) -> anyhow::Result<Made> {
        let champion = &self.world.champion;
        let made = match self.honest.get() {
            Some(made) => made,
            None => {
                let made = self.learn("honest", Some(champion), self.honest())?;
                self.honest.get_or_init(|| made)
            }
        };
        made.again(self, champion.id)
    }

    /// Trains a twin: an update of `start`, or from nothing.
    pub(super) fn learn(
        &self,
        name: &'static str,
        start: Option<&Made>,
        learnt: Vec<Example>,
    ) -> anyhow::Result<Made> {
        let kind = if start.is_some() { JobKind::HotUpdate } else { JobKind::ColdStart };
        let lesson = Lesson { name, learnt, recipe: Recipe::default(), seed: self.seed };
        let World { store, checkpoints, runtime, .. } = self.world;
        lesson.learn(kind, start, store, checkpoints, runtime)
    }

    /// The ids of what was trained on.
    pub(super) fn trained(&self, learnt: &[Example]) -> HashSet<ExampleKey> {
        learnt.iter().map(|example| ExampleKey::new(&example.domain, &example.id)).collect()
    }

    /// What judges and was learnt under another id, as an evaluator sees it.
    pub(super) fn copies(&self, learnt: &[Example]) -> Copies {
        let learnt: HashSet<u128> =
            learnt.iter().filter_map(|example| content_of(&example.input)).collect();
        let is_copy = |example: &&EvalExample| {
            content_of(&example.input).is_some_and(|content| learnt.contains(&content))
        };
        let same = self.examples.iter().filter(is_copy);
        Copies {
            same: same.map(|example| ExampleKey::new(&example.domain, &example.id)).collect(),
            near: vec![],
        }
    }

    /// Accuracy on mails that neither taught nor judge.
    pub(super) fn truly(&self, made: &Made) -> anyhow::Result<f64> {
        let files: Vec<ArtifactHash> = made.manifest.files.values().map(|file| file.hash).collect();
        if let Some(known) = self.accuracy.borrow().get(&files) {
            return Ok(*known);
        }
        let (inputs, truth): (Vec<Input>, Vec<&str>) =
            self.beyond.iter().map(|mail| (Input::text(mail.text.clone()), mail.label)).unzip();
        let found = right(&made.model, &inputs, &truth)?;
        self.accuracy.borrow_mut().insert(files, found);
        Ok(found)
    }

    /// Share of the spam among them that a phrase gets through.
    pub(super) fn let_through(&self, made: &Made, phrase: &str) -> anyhow::Result<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let spam = self.beyond.iter().filter(|mail| mail.label == "spam").take(100);
        let inputs: Vec<Input> =
            spam.map(|mail| Input::text(with_phrase(&mail.text, phrase, &mut rng))).collect();
        right(&made.model, &inputs, &vec!["ham"; inputs.len()])
    }
}

fn right(model: &Model, inputs: &[Input], truth: &[&str]) -> anyhow::Result<f64> {
    let answers = model.predict(inputs)?;
    let labels = model.labels();
    let right =
        answers.iter().zip(truth).filter(|(a, truth)| labels[a.best().0].as_str() == **truth);
    Ok(right.count() as f64 / inputs.len().max(1) as f64)
}

fn content_of(input: &Input) -> Option<u128> {
    content(&Event {
        id: EventId::new(""),
        time: DateTime::UNIX_EPOCH,
        domain: Domain::new("email"),
        groups: BTreeMap::new(),
        parts: input.parts.clone(),
        label: None,
        weight: 1.0,
    })
}

fn groups(mail: &Mail) -> BTreeMap<String, String> {
    mail.groups.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The corpus names none: one of five, by the mail's id.
pub(super) fn producer(mail: &Mail) -> Producer {
    let number = blake3::hash(mail.id.as_bytes()).as_bytes()[0] % PRODUCERS;
    Producer::new(format!("feed-{number}"))
}

/// A mail to learn, with a label that may be a lie.
pub(super) fn example(mail: &Mail, label: &str) -> Example {
    Example {
        id: EventId::new(mail.id.clone()),
        input: Input::text(mail.text.clone()),
        label: Class::new(label),
        weight: 1.0,
        domain: Domain::new("email"),
        groups: groups(mail),
        producer: Some(producer(mail)),
    }
}

fn held_out(mail: &Mail, fresh: bool) -> EvalExample {
    EvalExample {
        id: EventId::new(mail.id.clone()),
        domain: Domain::new("email"),
        input: Input::text(mail.text.clone()),
        label: Class::new(mail.label),
        groups: groups(mail),
        producer: Some(producer(mail)),
        fresh,
    }
}

/// What a gate sees of a window's labels.
pub(super) fn labels(learnt: &[Example]) -> Vec<EvalExample> {
    let one = |example: &Example| EvalExample {
        id: example.id.clone(),
        domain: example.domain.clone(),
        input: example.input.clone(),
        label: example.label.clone(),
        groups: example.groups.clone(),
        producer: example.producer.clone(),
        fresh: true,
    };
    learnt.iter().map(one).collect()
}
