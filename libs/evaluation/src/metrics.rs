//! Quality metrics of answers, on any choice of rows.
use std::collections::BTreeMap;

use tidegate_contracts::Class;
use tidegate_model::Scores;

use crate::{EvaluationError, Metric, Numbers, stats::Paired};

/// Probabilities below this count as this in the log loss, so that one certain error stays finite.
const CLIP: f64 = f64::EPSILON;

const CALIBRATION_BINS: usize = 15;

/// One numbering of classes for examples and models, whose own label lists may differ.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    numbers: BTreeMap<Class, usize>,
}

impl Classes {
    /// Numbers every class that is named.
    pub fn new<'a>(all: impl IntoIterator<Item = &'a Class>) -> Self {
        let mut classes = Self::default();
        for class in all {
            let next = classes.numbers.len();
            classes.numbers.entry(class.clone()).or_insert(next);
        }
        classes
    }

    /// The number of a class.
    #[must_use]
    pub fn number(&self, class: &Class) -> Option<usize> {
        self.numbers.get(class).copied()
    }

    /// Their names, by number.
    pub(crate) fn names(&self) -> Vec<&Class> {
        let mut names: Vec<(&usize, &Class)> =
            self.numbers.iter().map(|(class, number)| (number, class)).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, class)| class).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

/// What a model said about labelled examples, reduced to what metrics need. By row.
#[derive(Debug, Clone, Default)]
pub struct Scored {
    /// The label.
    pub truth: Vec<usize>,
    /// The likeliest class.
    pub said: Vec<usize>,
    /// The probability of the label; 0 for a class that the model does not know.
    pub likelihood: Vec<f64>,
    /// The probability of the likeliest class.
    pub confidence: Vec<f64>,
    /// Squared distance of the probabilities from the label.
    pub distance: Vec<f64>,
    /// Classes in the common numbering.
    pub classes: usize,
    /// Answers that are numbers; all of the above is then empty.
    pub numbers: Option<Numbers>,
}

impl Scored {
    /// Reduces answers. `labels` are the model's, by output; `truth` by row, in `classes`.
    ///
    /// # Errors
    /// [`EvaluationError::BadAnswer`] when an answer has the wrong shape or is not finite.
    pub fn new(
        classes: &Classes,
        labels: &[Class],
        truth: Vec<usize>,
        scores: &[Scores],
    ) -> Result<Self, EvaluationError> {
        if scores.len() != truth.len() {
            let (asked, answered) = (truth.len(), scores.len());
            return Err(EvaluationError::BadAnswer(format!("{asked} asked, {answered} answered")));
        }
        let numbers: Vec<usize> = labels
            .iter()
            .map(|label| classes.number(label).expect("every model's labels are numbered"))
            .collect();
        let mut scored = Self { classes: classes.len(), ..Self::default() };
        for (row, (answer, &truth)) in scores.iter().zip(&truth).enumerate() {
            let p: Vec<f64> = answer.probabilities.iter().map(|&p| f64::from(p)).collect();
            if p.len() != labels.len() || p.iter().any(|p| !p.is_finite()) {
                let found = p.len();
                return Err(EvaluationError::BadAnswer(format!(
                    "row {row} has {found} probabilities for {} classes, or one that is not finite",
                    labels.len()
                )));
            }
            scored.push(&numbers, truth, &p);
        }
        scored.truth = truth;
        Ok(scored)
    }

    fn push(&mut self, numbers: &[usize], truth: usize, p: &[f64]) {
        let (mut best, mut likelihood, mut distance) = (0, 0.0, 0.0);
        for (output, &probability) in p.iter().enumerate() {
            if probability > p[best] {
                best = output;
            }
            if numbers[output] == truth {
                likelihood = probability;
                distance += (1.0 - probability).powi(2);
            } else {
                distance += probability * probability;
            }
        }
        if !numbers.contains(&truth) {
            distance += 1.0;
        }
        self.said.push(numbers[best]);
        self.likelihood.push(likelihood);
        self.confidence.push(p[best]);
        self.distance.push(distance);
    }

    /// Whether a row is right.
    #[must_use]
    pub fn right(&self, row: usize) -> bool {
        self.said[row] == self.truth[row]
    }

    /// Right rows and all rows.
    #[must_use]
    pub fn successes(&self, rows: &[usize]) -> (u64, u64) {
        (rows.iter().filter(|&&row| self.right(row)).count() as u64, rows.len() as u64)
    }

    /// Right rows and all rows of every class that is there.
    #[must_use]
    pub fn recalls(&self, rows: &[usize]) -> Vec<(u64, u64)> {
        let mut counts = vec![(0, 0); self.classes];
        for &row in rows {
            let (right, all) = &mut counts[self.truth[row]];
            *right += u64::from(self.right(row));
            *all += 1;
        }
        counts.retain(|&(_, all)| all > 0);
        counts
    }

    /// Against a baseline that always says the commonest class of these rows.
    #[must_use]
    pub fn over_majority(&self, rows: &[usize]) -> Paired {
        let mut counts = vec![0_u64; self.classes];
        for &row in rows {
            counts[self.truth[row]] += 1;
        }
        let commonest = (0..counts.len()).max_by_key(|&class| counts[class]);
        let pairs = rows.iter().map(|&row| (self.right(row), Some(self.truth[row]) == commonest));
        Paired::count(pairs)
    }

    /// A quality metric on `rows`; `None` where it is undefined: no rows, or answers of another kind.
    #[must_use]
    pub fn value(&self, metric: Metric, rows: &[usize]) -> Option<f64> {
        if let Some(numbers) = &self.numbers {
            return numbers.value(metric, rows);
        }
        if rows.is_empty() {
            return None;
        }
        let mean = |of: &dyn Fn(usize) -> f64| {
            rows.iter().map(|&row| of(row)).sum::<f64>() / rows.len() as f64
        };
        match metric {
            Metric::Accuracy | Metric::RobustAccuracy => {
                Some(mean(&|row| f64::from(self.right(row))))
            }
            Metric::BalancedAccuracy => {
                let recalls = self.recalls(rows);
                let sum: f64 = recalls.iter().map(|&(right, all)| right as f64 / all as f64).sum();
                Some(sum / recalls.len() as f64)
            }
            Metric::AccuracyOverMajority => Some(self.over_majority(rows).difference()),
            Metric::MacroF1 => Some(self.macro_f1(rows)),
            Metric::LogLoss => Some(mean(&|row| -self.likelihood[row].clamp(CLIP, 1.0).ln())),
            Metric::Brier => Some(mean(&|row| self.distance[row])),
            Metric::Ece => Some(self.calibration_error(rows)),
            _ => None,
        }
    }

    /// Over the classes that are seen or said; the F1 of a class that is never hit is 0.
    fn macro_f1(&self, rows: &[usize]) -> f64 {
        let mut counts = vec![[0_u32; 3]; self.classes];
        for &row in rows {
            counts[self.truth[row]][0] += 1;
            counts[self.said[row]][1] += 1;
            counts[self.truth[row]][2] += u32::from(self.right(row));
        }
        let (mut sum, mut classes) = (0.0, 0.0);
        for [seen, said, hit] in counts {
            if seen + said > 0 {
                sum += 2.0 * f64::from(hit) / f64::from(seen + said);
                classes += 1.0;
            }
        }
        sum / classes
    }

    /// Bins `[k/15, (k+1)/15)`, the last one closed; by the likeliest class.
    fn calibration_error(&self, rows: &[usize]) -> f64 {
        let mut bins = [(0.0, 0.0); CALIBRATION_BINS];
        for &row in rows {
            let bin = (self.confidence[row] * CALIBRATION_BINS as f64) as usize;
            let (confidence, right) = &mut bins[bin.min(CALIBRATION_BINS - 1)];
            *confidence += self.confidence[row];
            *right += f64::from(self.right(row));
        }
        bins.iter().map(|(confidence, right)| (confidence - right).abs()).sum::<f64>()
            / rows.len() as f64
    }
}
