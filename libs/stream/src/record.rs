//! Records as they are read, messages as they are written, and dead letters.
use bytes::Bytes;
use chrono::{DateTime, Utc};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tidegate_contracts::{Offset, Partition, SourcePosition};

/// Names and values, in order; a name may come twice.
pub type Headers = Vec<(String, Bytes)>;

/// One record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// When it was produced, as the record says; the epoch when it says nothing.
    pub time: DateTime<Utc>,
    /// The key.
    pub key: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// The value; empty when the record has none.
    pub value: Bytes,
}

impl Record {
    /// The last header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_ref())
    }

    /// Where it stands: the identity of every effect it has.
    #[must_use]
    pub fn position(&self) -> SourcePosition {
        SourcePosition { topic: self.topic.clone(), partition: self.partition, offset: self.offset }
    }

    /// Bytes it holds in memory, nearly.
    pub(crate) fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        128 + self.value.len() + self.key.as_ref().map_or(0, Bytes::len) + headers
    }

    pub(crate) fn from_kafka(message: &BorrowedMessage<'_>) -> Self {
        let bytes = |b: &[u8]| Bytes::copy_from_slice(b);
        let headers = message.headers().map(|headers| {
            let pair = |h: rdkafka::message::Header<'_, &[u8]>| {
                (h.key.to_owned(), h.value.map(bytes).unwrap_or_default())
            };
            headers.iter().map(pair).collect()
        });
        Self {
            topic: message.topic().to_owned(),
            partition: Partition(message.partition()),
            offset: Offset(message.offset()),
            time: message
                .timestamp()
                .to_millis()
                .and_then(DateTime::from_timestamp_millis)
                .unwrap_or_default(),
            key: message.key().map(bytes),
            headers: headers.unwrap_or_default(),
            value: message.payload().map(bytes).unwrap_or_default(),
        }
    }
}

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// The partition; None: by the key's hash (as Kafka's own clients do), or any without a key.
    pub partition: Option<Partition>,
    /// The key.
    pub key: Option<Bytes>,
    /// The headers. `traceparent` of the current span is added when it is not there.
    pub headers: Headers,
    /// The value.
    pub value: Bytes,
}

impl Message {
    /// A message with neither key nor headers.
    #[must_use]
    pub fn new(topic: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            headers: Vec::new(),
            value: value.into(),
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Header names of a dead letter.
pub mod dead_letter {
    /// Why, in words.
    pub const REASON: &str = "tidegate-reason";
    /// The stage that rejected it.
    pub const STAGE: &str = "tidegate-stage";
    /// Why, as a short stable name.
    pub const CODE: &str = "tidegate-code";
    /// The topic it was read from.
    pub const SOURCE_TOPIC: &str = "tidegate-source-topic";
    /// The partition it was read from.
    pub const SOURCE_PARTITION: &str = "tidegate-source-partition";
    /// The offset it was read at.
    pub const SOURCE_OFFSET: &str = "tidegate-source-offset";
}

/// The dead letter of `record` for topic `to`: key, value and headers as they came, and why it was
/// rejected and where it stood.
#[must_use]
pub fn rejected(to: &str, record: &Record, stage: &str, code: &str, reason: &str) -> Message {
    use dead_letter::{CODE, REASON, SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC, STAGE};
    let why = [
        (REASON, reason.to_owned()),
        (STAGE, stage.to_owned()),
        (CODE, code.to_owned()),
        (SOURCE_TOPIC, record.topic.clone()),
        (SOURCE_PARTITION, record.partition.to_string()),
        (SOURCE_OFFSET, record.offset.to_string()),
    ];
    let theirs = record.headers.iter().filter(|(name, _)| !why.iter().any(|(w, _)| w == name));
    let ours = why.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from(value.clone())));
    Message {
        topic: to.to_owned(),
        partition: None,
        key: record.key.clone(),
        headers: theirs.cloned().chain(ours).collect(),
        value: record.value.clone(),
    }
}
