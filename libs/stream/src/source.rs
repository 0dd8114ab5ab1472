//! Reading by explicit assignment: the offsets are ours.
use std::collections::BTreeMap;

use rdkafka::{Offset as KafkaOffset, TopicPartitionList, consumer::Consumer as _};
use tidegate_contracts::{Offset, Partition};

use crate::{
    client::Stream,
    error::StreamError,
    pump::{Event, Pump},
    record::Record,
};

/// An endless reader of one topic from given offsets. It is no member of any group and commits
/// nothing. Partitions that the topic gains later are not seen.
pub struct Source {
    topic: String,
    stream: Stream,
    pump: Pump,
    position: BTreeMap<Partition, Offset>,
}

impl Source {
    /// Starts at `position`; `eof` asks for [`Event::Eof`] too.
    pub(crate) fn open(
        stream: &Stream,
        topic: &str,
        position: BTreeMap<Partition, Offset>,
        eof: bool,
    ) -> Result<Self, StreamError> {
        // Explicit assignment needs a group's name, and uses nothing of it.
        let name = format!("tidegate-source-{}", uuid::Uuid::new_v4());
        let mut config = stream.consumer_config(&name);
        config.set("auto.offset.reset", "error").set("enable.partition.eof", eof.to_string());
        let pump = Pump::start(&config, |consumer| {
            let mut list = TopicPartitionList::new();
            for (partition, offset) in &position {
                list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(offset.0))?;
            }
            consumer.assign(&list)
        })?;
        Ok(Self { topic: topic.to_owned(), stream: stream.clone(), pump, position })
    }

    /// The next record. Cancel safe: a record that was not returned is returned next time. Waits
    /// while there is none, and while the broker is away.
    ///
    /// # Errors
    /// [`StreamError::OffsetGone`] when the log no longer holds the offset; the source is of no
    /// use then. [`StreamError::Kafka`] for what waiting does not heal.
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
            match self.pump.next().await.ok_or(StreamError::Closed)? {
                Event::Record(record, _) => {
                    self.position.insert(record.partition, Offset(record.offset.0 + 1));
                    crate::client::count("read", &record.topic);
                    return Ok(Step::Record(record));
                }
                Event::Eof(partition) => return Ok(Step::Eof(partition)),
                Event::OffsetGone => self.explain().await?,
                Event::Failed(error) => return Err(StreamError::kafka("read", error)),
                // Not a member of a group: never assigned by one.
                Event::Assigned(..) | Event::Revoked(..) => {}
            }
        }
    }

    /// The error that says which offset is gone.
    async fn explain(&self) -> Result<(), StreamError> {
        let marks = self.stream.watermarks(&self.topic).await?;
        for (&partition, &at) in &self.position {
            let (low, high) = marks.get(&partition).copied().unwrap_or_default();
            if at < low || at > high {
                let topic = self.topic.clone();
                return Err(StreamError::OffsetGone {
                    topic,
                    partition,
                    from: at,
                    to: at,
                    low,
                    high,
                });
            }
        }
        // The mark was not known for a moment (a broker that is starting): librdkafka retries.
        tracing::warn!(topic = self.topic, "an offset was refused that the log does hold: again");
        Ok(())
    }
}

pub(crate) enum Step {
    Record(Record),
    Eof(Partition),
}
