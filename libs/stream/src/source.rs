//! Reading by explicit assignment: the offsets are ours.
use std::collections::BTreeMap;

use rdkafka::{Offset as KafkaOffset, TopicPartitionList, consumer::Consumer as _};
use tidegate_contracts::{Offset, Partition};

use crate::{
    client::Stream,
    error::StreamError,
    pump::{Command, Event, Pump},
    record::Record,
};

/// An endless reader of one topic from given offsets. It is no member of any group and commits
/// nothing. Partitions that the topic gains later are not seen.
pub struct Source {
    topic: String,
    stream: Stream,
    /// None once it has failed.
    pump: Option<Pump>,
    position: BTreeMap<Partition, Offset>,
    eof: bool,
}

impl Source {
    /// Starts at `position`; `eof` asks for [`Event::Eof`] too.
    pub(crate) fn open(
        stream: &Stream,
        topic: &str,
        position: BTreeMap<Partition, Offset>,
        eof: bool,
    ) -> Result<Self, StreamError> {
        let mut source =
            Self { topic: topic.to_owned(), stream: stream.clone(), pump: None, position, eof };
        source.begin()?;
        Ok(source)
    }

    /// Begins to read at `position`, anew if it did before.
    fn begin(&mut self) -> Result<(), StreamError> {
        // Explicit assignment needs a group's name, and uses nothing of it.
        let name = format!("tidegate-source-{}", uuid::Uuid::new_v4());
        let mut config = self.stream.consumer_config(&name);
        config.set("auto.offset.reset", "error").set("enable.partition.eof", self.eof.to_string());
        self.pump = Some(Pump::start(&config, |consumer| {
            let mut list = TopicPartitionList::new();
            for (partition, offset) in &self.position {
                let offset = KafkaOffset::Offset(offset.0);
                list.add_partition_offset(&self.topic, partition.0, offset)?;
            }
            consumer.assign(&list)
        })?);
        Ok(())
    }

    /// The next record. Cancel safe: a record that was not returned is returned next time. Waits
    /// while there is none, and while the broker is away.
    ///
    /// # Errors
    /// [`StreamError::OffsetGone`] when the log no longer holds the offset, [`StreamError::Kafka`]
    /// for what waiting does not heal; [`StreamError::Closed`] after one of these.
    pub async fn next(&mut self) -> Result<Record, StreamError> {
        loop {
            if let Step::Record(record) = self.step().await? {
                return Ok(record);
            }
        }
    }

    /// By partition, the offset of the next record that [`Source::next`] has not returned.
    #[must_use]
    pub fn position(&self) -> BTreeMap<Partition, Offset> {
        self.position.clone()
    }

    pub(crate) async fn step(&mut self) -> Result<Step, StreamError> {
        loop {
            let pump = self.pump.as_mut().ok_or(StreamError::Closed)?;
            match pump.next().await.ok_or(StreamError::Closed)? {
                Event::Record(record, _) => {
                    self.position.insert(record.partition, Offset(record.offset.0 + 1));
                    crate::client::count("read", &record.topic);
                    return Ok(Step::Record(record));
                }
                Event::Eof(partition) => return Ok(Step::Eof(partition)),
                Event::OffsetGone => {
                    if let Some(gone) = self.explain().await? {
                        self.pump = None;
                        return Err(gone);
                    }
                    // Refused, and there all the same: the broker was just starting, or the log
                    // was cut and has grown again. What was buffered may be of the old one.
                    let topic = &self.topic;
                    tracing::warn!(topic, "an offset was refused that the log holds: reading anew");
                    self.begin()?;
                }
                Event::Failed(error) => {
                    self.pump = None;
                    return Err(StreamError::kafka("read", error));
                }
                // Not a member of a group: never assigned by one.
                Event::Assigned(..) | Event::Revoked(..) => {}
            }
        }
    }

    /// Needs no more of this partition.
    pub(crate) fn done_with(&self, partition: Partition) {
        if let Some(pump) = &self.pump {
            pump.order(Command::Pause(vec![(self.topic.clone(), partition)]));
        }
    }

    /// The error that says which offset is gone; None when all are there.
    async fn explain(&self) -> Result<Option<StreamError>, StreamError> {
        let marks = self.stream.watermarks(&self.topic).await?;
        let gone = self.position.iter().find_map(|(&partition, &at)| {
            let (low, high) = marks.get(&partition).copied().unwrap_or_default();
            let topic = self.topic.clone();
            let gone = StreamError::OffsetGone { topic, partition, from: at, to: at, low, high };
            (at < low || at > high).then_some(gone)
        });
        Ok(gone)
    }
}

pub(crate) enum Step {
    Record(Record),
    Eof(Partition),
}
