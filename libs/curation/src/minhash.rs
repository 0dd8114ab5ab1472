//! MinHash signatures and how they are banded.
//!
//! Broder, *On the resemblance and containment of documents* (1997); Leskovec, Rajaraman, Ullman,
//! *Mining of Massive Datasets*, chapter 3.
use crate::config::ShingleUnit;

/// 64 bits of FNV-1a, then mixed: the same on every machine and in every version.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(h)
}

/// The finaliser of MurmurHash3: every bit of the input changes half of the output's.
pub(crate) fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Hashes of the first `max` shingles of `size` units; texts of fewer units are one shingle.
pub(crate) fn shingles(text: &str, unit: ShingleUnit, size: usize, max: usize) -> Vec<u32> {
    let enough = max.saturating_add(size);
    let units: Vec<u64> = match unit {
        ShingleUnit::Words => text.split(' ').take(enough).map(|word| hash(word.bytes())).collect(),
        ShingleUnit::Chars => {
            let each = |c: char| mix(u64::from(u32::from(c)));
            text.chars().take(enough).map(each).collect()
        }
    };
    let shingle = |units: &[u64]| {
        let ordered = units.iter().fold(0, |h: u64, unit| h.rotate_left(13).wrapping_mul(5) ^ unit);
        (mix(ordered) >> 32) as u32
    };
    if units.len() <= size {
        return vec![shingle(&units)];
    }
    units.windows(size).take(max).map(shingle).collect()
}

/// The random permutations.
pub(crate) struct MinHash {
    factors: Vec<u32>,
    offsets: Vec<u32>,
}

impl MinHash {
    /// Always the same `permutations`: signatures are kept in snapshots.
    pub(crate) fn new(permutations: usize) -> Self {
        let draw = |i: usize, of: u64| (mix((i as u64 + 1).wrapping_mul(of)) >> 32) as u32;
        Self {
            // Odd factors: `x -> a x + b` is then a permutation of 32-bit numbers.
            factors: (0..permutations).map(|i| draw(i, 0x9e37_79b9_7f4a_7c15) | 1).collect(),
            offsets: (0..permutations).map(|i| draw(i, 0xd1b5_4a32_d192_ed03)).collect(),
        }
    }

    /// For each permutation 16 bits of the smallest image. Different minima share them once in
    /// 65,536 times, which is far below the estimate's own error (Li and König, *b-bit minwise
    /// hashing*, 2010).
    pub(crate) fn signature(&self, shingles: &[u32]) -> Box<[u16]> {
        let mut minima = vec![u32::MAX; self.factors.len()];
        for &shingle in shingles {
            let permutations = self.factors.iter().zip(&self.offsets);
            for (minimum, (factor, offset)) in minima.iter_mut().zip(permutations) {
                *minimum = (*minimum).min(shingle.wrapping_mul(*factor).wrapping_add(*offset));
            }
        }
        minima.into_iter().map(|m| (m.wrapping_mul(0x9e37_79b1) >> 16) as u16).collect()
    }
}

/// Estimated Jaccard similarity of two texts.
pub(crate) fn similarity(a: &[u16], b: &[u16]) -> f64 {
    let same = a.iter().zip(b).filter(|(x, y)| x == y).count();
    same as f64 / a.len() as f64
}

/// How a signature is cut into bands: texts that agree in all rows of any band are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Banding {
    /// Bands.
    pub bands: usize,
    /// Rows in each.
    pub rows: usize,
}

impl Banding {
    /// Of two texts at the threshold, this share at least must be compared.
    pub const RECALL: f64 = 0.99;

    /// The most rows (so the fewest needless comparisons) with which two texts of Jaccard
    /// similarity `threshold` are compared with a probability of [`Banding::RECALL`] or more.
    #[must_use]
    pub fn choose(permutations: usize, threshold: f64) -> Self {
        (1..=permutations)
            .rev()
            .map(|rows| Self { bands: permutations / rows, rows })
            .find(|banding| banding.probability(threshold) >= Self::RECALL)
            .unwrap_or(Self { bands: permutations, rows: 1 })
    }

    /// That two texts of Jaccard similarity `s` are compared: `1 - (1 - s^r)^b` (MMDS, 3.4.2).
    #[must_use]
    pub fn probability(&self, s: f64) -> f64 {
        1.0 - (1.0 - s.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_follow_the_threshold() {
        let high = Banding::choose(128, 0.9);
        let low = Banding::choose(128, 0.5);
        assert_eq!(high, Banding { bands: 12, rows: 10 });
        assert!(low.rows < high.rows);
        for (banding, threshold) in [(high, 0.9), (low, 0.5)] {
            assert!(banding.probability(threshold) >= Banding::RECALL);
            assert!(banding.probability(threshold / 3.0) < 0.2);
        }
    }

    /// Over 400 pairs of sets for each similarity: the mean is the true one, and the spread that of
    /// 128 independent draws.
    #[test]
    fn estimates_are_unbiased_and_spread_as_theory_says() {
        let hashes = MinHash::new(128);
        for (size, shared) in [(30, 20), (30, 27), (300, 200), (300, 270), (3_000, 2_700_u64)] {
            let truth = shared as f64 / (2 * size - shared) as f64;
            let errors: Vec<f64> = (0..400)
                .map(|pair| {
                    let set = |from: u64| -> Vec<u32> {
                        (from..from + size).map(|i| mix(pair << 32 | i) as u32).collect()
                    };
                    let (a, b) = (set(0), set(size - shared));
                    similarity(&hashes.signature(&a), &hashes.signature(&b)) - truth
                })
                .collect();
            let mean = errors.iter().sum::<f64>() / 400.0;
            let spread = (errors.iter().map(|e| e * e).sum::<f64>() / 400.0).sqrt();
            let theory = (truth * (1.0 - truth) / 128.0).sqrt();
            assert!(mean.abs() < 4.0 * theory / 20.0, "{size} {shared}: {mean}");
            assert!((0.8..1.2).contains(&(spread / theory)), "{size} {shared}: {spread} {theory}");
        }
    }

    #[test]
    fn a_short_text_is_one_shingle_and_a_long_one_is_cut() {
        assert_eq!(shingles("two words", ShingleUnit::Words, 5, 100).len(), 1);
        assert_eq!(shingles("a b c d e f g", ShingleUnit::Words, 5, 100).len(), 3);
        assert_eq!(shingles("a b c d e f g", ShingleUnit::Words, 5, 2).len(), 2);
        assert_eq!(shingles("abcdefg", ShingleUnit::Chars, 5, 100).len(), 3);
        assert_ne!(
            shingles("a b c d e", ShingleUnit::Words, 5, 9),
            shingles("b a c d e", ShingleUnit::Words, 5, 9)
        );
    }
}
