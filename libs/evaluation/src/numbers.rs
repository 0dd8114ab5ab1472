//! Quality metrics of answers that are numbers, on any choice of rows.
use tidegate_model::{INTERVAL, Levels, Scores};

use crate::{EvaluationError, Metric};

/// What a regressor said about examples whose number is known. By row.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    /// The number.
    pub truth: Vec<f64>,
    /// The answer.
    pub said: Vec<f64>,
    /// Whether the number lies in the answer's interval.
    pub covered: Vec<bool>,
}

impl Numbers {
    /// Reduces answers, by row.
    ///
    /// # Errors
    /// [`EvaluationError::BadAnswer`] when an answer has the wrong shape or is not finite.
    pub(crate) fn new(
        levels: &Levels,
        outputs: usize,
        truth: Vec<f64>,
        scores: &[Scores],
    ) -> Result<Self, EvaluationError> {
        let mut numbers = Self::default();
        for (row, (answer, &truth)) in scores.iter().zip(&truth).enumerate() {
            let p = &answer.probabilities;
            if p.len() != outputs || p.iter().any(|p| !p.is_finite()) {
                let found = p.len();
                return Err(EvaluationError::BadAnswer(format!(
                    "row {row} has {found} probabilities for {outputs} levels, or one that is not \
                     finite"
                )));
            }
            numbers.said.push(levels.mean(p));
            numbers.covered.push(covers(levels, p, truth));
        }
        if scores.len() != truth.len() {
            let (asked, answered) = (truth.len(), scores.len());
            return Err(EvaluationError::BadAnswer(format!("{asked} asked, {answered} answered")));
        }
        numbers.truth = truth;
        Ok(numbers)
    }

    /// How far an answer is off.
    #[must_use]
    pub fn error(&self, row: usize) -> f64 {
        (self.said[row] - self.truth[row]).abs()
    }

    /// The other's answer to this row, where it is further off.
    pub(crate) fn take_worse(&mut self, row: usize, other: &Self, at: usize) {
        if other.error(at) > self.error(row) {
            (self.said[row], self.covered[row]) = (other.said[at], other.covered[at]);
        }
    }

    /// Only these rows.
    #[must_use]
    pub(crate) fn pick(&self, rows: &[usize]) -> Self {
        Self {
            truth: rows.iter().map(|&row| self.truth[row]).collect(),
            said: rows.iter().map(|&row| self.said[row]).collect(),
            covered: rows.iter().map(|&row| self.covered[row]).collect(),
        }
    }
}

/// A metric of numbers, each row counting as often as its weight says; `None` where it is undefined:
/// for [`Metric::R2`] the same number in all, for [`Metric::Mape`] a number that is 0. `order` has the
/// places of `rows` from the largest error for [`Metric::MedianAe`].
pub(crate) fn weighed(
    numbers: &Numbers,
    metric: Metric,
    rows: &[usize],
    order: &[u32],
    weights: &[f64],
) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let mean = |of: &dyn Fn(usize) -> f64| {
        rows.iter().zip(weights).map(|(&row, weight)| weight * of(row)).sum::<f64>() / total
    };
    let square = |row: usize| numbers.error(row).powi(2);
    match metric {
        Metric::Rmse => Some(mean(&square).sqrt()),
        Metric::Mape => Some(mean(&|row| numbers.error(row) / numbers.truth[row].abs()))
            .filter(|value| value.is_finite()),
        Metric::MedianAe => {
            let at = |place: u32| numbers.error(rows[place as usize]);
            // The error that half of the weight lies above, and the one that half lies below.
            let half = |order: &mut dyn Iterator<Item = &u32>| {
                let mut above = 0.0;
                order.copied().find(|&place| {
                    above += weights[place as usize];
                    above >= total / 2.0
                })
            };
            let (high, low) = (half(&mut order.iter())?, half(&mut order.iter().rev())?);
            Some(f64::midpoint(at(high), at(low)))
        }
        Metric::R2 => {
            let centre = mean(&|row| numbers.truth[row]);
            let spread = mean(&|row| (numbers.truth[row] - centre).powi(2));
            (spread > 0.0).then(|| 1.0 - mean(&square) / spread)
        }
        Metric::IntervalError => {
            Some((mean(&|row| f64::from(numbers.covered[row])) - INTERVAL).abs())
        }
        _ => None,
    }
}

/// Whether a number lies in the interval of an answer.
pub(crate) fn covers(levels: &Levels, probabilities: &[f32], number: f64) -> bool {
    let (low, high) = levels.interval(probabilities);
    (low..=high).contains(&number)
}
