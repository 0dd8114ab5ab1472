//! Gaps between groups. The largest of many differences is biased upwards by noise, so a gap
//! fails only when its interval and a permutation test both say so, and groups that are too small
//! to be known are left out by name, never counted as equal.
use std::collections::BTreeMap;

use crate::{
    Metric,
    bootstrap::{Bootstrapped, Cells, Resampling, bootstrap, permutation_test},
    metrics::Scored,
};

/// The groups of an attribute that have enough examples, and those that do not.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// Names of those with enough.
    pub names: Vec<String>,
    /// Names and sizes of those without.
    pub small: Vec<(String, u64)>,
    /// Rows of the groups with enough.
    pub rows: Vec<usize>,
    /// The group of each of `rows`.
    pub of: Vec<usize>,
    /// Where rates by class are known: by group and class, enough positives and negatives.
    known: Vec<Vec<bool>>,
}

impl Groups {
    /// Sorts `rows` by the value of an attribute. `min_n` examples make a group; `min_class`
    /// positives and negatives make a rate of a class known.
    #[must_use]
    pub fn new(
        rows: &[usize],
        value: impl Fn(usize) -> Option<String>,
        scored: &Scored,
        min_n: u64,
        min_class: u64,
    ) -> Self {
        let mut by_value = BTreeMap::<String, Vec<usize>>::new();
        for &row in rows {
            if let Some(value) = value(row) {
                by_value.entry(value).or_default().push(row);
            }
        }
        let mut groups = Self::default();
        for (name, rows) in by_value {
            let n = rows.len() as u64;
            if n < min_n {
                groups.small.push((name, n));
                continue;
            }
            let mut positives = vec![0_u64; scored.classes];
            for &row in rows.iter().filter(|_| scored.numbers.is_none()) {
                positives[scored.truth[row]] += 1;
            }
            let known = positives.iter().map(|&p| p >= min_class && n - p >= min_class).collect();
            groups.known.push(known);
            groups.of.extend(std::iter::repeat_n(groups.names.len(), rows.len()));
            groups.names.push(name);
            groups.rows.extend(rows);
        }
        groups
    }

    /// Examples in groups that are large enough.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Rates of each group, of one class; of numbers none but the error.
    #[must_use]
    pub fn rates(&self, scored: &Scored, class: usize) -> Vec<Rates> {
        let tally = self.tally(scored, &self.places(), &self.of, &vec![1.0; self.rows.len()]);
        (0..self.names.len()).map(|group| tally.rates(group, class)).collect()
    }

    /// What the groups' rows, at `places` and in groups `of`, say, each as often as its weight.
    fn tally(&self, scored: &Scored, places: &[usize], of: &[usize], weights: &[f64]) -> Tally {
        let mut tally = Tally::new(self.names.len(), scored.classes);
        for (&place, weight) in places.iter().zip(weights) {
            let (group, row) = (of[place], self.rows[place]);
            tally.n[group] += weight;
            if let Some(numbers) = &scored.numbers {
                tally.right[group] += weight * numbers.error(row);
                continue;
            }
            let (truth, said) = (scored.truth[row], scored.said[row]);
            let at = group * scored.classes;
            tally.counts[at + truth][POSITIVE] += weight;
            tally.counts[at + said][SAID] += weight;
            if truth == said {
                tally.right[group] += weight;
                tally.counts[at + truth][HIT] += weight;
            }
        }
        tally
    }

    /// The metric of a tally. `None` where fewer than two groups are known.
    fn of_tally(&self, metric: Metric, tally: &Tally) -> Option<f64> {
        let groups = || 0..self.names.len();
        let means = || groups().map(|g| tally.right[g] / tally.n[g]);
        let classes = 0..tally.classes;
        let known = |class: usize| groups().filter(move |&g| self.known[g][class]);
        let said = |class: usize| groups().map(move |g| tally.rates(g, class).said);
        let hits = |class: usize| spread(known(class).map(|g| tally.rates(g, class).hits));
        let alarms = |class: usize| spread(known(class).map(|g| tally.rates(g, class).alarms));
        match metric {
            Metric::AccuracyGap | Metric::MaeGap => spread(means()),
            Metric::WorstGroupAccuracy => {
                let (low, _, count) = ends(means());
                (count >= 2).then_some(low)
            }
            Metric::DemographicParity => classes.filter_map(|c| spread(said(c))).reduce(f64::max),
            Metric::DemographicParityRatio => {
                let ratio = |class: usize| {
                    let (low, high, count) = ends(said(class));
                    (count >= 2 && high > 0.0).then(|| low / high)
                };
                classes.filter_map(ratio).reduce(f64::min)
            }
            Metric::EqualOpportunity => classes.filter_map(hits).reduce(f64::max),
            Metric::EqualizedOdds => {
                let both = |class| hits(class).into_iter().chain(alarms(class)).reduce(f64::max);
                classes.filter_map(both).reduce(f64::max)
            }
            _ => None,
        }
    }

    fn places(&self) -> Vec<usize> {
        (0..self.rows.len()).collect()
    }

    fn gap_on(
        &self,
        metric: Metric,
        scored: &Scored,
        places: &[usize],
        weights: &[f64],
    ) -> Option<f64> {
        self.of_tally(metric, &self.tally(scored, places, &self.of, weights))
    }

    /// The gap of one model.
    #[must_use]
    pub fn gap(&self, metric: Metric, scored: &Scored) -> Option<f64> {
        self.gap_on(metric, scored, &self.places(), &vec![1.0; self.rows.len()])
    }

    /// The gap of one model with its interval, resampled within groups.
    #[must_use]
    pub fn interval(
        &self,
        metric: Metric,
        scored: &Scored,
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        let cells = self.cells(&[scored]);
        bootstrap(&cells, Resampling { strata: &self.of, ..how }, |weights| {
            self.gap_on(metric, scored, &cells.rows, weights)
        })
    }

    /// The candidate's gap less the champion's on the same examples.
    #[must_use]
    pub fn change(
        &self,
        metric: Metric,
        candidate: &Scored,
        champion: &Scored,
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        let cells = self.cells(&[candidate, champion]);
        bootstrap(&cells, Resampling { strata: &self.of, ..how }, |weights| {
            let gap = self.gap_on(metric, candidate, &cells.rows, weights)?;
            Some(gap - self.gap_on(metric, champion, &cells.rows, weights)?)
        })
    }

    /// Rows of one group that were answered alike are one cell; errors of numbers are all their own.
    fn cells(&self, models: &[&Scored]) -> Cells {
        if models.iter().any(|scored| scored.numbers.is_some()) {
            return Cells::each(self.rows.len());
        }
        Cells::by(self.rows.len(), |place| {
            let answer = |scored: &&Scored| {
                let row = self.rows[place];
                (scored.truth[row], scored.said[row])
            };
            (self.of[place], models.iter().map(answer).collect::<Vec<_>>())
        })
    }

    /// How probable so large a gap would be if groups meant nothing. Error rates are compared
    /// within a class, so their groups are shuffled within classes.
    #[must_use]
    pub fn chance(
        &self,
        metric: Metric,
        scored: &Scored,
        permutations: usize,
        seed: u64,
    ) -> Option<f64> {
        let within_classes = matches!(metric, Metric::EqualizedOdds | Metric::EqualOpportunity);
        let truth: Vec<usize> = if within_classes {
            self.rows.iter().map(|&row| scored.truth[row]).collect()
        } else {
            vec![]
        };
        let (places, weights) = (self.places(), vec![1.0; self.rows.len()]);
        // What is better when it is higher is as far from chance when it is as low.
        let sign = if metric.higher_is_better() { -1.0 } else { 1.0 };
        permutation_test(&self.of, &truth, permutations, seed, |of| {
            let tally = self.tally(scored, &places, of, &weights);
            self.of_tally(metric, &tally).map(|gap| sign * gap)
        })
    }
}

const POSITIVE: usize = 0;
const SAID: usize = 1;
const HIT: usize = 2;

/// Weights by group, and by group and class: positives, said, and both.
struct Tally {
    classes: usize,
    n: Vec<f64>,
    /// Right answers; of numbers, errors.
    right: Vec<f64>,
    counts: Vec<[f64; 3]>,
}

impl Tally {
    fn new(groups: usize, classes: usize) -> Self {
        let counts = vec![[0.0; 3]; groups * classes];
        Self { classes, n: vec![0.0; groups], right: vec![0.0; groups], counts }
    }

    fn rates(&self, group: usize, class: usize) -> Rates {
        let n = self.n[group];
        let [positives, said, hit] = self.counts[group * self.classes + class];
        Rates {
            accuracy: self.right[group] / n,
            said: said / n,
            hits: hit / positives,
            alarms: (said - hit) / (n - positives),
        }
    }
}

/// What one group gets, of one class. Not a number where there is nothing to divide by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Share of right answers.
    pub accuracy: f64,
    /// How often the class is said.
    pub said: f64,
    /// How often it is said of those it is true of.
    pub hits: f64,
    /// How often it is said of the others.
    pub alarms: f64,
}

/// Smallest, largest, and how many.
fn ends(rates: impl Iterator<Item = f64>) -> (f64, f64, usize) {
    let finite = rates.filter(|rate| rate.is_finite());
    finite.fold((f64::INFINITY, f64::NEG_INFINITY, 0), |(low, high, count), rate| {
        (low.min(rate), high.max(rate), count + 1)
    })
}

/// Largest less smallest; `None` of fewer than two.
fn spread(rates: impl Iterator<Item = f64>) -> Option<f64> {
    let (low, high, count) = ends(rates);
    (count >= 2).then_some(high - low)
}
