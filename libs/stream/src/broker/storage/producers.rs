//! Idempotent producers of one partition: which of their batches are in the log.
use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::batch::BatchHeader;

/// Batches remembered by producer. Clients keep at most five in flight, so a repeat is one of them.
const WINDOW: usize = 5;
/// Producers remembered by partition; the one that has been silent for most records goes first.
const PRODUCERS: usize = 4_096;

/// What a batch is to the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It comes next.
    New,
    /// It is in the log already, at this offset.
    Duplicate(i64),
}

/// Why a batch may not be appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SequenceError {
    /// Batches before it are missing.
    OutOfOrder,
    /// A newer incarnation of this producer has written.
    Fenced,
}

/// State by producer id. A fold of the batches in the log: rebuilt from them after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Producers(HashMap<i64, Producer>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    epoch: i16,
    /// INVARIANT: not empty, oldest first, at most [`WINDOW`].
    last: VecDeque<Sent>,
}

/// First and last sequence of a batch, and its base offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sent(i32, i32, i64);

impl Producers {
    /// How `batch` stands to what its producer wrote before.
    ///
    /// An unknown producer may start at any sequence: retention may have dropped what it wrote
    /// (KIP-360).
    pub(crate) fn check(&self, batch: &BatchHeader) -> Result<Standing, SequenceError> {
        if batch.producer_id < 0 {
            return Ok(Standing::New);
        }
        let Some(known) = self.0.get(&batch.producer_id) else { return Ok(Standing::New) };
        if batch.producer_epoch < known.epoch {
            return Err(SequenceError::Fenced);
        }
        let next = if batch.producer_epoch > known.epoch {
            0
        } else {
            let same =
                |sent: &&Sent| (sent.0, sent.1) == (batch.base_sequence, batch.last_sequence());
            if let Some(Sent(_, _, offset)) = known.last.iter().find(same) {
                return Ok(Standing::Duplicate(*offset));
            }
            let Sent(_, last, _) = known.last.back().expect("a known producer has written");
            last.checked_add(1).unwrap_or(0)
        };
        if batch.base_sequence == next { Ok(Standing::New) } else { Err(SequenceError::OutOfOrder) }
    }

    /// Remembers a batch that is in the log.
    pub(crate) fn note(&mut self, batch: &BatchHeader) {
        if batch.producer_id < 0 {
            return;
        }
        let sent = Sent(batch.base_sequence, batch.last_sequence(), batch.base_offset);
        let epoch = batch.producer_epoch;
        let fresh = || Producer { epoch, last: VecDeque::with_capacity(WINDOW) };
        let producer = self.0.entry(batch.producer_id).or_insert_with(fresh);
        if producer.epoch != epoch {
            *producer = fresh();
        }
        if producer.last.len() == WINDOW {
            producer.last.pop_front();
        }
        producer.last.push_back(sent);
        if self.0.len() > PRODUCERS {
            let quietest = self.0.iter().min_by_key(|(_, p)| p.last.back().map(|sent| sent.2));
            let quietest = *quietest.expect("there are many").0;
            self.0.remove(&quietest);
        }
    }
}
