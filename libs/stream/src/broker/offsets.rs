//! Questions about offsets: first, last, by time, by leader epoch; and deletion up to one.
use kafka_protocol::{
    ResponseError as Code,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
        OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
        delete_records_request::DeleteRecordsPartition,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
        list_offsets_request::ListOffsetsPartition,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
        offset_for_leader_epoch_request::OffsetForLeaderPartition,
        offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    },
};

use super::{
    node::{Caller, LEADER_EPOCH, Node},
    storage::{Partition, TopicError},
};

/// Times that are none.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const OF_NEWEST_RECORD: i64 = -3;
/// With everything on local disk it is the earliest.
const EARLIEST_LOCAL: i64 = -4;

impl Node {
    pub(crate) fn list_offsets(
        &self,
        caller: &Caller,
        request: ListOffsetsRequest,
    ) -> ListOffsetsResponse {
        // Before version 4 nobody knew of epochs.
        let epoch = if caller.version >= 4 { LEADER_EPOCH } else { -1 };
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let answer = ListOffsetsPartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_leader_epoch(epoch);
                match self.list_offset(&topic.name, asked) {
                    Ok((offset, time)) => answer.with_offset(offset).with_timestamp(time),
                    Err(code) => answer
                        .with_error_code(code.code())
                        .with_offset(-1)
                        .with_timestamp(-1)
                        .with_leader_epoch(-1),
                }
            });
            let partitions = partitions.collect();
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions)
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn list_offset(&self, topic: &str, asked: &ListOffsetsPartition) -> Result<(i64, i64), Code> {
        let partition = self.storage.partition(topic, asked.partition_index);
        let partition = partition.ok_or(Code::UnknownTopicOrPartition)?;
        if asked.current_leader_epoch > LEADER_EPOCH {
            return Err(Code::UnknownLeaderEpoch);
        }
        match asked.timestamp {
            LATEST => Ok((partition.bounds().1, -1)),
            EARLIEST | EARLIEST_LOCAL => Ok((partition.bounds().0, -1)),
            OF_NEWEST_RECORD => {
                let newest = partition.log().max_timestamp();
                if newest < 0 { Ok((-1, -1)) } else { since(&partition, newest) }
            }
            time @ 0.. => since(&partition, time),
            // The tiers that Kafka numbers further down do not exist here.
            _ => Ok((-1, -1)),
        }
    }

    /// There was one leader epoch only: it ends where the log does.
    pub(crate) fn leader_epochs(
        &self,
        request: OffsetForLeaderEpochRequest,
    ) -> OffsetForLeaderEpochResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let epoch_end = |asked: &OffsetForLeaderPartition| {
                let answer = EpochEndOffset::default()
                    .with_partition(asked.partition)
                    .with_leader_epoch(-1)
                    .with_end_offset(-1);
                let Some(partition) = self.storage.partition(&topic.topic, asked.partition) else {
                    return answer.with_error_code(Code::UnknownTopicOrPartition.code());
                };
                if asked.current_leader_epoch > LEADER_EPOCH {
                    return answer.with_error_code(Code::UnknownLeaderEpoch.code());
                }
                if asked.leader_epoch != LEADER_EPOCH {
                    return answer;
                }
                answer.with_leader_epoch(LEADER_EPOCH).with_end_offset(partition.bounds().1)
            };
            let partitions = topic.partitions.iter().map(epoch_end).collect();
            let answer = OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone());
            answer.with_partitions(partitions)
        });
        OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
    }

    pub(crate) fn delete_records(&self, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let answer = DeleteRecordsPartitionResult::default()
                    .with_partition_index(asked.partition_index);
                match self.delete_before(&topic.name, asked) {
                    Ok(start) => answer.with_low_watermark(start),
                    Err(code) => answer.with_low_watermark(-1).with_error_code(code.code()),
                }
            });
            let partitions = partitions.collect();
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions)
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    }

    fn delete_before(&self, topic: &str, asked: &DeleteRecordsPartition) -> Result<i64, Code> {
        let partition = self.storage.partition(topic, asked.partition_index);
        let partition = partition.ok_or(Code::UnknownTopicOrPartition)?;
        let end = partition.bounds().1;
        // -1 is all of them.
        let before = if asked.offset == -1 { end } else { asked.offset };
        if !(0..=end).contains(&before) {
            return Err(Code::OffsetOutOfRange);
        }
        let deleted = self.storage.delete_records(topic, asked.partition_index, before);
        deleted.map_err(|error| match error {
            TopicError::Storage(error) => {
                tracing::error!(topic, %error, "records could not be deleted");
                Code::KafkaStorageError
            }
            _ => Code::UnknownTopicOrPartition,
        })
    }
}

/// The first record at or after `time`: its offset and its time; -1 twice when there is none.
fn since(partition: &Partition, time: i64) -> Result<(i64, i64), Code> {
    let (stretch, start) = {
        let log = partition.log();
        (log.since(time), log.start())
    };
    let Some(stretch) = stretch else { return Ok((-1, -1)) };
    match stretch.since(time) {
        // Deleted records may share a segment with it.
        Ok(Some((offset, time))) => Ok((offset.max(start), time)),
        Ok(None) => Ok((-1, -1)),
        // Retention was quicker: what is left is younger.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok((partition.bounds().0, time))
        }
        Err(error) => {
            tracing::error!(%error, time, "a segment cannot be read");
            Err(Code::KafkaStorageError)
        }
    }
}
