//! The real parts of production: Apache Kafka and Redis, to start, to kill and to start again.
use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::{Chance, cache, process::Process};

/// A port that nobody listens on, below those that the system gives to outgoing connections: a
/// client that tries a dead port of that range again and again can meet itself there.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_port() -> u16 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut chance = Chance::new(nanos as u64 ^ u64::from(std::process::id()));
    let port = (0..1_000).find_map(|_| {
        let port = 12_000 + chance.below(20_000) as u16;
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    });
    port.expect("one of twenty thousand ports is free")
}

fn wait_for(port: u16, process: &mut Process, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = process.ended() {
            anyhow::bail!("ended at start ({status}):\n{}", process.log());
        }
        anyhow::ensure!(Instant::now() < deadline, "nothing listens on {port} in time");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A real `redis-server` with its append-only file on.
pub struct Redis {
    // Dropped before the folder that holds its log.
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Redis {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// When there is no `redis-server`, or it does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let mut redis = Self { folder: tempfile::tempdir()?, port: free_port(), process: None };
        redis.restart()?;
        Ok(redis)
    }

    /// Where the ledger finds it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on its data and its port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "yes", "--dir"]).arg(self.folder.path());
        let log = self.folder.path().join("redis.log");
        let mut process = Process::start("redis-server", command, &log)?;
        wait_for(self.port, &mut process, Duration::from_secs(20)).context("redis-server")?;
        self.process = Some(process);
        Ok(())
    }

    /// What `redis-cli` says to a command.
    ///
    /// # Errors
    /// When it fails.
    pub fn say(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(args).stdin(Stdio::null());
        let output = command.output().context("redis-cli")?;
        let said = String::from_utf8(output.stdout)?;
        anyhow::ensure!(output.status.success(), "redis-cli {args:?}: {said}");
        Ok(said.trim_end_matches('\n').to_owned())
    }
}

/// A real Apache Kafka: one node that is broker and controller.
pub struct Kafka {
    // Dropped before the folder that holds its log.
    process: Option<Process>,
    folder: TempDir,
    port: u16,
}

impl Kafka {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// When there is no Java, no Kafka in the cache, or it does not come up.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidegate-kafka-").tempdir()?;
        let (port, controller) = (free_port(), free_port());
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=false\nmessage.max.bytes=20000000\n",
            folder.path().join("log").display()
        );
        std::fs::write(folder.path().join("server.properties"), properties)?;
        let jars = cache().join("kafka/libs");
        let there = jars.is_dir();
        anyhow::ensure!(there, "{}: no Kafka (tests/kafka/fetch.sh gets it)", jars.display());
        let mut kafka = Self { folder, port, process: None };
        let format = kafka
            .java("kafka.tools.StorageTool")
            .args(["format", "--cluster-id", "dGlkZWdhdGUtdGVzdHMtMQ", "--config"])
            .arg(kafka.properties())
            .output()
            .context("java")?;
        let said = String::from_utf8_lossy(&format.stderr);
        anyhow::ensure!(format.status.success(), "kafka storage format: {said}");
        kafka.restart()?;
        Ok(kafka)
    }

    fn properties(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn java(&self, class: &str) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        command.arg(cache().join("kafka/libs/*")).arg(class);
        command
    }

    /// Where clients find it.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on its log and its port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let mut command = self.java("kafka.Kafka");
        command.arg(self.properties());
        let log = self.folder.path().join("kafka.log");
        let mut process = Process::start("kafka", command, &log)?;
        wait_for(self.port, &mut process, Duration::from_secs(90)).context("kafka")?;
        self.process = Some(process);
        Ok(())
    }
}
