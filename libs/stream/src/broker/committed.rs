//! Offsets that groups commit, and ask for again.
use std::time::Instant;

use kafka_protocol::{
    ResponseError as Code,
    messages::{
        GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
        OffsetFetchResponse, TopicName,
        offset_commit_request::OffsetCommitRequestPartition,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};

use super::{
    node::{Caller, Node},
    storage::{Committed, Offsets},
};

/// Bytes of a note that comes with an offset (Kafka's own limit).
const METADATA: usize = 4_096;

impl Node {
    /// Keeps offsets; they are written when this returns.
    pub(crate) fn commit_offsets(&self, request: OffsetCommitRequest) -> OffsetCommitResponse {
        let allowed = self.may_commit(&request);
        let mut kept = Offsets::new();
        let mut codes = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let checked = allowed.and_then(|()| self.check_commit(&topic.name, partition));
                if checked.is_ok() {
                    let offset = Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: partition
                            .committed_metadata
                            .clone()
                            .unwrap_or_default()
                            .to_string(),
                    };
                    let partitions = kept.entry(topic.name.to_string()).or_default();
                    partitions.insert(partition.partition_index, offset);
                }
                codes.push(checked.err());
            }
        }
        let mut failed = None;
        if !kept.is_empty()
            && let Err(error) = self.storage.commit(&request.group_id, kept)
        {
            tracing::error!(group = %request.group_id.0, %error, "offsets could not be written");
            failed = Some(Code::KafkaStorageError);
        }
        let mut codes = codes.into_iter();
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let code = codes.next().flatten().or(failed);
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code.map_or(0, |code| code.code()))
            });
            let partitions = partitions.collect();
            OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }

    fn may_commit(&self, request: &OffsetCommitRequest) -> Result<(), Code> {
        if request.group_id.is_empty() {
            return Err(Code::InvalidGroupId);
        }
        let generation = request.generation_id_or_member_epoch;
        match self.groups.find(&request.group_id) {
            Some(mut group) => {
                let instance = request.group_instance_id.as_deref();
                group.may_commit(Instant::now(), (&request.member_id, instance, generation))
            }
            None if generation < 0 && request.member_id.is_empty() => Ok(()),
            None => Err(Code::UnknownMemberId),
        }
    }

    fn check_commit(
        &self,
        topic: &str,
        partition: &OffsetCommitRequestPartition,
    ) -> Result<(), Code> {
        if partition.committed_metadata.as_ref().is_some_and(|note| note.len() > METADATA) {
            return Err(Code::OffsetMetadataTooLarge);
        }
        let known = self.storage.partition(topic, partition.partition_index);
        known.map(drop).ok_or(Code::UnknownTopicOrPartition)
    }

    /// What groups committed. From version 8 on for many groups at once.
    pub(crate) fn fetch_offsets(
        &self,
        caller: &Caller,
        request: OffsetFetchRequest,
    ) -> OffsetFetchResponse {
        if caller.version < 8 {
            let asked = request
                .topics
                .map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
            let topics = self.look_up(&request.group_id, asked).into_iter();
            let topics = topics.map(|(name, found)| {
                let partitions = found.into_iter().map(|(number, committed)| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(number)
                        .with_committed_offset(committed.offset)
                        .with_committed_leader_epoch(committed.leader_epoch)
                        .with_metadata(Some(committed.metadata.into()))
                });
                let partitions = partitions.collect();
                OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions)
            });
            return OffsetFetchResponse::default().with_topics(topics.collect());
        }
        let groups = request.groups.into_iter().map(|group| {
            let asked = group
                .topics
                .map(|topics| topics.into_iter().map(|t| (t.name, t.partition_indexes)).collect());
            let topics = self.look_up(&group.group_id, asked).into_iter();
            let topics = topics.map(|(name, found)| {
                let partitions = found.into_iter().map(|(number, committed)| {
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(number)
                        .with_committed_offset(committed.offset)
                        .with_committed_leader_epoch(committed.leader_epoch)
                        .with_metadata(Some(committed.metadata.into()))
                });
                let partitions = partitions.collect();
                OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions)
            });
            let topics = topics.collect();
            OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics)
        });
        OffsetFetchResponse::default().with_groups(groups.collect())
    }

    /// What is committed for what is asked, or for everything; -1 where nothing is.
    fn look_up(
        &self,
        group: &GroupId,
        asked: Option<Vec<(TopicName, Vec<i32>)>>,
    ) -> Vec<(TopicName, Vec<(i32, Committed)>)> {
        let held = self.storage.committed(group).unwrap_or_default();
        let Some(asked) = asked else {
            let all = held.into_iter().map(|(topic, partitions)| {
                (TopicName(StrBytes::from_string(topic)), partitions.into_iter().collect())
            });
            return all.collect();
        };
        let none = Committed { offset: -1, leader_epoch: -1, metadata: String::new() };
        let found = asked.into_iter().map(|(topic, partitions)| {
            let of_topic = held.get(&*topic.0);
            let found = partitions.into_iter().map(|number| {
                let committed = of_topic.and_then(|partitions| partitions.get(&number));
                (number, committed.unwrap_or(&none).clone())
            });
            let found = found.collect();
            (topic, found)
        });
        found.collect()
    }
}
