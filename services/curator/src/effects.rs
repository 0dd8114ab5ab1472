//! Which records of a lane have had their effect already, when a lane is opened again.
use std::{
    collections::{BTreeMap, HashSet},
    ops::ControlFlow,
};

use tidegate_contracts::{Offset, Partition, Window};
use tidegate_curation::{CuratedRecord, Emit, Raw, RejectedRecord, Side, StageName};
use tidegate_stream::{Message, Stream, StreamError, Topics};

use crate::{
    checkpoint::{Ends, Outputs},
    message::{Effect, curated_message, effect, rejected_message},
};

/// Offsets of records whose effect was found on the output topics.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    events: HashSet<i64>,
    joined_labels: HashSet<i64>,
    rejected_labels: HashSet<i64>,
}

impl Effects {
    /// Reads the output topics from `since` to their ends, and says where those are. `highs` are
    /// the ends of the lane's own topics: effects of records beyond them are of a log that was
    /// lost, and say nothing about the records that come now.
    pub(crate) async fn find(
        stream: &Stream,
        lane: Partition,
        since: &Outputs,
        highs: (Offset, Offset),
    ) -> Result<(Self, Outputs), StreamError> {
        let topics = stream.topics();
        let mut effects = Self::default();
        let mut ends = Outputs::default();
        for (topic, since, end) in [
            (&topics.curated, &since.curated, &mut ends.curated),
            (&topics.rejected, &since.rejected, &mut ends.rejected),
        ] {
            let window = rest_of(stream, topic, since).await?;
            *end = window.watermark();
            stream
                .read_each(&window, |record| {
                    if let Some((partition, effect)) = effect(topics, &record)
                        && partition == lane.0
                    {
                        effects.add(effect);
                    }
                    ControlFlow::Continue(())
                })
                .await?;
        }
        effects.events.retain(|&offset| offset < highs.0.0);
        effects.joined_labels.retain(|&offset| offset < highs.1.0);
        effects.rejected_labels.retain(|&offset| offset < highs.1.0);
        Ok((effects, ends))
    }

    /// Of events, labels that were joined and labels that were rejected.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [&self.events, &self.joined_labels, &self.rejected_labels].map(HashSet::len)
    }

    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Curated(event, label) => {
                self.events.insert(event);
                self.joined_labels.extend(label);
            }
            Effect::Rejected(Side::Events, event) => {
                self.events.insert(event);
            }
            Effect::Rejected(Side::Labels, label) => {
                self.rejected_labels.insert(label);
            }
        }
    }

    /// Whether a label was rejected: it left no trace in the state, so it is passed over.
    pub(crate) fn was_rejected(&self, label: Offset) -> bool {
        self.rejected_labels.contains(&label.0)
    }

    /// The same, and it is dealt with now.
    pub(crate) fn pass_over(&mut self, label: Offset) -> bool {
        self.rejected_labels.remove(&label.0)
    }

    /// Whether records are still to come that have had their effect.
    pub(crate) fn are_pending(&self) -> bool {
        self.counts() != [0; 3]
    }

    /// The message for a decision, if it has not been written before.
    pub(crate) fn message(&mut self, topics: &Topics, emit: Emit) -> Option<Message> {
        match emit {
            Emit::Curated(record) => self.curated(topics, *record),
            Emit::Rejected(record) => {
                let RejectedRecord { raw: Raw { position, .. }, .. } = &record;
                let offset = &position.offset.0;
                let had = if position.topic == topics.events {
                    self.events.remove(offset)
                } else {
                    self.joined_labels.remove(offset) || self.rejected_labels.remove(offset)
                };
                (!had).then(|| rejected_message(topics, record))
            }
        }
    }

    fn curated(&mut self, topics: &Topics, record: CuratedRecord) -> Option<Message> {
        if !self.events.remove(&record.record.source.offset.0) {
            return Some(curated_message(topics, record));
        }
        // The event went out before. Its label has had its effect with it, or was rejected as too
        // late, or has come since: then it is too late now.
        let raw = record.label?;
        let offset = &raw.position.offset.0;
        if self.joined_labels.remove(offset) || self.rejected_labels.remove(offset) {
            return None;
        }
        let reason = format!("event `{}` went on without its label", record.record.event.id);
        let late = RejectedRecord { raw, stage: StageName::Join, code: "label_too_late", reason };
        Some(rejected_message(topics, late))
    }
}

/// From `since` to the end of what is there; partitions it does not name from their beginning.
async fn rest_of(stream: &Stream, topic: &str, since: &Ends) -> Result<Window, StreamError> {
    let ranges: BTreeMap<Partition, (Offset, Offset)> = stream
        .watermarks(topic)
        .await?
        .into_iter()
        .map(|(partition, (low, high))| {
            let from = since.get(&partition).copied().unwrap_or(low).max(low).min(high);
            (partition, (from, high))
        })
        .collect();
    Ok(Window::new(topic, ranges).expect("`from` is at most `high`"))
}
