//! What to connect to, and how the embedded broker keeps its data.
use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tidegate_contracts::config::Secret;

/// The largest record value that passes end to end, in bytes. Twice what curation accepts, so
/// that a record over curation's limit still reaches the dead-letter topic whole.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Where the stream is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// `host:port,...` of a Kafka cluster. None: the embedded broker.
    pub brokers: Option<String>,
    /// What every topic's name starts with.
    pub topic_prefix: String,
    /// Partitions of topics that we create.
    pub partitions: i32,
    /// Replicas of topics that we create.
    pub replication: i32,
    /// Further librdkafka properties, e.g. `sasl.username`. Those that our promises rest on
    /// (idempotence, commits, offset reset) cannot be changed.
    pub properties: BTreeMap<String, Secret>,
    /// The embedded broker.
    pub embedded: EmbeddedConfig,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            brokers: None,
            topic_prefix: "tidegate".into(),
            partitions: 1,
            replication: 1,
            properties: BTreeMap::new(),
            embedded: EmbeddedConfig::default(),
        }
    }
}

/// The embedded broker: one node, loopback only, no TLS and no access control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedConfig {
    /// Where it listens. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Partitions of a topic that a client brings into being by using it.
    pub default_partitions: i32,
    /// How often written data is forced to the disk, in milliseconds. A killed process loses
    /// nothing that was acknowledged; a power cut loses at most this much time.
    pub fsync_ms: u64,
    /// Bytes kept per partition; the oldest segments are dropped beyond it.
    pub retention_bytes: u64,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Clients that may be connected at once.
    pub max_connections: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9092)),
            default_partitions: 1,
            fsync_ms: 1_000,
            retention_bytes: 16 << 30,
            segment_bytes: 128 << 20,
            max_connections: 1_024,
        }
    }
}

/// The names of the six topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Raw events, from producers.
    pub events: String,
    /// Late labels, from producers.
    pub labels: String,
    /// What curation let through.
    pub curated: String,
    /// Dead letters: the original bytes, and why.
    pub rejected: String,
    /// A sample of what the gateway answered.
    pub predictions: String,
    /// The ledger, mirrored.
    pub decisions: String,
}

impl Topics {
    /// The six names under `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let name = |topic: &str| format!("{prefix}.{topic}");
        Self {
            events: name("events"),
            labels: name("labels"),
            curated: name("curated"),
            rejected: name("rejected"),
            predictions: name("predictions"),
            decisions: name("decisions"),
        }
    }

    /// All six.
    #[must_use]
    pub fn all(&self) -> [&str; 6] {
        [
            &self.events,
            &self.labels,
            &self.curated,
            &self.rejected,
            &self.predictions,
            &self.decisions,
        ]
    }
}
