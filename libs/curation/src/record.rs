//! What goes in, what travels through the stages, what comes out.
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tidegate_contracts::{Curated, Event, LateLabel, Producer, SourcePosition, Split};

use crate::config::StageName;

/// The header by which a producer names itself; 1 to 256 bytes of UTF-8.
pub const PRODUCER: &str = "tidegate-producer";

/// A record as it was read, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Where it stands: the identity of every effect it has.
    pub position: SourcePosition,
    /// The record's own time.
    pub time: DateTime<Utc>,
    /// Its headers.
    pub headers: Vec<(String, Bytes)>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Bytes,
}

impl Raw {
    /// The last header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_ref())
    }

    /// Who says to have published it: our own header, else the CloudEvents source.
    #[must_use]
    pub fn producer(&self) -> Option<Producer> {
        let named = |header| self.header(header).and_then(Producer::from_header);
        named(PRODUCER).or_else(|| named("ce_source"))
    }

    /// Bytes it holds, nearly.
    pub(crate) fn size(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, Bytes::len) + 256
    }
}

/// Which of the two topics a record was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Events.
    Events,
    /// Late labels.
    Labels,
}

/// A record of either topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Of the events topic.
    Event(Raw),
    /// Of the labels topic.
    Label(Raw),
}

/// A record that passed.
#[derive(Debug, Clone, PartialEq)]
pub struct CuratedRecord {
    /// What goes onto the curated topic.
    pub record: Curated,
    /// The event's key.
    pub key: Option<Bytes>,
    /// The event's trace context (`traceparent`, `tracestate`).
    pub trace: Vec<(String, Bytes)>,
    /// The late label that is part of it, as it was read.
    pub label: Option<Raw>,
}

/// A record that did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRecord {
    /// The record as it came.
    pub raw: Raw,
    /// Who rejected it.
    pub stage: StageName,
    /// Why, as a short stable name.
    pub code: &'static str,
    /// Why, in words.
    pub reason: String,
}

/// What a pipeline has decided.
#[derive(Debug, Clone, PartialEq)]
pub enum Emit {
    /// For the curated topic.
    Curated(Box<CuratedRecord>),
    /// For the dead-letter topic.
    Rejected(RejectedRecord),
}

/// A record on its way through the stages.
pub(crate) struct Record {
    pub(crate) raw: Raw,
    pub(crate) body: Body,
    pub(crate) split: Option<Split>,
    normal: Option<String>,
}

/// What a record was found to be.
pub(crate) enum Body {
    Undecoded(Side),
    Event(Event),
    Label(LateLabel),
}

impl Record {
    pub(crate) fn new(incoming: Incoming) -> Self {
        let (raw, side) = match incoming {
            Incoming::Event(raw) => (raw, Side::Events),
            Incoming::Label(raw) => (raw, Side::Labels),
        };
        Self { raw, body: Body::Undecoded(side), split: None, normal: None }
    }

    /// The event, once it is decoded and if it is one.
    pub(crate) fn event(&self) -> Option<&Event> {
        match &self.body {
            Body::Event(event) => Some(event),
            Body::Undecoded(_) | Body::Label(_) => None,
        }
    }

    /// The event, and its text in lower case with every run of white space as one space. The text
    /// is made once.
    pub(crate) fn event_and_text(&mut self) -> Option<(&Event, &str)> {
        let Self { body: Body::Event(event), normal, .. } = self else { return None };
        let text = normal.get_or_insert_with(|| normalise(&event.text()));
        Some((event, text))
    }
}

pub(crate) fn normalise(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            gap = !normal.is_empty();
            continue;
        }
        if gap {
            normal.push(' ');
            gap = false;
        }
        if c.is_ascii() {
            normal.push(c.to_ascii_lowercase());
        } else {
            normal.extend(c.to_lowercase());
        }
    }
    normal
}

/// What a stage makes of a record.
pub(crate) enum Outcome {
    /// It passes as it is.
    Keep(Record),
    /// It passes, changed.
    Amend(Record),
    /// It ends here.
    Reject(Record, Rejection),
}

/// Why a record ends.
pub(crate) struct Rejection {
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

/// One step of the pipeline.
pub(crate) trait Stage: Send + Sync {
    /// Its name.
    fn name(&self) -> StageName;

    /// Whether labels pass it too, or only events.
    fn takes_labels(&self) -> bool {
        false
    }

    /// Decides about one record.
    fn apply(&mut self, record: Record) -> Outcome;

    /// Writes its state.
    fn save(&self, _to: &mut crate::snapshot::Writer) {}

    /// Takes the state that [`Stage::save`] wrote.
    fn load(
        &mut self,
        _from: &mut crate::snapshot::Reader<'_>,
    ) -> Result<(), crate::config::CurationError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_white_space_make_no_difference() {
        assert_eq!(normalise("  Free\r\n\tTICKETS  Über  "), "free tickets über");
    }
}
