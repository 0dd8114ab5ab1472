//! Restoring: the records that waited are read again from their topics.
use std::collections::BTreeSet;

use tidegate_contracts::Offset;

use crate::{
    join::Passed,
    pipeline::Pipeline,
    record::{Body, Raw, Side},
    validate::decode,
};

/// A pipeline whose waiting records are still to be brought.
pub struct Restoring {
    pipeline: Pipeline,
    events: BTreeSet<i64>,
    labels: BTreeSet<i64>,
}

impl Restoring {
    pub(crate) fn new(pipeline: Pipeline, [events, labels]: [Vec<i64>; 2]) -> Self {
        let (events, labels) = (events.into_iter().collect(), labels.into_iter().collect());
        Self { pipeline, events, labels }
    }

    /// The offsets to read of `side`, half open; `None` when nothing of it is missing.
    #[must_use]
    pub fn wanted(&self, side: Side) -> Option<(Offset, Offset)> {
        let wanted = self.of(side);
        Some((Offset(*wanted.first()?), Offset(*wanted.last()? + 1)))
    }

    /// Brings a record of that range; those that are not missing are passed over.
    pub fn supply(&mut self, side: Side, raw: Raw) {
        let offset = raw.position.offset.0;
        if !self.of(side).contains(&offset) {
            return;
        }
        let refilled = match (side, decode(&raw, side)) {
            (Side::Events, Ok((Body::Event(event), _))) => {
                let split = self.pipeline.holdout.split(&event);
                self.pipeline.join.refill_event(Passed::new(event, split, raw));
                self.events.remove(&offset)
            }
            (Side::Labels, Ok((Body::Label(label), _))) => {
                self.pipeline.join.refill_label(raw, label);
                self.labels.remove(&offset)
            }
            _ => false,
        };
        if !refilled {
            tracing::error!(position = %raw_position(side, offset), "a waiting record has changed");
        }
    }

    /// The pipeline as it was, and where records stood that nobody brought: the topics no longer
    /// hold them, so they are lost.
    #[must_use]
    pub fn finish(self) -> (Pipeline, Vec<(Side, Offset)>) {
        let of = |side, offsets: BTreeSet<i64>| offsets.into_iter().map(move |o| (side, Offset(o)));
        let lost = of(Side::Events, self.events).chain(of(Side::Labels, self.labels)).collect();
        (self.pipeline, lost)
    }

    fn of(&self, side: Side) -> &BTreeSet<i64> {
        match side {
            Side::Events => &self.events,
            Side::Labels => &self.labels,
        }
    }
}

fn raw_position(side: Side, offset: i64) -> String {
    format!("{side:?}@{offset}")
}
