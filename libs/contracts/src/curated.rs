//! A clean event, as it stands on the curated topic.
use chrono::{DateTime, Utc};
use prost::Message as _;

use crate::{
    Event, EventError, Offset, Partition, Producer, SourcePosition, Split,
    proto::{self, v1},
};

/// What curation lets through, and all that a job or an evaluation reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Curated {
    /// The event, with its label once that is known.
    pub event: Event,
    /// Which side of the hold-out it fell on.
    pub split: Split,
    /// When its label was published; `None` without a label. Freshness is measured from here.
    pub labelled_at: Option<DateTime<Utc>>,
    /// Where the event stood: the identity of the effect.
    pub source: SourcePosition,
    /// Who says to have published it, or its late label where that names somebody. A claim: the
    /// broker's access rules are what makes it more.
    pub producer: Option<Producer>,
}

impl Curated {
    /// The bytes of the wire form, protobuf.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let split = match self.split {
            Split::Train => v1::Split::Train,
            Split::Eval => v1::Split::Eval,
        };
        let wire = v1::Curated {
            event: Some(self.event.to_proto()),
            split: split.into(),
            labelled_at: self.labelled_at.map(proto::timestamp),
            source: Some(v1::SourcePosition {
                topic: self.source.topic.clone(),
                partition: self.source.partition.0,
                offset: self.source.offset.0,
            }),
            producer: self.producer.as_ref().map(ToString::to_string),
        };
        wire.encode_to_vec()
    }

    /// Reads what [`Curated::encode`] wrote.
    ///
    /// # Errors
    /// [`EventError`] names the field that is missing or wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, EventError> {
        if bytes.is_empty() {
            return Err(EventError::Empty);
        }
        let wire = v1::Curated::decode(bytes).map_err(|error| EventError::Malformed {
            form: "protobuf",
            reason: error.to_string(),
        })?;
        let missing = |field: &str| EventError::Field {
            field: field.to_owned(),
            reason: "is missing: the record was not written by curation".to_owned(),
        };
        let split = match wire.split() {
            v1::Split::Train => Split::Train,
            v1::Split::Eval => Split::Eval,
            // Never guessed: an evaluation record taken for a training record is a leak.
            v1::Split::Unspecified => return Err(missing("split")),
        };
        let labelled_at = match wire.labelled_at {
            None => None,
            Some(time) => Some(proto::from_timestamp(&time).ok_or_else(|| EventError::Field {
                field: "labelled_at".to_owned(),
                reason: "is out of range".to_owned(),
            })?),
        };
        let event = wire.event.ok_or_else(|| missing("event"))?;
        if event.time.is_none() {
            return Err(missing("event.time"));
        }
        let source = wire.source.ok_or_else(|| missing("source"))?;
        Ok(Self {
            event: Event::from_proto(event, DateTime::UNIX_EPOCH)?,
            split,
            labelled_at,
            source: SourcePosition {
                topic: source.topic,
                partition: Partition(source.partition),
                offset: Offset(source.offset),
            },
            producer: wire.producer.and_then(|name| Producer::from_header(name.as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ContentType;

    fn curated() -> Curated {
        let json = br#"{"id":"a","parts":[{"text":"hi"}],"label":"ham"}"#;
        Curated {
            event: Event::decode(ContentType::Json, json, DateTime::UNIX_EPOCH).unwrap(),
            split: Split::Eval,
            labelled_at: DateTime::from_timestamp(9, 7),
            source: SourcePosition {
                topic: "t.events".into(),
                partition: Partition(3),
                offset: Offset(41),
            },
            producer: None,
        }
    }

    #[test]
    fn a_curated_record_reads_back_what_it_wrote() {
        for labelled_at in [None, DateTime::from_timestamp(9, 7)] {
            let record = Curated { labelled_at, ..curated() };
            assert_eq!(Curated::decode(&record.encode()).unwrap(), record);
            let named = Curated { producer: Some(Producer::new("shop-7")), ..record.clone() };
            assert_eq!(Curated::decode(&named.encode()).unwrap(), named);
            assert!(
                named.encode().starts_with(&record.encode()),
                "the name stands behind the rest"
            );
        }
    }

    #[test]
    fn a_record_without_a_side_is_refused_not_guessed() {
        let mut wire = v1::Curated::decode(curated().encode().as_slice()).unwrap();
        wire.split = 0;
        let error = Curated::decode(&wire.encode_to_vec()).unwrap_err().to_string();
        assert!(error.contains("`split`"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Curated::decode(&bytes);
        }
    }
}
