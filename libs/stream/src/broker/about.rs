//! Who we are and what we can: versions, cluster, coordinator, producer ids.
use kafka_protocol::{
    ResponseError as Code,
    messages::{
        ApiKey, ApiVersionsResponse, DescribeClusterResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
        api_versions_response::ApiVersion, describe_cluster_response::DescribeClusterBroker,
        find_coordinator_response::Coordinator,
    },
    protocol::StrBytes,
};

use super::{
    node::{Caller, NODE, Node},
    shape,
};

/// "Operations are not told": there is no access control to tell of.
pub(crate) const NO_OPERATIONS: i32 = i32::MIN;
/// What a client that wants transactions is told.
const NO_TRANSACTIONS: &str = "the embedded broker has no transactions: set `stream.brokers` to a \
                               Kafka cluster, or go by event ids";

/// The requests that we take, and their versions.
pub(crate) fn api_versions() -> ApiVersionsResponse {
    let taken = ApiKey::iter().filter_map(|key| {
        let (first, last) = shape::versions(key)?;
        // Produce is taken from 3 on. Older releases of librdkafka compress only for brokers that
        // say 0, so Kafka 4 says it too (KAFKA-18659).
        let first = if key == ApiKey::Produce { 0 } else { first };
        let version = ApiVersion::default().with_api_key(key as i16);
        Some(version.with_min_version(first).with_max_version(last))
    });
    ApiVersionsResponse::default().with_api_keys(taken.collect())
}

impl Node {
    /// As a UUID in the form that Kafka gives its own.
    pub(crate) fn cluster_id(&self) -> StrBytes {
        StrBytes::from_string(self.storage.cluster().simple().to_string())
    }

    pub(crate) fn describe_cluster(&self) -> DescribeClusterResponse {
        let broker = DescribeClusterBroker::default().with_broker_id(NODE);
        DescribeClusterResponse::default()
            .with_cluster_id(self.cluster_id())
            .with_controller_id(NODE)
            .with_brokers(vec![broker.with_host(self.host()).with_port(self.port())])
            .with_cluster_authorized_operations(NO_OPERATIONS)
    }

    /// We coordinate every group, and no transaction.
    pub(crate) fn find_coordinator(
        &self,
        caller: &Caller,
        request: FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        let error = match request.key_type {
            0 => None,
            1 => {
                tracing::warn!(client = caller.client, "{NO_TRANSACTIONS}");
                Some((Code::TransactionalIdAuthorizationFailed, NO_TRANSACTIONS))
            }
            _ => Some((Code::InvalidRequest, "only groups are coordinated here")),
        };
        let code = error.map_or(0, |(code, _)| code.code());
        let message = error.map(|(_, message)| StrBytes::from_static_str(message));
        if caller.version >= 4 {
            let coordinator = |key| {
                let found = Coordinator::default().with_key(key).with_node_id(NODE);
                let found = found.with_host(self.host()).with_port(self.port());
                found.with_error_code(code).with_error_message(message.clone())
            };
            let keys = request.coordinator_keys.into_iter();
            return FindCoordinatorResponse::default()
                .with_coordinators(keys.map(coordinator).collect());
        }
        FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_error_message(message.filter(|_| caller.version >= 1))
            .with_node_id(NODE)
            .with_host(self.host())
            .with_port(self.port())
    }

    pub(crate) fn init_producer_id(
        &self,
        caller: &Caller,
        request: &InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        let answer = InitProducerIdResponse::default();
        let refused = |code: Code| {
            let none = ProducerId(-1);
            let answer = InitProducerIdResponse::default().with_error_code(code.code());
            answer.with_producer_id(none).with_producer_epoch(-1)
        };
        if request.transactional_id.is_some() {
            tracing::warn!(client = caller.client, "{NO_TRANSACTIONS}");
            return refused(Code::TransactionalIdAuthorizationFailed);
        }
        // A producer that is merely idempotent gets a new id where others would raise the epoch.
        match self.storage.producer_id() {
            Ok(id) => answer.with_producer_id(ProducerId(id)).with_producer_epoch(0),
            Err(error) => {
                tracing::error!(%error, "no producer id could be written down");
                refused(Code::KafkaStorageError)
            }
        }
    }
}
