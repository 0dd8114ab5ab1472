//! Writing.
use bytes::Bytes;
use kafka_protocol::{
    ResponseError as Code,
    messages::{
        ProduceRequest, ProduceResponse,
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::StrBytes,
};

use super::{
    node::{Node, Reply},
    storage::{Batch, Malformed, Refused, SequenceError},
};

/// An error, and what to say of it where the code does not say enough.
type Failure = (Code, Option<&'static str>);

impl Node {
    /// Appends every batch. It is written when this returns, so `acks` of 1 and of all are the same
    /// on one node.
    pub(crate) fn produce(&self, request: &ProduceRequest) -> Reply {
        let refuse: Option<Failure> = if !(-1..=1).contains(&request.acks) {
            Some((Code::InvalidRequiredAcks, None))
        } else if request.transactional_id.is_some() {
            Some(transactional())
        } else {
            None
        };
        let mut failed = None;
        let mut topics = Vec::with_capacity(request.topic_data.len());
        for topic in &request.topic_data {
            let mut partitions = Vec::with_capacity(topic.partition_data.len());
            for data in &topic.partition_data {
                let written = match refuse {
                    Some(failure) => Err(failure),
                    None => self.write(&topic.name, data.index, data.records.clone()),
                };
                let answer = PartitionProduceResponse::default().with_index(data.index);
                partitions.push(match written {
                    Ok((offset, start)) => answer
                        .with_base_offset(offset)
                        .with_log_append_time_ms(-1)
                        .with_log_start_offset(start),
                    Err((code, message)) => {
                        failed = Some(code);
                        answer
                            .with_error_code(code.code())
                            .with_error_message(message.map(StrBytes::from_static_str))
                            .with_base_offset(-1)
                            .with_log_append_time_ms(-1)
                            .with_log_start_offset(-1)
                    }
                });
            }
            let answer = TopicProduceResponse::default().with_name(topic.name.clone());
            topics.push(answer.with_partition_responses(partitions));
        }
        match (request.acks, failed) {
            (0, None) => Reply::Nothing,
            // The one way to tell a client that asked for no answer.
            (0, Some(code)) => Reply::Close(format!("a write without acks failed: {code}")),
            _ => ProduceResponse::default().with_responses(topics).into(),
        }
    }

    fn write(
        &self,
        topic: &str,
        number: i32,
        records: Option<Bytes>,
    ) -> Result<(i64, i64), Failure> {
        let partition = self.storage.partition(topic, number);
        let partition = partition.ok_or((Code::UnknownTopicOrPartition, None))?;
        let batch = Batch::check(records.unwrap_or_default()).map_err(|malformed| {
            let failure = malformed_batch(malformed);
            tracing::warn!(topic, number, ?malformed, "a malformed batch was refused");
            failure
        })?;
        let offset = partition.append(&batch).map_err(|refused| match refused {
            Refused::TooLarge => (Code::MessageTooLarge, None),
            Refused::Sequence(SequenceError::OutOfOrder) => (Code::OutOfOrderSequenceNumber, None),
            Refused::Sequence(SequenceError::Fenced) => (Code::InvalidProducerEpoch, None),
            Refused::Storage(error) => {
                tracing::error!(topic, number, %error, "a batch could not be written");
                (Code::KafkaStorageError, None)
            }
        })?;
        Ok((offset, partition.bounds().0))
    }
}

fn malformed_batch(malformed: Malformed) -> Failure {
    match malformed {
        Malformed::Format => (
            Code::UnsupportedForMessageFormat,
            Some("only record batches of format 2 are kept (clients from Kafka 0.11 on write it)"),
        ),
        Malformed::Corrupt => (Code::CorruptMessage, None),
        Malformed::Invalid(rule) => (Code::InvalidRecord, Some(rule)),
        Malformed::Transactional => transactional(),
    }
}

fn transactional() -> Failure {
    let reason = "the embedded broker has no transactions";
    (Code::TransactionalIdAuthorizationFailed, Some(reason))
}
