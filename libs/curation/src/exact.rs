//! Exact duplicates: by id within a domain, and by content.
use std::collections::{HashMap, VecDeque};

use tidegate_contracts::{Event, FeatureValue, Part};

use crate::{
    config::{CurationError, ExactConfig, StageName},
    record::{Outcome, Record, Rejection, Stage},
    snapshot::{Reader, Writer},
};

/// Remembers the newest events by two hashes of 128 bits: with 200,000 of them the chance that a
/// new event is taken for an old one is below 1e-32.
pub(crate) struct Exact {
    capacity: usize,
    /// Oldest first.
    seen: VecDeque<Seen>,
    /// To the offset of the event that had it.
    ids: HashMap<u128, i64>,
    contents: HashMap<u128, i64>,
}

#[derive(Clone, Copy)]
struct Seen {
    id: u128,
    content: u128,
    offset: i64,
}

/// Stands for an event whose content may well come again.
pub(crate) const NO_CONTENT: u128 = 0;

/// 128 bits of a BLAKE3 hash over parts that are told apart.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hash = *hasher.finalize().as_bytes();
    u128::from_le_bytes(hash[..16].try_into().expect("16 of 32 bytes"))
}

/// Hash of what an event says: its normalised text, its pictures, sounds and features. Rows of
/// features alone are told apart by id only, since equal rows are no mistake.
pub(crate) fn content_key(event: &Event, normal_text: &str) -> u128 {
    if event.parts.iter().all(|part| matches!(part, Part::Features(_))) {
        return NO_CONTENT;
    }
    let mut hasher = blake3::Hasher::new();
    let mut add = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(0, normal_text.as_bytes());
    for part in &event.parts {
        match part {
            Part::Text(_) => {}
            Part::Image(bytes) => add(1, bytes),
            Part::Audio(bytes) => add(2, bytes),
            Part::Features(values) => {
                for (name, value) in values {
                    add(3, name.as_bytes());
                    match value {
                        FeatureValue::Number(number) => add(4, &number.to_le_bytes()),
                        FeatureValue::Category(category) => add(5, category.as_bytes()),
                    }
                }
            }
        }
    }
    let hash = *hasher.finalize().as_bytes();
    u128::from_le_bytes(hash[..16].try_into().expect("16 of 32 bytes"))
}

impl Exact {
    pub(crate) fn new(config: &ExactConfig) -> Self {
        Self {
            capacity: config.capacity,
            seen: VecDeque::new(),
            ids: HashMap::new(),
            contents: HashMap::new(),
        }
    }

    fn remember(&mut self, seen: Seen) {
        if self.seen.len() == self.capacity
            && let Some(oldest) = self.seen.pop_front()
        {
            self.ids.remove(&oldest.id);
            self.contents.remove(&oldest.content);
        }
        self.ids.insert(seen.id, seen.offset);
        if seen.content != NO_CONTENT {
            self.contents.insert(seen.content, seen.offset);
        }
        self.seen.push_back(seen);
    }
}

impl Stage for Exact {
    fn name(&self) -> StageName {
        StageName::Exact
    }

    fn apply(&mut self, mut record: Record) -> Outcome {
        let Some((event, text)) = record.event_and_text() else { return Outcome::Keep(record) };
        let id = key([event.domain.as_str().as_bytes(), event.id.as_str().as_bytes()]);
        let content = content_key(event, text);
        if let Some(offset) = self.ids.get(&id) {
            let reason = format!(
                "id `{}` of domain `{}` came before, at offset {offset}",
                event.id, event.domain
            );
            return Outcome::Reject(record, Rejection { code: "duplicate_id", reason });
        }
        if let Some(offset) = self.contents.get(&content) {
            let reason = format!("the same content came before, at offset {offset}");
            return Outcome::Reject(record, Rejection { code: "duplicate_content", reason });
        }
        let offset = record.raw.position.offset.0;
        self.remember(Seen { id, content, offset });
        Outcome::Keep(record)
    }

    fn save(&self, to: &mut Writer) {
        to.len(self.seen.len());
        for seen in &self.seen {
            to.u128(seen.id);
            to.u128(seen.content);
            to.i64(seen.offset);
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), CurationError> {
        for _ in 0..from.len(40)? {
            let seen = Seen { id: from.u128()?, content: from.u128()?, offset: from.i64()? };
            self.remember(seen);
        }
        Ok(())
    }
}
