//! Evidence that may be looked at after every observation.
//!
//! An e-process starts at 1 and is not expected to grow while its null hypothesis holds, so that it
//! ever reaches `1 / alpha` with a probability of at most `alpha`, however often and whenever one
//! looks (Ville 1939; Ramdas et al., *Game-theoretic statistics*, 2023). All are kept as logarithms.
use statrs::function::beta::{beta_reg, ln_beta};

use crate::stats::{Interval, normal_cdf, z};

/// Bets, as shares of the capital that may be lost at most on one observation.
const BETS: [f64; 6] = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8];

/// Evidence against "the mean of these differences is at most so much", by betting against it.
///
/// Differences lie in -1 to 1, e.g. 1 where only the candidate is right and -1 where only the
/// baseline is. The capital is the mean over fixed bets (Waudby-Smith and Ramdas, *Estimating means
/// of bounded random variables by betting*, 2024).
#[derive(Debug, Clone, PartialEq)]
pub struct EProcess {
    mean: f64,
    bets: Vec<(f64, f64)>,
    observed: u64,
}

impl EProcess {
    /// Against a mean of at most `most`, above -1 and below 1. `-margin` asks whether a candidate is
    /// no worse than a baseline by more than that margin, 0 whether it is better.
    #[must_use]
    pub fn new(most: f64) -> Self {
        Self::with_bets(most, &BETS)
    }

    /// The same with bets of one's own, each above 0 and below 1.
    ///
    /// # Panics
    /// Where `most` or a bet is out of range: the capital could become negative.
    #[must_use]
    pub fn with_bets(most: f64, bets: &[f64]) -> Self {
        assert!(most.abs() < 1.0, "a mean of differences lies between -1 and 1");
        assert!(bets.iter().all(|bet| (0.0..1.0).contains(bet)), "a bet is a share of the capital");
        let bets = bets.iter().map(|&bet| (bet, 0.0)).collect();
        Self { mean: f64::midpoint(most, 1.0), bets, observed: 0 }
    }

    /// Takes one difference; what lies outside of -1 to 1 counts as the nearer end.
    pub fn observe(&mut self, difference: f64) {
        let value = f64::midpoint(difference.clamp(-1.0, 1.0), 1.0);
        for (bet, log) in &mut self.bets {
            *log += (*bet / self.mean * (value - self.mean)).ln_1p();
        }
        self.observed += 1;
    }

    /// The logarithm of the evidence.
    #[must_use]
    pub fn log_e(&self) -> f64 {
        let most = self.bets.iter().map(|(_, log)| *log).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.bets.iter().map(|(_, log)| (log - most).exp()).sum();
        most + (sum / self.bets.len() as f64).ln()
    }

    /// Whether the evidence has reached `1 / alpha`.
    #[must_use]
    pub fn holds_at(&self, alpha: f64) -> bool {
        self.log_e() >= -alpha.ln()
    }

    /// Differences so far.
    #[must_use]
    pub const fn observed(&self) -> u64 {
        self.observed
    }
}

/// Evidence from live labels that what serves now is worse than what served before, by more than a
/// margin: what a rollback rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Harm(EProcess);

impl Harm {
    /// Beyond a loss of `margin`, 0 or more and below 1.
    #[must_use]
    pub fn beyond(margin: f64) -> Self {
        Self(EProcess::new(margin))
    }

    /// Takes one difference, new less old: -1 where only the old one was right, 1 where only the
    /// new one was.
    pub fn observe(&mut self, difference: f64) {
        self.0.observe(-difference);
    }

    /// The logarithm of the evidence.
    #[must_use]
    pub fn log_e(&self) -> f64 {
        self.0.log_e()
    }

    /// Whether the evidence has reached `1 / alpha`.
    #[must_use]
    pub fn holds_at(&self, alpha: f64) -> bool {
        self.0.holds_at(alpha)
    }

    /// Differences so far.
    #[must_use]
    pub const fn observed(&self) -> u64 {
        self.0.observed()
    }
}

/// The logarithm of the evidence against a success probability of `p`, of `successes` in `trials`,
/// by a uniform mixture over all others (Robbins 1970).
#[must_use]
pub fn log_e_of_share(successes: u64, trials: u64, p: f64) -> f64 {
    let (hits, misses) = (successes as f64, (trials - successes) as f64);
    ln_beta(1.0 + hits, 1.0 + misses) - hits * p.ln() - misses * (1.0 - p).ln()
}

/// The same against a probability of at most `p`, by a uniform mixture over the larger ones. Of
/// pairs that only one of two models is right on, against `0.5`: whether the candidate is better.
#[must_use]
pub fn log_e_of_larger_share(successes: u64, trials: u64, p: f64) -> f64 {
    let (hits, misses) = (1.0 + successes as f64, 1.0 + (trials - successes) as f64);
    let above = beta_reg(misses, hits, 1.0 - p);
    log_e_of_share(successes, trials, p) + (above / (1.0 - p)).ln()
}

/// An interval for a success probability that holds at all times at once: the probabilities whose
/// evidence against them has not reached `1 / (1 - level)`.
#[must_use]
pub fn share_at_all_times(successes: u64, trials: u64, level: f64) -> Interval {
    let limit = -(1.0 - level).ln();
    let inside = |p: f64| log_e_of_share(successes, trials, p) < limit;
    let centre = (successes as f64 / trials.max(1) as f64).clamp(1e-12, 1.0 - 1e-12);
    let end = |mut outer: f64| {
        let mut inner = centre;
        if inside(outer.clamp(1e-300, 1.0 - f64::EPSILON)) {
            return outer;
        }
        for _ in 0..100 {
            let middle = f64::midpoint(inner, outer);
            if inside(middle) { inner = middle } else { outer = middle }
        }
        f64::midpoint(inner, outer)
    };
    Interval::new(end(0.0), end(1.0))
}

/// How the error that a line of looks may make is spent over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spending {
    /// Hardly any at the first looks, most at the last.
    ObrienFleming,
    /// About as much at each.
    Pocock,
}

impl Spending {
    /// What of `alpha` is spent when the share `time` of all looks is made (Lan and DeMets,
    /// Biometrika 70, 1983).
    #[must_use]
    pub fn spent(self, alpha: f64, time: f64) -> f64 {
        let time = time.clamp(0.0, 1.0);
        if time == 0.0 {
            return 0.0;
        }
        match self {
            Self::ObrienFleming => 2.0 * normal_cdf(-z(1.0 - alpha) / time.sqrt()),
            Self::Pocock => alpha * (1.0 + (std::f64::consts::E - 1.0) * time).ln(),
        }
    }

    /// What the look `number`, from 1, may spend of `alpha`; a look behind the last planned one gets
    /// what the last one got. Added up over the looks it is `alpha`, so whatever depends on what,
    /// no more than that goes wrong.
    #[must_use]
    pub fn at_look(self, alpha: f64, number: u64, looks: u64) -> f64 {
        let looks = looks.max(1);
        let number = number.clamp(1, looks);
        let time = |k: u64| k as f64 / looks as f64;
        self.spent(alpha, time(number)) - self.spent(alpha, time(number - 1))
    }
}

/// The line of candidates since an anchor, and what its promotions may have cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// Candidates that were judged before this one.
    pub judged: u64,
    /// Those of them that were promoted.
    pub promoted: u64,
}

impl Line {
    /// The level at which e-LOND would test this candidate, so that of all promotions of an endless
    /// line at most the share `alpha` is expected to be wrong (Xu and Ramdas 2024, with
    /// `6 / (pi^2 k^2)`).
    #[must_use]
    pub fn e_lond(self, alpha: f64) -> f64 {
        let number = (self.judged + 1) as f64;
        let share = 6.0 / (std::f64::consts::PI * number).powi(2);
        alpha * share * (self.promoted + 1) as f64
    }

    /// Wrong promotions that are expected at most of so many candidates, this one among them, where
    /// each is tested at `alpha`.
    #[must_use]
    pub fn expected_errors(self, alpha: f64) -> f64 {
        alpha * (self.judged + 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_is_seen_where_there_is_some_and_not_where_there_is_none() {
        let (mut harm, mut none) = (Harm::beyond(0.02), Harm::beyond(0.02));
        for number in 0..600 {
            harm.observe(if number % 5 == 0 { -1.0 } else { 0.0 });
            none.observe([-1.0, 1.0, 0.0, 0.0][number % 4]);
        }
        assert!(harm.holds_at(0.01) && !none.holds_at(0.5), "{harm:?} {none:?}");
        assert_eq!(harm.observed(), 600);
    }

    #[test]
    fn looks_spend_no_more_than_there_is() {
        for spending in [Spending::ObrienFleming, Spending::Pocock] {
            let all: f64 = (1..=30).map(|look| spending.at_look(0.05, look, 30)).sum();
            assert!((all - 0.05).abs() < 1e-9, "{all}");
            assert_eq!(spending.at_look(0.05, 99, 30), spending.at_look(0.05, 30, 30));
        }
    }
}
