//! A ledger, a store and a controller in a folder of their own; trainer's and evaluator's work is
//! done by hand.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use bytes::Bytes;
use chrono::Utc;
use serde_json::Value;
use tidegate_contracts::{
    ArtifactHash, CheckResult, CheckState, Class, ContentType, Curated, DataEvidence,
    EnergyEvidence, Event, FileEntry, GenerationId, JobId, JobKind, Joules, Layer, ListenConfig,
    Manifest, Offset, Outcome, Partition, Severity, SourcePosition, Split, SuiteRef, TokenConfig,
    Verdict, Window,
    config::Secret,
    proto::v1::{self, control_client::ControlClient},
};
use tidegate_controller::{Controller, ControllerConfig};
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Entry, Fact, Ledger, LedgerConfig, State,
};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, Stream, StreamConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::RoutesBuilder,
    transport::{Channel, Server, server::TcpIncoming},
};
use tower::ServiceExt as _;

pub(crate) struct House {
    /// `None`: nothing listens, and the stream waits.
    pub(crate) broker: Option<EmbeddedBroker>,
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

pub(crate) fn token(name: &str, role: tidegate_contracts::Role) -> TokenConfig {
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
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
        let artifacts = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        Self { broker, stream, ledger, artifacts, config, listen, folder }
    }

    /// The same stream with another ledger.
    pub(crate) async fn rebuilt(&self) -> Self {
        let other = Self::build(self.config.clone()).await;
        Self { stream: self.stream.clone(), ..other }
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
        self.append(by, Fact::JobRequested { job: job.clone(), kind, reason }).await;
        let started =
            Fact::JobStarted { job: job.clone(), attempt: 1, window: window.clone(), parent };
        self.append("trainer", started).await;
        let weights = Bytes::from(job.to_string());
        let entry = FileEntry { hash: ArtifactHash::of(&weights), size: weights.len() as u64 };
        let manifest = Manifest {
            format: 1,
            parent,
            job: job.clone(),
            kind,
            files: [("weights.safetensors".to_owned(), entry)].into(),
            labels: ["ham", "spam"].map(Class::new).into(),
            recipe: "[architecture]\nd_model = 64\n".to_owned(),
            window: window.clone(),
            seed: 7,
            code_version: "0.1.0".to_owned(),
            created: Utc::now(),
            newest_label: Some(Utc::now()),
            metrics: [("loss".to_owned(), 0.123), ("joules".to_owned(), 81.5)].into(),
        };
        let files = BTreeMap::from([("weights.safetensors".to_owned(), weights)]);
        let id = self.artifacts.put_generation(&manifest, &files).await.unwrap();
        let registered =
            Fact::CandidateRegistered { job: job.clone(), generation: id, parent, kind, window };
        self.append("trainer", registered).await;
        Made { id, job, verdict: ArtifactHash::of(b"") }
    }

    /// The evaluator's verdict on what was trained.
    pub(crate) async fn judged(&self, made: Made, outcome: Outcome) -> Made {
        let document = self.document(&made, outcome).await;
        let bytes = serde_json::to_vec(&document).unwrap();
        let verdict = self.artifacts.put(bytes.into()).await.unwrap();
        let issued = Fact::VerdictIssued {
            generation: made.id,
            champion: document.champion,
            verdict,
            suite: "email 1.0.0".to_owned(),
            outcome,
            reasons: document.reasons,
        };
        self.append("evaluator", issued).await;
        Made { verdict, ..made }
    }

    async fn document(&self, made: &Made, outcome: Outcome) -> Verdict {
        let state = self.state().await;
        let one = state.generation(&made.id).unwrap();
        let champion = state.champion();
        let reasons = match outcome {
            Outcome::AutoPromote => vec![],
            Outcome::NeedsApproval => vec!["calibration is undecided".to_owned()],
            Outcome::Blocked => vec!["accuracy fell by 31.0 points & <more>".to_owned()],
        };
        Verdict {
            format: 1,
            generation: made.id,
            champion,
            job: made.job.clone(),
            kind: one.kind,
            suite: SuiteRef {
                name: "email".to_owned(),
                version: "1.0.0".to_owned(),
                digest: ArtifactHash::of(b"suite"),
            },
            issued: Utc::now(),
            seed: 7,
            outcome,
            reasons,
            checks: checks(outcome, champion.is_some()),
            data: DataEvidence {
                earlier: 412,
                fresh: 61,
                digest: ArtifactHash::of(b"data"),
                window: one.window.clone(),
                leaked: 0,
            },
            energy: EnergyEvidence {
                method: "cpu_time_model".to_owned(),
                joules: Some(Joules(212.0)),
                gco2e: Some(tidegate_contracts::GramsCo2e(0.021)),
                region: "world".to_owned(),
            },
            seconds: 8.4,
            environment: [("cpus".to_owned(), "2".to_owned())].into(),
            golden: vec![],
        }
    }

    /// Trained from the controller's request and judged.
    pub(crate) async fn candidate(&self, kind: JobKind, outcome: Outcome) -> Made {
        let learnt = self.state().await.learnt_up_to();
        let from = learnt.get(&Partition(0)).map_or(0, |offset| offset.0);
        let window = window(if kind == JobKind::HotUpdate { from } else { 0 }, from + 10);
        let made = self.trained(kind, "controller", window).await;
        self.judged(made, outcome).await
    }

    /// A champion that policy promoted.
    pub(crate) async fn champion(&self, kind: JobKind) -> Made {
        let made = self.candidate(kind, Outcome::AutoPromote).await;
        let promoted = Fact::Promoted {
            generation: made.id,
            previous: self.state().await.champion(),
            verdict: made.verdict,
            by: tidegate_ledger::PromotedBy::Policy,
        };
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
            let record = Curated { event, split, labelled_at, source };
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

/// How many of [`labelled`] there are in what [`House::publish`] publishes.
pub(crate) fn labelled(from: usize, to: usize) -> u64 {
    (from..to).filter(|at| at % 13 != 12 && at % 10 != 9).count() as u64
}

fn checks(outcome: Outcome, against: bool) -> Vec<CheckResult> {
    let check = |id: &str, layer, metric: &str, severity, state, values: [f64; 4], rule: &str| {
        let [champion, candidate, low, high] = values;
        CheckResult {
            id: id.to_owned(),
            layer,
            metric: metric.to_owned(),
            slice: "overall".to_owned(),
            severity,
            state,
            candidate: Some(candidate),
            baseline: against.then_some(champion),
            interval: Some((low, high)),
            level: 0.9,
            method: "newcombe_paired".to_owned(),
            n: 473,
            rule: rule.to_owned(),
            reason: format!("{metric} overall: the numbers in words"),
        }
    };
    use CheckState::{Fail, Inconclusive, Pass};
    use Layer::{Cost, Efficiency, Fairness, Quality, Retention, Robustness};
    use Severity::{Block, Review, Warn};
    let (accuracy, values) = match outcome {
        Outcome::Blocked => (Fail, [0.962, 0.652, -0.35, -0.27]),
        _ => (Pass, [0.962, 0.966, -0.011, 0.02]),
    };
    let calibration = if outcome == Outcome::NeedsApproval { Inconclusive } else { Pass };
    let worse = "L(candidate - champion) > -0.03";
    let mut all = vec![
        check(
            "accuracy-floor",
            Quality,
            "accuracy",
            Block,
            Pass,
            [0.0, 0.966, 0.94, 0.98],
            "L(accuracy) >= 0.6",
        ),
        check("accuracy", Quality, "accuracy", Block, accuracy, values, worse),
        check(
            "calibration",
            Quality,
            "ece",
            Review,
            calibration,
            [0.021, 0.034, -0.012, 0.052],
            "U(candidate - champion) < 0.04",
        ),
        check(
            "typing-errors",
            Robustness,
            "accuracy",
            Review,
            Pass,
            [0.93, 0.94, -0.03, 0.05],
            "L(candidate - champion) > -0.1",
        ),
        check(
            "gap-origin",
            Fairness,
            "accuracy_gap",
            Review,
            Pass,
            [0.04, 0.03, -0.04, 0.03],
            "U(candidate - champion) < 0.1",
        ),
        check(
            "latency",
            Efficiency,
            "latency_p50_ms",
            Review,
            Pass,
            [2.1, 2.2, 0.98, 1.12],
            "U(candidate / champion) <= 1.5",
        ),
        check(
            "energy",
            Cost,
            "joules_per_1k",
            Warn,
            Pass,
            [11.4, 11.9, 0.9, 1.3],
            "U(candidate / champion) <= 2",
        ),
        check("retention", Retention, "accuracy", Block, accuracy, values, worse),
    ];
    let mut few = all[3].clone();
    (few.id, few.state) = ("word-changes".to_owned(), CheckState::Insufficient);
    (few.interval, few.candidate, few.baseline) = (None, None, None);
    all.insert(4, few);
    all
}

/// A browser or a program, in front of the real routes.
pub(crate) struct Http(pub(crate) Router);

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error says why").to_owned()
    }
}

pub(crate) const HOST: &str = "127.0.0.1:8080";
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

impl Http {
    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(header::HOST, HOST);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, &[JSON], body.to_string()).await
    }

    /// As our own page does.
    pub(crate) async fn form(&self, path: &str, fields: &str) -> Reply {
        let ours = ("sec-fetch-site", "same-origin");
        self.call("POST", path, &[FORM, ours], fields.to_owned()).await
    }
}

/// `Approve`, `Promote`, ... as the CLI asks.
pub(crate) fn approval(made: &Made, actor: &str) -> v1::ApproveRequest {
    v1::ApproveRequest {
        generation: made.id.to_hex(),
        verdict: made.verdict.to_hex(),
        actor: actor.to_owned(),
        reason: "looked at it".to_owned(),
    }
}

pub(crate) fn promotion(made: &Made, actor: &str) -> v1::PromoteRequest {
    v1::PromoteRequest {
        generation: made.id.to_hex(),
        actor: actor.to_owned(),
        reason: "looked at it".to_owned(),
    }
}
