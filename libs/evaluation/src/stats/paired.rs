//! Two models on the same examples.
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Interval, binomial_cdf, normal_cdf, ranks, wilson};

/// Differences of which every assignment of signs is tried.
const ALL_SIGNS: usize = 20;

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

    /// McNemar's test, two-sided, with half of the probability of the split itself: closer to its
    /// level than the exact one, which errs towards no difference.
    #[must_use]
    pub fn mcnemar_mid(&self) -> f64 {
        let (b, c) = (self.only_baseline, self.only_candidate);
        let least = b.min(c);
        let below = if least == 0 { 0.0 } else { binomial_cdf(least - 1, b + c, 0.5) };
        let itself = binomial_cdf(least, b + c, 0.5) - below;
        (self.mcnemar() - itself).clamp(0.0, 1.0)
    }
}

/// How probable a mean of paired differences at least as far from 0 (`two_sided`), or as small,
/// would be if the sign of each were chance. All signs are tried for up to 20 differences; beyond,
/// `count` draws by `seed`, with `(k + 1) / (count + 1)`. `None` of no differences.
#[must_use]
pub fn sign_flips(differences: &[f64], two_sided: bool, count: usize, seed: u64) -> Option<f64> {
    let n = differences.len();
    let real: f64 = differences.iter().sum();
    let slack = 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let reaches = |sum: f64| {
        if two_sided { sum.abs() >= real.abs() - slack } else { sum <= real + slack }
    };
    if n == 0 {
        return None;
    }
    if n <= ALL_SIGNS {
        let sum = |signs: u32| -> f64 {
            let signed = |(i, d): (usize, &f64)| if signs >> i & 1 == 0 { *d } else { -*d };
            differences.iter().enumerate().map(signed).sum()
        };
        let all = 1_u32 << n;
        return Some((0..all).filter(|&signs| reaches(sum(signs))).count() as f64 / f64::from(all));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut reached = 0_usize;
    for _ in 0..count {
        let mut sum = 0.0;
        for of_64 in differences.chunks(64) {
            let mut signs: u64 = rng.random();
            for d in of_64 {
                sum += if signs & 1 == 0 { *d } else { -*d };
                signs >>= 1;
            }
        }
        reached += usize::from(reaches(sum));
    }
    Some((reached + 1) as f64 / (count + 1) as f64)
}

/// Wilcoxon's signed-rank test of paired differences: the sum of ranks of the rarer sign, and how
/// probable one so small would be if signs were chance, two-sided. Exact for up to 50 differences
/// without ties; beyond, normal with the correction for ties. Zeros are left out; `None` if nothing
/// is left.
#[must_use]
pub fn wilcoxon(differences: &[f64]) -> Option<(f64, f64)> {
    let values: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let n = values.len();
    if n == 0 {
        return None;
    }
    let sizes: Vec<f64> = values.iter().map(|d| d.abs()).collect();
    let (of, ties) = ranks::ranks(&sizes);
    let up: f64 = values.iter().zip(&of).filter(|(d, _)| **d > 0.0).map(|(_, rank)| rank).sum();
    let all = (n * (n + 1)) as f64 / 2.0;
    let rarer = up.min(all - up);
    let p = if ties == 0.0 && n <= 50 {
        2.0 * rank_sums_up_to(rarer as usize, n)
    } else {
        let count = n as f64;
        let variance = count * (count + 1.0) * (2.0 * count + 1.0) / 24.0 - ties / 48.0;
        2.0 * normal_cdf((rarer - all / 2.0) / variance.sqrt())
    };
    Some((rarer, p.min(1.0)))
}

/// The share of the `2^n` assignments of signs whose positive ranks sum to at most `most`.
fn rank_sums_up_to(most: usize, n: usize) -> f64 {
    let mut ways = vec![0.0; most + 1];
    ways[0] = 1.0;
    for rank in 1..=n.min(most) {
        for sum in (rank..=most).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    ways.iter().sum::<f64>() / 2_f64.powi(n as i32)
}
