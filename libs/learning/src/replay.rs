//! The replay buffer: a bounded, class-balanced sample of all that was ever learnt.
use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{Class, EventId};

use crate::LearningError;

/// File of a generation: the replay buffer.
pub const REPLAY: &str = "replay.bin";

const MAGIC: &[u8; 8] = b"TGREPLY1";

/// One remembered example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Remembered {
    pub(crate) id: EventId,
    pub(crate) class: Class,
    pub(crate) weight: f32,
    /// Bounded by the recipe's `text_bytes`.
    pub(crate) text: String,
}

/// Class-balancing reservoir (Chrysakis and Moens 2020, "Online continual learning from imbalanced
/// data", ICML): while there is room all is kept; then an example of a rare class takes the place
/// of one of the largest class, and one of the largest class that of another of its own, so that
/// each class is a uniform sample of what was seen of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replay {
    items: Vec<Remembered>,
    /// Examples seen of each class; a class that once was the largest is `full`.
    classes: BTreeMap<Class, Seen>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    seen: u64,
    full: bool,
}

impl Replay {
    /// Examples in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Examples of each class.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Class, usize> {
        let mut counts = BTreeMap::new();
        for item in &self.items {
            *counts.entry(item.class.clone()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn items(&self) -> &[Remembered] {
        &self.items
    }

    /// Offers one example.
    pub(crate) fn offer(&mut self, item: Remembered, capacity: usize, rng: &mut ChaCha8Rng) {
        self.classes.entry(item.class.clone()).or_default().seen += 1;
        while self.items.len() > capacity {
            // The recipe asks for less than the champion's did.
            let victim = self.pick_of_largest(rng);
            self.items.swap_remove(victim);
        }
        if self.items.len() < capacity {
            self.items.push(item);
            return;
        }
        if capacity == 0 {
            return;
        }
        let counts = self.counts();
        let largest = counts.values().copied().max().unwrap_or_default();
        for (class, seen) in &mut self.classes {
            seen.full |= counts.get(class) == Some(&largest);
        }
        let own = self.classes[&item.class];
        if !own.full {
            let victim = self.pick_of_largest(rng);
            self.items[victim] = item;
            return;
        }
        let kept = counts.get(&item.class).copied().unwrap_or_default();
        if rng.random_range(0..own.seen) < kept as u64 {
            let victim = self.pick_of(&item.class.clone(), rng);
            self.items[victim] = item;
        }
    }

    fn pick_of_largest(&self, rng: &mut ChaCha8Rng) -> usize {
        let counts = self.counts();
        let (class, _) = counts
            .iter()
            .max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)))
            .expect("a full buffer has a largest class");
        self.pick_of(class, rng)
    }

    fn pick_of(&self, class: &Class, rng: &mut ChaCha8Rng) -> usize {
        let of_class: Vec<usize> =
            (0..self.items.len()).filter(|&at| self.items[at].class == *class).collect();
        of_class[rng.random_range(0..of_class.len())]
    }

    /// The content of [`REPLAY`]: little-endian, length-prefixed, equal buffers give equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let names: Vec<&Class> = self.classes.keys().collect();
        put_u32(&mut bytes, names.len());
        for (class, seen) in &self.classes {
            put_text(&mut bytes, class.as_str());
            bytes.extend(seen.seen.to_le_bytes());
            bytes.push(u8::from(seen.full));
        }
        put_u32(&mut bytes, self.items.len());
        for item in &self.items {
            let class = names.binary_search(&&item.class).expect("every item's class was seen");
            put_u32(&mut bytes, class);
            bytes.extend(item.weight.to_le_bytes());
            put_text(&mut bytes, item.id.as_str());
            put_text(&mut bytes, &item.text);
        }
        bytes
    }

    /// Reads what [`Replay::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`LearningError::BadFile`] when it is cut short or altered beyond reading.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LearningError> {
        let mut reader = Reader { rest: bytes };
        if reader.take(8)? != MAGIC {
            return Err(bad("it does not begin as a replay buffer does"));
        }
        let mut replay = Self::default();
        let mut names = Vec::new();
        for _ in 0..reader.u32()? {
            let class = Class::new(reader.text()?);
            let seen = u64::from_le_bytes(reader.array()?);
            let full = reader.array::<1>()?[0] != 0;
            names.push(class.clone());
            replay.classes.insert(class, Seen { seen, full });
        }
        for _ in 0..reader.u32()? {
            let class = names.get(reader.u32()?).cloned().ok_or_else(|| bad("an unknown class"))?;
            let weight = f32::from_le_bytes(reader.array()?);
            if !(weight.is_finite() && weight > 0.0) {
                return Err(bad("a weight is not above 0"));
            }
            let (id, text) = (EventId::new(reader.text()?), reader.text()?);
            replay.items.push(Remembered { id, class, weight, text });
        }
        if reader.rest.is_empty() { Ok(replay) } else { Err(bad("there are bytes behind its end")) }
    }
}

fn bad(reason: &str) -> LearningError {
    LearningError::BadFile { file: REPLAY.to_owned(), reason: reason.to_owned() }
}

fn put_u32(bytes: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).expect("a replay buffer and its texts are far below 4 GiB");
    bytes.extend(value.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, text.len());
    bytes.extend(text.as_bytes());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], LearningError> {
        let (taken, rest) =
            self.rest.split_at_checked(size).ok_or_else(|| bad("it is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LearningError> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<usize, LearningError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn text(&mut self) -> Result<String, LearningError> {
        let size = self.u32()?;
        let bytes = self.take(size)?.to_vec();
        String::from_utf8(bytes).map_err(|_| bad("a text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn offer_all(classes: &[&str], capacity: usize) -> Replay {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut replay = Replay::default();
        for (at, class) in classes.iter().enumerate() {
            let item = Remembered {
                id: EventId::new(format!("e{at}")),
                class: Class::new(*class),
                weight: 1.0,
                text: format!("text {at} ü"),
            };
            replay.offer(item, capacity, &mut rng);
        }
        replay
    }

    #[test]
    fn a_rare_class_keeps_its_place_beside_a_common_one() {
        let mut stream = vec!["ham"; 5_000];
        stream.extend(["spam"; 40]);
        stream.extend(["ham"; 5_000]);
        let counts = offer_all(&stream, 100).counts();
        assert_eq!(counts[&Class::new("spam")], 40);
        assert_eq!(counts[&Class::new("ham")], 60);
    }

    #[test]
    fn each_class_is_a_uniform_sample_of_what_was_seen() {
        let replay = offer_all(&vec!["a"; 4_000], 400);
        let early = replay
            .items()
            .iter()
            .filter(|item| item.id.as_str()[1..].parse::<usize>().unwrap() < 2_000);
        // Binomial(400, 1/2) has standard deviation 10.
        assert!((150..250).contains(&early.count()));
    }

    #[test]
    fn it_reads_back_and_refuses_any_cut() {
        let replay = offer_all(&["a", "b", "a", "c"], 3);
        let bytes = replay.to_bytes();
        assert_eq!(Replay::from_bytes(&bytes).unwrap(), replay);
        for size in 0..bytes.len() {
            assert!(Replay::from_bytes(&bytes[..size]).is_err(), "{size}");
        }
    }

    #[test]
    fn a_smaller_capacity_shrinks_it() {
        let mut replay = offer_all(&["a", "b", "a", "b", "a", "b"], 6);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let item = replay.items()[0].clone();
        replay.offer(item, 2, &mut rng);
        assert_eq!(replay.len(), 2);
        let item = replay.items()[0].clone();
        replay.offer(item, 0, &mut rng);
        assert!(replay.is_empty());
    }
}
