//! Intervals and tests. Pure functions of counts; nothing here knows what a model is.
//!
//! Intervals are two-sided at a confidence `level`: one at 0.90 errs on each side 5 times in 100.
use statrs::{
    distribution::{ContinuousCDF as _, Normal},
    function::beta::beta_reg,
};

/// A closed interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Both ends.
    #[must_use]
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    /// As verdicts write it.
    #[must_use]
    pub const fn pair(self) -> (f64, f64) {
        (self.low, self.high)
    }
}

/// The standard normal distribution function.
#[must_use]
pub fn normal_cdf(x: f64) -> f64 {
    Normal::standard().cdf(x)
}

/// Its inverse.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// How many standard errors a two-sided interval of `level` reaches.
#[must_use]
pub fn z(level: f64) -> f64 {
    normal_quantile(0.5 + level / 2.0)
}

/// `P(X <= k)` for `X ~ Binomial(n, p)`.
#[must_use]
pub fn binomial_cdf(k: u64, n: u64, p: f64) -> f64 {
    if k >= n || p <= 0.0 {
        1.0
    } else if p >= 1.0 {
        0.0
    } else {
        beta_reg((n - k) as f64, (k + 1) as f64, 1.0 - p)
    }
}

/// The least `k` with `P(X <= k) >= probability`.
fn binomial_quantile(probability: f64, n: u64, p: f64) -> u64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low + (high - low) / 2;
        if binomial_cdf(middle, n, p) >= probability {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Wilson's score interval of a proportion, without continuity correction. Knows nothing (0 to 1)
/// of no trials.
#[must_use]
pub fn wilson(successes: u64, trials: u64, level: f64) -> Interval {
    if trials == 0 {
        return Interval::new(0.0, 1.0);
    }
    let (n, z) = (trials as f64, z(level));
    let p = successes as f64 / n;
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z / scale * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Interval::new((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Both models on the same examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paired {
    /// Both are right.
    pub both: u64,
    /// Only the baseline is right.
    pub only_baseline: u64,
    /// Only the candidate is right.
    pub only_candidate: u64,
    /// None is right.
    pub neither: u64,
}

impl Paired {
    /// Counts pairs of (candidate right, baseline right).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut table = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => table.both += 1,
                (false, true) => table.only_baseline += 1,
                (true, false) => table.only_candidate += 1,
                (false, false) => table.neither += 1,
            }
        }
        table
    }

    /// Examples.
    #[must_use]
    pub const fn n(&self) -> u64 {
        self.both + self.only_baseline + self.only_candidate + self.neither
    }

    /// The candidate's accuracy less the baseline's; 0 of no examples.
    #[must_use]
    pub fn difference(&self) -> f64 {
        (self.only_candidate as f64 - self.only_baseline as f64) / self.n().max(1) as f64
    }

    /// Newcombe's hybrid score interval of the paired difference (Statistics in Medicine 17,
    /// 1998, method 10): Wilson's limits of both, joined by the correlation of the table.
    #[must_use]
    pub fn newcombe(&self, level: f64) -> Interval {
        if self.n() == 0 {
            return Interval::new(-1.0, 1.0);
        }
        let n = self.n() as f64;
        let [a, b, c, d] =
            [self.both, self.only_baseline, self.only_candidate, self.neither].map(|x| x as f64);
        let (candidate, baseline) = ((a + c) / n, (a + b) / n);
        let of_candidate = wilson(self.both + self.only_candidate, self.n(), level);
        let of_baseline = wilson(self.both + self.only_baseline, self.n(), level);
        let product = (a + c) * (b + d) * (a + b) * (c + d);
        let phi = if product == 0.0 {
            0.0
        } else {
            let raw = a * d - b * c;
            // Corrected towards independence, never past it.
            let corrected = if raw > 0.0 { (raw - n / 2.0).max(0.0) } else { raw };
            corrected / product.sqrt()
        };
        let reach = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
        let down = reach(candidate - of_candidate.low, of_baseline.high - baseline);
        let up = reach(of_candidate.high - candidate, baseline - of_baseline.low);
        Interval::new(self.difference() - down, self.difference() + up)
    }

    /// McNemar's exact test, two-sided: the probability of a split of the discordant pairs at
    /// least as uneven, if both were equally good.
    #[must_use]
    pub fn mcnemar(&self) -> f64 {
        let (b, c) = (self.only_baseline, self.only_candidate);
        (2.0 * binomial_cdf(b.min(c), b + c, 0.5)).min(1.0)
    }

    /// McNemar's exact test that the candidate is worse, one-sided.
    #[must_use]
    pub fn mcnemar_worse(&self) -> f64 {
        let (b, c) = (self.only_baseline, self.only_candidate);
        if b == 0 { 1.0 } else { 1.0 - binomial_cdf(b - 1, b + c, 0.5) }
    }
}

/// Newcombe's hybrid score interval of `p1 - p2` from independent samples, each `(successes,
/// trials)`.
#[must_use]
pub fn newcombe_independent(first: (u64, u64), second: (u64, u64), level: f64) -> Interval {
    let share = |(k, n): (u64, u64)| if n == 0 { 0.5 } else { k as f64 / n as f64 };
    let (p1, p2) = (share(first), share(second));
    let (i1, i2) = (wilson(first.0, first.1, level), wilson(second.0, second.1, level));
    let down = (p1 - i1.low).hypot(i2.high - p2);
    let up = (i1.high - p1).hypot(p2 - i2.low);
    Interval::new((p1 - p2 - down).max(-1.0), (p1 - p2 + up).min(1.0))
}

/// Two samples of one stratum, each `(successes, trials)`, and its weight.
pub type Stratum = ((u64, u64), (u64, u64), f64);

/// The weighted mean of differences `p1 - p2` between independent samples, stratum by stratum;
/// weights are scaled to sum to 1. Newcombe's distances are added in squares (MOVER, as in [`mean_of_proportions`]). `None` without any weight.
#[must_use]
pub fn stratified_difference(strata: &[Stratum], level: f64) -> Option<(f64, Interval)> {
    let total: f64 = strata.iter().map(|(_, _, weight)| weight).sum();
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let share = |(k, n): (u64, u64)| if n == 0 { 0.5 } else { k as f64 / n as f64 };
    let (mut mean, mut down, mut up) = (0.0, 0.0, 0.0);
    for &(first, second, weight) in strata {
        let (weight, difference) = (weight / total, share(first) - share(second));
        let interval = newcombe_independent(first, second, level);
        mean += weight * difference;
        down += (weight * (difference - interval.low)).powi(2);
        up += (weight * (interval.high - difference)).powi(2);
    }
    Some((mean, Interval::new((mean - down.sqrt()).max(-1.0), (mean + up.sqrt()).min(1.0))))
}

/// The mean of independent proportions, each `(successes, trials)`, with an interval that adds
/// Wilson's distances in squares (MOVER; Zou and Donner, Statistics in Medicine 27, 2008). `None`
/// without any trial in one of them.
#[must_use]
pub fn mean_of_proportions(parts: &[(u64, u64)], level: f64) -> Option<(f64, Interval)> {
    if parts.is_empty() || parts.iter().any(|&(_, n)| n == 0) {
        return None;
    }
    let count = parts.len() as f64;
    let (mut mean, mut down, mut up) = (0.0, 0.0, 0.0);
    for &(k, n) in parts {
        let p = k as f64 / n as f64;
        let interval = wilson(k, n, level);
        mean += p / count;
        down += ((p - interval.low) / count).powi(2);
        up += ((interval.high - p) / count).powi(2);
    }
    Some((mean, Interval::new((mean - down.sqrt()).max(0.0), (mean + up.sqrt()).min(1.0))))
}

/// The ranks (from 1) of the order statistics that enclose the quantile `q` of any distribution
/// with at least the confidence `level`. `None` where the sample is too small for an end.
#[must_use]
pub fn quantile_ranks(n: u64, q: f64, level: f64) -> (Option<u64>, Option<u64>) {
    let tail = (1.0 - level) / 2.0;
    let lower = binomial_quantile(tail, n, q);
    let upper = binomial_quantile(1.0 - tail, n, q) + 1;
    ((lower >= 1).then_some(lower), (upper <= n).then_some(upper))
}

/// The quantile `q` of sorted values by the nearest rank.
#[must_use]
pub fn nearest_rank(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The quantile `q` of sorted values, linear between neighbours.
#[must_use]
pub fn linear_quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    Some(sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stratum_is_newcombe_and_other_shares_of_the_strata_are_no_difference() {
        let (first, second) = ((45, 50), (60, 80));
        let (mean, interval) = stratified_difference(&[(first, second, 3.0)], 0.9).unwrap();
        assert!((mean - 0.15).abs() < 1e-12);
        assert_eq!(interval, newcombe_independent(first, second, 0.9));
        // Always right on one class and never on the other, before as now: only the shares moved.
        let strata = [((95, 100), (19, 20), 20.0), ((1, 20), (5, 100), 100.0)];
        let (mean, interval) = stratified_difference(&strata, 0.9).unwrap();
        assert!(mean.abs() < 1e-12 && interval.low < 0.0 && interval.high > 0.0);
        assert_eq!(stratified_difference(&[], 0.9), None);
    }
}
