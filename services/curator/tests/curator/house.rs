//! A broker, a ledger and curators to start and to kill.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tidegate_contracts::{Curated, Offset, Partition, SourcePosition, Window};
use tidegate_curator::CuratorConfig;
use tidegate_ledger::{Ledger, LedgerConfig};
use tidegate_stream::{
    EmbeddedBroker, EmbeddedConfig, Message, Record, Sink, Stream, StreamConfig,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct House {
    folder: TempDir,
    broker: Option<EmbeddedBroker>,
    pub(crate) addr: SocketAddr,
    pub(crate) stream: Stream,
    sink: Sink,
}

/// A curator that runs in this process.
pub(crate) struct Running {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it wherever it stands: nothing is flushed, checkpointed or given back.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(crate) fn stream_config(partitions: i32) -> StreamConfig {
    StreamConfig { topic_prefix: "t".into(), partitions, ..StreamConfig::default() }
}

async fn start_broker(listen: SocketAddr, folder: &Path) -> EmbeddedBroker {
    let config = EmbeddedConfig { listen, ..EmbeddedConfig::default() };
    EmbeddedBroker::start(&config, &folder.join("broker")).await.unwrap()
}

pub(crate) async fn ledger(folder: &Path) -> Ledger {
    Ledger::open(&LedgerConfig::default(), folder).await.unwrap()
}

pub(crate) fn quick() -> CuratorConfig {
    CuratorConfig { checkpoint_ms: 20, lease_s: 1, batch: 7, ..CuratorConfig::default() }
}

impl House {
    pub(crate) async fn build(partitions: i32) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = TempDir::new().unwrap();
        let broker = start_broker(([127, 0, 0, 1], 0).into(), folder.path()).await;
        let addr = broker.addr();
        let stream = Stream::connect(&stream_config(partitions), &addr.to_string()).unwrap();
        stream.ensure_topics().await.unwrap();
        let sink = stream.sink().unwrap();
        Self { folder, broker: Some(broker), addr, stream, sink }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        ledger(self.folder.path()).await
    }

    pub(crate) async fn stop_broker(&mut self) {
        self.broker.take().expect("it runs").shutdown().await;
    }

    pub(crate) async fn restart_broker(&mut self) {
        self.broker = Some(start_broker(self.addr, self.folder.path()).await);
    }

    pub(crate) fn curate(&self, config: CuratorConfig, ledger: &Ledger) -> Running {
        let shutdown = CancellationToken::new();
        let (stream, ledger) = (self.stream.clone(), ledger.clone());
        let task = tokio::spawn(tidegate_curator::run(config, stream, ledger, shutdown.clone()));
        Running { task, shutdown }
    }

    pub(crate) async fn send(&self, messages: Vec<Message>) -> Vec<SourcePosition> {
        let topics: Vec<String> = messages.iter().map(|m| m.topic.clone()).collect();
        let written = self.sink.send_all(messages).await.unwrap();
        topics
            .into_iter()
            .zip(written)
            .map(|(topic, (partition, offset))| SourcePosition { topic, partition, offset })
            .collect()
    }

    pub(crate) fn event(&self, id: &str, text: &str, label: Option<&str>) -> Message {
        let mut value = json!({"id": id, "parts": [{"text": text}]});
        if let Some(label) = label {
            value["label"] = label.into();
        }
        let key = Bytes::copy_from_slice(id.as_bytes());
        Message::new(&self.stream.topics().events, value.to_string()).key(key)
    }

    pub(crate) fn label(&self, id: &str, class: &str) -> Message {
        let value = json!({"id": id, "label": class}).to_string();
        let key = Bytes::copy_from_slice(id.as_bytes());
        Message::new(&self.stream.topics().labels, value).key(key)
    }

    /// Everything on a topic.
    pub(crate) async fn all(&self, topic: &str) -> Vec<Record> {
        let ranges = self.stream.watermarks(topic).await.unwrap();
        self.stream.read(&Window::new(topic, ranges).unwrap()).await.unwrap()
    }

    pub(crate) async fn curated(&self) -> Vec<Curated> {
        let records = self.all(&self.stream.topics().curated).await;
        records.iter().map(|record| Curated::decode(&record.value).unwrap()).collect()
    }

    pub(crate) async fn rejected(&self) -> Vec<Record> {
        self.all(&self.stream.topics().rejected).await
    }

    /// How many records the output topics hold.
    pub(crate) async fn outputs(&self) -> i64 {
        let topics = self.stream.topics();
        let mut outputs = 0;
        for topic in [&topics.curated, &topics.rejected] {
            let marks = self.stream.watermarks(topic).await.unwrap();
            outputs += marks.values().map(|(low, high)| high.0 - low.0).sum::<i64>();
        }
        outputs
    }

    /// Waits until the output topics hold `n` records.
    pub(crate) async fn until_outputs(&self, n: i64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let outputs = self.outputs().await;
            if outputs >= n {
                return;
            }
            assert!(Instant::now() < deadline, "{outputs} of {n} outputs after a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// By source record, where and as what it shows on the output topics.
    pub(crate) async fn effects(&self) -> BTreeMap<SourcePosition, Vec<String>> {
        let topics = self.stream.topics();
        let mut effects: BTreeMap<SourcePosition, Vec<String>> = BTreeMap::new();
        for record in self.all(&topics.curated).await {
            let source = Curated::decode(&record.value).unwrap().source;
            if let Some(offset) = text(&record, "tidegate-label-offset") {
                let label = SourcePosition {
                    topic: topics.labels.clone(),
                    partition: source.partition,
                    offset: Offset(offset.parse().unwrap()),
                };
                effects.entry(label).or_default().push(record.position().to_string());
            }
            effects.entry(source).or_default().push(record.position().to_string());
        }
        for record in self.rejected().await {
            let code = text(&record, "tidegate-code").unwrap();
            let what = format!("{} {code}", record.position());
            effects.entry(source(&record)).or_default().push(what);
        }
        effects
    }
}

pub(crate) fn text<'a>(record: &'a Record, header: &str) -> Option<&'a str> {
    record.header(header).map(|value| std::str::from_utf8(value).unwrap())
}

/// Where a dead letter came from.
pub(crate) fn source(record: &Record) -> SourcePosition {
    let number = |name: &str| text(record, name).unwrap().parse::<i64>().unwrap();
    SourcePosition {
        topic: text(record, "tidegate-source-topic").unwrap().to_owned(),
        partition: Partition(number("tidegate-source-partition") as i32),
        offset: Offset(number("tidegate-source-offset")),
    }
}
