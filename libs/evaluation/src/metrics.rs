//! Quality metrics of answers, on any choice of rows.
use std::collections::BTreeMap;

use tidegate_contracts::Class;
use tidegate_model::Scores;

use crate::{
    Asked, EvaluationError, Metric, Numbers,
    bootstrap::{Bootstrapped, Cells, Resampling, bootstrap},
    kernel::{self, Kernel},
    stats::Paired,
};

/// A label and what was said of it.
pub(crate) type Answer = (usize, usize);

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
    /// How many classes are likelier than the label; the largest number where the model does
    /// not know it.
    pub rank: Vec<u32>,
    /// Probabilities by row and class in the common numbering; 0 for classes that the model does not
    /// know.
    pub probabilities: Vec<f32>,
    /// Classes in the common numbering.
    pub classes: usize,
    /// Where answers are the worst of several: whether it is right on the input as it is.
    pub was_right: Vec<bool>,
    /// Of a corruption: at which share of its severities it is wrong.
    pub errors: Vec<f64>,
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
        let (mut known, start) = (None, self.probabilities.len());
        self.probabilities.resize(start + self.classes, 0.0);
        for (output, &probability) in p.iter().enumerate() {
            self.probabilities[start + numbers[output]] = probability as f32;
            if probability > p[best] {
                best = output;
            }
            if numbers[output] == truth {
                (likelihood, known) = (probability, Some(output));
                distance += (1.0 - probability).powi(2);
            } else {
                distance += probability * probability;
            }
        }
        if known.is_none() {
            distance += 1.0;
        }
        // Of equals the first is said, so it is the likelier one here too.
        let likelier = |(output, &other): (usize, &f64)| {
            known.is_none_or(|at| other > p[at] || (other == p[at] && output < at))
        };
        let rank = p.iter().enumerate().filter(|&one| likelier(one)).count();
        self.rank.push(if known.is_some() { rank as u32 } else { u32::MAX });
        self.said.push(numbers[best]);
        self.likelihood.push(likelihood);
        self.confidence.push(p[best]);
        self.distance.push(distance);
    }

    /// The probability that a row is given of a class.
    #[must_use]
    pub fn probability(&self, row: usize, class: usize) -> f32 {
        self.probabilities[row * self.classes + class]
    }

    /// Whether a row is right.
    #[must_use]
    pub fn right(&self, row: usize) -> bool {
        self.said[row] == self.truth[row]
    }

    /// The same rows with the worse of both answers: the wrong one, or the one that gives the label
    /// less; of numbers the larger error.
    #[must_use]
    pub fn worse(mut self, other: &Self) -> Self {
        let rows = self.numbers.as_ref().map_or(self.truth.len(), |numbers| numbers.truth.len());
        (0..rows).for_each(|row| self.take_worse(row, other, row));
        self
    }

    /// The other's answer to this row, where it is the worse one.
    pub(crate) fn take_worse(&mut self, row: usize, other: &Self, at: usize) {
        if let (Some(numbers), Some(other)) = (&mut self.numbers, &other.numbers) {
            return numbers.take_worse(row, other, at);
        }
        let rank = |of: &Self, row: usize| (of.right(row), of.likelihood[row]);
        if rank(other, at) < rank(self, row) {
            self.said[row] = other.said[at];
            self.likelihood[row] = other.likelihood[at];
            self.confidence[row] = other.confidence[at];
            self.distance[row] = other.distance[at];
            self.rank[row] = other.rank[at];
            let (to, from) = (row * self.classes, at * self.classes);
            self.probabilities[to..to + self.classes]
                .copy_from_slice(&other.probabilities[from..from + self.classes]);
        }
    }

    /// Only these rows.
    pub(crate) fn pick(&self, rows: &[usize]) -> Self {
        if let Some(numbers) = &self.numbers {
            return Self { numbers: Some(numbers.pick(rows)), ..Self::default() };
        }
        let of = |values: &[f64]| rows.iter().map(|&row| values[row]).collect();
        Self {
            truth: rows.iter().map(|&row| self.truth[row]).collect(),
            said: rows.iter().map(|&row| self.said[row]).collect(),
            likelihood: of(&self.likelihood),
            confidence: of(&self.confidence),
            distance: of(&self.distance),
            rank: rows.iter().map(|&row| self.rank[row]).collect(),
            probabilities: rows
                .iter()
                .flat_map(|&row| &self.probabilities[row * self.classes..(row + 1) * self.classes])
                .copied()
                .collect(),
            classes: self.classes,
            ..Self::default()
        }
    }

    /// Of the rows that were right on inputs as they are: those that are wrong, and all.
    pub(crate) fn broken(&self, rows: &[usize]) -> (u64, u64) {
        let was = rows.iter().filter(|&&row| self.was_right[row]);
        was.fold((0, 0), |(broken, all), &row| (broken + u64::from(!self.right(row)), all + 1))
    }

    /// Whether a row is right by a metric of right and wrong.
    pub(crate) fn is_hit(&self, metric: Metric, row: usize) -> bool {
        match metric.places() {
            1 => self.right(row),
            places => self.rank[row] < places,
        }
    }

    /// Hits and trials of a metric that is a share of them.
    pub(crate) fn trials(&self, asked: Asked, rows: &[usize]) -> (u64, u64) {
        let of = |among: &[usize]| -> (u64, u64) {
            let inside = || rows.iter().filter(|&&row| Some(among[row]) == asked.class);
            (inside().filter(|&&row| self.right(row)).count() as u64, inside().count() as u64)
        };
        match asked.metric {
            Metric::Precision => of(&self.said),
            Metric::Recall => of(&self.truth),
            metric => {
                let hits = rows.iter().filter(|&&row| self.is_hit(metric, row)).count();
                (hits as u64, rows.len() as u64)
            }
        }
    }

    /// What one row adds to a metric that is a mean or a median over rows; `None` of others.
    pub(crate) fn loss(&self, metric: Metric, row: usize) -> Option<f64> {
        match (metric, &self.numbers) {
            (Metric::Mae | Metric::RobustMae | Metric::MedianAe, Some(numbers)) => {
                Some(numbers.error(row))
            }
            (Metric::LogLoss, None) => Some(-self.likelihood[row].clamp(kernel::CLIP, 1.0).ln()),
            (Metric::Brier, None) => Some(self.distance[row]),
            (Metric::CorruptionError, None) => self.errors.get(row).copied(),
            _ => None,
        }
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

    /// A quality metric on `rows`; `None` where it is undefined: no rows, nothing of what it divides
    /// by, or answers of another kind.
    #[must_use]
    pub fn value(&self, asked: impl Into<Asked>, rows: &[usize]) -> Option<f64> {
        self.weighed(asked, rows, &vec![1.0; rows.len()])
    }

    /// The same where each of `rows` counts as often as its weight says.
    #[must_use]
    pub fn weighed(&self, asked: impl Into<Asked>, rows: &[usize], weights: &[f64]) -> Option<f64> {
        Kernel::new(self, asked.into(), rows).value(weights)
    }

    /// The metric of one model with its bootstrap interval.
    #[must_use]
    pub fn interval(
        &self,
        asked: impl Into<Asked>,
        rows: &[usize],
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        resampled(&[self], asked.into(), rows, how, |values| values[0])
    }

    /// By how much the metric lies above a baseline's on the same rows, with its interval.
    #[must_use]
    pub fn difference(
        &self,
        baseline: &Self,
        asked: impl Into<Asked>,
        rows: &[usize],
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        resampled(&[self, baseline], asked.into(), rows, how, |values| values[0] - values[1])
    }

    /// How many times a baseline's the metric is, with its interval; of errors, two that are 0 are
    /// alike.
    #[must_use]
    pub fn ratio(
        &self,
        baseline: &Self,
        asked: impl Into<Asked>,
        rows: &[usize],
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        resampled(&[self, baseline], asked.into(), rows, how, |values| {
            if values[0] == values[1] { 1.0 } else { values[0] / values[1] }
        })
    }
}

/// What is made of one metric of each model. Rows that all models answered alike are drawn as one
/// where the metric is of counts.
fn resampled(
    models: &[&Scored],
    asked: Asked,
    rows: &[usize],
    how: Resampling<'_>,
    of: impl Fn(&[f64]) -> f64,
) -> Option<Bootstrapped> {
    let cell = |place: usize| -> Option<Vec<Answer>> {
        models.iter().map(|scored| kernel::cell(scored, asked.metric, rows[place])).collect()
    };
    let cells = if rows.is_empty() || cell(0).is_none() {
        Cells::each(rows.len())
    } else {
        Cells::by(rows.len(), cell)
    };
    let picked: Vec<usize> = cells.rows.iter().map(|&place| rows[place]).collect();
    let kernels: Vec<Kernel<'_>> =
        models.iter().map(|scored| Kernel::new(scored, asked, &picked)).collect();
    bootstrap(&cells, how, |weights| {
        let mut values = [0.0; 2];
        for (value, kernel) in values.iter_mut().zip(&kernels) {
            *value = kernel.value(weights)?;
        }
        Some(of(&values))
    })
}
