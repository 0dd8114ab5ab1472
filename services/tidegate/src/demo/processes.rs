//! The other processes of the demo: the service, the producer, the client, the operator's CLI.
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::listen::Endpoints;

/// Starts this program with the demo's configuration; it dies with the demo.
fn tidegate(folder: &Path, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--config").arg(folder.join("tidegate.toml")).args(args).kill_on_drop(true);
    Ok(command)
}

/// `tidegate up`.
pub(crate) struct Service {
    child: Child,
    folder: PathBuf,
    pub(crate) endpoints: Endpoints,
}

impl Service {
    /// Starts it, and waits until its addresses are known.
    pub(crate) async fn start(folder: &Path, data_dir: &Path) -> anyhow::Result<Self> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("tidegate.log"))?;
        let mut child = tidegate(folder, &["up"])?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let pid = child.id();
        loop {
            match Endpoints::read(data_dir) {
                Ok(endpoints) if Some(endpoints.pid) == pid => {
                    return Ok(Self { child, folder: folder.to_owned(), endpoints });
                }
                _ => {}
            }
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("the service ended at start ({status}): see tidegate.log");
            }
            anyhow::ensure!(Instant::now() < deadline, "the service did not start within 30 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill -9")
    }

    /// Asks it to stop, and waits.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").arg(pid.to_string()).status().await?;
        }
        let status = tokio::time::timeout(Duration::from_secs(40), self.child.wait())
            .await
            .context("the service did not stop within 40 s")??;
        anyhow::ensure!(status.success(), "the service ended with {status}");
        Ok(())
    }

    /// Runs an operator's command to its end; its standard output.
    pub(crate) async fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = tidegate(&self.folder, args)?.stdin(Stdio::null()).output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "tidegate {}: {}", args.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Joules since the service started, and the method, from `/metrics`.
    pub(crate) async fn joules(&self) -> anyhow::Result<(f64, String)> {
        let http = self.endpoints.http.context("the service has no HTTP address")?;
        let mut socket = tokio::net::TcpStream::connect(http).await?;
        socket.write_all(b"GET /metrics HTTP/1.0\r\nhost: tidegate\r\n\r\n").await?;
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut socket, &mut text).await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("tidegate_energy_joules{method=\""))
            .context("/metrics says nothing of energy")?;
        let (method, value) = line.split_once("\"} ").context("/metrics is malformed")?;
        Ok((value.trim().parse()?, method.to_owned()))
    }
}

/// `tidegate produce`, fed line by line.
pub(crate) struct Producer {
    child: Child,
    lines: ChildStdin,
    acks: Lines<BufReader<ChildStdout>>,
}

/// What the producer prints for each record the broker has acknowledged.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ack {
    /// Milliseconds since the epoch.
    pub(crate) acked_ms: i64,
}

impl Producer {
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut child = tidegate(folder, &["produce", "--output", "json"])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = child.stdin.take().expect("standard input is piped");
        let acks = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        Ok(Self { child, lines, acks })
    }

    /// Publishes `lines` and waits until all are acknowledged.
    pub(crate) async fn publish(&mut self, lines: &[String]) -> anyhow::Result<Vec<Ack>> {
        let Self { lines: input, acks, .. } = self;
        let write = async {
            for line in lines {
                input.write_all(line.as_bytes()).await?;
                input.write_all(b"\n").await?;
            }
            input.flush().await
        };
        let read = async {
            let mut all = Vec::with_capacity(lines.len());
            while all.len() < lines.len() {
                let line = acks.next_line().await?.context("the producer ended")?;
                all.push(serde_json::from_str(&line)?);
            }
            anyhow::Ok(all)
        };
        let (written, acks) = tokio::join!(write, read);
        written.context("the producer ended")?;
        acks
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { mut child, lines, .. } = self;
        drop(lines);
        let status = child.wait().await?;
        anyhow::ensure!(status.success(), "the producer ended with {status}");
        Ok(())
    }
}

/// `tidegate infer --rate`: a client that keeps asking until told to stop.
pub(crate) struct SteadyClient {
    child: Child,
    log: PathBuf,
}

impl SteadyClient {
    pub(crate) fn start(folder: &Path, texts: &[String], rate: f64) -> anyhow::Result<Self> {
        let file = folder.join("client-texts.txt");
        let one_line: Vec<String> =
            texts.iter().map(|text| text.replace(['\n', '\r'], " ")).collect();
        std::fs::write(&file, one_line.join("\n"))?;
        let log = folder.join("client-requests.jsonl");
        let child = tidegate(folder, &["infer", "--rate", &rate.to_string()])?
            .arg("--file")
            .arg(&file)
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, log })
    }

    /// Stops it and reads what it saw.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Vec<crate::infer::LoggedRequest>> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await?;
        anyhow::ensure!(status.success(), "the client ended with {status}");
        let text = std::fs::read_to_string(&self.log)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
