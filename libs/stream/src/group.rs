//! Reading as a member of a consumer group, with rebalances in plain sight.
use std::collections::HashMap;

use parking_lot::Mutex;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::RDKafkaErrorCode as Code,
};
use tidegate_contracts::{Offset, Partition};

use crate::{
    client::{Patience, Stream},
    error::{StreamError, heals},
    pump::{Command, Event, Gate, Pump, Seek},
    record::Record,
};

/// What happens to a member of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupEvent {
    /// These partitions are ours now. Reading starts at the next call of [`GroupSource::next`]: at
    /// the committed offset, or wherever [`GroupSource::seek`] was told in between.
    Assigned(Vec<(String, Partition)>),
    /// These partitions are being taken away. They are ours until the next call of
    /// [`GroupSource::next`] (for a minute at most): commit and save before it.
    Revoked(Vec<(String, Partition)>),
    /// A record of one of ours.
    Record(Record),
}

/// A member of a consumer group. It leaves the group when it is dropped.
pub struct GroupSource {
    group: String,
    pump: Pump,
    /// The rebalance that the application is dealing with, and whether it is an assignment.
    gate: Option<(Gate, bool)>,
    /// Assignments so far.
    round: u64,
    seeks: Mutex<Seeks>,
}

/// Seeks are numbered, and records say which one they came after: so none that was read before a
/// seek is returned after it.
#[derive(Default)]
struct Seeks {
    count: u64,
    /// By topic and partition, the last one of this assignment.
    newest: HashMap<(String, Partition), u64>,
}

impl GroupSource {
    pub(crate) fn join(stream: &Stream, group: &str, topics: &[&str]) -> Result<Self, StreamError> {
        let mut config = stream.consumer_config(group);
        config
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "1000");
        let pump = Pump::start(&config, |consumer| consumer.subscribe(topics))?;
        Ok(Self { group: group.to_owned(), pump, gate: None, round: 0, seeks: Mutex::default() })
    }

    /// What happens next. Cancel safe.
    ///
    /// # Errors
    /// [`StreamError::Kafka`] for what waiting does not heal.
    pub async fn next(&mut self) -> Result<GroupEvent, StreamError> {
        self.gate = None;
        loop {
            match self.pump.next().await.ok_or(StreamError::Closed)? {
                Event::Record(record, epoch) => {
                    if self.is_current(&record, epoch) {
                        crate::client::count("read", &record.topic);
                        return Ok(GroupEvent::Record(record));
                    }
                }
                Event::Assigned(partitions, gate) => {
                    self.gate = Some((gate, true));
                    self.round += 1;
                    self.seeks.lock().newest.clear();
                    return Ok(GroupEvent::Assigned(partitions));
                }
                Event::Revoked(partitions, gate) => {
                    self.gate = Some((gate, false));
                    return Ok(GroupEvent::Revoked(partitions));
                }
                Event::Failed(error) => return Err(StreamError::kafka("read", error)),
                Event::Eof(_) | Event::OffsetGone => {}
            }
        }
    }

    /// Whether no seek came between the reading of `record` and now.
    fn is_current(&self, record: &Record, epoch: u64) -> bool {
        let seeks = self.seeks.lock();
        if seeks.newest.is_empty() {
            return true;
        }
        let newest = seeks.newest.get(&(record.topic.clone(), record.partition));
        newest.is_none_or(|&newest| newest == epoch)
    }

    /// Goes on reading a partition at `offset`. After it, no record is returned that was read
    /// before it. Between [`GroupEvent::Assigned`] and the next call of [`GroupSource::next`] it
    /// says where reading starts.
    ///
    /// # Errors
    /// None at present; a partition that is not ours is said in the log.
    pub fn seek(
        &self,
        topic: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<(), StreamError> {
        let to = (topic.to_owned(), partition);
        if matches!(self.gate, Some((_, true))) {
            self.pump.start_at(to, offset);
            return Ok(());
        }
        let mut seeks = self.seeks.lock();
        seeks.count += 1;
        let epoch = seeks.count;
        seeks.newest.insert(to.clone(), epoch);
        self.pump.order(Command::Seek(Seek { to, offset, epoch, round: self.round }));
        Ok(())
    }

    /// Stops reading these partitions until [`GroupSource::resume`]; what was read already may
    /// still come.
    pub fn pause(&self, partitions: &[(String, Partition)]) {
        self.pump.order(Command::Pause(partitions.to_vec()));
    }

    /// Goes on reading these partitions.
    pub fn resume(&self, partitions: &[(String, Partition)]) {
        self.pump.order(Command::Resume(partitions.to_vec()));
    }

    /// Commits `offsets` (of the next record to read) and waits until the broker has them, also
    /// while it is away.
    ///
    /// # Errors
    /// [`StreamError::NotAssigned`] when the group has moved on without us.
    pub async fn commit(&self, offsets: &[(String, Partition, Offset)]) -> Result<(), StreamError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut patience = Patience::new(format!("commit offsets of group {}", self.group));
        loop {
            let mut list = TopicPartitionList::new();
            for (topic, partition, offset) in offsets {
                list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(offset.0))
                    .map_err(|error| StreamError::kafka("commit offsets", error))?;
            }
            let consumer = self.pump.consumer.clone();
            let commit =
                tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync));
            let Err(error) = commit.await.expect("committing does not panic") else {
                patience.rewarded();
                return Ok(());
            };
            match error.rdkafka_error_code() {
                Some(
                    Code::UnknownMemberId
                    | Code::IllegalGeneration
                    | Code::RebalanceInProgress
                    | Code::FencedInstanceId
                    | Code::AssignmentLost,
                ) => {
                    let (group, reason) = (self.group.clone(), error.to_string());
                    return Err(StreamError::NotAssigned { group, reason });
                }
                _ if heals(&error) => patience.wait(&error).await,
                _ => return Err(StreamError::kafka("commit offsets", error)),
            }
        }
    }
}
