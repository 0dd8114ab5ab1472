//! What the champion is compared with in the demo's pictures: logistic regression on hashed
//! 1-2-grams by SGD, updated in the same batches. `benchmarks/quality` runs scikit-learn's own.
use std::collections::HashMap;

const BUCKETS: usize = 1 << 18;
const PASSES: usize = 3;
/// scikit-learn's default `alpha`, and its `optimal` step: 1 / (alpha (t0 + t)).
const ALPHA: f64 = 1e-4;

/// A linear classifier of two classes.
pub(crate) struct Sgd {
    weights: Vec<f32>,
    bias: f32,
    steps: f64,
}

impl Sgd {
    pub(crate) fn new() -> Self {
        Self { weights: vec![0.0; BUCKETS], bias: 0.0, steps: 0.0 }
    }

    /// Whether it says spam.
    pub(crate) fn predict(&self, text: &str) -> bool {
        self.score(&features(text)) > 0.0
    }

    /// Learns one batch of texts with whether each is spam.
    pub(crate) fn learn(&mut self, batch: &[(&str, bool)]) {
        let rows: Vec<_> = batch.iter().map(|(text, spam)| (features(text), *spam)).collect();
        // Bottou's heuristic for the first step, as scikit-learn has it for log loss.
        let typical = (1.0 / ALPHA.sqrt()).sqrt();
        let t0 = 1.0 / (typical * ALPHA);
        for _ in 0..PASSES {
            for (row, spam) in &rows {
                let rate = (1.0 / (ALPHA * (t0 + self.steps))) as f32;
                self.steps += 1.0;
                let target = if *spam { 1.0 } else { 0.0 };
                let error = target - 1.0 / (1.0 + (-self.score(row)).exp());
                for (&bucket, &value) in row {
                    let weight = &mut self.weights[bucket];
                    *weight += rate * (error * value - ALPHA as f32 * *weight);
                }
                self.bias += rate * error * 0.01;
            }
        }
    }

    fn score(&self, row: &HashMap<usize, f32>) -> f32 {
        row.iter().map(|(&bucket, &value)| self.weights[bucket] * value).sum::<f32>() + self.bias
    }
}

/// Word 1-2-grams, lower-cased, hashed, L2-normalised.
fn features(text: &str) -> HashMap<usize, f32> {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| w.len() > 1).collect();
    let mut counts: HashMap<usize, f32> = HashMap::new();
    let mut add = |gram: &str| {
        let hash = blake3::hash(gram.as_bytes());
        let bytes = hash.as_bytes();
        let bucket = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        *counts.entry(bucket as usize % BUCKETS).or_default() += 1.0;
    };
    for word in &words {
        add(word);
    }
    for pair in words.windows(2) {
        add(&pair.join(" "));
    }
    let norm = counts.values().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
    counts.values_mut().for_each(|value| *value /= norm);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_learns_what_separates_two_classes() {
        let batch: Vec<(&str, bool)> =
            (0..60)
                .map(|i| {
                    if i % 2 == 0 { ("win free money now", true) } else { ("lunch at noon", false) }
                })
                .collect();
        let mut sgd = Sgd::new();
        sgd.learn(&batch);
        assert!(sgd.predict("free money") && !sgd.predict("lunch tomorrow at noon"));
    }
}
