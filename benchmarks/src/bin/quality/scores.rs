//! Accuracy, macro-F1, and whether a difference is one.
use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tidegate_benchmarks::streams::{Stream, Text};

/// Share of a stream that settings were chosen on; what comes after it counts.
const CHOSEN_ON: f64 = 0.2;
const RESAMPLES: usize = 4_000;

/// Over the predictions that count.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Scores {
    pub(crate) n: usize,
    pub(crate) accuracy: f64,
    pub(crate) macro_f1: f64,
}

/// A difference of accuracies and its 95 % interval.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Difference {
    pub(crate) points: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Texts of whole batches that settings were chosen on; at least the first batch.
pub(crate) fn skipped(stream: &Stream) -> usize {
    let all: usize = stream.batches.iter().map(Vec::len).sum();
    let mut skipped = 0;
    for batch in &stream.batches {
        if skipped > 0 && (skipped + batch.len()) as f64 > CHOSEN_ON * all as f64 {
            break;
        }
        skipped += batch.len();
    }
    skipped
}

/// Of what counts; of the other part with `development`.
pub(crate) fn score(stream: &Stream, predictions: &[Option<String>], development: bool) -> Scores {
    let skipped = skipped(stream);
    let counted = stream
        .batches
        .iter()
        .flatten()
        .zip(predictions)
        .enumerate()
        .filter(|(at, _)| (*at < skipped) == development)
        .filter_map(|(_, (text, said))| Some((text, said.as_deref()?)));
    of(counted)
}

fn of<'a>(counted: impl Iterator<Item = (&'a Text, &'a str)>) -> Scores {
    // By class: hits, said, actual.
    let mut classes: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let (mut n, mut right) = (0, 0);
    for (text, said) in counted {
        n += 1;
        classes.entry(said).or_default()[1] += 1;
        classes.entry(text.label).or_default()[2] += 1;
        if said == text.label {
            right += 1;
            classes.entry(said).or_default()[0] += 1;
        }
    }
    let f1 = classes.values().map(|[hit, said, actual]| 2.0 * *hit as f64 / (said + actual) as f64);
    let macro_f1 = f1.sum::<f64>() / classes.len().max(1) as f64;
    Scores { n, accuracy: right as f64 / n.max(1) as f64, macro_f1 }
}

/// Ours less theirs, where both predicted. Whole batches are resampled: texts of a day are alike, so
/// that single ones would make the interval too narrow.
pub(crate) fn difference(
    stream: &Stream,
    ours: &[Option<String>],
    theirs: &[Option<String>],
) -> Difference {
    // By batch: texts that count, ours right less theirs right.
    let mut by_batch = vec![];
    let (mut at, skipped) = (0, skipped(stream));
    for batch in &stream.batches {
        let (mut n, mut more) = (0_i64, 0_i64);
        for text in batch {
            if let (true, Some(ours), Some(theirs)) = (at >= skipped, &ours[at], &theirs[at]) {
                n += 1;
                more += i64::from(ours == text.label) - i64::from(theirs == text.label);
            }
            at += 1;
        }
        if n > 0 {
            by_batch.push((n, more));
        }
    }
    let points = |chosen: &mut dyn Iterator<Item = &(i64, i64)>| {
        let (n, more) = chosen.fold((0, 0), |(n, m), (a, b)| (n + a, m + b));
        100.0 * more as f64 / n.max(1) as f64
    };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let draw = |_| &by_batch[random.random_range(0..by_batch.len())];
            points(&mut (0..by_batch.len()).map(draw))
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let at = |q: f64| resampled[(q * (RESAMPLES - 1) as f64) as usize];
    Difference { points: points(&mut by_batch.iter()), low: at(0.025), high: at(0.975) }
}
