//! The gateway itself, promoted to large generations while a client asks.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use chrono::Utc;
use tidegate_benchmarks::{client, corpus};
use tidegate_contracts::{
    ArtifactHash, CODE_VERSION, Class, DataEvidence, EnergyEvidence, FileEntry, GenerationId,
    Golden, JobId, JobKind, ListenConfig, Manifest, Offset, Outcome, Partition, SuiteRef, Verdict,
    Window,
};
use tidegate_gateway::{Gateway, GatewayConfig};
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Entry, Fact, Ledger, LedgerConfig, LedgerError,
    PromotedBy,
};
use tidegate_model::{
    ARCHITECTURE, Architecture, CpuBackend, Device, Input, LABELS, Model, TOKENIZER, Tokenizer,
    WEIGHTS, Weights,
};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, StreamConfig};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{service::RoutesBuilder, transport::server::TcpIncoming};

const LABELS_OF: [&str; 2] = ["ham", "spam"];
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(50);
/// Characters of a request: some sixty tokens.
const LENGTH: usize = 240;
/// From a promotion to its first answer, at most.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the promotions showed.
pub(crate) struct Swapped {
    /// From the promotion's entry in the ledger to the first answer by the new champion.
    pub(crate) seconds: Vec<f64>,
    /// The gateway's own share of it, in milliseconds.
    pub(crate) prepare_ms: Vec<f64>,
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    pub(crate) parameters: usize,
    pub(crate) architecture: Architecture,
    pub(crate) classes: usize,
    /// A generation's weights, for the peer.
    pub(crate) weights: Bytes,
}

fn architecture(layers: usize) -> Architecture {
    Architecture {
        d_model: 512,
        layers,
        heads: 8,
        kv_heads: 8,
        context: 256,
        vocab: 8_192,
        experts: 16,
        top_k: 2,
        shared_experts: 1,
        expert_width: 512,
        wide_buckets: 1 << 16,
        ..Architecture::default()
    }
}

pub(crate) fn promote(
    corpus: &Path,
    folder: &Path,
    swaps: usize,
    layers: usize,
) -> anyhow::Result<Swapped> {
    let data = folder.join("gateway");
    std::fs::create_dir_all(&data)?;
    tokio::runtime::Runtime::new()?.block_on(run(corpus, &data, swaps, layers))
}

async fn run(corpus: &Path, data: &Path, swaps: usize, layers: usize) -> anyhow::Result<Swapped> {
    let ledger = Ledger::open(&LedgerConfig::default(), data).await?;
    let artifacts = ArtifactStore::open(&ArtifactsConfig::default(), data)?;
    let short = |text: String| text.chars().take(LENGTH).collect::<String>();
    let texts: Vec<String> =
        corpus::mails(corpus)?.into_iter().map(|mail| short(mail.text)).collect();
    let maker = Maker::new(artifacts.clone(), ledger.clone(), &texts, architecture(layers))?;
    let mut candidates = Vec::new();
    let mut weights = Bytes::new();
    let mut parameters = 0;
    for seed in 0..=swaps as u64 {
        let made = maker.make(seed, &texts[0]).await?;
        eprintln!("generation {} of {}: made", seed + 1, swaps + 1);
        (weights, parameters) = (made.weights.clone(), made.parameters);
        candidates.push(Made { weights: Bytes::new(), ..made });
    }

    let broker = EmbeddedBroker::start(
        &EmbeddedConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Default::default() },
        &data.join("broker"),
    )
    .await?;
    let stream =
        tidegate_stream::Stream::connect(&StreamConfig::default(), &broker.addr().to_string())?;
    stream.ensure_topics().await?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = ListenConfig { grpc: any, http: any, tls: None, tokens: vec![] };
    let config = GatewayConfig::default();
    let gateway = Gateway::new(config, stream, ledger.clone(), artifacts, listen, Device::Cpu)?;
    let mut routes = RoutesBuilder::default();
    gateway.grpc(&mut routes);
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?;
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(socket).with_nodelay(Some(true)),
                shutdown.clone().cancelled_owned(),
            ),
    );
    let keeping = tokio::spawn(gateway.run(shutdown.clone()));
    let mut asks = client::connect(address).await?;

    let mut swapped = Swapped {
        seconds: vec![],
        prepare_ms: vec![],
        requests: 0,
        failed: 0,
        parameters,
        architecture: maker.architecture.clone(),
        classes: LABELS_OF.len(),
        weights,
    };
    let mut entries = ledger.watch(1);
    for (at, made) in candidates.iter().enumerate() {
        let generation = made.generation;
        let previous = at.checked_sub(1).map(|before| candidates[before].generation);
        let verdict = maker.register(made, previous).await?;
        let by = PromotedBy::Policy;
        let began = Instant::now();
        maker.append(Fact::promotion(generation, previous, verdict, by)).await?;
        loop {
            let answer = client::ask(&mut asks, &texts[1]).await;
            // Before the first champion there is nobody to answer.
            if at > 0 {
                swapped.requests += 1;
                swapped.failed += usize::from(answer.is_err());
            }
            match answer {
                Ok(answer) if answer.model_version == generation.to_hex() => break,
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "no answer by the new champion");
        }
        if at > 0 {
            swapped.seconds.push(began.elapsed().as_secs_f64());
            eprintln!("swap {at} of {swaps}: {:.3} s", began.elapsed().as_secs_f64());
        }
        let prepare = told(&mut entries, generation).await?;
        if at > 0 {
            swapped.prepare_ms.push(prepare);
        }
    }
    shutdown.cancel();
    drop(asks);
    serving.await??;
    keeping.await??;
    broker.shutdown().await;
    Ok(swapped)
}

/// Waits until the gateway has told the ledger that it serves `generation`; returns how long it took
/// to prepare, in milliseconds.
async fn told(
    entries: &mut (impl Stream<Item = Result<Entry, LedgerError>> + Unpin),
    generation: GenerationId,
) -> anyhow::Result<f64> {
    while let Some(entry) = entries.next().await {
        match entry?.fact {
            Fact::Swapped { generation: served, prepare, .. } if served == generation => {
                return Ok(prepare.0);
            }
            _ => {}
        }
    }
    anyhow::bail!("the ledger is closed")
}

/// Makes generations of fresh weights, and their records.
struct Maker {
    artifacts: ArtifactStore,
    ledger: Ledger,
    tokenizer: Tokenizer,
    architecture: Architecture,
}

struct Made {
    generation: GenerationId,
    document: Verdict,
    window: Window,
    weights: Bytes,
    parameters: usize,
}

impl Maker {
    fn new(
        artifacts: ArtifactStore,
        ledger: Ledger,
        texts: &[String],
        architecture: Architecture,
    ) -> anyhow::Result<Self> {
        let sample: Vec<&str> = texts.iter().take(2_000).map(String::as_str).collect();
        let tokenizer = Tokenizer::train(&sample, architecture.vocab)?;
        Ok(Self { artifacts, ledger, tokenizer, architecture })
    }

    async fn append(&self, fact: Fact) -> anyhow::Result<()> {
        let author = Author::unfenced("benchmark");
        let mut fact = Some(fact);
        self.ledger.decide(&author, |_| Ok(fact.take())).await?.context("one entry")?;
        Ok(())
    }

    async fn make(&self, seed: u64, golden: &str) -> anyhow::Result<Made> {
        let device = Default::default();
        let classes = LABELS_OF.len();
        let weights = Weights::<CpuBackend>::init(&self.architecture, classes, seed, &device);
        let weights = Bytes::from(weights.to_safetensors()?);
        let files: BTreeMap<String, Bytes> = BTreeMap::from([
            (ARCHITECTURE.to_owned(), serde_json::to_vec(&self.architecture)?.into()),
            (TOKENIZER.to_owned(), self.tokenizer.to_bytes()?.into()),
            (WEIGHTS.to_owned(), weights.clone()),
            (LABELS.to_owned(), serde_json::to_vec(&LABELS_OF)?.into()),
        ]);
        let model = Model::from_files(&files, &Device::Cpu)?;
        let parameters = model.parameters().0;
        let answer = model.predict(&[Input::text(golden)])?.swap_remove(0);
        let golden = Golden {
            text: golden.to_owned(),
            parts: Vec::new(),
            probabilities: answer.probabilities,
        };
        drop(model);

        let window = Window::new(
            "curated",
            BTreeMap::from([(Partition(0), (Offset(seed as i64), Offset(seed as i64 + 1)))]),
        )?;
        let (job, kind) = (JobId::generate(), JobKind::ColdStart);
        let entry =
            |bytes: &Bytes| FileEntry { hash: ArtifactHash::of(bytes), size: bytes.len() as u64 };
        let manifest = Manifest {
            format: 1,
            parent: None,
            job: job.clone(),
            kind,
            files: files.iter().map(|(name, bytes)| (name.clone(), entry(bytes))).collect(),
            labels: LABELS_OF.map(Class::new).to_vec(),
            recipe: String::new(),
            window: window.clone(),
            seed,
            code_version: CODE_VERSION.to_owned(),
            created: Utc::now(),
            newest_label: None,
            metrics: BTreeMap::new(),
        };
        let generation = self.artifacts.put_generation(&manifest, &files).await?;
        let document = self.verdict(generation, &job, &window, golden);
        Ok(Made { generation, document, window, weights, parameters })
    }

    /// Puts it on record as the trainer and the evaluator do. A newer candidate supersedes an older
    /// one, so this comes right before the promotion.
    async fn register(
        &self,
        made: &Made,
        champion: Option<GenerationId>,
    ) -> anyhow::Result<ArtifactHash> {
        let (generation, window) = (made.generation, made.window.clone());
        let document = Verdict { champion, ..made.document.clone() };
        let verdict = self.artifacts.put(serde_json::to_vec(&document)?.into()).await?;
        let (job, kind, reason) = (document.job.clone(), document.kind, "benchmark".to_owned());
        self.append(Fact::job(job.clone(), kind, reason)).await?;
        let (attempt, started) = (1, window.clone());
        self.append(Fact::JobStarted { job: job.clone(), attempt, window: started, parent: None })
            .await?;
        self.append(Fact::CandidateRegistered { job, generation, parent: None, kind, window })
            .await?;
        self.append(Fact::verdict(&document, verdict)).await?;
        Ok(verdict)
    }

    fn verdict(
        &self,
        generation: GenerationId,
        job: &JobId,
        window: &Window,
        golden: Golden,
    ) -> Verdict {
        let digest = ArtifactHash::of(b"");
        Verdict {
            format: 1,
            generation,
            champion: None,
            job: job.clone(),
            kind: JobKind::ColdStart,
            suite: SuiteRef {
                name: "none".into(),
                version: "1".into(),
                digest,
                about: String::new(),
            },
            issued: Utc::now(),
            seed: 0,
            outcome: Outcome::AutoPromote,
            reasons: vec![],
            checks: vec![],
            slices: vec![],
            changed: vec![],
            data: DataEvidence { earlier: 0, fresh: 0, digest, window: window.clone(), leaked: 0 },
            energy: EnergyEvidence {
                method: "none".into(),
                joules: None,
                gco2e: None,
                region: String::new(),
            },
            seconds: 0.0,
            environment: BTreeMap::new(),
            frozen: vec![],
            line: None,
            golden: vec![golden],
        }
    }
}
