//! Gaps between groups. The largest of many differences is biased upwards by noise, so a gap
//! fails only when its interval and a permutation test both say so, and groups that are too small
//! to be known are left out by name, never counted as equal.
use std::collections::BTreeMap;

use crate::{
    Metric,
    bootstrap::{Bootstrapped, Resampling, bootstrap, permutation_test},
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

    /// The gap on `picked` places of `rows` with group numbers `of`. `None` where fewer than two
    /// groups are known.
    fn gap_on(
        &self,
        metric: Metric,
        scored: &Scored,
        picked: &[usize],
        of: &[usize],
    ) -> Option<f64> {
        if let Some(numbers) = &scored.numbers {
            let mut sums = vec![(0.0, 0.0); self.names.len()];
            for &place in picked {
                let (sum, n) = &mut sums[of[place]];
                *sum += numbers.error(self.rows[place]);
                *n += 1.0;
            }
            return spread(sums.into_iter().map(|(sum, n)| sum / n));
        }
        let classes = scored.classes;
        let mut n = vec![0_f64; self.names.len()];
        let mut right = n.clone();
        // By group and class: positives, said, said and positive.
        let mut counts = vec![[0_f64; 3]; self.names.len() * classes];
        for &place in picked {
            let (group, row) = (of[place], self.rows[place]);
            n[group] += 1.0;
            right[group] += f64::from(scored.right(row));
            let at = group * classes;
            counts[at + scored.truth[row]][0] += 1.0;
            counts[at + scored.said[row]][1] += 1.0;
            counts[at + scored.truth[row]][2] += f64::from(scored.right(row));
        }
        let count = |group: usize, class: usize| counts[group * classes + class];
        let groups = 0..n.len();
        if metric == Metric::AccuracyGap {
            return spread(groups.map(|g| right[g] / n[g]));
        }
        let of_class = |class: usize| {
            if metric == Metric::DemographicParity {
                return spread(groups.clone().map(|g| count(g, class)[1] / n[g]));
            }
            let known = || groups.clone().filter(|&g| self.known[g][class]);
            let hits = spread(known().map(|g| count(g, class)[2] / count(g, class)[0]));
            let alarms = spread(known().map(|g| {
                let [positives, said, hit] = count(g, class);
                (said - hit) / (n[g] - positives)
            }));
            hits.into_iter().chain(alarms).reduce(f64::max)
        };
        (0..classes).filter_map(of_class).reduce(f64::max)
    }

    fn places(&self) -> Vec<usize> {
        (0..self.rows.len()).collect()
    }

    /// The gap of one model.
    #[must_use]
    pub fn gap(&self, metric: Metric, scored: &Scored) -> Option<f64> {
        self.gap_on(metric, scored, &self.places(), &self.of)
    }

    /// The gap of one model with its interval, resampled within groups.
    #[must_use]
    pub fn interval(
        &self,
        metric: Metric,
        scored: &Scored,
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        bootstrap(self.rows.len(), Resampling { strata: &self.of, ..how }, |picked| {
            self.gap_on(metric, scored, picked, &self.of)
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
        bootstrap(self.rows.len(), Resampling { strata: &self.of, ..how }, |picked| {
            let gap = self.gap_on(metric, candidate, picked, &self.of)?;
            Some(gap - self.gap_on(metric, champion, picked, &self.of)?)
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
        let truth: Vec<usize> = if metric == Metric::EqualizedOdds {
            self.rows.iter().map(|&row| scored.truth[row]).collect()
        } else {
            vec![]
        };
        let places = self.places();
        permutation_test(&self.of, &truth, permutations, seed, |of| {
            self.gap_on(metric, scored, &places, of)
        })
    }
}

/// Largest less smallest; `None` of fewer than two.
fn spread(rates: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut low, mut high, mut count) = (f64::INFINITY, f64::NEG_INFINITY, 0);
    for rate in rates.filter(|rate| rate.is_finite()) {
        low = low.min(rate);
        high = high.max(rate);
        count += 1;
    }
    (count >= 2).then_some(high - low)
}
