//! The configuration of topics: what may be set, and what it means for the logs.
//!
//! What we do not honour is refused, so that nobody relies on it.
use std::collections::BTreeMap;

use super::{node::MAX_REQUEST, storage::LogOptions};
use crate::config::{EmbeddedConfig, MAX_MESSAGE_BYTES};

/// Room in a request beside its one batch, and in a batch beside its one message.
const FRAMING: usize = 64 << 10;

/// One property of a topic.
pub(crate) struct Property {
    pub(crate) name: &'static str,
    takes: Takes,
}

enum Takes {
    /// This value alone: what it asks for is how things are.
    Only(&'static str),
    /// An integer from the first to the second.
    Between(i64, i64),
}

/// All that may be set. Sorted as Kafka lists them.
pub(crate) const PROPERTIES: [Property; 8] = [
    Property { name: "cleanup.policy", takes: Takes::Only("delete") },
    Property { name: "compression.type", takes: Takes::Only("producer") },
    Property {
        name: "max.message.bytes",
        takes: Takes::Between(1, (MAX_REQUEST - FRAMING) as i64),
    },
    Property { name: "message.timestamp.type", takes: Takes::Only("CreateTime") },
    Property { name: "min.insync.replicas", takes: Takes::Only("1") },
    Property { name: "retention.bytes", takes: Takes::Between(-1, i64::MAX) },
    Property { name: "retention.ms", takes: Takes::Between(-1, i64::MAX) },
    Property { name: "segment.bytes", takes: Takes::Between(1 << 10, 1 << 31) },
];

/// Why a property cannot be set so.
pub(crate) fn check(name: &str, value: Option<&str>) -> Result<(), String> {
    let Some(property) = PROPERTIES.iter().find(|property| property.name == name) else {
        let known: Vec<&str> = PROPERTIES.iter().map(|property| property.name).collect();
        let known = known.join(", ");
        return Err(format!("the embedded broker does not honour `{name}` (but {known})"));
    };
    let value = value.unwrap_or_default();
    match property.takes {
        Takes::Only(only) if value == only => Ok(()),
        Takes::Only(only) => Err(format!(
            "`{name}` is always `{only}` on the embedded broker, not `{value}` (set \
             `stream.brokers` to a Kafka cluster for more)"
        )),
        Takes::Between(from, to) => match value.parse::<i64>() {
            Ok(number) if (from..=to).contains(&number) => Ok(()),
            _ => Err(format!("`{name}` is an integer from {from} to {to}, not `{value}`")),
        },
    }
}

/// What a property of a topic is: as it was set, or the broker's default.
pub(crate) fn value(
    broker: &EmbeddedConfig,
    topic: &BTreeMap<String, String>,
    property: &Property,
) -> String {
    if let Some(set) = topic.get(property.name) {
        return set.clone();
    }
    match (property.name, &property.takes) {
        (_, Takes::Only(only)) => (*only).to_owned(),
        ("max.message.bytes", _) => (MAX_MESSAGE_BYTES + FRAMING).to_string(),
        ("retention.bytes", _) => broker.retention_bytes.to_string(),
        ("segment.bytes", _) => broker.segment_bytes.to_string(),
        _ => "-1".to_owned(),
    }
}

/// How the logs of a topic of this configuration are kept.
pub(crate) fn options(broker: &EmbeddedConfig, topic: &BTreeMap<String, String>) -> LogOptions {
    // -1 is for ever.
    let number = |name: &str| topic.get(name).and_then(|set| set.parse::<i64>().ok());
    let bytes = |set: i64| u64::try_from(set).unwrap_or(u64::MAX);
    let largest = number("max.message.bytes").and_then(|set| usize::try_from(set).ok());
    LogOptions {
        segment_bytes: number("segment.bytes").map_or(broker.segment_bytes, bytes),
        retention_bytes: number("retention.bytes").map_or(broker.retention_bytes, bytes),
        retention_ms: number("retention.ms").and_then(|set| u64::try_from(set).ok()),
        max_message_bytes: largest.unwrap_or(MAX_MESSAGE_BYTES + FRAMING),
        sync_always: broker.fsync_ms == 0,
    }
}
