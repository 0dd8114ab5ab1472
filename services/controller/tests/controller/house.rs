//! A ledger, a store and a controller in a folder of their own; trainer's and evaluator's work is
//! done by hand.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::Utc;
use serde_json::Value;
use tidegate_contracts::{
    ArtifactHash, Candidate, Class, ContentType, Curated, Event, FileEntry, GenerationId, JobId,
    JobKind, ListenConfig, Manifest, Offset, Outcome, Partition, Role, SEARCH, Score, SearchLog,
    SourcePosition, Split, TokenConfig, Verdict, Window,
    config::Secret,
    proto::v1::{self, control_client::ControlClient},
};
use tidegate_controller::{Controller, ControllerConfig};
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Entry, Fact, Ledger, LedgerConfig, PromotedBy, State,
    seal::{self, SigningKey},
};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, Stream, StreamConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::RoutesBuilder,
    transport::{Channel, Server, server::TcpIncoming},
};

use crate::{http::Http, verdict};

pub(crate) struct House {
    /// `None`: nothing listens, and the stream waits.
    _broker: Option<EmbeddedBroker>,
    pub(crate) stream: Stream,
    pub(crate) ledger: Ledger,
    pub(crate) artifacts: ArtifactStore,
    config: ControllerConfig,
    listen: ListenConfig,
    folder: tempfile::TempDir,
}

/// A controller whose hand acts.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// What a trainer and an evaluator would have made.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) id: GenerationId,
    pub(crate) job: JobId,
    pub(crate) verdict: ArtifactHash,
}

pub(crate) fn loopback() -> ListenConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ListenConfig { grpc: any, http: any, tls: None, tokens: vec![] }
}

pub(crate) fn token(name: &str, role: Role) -> TokenConfig {
    TokenConfig { name: name.to_owned(), token: Secret::new(format!("token of {name}")), role }
}

/// A configuration of these fields and, for the rest, of the defaults without a clock.
pub(crate) fn config(json: Value) -> ControllerConfig {
    let mut all = serde_json::json!({ "schedule": { "hot_update": "", "cold_start": "" } });
    all.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

pub(crate) fn window(from: i64, to: i64) -> Window {
    Window::new("tidegate.curated", [(Partition(0), (Offset(from), Offset(to)))].into()).unwrap()
}

impl House {
    /// Without a broker.
    pub(crate) async fn build(config: ControllerConfig) -> Self {
        Self::furnished(config, loopback(), None).await
    }

    pub(crate) async fn guarded(config: ControllerConfig, listen: ListenConfig) -> Self {
        Self::furnished(config, listen, None).await
    }

    pub(crate) async fn with_broker(config: ControllerConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let embedded = EmbeddedConfig { listen, ..EmbeddedConfig::default() };
        let broker = EmbeddedBroker::start(&embedded, folder.path()).await.unwrap();
        let house = Self::furnished(config, loopback(), Some((folder, broker))).await;
        house.stream.ensure_topics().await.unwrap();
        house
    }

    async fn furnished(
        config: ControllerConfig,
        listen: ListenConfig,
        broker: Option<(tempfile::TempDir, EmbeddedBroker)>,
    ) -> Self {
        let (folder, broker) = match broker {
            Some((folder, broker)) => (folder, Some(broker)),
            None => (tempfile::tempdir().unwrap(), None),
        };
        let brokers = broker.as_ref().map_or("127.0.0.1:1".to_owned(), |b| b.addr().to_string());
        let stream = Stream::connect(&StreamConfig::default(), &brokers).unwrap();
        let olga = "operator:olga".parse().unwrap();
        seal::make(&folder.path().join("keys"), &olga).unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
        let artifacts = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        Self { _broker: broker, stream, ledger, artifacts, config, listen, folder }
    }

    /// The same stream with another ledger.
    pub(crate) async fn rebuilt(&self) -> Self {
        let other = Self::build(self.config.clone()).await;
        Self { stream: self.stream.clone(), ..other }
    }

    /// Olga's own key; nobody else has one.
    pub(crate) fn key(&self) -> SigningKey {
        seal::read_private(&self.folder.path().join("keys/operator-olga.key")).unwrap()
    }

    pub(crate) fn artifact_path(&self, hash: &ArtifactHash) -> std::path::PathBuf {
        let hex = hash.to_hex();
        self.folder.path().join("artifacts/blake3").join(&hex[..2]).join(hex)
    }

    pub(crate) fn controller(&self) -> Controller {
        let (config, stream, ledger) =
            (self.config.clone(), self.stream.clone(), self.ledger.clone());
        Controller::new(config, stream, ledger, self.artifacts.clone(), self.listen.clone())
            .unwrap()
    }

    pub(crate) fn start(&self) -> Running {
        let (controller, shutdown) = (self.controller(), CancellationToken::new());
        let token = shutdown.clone();
        let task = tokio::spawn(async move { controller.run(token).await });
        Running { shutdown, task }
    }

    pub(crate) fn http(&self) -> Http {
        Http(self.controller().http())
    }

    /// A client on a real socket; the server ends with the test's runtime.
    pub(crate) async fn grpc(&self) -> ControlClient<Channel> {
        let mut routes = RoutesBuilder::default();
        self.controller().grpc(&mut routes);
        client(routes).await
    }

    pub(crate) async fn state(&self) -> Arc<State> {
        self.ledger.state().await.unwrap()
    }

    /// Waits until the ledger's state is so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) -> Arc<State> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let state = self.state().await;
            if holds(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn append(&self, actor: &str, fact: Fact) -> Entry {
        let author = Author::unfenced(actor);
        self.ledger.decide(&author, |_| Ok(Some(fact.clone()))).await.unwrap().unwrap()
    }

    pub(crate) async fn entries(&self, kind: &str) -> Vec<Entry> {
        let all = self.ledger.read(1, 10_000).await.unwrap();
        all.into_iter().filter(|entry| entry.fact.kind() == kind).collect()
    }

    /// A job that somebody asked for and that has registered its candidate.
    pub(crate) async fn trained(&self, kind: JobKind, by: &str, window: Window) -> Made {
        let (job, parent) = (JobId::generate(), self.state().await.champion());
        let parent = parent.filter(|_| kind != JobKind::ColdStart);
        let reason = "143 labelled records wait (100 are enough)".to_owned();
        self.append(by, Fact::job(job.clone(), kind, reason)).await;
        let started =
            Fact::JobStarted { job: job.clone(), attempt: 1, window: window.clone(), parent };
        self.append("trainer", started).await;
        let id = self.stored(&job, kind, parent, &window).await;
        let registered =
            Fact::CandidateRegistered { job: job.clone(), generation: id, parent, kind, window };
        self.append("trainer", registered).await;
        Made { id, job, verdict: ArtifactHash::of(b"") }
    }

    /// A generation that the ledger knows nothing of.
    pub(crate) async fn another_models_generation(&self) -> GenerationId {
        self.stored(&JobId::generate(), JobKind::ColdStart, None, &window(0, 10)).await
    }

    async fn stored(
        &self,
        job: &JobId,
        kind: JobKind,
        parent: Option<GenerationId>,
        window: &Window,
    ) -> GenerationId {
        let mut files =
            BTreeMap::from([("weights.safetensors".to_owned(), Bytes::from(job.to_string()))]);
        if kind == JobKind::ColdStart {
            files.insert(SEARCH.to_owned(), search_log());
        }
        let entry = |(name, bytes): (&String, &Bytes)| {
            let size = bytes.len() as u64;
            (name.clone(), FileEntry { hash: ArtifactHash::of(bytes), size })
        };
        let entries = files.iter().map(entry).collect();
        let manifest = Manifest {
            format: 1,
            parent,
            job: job.clone(),
            kind,
            files: entries,
            labels: ["ham", "spam"].map(Class::new).into(),
            recipe: "[architecture]\nd_model = 64\n".to_owned(),
            window: window.clone(),
            seed: 7,
            code_version: "0.1.0".to_owned(),
            created: Utc::now(),
            newest_label: Some(Utc::now()),
            metrics: [("loss".to_owned(), 0.123), ("joules".to_owned(), 81.5)].into(),
        };
        self.artifacts.put_generation(&manifest, &files).await.unwrap()
    }

    /// The evaluator's verdict on what was trained.
    pub(crate) async fn judged(&self, made: Made, outcome: Outcome) -> Made {
        self.judged_as(made, outcome, |_| ()).await
    }

    /// The same with a change.
    pub(crate) async fn judged_as(
        &self,
        made: Made,
        outcome: Outcome,
        change: impl Fn(&mut Verdict),
    ) -> Made {
        let state = self.state().await;
        let mut document = verdict::document(&state, state.generation(&made.id).unwrap(), outcome);
        change(&mut document);
        let bytes = serde_json::to_vec(&document).unwrap();
        let verdict = self.artifacts.put(bytes.into()).await.unwrap();
        self.append("evaluator", Fact::verdict(&document, verdict)).await;
        Made { verdict, ..made }
    }

    /// Trained from the controller's request and judged.
    pub(crate) async fn candidate(&self, kind: JobKind, outcome: Outcome) -> Made {
        self.candidate_as(kind, outcome, |_| ()).await
    }

    pub(crate) async fn candidate_as(
        &self,
        kind: JobKind,
        outcome: Outcome,
        change: impl Fn(&mut Verdict),
    ) -> Made {
        let learnt = self.state().await.learnt_up_to();
        let from = learnt.get(&Partition(0)).map_or(0, |offset| offset.0);
        let window = window(if kind == JobKind::HotUpdate { from } else { 0 }, from + 10);
        let made = self.trained(kind, "controller", window).await;
        self.judged_as(made, outcome, change).await
    }

    /// A champion that policy promoted.
    pub(crate) async fn champion(&self, kind: JobKind) -> Made {
        let made = self.candidate(kind, Outcome::AutoPromote).await;
        let previous = self.state().await.champion();
        let promoted = Fact::promotion(made.id, previous, made.verdict, PromotedBy::Policy);
        self.append("controller", promoted).await;
        made
    }

    /// Publishes curated records `from..to`; every tenth is held out, every thirteenth has no label.
    pub(crate) async fn publish(&self, from: usize, to: usize) {
        let sink = self.stream.sink().unwrap();
        let messages = (from..to).map(|at| {
            let json = format!(r#"{{"id": "m-{at}", "parts": [{{"text": "text {at}"}}]}}"#);
            let mut event = Event::decode(ContentType::Json, json.as_bytes(), Utc::now()).unwrap();
            event.label = (at % 13 != 12).then(|| Class::new("ham"));
            let source = SourcePosition {
                topic: "tidegate.events".to_owned(),
                partition: Partition(0),
                offset: Offset(at as i64),
            };
            let split = if at % 10 == 9 { Split::Eval } else { Split::Train };
            let labelled_at = event.label.as_ref().map(|_| Utc::now());
            let record = Curated { event, split, labelled_at, source, producer: None };
            Message::new(&self.stream.topics().curated, record.encode())
        });
        sink.send_all(messages.collect()).await.unwrap();
    }
}

pub(crate) async fn client(routes: RoutesBuilder) -> ControlClient<Channel> {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", socket.local_addr().unwrap());
    let incoming = TcpIncoming::from(socket).with_nodelay(Some(true));
    let server = Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming);
    tokio::spawn(server);
    ControlClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
}

/// How many of labelled training records there are in what [`House::publish`] publishes.
pub(crate) fn labelled(from: usize, to: usize) -> u64 {
    (from..to).filter(|at| at % 13 != 12 && at % 10 != 9).count() as u64
}

/// `Approve`, `Promote`, ... as the CLI asks.
pub(crate) fn approval(made: &Made, actor: &str) -> v1::ApproveRequest {
    v1::ApproveRequest {
        generation: made.id.to_hex(),
        verdict: made.verdict.to_hex(),
        actor: actor.to_owned(),
        reason: "looked at it".to_owned(),
        envelope: String::new(),
    }
}

pub(crate) fn promotion(made: &Made, actor: &str) -> v1::PromoteRequest {
    v1::PromoteRequest {
        generation: made.id.to_hex(),
        actor: actor.to_owned(),
        reason: "looked at it".to_owned(),
    }
}

/// Of two candidates, the second of which won.
fn search_log() -> Bytes {
    let candidate = |layers: usize, accuracy: f64, dropped: Option<&str>| Candidate {
        architecture: [("layers".to_owned(), layers)].into(),
        parameters: 1_000,
        active: 100,
        flops_per_token: 1e4,
        scores: vec![Score { steps: 60, accuracy }],
        dropped: dropped.map(str::to_owned),
    };
    let candidates = vec![
        candidate(2, 0.75, Some("rung 1: 0.7500 is behind the 0.8125 of candidate 1")),
        candidate(3, 0.8125, None),
    ];
    let log = SearchLog {
        eta: 3,
        rungs: vec![60],
        learnt_from: 400,
        held_back: 100,
        candidates,
        winner: Some(1),
        ended_by: None,
    };
    serde_json::to_vec(&log).unwrap().into()
}
