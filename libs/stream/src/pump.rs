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
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc as std_mpsc,
    },
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use tidegate_contracts::{Offset, Partition};
use tokio::sync::mpsc;

use crate::{
    error::{StreamError, heals},
    record::Record,
};

/// The buffer between the thread and the application: partitions are paused above it and resumed
/// below half of it.
const BUFFER_BYTES: usize = 32 << 20;
const BUFFER_RECORDS: usize = 8_192;
/// How long a command waits for the thread at most.
const POLL: Duration = Duration::from_millis(50);
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
    Seek { to: TopicPartition, offset: Offset, epoch: u64 },
    Pause(Vec<TopicPartition>),
    Resume(Vec<TopicPartition>),
}

/// What the thread, the rebalance callback and the application share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    bytes: AtomicUsize,
    records: AtomicUsize,
    /// All partitions are paused because the buffer is full.
    full: AtomicBool,
    /// Where partitions that are being assigned shall start.
    starts: Mutex<HashMap<TopicPartition, Offset>>,
}

impl Shared {
    fn over(&self, share: usize) -> bool {
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
        tracing::warn!(%error, "kafka: {reason}");
    }
}

impl ConsumerContext for LogContext {}

fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!("librdkafka {facility}: {message}");
        }
        // Connection failures come at this level; our own line says that we wait.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::debug!("librdkafka {facility}: {message}");
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
        tracing::warn!(%error, "kafka: {reason}");
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
            self.and_wait(|gate| Event::Assigned(partitions, gate));
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
        let poller = Poller {
            consumer: consumer.clone(),
            shared: shared.clone(),
            events: sender,
            orders,
            epochs: HashMap::new(),
            held: HashSet::new(),
        };
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

struct Poller {
    consumer: Arc<BaseConsumer<Context>>,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<Event>,
    orders: std_mpsc::Receiver<Command>,
    /// By topic and partition, the last seek that was carried out.
    epochs: HashMap<String, HashMap<Partition, u64>>,
    /// What the application paused.
    held: HashSet<TopicPartition>,
}

impl Poller {
    fn run(mut self) {
        while !self.shared.stop.load(SeqCst) {
            while let Ok(command) = self.orders.try_recv() {
                if let Err(error) = self.obey(command) {
                    tracing::warn!(%error, "kafka consumer command failed");
                }
            }
            self.regulate();
            let sent = match self.consumer.poll(POLL) {
                None => continue,
                Some(Ok(message)) => {
                    let record = Record::from_kafka(&message);
                    self.shared.bytes.fetch_add(record.size(), SeqCst);
                    self.shared.records.fetch_add(1, SeqCst);
                    let epoch = self.epochs.get(&record.topic);
                    let epoch = epoch.and_then(|e| e.get(&record.partition)).copied();
                    self.events.send(Event::Record(record, epoch.unwrap_or_default()))
                }
                Some(Err(KafkaError::PartitionEOF(p))) => {
                    self.events.send(Event::Eof(Partition(p)))
                }
                Some(Err(error)) => match self.consequence(error) {
                    None => continue,
                    Some(event) => self.events.send(event),
                },
            };
            if sent.is_err() {
                break;
            }
        }
    }

    fn consequence(&self, error: KafkaError) -> Option<Event> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Some(Event::OffsetGone),
            Some(Code::Fatal | Code::FencedInstanceId | Code::SaslAuthenticationFailed) => {
                Some(Event::Failed(error))
            }
            Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                Some(Event::Failed(error))
            }
            // librdkafka goes on by itself after all others.
            _ if heals(&error) => None,
            _ => {
                tracing::warn!(%error, "kafka consumer: going on");
                None
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), KafkaError> {
        match command {
            Command::Seek { to: (topic, partition), offset, epoch } => {
                let offset = KafkaOffset::Offset(offset.0);
                self.consumer.seek(&topic, partition.0, offset, Duration::from_secs(5))?;
                self.epochs.entry(topic).or_default().insert(partition, epoch);
                Ok(())
            }
            Command::Pause(partitions) => {
                self.consumer.pause(&list(&partitions))?;
                self.held.extend(partitions);
                Ok(())
            }
            Command::Resume(partitions) => {
                for partition in &partitions {
                    self.held.remove(partition);
                }
                if self.shared.full.load(SeqCst) {
                    return Ok(());
                }
                self.consumer.resume(&list(&partitions))
            }
        }
    }

    /// Back-pressure: pauses every partition while the buffer is full.
    fn regulate(&self) {
        let full = self.shared.full.load(SeqCst);
        if full == self.shared.over(if full { 2 } else { 1 }) {
            return;
        }
        let assignment = match self.consumer.assignment() {
            Ok(assignment) => assignment,
            Err(error) => return tracing::warn!(%error, "no assignment to pause or resume"),
        };
        let done = if full {
            let mut list = TopicPartitionList::new();
            for element in assignment.elements() {
                let partition = (element.topic().to_owned(), Partition(element.partition()));
                if !self.held.contains(&partition) {
                    list.add_partition(element.topic(), element.partition());
                }
            }
            self.consumer.resume(&list)
        } else {
            self.consumer.pause(&assignment)
        };
        match done {
            Ok(()) => self.shared.full.store(!full, SeqCst),
            Err(error) => tracing::warn!(%error, "partitions could not be paused or resumed"),
        }
    }
}

pub(crate) fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, partition.0);
    }
    list
}
