//! Quantiles of a sample: their values, their intervals, and how large a sample a tail needs.
use super::{binomial_cdf, binomial_quantile, z};

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

/// The least number of answers within a latency bound that, beside `over` answers above it, show
/// that the quantile `q` is within it: `h` with `P(X <= over; h + over, 1 - q) <= 1 - confidence`
/// (LoadGen of MLPerf, `early_stopping.cc`). At 0.99 and 0.99, 662 in all beside one.
#[must_use]
pub fn under_needed(over: u64, q: f64, confidence: f64) -> u64 {
    let shown = |under: u64| binomial_cdf(over, under + over, 1.0 - q) <= 1.0 - confidence + 1e-15;
    let mut high = 1;
    while !shown(high) {
        high *= 2;
    }
    let mut low = high / 2;
    while low < high {
        let middle = low + (high - low) / 2;
        if shown(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Queries that place the quantile `q` to within `margin` of its share (LoadGen's rule for the least
/// run: normal approximation at `confidence`, two-sided).
#[must_use]
pub fn queries_for_quantile(q: f64, confidence: f64, margin: f64) -> f64 {
    (z(confidence) / margin).powi(2) * q * (1.0 - q)
}
