//! Near duplicates among the newest texts, by MinHash and locality-sensitive hashing.
use std::collections::{HashMap, VecDeque};

use tidegate_contracts::Part;

use crate::{
    config::{CurationError, NearConfig, ShingleUnit, StageName},
    minhash::{Banding, MinHash, mix, shingles, similarity},
    record::{Outcome, Record, Rejection, Stage},
    snapshot::{Reader, Writer},
};

/// Texts of one band and key that are compared, the newest ones. Bounds the work for a text that
/// shares a band with very many.
const BUCKET: usize = 16;

/// A text is a near duplicate when the estimated Jaccard similarity with one of the newest
/// `capacity` texts that passed reaches the threshold.
pub(crate) struct Near {
    config: NearConfig,
    hashes: MinHash,
    banding: Banding,
    /// Oldest first.
    seen: VecDeque<Seen>,
    /// How many texts were forgotten: the number of the oldest one in `seen`.
    forgotten: u64,
    /// By band and its rows: numbers of texts, oldest first.
    buckets: HashMap<u64, Vec<u64>>,
}

pub(crate) struct Seen {
    pub(crate) signature: Box<[u16]>,
    pub(crate) id: Box<str>,
}

impl Near {
    pub(crate) fn new(config: &NearConfig) -> Self {
        Self {
            config: config.clone(),
            hashes: MinHash::new(config.permutations),
            banding: Banding::choose(config.permutations, config.threshold),
            seen: VecDeque::new(),
            forgotten: 0,
            buckets: HashMap::new(),
        }
    }

    pub(crate) fn signature(&self, text: &str) -> Box<[u16]> {
        let NearConfig { unit, shingle, max_shingles, .. } = self.config;
        self.hashes.signature(&shingles(text, unit, shingle, max_shingles))
    }

    fn keys(banding: Banding, signature: &[u16]) -> impl Iterator<Item = u64> {
        let bands = signature.chunks_exact(banding.rows).take(banding.bands);
        bands.enumerate().map(|(band, rows)| {
            let start = mix(band as u64 + 1);
            rows.iter().fold(start, |h, &row| mix(h ^ u64::from(row)))
        })
    }

    /// The most similar text that reaches the threshold, the oldest of equals.
    pub(crate) fn find(&self, signature: &[u16]) -> Option<(&Seen, f64)> {
        let mut candidates: Vec<u64> = Self::keys(self.banding, signature)
            .filter_map(|key| self.buckets.get(&key))
            .flatten()
            .copied()
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        let mut best: Option<(&Seen, f64)> = None;
        for number in candidates {
            let seen = &self.seen[(number - self.forgotten) as usize];
            let found = similarity(signature, &seen.signature);
            if found >= self.config.threshold && best.is_none_or(|(_, most)| found > most) {
                best = Some((seen, found));
            }
        }
        best
    }

    pub(crate) fn remember(&mut self, seen: Seen) {
        if self.seen.len() == self.config.capacity {
            self.forget_oldest();
        }
        let number = self.forgotten + self.seen.len() as u64;
        for key in Self::keys(self.banding, &seen.signature) {
            let bucket = self.buckets.entry(key).or_default();
            if bucket.len() == BUCKET {
                bucket.remove(0);
            }
            bucket.push(number);
        }
        self.seen.push_back(seen);
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.seen.pop_front() else { return };
        let number = self.forgotten;
        self.forgotten += 1;
        for key in Self::keys(self.banding, &oldest.signature) {
            if let Some(bucket) = self.buckets.get_mut(&key) {
                bucket.retain(|&n| n != number);
                if bucket.is_empty() {
                    self.buckets.remove(&key);
                }
            }
        }
    }

    /// What signatures depend on.
    fn measures(config: &NearConfig) -> [u64; 4] {
        let unit = match config.unit {
            ShingleUnit::Words => 0,
            ShingleUnit::Chars => 1,
        };
        let numbers = [config.permutations, config.shingle, config.max_shingles];
        let [permutations, shingle, most] = numbers.map(|n| n as u64);
        [unit, permutations, shingle, most]
    }
}

impl Stage for Near {
    fn name(&self) -> StageName {
        StageName::Near
    }

    fn apply(&mut self, mut record: Record) -> Outcome {
        let Some((event, text)) = record.event_and_text() else { return Outcome::Keep(record) };
        // Beside a picture the same words may say something else.
        let is_text = event.parts.iter().all(|part| matches!(part, Part::Text(_)));
        if !is_text || text.is_empty() {
            return Outcome::Keep(record);
        }
        let signature = self.signature(text);
        if let Some((earlier, found)) = self.find(&signature) {
            let reason = format!(
                "its text is that of `{}` but for little: similarity {found:.2}, at least {} is a \
                 near duplicate",
                earlier.id, self.config.threshold
            );
            return Outcome::Reject(record, Rejection { code: "near_duplicate", reason });
        }
        let id = event.id.as_str().into();
        self.remember(Seen { signature, id });
        Outcome::Keep(record)
    }

    fn save(&self, to: &mut Writer) {
        for measure in Self::measures(&self.config) {
            to.u64(measure);
        }
        to.len(self.seen.len());
        for seen in &self.seen {
            for &row in &seen.signature {
                to.u16(row);
            }
            to.text(&seen.id);
        }
    }

    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), CurationError> {
        let mut measures = [0; 4];
        for measure in &mut measures {
            *measure = from.u64()?;
        }
        if measures != Self::measures(&self.config) {
            tracing::warn!("curation.near was configured anew: its memory starts empty");
            from.skip();
            return Ok(());
        }
        for _ in 0..from.len(2 * self.config.permutations + 8)? {
            let mut signature = Vec::with_capacity(self.config.permutations);
            for _ in 0..self.config.permutations {
                signature.push(from.u16()?);
            }
            let id = from.text()?.into();
            self.remember(Seen { signature: signature.into(), id });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Each text as the sorted numbers of its distinct shingles, told apart by their words.
    fn sets(texts: &[String]) -> Vec<Vec<usize>> {
        let mut numbers: HashMap<Vec<&str>, usize> = HashMap::new();
        let mut sets = Vec::new();
        for text in texts {
            let words: Vec<&str> = text.split(' ').collect();
            let mut set = Vec::new();
            for shingle in words.windows(5) {
                let next = numbers.len();
                set.push(*numbers.entry(shingle.to_vec()).or_insert(next));
            }
            set.sort_unstable();
            set.dedup();
            sets.push(set);
        }
        sets
    }

    /// By definition: the share of shingles that two texts have in common.
    fn jaccard(a: &[usize], b: &[usize]) -> f64 {
        let (mut i, mut j, mut both) = (0, 0, 0);
        while i < a.len() && j < b.len() {
            match a[i].cmp(&b[j]) {
                Ordering::Less => i += 1,
                Ordering::Greater => j += 1,
                Ordering::Equal => (i, j, both) = (i + 1, j + 1, both + 1),
            }
        }
        both as f64 / (a.len() + b.len() - both) as f64
    }

    /// Texts of 40 to 300 words; two of three are a copy of an earlier one with 0 to 4 words of
    /// it exchanged, so that similarities of all sizes come up, many of them around the threshold.
    fn texts(n: usize, random: &mut ChaCha8Rng) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for _ in 0..n {
            let copied =
                if random.random_bool(0.66) { texts.choose(random).cloned() } else { None };
            let mut words: Vec<String> = match copied {
                Some(text) => text.split(' ').map(str::to_owned).collect(),
                None => {
                    let long = random.random_range(40..300);
                    (0..long).map(|_| format!("w{}", random.random_range(0..5_000))).collect()
                }
            };
            for _ in 0..random.random_range(0..=4) {
                let at = random.random_range(0..words.len());
                words[at] = format!("x{}", random.random_range(0..5_000));
            }
            texts.push(words.join(" "));
        }
        texts
    }

    /// The claim, against brute force over the true Jaccard similarities of all pairs: precision
    /// and recall of 0.80 or better where most pairs lie inside the noise around the
    /// threshold, and of 0.97 or better for the pairs that lie three standard errors outside of it.
    #[test]
    fn near_duplicates_are_found_as_brute_force_finds_them() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for threshold in [0.9, 0.8, 0.7] {
            let config = NearConfig { threshold, ..NearConfig::default() };
            let texts = texts(900, &mut random);
            let sets = sets(&texts);
            let mut near = Near::new(&config);
            let signatures: Vec<_> = texts.iter().map(|text| near.signature(text)).collect();
            let error = (threshold * (1.0 - threshold) / 128.0_f64).sqrt();
            let (mut all, mut clear) = (Tally::default(), Tally::default());
            for i in 0..texts.len() {
                near.remember(Seen { signature: signatures[i].clone(), id: "i".into() });
                for j in i + 1..texts.len() {
                    let truth = jaccard(&sets[i], &sets[j]);
                    let found = near.find(&signatures[j]).is_some();
                    all.count(truth >= threshold, found);
                    if (truth - threshold).abs() > 3.0 * error {
                        clear.count(truth >= threshold, found);
                    }
                }
                near.forget_oldest();
            }
            assert!(all.same > 150, "{all:?}");
            assert!(all.precision() >= 0.80 && all.recall() >= 0.80, "{threshold}: {all:?}");
            assert!(clear.precision() >= 0.97 && clear.recall() >= 0.97, "{threshold}: {clear:?}");
        }
    }

    #[derive(Debug, Default)]
    struct Tally {
        same: u32,
        found: u32,
        right: u32,
    }

    impl Tally {
        fn count(&mut self, same: bool, found: bool) {
            self.same += u32::from(same);
            self.found += u32::from(found);
            self.right += u32::from(same && found);
        }

        fn precision(&self) -> f64 {
            f64::from(self.right) / f64::from(self.found)
        }

        fn recall(&self) -> f64 {
            f64::from(self.right) / f64::from(self.same)
        }
    }

    #[test]
    fn only_the_newest_texts_are_remembered_and_nothing_of_the_others_stays() {
        let mut near = Near::new(&NearConfig { capacity: 10, ..NearConfig::default() });
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let texts = texts(200, &mut random);
        for text in &texts {
            let signature = near.signature(text);
            near.remember(Seen { signature, id: "t".into() });
        }
        assert_eq!(near.seen.len(), 10);
        assert!(near.buckets.len() <= 10 * near.banding.bands);
        assert!(near.buckets.values().flatten().all(|&n| n >= near.forgotten));
        assert!(near.find(&near.signature(&texts[199])).is_some());
    }
}
