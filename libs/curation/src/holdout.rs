//! Hold-out: which events only judge, decided before anything can train on them.
use tidegate_contracts::{Event, Split};

use crate::{
    config::{HoldoutConfig, StageName},
    record::{Outcome, Record, Stage},
};

/// A pure function of salt, domain and id: the same event falls on the same side wherever and
/// whenever it is looked at. Copies of a held-out event under another id cannot slip into
/// training while the duplicate stages remember it.
#[derive(Clone)]
pub(crate) struct Holdout {
    config: HoldoutConfig,
}

impl Holdout {
    pub(crate) fn new(config: &HoldoutConfig) -> Self {
        Self { config: config.clone() }
    }

    pub(crate) fn split(&self, event: &Event) -> Split {
        let mut hasher = blake3::Hasher::new();
        for part in [self.config.salt.as_str(), event.domain.as_str(), event.id.as_str()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let hash = *hasher.finalize().as_bytes();
        let draw = u64::from_le_bytes(hash[..8].try_into().expect("8 of 32 bytes"));
        // 2^-53: exact in f64, uniform in [0, 1).
        let draw = (draw >> 11) as f64 / (1u64 << 53) as f64;
        if draw < self.config.fraction { Split::Eval } else { Split::Train }
    }
}

impl Stage for Holdout {
    fn name(&self) -> StageName {
        StageName::Holdout
    }

    fn apply(&mut self, mut record: Record) -> Outcome {
        record.split = record.event().map(|event| self.split(event));
        Outcome::Keep(record)
    }
}
