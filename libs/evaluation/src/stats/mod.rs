//! Intervals and tests. Pure functions of counts; nothing here knows what a model is.
//!
//! Intervals are two-sided at a confidence `level`: one at 0.90 errs on each side 5 times in 100.
mod multiple;
mod paired;
mod proportions;
mod quantiles;
mod ranks;

use statrs::{
    distribution::{ContinuousCDF as _, Normal},
    function::{beta::beta_reg, gamma::gamma_ur},
};

pub use multiple::{benjamini_hochberg, holm};
pub use paired::{Paired, sign_flips, wilcoxon};
pub use proportions::{
    Stratum, clopper_pearson, mean_of_proportions, newcombe_independent, stratified_difference,
    wilson,
};
pub use quantiles::{
    linear_quantile, nearest_rank, quantile_ranks, queries_for_quantile, under_needed,
};
pub use ranks::{MannWhitney, hodges_lehmann, mann_whitney};

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
pub(crate) fn binomial_quantile(probability: f64, n: u64, p: f64) -> u64 {
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

/// `P(X > x)` of a chi-squared variable with `degrees` of freedom.
#[must_use]
pub fn chi_squared_tail(x: f64, degrees: u64) -> f64 {
    if x <= 0.0 || degrees == 0 { 1.0 } else { gamma_ur(degrees as f64 / 2.0, x / 2.0) }
}
