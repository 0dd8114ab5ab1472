//! Resampling: intervals for any statistic of paired rows, and a permutation test for groups.
use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

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

/// The bootstrap interval of `statistic` over rows `0..n`. A paired statistic computes both
/// models on the rows it is given, so that pairs stay together. `None` where it is undefined on
/// all rows, or on more than a tenth of the resamples.
pub fn bootstrap(
    n: usize,
    how: Resampling<'_>,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<Bootstrapped> {
    let all: Vec<usize> = (0..n).collect();
    let estimate = finite(statistic(&all))?;
    let groups = strata(n, how.strata);
    let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
    let mut rows = Vec::with_capacity(n);
    let mut distribution = Vec::with_capacity(how.count);
    for _ in 0..how.count {
        rows.clear();
        for group in &groups {
            rows.extend((0..group.len()).map(|_| group[rng.random_range(0..group.len())]));
        }
        distribution.extend(finite(statistic(&rows)));
    }
    if (distribution.len() as f64) < how.count as f64 * (1.0 - UNDEFINED) {
        return None;
    }
    distribution.sort_by(f64::total_cmp);
    let left_out = jackknife(n, &statistic);
    let bca = bca(estimate, &distribution, &left_out, how.level);
    let (interval, method) = match bca {
        Some(interval) => (interval, "bootstrap_bca"),
        None => (percentile(&distribution, how.level)?, "bootstrap_percentile"),
    };
    Some(Bootstrapped { estimate, interval, method })
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

/// The statistic without each row, or without each of 200 interleaved blocks of rows.
fn jackknife(n: usize, statistic: impl Fn(&[usize]) -> Option<f64>) -> Vec<f64> {
    let blocks = n.min(JACKKNIFE_BLOCKS);
    let without = |block: usize| {
        let rows: Vec<usize> = (0..n).filter(|row| row % blocks != block).collect();
        finite(statistic(&rows))
    };
    (0..blocks).filter_map(without).collect()
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
