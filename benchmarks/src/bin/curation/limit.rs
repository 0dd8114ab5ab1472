//! What the same bytes cost at least: each part of the work alone, at the speed measured here.
use std::{hint::black_box, time::Instant};

use serde::{Serialize, de::IgnoredAny};
use tidegate_curation::{Incoming, NearConfig};

/// Passes over the stream; the quickest counts.
const PASSES: usize = 5;

/// Bandwidths, and what the stream would take at them.
#[derive(Debug, Serialize)]
pub(crate) struct Limit {
    /// Copying the bytes.
    pub(crate) copy_gb_per_s: f64,
    /// `serde_json`, looking at every byte and keeping nothing.
    pub(crate) json_gb_per_s: f64,
    /// BLAKE3.
    pub(crate) blake3_gb_per_s: f64,
    /// One multiplication, addition and minimum for each permutation of each shingle.
    pub(crate) permutations_per_ns: f64,
    /// JSON, one hash and all permutations.
    pub(crate) seconds: f64,
}

pub(crate) fn measure(records: &[Incoming], near: &NearConfig) -> Limit {
    let values: Vec<&[u8]> = records
        .iter()
        .map(|(Incoming::Event(raw) | Incoming::Label(raw))| raw.value.as_ref())
        .collect();
    let bytes: usize = values.iter().map(|value| value.len()).sum();
    let shingles: Vec<Vec<u32>> = records.iter().filter_map(|r| shingles(r, near)).collect();
    let images = shingles.iter().map(Vec::len).sum::<usize>() * near.permutations;

    let mut to = vec![0_u8; bytes];
    let copy = quickest(|| {
        let mut rest = &mut to[..];
        for value in &values {
            let (here, after) = rest.split_at_mut(value.len());
            here.copy_from_slice(value);
            rest = after;
        }
        black_box(&to);
    });
    let json = quickest(|| {
        for value in &values {
            let read: Result<IgnoredAny, _> = serde_json::from_slice(value);
            black_box(read.is_ok());
        }
    });
    let hash = quickest(|| {
        for value in &values {
            black_box(blake3::hash(value));
        }
    });
    let permutations = quickest(|| {
        for shingles in &shingles {
            black_box(minima(shingles));
        }
    });
    Limit {
        copy_gb_per_s: bytes as f64 / copy / 1e9,
        json_gb_per_s: bytes as f64 / json / 1e9,
        blake3_gb_per_s: bytes as f64 / hash / 1e9,
        permutations_per_ns: images as f64 / permutations / 1e9,
        seconds: json + hash + permutations,
    }
}

fn quickest(mut work: impl FnMut()) -> f64 {
    let once = |_| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    };
    (0..PASSES).map(once).fold(f64::INFINITY, f64::min)
}

/// As many numbers as the event's text has shingles; which ones is of no weight.
fn shingles(record: &Incoming, near: &NearConfig) -> Option<Vec<u32>> {
    let Incoming::Event(raw) = record else { return None };
    let value: serde_json::Value = serde_json::from_slice(&raw.value).ok()?;
    let words = value["parts"][0]["text"].as_str()?.split_whitespace().count();
    let count = (words + 1).saturating_sub(near.shingle).clamp(1, near.max_shingles);
    Some((0..count as u32).map(|i| i.wrapping_mul(0x9e37_79b1)).collect())
}

/// The permutations of [`NearConfig::default`], with their number known to the compiler.
#[inline(never)]
fn minima(shingles: &[u32]) -> [u32; 128] {
    let factors: [u32; 128] = black_box(std::array::from_fn(|i| (2 * i + 1) as u32));
    let offsets: [u32; 128] = black_box(std::array::from_fn(|i| i as u32));
    let mut minima = [u32::MAX; 128];
    for &shingle in shingles {
        for ((minimum, factor), offset) in minima.iter_mut().zip(&factors).zip(&offsets) {
            *minimum = (*minimum).min(shingle.wrapping_mul(*factor).wrapping_add(*offset));
        }
    }
    minima
}
