//! The client: makes sources and sinks, asks about topics, waits for a broker that is away.
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::MetadataTopic,
};
use tidegate_contracts::{Offset, Partition, Window};

use crate::{
    config::{MAX_MESSAGE_BYTES, StreamConfig, Topics},
    error::{StreamError, heals},
    group::GroupSource,
    pump::LogContext,
    record::Record,
    sink::Sink,
    source::Source,
    window,
};

/// Room for key, headers and framing beside the value.
const FRAMING: usize = 64 << 10;
/// How long one question to the broker may take before it counts as away.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection to a Kafka cluster, or to the embedded broker. Cheap to clone.
#[derive(Clone)]
pub struct Stream(Arc<Inner>);

struct Inner {
    config: StreamConfig,
    brokers: String,
    topics: Topics,
    admin: AdminClient<LogContext>,
    /// Asks for metadata and watermarks: unlike a producer it never creates what it asks about.
    asker: BaseConsumer<LogContext>,
}

/// Counts records by direction (`read`, `written`) and topic.
pub(crate) fn count(direction: &str, topic: &str) {
    tidegate_telemetry::metrics::counter(
        "tidegate_stream_records_total",
        "Records read from and written to the stream.",
        &["direction", "topic"],
    )
    .with_label_values(&[direction, topic])
    .inc();
}

impl Stream {
    /// Prepares a client of `brokers` (`host:port,...`). Nothing is sent yet: a broker that is
    /// away is noticed, and waited for, by what is asked of it later.
    ///
    /// # Errors
    /// [`StreamError::Config`] for properties that librdkafka does not take.
    pub fn connect(config: &StreamConfig, brokers: &str) -> Result<Self, StreamError> {
        let client = client_config(config, brokers);
        let made = |error: KafkaError| StreamError::Config(error.to_string());
        let admin = client.create_with_context(LogContext).map_err(made)?;
        let asker = client.create_with_context(LogContext).map_err(made)?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            brokers: brokers.to_owned(),
            topics: Topics::new(&config.topic_prefix),
            admin,
            asker,
        })))
    }

    /// The names of our topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.0.topics
    }

    /// What it was connected to.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.0.brokers
    }

    /// Creates those of our six topics that are not there; waits while the broker is away.
    ///
    /// # Errors
    /// [`StreamError::Kafka`] when the broker refuses, e.g. for a replication it cannot give.
    pub async fn ensure_topics(&self) -> Result<(), StreamError> {
        for topic in self.0.topics.all() {
            self.ensure_topic(topic, self.0.config.partitions).await?;
        }
        Ok(())
    }

    /// Creates `topic` when it is not there, for records up to [`MAX_MESSAGE_BYTES`], and waits
    /// until it can be used.
    ///
    /// # Errors
    /// As [`Stream::ensure_topics`].
    pub async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<(), StreamError> {
        let mut patience = Patience::new(format!("create topic {topic}"));
        let largest = (MAX_MESSAGE_BYTES + FRAMING).to_string();
        let replication = TopicReplication::Fixed(self.0.config.replication);
        let new = NewTopic::new(topic, partitions, replication).set("max.message.bytes", &largest);
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        while self.partitions(topic).await?.is_none() {
            let error = match self.0.admin.create_topics([&new], &options).await {
                Ok(results) => match results.into_iter().next() {
                    None | Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => {
                        // There, but perhaps not yet known to the broker we ask.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    Some(Err((_, code))) => KafkaError::AdminOp(code),
                },
                Err(error) => error,
            };
            if !heals(&error) {
                return Err(StreamError::kafka(format!("create topic {topic}"), error));
            }
            patience.wait(&error).await;
        }
        patience.rewarded();
        Ok(())
    }

    /// The partitions of a topic; None when there is no such topic (yet). Waits while a partition
    /// has no leader, as after a restart of its broker.
    async fn partitions(&self, topic: &str) -> Result<Option<Vec<Partition>>, StreamError> {
        let name = topic.to_owned();
        self.ask(format!("describe topic {topic}"), move |asker| {
            let metadata = asker.fetch_metadata(Some(&name), ANSWER)?;
            let found = metadata.topics().iter().find(|t| t.name() == name);
            found.map_or(Ok(None), usable)
        })
        .await
    }

    /// By partition, the first offset there is and the offset after the last; waits while the
    /// broker is away.
    ///
    /// # Errors
    /// [`StreamError::UnknownTopic`].
    pub async fn watermarks(
        &self,
        topic: &str,
    ) -> Result<BTreeMap<Partition, (Offset, Offset)>, StreamError> {
        let mut marks = BTreeMap::new();
        for partition in self.known(topic).await? {
            let name = topic.to_owned();
            let (low, high) = self
                .ask(format!("ask for the offsets of {topic}"), move |asker| {
                    asker.fetch_watermarks(&name, partition.0, ANSWER)
                })
                .await?;
            marks.insert(partition, (Offset(low), Offset(high)));
        }
        Ok(marks)
    }

    async fn known(&self, topic: &str) -> Result<Vec<Partition>, StreamError> {
        let brokers = self.0.brokers.clone();
        let unknown = || StreamError::UnknownTopic { topic: topic.to_owned(), brokers };
        self.partitions(topic).await?.ok_or_else(unknown)
    }

    /// All records of `window`, in order within each partition. Reads exactly the window and ends.
    ///
    /// # Errors
    /// [`StreamError::OffsetGone`] when the log does not hold all of it,
    /// [`StreamError::UnknownTopic`].
    pub async fn read(&self, window: &Window) -> Result<Vec<Record>, StreamError> {
        let mut records = Vec::new();
        self.read_each(window, |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(records)
    }

    /// Calls `each` with every record of `window`, in order within each partition, until it
    /// breaks; never holds more than a bounded buffer of them.
    ///
    /// # Errors
    /// As [`Stream::read`].
    pub async fn read_each(
        &self,
        window: &Window,
        each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), StreamError> {
        window::read_each(self, window, each).await
    }

    /// Reads `topic` from given offsets on, without end. Partitions that `from` does not name are
    /// read from their beginning.
    ///
    /// # Errors
    /// [`StreamError::UnknownTopic`]. Offsets that are gone are told by [`Source::next`].
    pub async fn tail(
        &self,
        topic: &str,
        from: BTreeMap<Partition, Offset>,
    ) -> Result<Source, StreamError> {
        let marks = self.watermarks(topic).await?;
        let start = |(p, (low, _))| (p, from.get(&p).copied().unwrap_or(low));
        Source::open(self, topic, marks.into_iter().map(start).collect(), false)
    }

    /// Joins `group` to read `topics`, which should exist. Partitions are given out by range, so
    /// that partition `n` of every topic goes to the same member.
    ///
    /// # Errors
    /// [`StreamError::Config`], [`StreamError::Kafka`].
    pub async fn group(&self, group: &str, topics: &[&str]) -> Result<GroupSource, StreamError> {
        GroupSource::join(self, group, topics)
    }

    /// An idempotent producer.
    ///
    /// # Errors
    /// [`StreamError::Config`].
    pub fn sink(&self) -> Result<Sink, StreamError> {
        Sink::open(self)
    }

    /// Whether the broker answers now.
    pub async fn ready(&self) -> bool {
        let inner = self.0.clone();
        let ask = tokio::task::spawn_blocking(move || {
            inner.asker.fetch_metadata(Some(&inner.topics.events), Duration::from_secs(2)).is_ok()
        });
        ask.await.unwrap_or(false)
    }

    /// Asks off the runtime's threads, again and again while the broker is away.
    async fn ask<T: Send + 'static>(
        &self,
        action: String,
        question: impl Fn(&BaseConsumer<LogContext>) -> Result<T, KafkaError> + Send + Clone + 'static,
    ) -> Result<T, StreamError> {
        let mut patience = Patience::new(action);
        loop {
            let (inner, question) = (self.0.clone(), question.clone());
            let answer = tokio::task::spawn_blocking(move || {
                // Serves librdkafka's log and error events, which would pile up otherwise.
                inner.asker.poll(Duration::ZERO);
                question(&inner.asker)
            });
            match answer.await.expect("asking does not panic") {
                Ok(answer) => {
                    patience.rewarded();
                    return Ok(answer);
                }
                Err(error) if heals(&error) => patience.wait(&error).await,
                Err(error) => return Err(StreamError::kafka(patience.action, error)),
            }
        }
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        client_config(&self.0.config, &self.0.brokers)
    }

    /// A consumer that commits nothing by itself.
    pub(crate) fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.client_config();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("queued.max.messages.kbytes", "32768")
            .set("fetch.wait.max.ms", "250")
            .set("fetch.error.backoff.ms", "100");
        config
    }
}

/// The partitions of a topic that can be used; None for a topic that is not there.
fn usable(topic: &MetadataTopic) -> Result<Option<Vec<Partition>>, KafkaError> {
    let partitions = topic.partitions();
    match topic.error().map(Code::from) {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic) => Ok(None),
        Some(error) => Err(KafkaError::MetadataFetch(error)),
        // It is being created.
        None if partitions.is_empty() => Ok(None),
        None => match partitions.iter().find(|p| p.error().is_some() || p.leader() < 0) {
            Some(_) => Err(KafkaError::MetadataFetch(Code::LeaderNotAvailable)),
            None => Ok(Some(partitions.iter().map(|p| Partition(p.id())).collect())),
        },
    }
}

/// What every client has; the user's properties come first so that ours stand.
fn client_config(config: &StreamConfig, brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (name, value) in &config.properties {
        client.set(name, value.reveal());
    }
    client
        .set("bootstrap.servers", brokers)
        .set("client.id", "tidegate")
        .set("message.max.bytes", (MAX_MESSAGE_BYTES + FRAMING).to_string())
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.fast.interval.ms", "50");
    client
}

/// Waiting for a broker that is away: says so once, then every half minute, then that it is over.
pub(crate) struct Patience {
    action: String,
    since: Option<Instant>,
    said: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(action: String) -> Self {
        Self { action, since: None, said: None, pause: Duration::from_millis(50) }
    }

    pub(crate) async fn wait(&mut self, error: &KafkaError) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.said.is_none_or(|said| said.elapsed() > Duration::from_secs(30)) {
            self.said = Some(Instant::now());
            let seconds = since.elapsed().as_secs();
            tracing::warn!(%error, seconds, "kafka is away: waiting to {}", self.action);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
    }

    pub(crate) fn rewarded(&self) {
        if let Some(since) = self.since {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, "kafka is back: could {}", self.action);
        }
    }
}
