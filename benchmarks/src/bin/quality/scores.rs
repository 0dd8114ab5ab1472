//! Accuracy, macro-F1, and whether a difference is one.
use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tidegate_benchmarks::corpus::Mail;

/// Mails before the first that counts, as in the figures of other learners on this stream.
const SKIPPED: usize = 250;
const RESAMPLES: usize = 4_000;

/// Over the predictions that count.
#[derive(Debug, Clone, Copy, Serialize)]
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

pub(crate) fn score(batches: &[Vec<Mail>], predictions: &[Option<String>]) -> Scores {
    // By class: hits, said, actual.
    let mut classes: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let (mut n, mut right) = (0, 0);
    for (mail, said) in batches.iter().flatten().zip(predictions).skip(SKIPPED) {
        let Some(said) = said else { continue };
        n += 1;
        classes.entry(said).or_default()[1] += 1;
        classes.entry(mail.label).or_default()[2] += 1;
        if said == mail.label {
            right += 1;
            classes.entry(said).or_default()[0] += 1;
        }
    }
    let f1 = classes.values().map(|[hit, said, actual]| 2.0 * *hit as f64 / (said + actual) as f64);
    let macro_f1 = f1.sum::<f64>() / classes.len().max(1) as f64;
    Scores { n, accuracy: right as f64 / n.max(1) as f64, macro_f1 }
}

/// Ours less theirs. Whole batches are resampled: mails of a day are alike, so that single ones
/// would make the interval too narrow.
pub(crate) fn difference(
    batches: &[Vec<Mail>],
    ours: &[Option<String>],
    theirs: &[Option<String>],
) -> Difference {
    // By batch: mails that count, ours right less theirs right.
    let mut by_batch = vec![];
    let mut at = 0;
    for batch in batches {
        let (mut n, mut more) = (0_i64, 0_i64);
        for mail in batch {
            if let (true, Some(ours), Some(theirs)) = (at >= SKIPPED, &ours[at], &theirs[at]) {
                n += 1;
                more += i64::from(ours == mail.label) - i64::from(theirs == mail.label);
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
