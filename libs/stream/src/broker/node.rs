//! The one node: what all connections share, and which request is answered where.
use std::{net::SocketAddr, sync::Arc};

use kafka_protocol::{
    messages::{BrokerId, RequestKind, ResponseKind},
    protocol::StrBytes,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{groups::Groups, storage::Storage};
use crate::config::EmbeddedConfig;

/// Our number among brokers.
pub(crate) const NODE: BrokerId = BrokerId(1);
/// There was never another leader.
pub(crate) const LEADER_EPOCH: i32 = 0;
/// The largest request. Kafka's own default is 100 MiB; ours carries one message of the largest
/// size twice over.
pub(crate) const MAX_REQUEST: usize = 32 << 20;
/// KiB of large requests, and of fetched records, that may be in memory at the same time.
const ROOM_KIB: usize = 256 << 10;

/// Who asks.
pub(crate) struct Caller {
    pub(crate) client: String,
    pub(crate) host: String,
    pub(crate) version: i16,
}

/// What becomes of a request.
pub(crate) enum Reply {
    Answer(ResponseKind),
    /// An answer that holds room until it is sent.
    Large(ResponseKind, OwnedSemaphorePermit),
    /// The client asked for no answer.
    Nothing,
    /// The connection ends: the client asked for no answer and must be told something, or asked
    /// for what we do not have.
    Close(String),
}

impl<T: Into<ResponseKind>> From<T> for Reply {
    fn from(answer: T) -> Self {
        Self::Answer(answer.into())
    }
}

/// The node.
pub(crate) struct Node {
    pub(crate) config: EmbeddedConfig,
    /// Where clients reach us.
    pub(crate) addr: SocketAddr,
    pub(crate) storage: Arc<Storage>,
    pub(crate) groups: Groups,
    pub(crate) stop: CancellationToken,
    /// Room for large requests.
    pub(crate) requests: Arc<Semaphore>,
    /// Room for fetched records. Apart from the other, so that readers who are slow to take their
    /// answers do not keep writers out.
    pub(crate) fetches: Arc<Semaphore>,
}

impl Node {
    pub(crate) fn new(
        config: EmbeddedConfig,
        addr: SocketAddr,
        storage: Arc<Storage>,
        stop: CancellationToken,
    ) -> Self {
        let room = || Arc::new(Semaphore::new(ROOM_KIB));
        let (requests, fetches) = (room(), room());
        Self { config, addr, storage, groups: Groups::default(), stop, requests, fetches }
    }

    pub(crate) fn host(&self) -> StrBytes {
        StrBytes::from_string(self.addr.ip().to_string())
    }

    pub(crate) fn port(&self) -> i32 {
        i32::from(self.addr.port())
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, caller: &Caller, request: RequestKind) -> Reply {
        use RequestKind as Ask;
        match request {
            Ask::Produce(request) => self.produce(&request),
            Ask::Fetch(request) => self.fetch(caller, request).await,
            Ask::ListOffsets(request) => self.list_offsets(caller, request).into(),
            Ask::OffsetForLeaderEpoch(request) => self.leader_epochs(request).into(),
            Ask::DeleteRecords(request) => self.delete_records(request).into(),
            Ask::Metadata(request) => self.metadata(caller, request).into(),
            Ask::CreateTopics(request) => self.create_topics(request).into(),
            Ask::DeleteTopics(request) => self.delete_topics(caller, request).into(),
            Ask::CreatePartitions(request) => self.create_partitions(request).into(),
            Ask::DescribeConfigs(request) => self.describe_configs(request).into(),
            Ask::DescribeCluster(_) => self.describe_cluster().into(),
            Ask::ApiVersions(_) => super::about::api_versions().into(),
            Ask::InitProducerId(request) => self.init_producer_id(caller, &request).into(),
            Ask::FindCoordinator(request) => self.find_coordinator(caller, request).into(),
            Ask::JoinGroup(request) => self.join_group(caller, request).await.into(),
            Ask::SyncGroup(request) => self.sync_group(request).await.into(),
            Ask::Heartbeat(request) => self.heartbeat(&request).into(),
            Ask::LeaveGroup(request) => self.leave_group(caller, request).into(),
            Ask::OffsetCommit(request) => self.commit_offsets(request).into(),
            Ask::OffsetFetch(request) => self.fetch_offsets(caller, request).into(),
            Ask::DescribeGroups(request) => self.describe_groups(caller, request).into(),
            Ask::ListGroups(request) => self.list_groups(&request).into(),
            Ask::DeleteGroups(request) => self.delete_groups(request).into(),
            _ => Reply::Close("the embedded broker does not take this request".to_owned()),
        }
    }
}
