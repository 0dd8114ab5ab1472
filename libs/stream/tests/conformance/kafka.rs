//! Apache Kafka itself: one node in KRaft mode, and its command-line clients.
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::house::{House, Process, free_port, wait_for_answer};

/// Where tests/kafka/fetch.sh put it.
fn jars() -> PathBuf {
    let cache = std::env::var_os("TIDEGATE_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/tidegate"),
        PathBuf::from,
    );
    let jars = cache.join("kafka/libs");
    assert!(
        jars.is_dir(),
        "Apache Kafka is not in {}: run tests/kafka/fetch.sh (setup/tools.sh does)",
        jars.display()
    );
    jars
}

/// What starts a class of Kafka's, quietly.
fn java(class: &str, args: &[&str]) -> Vec<String> {
    let mut line = vec![
        "-Xmx512m".to_owned(),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".to_owned(),
        "-cp".to_owned(),
        jars().join("*").display().to_string(),
        class.to_owned(),
    ];
    line.extend(args.iter().map(|arg| (*arg).to_owned()));
    line
}

/// Runs a class of Kafka's to its end; returns what it printed.
fn run(class: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new("java")
        .args(java(class, args))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("java is there (setup/system.sh test installs it)");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{class} {args:?}: {said}\n{complaint}");
    said
}

/// One combined node.
pub(crate) struct Kafka {
    dir: tempfile::TempDir,
    address: String,
    process: Option<Process>,
}

impl Kafka {
    pub(crate) fn build() -> Self {
        let version = run("kafka.Kafka", &["--version"], "");
        println!("house: Apache Kafka {}, KRaft, one node", version.trim());
        let dir = tempfile::tempdir().expect("a folder");
        let (client, controller) = (free_port(), free_port());
        let data = dir.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             listeners=BROKER://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=BROKER://127.0.0.1:{client}\n\
             listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=BROKER\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             # A node that was killed is let in again only when the controller has missed it.\n\
             broker.heartbeat.interval.ms=200\n\
             broker.session.timeout.ms=1000\n",
            data.display()
        );
        let config = dir.path().join("server.properties");
        std::fs::write(&config, properties).expect("a file");
        let config = config.display().to_string();
        let cluster = "tidegate-conformance-x";
        run("kafka.tools.StorageTool", &["format", "-t", cluster, "-c", &config], "");
        let mut house = Self { dir, address: format!("127.0.0.1:{client}"), process: None };
        house.start();
        house
    }
}

impl House for Kafka {
    fn address(&self) -> &str {
        &self.address
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn start(&mut self) {
        let config = self.dir.path().join("server.properties").display().to_string();
        let args = java("kafka.Kafka", &[&config]);
        let process = Process::start(Path::new("java"), &args, &self.dir.path().join("log"));
        wait_for_answer(&self.address, &process);
        self.process = Some(process);
    }

    fn explain(&self) {
        if let Some(process) = &self.process {
            process.explain();
        }
    }
}

/// The Java client behind Kafka's own tools is the protocol's reference: it can create, write, read
/// as a group and look at our broker.
pub(crate) async fn the_command_line_clients_of_kafka_work(house: &mut dyn House) {
    let at = house.address().to_owned();
    let topic = crate::client::fresh("java");
    let tool = |class: &str, args: &[&str], input: &str| {
        let class = format!("org.apache.kafka.tools.{class}");
        run(&class, &[&["--bootstrap-server", &at], args].concat(), input)
    };
    let create = ["--create", "--topic", &topic, "--partitions", "3"];
    let said =
        tool("TopicCommand", &[&create[..], &["--config", "retention.bytes=1000000"]].concat(), "");
    assert!(said.contains("Created topic"), "{said}");
    let said = tool("TopicCommand", &["--describe", "--topic", &topic], "");
    assert!(
        said.contains("PartitionCount: 3") && said.contains("retention.bytes=1000000"),
        "{said}"
    );

    let lines: Vec<String> = (0..500).map(|i| format!("key{}:value {i}", i % 7)).collect();
    let keyed =
        ["--topic", &topic, "--property", "parse.key=true", "--property", "key.separator=:"];
    for compression in ["none", "zstd"] {
        let args = [&keyed[..], &["--compression-codec", compression]].concat();
        tool("ConsoleProducer", &args, &lines.join("\n"));
    }
    let read = ["--topic", &topic, "--group", "java", "--from-beginning", "--max-messages", "1000"];
    let said = tool("consumer.ConsoleConsumer", &read, "");
    let mut values: Vec<&str> = said.lines().collect();
    let mut sent: Vec<&str> = lines.iter().filter_map(|l| l.split_once(':')).map(|l| l.1).collect();
    sent.extend(sent.clone());
    values.sort_unstable();
    sent.sort_unstable();
    assert_eq!(values, sent);

    let said = tool("GetOffsetShell", &["--topic", &topic], "");
    let total: i64 = said.lines().filter_map(|l| l.rsplit(':').next()?.parse::<i64>().ok()).sum();
    assert_eq!(total, 1_000, "{said}");
    let said = tool("consumer.group.ConsumerGroupCommand", &["--describe", "--group", "java"], "");
    assert!(said.contains(&topic), "{said}");
    let said = tool("TopicCommand", &["--delete", "--topic", &topic], "");
    assert!(!said.contains("Error"), "{said}");
}
