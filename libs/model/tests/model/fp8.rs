//! The casts to 8 bits beside those of Python's `ml_dtypes` (`fp8.json`, written by `fp8.py`).
use std::{collections::BTreeMap, iter, sync::LazyLock};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use tidegate_model::{E4M3, E5M2};

#[derive(Deserialize)]
struct Peer {
    /// The bits of each code's value.
    decode: Vec<u32>,
    /// The first bits of each run of f32 that become one code, and the code.
    runs: Vec<(u32, u8)>,
}

static PEERS: LazyLock<BTreeMap<String, Peer>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("fp8.json")).expect("the fixture is JSON of fp8.py")
});

impl Peer {
    fn encode(&self, bits: u32) -> u8 {
        self.runs[self.runs.partition_point(|(first, _)| *first <= bits) - 1].1
    }

    /// First and last bits, and code, of each run.
    fn ranges(&self) -> impl Iterator<Item = (u32, u32, u8)> {
        let ends = self.runs[1..].iter().map(|(first, _)| first - 1).chain(iter::once(u32::MAX));
        self.runs.iter().zip(ends).map(|((first, code), last)| (*first, last, *code))
    }
}

/// What the peer says, and our casts from and to bits of f32.
struct Format {
    peer: &'static Peer,
    encode: fn(u32) -> u8,
    decode: fn(u8) -> u32,
}

fn formats() -> [Format; 2] {
    [
        Format {
            peer: &PEERS["e4m3"],
            encode: |bits| E4M3::from_f32(f32::from_bits(bits)).to_bits(),
            decode: |code| E4M3::from_bits(code).to_f32().to_bits(),
        },
        Format {
            peer: &PEERS["e5m2"],
            encode: |bits| E5M2::from_f32(f32::from_bits(bits)).to_bits(),
            decode: |code| E5M2::from_bits(code).to_f32().to_bits(),
        },
    ]
}

#[test]
fn every_code_has_the_value_that_ml_dtypes_gives_it() {
    for Format { peer, decode, .. } in formats() {
        assert_eq!(peer.decode.len(), 256);
        for (code, bits) in (0..=255).zip(&peer.decode) {
            assert_eq!(decode(code), *bits, "code {code:#x}");
        }
    }
    assert_eq!(E4M3::from_bits(0x7e).to_f32(), E4M3::MAX);
    assert_eq!(E5M2::from_bits(0x7b).to_f32(), E5M2::MAX);
}

#[test]
fn both_sides_of_every_boundary_are_rounded_as_by_ml_dtypes() {
    for Format { peer, encode, .. } in formats() {
        assert!(peer.runs.len() > 240, "one run a code");
        for (first, last, code) in peer.ranges() {
            let near = [first, first.saturating_add(1), last.saturating_sub(1), last];
            for bits in near.into_iter().filter(|bits| (first..=last).contains(bits)) {
                assert_eq!(encode(bits), code, "bits {bits:#x}");
            }
        }
    }
}

#[test]
fn a_million_numbers_are_rounded_as_by_ml_dtypes() {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..1_000_000 {
        let bits = random.random();
        for Format { peer, encode, .. } in formats() {
            assert_eq!(encode(bits), peer.encode(bits), "bits {bits:#x}");
        }
    }
}

#[test]
#[ignore = "2^33 casts: a minute"]
fn every_f32_is_rounded_as_by_ml_dtypes() {
    for Format { peer, encode, .. } in formats() {
        for (first, last, code) in peer.ranges() {
            for bits in first..=last {
                assert_eq!(encode(bits), code, "bits {bits:#x}");
            }
        }
    }
}
