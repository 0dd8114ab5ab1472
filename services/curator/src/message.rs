//! Decisions of curation as messages, and read back as effects.
use bytes::Bytes;
use tidegate_contracts::{ContentType, SourcePosition};
use tidegate_curation::{CuratedRecord, Raw, RejectedRecord, Side};
use tidegate_stream::{
    MAX_MESSAGE_BYTES, Message, Record, Topics,
    dead_letter::{SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC},
    rejected,
};

/// Offset of the late label in a curated record; it stood in the event's partition.
pub(crate) const LABEL_OFFSET: &str = "tidegate-label-offset";
/// How long a value was of which a dead letter holds only the beginning.
const TRUNCATED: &str = "tidegate-truncated-bytes";
/// What such a dead letter still holds.
const BEGINNING: usize = 1 << 20;
/// Reasons may quote what was sent.
const REASON: usize = 1 << 10;

/// The record as curation takes it. A record from the future is of now: its clock would let all
/// that waits in the join run out of time.
pub(crate) fn raw(record: Record) -> Raw {
    let position = record.position();
    let time = record.time.min(chrono::Utc::now());
    let Record { key, headers, value, .. } = record;
    Raw { position, time, headers, key, value }
}

/// For the curated topic.
pub(crate) fn curated_message(topics: &Topics, record: CuratedRecord) -> Message {
    let CuratedRecord { record, key, trace, label } = record;
    let SourcePosition { topic, partition, offset } = &record.source;
    let mut message = Message::new(&topics.curated, record.encode())
        .header("content-type", ContentType::Protobuf.as_str())
        .header(SOURCE_TOPIC, topic.clone())
        .header(SOURCE_PARTITION, partition.to_string())
        .header(SOURCE_OFFSET, offset.to_string());
    if let Some(label) = label {
        message = message.header(LABEL_OFFSET, label.position.offset.to_string());
    }
    message.key = key;
    message.headers.extend(trace);
    message
}

/// For the dead-letter topic: the bytes as they came, and why.
pub(crate) fn rejected_message(topics: &Topics, record: RejectedRecord) -> Message {
    let RejectedRecord { raw, stage, code, mut reason } = record;
    if reason.len() > REASON {
        reason.truncate(reason.floor_char_boundary(REASON));
        reason.push('…');
    }
    let Raw { position: SourcePosition { topic, partition, offset }, time, headers, key, value } =
        raw;
    let original = Record { topic, partition, offset, time, key, headers, value };
    let mut message = rejected(&topics.rejected, &original, stage.as_str(), code, &reason);
    let size = message.value.len() + message.key.as_ref().map_or(0, Bytes::len);
    if size > MAX_MESSAGE_BYTES {
        // The broker takes larger records than we write: it is this or no dead letter at all.
        let cut = |bytes: Bytes| bytes.slice(..bytes.len().min(BEGINNING));
        let whole = message.value.len().to_string();
        message.value = cut(message.value);
        message.key = message.key.map(cut);
        message = message.header(TRUNCATED, whole);
    }
    message
}

/// Which records of a lane an output record is the effect of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The event at this offset was curated, with the late label at that one.
    Curated(i64, Option<i64>),
    /// The record at this offset was rejected.
    Rejected(Side, i64),
}

/// The effect that a record of an output topic is, and on which partition's lane; `None` when it
/// is not from `topics`.
pub(crate) fn effect(topics: &Topics, record: &Record) -> Option<(i32, Effect)> {
    let text = |name: &str| std::str::from_utf8(record.header(name)?).ok();
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    let source = text(SOURCE_TOPIC)?;
    let side = if source == topics.events {
        Side::Events
    } else if source == topics.labels {
        Side::Labels
    } else {
        return None;
    };
    let partition = text(SOURCE_PARTITION)?.parse().ok()?;
    let offset = number(SOURCE_OFFSET)?;
    let effect = if record.topic == topics.curated {
        Effect::Curated(offset, number(LABEL_OFFSET))
    } else {
        Effect::Rejected(side, offset)
    };
    Some((partition, effect))
}

#[cfg(test)]
mod tests {
    use tidegate_contracts::{Offset, Partition};
    use tidegate_curation::StageName;

    use super::*;

    fn rejected_record(value: Vec<u8>, reason: &str) -> RejectedRecord {
        let position =
            SourcePosition { topic: "t.labels".into(), partition: Partition(2), offset: Offset(9) };
        let headers = vec![("theirs".to_owned(), Bytes::from_static(b"kept"))];
        let time = chrono::DateTime::UNIX_EPOCH;
        let raw = Raw { position, time, headers, key: None, value: value.into() };
        let reason = reason.to_owned();
        RejectedRecord { raw, stage: StageName::Join, code: "label_without_event", reason }
    }

    #[test]
    fn a_dead_letter_is_read_back_as_its_effect() {
        let topics = Topics::new("t");
        let message = rejected_message(&topics, rejected_record(b"bytes".to_vec(), "why"));
        let record = Record {
            topic: message.topic,
            partition: Partition(0),
            offset: Offset(1),
            time: chrono::DateTime::UNIX_EPOCH,
            key: None,
            headers: message.headers,
            value: message.value,
        };
        assert_eq!(effect(&topics, &record), Some((2, Effect::Rejected(Side::Labels, 9))));
        assert_eq!(record.header("theirs"), Some(&b"kept"[..]));
        assert_eq!(record.value, "bytes");
        assert_eq!(effect(&Topics::new("other"), &record), None);
    }

    #[test]
    fn a_dead_letter_that_is_too_large_for_the_stream_keeps_its_beginning() {
        let value = vec![b'a'; MAX_MESSAGE_BYTES + 1];
        let message =
            rejected_message(&Topics::new("t"), rejected_record(value, &"ä".repeat(4_000)));
        assert_eq!(message.value.len(), BEGINNING);
        assert!(message.headers.contains(&(TRUNCATED.into(), "16777217".into())));
        assert!(message.headers.iter().all(|(_, value)| value.len() < 2_000));
    }
}
