//! Every answer in every version: a client of any age is answered.
use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
        DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
        DescribeConfigsRequest, DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest,
        GroupId, HeartbeatRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest,
        ListGroupsRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest,
        OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader,
        RequestKind, SyncGroupRequest, TopicName, create_partitions_request as create_partitions,
        create_topics_request as create_topics, delete_records_request as delete_records,
        delete_topics_request as delete_topics, describe_configs_request as describe_configs,
        fetch_request as fetch, join_group_request as join_group,
        leave_group_request as leave_group, list_offsets_request as list_offsets,
        metadata_request as metadata, offset_commit_request as offset_commit,
        offset_fetch_request as offset_fetch, offset_for_leader_epoch_request as leader_epoch,
        produce_request as produce,
    },
    protocol::StrBytes,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    node::{Caller, Node, Reply},
    *,
};

/// Every kind of request, with enough in it that the answers are full.
fn requests(topic: &str, id: Uuid) -> Vec<(ApiKey, RequestKind)> {
    let name = || TopicName(topic.to_owned().into());
    // A member that joins another's group would wait for it.
    let group = || GroupId(topic.to_owned().into());
    let text = StrBytes::from_static_str;

    let data = produce::PartitionProduceData::default().with_records(Some(vec![2; 70].into()));
    let data =
        produce::TopicProduceData::default().with_name(name()).with_partition_data(vec![data]);
    let read = fetch::FetchTopic::default().with_topic(name()).with_topic_id(id);
    let read = read.with_partitions(vec![fetch::FetchPartition::default()]);
    let latest = list_offsets::ListOffsetsPartition::default().with_timestamp(-1);
    let latest =
        list_offsets::ListOffsetsTopic::default().with_name(name()).with_partitions(vec![latest]);
    let epoch = leader_epoch::OffsetForLeaderTopic::default().with_topic(name());
    let epoch = epoch.with_partitions(vec![leader_epoch::OffsetForLeaderPartition::default()]);
    let delete = delete_records::DeleteRecordsTopic::default().with_name(name());
    let delete = delete.with_partitions(vec![delete_records::DeleteRecordsPartition::default()]);
    let by_name = metadata::MetadataRequestTopic::default().with_name(Some(name()));
    let by_id =
        metadata::MetadataRequestTopic::default().with_name(None).with_topic_id(Uuid::from_u128(7));
    let commit = offset_commit::OffsetCommitRequestTopic::default().with_name(name());
    let commit =
        commit.with_partitions(vec![offset_commit::OffsetCommitRequestPartition::default()]);
    let ask = offset_fetch::OffsetFetchRequestTopic::default()
        .with_name(name())
        .with_partition_indexes(vec![0, 7]);
    let asks = offset_fetch::OffsetFetchRequestTopics::default()
        .with_name(name())
        .with_partition_indexes(vec![0, 7]);
    let asks = offset_fetch::OffsetFetchRequestGroup::default()
        .with_group_id(group())
        .with_topics(Some(vec![asks]));
    let protocol = join_group::JoinGroupRequestProtocol::default().with_name(text("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let leave = leave_group::MemberIdentity::default().with_member_id(text("nobody"));
    let new = create_topics::CreatableTopic::default()
        .with_name(name())
        .with_num_partitions(1)
        .with_replication_factor(1);
    let gone = delete_topics::DeleteTopicState::default().with_name(Some(name()));
    let of_topic = describe_configs::DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(topic.to_owned().into())
        .with_configuration_keys(None);

    vec![
        (ApiKey::ApiVersions, ApiVersionsRequest::default().into()),
        (ApiKey::Metadata, MetadataRequest::default().with_topics(None).into()),
        (
            ApiKey::Metadata,
            MetadataRequest::default()
                .with_topics(Some(vec![by_name, by_id]))
                .with_allow_auto_topic_creation(false)
                .into(),
        ),
        (
            ApiKey::CreateTopics,
            CreateTopicsRequest::default().with_topics(vec![new]).with_validate_only(true).into(),
        ),
        (
            ApiKey::CreatePartitions,
            CreatePartitionsRequest::default()
                .with_topics(vec![
                    create_partitions::CreatePartitionsTopic::default().with_name(name()),
                ])
                .into(),
        ),
        (
            ApiKey::DescribeConfigs,
            DescribeConfigsRequest::default().with_resources(vec![of_topic]).into(),
        ),
        (ApiKey::DescribeCluster, DescribeClusterRequest::default().into()),
        (
            ApiKey::Produce,
            ProduceRequest::default().with_acks(-1).with_topic_data(vec![data]).into(),
        ),
        (
            ApiKey::Fetch,
            FetchRequest::default().with_max_bytes(1_000).with_topics(vec![read]).into(),
        ),
        (ApiKey::ListOffsets, ListOffsetsRequest::default().with_topics(vec![latest]).into()),
        (
            ApiKey::OffsetForLeaderEpoch,
            OffsetForLeaderEpochRequest::default().with_topics(vec![epoch]).into(),
        ),
        (ApiKey::DeleteRecords, DeleteRecordsRequest::default().with_topics(vec![delete]).into()),
        (
            ApiKey::InitProducerId,
            InitProducerIdRequest::default().with_transactional_id(None).into(),
        ),
        (
            ApiKey::InitProducerId,
            InitProducerIdRequest::default().with_transactional_id(Some(text("t").into())).into(),
        ),
        (
            ApiKey::FindCoordinator,
            FindCoordinatorRequest::default()
                .with_key(text("g"))
                .with_coordinator_keys(vec![text("g")])
                .into(),
        ),
        (
            ApiKey::FindCoordinator,
            FindCoordinatorRequest::default()
                .with_key_type(1)
                .with_coordinator_keys(vec![text("t")])
                .into(),
        ),
        (
            ApiKey::OffsetCommit,
            OffsetCommitRequest::default()
                .with_group_id(group())
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![commit])
                .into(),
        ),
        (
            ApiKey::OffsetFetch,
            OffsetFetchRequest::default()
                .with_group_id(group())
                .with_topics(Some(vec![ask]))
                .with_groups(vec![asks])
                .into(),
        ),
        (ApiKey::JoinGroup, JoinGroupRequest::default().into()),
        (ApiKey::JoinGroup, join.into()),
        (ApiKey::SyncGroup, SyncGroupRequest::default().with_group_id(group()).into()),
        (ApiKey::Heartbeat, HeartbeatRequest::default().with_group_id(group()).into()),
        (
            ApiKey::DescribeGroups,
            DescribeGroupsRequest::default().with_groups(vec![group()]).into(),
        ),
        (ApiKey::ListGroups, ListGroupsRequest::default().into()),
        (
            ApiKey::LeaveGroup,
            LeaveGroupRequest::default().with_group_id(group()).with_members(vec![leave]).into(),
        ),
        (
            ApiKey::DeleteGroups,
            DeleteGroupsRequest::default().with_groups_names(vec![group()]).into(),
        ),
        (
            ApiKey::DeleteTopics,
            DeleteTopicsRequest::default()
                .with_topics(vec![gone])
                .with_topic_names(vec![name()])
                .into(),
        ),
    ]
}

#[tokio::test]
async fn every_answer_can_be_written_in_every_version() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::default();
    let options = Box::new(|topic: &_| configs::options(&EmbeddedConfig::default(), topic));
    let storage = Arc::new(Storage::open(dir.path(), options, false).unwrap());
    let node = Node::new(config.clone(), config.listen, storage.clone(), CancellationToken::new());
    let mut answered = std::collections::BTreeSet::new();
    for version in 0..20 {
        // A topic that is there, until it is deleted at the end, and one that is not.
        let there = storage.create("there", 1, BTreeMap::new()).unwrap().id;
        for (topic, id) in [("there", there), ("missing", Uuid::nil())] {
            for (key, request) in requests(topic, id) {
                if shape::shape(key, version).is_none() {
                    continue;
                }
                let caller = Caller { client: "c".into(), host: "h".into(), version };
                let answer = match node.answer(&caller, request).await {
                    Reply::Answer(answer) | Reply::Large(answer, _) => answer,
                    Reply::Nothing | Reply::Close(_) => panic!("{key:?} {version} has an answer"),
                };
                let header = RequestHeader::default().with_request_api_version(version);
                let frame = connection::encode(&header, key, &answer);
                let frame = frame.unwrap_or_else(|error| panic!("{topic}: {error}"));
                assert!(frame.len() > 8, "{key:?} {version}");
                answered.insert(key as i16);
            }
        }
        // Version 0 to 5 of the deletion are by name, and not all versions have one.
        let _ = storage.delete("there");
        node.groups.tick(Instant::now() + Duration::from_secs(3_600));
    }
    let taken = ApiKey::iter().filter(|&key| shape::versions(key).is_some());
    let missing: Vec<_> = taken.filter(|&key| !answered.contains(&(key as i16))).collect();
    assert!(missing.is_empty(), "no question for {missing:?}");
}
