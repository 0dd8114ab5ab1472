//! The wide path: a linear map from hashed n-grams to the classes.
//!
//! It lives outside autodiff: a step touches a few thousand of its 2^18 rows, so its gradient is
//! derived by hand from that of the logits, and only touched rows move (Cheng et al. 2016, "Wide &
//! Deep Learning"; per-coordinate Adagrad as in McMahan et al. 2013, "Ad click prediction").
use rayon::prelude::*;

use crate::{Architecture, Evidence, Features};

/// Added to the Adagrad accumulator before the root. Far below the square of a usual gradient (of a
/// mean over a batch, about 1e-3), so that a rare gram's first steps are nearly as long as a common
/// one's; at 1e-2 the accumulators would not matter, and a stream of e-mails loses a point.
const START: f32 = 1e-6;

/// Weights of the wide path, `[buckets, classes]`, with their Adagrad accumulators.
#[derive(Debug, Clone, PartialEq)]
pub struct WideTable {
    classes: usize,
    /// `[buckets, classes]`.
    pub(crate) rows: Vec<f32>,
    /// Sum of squared gradients of each weight, `[buckets, classes]`.
    pub(crate) squares: Vec<f32>,
}

impl WideTable {
    /// All zero: no evidence for anything.
    #[must_use]
    pub fn new(buckets: usize, classes: usize) -> Self {
        let size = buckets * classes;
        Self { classes, rows: vec![0.0; size], squares: vec![0.0; size] }
    }

    /// That of an architecture, all zero; without rows where it has no wide path.
    pub(crate) fn of(architecture: &Architecture, outputs: usize) -> Self {
        let [buckets, classes] = architecture.wide_shape(outputs);
        Self::new(buckets, classes)
    }

    /// Takes weights read from a file; both are `[buckets, classes]`.
    pub(crate) fn from_parts(classes: usize, rows: Vec<f32>, squares: Vec<f32>) -> Self {
        debug_assert_eq!(rows.len(), squares.len());
        Self { classes, rows, squares }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of rows.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.rows.len().checked_div(self.classes).unwrap_or(0)
    }

    /// Evidence for each class: the features' rows, weighted and summed. Returns
    /// `[features.len(), classes]`, row by row.
    #[must_use]
    pub fn logits(&self, features: &[&Features]) -> Vec<f32> {
        summed(&self.rows, self.classes, features)
    }

    /// Multiplies all evidence.
    pub fn multiply(&mut self, by: f32) {
        self.rows.par_iter_mut().for_each(|row| *row *= by);
    }

    /// Adds what was counted to what was learnt, `scale` times; below 0 takes it out again.
    ///
    /// # Panics
    /// When the evidence is of another shape.
    pub fn add(&mut self, evidence: &Evidence, scale: f32) {
        assert_eq!(self.rows.len(), evidence.rows.len(), "evidence is [buckets, classes]");
        self.rows.par_iter_mut().zip(&evidence.rows).for_each(|(row, odds)| *row += scale * odds);
    }

    /// Moves the touched rows one Adagrad step down the gradient. A weight's first step is about
    /// `lr` long; 0.3 to 1 learns a stream of e-mails well in batches of 8 to 32.
    ///
    /// `dlogits`: dL/dlogits of the same texts, `[features.len(), classes]`; for the mean softmax
    /// cross-entropy that is `(softmax - target) / features.len()`. Texts that share a gram add
    /// up before the step, so the order of a batch changes nothing but rounding, and rounding is
    /// fixed: contributions are added in the order of the batch.
    ///
    /// # Panics
    /// When `dlogits` has another size.
    pub fn update(&mut self, features: &[&Features], dlogits: &[f32], lr: f32) {
        let classes = self.classes;
        assert_eq!(dlogits.len(), features.len() * classes, "dlogits are [batch, classes]");
        let mut touched: Vec<(u32, u32, f32)> = Vec::new();
        for (text, features) in (0_u32..).zip(features) {
            touched.extend(features.grams.iter().map(|&(bucket, value)| (bucket, text, value)));
        }
        touched.sort_unstable_by_key(|&(bucket, text, _)| (bucket, text));
        let mut gradient = vec![0.0; classes];
        for same in touched.chunk_by(|a, b| a.0 == b.0) {
            gradient.fill(0.0);
            for &(_, text, value) in same {
                let at = text as usize * classes;
                for (sum, d) in gradient.iter_mut().zip(&dlogits[at..at + classes]) {
                    *sum += value * d;
                }
            }
            let at = same[0].0 as usize * classes;
            for (class, &g) in gradient.iter().enumerate() {
                let squares = &mut self.squares[at + class];
                *squares += g * g;
                self.rows[at + class] -= lr * g / (*squares + START).sqrt();
            }
        }
    }

    /// Appends classes without evidence; the columns that were there keep their bits.
    ///
    /// # Panics
    /// When there are more classes already.
    #[must_use]
    pub fn grow_labels(&self, classes: usize) -> Self {
        assert!(classes >= self.classes, "labels are never removed");
        let widen = |old: &[f32]| {
            let mut new = vec![0.0; self.buckets() * classes];
            for (new, old) in new.chunks_exact_mut(classes).zip(old.chunks_exact(self.classes)) {
                new[..self.classes].copy_from_slice(old);
            }
            new
        };
        Self { classes, rows: widen(&self.rows), squares: widen(&self.squares) }
    }

    /// Columns of another label set: of each class that of the class at its index in the present
    /// one, or no evidence for a class that is new.
    ///
    /// # Panics
    /// When an index is of no present class.
    #[must_use]
    pub fn relabel(&self, columns: &[Option<usize>]) -> Self {
        let take = |old: &[f32]| {
            let row = |row: &[f32]| -> Vec<f32> {
                columns.iter().map(|from| from.map_or(0.0, |from| row[from])).collect()
            };
            old.chunks_exact(self.classes).flat_map(row).collect()
        };
        Self { classes: columns.len(), rows: take(&self.rows), squares: take(&self.squares) }
    }
}

/// The features' rows, weighted and summed: `[features.len(), classes]`.
pub(crate) fn summed(rows: &[f32], classes: usize, features: &[&Features]) -> Vec<f32> {
    let mut logits = vec![0.0; features.len() * classes];
    if logits.is_empty() {
        return logits;
    }
    logits.par_chunks_mut(classes).zip(features).for_each(|(out, features)| {
        for &(bucket, value) in &features.grams {
            let at = bucket as usize * classes;
            for (out, weight) in out.iter_mut().zip(&rows[at..at + classes]) {
                *out += value * weight;
            }
        }
    });
    logits
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: usize = 3;
    const TARGETS: [usize; 4] = [0, 2, 1, 2];

    /// Texts that share buckets, and one that has none.
    fn texts() -> Vec<Features> {
        let grams: [&[(u32, f32)]; 4] =
            [&[(0, 0.6), (3, 0.8)], &[(3, 1.0)], &[], &[(0, 0.3), (5, -0.7), (7, 0.2)]];
        grams
            .iter()
            .map(|grams| Features { grams: grams.to_vec(), ..Features::default() })
            .collect()
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let exps: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.iter().map(|e| e / sum).collect()
    }

    fn loss(table: &WideTable, texts: &[&Features]) -> f64 {
        let logits = table.logits(texts);
        let rows = logits.chunks_exact(CLASSES).zip(TARGETS);
        rows.map(|(row, target)| -softmax(row)[target].ln()).sum::<f64>() / TARGETS.len() as f64
    }

    fn dlogits(table: &WideTable, texts: &[&Features]) -> Vec<f32> {
        let logits = table.logits(texts);
        let rows = logits.chunks_exact(CLASSES).zip(TARGETS);
        rows.flat_map(|(row, target)| {
            softmax(row).into_iter().enumerate().map(move |(class, p)| {
                let wanted = f64::from(u8::from(class == target));
                ((p - wanted) / TARGETS.len() as f64) as f32
            })
        })
        .collect()
    }

    fn table() -> WideTable {
        let mut table = WideTable::new(8, CLASSES);
        for (at, weight) in table.rows.iter_mut().enumerate() {
            *weight = (at as f32 * 0.7).sin();
        }
        table
    }

    #[test]
    fn a_step_follows_the_gradient_that_finite_differences_find() {
        let texts = texts();
        let texts: Vec<&Features> = texts.iter().collect();
        let before = table();
        let mut after = before.clone();
        after.update(&texts, &dlogits(&before, &texts), 1.0);
        for at in 0..before.rows.len() {
            let moved = |by: f32| {
                let mut table = before.clone();
                table.rows[at] += by;
                loss(&table, &texts)
            };
            let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let found = f64::from(after.squares[at]).sqrt();
            assert!((found - numeric.abs()).abs() < 1e-4, "weight {at}: {found}, {numeric}");
            let step = numeric / (numeric * numeric + f64::from(START)).sqrt();
            let taken = f64::from(before.rows[at] - after.rows[at]);
            assert!((taken - step).abs() < 1e-3, "weight {at}: {taken}, {step}");
        }
    }

    #[test]
    fn untouched_rows_keep_their_bits_and_steps_shrink() {
        let texts = texts();
        let texts: Vec<&Features> = texts.iter().collect();
        let before = table();
        let mut once = before.clone();
        once.update(&texts, &dlogits(&before, &texts), 0.1);
        for bucket in [1, 2, 4, 6] {
            let row = bucket * CLASSES..(bucket + 1) * CLASSES;
            assert_eq!(once.rows[row.clone()], before.rows[row]);
        }
        let mut twice = once.clone();
        twice.update(&texts, &dlogits(&before, &texts), 0.1);
        let (first, second) =
            ((before.rows[9] - once.rows[9]).abs(), (once.rows[9] - twice.rows[9]).abs());
        assert!(second < first, "{second} < {first}");
        assert!(loss(&once, &texts) < loss(&before, &texts));
    }

    #[test]
    fn another_label_set_keeps_the_columns_of_the_classes_it_shares() {
        let texts = texts();
        let texts: Vec<&Features> = texts.iter().collect();
        let old = table();
        let new = old.relabel(&[Some(2), None, Some(0), None]);
        assert_eq!((new.classes(), new.buckets()), (4, 8));
        for (before, after) in old.logits(&texts).chunks(3).zip(new.logits(&texts).chunks(4)) {
            assert_eq!(after, [before[2], 0.0, before[0], 0.0]);
        }
    }

    #[test]
    fn new_labels_leave_the_old_logits_as_they_were() {
        let texts = texts();
        let texts: Vec<&Features> = texts.iter().collect();
        let (old, new) = (table(), table().grow_labels(5));
        assert_eq!((new.classes(), new.buckets()), (5, 8));
        let (before, after) = (old.logits(&texts), new.logits(&texts));
        for (before, after) in before.chunks_exact(3).zip(after.chunks_exact(5)) {
            assert_eq!(before, &after[..3]);
            assert_eq!(after[3..], [0.0, 0.0]);
        }
    }
}
