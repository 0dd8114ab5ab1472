//! Topics: what there is, creation, growth, deletion.
use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::{
    ResponseError as Code,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
        CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest,
        DescribeConfigsResponse, MetadataRequest, MetadataResponse, TopicName,
        create_partitions_request::CreatePartitionsTopic,
        create_partitions_response::CreatePartitionsTopicResult,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
        delete_topics_response::DeletableTopicResult,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult},
        metadata_request::MetadataRequestTopic,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
    protocol::StrBytes,
};

use super::{
    about::NO_OPERATIONS,
    configs,
    node::{Caller, LEADER_EPOCH, NODE, Node},
    storage::{Topic, TopicError},
};

/// Kinds of resources that have a configuration.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Where a value comes from.
const SET_ON_TOPIC: i8 = 1;
const DEFAULT: i8 = 5;

/// An error and what to say of it.
type Failure = (Code, String);

impl Node {
    pub(crate) fn metadata(&self, caller: &Caller, request: MetadataRequest) -> MetadataResponse {
        let may_create = caller.version < 4 || request.allow_auto_topic_creation;
        let topics = match request.topics {
            // Version 0 has no other word for all.
            Some(topics) if caller.version >= 1 || !topics.is_empty() => {
                let describe = |asked| self.describe_or_create(caller, asked, may_create);
                topics.into_iter().map(describe).collect()
            }
            _ => self.storage.topics().iter().map(|topic| describe(topic)).collect(),
        };
        let broker = MetadataResponseBroker::default().with_node_id(NODE);
        MetadataResponse::default()
            .with_brokers(vec![broker.with_host(self.host()).with_port(self.port())])
            .with_cluster_id(Some(self.cluster_id()))
            .with_controller_id(NODE)
            .with_cluster_authorized_operations(NO_OPERATIONS)
            .with_topics(topics)
    }

    /// As Kafka does with `auto.create.topics.enable`: who asks about a topic by name, and says
    /// so, brings it into being.
    fn describe_or_create(
        &self,
        caller: &Caller,
        asked: MetadataRequestTopic,
        create: bool,
    ) -> MetadataResponseTopic {
        let Some(name) = asked.name else {
            // Before version 12 there is no way to say that a name is not known.
            let unknown = MetadataResponseTopic::default()
                .with_name((caller.version < 12).then(TopicName::default))
                .with_topic_id(asked.topic_id)
                .with_error_code(Code::UnknownTopicId.code());
            return self
                .storage
                .topic_by_id(asked.topic_id)
                .map_or(unknown, |topic| describe(&topic));
        };
        if let Some(topic) = self.storage.topic(&name) {
            return describe(&topic);
        }
        let failed = |code: Code| {
            let answer = MetadataResponseTopic::default().with_name(Some(name.clone()));
            answer.with_error_code(code.code()).with_topic_authorized_operations(NO_OPERATIONS)
        };
        if check_name(&name).is_err() {
            return failed(Code::InvalidTopicException);
        }
        if !create {
            return failed(Code::UnknownTopicOrPartition);
        }
        match self.storage.create(&name, self.config.default_partitions, BTreeMap::new()) {
            Ok(topic) => describe(&topic),
            // Someone was quicker.
            Err(TopicError::Exists) => failed(Code::LeaderNotAvailable),
            Err(error) => failed(failure(error).0),
        }
    }

    pub(crate) fn create_topics(&self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        let validate_only = request.validate_only;
        let create = |asked: CreatableTopic| {
            let answer = CreatableTopicResult::default().with_name(asked.name.clone());
            match self.create_topic(asked, validate_only) {
                Ok((topic, partitions, set)) => answer
                    .with_topic_id(topic.map(|topic| topic.id).unwrap_or_default())
                    .with_num_partitions(partitions)
                    .with_replication_factor(1)
                    .with_configs(Some(self.created_configs(&set))),
                Err((code, message)) => answer
                    .with_error_code(code.code())
                    .with_error_message(Some(message.into()))
                    .with_num_partitions(-1)
                    .with_replication_factor(-1),
            }
        };
        let topics = request.topics.into_iter().map(create).collect();
        CreateTopicsResponse::default().with_topics(topics)
    }

    #[allow(clippy::type_complexity)]
    fn create_topic(
        &self,
        asked: CreatableTopic,
        validate_only: bool,
    ) -> Result<(Option<Arc<Topic>>, i32, BTreeMap<String, String>), Failure> {
        check_name(&asked.name)?;
        let partitions = self.partitions_of(&asked)?;
        let mut set = BTreeMap::new();
        for config in asked.configs {
            configs::check(&config.name, config.value.as_deref())
                .map_err(|reason| (Code::InvalidConfig, reason))?;
            set.insert(config.name.to_string(), config.value.unwrap_or_default().to_string());
        }
        if validate_only {
            return match self.storage.topic(&asked.name) {
                Some(_) => Err(failure(TopicError::Exists)),
                None => Ok((None, partitions, set)),
            };
        }
        let topic = self.storage.create(&asked.name, partitions, set.clone()).map_err(failure)?;
        Ok((Some(topic), partitions, set))
    }

    fn partitions_of(&self, asked: &CreatableTopic) -> Result<i32, Failure> {
        if !asked.assignments.is_empty() {
            let ours = asked.assignments.iter().all(|a| a.broker_ids == [NODE]);
            let count = i32::try_from(asked.assignments.len()).unwrap_or(i32::MAX);
            let reason = || format!("the only broker is {}", NODE.0);
            return ours.then_some(count).ok_or_else(|| (Code::InvalidReplicaAssignment, reason()));
        }
        if !matches!(asked.replication_factor, -1 | 1) {
            let reason = "the embedded broker is one node: replication factor 1, or -1";
            return Err((Code::InvalidReplicationFactor, reason.to_owned()));
        }
        match asked.num_partitions {
            -1 => Ok(self.config.default_partitions),
            1.. => Ok(asked.num_partitions),
            _ => Err((Code::InvalidPartitions, "a topic has one partition or more".to_owned())),
        }
    }

    fn created_configs(&self, set: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
        let config = |property: &configs::Property| {
            let source = if set.contains_key(property.name) { SET_ON_TOPIC } else { DEFAULT };
            CreatableTopicConfigs::default()
                .with_name(StrBytes::from_static_str(property.name))
                .with_value(Some(configs::value(&self.config, set, property).into()))
                .with_config_source(source)
        };
        configs::PROPERTIES.iter().map(config).collect()
    }

    pub(crate) fn delete_topics(
        &self,
        caller: &Caller,
        request: DeleteTopicsRequest,
    ) -> DeleteTopicsResponse {
        let by_name = |name: TopicName| {
            let error = self.storage.delete(&name).err();
            deleted(Some(name), error)
        };
        let responses = if caller.version >= 6 {
            let delete =
                |asked: kafka_protocol::messages::delete_topics_request::DeleteTopicState| {
                    if let Some(name) = asked.name {
                        return by_name(name);
                    }
                    match self.storage.topic_by_id(asked.topic_id) {
                        Some(topic) => by_name(TopicName(topic.name.clone().into())),
                        None => deleted(None, None)
                            .with_topic_id(asked.topic_id)
                            .with_error_code(Code::UnknownTopicId.code()),
                    }
                };
            request.topics.into_iter().map(delete).collect()
        } else {
            request.topic_names.into_iter().map(by_name).collect()
        };
        DeleteTopicsResponse::default().with_responses(responses)
    }

    pub(crate) fn create_partitions(
        &self,
        request: CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        let validate_only = request.validate_only;
        let grow = |asked: CreatePartitionsTopic| {
            let grown = match self.storage.topic(&asked.name) {
                None => Err(TopicError::Unknown),
                Some(topic) if asked.count <= topic.partitions.len() as i32 => {
                    Err(TopicError::Fewer(topic.partitions.len()))
                }
                Some(_) if validate_only => Ok(()),
                Some(_) => self.storage.grow(&asked.name, asked.count),
            };
            let answer = CreatePartitionsTopicResult::default().with_name(asked.name);
            match grown.map_err(failure) {
                Ok(()) => answer,
                Err((code, message)) => {
                    answer.with_error_code(code.code()).with_error_message(Some(message.into()))
                }
            }
        };
        let results = request.topics.into_iter().map(grow).collect();
        CreatePartitionsResponse::default().with_results(results)
    }

    /// What topics are kept by. Of the broker itself nothing can be set, so nothing is told.
    pub(crate) fn describe_configs(
        &self,
        request: DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let resource = |asked: DescribeConfigsResource| {
            let answer = DescribeConfigsResult::default()
                .with_resource_type(asked.resource_type)
                .with_resource_name(asked.resource_name.clone());
            match (asked.resource_type, self.storage.topic(&asked.resource_name)) {
                (TOPIC, Some(topic)) => answer.with_configs(self.configs(&topic, &asked)),
                (TOPIC, None) => answer.with_error_code(Code::UnknownTopicOrPartition.code()),
                (BROKER, _) => answer,
                _ => answer.with_error_code(Code::InvalidRequest.code()),
            }
        };
        let results = request.resources.into_iter().map(resource).collect();
        DescribeConfigsResponse::default().with_results(results)
    }

    fn configs(
        &self,
        topic: &Topic,
        asked: &DescribeConfigsResource,
    ) -> Vec<DescribeConfigsResourceResult> {
        let wanted = |property: &&configs::Property| {
            let keys = asked.configuration_keys.as_ref();
            keys.is_none_or(|keys| keys.iter().any(|key| **key == *property.name))
        };
        let config = |property: &configs::Property| {
            let set = topic.configs.contains_key(property.name);
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(property.name))
                .with_value(Some(configs::value(&self.config, &topic.configs, property).into()))
                // Can be set when the topic is created, and not later.
                .with_read_only(true)
                .with_config_source(if set { SET_ON_TOPIC } else { DEFAULT })
        };
        configs::PROPERTIES.iter().filter(wanted).map(config).collect()
    }
}

fn describe(topic: &Topic) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions.len() as i32).map(|number| {
        MetadataResponsePartition::default()
            .with_partition_index(number)
            .with_leader_id(NODE)
            .with_leader_epoch(LEADER_EPOCH)
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(topic.name.clone().into())))
        .with_topic_id(topic.id)
        .with_topic_authorized_operations(NO_OPERATIONS)
        .with_partitions(partitions.collect())
}

fn deleted(name: Option<TopicName>, error: Option<TopicError>) -> DeletableTopicResult {
    let answer = DeletableTopicResult::default().with_name(name);
    match error.map(failure) {
        None => answer,
        Some((code, message)) => {
            answer.with_error_code(code.code()).with_error_message(Some(message.into()))
        }
    }
}

/// Kafka's rule for names.
fn check_name(name: &str) -> Result<(), Failure> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=249).contains(&name.len()) && name.chars().all(legal) && name != "." && name != ".." {
        return Ok(());
    }
    let reason =
        "a topic's name is 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`, and not `.` or `..`";
    Err((Code::InvalidTopicException, reason.to_owned()))
}

fn failure(error: TopicError) -> Failure {
    match error {
        TopicError::Exists => (Code::TopicAlreadyExists, "the topic exists already".to_owned()),
        TopicError::Unknown => (Code::UnknownTopicOrPartition, "no such topic".to_owned()),
        TopicError::Fewer(has) => {
            (Code::InvalidPartitions, format!("it has {has} partitions, and can only get more"))
        }
        TopicError::TooMany => {
            let reason = "the embedded broker holds no more partitions: delete topics";
            (Code::PolicyViolation, reason.to_owned())
        }
        TopicError::Storage(error) => {
            tracing::error!(%error, "a topic could not be made or removed");
            (Code::KafkaStorageError, error.to_string())
        }
    }
}
