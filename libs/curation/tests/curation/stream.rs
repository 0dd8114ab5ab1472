//! Small streams for the tests: records with a place and a time.
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tidegate_contracts::{Offset, Partition, SourcePosition};
use tidegate_curation::{
    CuratedRecord, CurationConfig, Emit, Incoming, Pipeline, Raw, RejectedRecord,
};

/// Second `s` of the test's time.
pub(crate) fn at(s: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000_000 + s)
}

pub(crate) fn raw(topic: &str, offset: i64, second: i64, value: impl Into<Bytes>) -> Raw {
    Raw {
        position: SourcePosition {
            topic: format!("t.{topic}"),
            partition: Partition(0),
            offset: Offset(offset),
        },
        time: at(second),
        headers: vec![],
        key: Some(Bytes::from_static(b"k")),
        value: value.into(),
    }
}

/// An event at `offset`, published at that second.
pub(crate) fn event(offset: i64, id: &str, text: &str, label: Option<&str>) -> Incoming {
    let mut value = json!({"id": id, "parts": [{"text": text}]});
    if let Some(label) = label {
        value["label"] = label.into();
    }
    Incoming::Event(raw("events", offset, offset, value.to_string()))
}

/// A label at `offset`, published at that second.
pub(crate) fn label(offset: i64, id: &str, class: &str) -> Incoming {
    let value = json!({"id": id, "label": class}).to_string();
    Incoming::Label(raw("labels", offset, offset, value))
}

pub(crate) fn pipeline() -> Pipeline {
    Pipeline::new(&CurationConfig::default()).unwrap()
}

pub(crate) fn curated(emits: Vec<Emit>) -> CuratedRecord {
    match <[Emit; 1]>::try_from(emits) {
        Ok([Emit::Curated(record)]) => *record,
        other => panic!("one curated record was expected, not {other:?}"),
    }
}

pub(crate) fn rejected(emits: Vec<Emit>) -> RejectedRecord {
    match <[Emit; 1]>::try_from(emits) {
        Ok([Emit::Rejected(record)]) => record,
        other => panic!("one rejected record was expected, not {other:?}"),
    }
}
