//! A broker, a ledger and a store in a folder of their own, and a trainer's work done by hand.
use std::{
    ops::Range,
    time::{Duration, Instant},
};

use chrono::Utc;
use prost::Message as _;
use tidegate_contracts::{
    Class, ContentType, Curated, Event, GenerationId, JobId, JobKind, Offset, Partition, Sha256,
    SourcePosition, Split, Verdict, Window, proto::v1,
};
use tidegate_evaluator::EvaluatorConfig;
use tidegate_learning::{
    CheckpointDir, Example, Job, NoObserver, Recipe, StartingPoint, manifest, train,
};
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Fact, Ledger, LedgerConfig, PromotedBy, STAGE_PROGRESS,
    Stage, StageEnd, StageProgress, StageTerms,
};
use tidegate_model::{Device, WEIGHTS};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, Stream, StreamConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct House {
    folder: tempfile::TempDir,
    _broker: EmbeddedBroker,
    stream: Stream,
    ledger: Ledger,
    pub(crate) artifacts: ArtifactStore,
}

/// What is published as the label.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Labels {
    True,
    Flipped,
}

/// An evaluator that runs.
pub(crate) struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Waits for it to end by itself.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        self.task.await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A suite that lets anything through.
pub(crate) const BLIND: &str = "{format: 1, name: blind, version: '1', checks: [\
     {id: quick, layer: efficiency, metric: latency_p50_ms, ceil: 60000, severity: block}]}";

/// A network that trains in a second.
fn recipe() -> Recipe {
    Recipe::from_toml(
        "[architecture]\nd_model = 16\nlayers = 1\nheads = 2\nkv_heads = 1\ncontext = 16\n\
         vocab = 300\nexperts = 4\nexpert_width = 16\nwide_buckets = 4096\n\
         [cold_start]\nepochs = 4\nbatch = 16\n[hot_update]\nepochs = 2\nbatch = 16\n",
    )
    .unwrap()
}

fn class(at: usize) -> &'static str {
    ["ham", "spam"][at % 2]
}

fn text(at: usize) -> String {
    let words = match class(at) {
        "spam" => ["winner", "free", "prize", "cash"],
        _ => ["meeting", "patch", "lunch", "notes"],
    };
    let (first, second) = (words[at / 2 % 4], words[at / 8 % 4]);
    format!("{first} {second} about item {} of {}", at * 7 % 13, at % 5)
}

fn record(at: usize, labels: Labels) -> Curated {
    let json = format!(r#"{{"id": "m-{at}", "parts": [{{"text": "{}"}}]}}"#, text(at));
    let mut event = Event::decode(ContentType::Json, json.as_bytes(), Utc::now()).unwrap();
    event.label = Some(Class::new(class(at + usize::from(labels == Labels::Flipped))));
    let source = SourcePosition {
        topic: "tidegate.events".to_owned(),
        partition: Partition(0),
        offset: Offset(at as i64),
    };
    // Every fifth pair: both classes are held out.
    let split = if at / 2 % 5 == 4 { Split::Eval } else { Split::Train };
    Curated { labelled_at: Some(event.time), event, split, source, producer: None }
}

/// Held-out events as JSON lines.
pub(crate) fn frozen(records: Range<usize>) -> Vec<u8> {
    let held_out = records.map(|at| record(at, Labels::True)).filter(|r| r.split == Split::Eval);
    let line =
        |curated: Curated| [curated.event.encode(ContentType::Json), b"\n".to_vec()].concat();
    held_out.flat_map(line).collect()
}

impl House {
    pub(crate) async fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let config = EmbeddedConfig { listen, ..EmbeddedConfig::default() };
        let broker = EmbeddedBroker::start(&config, folder.path()).await.unwrap();
        let brokers = broker.addr().to_string();
        let stream = Stream::connect(&StreamConfig::default(), &brokers).unwrap();
        stream.ensure_topics().await.unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
        let artifacts = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        Self { folder, _broker: broker, stream, ledger, artifacts }
    }

    pub(crate) fn start(&self) -> Running {
        self.run(EvaluatorConfig::default())
    }

    pub(crate) fn start_with(&self, suite: &str) -> Running {
        let path = self.folder.path().join("suite.yaml");
        std::fs::write(&path, suite).unwrap();
        self.run(EvaluatorConfig { suite: Some(path), ..EvaluatorConfig::default() })
    }

    /// Puts a file beside the suite.
    pub(crate) fn beside_suite(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    /// How often verdicts asked frozen data, by the ledger.
    pub(crate) async fn queries(&self, data: &Sha256) -> u64 {
        self.ledger.state().await.unwrap().queries(data)
    }

    fn run(&self, config: EvaluatorConfig) -> Running {
        let shutdown = CancellationToken::new();
        let config = EvaluatorConfig { lease_s: 2, ..config };
        let task = tokio::spawn(tidegate_evaluator::run(
            config,
            self.stream.clone(),
            self.ledger.clone(),
            self.artifacts.clone(),
            Device::Cpu,
            shutdown.clone(),
        ));
        Running { shutdown, task }
    }

    /// Publishes curated records; the topic's offset of each is its number.
    pub(crate) async fn publish(&self, records: Range<usize>, labels: Labels) {
        let topic = &self.stream.topics().curated;
        let message = |at| Message::new(topic, record(at, labels).encode());
        let sink = self.stream.sink().unwrap();
        sink.send_all(records.map(message).collect()).await.unwrap();
    }

    async fn append(&self, fact: Fact) {
        let author = Author::unfenced("test");
        self.ledger.decide(&author, |_| Ok(Some(fact.clone()))).await.unwrap();
    }

    /// Learns from what is published and registers what came of it.
    pub(crate) async fn train(
        &self,
        kind: JobKind,
        records: Range<usize>,
        parent: Option<&GenerationId>,
    ) -> GenerationId {
        let ends = (Offset(records.start as i64), Offset(records.end as i64));
        let topic = self.stream.topics().curated.clone();
        let window = Window::new(topic, [(Partition(0), ends)].into()).unwrap();
        let start = match parent {
            None => StartingPoint::Scratch,
            Some(id) => StartingPoint::Champion(self.artifacts.generation(id).await.unwrap()),
        };
        let id = JobId::generate();
        let seed = records.end as u64;
        let recipe = recipe();
        let device = Device::Cpu;
        let without = std::collections::BTreeSet::new();
        let job = Job { id, kind, recipe, start, window: window.clone(), without, seed, device };
        let read = self.stream.read(&window).await.unwrap();
        let curated = read.iter().map(|record| Curated::decode(&record.value).unwrap());
        let examples: Vec<Example> =
            curated.filter_map(|curated| Example::from_curated(&curated)).collect();
        let folder = self.folder.path().join(job.id.as_str());
        let (job, trained) = tokio::task::spawn_blocking(move || {
            let checkpoints = CheckpointDir::open(&folder).unwrap();
            let cancel = CancellationToken::new();
            let trained = train(&job, &examples, &checkpoints, &mut NoObserver, &cancel).unwrap();
            (job, trained)
        })
        .await
        .unwrap();
        let manifest = manifest(&job, &trained, None);
        let generation = self.artifacts.put_generation(&manifest, &trained.files).await.unwrap();
        let (job, parent) = (job.id, parent.copied());
        let reason = "test".to_owned();
        self.append(Fact::job(job.clone(), kind, reason)).await;
        let (attempt, started) = (1, window.clone());
        self.append(Fact::JobStarted { job: job.clone(), attempt, window: started, parent }).await;
        self.append(Fact::CandidateRegistered { job, generation, parent, kind, window }).await;
        generation
    }

    /// Waits for the verdict and reads the whole document.
    pub(crate) async fn verdict(&self, generation: &GenerationId) -> Verdict {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.ledger.state().await.unwrap();
            if let Some(verdict) = &state.generation(generation).unwrap().verdict {
                let document = self.artifacts.get(&verdict.id).await.unwrap();
                let read: Verdict = serde_json::from_slice(&document).unwrap();
                assert_eq!((read.generation, read.outcome), (*generation, verdict.outcome));
                assert_eq!(read.reasons[0], verdict.reasons[0]);
                return read;
            }
            assert!(Instant::now() < deadline, "no verdict in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn promote(&self, generation: &GenerationId) {
        let state = self.ledger.state().await.unwrap();
        let verdict = state.generation(generation).unwrap().verdict.clone().unwrap().id;
        let (generation, previous) = (*generation, state.champion());
        let by = PromotedBy::Policy;
        self.append(Fact::promotion(generation, previous, verdict, by)).await;
    }

    /// What is on record against a champion.
    pub(crate) async fn harm(&self, generation: &GenerationId) -> Option<String> {
        self.ledger.state().await.unwrap().generation(generation).unwrap().harm.clone()
    }

    /// The same, waited for.
    pub(crate) async fn until_harm(&self, generation: &GenerationId) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(harm) = self.harm(generation).await {
                return harm;
            }
            assert!(Instant::now() < deadline, "no harm in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the champion was held against its predecessor on so many labels.
    pub(crate) async fn until_watched(&self, labels: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let kept = self.ledger.get_state("evaluator/live").await.unwrap();
            let watch: serde_json::Value =
                kept.map_or_else(Default::default, |bytes| serde_json::from_slice(&bytes).unwrap());
            let count = |name: &str| watch[name].as_u64().unwrap_or_default();
            if count("better") + count("worse") + count("alike") >= labels {
                return;
            }
            assert!(Instant::now() < deadline, "not watched in time: {watch}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts a judged candidate into the shadow, and waits until the evaluator looks.
    pub(crate) async fn shadow(&self, generation: &GenerationId, requests: u64, labels: u64) {
        let state = self.ledger.state().await.unwrap();
        let verdict = state.generation(generation).unwrap().verdict.clone().unwrap();
        let now = Utc::now();
        let terms = StageTerms {
            share: 1.0,
            earliest: now,
            until: now + chrono::Duration::hours(1),
            requests,
            labels,
            margin: 0.1,
            alpha: 0.05,
            errors: 0.2,
            latency: 5.0,
        };
        let champion = verdict.champion.unwrap();
        let (generation, verdict, stage) = (*generation, verdict.id, Stage::Shadow);
        let seal = None;
        self.append(Fact::StageStarted { generation, champion, verdict, stage, terms, seal }).await;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let kept = self.ledger.get_state(STAGE_PROGRESS).await.unwrap();
            let kept = kept.and_then(|bytes| serde_json::from_slice::<StageProgress>(&bytes).ok());
            if kept.is_some_and(|kept| kept.generation == generation) {
                return;
            }
            assert!(Instant::now() < deadline, "nobody looks at the stage");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a gateway tells of requests that both answered alike.
    pub(crate) async fn pairs(&self, candidate: &GenerationId, count: usize) {
        let topic = &self.stream.topics().predictions;
        let told = |_| {
            let staged = v1::Staged {
                stage: "shadow".to_owned(),
                candidate: candidate.to_hex(),
                other: candidate.to_hex(),
                label: "ham".to_owned(),
                answered_ms: 1.0,
                other_ms: 1.5,
                ..v1::Staged::default()
            };
            let label = "ham".to_owned();
            let told = v1::Prediction { label, staged: Some(staged), ..v1::Prediction::default() };
            Message::new(topic, told.encode_to_vec())
        };
        self.stream.sink().unwrap().send_all((0..count).map(told).collect()).await.unwrap();
    }

    /// Waits for the end of the stage.
    pub(crate) async fn until_ended(&self, generation: &GenerationId) -> StageEnd {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.ledger.state().await.unwrap();
            let stages = &state.generation(generation).unwrap().stages;
            if let Some(end) = stages.last().and_then(|stage| stage.ended.clone()) {
                return end;
            }
            assert!(Instant::now() < deadline, "the stage has not ended in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn set_aside(&self, generation: &GenerationId) {
        let state = self.ledger.state().await.unwrap();
        let window = state.generation(generation).unwrap().window.clone();
        let (generation, reason) = (*generation, "blocked".to_owned());
        self.append(Fact::WindowQuarantined { generation, window, reason }).await;
    }

    /// Changes one byte of the weights where they lie.
    pub(crate) async fn alter_weights(&self, generation: &GenerationId) {
        let manifest = self.artifacts.manifest(generation).await.unwrap();
        let name = manifest.files[WEIGHTS].hash.to_hex();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|file| file.to_string_lossy() == name) {
                    let mut bytes = std::fs::read(&path).unwrap();
                    let last = bytes.len() - 1;
                    bytes[last] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                    return;
                }
            }
        }
        panic!("the weights are not in the store's folder");
    }
}
