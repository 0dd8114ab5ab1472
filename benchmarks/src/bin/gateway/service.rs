//! The real thing: `tidegate up` on an empty data directory, given labelled mails until it serves.
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_benchmarks::{
    client::{self, Client},
    corpus::Mail,
};
use tidegate_contracts::{GenerationId, proto::inference::ModelInferResponse};
use tidegate_ledger::{ArtifactStore, ArtifactsConfig};
use tidegate_model::{Device, Model};
use tokio::runtime::Runtime;

/// From the first mail to the first answer, at most.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Service {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
    pub(crate) grpc: SocketAddr,
    http: SocketAddr,
}

/// Time that requests have spent in the service so far, from its own metrics.
/// While one client waits for each answer, a batch is a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside {
    requests: f64,
    answering_s: f64,
    queued_s: f64,
    forward_s: f64,
}

/// Means over some requests, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Means {
    /// From the decoded request to its answer.
    pub(crate) answering_us: f64,
    /// Of that, the wait for a model thread.
    pub(crate) queued_us: f64,
    /// Of that, the model.
    pub(crate) forward_us: f64,
}

impl Inside {
    pub(crate) fn since(&self, before: &Self) -> Means {
        let each = 1e6 / (self.requests - before.requests).max(1.0);
        Means {
            answering_us: (self.answering_s - before.answering_s) * each,
            queued_us: (self.queued_s - before.queued_s) * each,
            forward_us: (self.forward_s - before.forward_s) * each,
        }
    }
}

/// The part of `endpoints.json` that is read here.
#[derive(Deserialize)]
struct Endpoints {
    grpc: SocketAddr,
    http: SocketAddr,
    pid: u32,
}

impl Service {
    /// Starts it on free ports; nothing but the cold start will be trained.
    pub(crate) fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let quoted = toml::Value::String(folder.join("data").to_string_lossy().into_owned());
        let config = format!(
            "data_dir = {quoted}\n\
             [listen]\ngrpc = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
             [stream.embedded]\nlisten = \"127.0.0.1:0\"\n\
             [controller.schedule]\nhot_update = \"\"\ncold_start = \"\"\n\
             [controller.lag_trigger]\nrecords = 1000000\n"
        );
        std::fs::write(folder.join("tidegate.toml"), config)?;
        let log = File::create(folder.join("tidegate.log"))?;
        let child = Command::new(program)
            .arg("--config")
            .arg(folder.join("tidegate.toml"))
            .arg("up")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let mut service = Self { child, program, folder, grpc: unknown, http: unknown };
        let began = Instant::now();
        loop {
            let file = std::fs::read(service.folder.join("data/endpoints.json")).ok();
            let found: Option<Endpoints> = file.and_then(|b| serde_json::from_slice(&b).ok());
            if let Some(found) = found.filter(|found| found.pid == service.child.id()) {
                (service.grpc, service.http) = (found.grpc, found.http);
                return Ok(service);
            }
            service.still_runs(began)?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Publishes the mails with their labels, and waits until a generation that learnt them serves.
    pub(crate) async fn learn(&mut self, mails: &[Mail]) -> anyhow::Result<Client> {
        let path = self.folder.join("events.jsonl");
        let mut file = File::create(&path)?;
        for mail in mails {
            let mut event: serde_json::Value = serde_json::from_str(&mail.event)?;
            event["label"] = mail.label.into();
            writeln!(file, "{event}")?;
        }
        let produced = self.command(&["produce"]).arg(&path).output()?;
        let error = String::from_utf8_lossy(&produced.stderr);
        anyhow::ensure!(produced.status.success(), "tidegate produce: {error}");

        let mut client = client::connect(self.grpc).await?;
        let began = Instant::now();
        while client::ask(&mut client, "are you there?").await.is_err() {
            self.still_runs(began)?;
            // Where the suite finds its data too few for a verdict of its own, it asks an operator.
            // Until there is a candidate to decide about this is refused.
            self.command(&["approve", "--reason", "benchmark", "--actor", "benchmark"]).output()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(client)
    }

    /// The generation that gave this answer, read and verified, as this process's own model.
    pub(crate) async fn model(&self, response: &ModelInferResponse) -> anyhow::Result<Model> {
        let id: GenerationId = response.model_version.parse()?;
        let store = ArtifactStore::open(&ArtifactsConfig::default(), &self.folder.join("data"))?;
        let verified = store.generation(&id).await?;
        Ok(Model::from_files(verified.files(), &Device::Cpu)?)
    }

    /// Reads `/metrics`.
    pub(crate) fn inside(&self) -> anyhow::Result<Inside> {
        let mut socket = TcpStream::connect(self.http)?;
        socket.write_all(b"GET /metrics HTTP/1.0\r\nhost: tidegate\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        let value = |name: &str| -> anyhow::Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.with_context(|| format!("/metrics has no {name}"))?.trim().parse()?)
        };
        Ok(Inside {
            requests: value("tidegate_gateway_request_seconds_count")?,
            answering_s: value("tidegate_gateway_request_seconds_sum")?,
            queued_s: value("tidegate_gateway_queue_seconds_sum")?,
            forward_s: value("tidegate_gateway_forward_seconds_sum")?,
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.folder.join("tidegate.toml")).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn still_runs(&mut self, began: Instant) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        if ended.is_none() && began.elapsed() < PATIENCE {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.folder.join("tidegate.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        match ended {
            Some(status) => anyhow::bail!("tidegate ended with {status}:\n{last}"),
            None => anyhow::bail!("tidegate did not serve within {PATIENCE:?}:\n{last}"),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its data directory goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client's side: one thread, as a caller that waits has.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
