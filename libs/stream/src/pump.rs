//! The one thread that polls a consumer.
//!
//! librdkafka wants to be polled: for records, for rebalances, to stay a member of its group. The
//! thread polls whatever the application does, moves records into a bounded buffer, and pauses the
//! partitions while the buffer is full. A rebalance waits in the thread until the application has
//! dealt with it (a [`Gate`]), so a partition is never given away behind its back.
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use tidegate_contracts::{Offset, Partition};
use tokio::sync::mpsc;

use crate::{
    error::{StreamError, heals},
    poller::Poller,
    record::Record,
};

/// The buffer between the thread and the application: partitions are paused above it and resumed
/// below half of it.
const BUFFER_BYTES: usize = 32 << 20;
const BUFFER_RECORDS: usize = 8_192;
/// A rebalance that nobody takes up goes on after this.
const GATE_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type TopicPartition = (String, Partition);

/// Holds a rebalance until it is dropped.
pub(crate) struct Gate(#[allow(dead_code)] std_mpsc::Sender<()>);

pub(crate) enum Event {
    /// A record, and the seek it came after.
    Record(Record, u64),
    /// The end of the partition was reached.
    Eof(Partition),
    Assigned(Vec<TopicPartition>, Gate),
    Revoked(Vec<TopicPartition>, Gate),
    /// An offset that is not in the log.
    OffsetGone,
    /// The consumer is done for.
    Failed(KafkaError),
}

pub(crate) enum Command {
    Seek(Seek),
    Pause(Vec<TopicPartition>),
    Resume(Vec<TopicPartition>),
}

/// Goes on reading a partition at an offset. It counts for the assignment it was given in, the
/// `round`-th, and records that come after it carry its `epoch`.
pub(crate) struct Seek {
    pub(crate) to: TopicPartition,
    pub(crate) offset: Offset,
    pub(crate) epoch: u64,
    pub(crate) round: u64,
}

/// What the thread, the rebalance callback and the application share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) bytes: AtomicUsize,
    pub(crate) records: AtomicUsize,
    /// All partitions are paused because the buffer is full.
    pub(crate) full: AtomicBool,
    /// Where partitions that are being assigned shall start.
    pub(crate) starts: Mutex<HashMap<TopicPartition, Offset>>,
    /// What the application paused. An assignment begins with nothing paused.
    pub(crate) held: Mutex<HashSet<TopicPartition>>,
    /// Assignments so far.
    pub(crate) round: AtomicU64,
}

impl Shared {
    /// Whether the buffer holds more than this share of what it may.
    pub(crate) fn over(&self, share: usize) -> bool {
        self.bytes.load(SeqCst) > BUFFER_BYTES / share
            || self.records.load(SeqCst) > BUFFER_RECORDS / share
    }
}

/// Sends librdkafka's log lines and errors to ours.
pub(crate) struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        trouble(&error, reason);
    }
}

impl ConsumerContext for LogContext {}

/// How often it is said that brokers are away: each client hears of every failed attempt.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// An error of a client as a whole.
fn trouble(error: &KafkaError, reason: &str) {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    if heals(error) {
        let mut said = SAID.lock();
        if said.is_some_and(|at| at.elapsed() < SAY_AGAIN) {
            tracing::debug!(%error, "kafka: {reason}");
            return;
        }
        *said = Some(Instant::now());
    }
    tracing::warn!(%error, "kafka: {reason}");
}

fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!("librdkafka {facility}: {message}");
        }
        // Connection failures come at this level; our own line says that we wait.
        // But a reset of an offset is a loss of records, or would be one.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if facility != "OFFSET" => {
            tracing::debug!("librdkafka {facility}: {message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!("librdkafka {facility}: {message}");
        }
        _ => tracing::trace!("librdkafka {facility}: {message}"),
    }
}

pub(crate) struct Context {
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<Event>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        trouble(&error, reason);
    }
}

impl Context {
    /// Tells the application and waits until it comes back for the next event.
    fn and_wait(&self, event: impl FnOnce(Gate) -> Event) {
        let (gate, opened) = std_mpsc::channel();
        if self.events.send(event(Gate(gate))).is_err() {
            return;
        }
        // An opened gate is a dropped sender: `Disconnected` is the good case.
        if opened.recv_timeout(GATE_PATIENCE) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("a rebalance was not taken up in {GATE_PATIENCE:?}: going on without");
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions: Vec<TopicPartition> = list
            .elements()
            .iter()
            .map(|e| (e.topic().to_owned(), Partition(e.partition())))
            .collect();
        let done = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.shared.round.fetch_add(1, SeqCst);
            self.and_wait(|gate| Event::Assigned(partitions, gate));
            self.shared.held.lock().clear();
            for ((topic, partition), offset) in self.shared.starts.lock().drain() {
                // Fails only for a partition that is not in this assignment.
                let _ =
                    list.set_partition_offset(&topic, partition.0, KafkaOffset::Offset(offset.0));
            }
            self.shared.full.store(false, SeqCst);
            consumer.assign(list)
        } else {
            self.and_wait(|gate| Event::Revoked(partitions, gate));
            consumer.unassign()
        };
        if let Err(error) = done {
            tracing::error!(%error, "rebalance failed");
        }
    }
}

/// The application's end: events come out, commands go in.
pub(crate) struct Pump {
    events: mpsc::UnboundedReceiver<Event>,
    commands: std_mpsc::Sender<Command>,
    shared: Arc<Shared>,
    pub(crate) consumer: Arc<BaseConsumer<Context>>,
}

impl Pump {
    /// Makes the consumer, lets `start` assign or subscribe, and begins to poll.
    pub(crate) fn start(
        config: &ClientConfig,
        start: impl FnOnce(&BaseConsumer<Context>) -> Result<(), KafkaError>,
    ) -> Result<Self, StreamError> {
        let (sender, events) = mpsc::unbounded_channel();
        let (commands, orders) = std_mpsc::channel();
        let shared = Arc::new(Shared::default());
        let context = Context { shared: shared.clone(), events: sender.clone() };
        let consumer: BaseConsumer<Context> = config
            .create_with_context(context)
            .map_err(|error| StreamError::Config(error.to_string()))?;
        start(&consumer).map_err(|error| StreamError::kafka("start reading", error))?;
        let consumer = Arc::new(consumer);
        let poller = Poller::new(consumer.clone(), shared.clone(), sender, orders);
        std::thread::Builder::new()
            .name("kafka-poll".into())
            .spawn(move || poller.run())
            .map_err(|error| StreamError::Config(format!("no thread to poll from: {error}")))?;
        Ok(Self { events, commands, shared, consumer })
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        if let Some(Event::Record(record, _)) = &event {
            self.shared.bytes.fetch_sub(record.size(), SeqCst);
            self.shared.records.fetch_sub(1, SeqCst);
        }
        event
    }

    pub(crate) fn order(&self, command: Command) {
        // The thread is gone only after `Failed`, which the application is told by `next`.
        let _ = self.commands.send(command);
    }

    /// Where a partition that is being assigned shall start.
    pub(crate) fn start_at(&self, partition: TopicPartition, offset: Offset) {
        self.shared.starts.lock().insert(partition, offset);
    }
}

impl Drop for Pump {
    /// The thread sees it within a poll, leaves the group and ends by itself; joining it here
    /// would block the runtime for that long.
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
    }
}
