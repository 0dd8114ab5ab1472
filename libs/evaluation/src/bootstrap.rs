//! Resampling: intervals for any statistic of weighted rows, and a permutation test for groups.
use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution as _};

use crate::stats::{Interval, linear_quantile, normal_cdf, normal_quantile};

/// Rows left out at a time when the jackknife would cost more than this many passes.
const JACKKNIFE_BLOCKS: usize = 200;

/// Where a statistic is undefined in more than this share of resamples, it has no interval.
const UNDEFINED: f64 = 0.1;

/// An estimate with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrapped {
    /// The statistic of all rows.
    pub estimate: f64,
    /// Its interval.
    pub interval: Interval,
    /// `bootstrap_bca`, or `bootstrap_percentile` where the acceleration is undefined.
    pub method: &'static str,
}

/// How to resample.
#[derive(Debug, Clone, Copy)]
pub struct Resampling<'a> {
    /// Rows of the same number are resampled among themselves; empty: all among all.
    pub strata: &'a [usize],
    /// Resamples.
    pub count: usize,
    /// Confidence level.
    pub level: f64,
    /// Of the random generator.
    pub seed: u64,
}

/// Rows that a statistic cannot tell apart, drawn as one: a metric of a table of counts has few
/// cells however many examples there are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cells {
    /// A row of each cell.
    pub rows: Vec<usize>,
    /// How many rows it has.
    pub counts: Vec<u32>,
    /// The cell of each row.
    of: Vec<u32>,
}

impl Cells {
    /// One cell for each of `rows` rows.
    #[must_use]
    pub fn each(rows: usize) -> Self {
        let of = (0..rows as u32).collect();
        Self { rows: (0..rows).collect(), counts: vec![1; rows], of }
    }

    /// Rows of the same key are one cell; cells are in the order of their first rows.
    #[must_use]
    pub fn by<K: std::hash::Hash + Eq>(rows: usize, key: impl Fn(usize) -> K) -> Self {
        let mut numbers = std::collections::HashMap::<K, u32>::new();
        let mut cells = Self::default();
        for row in 0..rows {
            let next = cells.rows.len() as u32;
            let cell = *numbers.entry(key(row)).or_insert(next);
            if cell == next {
                cells.rows.push(row);
                cells.counts.push(0);
            }
            cells.counts[cell as usize] += 1;
            cells.of.push(cell);
        }
        cells
    }

    /// Weights as they are.
    fn whole(&self) -> Vec<f64> {
        self.counts.iter().copied().map(f64::from).collect()
    }
}

/// The bootstrap interval of `statistic` over cells, which is given how often each was drawn: for
/// all rows as often as it has rows. A paired statistic computes both models on what it is given, so
/// that pairs stay together. `how.strata` are by row; rows of a cell are of one stratum. `None` where
/// it is undefined on all rows, or on more than a tenth of the resamples.
pub fn bootstrap(
    cells: &Cells,
    how: Resampling<'_>,
    statistic: impl Fn(&[f64]) -> Option<f64>,
) -> Option<Bootstrapped> {
    let estimate = finite(statistic(&cells.whole()))?;
    let strata: Vec<Draw> = strata(cells.of.len(), how.strata)
        .into_iter()
        .map(|rows| Draw::new(cells, &rows))
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
    let mut weights = vec![0.0; cells.rows.len()];
    let mut distribution = Vec::with_capacity(how.count);
    for _ in 0..how.count {
        weights.fill(0.0);
        strata.iter().for_each(|stratum| stratum.draw(&mut rng, &mut weights));
        distribution.extend(finite(statistic(&weights)));
    }
    if (distribution.len() as f64) < how.count as f64 * (1.0 - UNDEFINED) {
        return None;
    }
    distribution.sort_by(f64::total_cmp);
    let left_out = jackknife(cells, &statistic);
    let bca = bca(estimate, &distribution, &left_out, how.level);
    let (interval, method) = match bca {
        Some(interval) => (interval, "bootstrap_bca"),
        None => (percentile(&distribution, how.level)?, "bootstrap_percentile"),
    };
    Some(Bootstrapped { estimate, interval, method })
}

/// Rows a cell from which on numbers of rows are drawn, and not rows.
const DENSE: usize = 24;

/// How one stratum is drawn: as many rows as it has, with replacement.
enum Draw {
    /// Row by row, by the cell of each.
    Rows(Vec<u32>),
    /// Cell by cell: of what is left to draw, a binomial share. The same distribution, in time that
    /// grows with the cells and not with the rows.
    Cells { rows: u64, shares: Vec<(u32, f64)> },
}

impl Draw {
    fn new(cells: &Cells, rows: &[usize]) -> Self {
        let mut counts = std::collections::BTreeMap::<u32, u64>::new();
        for &row in rows {
            *counts.entry(cells.of[row]).or_default() += 1;
        }
        if rows.len() < DENSE * counts.len() {
            return Self::Rows(rows.iter().map(|&row| cells.of[row]).collect());
        }
        let mut left = rows.len() as u64;
        let share = |(cell, count): (u32, u64)| {
            let share = count as f64 / left as f64;
            left -= count;
            (cell, share)
        };
        Self::Cells { rows: rows.len() as u64, shares: counts.into_iter().map(share).collect() }
    }

    fn draw(&self, rng: &mut ChaCha8Rng, weights: &mut [f64]) {
        match self {
            Self::Rows(cells) => {
                let count = cells.len() as u32;
                for _ in 0..count {
                    weights[cells[rng.random_range(0..count) as usize] as usize] += 1.0;
                }
            }
            Self::Cells { rows, shares } => {
                let mut left = *rows;
                for &(cell, share) in shares {
                    let drawn = if share >= 1.0 {
                        left
                    } else {
                        let binomial = Binomial::new(left, share);
                        binomial.expect("a share lies between 0 and 1").sample(rng)
                    };
                    weights[cell as usize] += drawn as f64;
                    left -= drawn;
                }
            }
        }
    }
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn strata(n: usize, of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![(0..n).collect()];
    }
    let mut groups = std::collections::BTreeMap::<usize, Vec<usize>>::new();
    for (row, &stratum) in of.iter().enumerate() {
        groups.entry(stratum).or_default().push(row);
    }
    groups.into_values().collect()
}

/// The statistic without each row, or without each of 200 interleaved blocks of rows. Rows of one
/// cell leave the same behind.
fn jackknife(cells: &Cells, statistic: impl Fn(&[f64]) -> Option<f64>) -> Vec<f64> {
    let n = cells.of.len();
    let mut weights = cells.whole();
    if cells.rows.len() <= JACKKNIFE_BLOCKS {
        let mut values = Vec::with_capacity(n);
        for cell in 0..weights.len() {
            weights[cell] -= 1.0;
            let value = finite(statistic(&weights));
            values.extend(value.map(|v| std::iter::repeat_n(v, cells.counts[cell] as usize)));
            weights[cell] += 1.0;
        }
        return values.into_iter().flatten().collect();
    }
    let without = |block: usize| {
        let rows = || (block..n).step_by(JACKKNIFE_BLOCKS).map(|row| cells.of[row] as usize);
        rows().for_each(|cell| weights[cell] -= 1.0);
        let value = finite(statistic(&weights));
        rows().for_each(|cell| weights[cell] += 1.0);
        value
    };
    (0..JACKKNIFE_BLOCKS).filter_map(without).collect()
}

/// The percentile interval of a sorted bootstrap distribution.
#[must_use]
pub fn percentile(distribution: &[f64], level: f64) -> Option<Interval> {
    let tail = (1.0 - level) / 2.0;
    let low = linear_quantile(distribution, tail)?;
    Some(Interval::new(low, linear_quantile(distribution, 1.0 - tail)?))
}

/// The bias-corrected and accelerated interval (Efron 1987) from a sorted bootstrap distribution
/// and the jackknife values. `None` where bias or acceleration are undefined: a constant
/// statistic, or an estimate outside the distribution.
#[must_use]
pub fn bca(estimate: f64, distribution: &[f64], jackknife: &[f64], level: f64) -> Option<Interval> {
    let count = distribution.len() as f64;
    let below = distribution.partition_point(|&x| x < estimate) as f64;
    let not_above = distribution.partition_point(|&x| x <= estimate) as f64;
    let bias = normal_quantile((below + not_above) / (2.0 * count));
    let mean = jackknife.iter().sum::<f64>() / jackknife.len() as f64;
    let (mut squares, mut cubes) = (0.0, 0.0);
    for value in jackknife {
        let pull = mean - value;
        squares += pull * pull;
        cubes += pull.powi(3);
    }
    let acceleration = cubes / (6.0 * squares.powf(1.5));
    if !bias.is_finite() || !acceleration.is_finite() {
        return None;
    }
    let end = |tail: f64| {
        let z = bias + normal_quantile(tail);
        let shrink = 1.0 - acceleration * z;
        // Past the pole the correction turns round: the distribution is too skewed for it.
        (shrink > 0.0).then(|| normal_cdf(bias + z / shrink))
    };
    let tail = (1.0 - level) / 2.0;
    let low = linear_quantile(distribution, end(tail)?)?;
    Some(Interval::new(low, linear_quantile(distribution, end(1.0 - tail)?)?))
}

/// How probable a statistic at least as large would be if the group labels meant nothing:
/// `groups` are shuffled within equal `strata` (empty: among all), and the share of shuffles that
/// reach the real value is returned as `(k + 1) / (count + 1)`.
pub fn permutation_test(
    groups: &[usize],
    of: &[usize],
    count: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<f64> {
    let real = finite(statistic(groups))?;
    let within = strata(groups.len(), of);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut shuffled = groups.to_vec();
    let mut reached = 0_u64;
    for _ in 0..count {
        for rows in &within {
            let mut values: Vec<usize> = rows.iter().map(|&row| groups[row]).collect();
            values.shuffle(&mut rng);
            for (&row, value) in rows.iter().zip(values) {
                shuffled[row] = value;
            }
        }
        // A shuffle that leaves the statistic undefined speaks for chance, never against it.
        reached += u64::from(finite(statistic(&shuffled)).is_none_or(|v| v >= real - 1e-12));
    }
    Some((reached + 1) as f64 / (count + 1) as f64)
}
