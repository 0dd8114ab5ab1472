//! What can go wrong on the stream, and which of it heals by waiting.
use std::{net::SocketAddr, path::PathBuf};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tidegate_contracts::{Offset, Partition};

/// Why the stream could not do it. What heals by waiting is waited for and is no error.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The client could not be made from the configuration.
    #[error("kafka client cannot be made: {0} (check `stream.brokers` and `stream.properties`)")]
    Config(String),
    /// No such topic.
    #[error("topic {topic} does not exist on {brokers} (create it, or check `topic_prefix`)")]
    UnknownTopic {
        /// The topic.
        topic: String,
        /// Where it was looked for.
        brokers: String,
    },
    /// Over what the stream carries.
    #[error("a message of {size} bytes for {topic} is over what the broker takes (ours: {limit})")]
    TooLarge {
        /// The topic.
        topic: String,
        /// Bytes of key and value.
        size: usize,
        /// The limit of this side.
        limit: usize,
    },
    /// The offsets asked for are not in the log.
    #[error(
        "{topic}[{partition}] holds {low}..{high}, and {from}..{to} was asked for (retention \
         dropped records, or this is another log than the one the offsets came from)"
    )]
    OffsetGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: Partition,
        /// First offset asked for.
        from: Offset,
        /// Offset after the last one asked for.
        to: Offset,
        /// First offset there is.
        low: Offset,
        /// Offset after the last one there is.
        high: Offset,
    },
    /// The group gave the partition to another member in the meantime.
    #[error("offsets of group {group} were not committed: {reason} (the partitions have moved on)")]
    NotAssigned {
        /// The group.
        group: String,
        /// What the broker said.
        reason: String,
    },
    /// The reader ended after an error that was already reported.
    #[error("the source is closed: it ended with an error before")]
    Closed,
    /// Anything else that Kafka said and that waiting does not heal.
    #[error("kafka refused to {action}: {source}")]
    Kafka {
        /// What was tried.
        action: String,
        /// What Kafka said.
        source: Box<KafkaError>,
    },
    /// The embedded broker has neither TLS nor access control.
    #[error(
        "refusing to open the embedded broker on {0}: it has no access control, so only loopback \
         is allowed (run a Kafka cluster and set `stream.brokers` to serve other machines)"
    )]
    Exposed(SocketAddr),
    /// The address is taken, or not ours.
    #[error("embedded broker cannot listen on {addr}: {source} (choose another address)")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the embedded broker cannot be read or written.
    #[error("embedded broker cannot use {path}: {source}")]
    Storage {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has the folder.
    #[error("embedded broker's folder {0} is in use by another process (stop it, or use another)")]
    InUse(PathBuf),
    /// The embedded broker's catalogue cannot be used.
    #[error(
        "embedded broker's catalogue {path}: {reason} (restore it from a backup, or move the \
         folder away to start with an empty one)"
    )]
    Catalog {
        /// The file.
        path: PathBuf,
        /// What the store said.
        reason: String,
    },
}

impl StreamError {
    pub(crate) fn kafka(action: impl Into<String>, source: KafkaError) -> Self {
        Self::Kafka { action: action.into(), source: Box::new(source) }
    }
}

/// Whether waiting may heal it: the broker is away, moving, or busy.
pub(crate) fn heals(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::MessageTimedOut
                | Code::Resolve
                | Code::NodeUpdate
                | Code::Retry
                | Code::WaitingForCoordinator
                | Code::RequestTimedOut
                | Code::BrokerNotAvailable
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::ReplicaNotAvailable
                | Code::NetworkException
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::NotEnoughReplicas
                | Code::NotEnoughReplicasAfterAppend
                | Code::KafkaStorageError
                | Code::NotController
                | Code::UnknownLeaderEpoch
                | Code::FencedLeaderEpoch
        )
    })
}
