//! A broker in a process of its own, that can be killed and started again.
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig};

/// How long a broker may take to answer after its start.
const START: Duration = Duration::from_secs(60);

/// A broker, its data, and its address, which outlive its process.
pub(crate) trait House {
    /// `host:port`.
    fn address(&self) -> &str;
    /// Ends the process as `kill -9` does.
    fn kill(&mut self);
    /// Starts it on the same data and address, and waits until it answers.
    fn start(&mut self);
    /// Prints what it had to say.
    fn explain(&self);
}

/// A process that ends with us, however we end: a shell between holds our end of a pipe, and kills
/// it when that closes.
pub(crate) struct Process {
    shell: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(program: &Path, args: &[String], log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log file");
        let script = r#""$@" </dev/null & process=$!; cat >/dev/null; kill -9 $process; wait"#;
        let shell = Command::new("sh")
            .args(["-c", script, "house"])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("a shell is there");
        Self { shell, log: log.to_owned() }
    }

    pub(crate) fn explain(&self) {
        let mut said = String::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut said));
        let from = said.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
        println!("--- the broker said, at last:\n{}\n---", &said[from..]);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").port()
}

/// Waits until the broker gives an answer of Kafka's protocol.
pub(crate) fn wait_for_answer(address: &str, process: &Process) {
    let since = Instant::now();
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).create().expect("a client");
    while TcpStream::connect(address).is_err()
        || consumer.fetch_metadata(None, Duration::from_secs(1)).map_or(0, |m| m.brokers().len())
            == 0
    {
        if since.elapsed() > START {
            process.explain();
            panic!("the broker on {address} did not answer in {START:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Our own broker.
pub(crate) struct Embedded {
    dir: tempfile::TempDir,
    address: String,
    process: Option<Process>,
}

impl Embedded {
    pub(crate) fn build() -> Self {
        println!("house: tidegate's embedded broker {}", env!("CARGO_PKG_VERSION"));
        let dir = tempfile::tempdir().expect("a folder");
        let mut house = Self { dir, address: format!("127.0.0.1:{}", free_port()), process: None };
        house.start();
        house
    }
}

impl House for Embedded {
    fn address(&self) -> &str {
        &self.address
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn start(&mut self) {
        let program = std::env::current_exe().expect("we run");
        let data = self.dir.path().join("data").display().to_string();
        let args = [SERVE.to_owned(), data, self.address.clone()];
        let process = Process::start(&program, &args, &self.dir.path().join("log"));
        wait_for_answer(&self.address, &process);
        self.process = Some(process);
    }

    fn explain(&self) {
        if let Some(process) = &self.process {
            process.explain();
        }
    }
}

/// The word that makes this program a broker.
pub(crate) const SERVE: &str = "serve-embedded-broker";

/// Is an embedded broker until it is killed.
pub(crate) fn serve(dir: &Path, listen: &str) -> ExitCode {
    let listen: SocketAddr = listen.parse().expect("an address");
    let _guard = tidegate_telemetry::init(&tidegate_telemetry::TelemetryConfig::default());
    // Small segments, so that the suite crosses them.
    let config = EmbeddedConfig { listen, segment_bytes: 4 << 20, ..EmbeddedConfig::default() };
    crate::client::runtime().block_on(async {
        let since = Instant::now();
        match EmbeddedBroker::start(&config, dir).await {
            Ok(broker) => {
                println!("up on {} after {:?}", broker.addr(), since.elapsed());
                let _ = std::io::stdout().flush();
                std::future::pending::<()>().await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("{error}");
                ExitCode::FAILURE
            }
        }
    })
}
