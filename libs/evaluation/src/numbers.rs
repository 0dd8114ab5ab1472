//! Quality metrics of answers that are numbers, on any choice of rows.
use tidegate_model::{INTERVAL, Levels, Scores};

use crate::{EvaluationError, Metric, stats::linear_quantile};

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

    /// A metric of numbers on `rows`; `None` where it is undefined: no rows, or for
    /// [`Metric::R2`] the same number in all.
    #[must_use]
    pub fn value(&self, metric: Metric, rows: &[usize]) -> Option<f64> {
        if rows.is_empty() {
            return None;
        }
        let mean = |of: &dyn Fn(usize) -> f64| {
            rows.iter().map(|&row| of(row)).sum::<f64>() / rows.len() as f64
        };
        let square = |row: usize| self.error(row).powi(2);
        match metric {
            Metric::Mae | Metric::RobustMae => Some(mean(&|row| self.error(row))),
            Metric::Rmse => Some(mean(&square).sqrt()),
            Metric::MedianAe => {
                let mut errors: Vec<f64> = rows.iter().map(|&row| self.error(row)).collect();
                errors.sort_by(f64::total_cmp);
                linear_quantile(&errors, 0.5)
            }
            Metric::R2 => {
                let centre = mean(&|row| self.truth[row]);
                let spread = mean(&|row| (self.truth[row] - centre).powi(2));
                (spread > 0.0).then(|| 1.0 - mean(&square) / spread)
            }
            Metric::IntervalError => {
                Some((mean(&|row| f64::from(self.covered[row])) - INTERVAL).abs())
            }
            _ => None,
        }
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

/// Whether a number lies in the interval of an answer.
pub(crate) fn covers(levels: &Levels, probabilities: &[f32], number: f64) -> bool {
    let (low, high) = levels.interval(probabilities);
    (low..=high).contains(&number)
}
