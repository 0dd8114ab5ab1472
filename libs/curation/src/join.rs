//! The late-label join: an event and its label meet, whichever comes first.
//!
//! An event without a label waits for it, and goes on without it when the label topic has passed
//! the horizon or when there is no room; a label that comes first waits likewise, and is rejected
//! when its event never comes. A label names only the id of its event, so ids are to be unique
//! over all domains that use late labels; of two waiting events with one id the older is meant.
//!
//! INVARIANT: one partition of each topic passes through one join, so offsets name records.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{Curated, Event, EventId, LateLabel, Producer, SourcePosition, Split};

use crate::{
    config::{CurationError, JoinConfig, StageName},
    exact::key,
    record::{CuratedRecord, Emit, Raw, RejectedRecord, Side},
    snapshot::{Reader, Writer},
};

/// What became of the event of an id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Labelled = 1,
    Unlabelled = 2,
    Rejected = 3,
}

/// An event that passed all other stages.
pub(crate) struct Passed {
    pub(crate) event: Event,
    pub(crate) split: Split,
    pub(crate) position: SourcePosition,
    pub(crate) time: DateTime<Utc>,
    pub(crate) key: Option<Bytes>,
    pub(crate) trace: Vec<(String, Bytes)>,
    pub(crate) producer: Option<Producer>,
    pub(crate) bytes: usize,
}

impl Passed {
    pub(crate) fn new(event: Event, split: Split, raw: Raw) -> Self {
        let (bytes, producer) = (raw.size(), raw.producer());
        let is_trace = |name: &str| matches!(name, "traceparent" | "tracestate");
        let trace = raw.headers.into_iter().filter(|(name, _)| is_trace(name)).collect();
        let Raw { position, time, key, .. } = raw;
        Self { event, split, position, time, key, trace, producer, bytes }
    }

    fn curated(self, labelled_at: Option<DateTime<Utc>>, label: Option<Raw>) -> Emit {
        let Self { event, split, position, key, trace, .. } = self;
        // Who gave the label is who can lie with it.
        let producer = label.as_ref().and_then(Raw::producer).or(self.producer);
        let record = Curated { event, split, labelled_at, source: position, producer };
        Emit::Curated(Box::new(CuratedRecord { record, key, trace, label }))
    }
}

/// What the join did with a record, for the counters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    /// An event went on as it was.
    Kept,
    /// An event got its label.
    Amended,
    /// A label was rejected.
    Rejected,
}

/// What the join lets go of.
#[derive(Default)]
pub(crate) struct Released {
    pub(crate) emits: Vec<Emit>,
    pub(crate) did: Vec<Joined>,
}

impl Released {
    fn add(&mut self, did: Joined, emit: Emit) {
        self.did.push(did);
        self.emits.push(emit);
    }

    fn reject(&mut self, raw: Raw, code: &'static str, reason: String) {
        let rejected = RejectedRecord { raw, stage: StageName::Join, code, reason };
        self.add(Joined::Rejected, Emit::Rejected(rejected));
    }
}

pub(crate) struct Join {
    horizon: TimeDelta,
    capacity: usize,
    max_bytes: usize,
    /// By offset, so oldest first.
    events: BTreeMap<i64, Passed>,
    events_by_id: BTreeSet<(u128, i64)>,
    labels: BTreeMap<i64, (Raw, LateLabel)>,
    labels_by_id: HashMap<u128, i64>,
    bytes: usize,
    settled: HashMap<u128, Fate>,
    /// Oldest first.
    settled_order: VecDeque<u128>,
    /// The newest record time of each topic.
    events_clock: DateTime<Utc>,
    labels_clock: DateTime<Utc>,
}

fn id_key(id: &EventId) -> u128 {
    key([id.as_str().as_bytes()])
}

impl Join {
    pub(crate) fn new(config: &JoinConfig) -> Self {
        let horizon = i64::try_from(config.horizon_s).ok().and_then(TimeDelta::try_seconds);
        Self {
            horizon: horizon.unwrap_or(TimeDelta::MAX),
            capacity: config.capacity,
            max_bytes: config.max_bytes,
            events: BTreeMap::new(),
            events_by_id: BTreeSet::new(),
            labels: BTreeMap::new(),
            labels_by_id: HashMap::new(),
            bytes: 0,
            settled: HashMap::new(),
            settled_order: VecDeque::new(),
            events_clock: DateTime::<Utc>::MIN_UTC,
            labels_clock: DateTime::<Utc>::MIN_UTC,
        }
    }

    /// An event that passed.
    pub(crate) fn event(&mut self, passed: Passed, out: &mut Released) {
        let id = id_key(&passed.event.id);
        self.events_clock = self.events_clock.max(passed.time);
        let label = self.take_label(id);
        if passed.event.label.is_some() {
            let at = passed.time;
            self.settle(id, Fate::Labelled);
            out.add(Joined::Kept, passed.curated(Some(at), None));
            if let Some((raw, label)) = label {
                let reason = format!("event `{}` came with a label of its own", label.id);
                out.reject(raw, "duplicate_label", reason);
            }
        } else if let Some((raw, label)) = label {
            self.pair(id, passed, raw, label, out);
        } else {
            self.hold_event(id, passed);
        }
        self.release(out);
    }

    /// A label.
    pub(crate) fn label(&mut self, raw: Raw, label: LateLabel, out: &mut Released) {
        let id = id_key(&label.id);
        self.labels_clock = self.labels_clock.max(raw.time);
        if let Some(event) = self.take_event(id) {
            self.pair(id, event, raw, label, out);
        } else if let Some((code, reason)) = self.refusal(id, &label.id) {
            out.reject(raw, code, reason);
        } else {
            self.hold_label(id, raw, label);
        }
        self.release(out);
    }

    /// An event that another stage rejected: its label need not wait for it.
    pub(crate) fn rejected(&mut self, event: &Event, time: DateTime<Utc>, out: &mut Released) {
        self.events_clock = self.events_clock.max(time);
        let id = id_key(&event.id);
        if self.settled.contains_key(&id) || self.oldest_event(id).is_some() {
            return;
        }
        self.settle(id, Fate::Rejected);
        if let Some((raw, label)) = self.take_label(id) {
            out.reject(raw, "event_rejected", format!("event `{}` was rejected", label.id));
        }
    }

    /// Everything of `side` that was published so far has been read: its clock is at least as late
    /// as the other's.
    pub(crate) fn caught_up(&mut self, side: Side, out: &mut Released) {
        match side {
            Side::Events => self.events_clock = self.events_clock.max(self.labels_clock),
            Side::Labels => self.labels_clock = self.labels_clock.max(self.events_clock),
        }
        self.release(out);
    }

    /// Whether [`Join::caught_up`] of `side` would let something go.
    pub(crate) fn is_held_up_by(&self, side: Side) -> bool {
        match side {
            Side::Labels => {
                self.events.values().next().is_some_and(|e| self.over(e.time, self.events_clock))
            }
            Side::Events => {
                self.labels.values().next().is_some_and(|l| self.over(l.0.time, self.labels_clock))
            }
        }
    }

    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.events.len(), self.labels.len())
    }

    fn over(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        now.signed_duration_since(since) > self.horizon
    }

    fn pair(
        &mut self,
        id: u128,
        mut event: Passed,
        raw: Raw,
        label: LateLabel,
        out: &mut Released,
    ) {
        self.settle(id, Fate::Labelled);
        event.event.label = Some(label.label);
        out.add(Joined::Amended, event.curated(Some(raw.time), Some(raw)));
    }

    /// Why a label without a waiting event cannot wait.
    fn refusal(&self, id: u128, name: &EventId) -> Option<(&'static str, String)> {
        Some(match self.settled.get(&id) {
            Some(Fate::Labelled) => ("duplicate_label", format!("event `{name}` has its label")),
            Some(Fate::Unlabelled) => {
                ("label_too_late", format!("event `{name}` went on without its label"))
            }
            Some(Fate::Rejected) => ("event_rejected", format!("event `{name}` was rejected")),
            None if self.labels_by_id.contains_key(&id) => {
                ("duplicate_label", format!("another label for event `{name}` waits for it"))
            }
            None => return None,
        })
    }

    fn settle(&mut self, id: u128, fate: Fate) {
        if self.settled.insert(id, fate).is_some() {
            return;
        }
        self.settled_order.push_back(id);
        if self.settled_order.len() > self.capacity
            && let Some(oldest) = self.settled_order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }

    /// Lets go of what has waited too long or has no room.
    fn release(&mut self, out: &mut Released) {
        while let Some((&offset, first)) = self.events.first_key_value()
            && (self.over(first.time, self.labels_clock)
                || self.events.len() > self.capacity
                || self.bytes > self.max_bytes)
        {
            let event = self.remove_event(offset);
            self.settle(id_key(&event.event.id), Fate::Unlabelled);
            out.add(Joined::Kept, event.curated(None, None));
        }
        while let Some((&offset, (first, _))) = self.labels.first_key_value()
            && (self.over(first.time, self.events_clock)
                || self.labels.len() > self.capacity
                || self.bytes > self.max_bytes)
        {
            let (raw, label) = self.remove_label(offset);
            let reason = format!(
                "no event `{}` passed here within {} s, or there was no room to wait",
                label.id,
                self.horizon.num_seconds()
            );
            out.reject(raw, "label_without_event", reason);
        }
    }

    pub(crate) fn hold_event(&mut self, id: u128, event: Passed) {
        let offset = event.position.offset.0;
        self.bytes += event.bytes;
        self.events_by_id.insert((id, offset));
        self.events.insert(offset, event);
    }

    pub(crate) fn hold_label(&mut self, id: u128, raw: Raw, label: LateLabel) {
        let offset = raw.position.offset.0;
        self.bytes += raw.size();
        self.labels_by_id.insert(id, offset);
        self.labels.insert(offset, (raw, label));
    }

    /// Takes back an event that waited when the snapshot was made.
    pub(crate) fn refill_event(&mut self, event: Passed) {
        self.hold_event(id_key(&event.event.id), event);
    }

    /// Takes back a label that waited when the snapshot was made.
    pub(crate) fn refill_label(&mut self, raw: Raw, label: LateLabel) {
        self.hold_label(id_key(&label.id), raw, label);
    }

    fn oldest_event(&self, id: u128) -> Option<i64> {
        self.events_by_id.range((id, i64::MIN)..=(id, i64::MAX)).next().map(|&(_, offset)| offset)
    }

    fn take_event(&mut self, id: u128) -> Option<Passed> {
        self.oldest_event(id).map(|offset| self.remove_event(offset))
    }

    fn take_label(&mut self, id: u128) -> Option<(Raw, LateLabel)> {
        self.labels_by_id.get(&id).copied().map(|offset| self.remove_label(offset))
    }

    fn remove_event(&mut self, offset: i64) -> Passed {
        let event = self.events.remove(&offset).expect("the index names only waiting events");
        self.events_by_id.remove(&(id_key(&event.event.id), offset));
        self.bytes -= event.bytes;
        event
    }

    fn remove_label(&mut self, offset: i64) -> (Raw, LateLabel) {
        let (raw, label) =
            self.labels.remove(&offset).expect("the index names only waiting labels");
        self.labels_by_id.remove(&id_key(&label.id));
        self.bytes -= raw.size();
        (raw, label)
    }

    /// Writes everything but the waiting records themselves: of those, where they stand.
    pub(crate) fn save(&self, to: &mut Writer) {
        for clock in [self.events_clock, self.labels_clock] {
            to.i64(clock.timestamp());
            to.u64(clock.timestamp_subsec_nanos().into());
        }
        to.len(self.settled_order.len());
        for id in &self.settled_order {
            to.u128(*id);
            to.u8(self.settled[id] as u8);
        }
        for offsets in [self.events.keys().collect::<Vec<_>>(), self.labels.keys().collect()] {
            to.len(offsets.len());
            for offset in offsets {
                to.i64(*offset);
            }
        }
    }

    /// Takes what [`Join::save`] wrote; returns the offsets of events and labels that waited.
    pub(crate) fn load(&mut self, from: &mut Reader<'_>) -> Result<[Vec<i64>; 2], CurationError> {
        let damaged = |what: &str| CurationError::Damaged(what.to_owned());
        for clock in [&mut self.events_clock, &mut self.labels_clock] {
            let (seconds, nanos) = (from.i64()?, from.u64()?);
            *clock = u32::try_from(nanos)
                .ok()
                .and_then(|nanos| DateTime::from_timestamp(seconds, nanos))
                .ok_or_else(|| damaged("a clock in it is out of range"))?;
        }
        for _ in 0..from.len(17)? {
            let id = from.u128()?;
            let fate = match from.u8()? {
                1 => Fate::Labelled,
                2 => Fate::Unlabelled,
                3 => Fate::Rejected,
                _ => return Err(damaged("an event in it has an unknown fate")),
            };
            self.settle(id, fate);
        }
        let mut waiting = [Vec::new(), Vec::new()];
        for offsets in &mut waiting {
            for _ in 0..from.len(8)? {
                offsets.push(from.i64()?);
            }
        }
        Ok(waiting)
    }
}
