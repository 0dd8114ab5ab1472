//! The stages in order, and their state as one.
use std::time::Instant;

use crate::{
    config::{CurationConfig, CurationError, StageName},
    exact::Exact,
    holdout::Holdout,
    join::{Join, Joined, Passed, Released},
    meter::{Meter, StageCounters},
    near::Near,
    record::{Body, Emit, Incoming, Outcome, Record, RejectedRecord, Side, Stage},
    restore::Restoring,
    snapshot::{Reader, Writer},
    validate::Validate,
};

/// Records that wait for their other half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Events without a label.
    pub events: usize,
    /// Labels without an event.
    pub labels: usize,
}

/// Curation of one partition of the events topic and the same partition of the labels topic.
///
/// What is decided about an event (passed, rejected and why, side of the hold-out) depends only on
/// the events before it. How events and labels interleave can change only *when* an event leaves
/// the join, and, for a pair that meets at the very edge of horizon or capacity, whether with its
/// label.
pub struct Pipeline {
    stages: Vec<(Box<dyn Stage>, Meter)>,
    pub(crate) join: Join,
    join_meter: Meter,
    pub(crate) holdout: Holdout,
}

impl Pipeline {
    /// An empty one.
    ///
    /// # Errors
    /// [`CurationError::Config`] names the field that is wrong.
    pub fn new(config: &CurationConfig) -> Result<Self, CurationError> {
        config.validate()?;
        let mut stages: Vec<(Box<dyn Stage>, Meter)> = Vec::new();
        for name in &config.stages {
            let stage: Box<dyn Stage> = match name {
                StageName::Validate => Box::new(Validate::new(&config.validate)),
                StageName::Exact => Box::new(Exact::new(&config.exact)),
                StageName::Near => Box::new(Near::new(&config.near)),
                StageName::Holdout => Box::new(Holdout::new(&config.holdout)),
                // The last, and the only one that holds records: kept apart.
                StageName::Join => continue,
            };
            stages.push((stage, Meter::new(*name)));
        }
        Ok(Self {
            stages,
            join: Join::new(&config.join),
            join_meter: Meter::new(StageName::Join),
            holdout: Holdout::new(&config.holdout),
        })
    }

    /// Takes one record; returns what is now decided, about it and about those that waited.
    pub fn apply(&mut self, incoming: Incoming) -> Vec<Emit> {
        let mut out = Released::default();
        match self.through_stages(Record::new(incoming)) {
            Ok(record) => self.join_up(record, &mut out),
            Err(rejected) => {
                let (rejected, event) = *rejected;
                // The label of a repeated id belongs to the event that had it first.
                if let Some(event) = event
                    && rejected.code != "duplicate_id"
                {
                    self.join.rejected(&event, rejected.raw.time, &mut out);
                }
                out.emits.insert(0, Emit::Rejected(rejected));
            }
        }
        self.count(out)
    }

    /// Says that everything of `side` that was published so far has been read. The other side then
    /// need not wait longer than the horizon, even when `side` is silent.
    pub fn caught_up(&mut self, side: Side) -> Vec<Emit> {
        let mut out = Released::default();
        self.join.caught_up(side, &mut out);
        self.count(out)
    }

    /// Whether records wait only because it is not known that all of `side` has been read.
    #[must_use]
    pub fn is_held_up_by(&self, side: Side) -> bool {
        self.join.is_held_up_by(side)
    }

    /// How many records wait.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        let (events, labels) = self.join.waiting();
        Waiting { events, labels }
    }

    /// What each stage did since this pipeline was made, in their order.
    #[must_use]
    pub fn counters(&self) -> Vec<StageCounters> {
        let stages = self.stages.iter().map(|(_, meter)| meter);
        stages.chain([&self.join_meter]).map(Meter::counters).collect()
    }

    /// The state, without the waiting records: they are read again from where they stand. At most
    /// some 18 MB at the defaults.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut to = Writer::new();
        for (stage, _) in &self.stages {
            to.section(stage.name().as_str(), |to| stage.save(to));
        }
        to.section(StageName::Join.as_str(), |to| self.join.save(to));
        to.finish()
    }

    /// Begins to restore a snapshot. Stages that the configuration has gained start empty.
    ///
    /// # Errors
    /// [`CurationError::Damaged`] or [`CurationError::Format`] for a snapshot that cannot be
    /// used, [`CurationError::Config`].
    pub fn restore(config: &CurationConfig, snapshot: &[u8]) -> Result<Restoring, CurationError> {
        let mut pipeline = Self::new(config)?;
        let mut from = Reader::open(snapshot)?;
        let mut waiting = [Vec::new(), Vec::new()];
        while let Some((name, mut section)) = from.section()? {
            if name == StageName::Join.as_str() {
                waiting = pipeline.join.load(&mut section)?;
                section.end()?;
            } else if let Some((stage, _)) =
                pipeline.stages.iter_mut().find(|(stage, _)| stage.name().as_str() == name)
            {
                stage.load(&mut section)?;
                section.end()?;
            }
        }
        Ok(Restoring::new(pipeline, waiting))
    }

    /// The record when it passed all stages, else why not, with the event if it was decoded.
    fn through_stages(
        &mut self,
        mut record: Record,
    ) -> Result<Record, Box<(RejectedRecord, Option<tidegate_contracts::Event>)>> {
        for (stage, meter) in &mut self.stages {
            if matches!(record.body, Body::Label(_)) && !stage.takes_labels() {
                continue;
            }
            let started = Instant::now();
            let outcome = stage.apply(record);
            meter.took(started.elapsed());
            record = match outcome {
                Outcome::Keep(record) => {
                    meter.keep();
                    record
                }
                Outcome::Amend(record) => {
                    meter.amend();
                    record
                }
                Outcome::Reject(record, why) => {
                    meter.reject();
                    let event = match record.body {
                        Body::Event(event) => Some(event),
                        Body::Undecoded(_) | Body::Label(_) => None,
                    };
                    return Err(Box::new((
                        RejectedRecord {
                            raw: record.raw,
                            stage: stage.name(),
                            code: why.code,
                            reason: why.reason,
                        },
                        event,
                    )));
                }
            };
        }
        Ok(record)
    }

    fn join_up(&mut self, record: Record, out: &mut Released) {
        let started = Instant::now();
        match record.body {
            Body::Label(label) => self.join.label(record.raw, label, out),
            Body::Event(event) => {
                let split = record.split.unwrap_or_else(|| self.holdout.split(&event));
                self.join.event(Passed::new(event, split, record.raw), out);
            }
            Body::Undecoded(_) => {
                unreachable!("`validate` is the first stage and decodes or rejects")
            }
        }
        self.join_meter.took(started.elapsed());
    }

    fn count(&mut self, out: Released) -> Vec<Emit> {
        for did in out.did {
            match did {
                Joined::Kept => self.join_meter.keep(),
                Joined::Amended => self.join_meter.amend(),
                Joined::Rejected => self.join_meter.reject(),
            }
        }
        out.emits
    }
}
