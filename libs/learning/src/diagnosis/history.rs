//! Histograms over the steps of a job, in bounded memory.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Rows at most; then every two neighbours become one.
const ROWS: usize = 32;

/// Powers of two beyond these are counted as these.
const LOWEST: i16 = -64;
const HIGHEST: i16 = 64;

/// How often values of which size came, row by row of `span` steps: a picture with time on one
/// axis and size on the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Steps of a row.
    pub span: u64,
    /// Of each row: the floor of the value's binary logarithm, and how many values had it.
    pub rows: Vec<BTreeMap<i16, u64>>,
}

impl Default for History {
    fn default() -> Self {
        Self { span: 1, rows: Vec::new() }
    }
}

impl History {
    /// Counts a value of a step. Steps come in order, from 0.
    pub(crate) fn add(&mut self, step: u64, value: f64) {
        while step / self.span >= ROWS as u64 {
            self.halve();
        }
        let row = (step / self.span) as usize;
        if row >= self.rows.len() {
            self.rows.resize_with(row + 1, BTreeMap::new);
        }
        *self.rows[row].entry(bucket(value)).or_default() += 1;
    }

    fn halve(&mut self) {
        let merge = |pair: &[BTreeMap<i16, u64>]| {
            let mut sum = pair[0].clone();
            for (bucket, count) in pair.iter().skip(1).flatten() {
                *sum.entry(*bucket).or_default() += count;
            }
            sum
        };
        self.rows = self.rows.chunks(2).map(merge).collect();
        self.span *= 2;
    }
}

/// 0 and subnormal values are the smallest there are; what is no number is the largest.
fn bucket(value: f64) -> i16 {
    let log = value.log2().floor();
    if log.is_nan() { HIGHEST } else { log.clamp(f64::from(LOWEST), f64::from(HIGHEST)) as i16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_job_has_a_short_history_that_counts_every_step() {
        let mut history = History::default();
        for step in 0..10_000 {
            history.add(step, if step < 5_000 { 3.0 } else { 0.2 });
        }
        assert_eq!(history.span, 512);
        assert!(history.rows.len() <= ROWS);
        let count: u64 = history.rows.iter().flat_map(BTreeMap::values).sum();
        assert_eq!(count, 10_000);
        assert_eq!(history.rows[0], BTreeMap::from([(1, 512)]));
        assert_eq!(history.rows.last().unwrap().keys().collect::<Vec<_>>(), [&-3]);
    }

    #[test]
    fn any_value_has_a_bucket() {
        for (value, expected) in [
            (0.0, LOWEST),
            (1e-300, LOWEST),
            (0.5, -1),
            (1.0, 0),
            (1.99, 0),
            (f64::INFINITY, HIGHEST),
            (f64::NAN, HIGHEST),
        ] {
            assert_eq!(bucket(value), expected, "{value}");
        }
    }
}
