//! What is learnt from.
use std::collections::BTreeMap;

use tidegate_contracts::{Class, Curated, Domain, Event, EventId, Part, Producer, Split};
use tidegate_model::Input;

/// One labelled example.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The event it is from.
    pub id: EventId,
    /// What the model sees.
    pub input: Input,
    /// The class; without letters where there is none, and none is learnt.
    pub label: Class,
    /// Its share in the loss; finite and above 0.
    pub weight: f32,
    /// Where it comes from.
    pub domain: Domain,
    /// Fairness attributes; never an input.
    pub groups: BTreeMap<String, String>,
    /// Who says to have published it; never an input.
    pub producer: Option<Producer>,
}

impl Example {
    /// A labelled record of the training side; nothing of any other: held out, or without a label.
    #[must_use]
    pub fn from_curated(record: &Curated) -> Option<Self> {
        if record.split != Split::Train {
            return None;
        }
        let producer = record.producer.clone();
        Self::from_event(&record.event).map(|example| Self { producer, ..example })
    }

    /// A labelled event; nothing of any other. For who trains without a curator, and so
    /// holds nothing out.
    #[must_use]
    pub fn from_event(event: &Event) -> Option<Self> {
        Some(Self {
            id: event.id.clone(),
            input: Input::from_event(event),
            label: event.label.clone()?,
            weight: event.weight as f32,
            domain: event.domain.clone(),
            groups: event.groups.clone(),
            producer: None,
        })
    }

    /// An event with a text, labelled or not: what a job of next tokens learns from.
    #[must_use]
    pub fn of_text(event: &Event) -> Option<Self> {
        event.parts.iter().find(|part| matches!(part, Part::Text(_)))?;
        let mut event = event.clone();
        event.label.get_or_insert_with(|| Class::new(""));
        Self::from_event(&event)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use tidegate_contracts::{ContentType, Offset, Partition, SourcePosition};

    use super::*;

    fn record(json: &str, split: Split) -> Curated {
        let time = DateTime::UNIX_EPOCH;
        Curated {
            event: Event::decode(ContentType::Json, json.as_bytes(), time).unwrap(),
            split,
            labelled_at: Some(time),
            source: SourcePosition {
                topic: "events".to_owned(),
                partition: Partition(0),
                offset: Offset(0),
            },
            producer: None,
        }
    }

    #[test]
    fn only_what_is_labelled_and_of_the_training_side_is_an_example() {
        let labelled = r#"{"id":"a","parts":[{"text":"hi"}],"label":"x","weight":2}"#;
        let example = Example::from_curated(&record(labelled, Split::Train)).unwrap();
        assert_eq!((&*example.input.texts(), example.label.as_str()), ("hi", "x"));
        assert!((example.weight - 2.0).abs() < f32::EPSILON);
        assert_eq!(Example::from_curated(&record(labelled, Split::Eval)), None);
        let unlabelled = r#"{"id":"a","parts":[{"text":"hi"}]}"#;
        assert_eq!(Example::from_curated(&record(unlabelled, Split::Train)), None);
        let no_text =
            r#"{"id":"a","parts":[{"features":{"values":{"n":{"number":1}}}}],"label":"x"}"#;
        let example = Example::from_curated(&record(no_text, Split::Train)).unwrap();
        assert_eq!(example.input.parts[0].name(), "features");
    }
}
