//! The polling itself: records out, commands in, back-pressure.
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::SeqCst, mpsc as std_mpsc},
    time::Duration,
};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tidegate_contracts::Partition;
use tokio::sync::mpsc;

use crate::{
    error::heals,
    pump::{Command, Context, Event, Seek, Shared, TopicPartition},
    record::Record,
};

/// How long a command waits for the thread at most.
const POLL: Duration = Duration::from_millis(50);

/// The thread's state.
pub(crate) struct Poller {
    consumer: Arc<BaseConsumer<Context>>,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<Event>,
    orders: std_mpsc::Receiver<Command>,
    /// By topic and partition, the last seek that was carried out.
    epochs: HashMap<String, HashMap<Partition, u64>>,
    /// Seeks that librdkafka does not take yet.
    seeks: Vec<Seek>,
}

impl Poller {
    pub(crate) fn new(
        consumer: Arc<BaseConsumer<Context>>,
        shared: Arc<Shared>,
        events: mpsc::UnboundedSender<Event>,
        orders: std_mpsc::Receiver<Command>,
    ) -> Self {
        let (epochs, seeks) = (HashMap::new(), Vec::new());
        Self { consumer, shared, events, orders, epochs, seeks }
    }

    /// Polls until the application's end is dropped.
    pub(crate) fn run(mut self) {
        while !self.shared.stop.load(SeqCst) {
            while let Ok(command) = self.orders.try_recv() {
                if let Err(error) = self.obey(command) {
                    tracing::warn!(%error, "kafka consumer command failed");
                }
            }
            self.seek();
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
            Command::Seek(seek) => {
                // A later seek of the same partition takes the place of an earlier one.
                self.seeks.retain(|earlier| earlier.to != seek.to);
                self.seeks.push(seek);
                Ok(())
            }
            Command::Pause(partitions) => {
                self.consumer.pause(&list(&partitions))?;
                self.shared.held.lock().extend(partitions);
                Ok(())
            }
            Command::Resume(partitions) => {
                self.shared.held.lock().retain(|held| !partitions.contains(held));
                if self.shared.full.load(SeqCst) {
                    return Ok(());
                }
                self.consumer.resume(&list(&partitions))
            }
        }
    }

    /// Carries out seeks. One that fails is tried again at the next turn, as nothing of its
    /// partition is given to the application until it is done; one of an earlier assignment is
    /// forgotten.
    fn seek(&mut self) {
        let round = self.shared.round.load(SeqCst);
        for seek in std::mem::take(&mut self.seeks) {
            let (topic, partition) = &seek.to;
            if seek.round != round {
                continue;
            }
            let to = KafkaOffset::Offset(seek.offset.0);
            match self.consumer.seek(topic, partition.0, to, Duration::from_secs(5)) {
                Ok(()) => {
                    self.epochs.entry(topic.clone()).or_default().insert(*partition, seek.epoch);
                }
                Err(error) if self.is_ours(topic, *partition) => {
                    tracing::debug!(%error, topic, %partition, "seek failed: again");
                    self.seeks.push(seek);
                }
                Err(error) => {
                    tracing::warn!(%error, topic, %partition, "seek of no partition of ours");
                }
            }
        }
    }

    fn is_ours(&self, topic: &str, partition: Partition) -> bool {
        let same = |a: &TopicPartitionList| a.find_partition(topic, partition.0).is_some();
        self.consumer.assignment().is_ok_and(|assignment| same(&assignment))
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
            let held = self.shared.held.lock();
            for element in assignment.elements() {
                let partition = (element.topic().to_owned(), Partition(element.partition()));
                if !held.contains(&partition) {
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

fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, partition.0);
    }
    list
}
