//! The trainer with the real broker and the real ledger.
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use tidegate_contracts::{
    Actor, Class, ContentType, Curated, Event, GenerationId, JobId, JobKind, Offset, Partition,
    Producer, SourcePosition, Split,
};
use tidegate_learning::Recipe;
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Fact, JobState, Ledger, LedgerConfig, State,
};
use tidegate_model::{Device, Input, Model};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, Stream, StreamConfig};
use tidegate_trainer::TrainerConfig;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A broker, a ledger and a store in a folder of their own.
struct House {
    folder: tempfile::TempDir,
    broker: EmbeddedBroker,
    stream: Stream,
    ledger: Ledger,
    artifacts: ArtifactStore,
}

/// A trainer that runs.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl House {
    async fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let config = EmbeddedConfig { listen, ..EmbeddedConfig::default() };
        let broker = EmbeddedBroker::start(&config, folder.path()).await.unwrap();
        let brokers = broker.addr().to_string();
        let stream = Stream::connect(&StreamConfig::default(), &brokers).unwrap();
        stream.ensure_topics().await.unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
        let artifacts = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        Self { folder, broker, stream, ledger, artifacts }
    }

    fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Publishes curated records `from..to`, the classes in turn; every tenth is held out, every
    /// thirteenth has no label.
    async fn publish(&self, classes: &[&str], from: usize, to: usize) {
        self.publish_of("mail", classes, from, to).await;
    }

    async fn publish_of(&self, domain: &str, classes: &[&str], from: usize, to: usize) {
        let sink = self.stream.sink().unwrap();
        let messages = (from..to).map(|at| {
            let class = classes[at % classes.len()];
            let json = format!(
                r#"{{"id": "{class}-{at}", "domain": "{domain}", "parts": [{{"text": "{}"}}]}}"#,
                text(class, at)
            );
            let time = Utc::now();
            let mut event = Event::decode(ContentType::Json, json.as_bytes(), time).unwrap();
            event.label = (at % 13 != 12).then(|| Class::new(class));
            let source = SourcePosition {
                topic: "tidegate.events".to_owned(),
                partition: Partition(0),
                offset: Offset(at as i64),
            };
            let split = if at % 10 == 9 { Split::Eval } else { Split::Train };
            let labelled_at = event.label.as_ref().map(|_| time);
            let producer = Some(Producer::new(format!("feed-{}", at / 2 % 4)));
            let record = Curated { event, split, labelled_at, source, producer };
            Message::new(&self.stream.topics().curated, record.encode())
        });
        sink.send_all(messages.collect()).await.unwrap();
    }

    async fn request(&self, kind: JobKind) -> JobId {
        let job = JobId::generate();
        let fact = Fact::job(job.clone(), kind, "test");
        self.append(fact).await;
        job
    }

    async fn request_transfer(&self, domain: &str, source: Option<GenerationId>) -> JobId {
        let (job, domain) = (JobId::generate(), Some(domain.into()));
        let (kind, reason) = (JobKind::Transfer, "test".to_owned());
        self.append(Fact::JobRequested { job: job.clone(), kind, reason, domain, source }).await;
        job
    }

    async fn append(&self, fact: Fact) {
        let author = Author { actor: Actor::new("operator:test"), fence: None };
        self.ledger.decide(&author, |_| Ok(Some(fact.clone()))).await.unwrap();
    }

    fn start(&self, recipe: Recipe) -> Running {
        let shutdown = CancellationToken::new();
        let config = TrainerConfig { recipe, lease_s: 2, ..TrainerConfig::default() };
        let task = tokio::spawn(tidegate_trainer::run(
            config,
            self.stream.clone(),
            self.ledger.clone(),
            self.artifacts.clone(),
            self.data_dir().to_owned(),
            Device::Cpu,
            shutdown.clone(),
        ));
        Running { shutdown, task }
    }

    /// Waits until the ledger's state is so.
    async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) -> Arc<State> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.ledger.state().await.unwrap();
            if condition(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ended(&self, job: &JobId) -> Arc<State> {
        self.until("the job ends", |state| {
            state
                .job(job)
                .is_some_and(|job| matches!(job.state, JobState::Succeeded | JobState::Failed))
        })
        .await
    }

    async fn accuracy(&self, id: &GenerationId, classes: &[&str]) -> f64 {
        let generation = self.artifacts.generation(id).await.unwrap();
        let model = Model::from_files(generation.files(), &Device::Cpu).unwrap();
        let cases: Vec<(&str, Input)> = (1_000..1_060)
            .map(|at| (classes[at % classes.len()], at))
            .map(|(class, at)| (class, Input::text(text(class, at))))
            .collect();
        let inputs: Vec<Input> = cases.iter().map(|(_, input)| input.clone()).collect();
        let scores = model.predict(&inputs).unwrap();
        let right = scores
            .iter()
            .zip(&cases)
            .filter(|(s, (class, _))| model.labels()[s.best().0].as_str() == *class);
        right.count() as f64 / cases.len() as f64
    }
}

fn text(class: &str, at: usize) -> String {
    let words = match class {
        "spam" => ["winner", "free", "prize"],
        "ham" => ["meeting", "patch", "lunch"],
        other => panic!("no words for {other}"),
    };
    format!("{} {} about item {} of {}", words[at % 3], words[at / 3 % 3], at * 7 % 13, at % 5)
}

/// A network that trains in milliseconds.
fn small(cold_epochs: u64) -> Recipe {
    Recipe::from_toml(&format!(
        "[architecture]\nd_model = 16\nlayers = 1\nheads = 2\nkv_heads = 1\ncontext = 16\n\
         vocab = 300\nexperts = 4\nexpert_width = 16\nwide_buckets = 4096\n\
         [cold_start]\nepochs = {cold_epochs}\nbatch = 8\n[hot_update]\nepochs = 2\nbatch = 8\n\
         [checkpoints]\nsteps = 1\n",
    ))
    .unwrap()
}

const BOTH: &[&str] = &["spam", "ham"];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_becomes_a_candidate_and_the_next_window_begins_where_it_ended() {
    let house = House::build().await;
    house.publish(BOTH, 0, 80).await;
    let trainer = house.start(small(4));
    let job = house.request(JobKind::ColdStart).await;
    let state = house.ended(&job).await;
    let id = state.job(&job).unwrap().generation.expect("it succeeded");
    let manifest = house.artifacts.manifest(&id).await.unwrap();
    assert_eq!((manifest.job, manifest.parent), (job, None));
    assert_eq!(manifest.window.len(), 80);
    assert!(manifest.newest_label.is_some());
    // 8 of 80 are held out, and 6 have no label, of which none is held out as well.
    let learnt = manifest.metrics["window_examples"];
    assert!((learnt - 66.0).abs() < f64::EPSILON, "{learnt}");
    assert!(house.accuracy(&id, BOTH).await > 0.9);

    let verdict = tidegate_contracts::ArtifactHash::of(b"");
    house
        .append(Fact::VerdictIssued {
            generation: id,
            champion: None,
            verdict,
            suite: "test".to_owned(),
            outcome: tidegate_contracts::Outcome::AutoPromote,
            reasons: vec![],
            digest: Some(verdict),
            waivable: None,
            queried: vec![],
            line: None,
            seal: None,
        })
        .await;
    let by = tidegate_ledger::PromotedBy::Policy;
    house.append(Fact::promotion(id, None, verdict, by)).await;
    house.publish(BOTH, 80, 120).await;
    let job = house.request(JobKind::HotUpdate).await;
    let state = house.ended(&job).await;
    let update = state.job(&job).unwrap().generation.expect("it succeeded");
    let manifest = house.artifacts.manifest(&update).await.unwrap();
    assert_eq!(manifest.parent, Some(id));
    assert_eq!(manifest.window.ranges()[&Partition(0)], (Offset(80), Offset(120)));
    assert!(house.accuracy(&update, BOTH).await > 0.9);
    trainer.stop().await;
    house.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_teaches_nothing_fails_at_once_and_says_why() {
    let house = House::build().await;
    let trainer = house.start(small(4));
    let job = house.request(JobKind::ColdStart).await;
    let state = house.ended(&job).await;
    let record = state.job(&job).unwrap();
    assert_eq!((record.state, record.attempts), (JobState::Failed, 1));
    assert!(record.failure.as_ref().unwrap().contains("window is empty"));

    house.publish(&["ham"], 0, 20).await;
    let job = house.request(JobKind::ColdStart).await;
    let state = house.ended(&job).await;
    let failure = state.job(&job).unwrap().failure.clone().unwrap();
    assert!(failure.contains("class `ham`"), "{failure}");

    let job = house.request(JobKind::HotUpdate).await;
    let state = house.ended(&job).await;
    let failure = state.job(&job).unwrap().failure.clone().unwrap();
    assert!(failure.contains("order a cold start"), "{failure}");
    trainer.stop().await;
    house.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_is_stopped_goes_on_from_its_checkpoint_with_the_same_window() {
    let house = House::build().await;
    house.publish(BOTH, 0, 80).await;
    let first = house.start(small(400));
    let job = house.request(JobKind::ColdStart).await;
    let checkpoints = house.data_dir().join("checkpoints");
    let on_disk = || std::fs::read_dir(&checkpoints).is_ok_and(|dir| dir.count() > 0);
    house.until("a checkpoint is on disk", |_| on_disk()).await;
    first.stop().await;
    let state = house.ledger.state().await.unwrap();
    assert_eq!(state.job(&job).unwrap().state, JobState::Running);

    // What comes meanwhile is not of this window.
    house.publish(BOTH, 80, 120).await;
    let second = house.start(small(400));
    let state = house.ended(&job).await;
    let record = state.job(&job).unwrap();
    assert_eq!((record.state, record.attempts), (JobState::Succeeded, 2), "{:?}", record.failure);
    let id = record.generation.unwrap();
    assert_eq!(house.artifacts.manifest(&id).await.unwrap().window.len(), 80);
    house.until("the checkpoints are cleared", |_| !on_disk()).await;
    assert!(house.ledger.get_state(&format!("progress/{job}")).await.unwrap().is_some());
    second.stop().await;
    house.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_trainers_one_works_and_the_other_takes_over() {
    let house = House::build().await;
    house.publish(BOTH, 0, 80).await;
    let (one, two) = (house.start(small(4)), house.start(small(4)));
    let job = house.request(JobKind::ColdStart).await;
    let state = house.ended(&job).await;
    assert_eq!(state.job(&job).unwrap().attempts, 1);
    one.stop().await;
    let job = house.request(JobKind::ColdStart).await;
    let state = house.ended(&job).await;
    assert_eq!(state.job(&job).unwrap().state, JobState::Succeeded);
    two.stop().await;
    house.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_from_a_producer_that_is_set_aside() {
    let house = House::build().await;
    house.publish(BOTH, 0, 80).await;
    let trainer = house.start(small(4));
    let learnt = async || {
        let job = house.request(JobKind::ColdStart).await;
        let state = house.ended(&job).await;
        let made = state.job(&job).unwrap().generation.expect("it succeeded");
        house.artifacts.manifest(&made).await.unwrap().metrics["window_examples"]
    };
    let all = learnt().await;
    let producer = Producer::new("feed-1");
    house.append(Fact::ProducerQuarantined { producer, reason: "it lies".to_owned() }).await;
    let of_feed_1 =
        (0..80).filter(|at| at / 2 % 4 == 1 && at % 10 != 9 && at % 13 != 12).count() as f64;
    let without = learnt().await;
    assert!((all - without - of_feed_1).abs() < f64::EPSILON, "{all} {without} {of_feed_1}");
    trainer.stop().await;
    house.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_learns_its_domain_alone_from_the_generation_that_it_was_told() {
    let house = House::build().await;
    house.publish(BOTH, 0, 80).await;
    let trainer = house.start(small(4));
    let job = house.request(JobKind::ColdStart).await;
    let source = house.ended(&job).await.job(&job).unwrap().generation.expect("it succeeded");

    // Nobody was promoted: only by its source can this begin.
    house.publish_of("shop", BOTH, 80, 160).await;
    let job = house.request_transfer("shop", Some(source)).await;
    let state = house.ended(&job).await;
    let record = state.job(&job).unwrap();
    let made = record.generation.unwrap_or_else(|| panic!("{:?}", record.failure));
    let manifest = house.artifacts.manifest(&made).await.unwrap();
    assert_eq!((manifest.kind, manifest.parent), (JobKind::Transfer, Some(source)));
    assert_eq!(manifest.window.len(), 160, "all that is retained was looked at");
    let report = house.artifacts.get(&manifest.files["transfer.json"].hash).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["domains"].as_object().unwrap().keys().collect::<Vec<_>>(), ["shop"]);
    let learnt = manifest.metrics["window_examples"];
    let held = report["held_back"].as_u64().unwrap();
    // Of the six without a label one is held out anyway, so there is one more than of the mails.
    assert!(held > 5 && (learnt + held as f64 - 67.0).abs() < f64::EPSILON, "{learnt} {held}");
    assert!(manifest.metrics["transfer.zero_shot_accuracy"] > 0.8, "the same words");
    assert!(manifest.metrics["transfer.few_shot_5_accuracy"] > 0.4);

    let job = house.request_transfer("news", Some(source)).await;
    let state = house.ended(&job).await;
    let failure = state.job(&job).unwrap().failure.clone().unwrap();
    for needle in ["`news`", "`mail` (66)", "`shop` (67)"] {
        assert!(failure.contains(needle), "{failure}");
    }
    let nobody = GenerationId::of(b"nobody");
    let job = house.request_transfer("shop", Some(nobody)).await;
    let state = house.ended(&job).await;
    let failure = state.job(&job).unwrap().failure.clone().unwrap();
    assert!(failure.contains(&nobody.short()), "{failure}");
    trainer.stop().await;
    house.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_searched_cold_start_keeps_its_log_in_the_generation() {
    let house = House::build().await;
    house.publish(BOTH, 0, 80).await;
    let mut recipe = small(2);
    (recipe.search.candidates, recipe.search.eta, recipe.search.steps) = (3, 3, 2);
    recipe.search.space.d_model = vec![8, 16];
    recipe.search.space.layers = vec![1];
    recipe.search.space.heads = vec![2];
    recipe.search.space.kv_heads = vec![1, 2];
    let trainer = house.start(recipe);
    let job = house.request(JobKind::ColdStart).await;
    let state = house.ended(&job).await;
    let record = state.job(&job).unwrap();
    let made = record.generation.unwrap_or_else(|| panic!("{:?}", record.failure));
    let manifest = house.artifacts.manifest(&made).await.unwrap();
    let log = house.artifacts.get(&manifest.files[tidegate_contracts::SEARCH].hash).await.unwrap();
    let log: tidegate_contracts::SearchLog = serde_json::from_slice(&log).unwrap();
    assert_eq!(log.candidates.len(), 3);
    assert!(log.winner.is_some() && manifest.metrics["search.seconds"] > 0.0);
    let progress = house.ledger.get_state(&format!("progress/{job}")).await.unwrap().unwrap();
    let progress: serde_json::Value = serde_json::from_slice(&progress).unwrap();
    assert_eq!(progress["search"]["step"], progress["search"]["steps"]);
    let checkpoints = house.data_dir().join("checkpoints");
    house
        .until("the checkpoints are cleared", |_| {
            std::fs::read_dir(&checkpoints).is_ok_and(|dir| dir.count() == 0)
        })
        .await;
    trainer.stop().await;
    house.broker.shutdown().await;
}
