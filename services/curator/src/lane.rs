//! One lane: a partition of both topics, its pipeline and its checkpoint.
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tidegate_contracts::{Offset, Partition, Window};
use tidegate_curation::{CurationConfig, Emit, Incoming, Pipeline, Restoring, Side};
use tidegate_ledger::{Lease, Ledger};
use tidegate_stream::{Message, Record, Stream, Topics};
use tidegate_telemetry::metrics;

use crate::{
    checkpoint::{self, Head, Outputs},
    effects::Effects,
    message::raw,
};

/// Both sides.
pub(crate) const SIDES: [Side; 2] = [Side::Events, Side::Labels];

pub(crate) fn topic(topics: &Topics, side: Side) -> &str {
    match side {
        Side::Events => &topics.events,
        Side::Labels => &topics.labels,
    }
}

/// The name of a lane's lease and of its checkpoint.
pub(crate) fn name(partition: Partition) -> String {
    format!("curator/{partition}")
}

/// Where one of the lane's topics is read.
#[derive(Clone, Copy)]
struct Place {
    next: Offset,
    /// Whether reading is known to have started at `next`.
    sure: bool,
}

/// What to do about a record.
pub(crate) enum Taken {
    /// It was taken; these are to be written.
    Messages(Vec<Message>),
    /// Records are missing before it: read again from there.
    SeekTo(Offset),
}

pub(crate) struct Lane {
    partition: Partition,
    pipeline: Pipeline,
    events: Place,
    labels: Place,
    effects: Effects,
    /// Where the effects that are pending were looked for from.
    ///
    /// INVARIANT: a checkpoint names it, not the ends of now, while effects are pending: they are
    /// of records after the checkpoint, and a successor must find them again.
    looked_from: Outputs,
    pub(crate) lease: Lease,
    changed: bool,
    due: Instant,
    pause: Duration,
}

impl Lane {
    /// Rebuilds a lane from its checkpoint and what was written since. Returns where the output
    /// topics end, too.
    pub(crate) async fn open(
        stream: &Stream,
        ledger: &Ledger,
        config: &CurationConfig,
        partition: Partition,
        lease: Lease,
        pause: Duration,
    ) -> anyhow::Result<(Self, Outputs)> {
        let topics = stream.topics();
        let mut marks = [(Offset(0), Offset(0)); 2];
        for (side, mark) in SIDES.into_iter().zip(&mut marks) {
            let all = stream.watermarks(topic(topics, side)).await?;
            *mark = all.get(&partition).copied().unwrap_or_default();
        }
        let [events, labels] = marks;
        let stored = ledger.get_state(&name(partition)).await?;
        let usable = stored.as_deref().map(|bytes| read_checkpoint(config, bytes));
        let (head, restoring) = match usable {
            Some(Ok(usable)) => usable,
            Some(Err(error)) => {
                tracing::error!(
                    lane = partition.0,
                    "checkpoint not usable, the lane is rebuilt from the start: {error:#}"
                );
                beginning(config, events.0, labels.0)?
            }
            None => beginning(config, events.0, labels.0)?,
        };
        if let Some(bytes) = stored {
            // From here on a former holder cannot write its checkpoint any more.
            ledger.put_state(&name(partition), lease.token(), &bytes).await?;
        }
        let (effects, ends) =
            Effects::find(stream, partition, &head.outputs, (events.1, labels.1)).await?;
        tracing::debug!(
            lane = partition.0,
            checkpoint = ?head,
            ?ends,
            ?marks,
            effects = ?effects.counts(),
            "effects found"
        );
        let pipeline = refill(stream, partition, restoring, &effects, marks).await?;
        let place = |side, next, mark| start(topics, side, partition, next, mark);
        let lane = Self {
            partition,
            pipeline,
            events: place(Side::Events, head.events, events),
            labels: place(Side::Labels, head.labels, labels),
            effects,
            looked_from: head.outputs,
            lease,
            changed: false,
            due: Instant::now() + pause,
            pause,
        };
        tracing::info!(
            lane = partition.0,
            events = lane.events.next.0,
            labels = lane.labels.next.0,
            waiting = ?lane.pipeline.waiting(),
            "lane open"
        );
        Ok((lane, ends))
    }

    /// The next offset of `side`.
    pub(crate) fn next(&self, side: Side) -> Offset {
        match side {
            Side::Events => self.events.next,
            Side::Labels => self.labels.next,
        }
    }

    /// Takes a record.
    pub(crate) fn take(&mut self, topics: &Topics, side: Side, record: Record) -> Taken {
        let offset = record.offset;
        let place = match side {
            Side::Events => &mut self.events,
            Side::Labels => &mut self.labels,
        };
        if offset < place.next {
            return Taken::Messages(vec![]);
        }
        if offset > place.next && !place.sure {
            // Once: the records may be gone for good.
            place.sure = true;
            return Taken::SeekTo(place.next);
        }
        *place = Place { next: Offset(offset.0 + 1), sure: true };
        self.changed = true;
        if side == Side::Labels && self.effects.pass_over(offset) {
            return Taken::Messages(vec![]);
        }
        let raw = raw(record);
        let emits = self.pipeline.apply(match side {
            Side::Events => Incoming::Event(raw),
            Side::Labels => Incoming::Label(raw),
        });
        Taken::Messages(self.messages(topics, emits))
    }

    /// Lets go of what waits only for the other topic to move, when that has been read to its end.
    pub(crate) async fn catch_up(&mut self, stream: &Stream) -> anyhow::Result<Vec<Message>> {
        let mut messages = Vec::new();
        for side in SIDES {
            if !self.pipeline.is_held_up_by(side) {
                continue;
            }
            let marks = stream.watermarks(topic(stream.topics(), side)).await?;
            let high = marks.get(&self.partition).map(|&(_, high)| high).unwrap_or_default();
            if self.next(side) >= high {
                let emits = self.pipeline.caught_up(side);
                self.changed = true;
                messages.extend(self.messages(stream.topics(), emits));
            }
        }
        Ok(messages)
    }

    fn messages(&mut self, topics: &Topics, emits: Vec<Emit>) -> Vec<Message> {
        emits.into_iter().filter_map(|emit| self.effects.message(topics, emit)).collect()
    }

    /// Whether a checkpoint is to be written.
    pub(crate) fn is_due(&self) -> bool {
        self.changed && Instant::now() >= self.due
    }

    /// Whether nothing has happened for a while: the time to ask how far the other topic goes.
    pub(crate) fn is_idle(&self) -> bool {
        !self.changed && Instant::now() >= self.due
    }

    /// Writes the checkpoint. Everything that was decided must be in the output topics, before
    /// `outputs`.
    pub(crate) async fn checkpoint(
        &mut self,
        ledger: &Ledger,
        outputs: &Outputs,
    ) -> Result<(), tidegate_ledger::LedgerError> {
        if !self.changed {
            return Ok(());
        }
        let started = Instant::now();
        let outputs = if self.effects.are_pending() { &self.looked_from } else { outputs };
        let head =
            Head { events: self.events.next, labels: self.labels.next, outputs: outputs.clone() };
        let bytes = checkpoint::encode(&head, &self.pipeline.snapshot());
        ledger.put_state(&name(self.partition), self.lease.token(), &bytes).await?;
        self.changed = false;
        // A twentieth of the time at most.
        self.due = Instant::now() + self.pause.max(started.elapsed() * 19);
        self.show(bytes.len(), started.elapsed());
        Ok(())
    }

    fn show(&self, bytes: usize, took: Duration) {
        let lane = self.partition.to_string();
        let gauge = |name, help, labels: &[&str], values: &[&str], value: f64| {
            metrics::gauge(name, help, labels).with_label_values(values).set(value);
        };
        let waiting = self.pipeline.waiting();
        for (side, n) in [("events", waiting.events), ("labels", waiting.labels)] {
            let help = "Records that wait in the join for their other half.";
            let labels = ["lane", "side"];
            gauge("tidegate_curator_waiting", help, &labels, &[&lane, side], n as f64);
        }
        let help = "Bytes of a lane's newest checkpoint.";
        gauge("tidegate_curator_checkpoint_bytes", help, &["lane"], &[&lane], bytes as f64);
        let help = "Seconds that a lane's newest checkpoint took.";
        let took = took.as_secs_f64();
        gauge("tidegate_curator_checkpoint_seconds", help, &["lane"], &[&lane], took);
    }
}

fn read_checkpoint(config: &CurationConfig, bytes: &[u8]) -> anyhow::Result<(Head, Restoring)> {
    let (head, snapshot) = checkpoint::decode(bytes)?;
    Ok((head, Pipeline::restore(config, snapshot)?))
}

/// A lane without a checkpoint.
fn beginning(
    config: &CurationConfig,
    events: Offset,
    labels: Offset,
) -> anyhow::Result<(Head, Restoring)> {
    let empty = Pipeline::new(config)?.snapshot();
    let head = Head { events, labels, outputs: Outputs::default() };
    Ok((head, Pipeline::restore(config, &empty)?))
}

/// Reads the records that waited again from where they stand.
async fn refill(
    stream: &Stream,
    partition: Partition,
    mut restoring: Restoring,
    effects: &Effects,
    marks: [(Offset, Offset); 2],
) -> anyhow::Result<Pipeline> {
    for (side, (low, high)) in SIDES.into_iter().zip(marks) {
        let Some((from, to)) = restoring.wanted(side) else { continue };
        let (from, to) = (from.max(low), to.min(high));
        if from >= to {
            continue;
        }
        let topic = topic(stream.topics(), side);
        let window = Window::new(topic, [(partition, (from, to))].into())?;
        let supply = |record: Record| {
            if side == Side::Events || !effects.was_rejected(record.offset) {
                restoring.supply(side, raw(record));
            }
            ControlFlow::Continue(())
        };
        stream.read_each(&window, supply).await.context("records that wait in the join")?;
    }
    let (pipeline, lost) = restoring.finish();
    for (side, offset) in lost {
        if side == Side::Events || !effects.was_rejected(offset) {
            tracing::error!(
                lane = partition.0,
                "{side:?} {offset} waited in the join and is gone from its topic: keep records \
                 longer than curator.curation.join.horizon_s"
            );
        }
    }
    Ok(pipeline)
}

/// Where reading starts, with a line in the log when the log is not the one it was.
fn start(
    topics: &Topics,
    side: Side,
    partition: Partition,
    next: Offset,
    (low, high): (Offset, Offset),
) -> Place {
    let topic = topic(topics, side);
    if next > high {
        tracing::error!(
            "{topic}[{partition}] ends at {high} and was read up to {next}: its log has lost \
             records; reading what comes from {high} on"
        );
        return Place { next: high, sure: false };
    }
    if next < low {
        tracing::error!(
            "{topic}[{partition}] starts at {low} and was read up to {next} only: retention \
             dropped what lay between; reading from {low} on"
        );
        return Place { next: low, sure: false };
    }
    Place { next, sure: false }
}
