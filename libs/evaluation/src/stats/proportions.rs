//! Shares of right answers, and differences of independent ones.
use super::{Interval, binomial_cdf, z};

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

/// The exact interval of a proportion (Clopper and Pearson 1934): it covers at least as often as
/// its level says, whatever the proportion, where Wilson's does so on average. Knows nothing of no
/// trials.
#[must_use]
pub fn clopper_pearson(successes: u64, trials: u64, level: f64) -> Interval {
    let tail = (1.0 - level) / 2.0;
    // The proportion at which so many successes or more (or fewer) are just as rare as a tail.
    let at = |k: u64, cdf: f64| bisect(|p| binomial_cdf(k, trials, p) > cdf);
    let low = if successes == 0 { 0.0 } else { at(successes - 1, 1.0 - tail) };
    let high = if successes == trials { 1.0 } else { at(successes, tail) };
    Interval::new(low, high)
}

/// Where a predicate of 0 to 1 that starts true turns false.
fn bisect(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if holds(middle) { low = middle } else { high = middle }
    }
    0.5 * (low + high)
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
