//! A validated event, and the two wire forms it is read from.
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Class, Domain, EventId,
    proto::{self, v1},
};

/// The largest record that is read, in bytes of the Kafka value.
pub const MAX_RECORD_BYTES: usize = 8 << 20;

const MAX_NAME_BYTES: usize = 256;

/// Weights that an event may have: those that sums of f32 over many events can still hold.
const WEIGHTS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// How a Kafka value is encoded; the `content-type` header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentType {
    /// `application/json`; also when the header is absent.
    #[default]
    Json,
    /// `application/protobuf`.
    Protobuf,
}

impl ContentType {
    /// Reads the header's value; parameters after `;` are ignored.
    ///
    /// # Errors
    /// [`EventError::ContentType`] for any other type.
    pub fn from_header(value: &[u8]) -> Result<Self, EventError> {
        let text = String::from_utf8_lossy(value);
        match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "application/json" | "application/cloudevents+json" => Ok(Self::Json),
            "application/protobuf" | "application/x-protobuf" => Ok(Self::Protobuf),
            other => Err(EventError::ContentType(other.to_owned())),
        }
    }

    /// The header's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/protobuf",
        }
    }
}

/// Why bytes are no event. [`EventError::code`] goes into metrics and dead-letter headers.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// An encoding we do not read.
    #[error("content-type `{0}` is not known: use application/json or application/protobuf")]
    ContentType(String),
    /// Nothing there.
    #[error("the record is empty: an event was expected")]
    Empty,
    /// Over [`MAX_RECORD_BYTES`].
    #[error("the record has {size} bytes: at most {MAX_RECORD_BYTES} are read")]
    TooLarge {
        /// Bytes of the value.
        size: usize,
    },
    /// Not UTF-8.
    #[error("the record is not UTF-8 (first wrong byte at {at})")]
    NotUtf8 {
        /// Index of the first wrong byte.
        at: usize,
    },
    /// Not the JSON mapping, or not protobuf.
    #[error("the record cannot be decoded as {form}: {reason}")]
    Malformed {
        /// `json` or `protobuf`.
        form: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A field is missing or out of its range.
    #[error("field `{field}`: {reason}")]
    Field {
        /// Path of the field, e.g. `parts[0]`.
        field: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
}

impl EventError {
    /// A short stable name for counters and headers.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ContentType(_) => "content_type",
            Self::Empty => "empty",
            Self::TooLarge { .. } => "too_large",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::Malformed { .. } => "malformed",
            Self::Field { .. } => "invalid_field",
        }
    }
}

fn field(field: impl Into<String>, reason: impl Into<String>) -> EventError {
    EventError::Field { field: field.into(), reason: reason.into() }
}

/// One modality of an event. As JSON it is what it is on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "v1::Part", into = "v1::Part")]
pub enum Part {
    /// UTF-8 text; never empty.
    Text(String),
    /// PNG or JPEG bytes.
    Image(Vec<u8>),
    /// WAV bytes.
    Audio(Vec<u8>),
    /// Tabular values by name.
    Features(BTreeMap<String, FeatureValue>),
}

/// One tabular value.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureValue {
    /// Finite.
    Number(f64),
    /// A category.
    Category(String),
}

/// A validated event.
///
/// INVARIANT: `id` and `domain` are 1 to 256 bytes; `parts` is not empty; `weight` is 1e-6 to
/// 1e6; a label, when there, is 1 to 256 bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Unique within the domain.
    pub id: EventId,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// Where it comes from.
    pub domain: Domain,
    /// Fairness attributes; never an input of the model.
    pub groups: BTreeMap<String, String>,
    /// What the model sees.
    pub parts: Vec<Part>,
    /// The class, if known.
    pub label: Option<Class>,
    /// Weight in training.
    pub weight: f64,
}

impl Event {
    /// Reads and validates one event. `record_time` (of the Kafka record) stands in for a missing
    /// time.
    ///
    /// # Errors
    /// [`EventError`] says which field is wrong and what would be right.
    pub fn decode(
        form: ContentType,
        bytes: &[u8],
        record_time: DateTime<Utc>,
    ) -> Result<Self, EventError> {
        Self::from_proto(decode_message::<v1::Event>(form, bytes)?, record_time)
    }

    /// Reads the wire form without validating it, for who fills in fields before
    /// [`Event::from_proto`].
    ///
    /// # Errors
    /// [`EventError`] when the bytes are no such message, or over the limits of a record.
    pub fn decode_wire(form: ContentType, bytes: &[u8]) -> Result<v1::Event, EventError> {
        decode_message(form, bytes)
    }

    /// Validates the wire form.
    ///
    /// # Errors
    /// [`EventError::Field`] names the field.
    pub fn from_proto(wire: v1::Event, record_time: DateTime<Utc>) -> Result<Self, EventError> {
        let time = match wire.time {
            None => record_time,
            Some(time) => {
                proto::from_timestamp(&time).ok_or_else(|| field("time", "is out of range"))?
            }
        };
        let domain = if wire.domain.is_empty() { "default".to_owned() } else { wire.domain };
        for (name, value) in &wire.groups {
            checked("groups", name.clone())?;
            checked(&format!("groups[{name}]"), value.clone())?;
        }
        if wire.parts.is_empty() {
            return Err(field("parts", "is empty: at least one of text, image, audio, features"));
        }
        let parts = wire
            .parts
            .into_iter()
            .enumerate()
            .map(|(i, part)| Part::from_proto(i, part))
            .collect::<Result<_, _>>()?;
        let weight = wire.weight.unwrap_or(1.0);
        if !WEIGHTS.contains(&weight) {
            return Err(field("weight", format!("is {weight}: 0.000001 to 1000000 is possible")));
        }
        Ok(Self {
            id: EventId::new(checked("id", wire.id)?),
            time,
            domain: Domain::new(checked("domain", domain)?),
            groups: wire.groups.into_iter().collect(),
            parts,
            label: wire.label.map(|l| checked("label", l)).transpose()?.map(Class::new),
            weight,
        })
    }

    /// The wire form.
    #[must_use]
    pub fn to_proto(&self) -> v1::Event {
        v1::Event {
            id: self.id.to_string(),
            time: Some(proto::timestamp(self.time)),
            domain: self.domain.to_string(),
            groups: self.groups.clone().into_iter().collect(),
            parts: self.parts.iter().map(Part::to_proto).collect(),
            label: self.label.as_ref().map(ToString::to_string),
            weight: Some(self.weight),
        }
    }

    /// The bytes of the wire form.
    #[must_use]
    pub fn encode(&self, form: ContentType) -> Vec<u8> {
        encode_message(form, &self.to_proto())
    }

    /// All text parts, joined by a blank line.
    #[must_use]
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        texts.join("\n\n")
    }
}

impl From<Part> for v1::Part {
    fn from(part: Part) -> Self {
        part.to_proto()
    }
}

impl TryFrom<v1::Part> for Part {
    type Error = EventError;

    fn try_from(wire: v1::Part) -> Result<Self, EventError> {
        Self::from_proto(0, wire)
    }
}

impl Part {
    /// Its name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Image(_) => "image",
            Self::Audio(_) => "audio",
            Self::Features(_) => "features",
        }
    }

    /// How much it holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_value = |(name, value): (&String, &FeatureValue)| {
            name.len()
                + match value {
                    FeatureValue::Number(_) => size_of::<f64>(),
                    FeatureValue::Category(category) => category.len(),
                }
        };
        match self {
            Self::Text(text) => text.len(),
            Self::Image(bytes) | Self::Audio(bytes) => bytes.len(),
            Self::Features(values) => values.iter().map(of_value).sum(),
        }
    }

    fn from_proto(index: usize, wire: v1::Part) -> Result<Self, EventError> {
        use v1::{feature::Value, part::Content};
        let at = |name: &str| format!("parts[{index}].{name}");
        match wire.content {
            None => Err(field(
                format!("parts[{index}]"),
                "has no content: give one of text, image, audio, features",
            )),
            Some(Content::Text(text)) if text.trim().is_empty() => {
                Err(field(at("text"), "is blank"))
            }
            Some(Content::Text(text)) => Ok(Self::Text(text)),
            Some(Content::Image(bytes)) => {
                let png = bytes.starts_with(b"\x89PNG\r\n\x1a\n");
                if png || bytes.starts_with(&[0xff, 0xd8, 0xff]) {
                    Ok(Self::Image(bytes))
                } else {
                    Err(field(at("image"), "is neither PNG nor JPEG"))
                }
            }
            Some(Content::Audio(bytes)) => {
                if bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WAVE" {
                    Ok(Self::Audio(bytes))
                } else {
                    Err(field(at("audio"), "is not WAV"))
                }
            }
            Some(Content::Features(features)) => {
                let mut values = BTreeMap::new();
                for (name, feature) in features.values {
                    let value = match feature.value {
                        Some(Value::Number(n)) if n.is_finite() => FeatureValue::Number(n),
                        Some(Value::Category(c)) => FeatureValue::Category(c),
                        Some(Value::Number(n)) => {
                            return Err(field(at(&format!("features[{name}]")), format!("is {n}")));
                        }
                        None => {
                            let reason = "has no value: give number or category";
                            return Err(field(at(&format!("features[{name}]")), reason));
                        }
                    };
                    values.insert(name, value);
                }
                if values.is_empty() {
                    return Err(field(at("features"), "is empty"));
                }
                Ok(Self::Features(values))
            }
        }
    }

    fn to_proto(&self) -> v1::Part {
        use v1::{feature::Value, part::Content};
        let content = match self {
            Self::Text(text) => Content::Text(text.clone()),
            Self::Image(bytes) => Content::Image(bytes.clone()),
            Self::Audio(bytes) => Content::Audio(bytes.clone()),
            Self::Features(values) => Content::Features(v1::Features {
                values: values
                    .iter()
                    .map(|(name, value)| {
                        let value = match value {
                            FeatureValue::Number(n) => Value::Number(*n),
                            FeatureValue::Category(c) => Value::Category(c.clone()),
                        };
                        (name.clone(), v1::Feature { value: Some(value) })
                    })
                    .collect(),
            }),
        };
        v1::Part { content: Some(content) }
    }
}

/// Names are 1 to 256 bytes without control characters.
fn checked(name: &str, value: String) -> Result<String, EventError> {
    if value.is_empty() {
        return Err(field(name, "is missing or empty"));
    }
    if value.len() > MAX_NAME_BYTES {
        let size = value.len();
        return Err(field(name, format!("has {size} bytes: at most {MAX_NAME_BYTES} are allowed")));
    }
    if value.chars().any(char::is_control) {
        return Err(field(name, "has control characters"));
    }
    Ok(value)
}

/// Reads any message of `tidegate.v1` in either form, with the limits of a record.
pub(crate) fn decode_message<M>(form: ContentType, bytes: &[u8]) -> Result<M, EventError>
where
    M: prost::Message + Default + serde::de::DeserializeOwned,
{
    if bytes.is_empty() {
        return Err(EventError::Empty);
    }
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(EventError::TooLarge { size: bytes.len() });
    }
    match form {
        ContentType::Protobuf => M::decode(bytes)
            .map_err(|error| EventError::Malformed { form: "protobuf", reason: error.to_string() }),
        ContentType::Json => {
            let text = std::str::from_utf8(bytes)
                .map_err(|error| EventError::NotUtf8 { at: error.valid_up_to() })?;
            serde_json::from_str(text)
                .map_err(|error| EventError::Malformed { form: "json", reason: error.to_string() })
        }
    }
}

fn encode_message<M: prost::Message + serde::Serialize>(form: ContentType, wire: &M) -> Vec<u8> {
    match form {
        ContentType::Protobuf => wire.encode_to_vec(),
        ContentType::Json => {
            serde_json::to_vec(wire).expect("validated numbers are finite, so they are JSON")
        }
    }
}

/// A label that came on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct LateLabel {
    /// The event it belongs to.
    pub id: EventId,
    /// The class.
    pub label: Class,
    /// When it became known.
    pub time: DateTime<Utc>,
}

impl LateLabel {
    /// Reads and validates one record of the labels topic.
    ///
    /// # Errors
    /// [`EventError`] says which field is wrong and what would be right.
    pub fn decode(
        form: ContentType,
        bytes: &[u8],
        record_time: DateTime<Utc>,
    ) -> Result<Self, EventError> {
        let wire: v1::Label = decode_message(form, bytes)?;
        let time = match wire.time {
            None => record_time,
            Some(time) => {
                proto::from_timestamp(&time).ok_or_else(|| field("time", "is out of range"))?
            }
        };
        Ok(Self {
            id: EventId::new(checked("id", wire.id)?),
            label: Class::new(checked("label", wire.label)?),
            time,
        })
    }

    /// The bytes of the wire form.
    #[must_use]
    pub fn encode(&self, form: ContentType) -> Vec<u8> {
        let wire = v1::Label {
            id: self.id.to_string(),
            label: self.label.to_string(),
            time: Some(proto::timestamp(self.time)),
        };
        encode_message(form, &wire)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Result<Event, EventError> {
        Event::decode(ContentType::Json, text.as_bytes(), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn the_smallest_event_gets_its_defaults() {
        let event = json(r#"{"id":"a","parts":[{"text":"hi"}]}"#).unwrap();
        assert_eq!(event.domain.as_str(), "default");
        assert_eq!(event.time, DateTime::UNIX_EPOCH);
        assert!((event.weight - 1.0).abs() < f64::EPSILON);
        assert_eq!(event.label, None);
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, needle) in [
            (r#"{"parts":[{"text":"hi"}]}"#, "`id`"),
            (r#"{"id":"a"}"#, "`parts`"),
            (r#"{"id":"a","parts":[{}]}"#, "`parts[0]`"),
            (r#"{"id":"a","parts":[{"text":"  "}]}"#, "`parts[0].text`"),
            (r#"{"id":"a","parts":[{"image":"AAAA"}]}"#, "`parts[0].image`"),
            (r#"{"id":"a","parts":[{"text":"hi"}],"label":""}"#, "`label`"),
            (r#"{"id":"a","parts":[{"text":"hi"}],"weight":-1}"#, "`weight`"),
            (r#"{"id":"a","parts":[{"text":"hi"}],"weight":1e300}"#, "`weight`"),
            (r#"{"id":"a","parts":[{"text":"hi"}],"weight":1e-300}"#, "`weight`"),
            (r#"{"id":"a","parts":[{"text":"hi"}],"colour":1}"#, "colour"),
            (r#"{"id":7,"parts":[{"text":"hi"}]}"#, "json"),
            ("", "empty"),
        ] {
            let error = json(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_place() {
        let error = Event::decode(ContentType::Json, b"{\"id\":\"\xff\"}", DateTime::UNIX_EPOCH);
        assert!(matches!(error, Err(EventError::NotUtf8 { at: 7 })), "{error:?}");
    }

    proptest! {
        #[test]
        fn both_forms_read_back_what_they_wrote(
            id in "[a-z0-9-]{1,40}", text in "\\PC{1,200}", label in proptest::option::of("[a-z]{1,9}"),
            weight in 1e-3..1e3f64, seconds in 0i64..4_000_000_000,
        ) {
            prop_assume!(!text.trim().is_empty());
            let event = Event {
                id: EventId::new(id),
                time: DateTime::from_timestamp(seconds, 0).unwrap(),
                domain: Domain::new("mail"),
                groups: [("tld".to_owned(), "com".to_owned())].into(),
                parts: vec![
                    Part::Text(text),
                    Part::Features([("n".to_owned(), FeatureValue::Number(0.5))].into()),
                ],
                label: label.map(Class::new),
                weight,
            };
            for form in [ContentType::Json, ContentType::Protobuf] {
                let read = Event::decode(form, &event.encode(form), DateTime::UNIX_EPOCH);
                prop_assert_eq!(read.unwrap(), event.clone());
            }
        }

        #[test]
        fn no_bytes_bring_the_decoder_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for form in [ContentType::Json, ContentType::Protobuf] {
                let _ = Event::decode(form, &bytes, DateTime::UNIX_EPOCH);
                let _ = LateLabel::decode(form, &bytes, DateTime::UNIX_EPOCH);
            }
        }
    }
}
