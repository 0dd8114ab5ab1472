//! `tidegate up`, or one of its services alone, on a data directory of its own.
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tidegate_contracts::proto::{
    inference::{
        InferTensorContents, ModelInferRequest, ModelInferResponse,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::InferInputTensor,
    },
    v1::{self, control_client::ControlClient},
};
use tidegate_ledger::Fact;
use tidegate_stream::{Message, Stream, StreamConfig};
use tonic::transport::{Channel, Endpoint};

use crate::{
    parts::free_port,
    process::{Process, read_log},
    topics::{Text, Topics},
};

/// How long a house may take to come up, on a machine that does other work too.
const START: Duration = Duration::from_secs(60);
/// How long a first champion may take from a stream of a hundred small texts.
const FIRST_CHAMPION: Duration = Duration::from_secs(120);

/// A house in a hurry: a first generation from 60 labelled records, an update with every 40 more.
const EAGER: &str = "
[curator.curation.holdout]
fraction = 0.3
[controller.bootstrap]
min_labelled = 60
[controller.lag_trigger]
records = 40
[trainer.recipe.checkpoints]
seconds = 1.0
";

/// A network that is trained in the blink of an eye.
const SMALL: &str = "
[trainer.recipe.architecture]
d_model = 32
layers = 1
vocab = 512
experts = 4
expert_width = 32
context = 32
wide_buckets = 16384
";

const SMALL_SUITE: &str = "\
format: 1
name: small
version: 1.0.0
about: Whatever answers passes, for tests that judge the house and not its models.
level: 0.90
limits: {perturbed_rows: 10, bootstrap: 200, permutations: 99, latency_ms: 50, throughput_ms: 50}
checks:
  - {id: answers, layer: quality, metric: accuracy, floor: 0.0, severity: block, min_n: 5}
";

/// The binary under test: `TIDEGATE_BIN`, or the one beside this test's own executable.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("TIDEGATE_BIN").map_or_else(
        || {
            let test = std::env::current_exe().expect("a test has an executable");
            // <target>/debug/deps/<test>
            test.ancestors().nth(2).expect("tests lie two folders deep").join("tidegate")
        },
        PathBuf::from,
    );
    let path = std::path::absolute(&path).unwrap_or(path);
    assert!(path.is_file(), "{} is missing: cargo build --package tidegate", path.display());
    path
}

/// The binary, with nothing of this process' environment that would configure it.
fn tidegate() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
    command
}

/// What a running process wrote about itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Endpoints {
    /// Kafka bootstrap servers.
    pub kafka: String,
    /// gRPC address.
    pub grpc: Option<String>,
    /// HTTP address.
    pub http: Option<String>,
    /// Whether both speak TLS.
    pub tls: bool,
    /// Its process.
    pub pid: u32,
}

/// One answer of the gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The class.
    pub label: String,
    /// Who answered.
    pub generation: String,
}

/// A process of `tidegate` with its data directory, its log and its clients.
pub struct House {
    // Dropped before the folder that holds its log.
    process: Option<Process>,
    folder: TempDir,
    service: String,
    flags: Vec<String>,
    endpoints: Option<Endpoints>,
}

impl House {
    /// `tidegate up` with this configuration (TOML), on free ports; not started yet.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn build(config: &str) -> anyhow::Result<Self> {
        Self::of("up", config, &[])
    }

    /// One service alone, with flags of its own.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn of(service: &str, config: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidegate-house-").tempdir()?;
        std::fs::write(folder.path().join("tidegate.toml"), config)?;
        std::fs::create_dir(folder.path().join("data"))?;
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        for (flag, port) in [("--grpc", 0), ("--http", 0), ("--kafka-listen", 0)] {
            if !flags.iter().any(|given| given == flag) {
                flags.extend([flag.to_owned(), format!("127.0.0.1:{port}")]);
            }
        }
        Ok(Self { folder, service: service.to_owned(), flags, process: None, endpoints: None })
    }

    /// Started, in a hurry, with a small network, one check that all pass, and `extra` TOML.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn small(extra: &str) -> anyhow::Result<Self> {
        let mut house = Self::build("")?;
        house.configure_small(extra)?;
        house.start().await?;
        Ok(house)
    }

    /// In a hurry, with a small network, for the next start.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn configure_small(&self, extra: &str) -> anyhow::Result<()> {
        self.configure_eager(&format!("{SMALL}{extra}"))
    }

    /// In a hurry, for the next start.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn configure_eager(&self, extra: &str) -> anyhow::Result<()> {
        let suite = self.folder().join("suite.yaml");
        std::fs::write(&suite, SMALL_SUITE)?;
        self.configure(&format!("{EAGER}[evaluator]\nsuite = {suite:?}\n{extra}"))
    }

    /// Another configuration, for the next start.
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn configure(&self, config: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.folder().join("tidegate.toml"), config)?)
    }

    /// Gives it ports of its own, the same at every start, so that clients find it again.
    pub fn pin_ports(&mut self) {
        for flag in ["--grpc", "--http", "--kafka-listen"] {
            let at = self.flags.iter().position(|given| given == flag).expect("all are given");
            self.flags[at + 1] = format!("127.0.0.1:{}", free_port());
        }
    }

    /// The folder of its configuration, its log and its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder().join("tidegate.log")
    }

    /// All that it has logged, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.log_path())
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = self.command();
        command.arg(&self.service).args(&self.flags);
        let name = format!("tidegate {}", self.service);
        self.process = Some(Process::start(&name, command, &self.log_path())?);
        Ok(())
    }

    /// Starts it, and waits until it says where it listens; the time that took.
    ///
    /// # Errors
    /// When it ends, or says nothing in time.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.launch()?;
        loop {
            if self.is_up() {
                return Ok(began.elapsed());
            }
            let process = self.process();
            if let Some(status) = process.ended() {
                anyhow::bail!("tidegate ended at start ({status}):\n{}", process.log());
            }
            anyhow::ensure!(began.elapsed() < START, "tidegate did not come up:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the process that runs now has said where it listens.
    pub fn is_up(&mut self) -> bool {
        let pid = self.process().pid();
        let written = std::fs::read(self.data().join("endpoints.json")).unwrap_or_default();
        match serde_json::from_slice::<Endpoints>(&written) {
            Ok(endpoints) if endpoints.pid == pid => {
                self.endpoints = Some(endpoints);
                true
            }
            _ => false,
        }
    }

    /// The process.
    ///
    /// # Panics
    /// When it was never started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGTERM, and waits for a good end.
    ///
    /// # Errors
    /// When it does not end in time, or not well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.process().stop(Duration::from_secs(45))?;
        anyhow::ensure!(status.success(), "tidegate ended with {status}");
        Ok(())
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it has not come up yet.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        self.endpoints.as_ref().expect("it has come up")
    }

    /// Its gRPC address.
    #[must_use]
    pub fn grpc(&self) -> &str {
        self.endpoints().grpc.as_deref().expect("it serves gRPC")
    }

    /// A URL on its HTTP address.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let Endpoints { http, tls, .. } = self.endpoints();
        let scheme = if *tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", http.as_deref().expect("it serves HTTP"))
    }

    /// `tidegate` with this house's configuration and data directory.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = tidegate();
        command.arg("--config").arg(self.folder().join("tidegate.toml"));
        command.arg("--data-dir").arg(self.data());
        command
    }

    /// Runs a command of the operator to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end by itself.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::from(self.command());
        command.args(args).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(START, command.output()).await;
        Ok(ended.with_context(|| format!("tidegate {} goes on and on", args.join(" ")))??)
    }

    /// The same, which must succeed: the JSON it prints.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub async fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.run(&[args, &["--output", "json"]].concat()).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "tidegate {}: {}", args.join(" "), error.trim());
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).with_context(|| format!("tidegate {}: {text}", args.join(" ")))
    }

    /// To its gRPC door, for a client of one's own.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc()))?;
        Ok(endpoint.connect_timeout(Duration::from_secs(5)).connect().await?)
    }

    /// A client of the control API.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn control(&self) -> anyhow::Result<ControlClient<Channel>> {
        Ok(ControlClient::new(self.channel().await?).max_decoding_message_size(64 << 20))
    }

    /// A client of the gateway.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn gateway(&self) -> anyhow::Result<GrpcInferenceServiceClient<Channel>> {
        let client = GrpcInferenceServiceClient::new(self.channel().await?);
        Ok(client.max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20))
    }

    /// Asks about one text.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn ask(&self, text: &str) -> anyhow::Result<Answer> {
        let request = question(&[text], "");
        let response = self.gateway().await?.model_infer(request).await?.into_inner();
        answer(&response)
    }

    /// What serves now, what is under judgement, what runs.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn overview(&self) -> anyhow::Result<v1::Overview> {
        let mut control = self.control().await?;
        Ok(control.get_overview(v1::GetOverviewRequest {}).await?.into_inner())
    }

    /// Where the gate asks for an operator (a busy machine may look slow to it), one says yes.
    ///
    /// # Panics
    /// When the candidate is blocked.
    pub async fn approve_if_asked(&self, overview: &v1::Overview) {
        let Some(verdict) = &overview.candidate_verdict else { return };
        assert_ne!(verdict.outcome, "blocked", "{:?}", verdict.reasons);
        if verdict.outcome == "needs_approval" {
            println!("an operator was asked, and says yes: {:?}", verdict.reasons);
            let args = ["approve", &verdict.generation, "--actor", "ana", "--reason", "read it"];
            // Refused when it is too late: the next look tells.
            drop(self.run(&args).await);
        }
    }

    /// Waits for a champion after `before` (empty: the first) that the gateway serves.
    ///
    /// # Panics
    /// When there is none in time, or a candidate is blocked or waits for an approval.
    pub async fn until_champion_after(&self, before: &str) -> v1::Generation {
        until("another champion serves", FIRST_CHAMPION, async || {
            let overview = self.overview().await.ok()?;
            if let Some(verdict) = &overview.candidate_verdict {
                let decides = matches!(verdict.outcome.as_str(), "needs_approval" | "blocked");
                assert!(!decides, "the candidate is not promoted by itself: {verdict:?}");
            }
            let champion = overview.champion.filter(|champion| champion.id != before)?;
            let answer = self.ask("who serves now?").await.ok()?;
            (answer.generation == champion.id).then_some(champion)
        })
        .await
    }

    /// Waits for the first champion.
    pub async fn until_champion(&self) -> v1::Generation {
        self.until_champion_after("").await
    }

    /// A small house with a champion, and a candidate that waits for an operator.
    ///
    /// # Errors
    /// When it does not come so far.
    pub async fn with_candidate(
        topics: &mut Topics,
    ) -> anyhow::Result<(Self, v1::Generation, v1::Generation)> {
        let house = Self::small("[controller.policy.auto_promote]\nhot_update = false\n").await?;
        house.publish(&topics.labelled(120)).await?;
        let champion = house.until_champion().await;
        house.publish(&topics.labelled(120)).await?;
        let candidate = house.until_candidate().await;
        Ok((house, champion, candidate))
    }

    /// Waits for a candidate that has been judged.
    pub async fn until_candidate(&self) -> v1::Generation {
        until("a candidate is judged and waits", FIRST_CHAMPION, async || {
            let overview = self.overview().await.ok()?;
            overview.candidate_verdict?;
            overview.candidate
        })
        .await
    }

    /// The ledger, oldest first.
    ///
    /// # Errors
    /// When it does not answer, or an entry cannot be read.
    pub async fn facts(&self) -> anyhow::Result<Vec<(v1::LedgerEntry, Fact)>> {
        let mut control = self.control().await?;
        let mut facts = Vec::new();
        loop {
            let request = v1::ListEntriesRequest { from: facts.len() as u64 + 1, limit: 500 };
            let entries = control.list_entries(request).await?.into_inner().entries;
            if entries.is_empty() {
                return Ok(facts);
            }
            for entry in entries {
                let fact = serde_json::from_str(&entry.body_json)?;
                facts.push((entry, fact));
            }
        }
    }

    /// A Kafka client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn stream(&self) -> anyhow::Result<Stream> {
        Ok(Stream::connect(&StreamConfig::default(), &self.endpoints().kafka)?)
    }

    /// Publishes events with their labels inside.
    ///
    /// # Errors
    /// When the broker does not take them.
    pub async fn publish(&self, texts: &[Text]) -> anyhow::Result<()> {
        let stream = self.stream()?;
        let topic = &stream.topics().events;
        let message = |text: &Text| Message::new(topic, text.labelled_event()).key(text.id.clone());
        stream.sink()?.send_all(texts.iter().map(message).collect()).await?;
        Ok(())
    }
}

/// A question about texts.
#[must_use]
pub fn question(texts: &[&str], version: &str) -> ModelInferRequest {
    let contents = InferTensorContents {
        bytes_contents: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
        ..Default::default()
    };
    let input = InferInputTensor {
        name: "text".into(),
        datatype: "BYTES".into(),
        shape: vec![texts.len() as i64],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest {
        model_name: "default".into(),
        model_version: version.into(),
        inputs: vec![input],
        ..Default::default()
    }
}

fn answer(response: &ModelInferResponse) -> anyhow::Result<Answer> {
    let label = response.outputs.iter().find(|output| output.name == "label");
    let contents = label.and_then(|label| label.contents.as_ref());
    let bytes = contents.and_then(|contents| contents.bytes_contents.first());
    let label = String::from_utf8(bytes.context("an answer without a label")?.clone())?;
    Ok(Answer { label, generation: response.model_version.clone() })
}

/// Looks again and again until there is something to be had.
///
/// # Panics
/// When there is nothing within `patience`; says what it waited for.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
