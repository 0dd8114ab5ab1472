//! Tests of two independent samples by rank.
use super::normal_cdf;

/// Ranks from 1, equal values sharing their mean; and the sum of `t^3 - t` over groups of `t` equal
/// values.
pub(super) fn ranks(values: &[f64]) -> (Vec<f64>, f64) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut ranks, mut ties, mut before) = (vec![0.0; values.len()], 0.0, 0.0);
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let count = equal.len() as f64;
        for &at in equal {
            ranks[at] = before + (count + 1.0) / 2.0;
        }
        ties += count.powi(3) - count;
        before += count;
    }
    (ranks, ties)
}

/// Whether one sample tends to lie above another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MannWhitney {
    /// Pairs in which the first is larger; equal ones count half.
    pub u: f64,
    /// How probable a `u` so far from half of the pairs would be if both were alike, two-sided:
    /// exact for small samples without ties, else normal, corrected for ties and continuity.
    pub p: f64,
    /// The share of pairs in which the first is larger: the common-language effect size.
    pub larger: f64,
}

/// Sizes up to which, without ties, every assignment of ranks is counted.
const ALL_RANKS: usize = 16;

/// Mann and Whitney's test. `None` where a sample is empty or all values are equal.
#[must_use]
pub fn mann_whitney(first: &[f64], second: &[f64]) -> Option<MannWhitney> {
    let (n, m) = (first.len() as f64, second.len() as f64);
    let pooled: Vec<f64> = first.iter().chain(second).copied().collect();
    let (of, ties) = ranks(&pooled);
    let u = of[..first.len()].iter().sum::<f64>() - n * (n + 1.0) / 2.0;
    let all = n + m;
    let variance = n * m / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    if first.is_empty() || second.is_empty() || variance <= 0.0 {
        return None;
    }
    let larger = u.max(n * m - u);
    let p = if ties == 0.0 && first.len().max(second.len()) <= ALL_RANKS {
        2.0 * share_from(larger as usize, first.len(), second.len())
    } else {
        2.0 * normal_cdf(-(larger - n * m / 2.0 - 0.5) / variance.sqrt())
    };
    Some(MannWhitney { u, p: p.min(1.0), larger: u / (n * m) })
}

/// The share of the choices of `n` of `n + m` ranks whose `U` is at least `least`.
fn share_from(least: usize, n: usize, m: usize) -> f64 {
    // By ranks chosen and their U.
    let mut ways = vec![vec![0.0; n * m + 1]; n + 1];
    ways[0][0] = 1.0;
    for rank in 0..n + m {
        for chosen in (0..n.min(rank + 1)).rev() {
            // A rank is above those of the other sample that are below it.
            let others = rank - chosen;
            for u in 0..=(n * m).saturating_sub(others) {
                ways[chosen + 1][u + others] += ways[chosen][u];
            }
        }
    }
    let all: f64 = ways[n].iter().sum();
    ways[n][least..].iter().sum::<f64>() / all
}

/// The median of all differences between a value of the first and one of the second: by how much
/// the first lies above. `None` where a sample is empty.
#[must_use]
pub fn hodges_lehmann(first: &[f64], second: &[f64]) -> Option<f64> {
    let mut differences: Vec<f64> =
        first.iter().flat_map(|x| second.iter().map(move |y| x - y)).collect();
    let middle = differences.len() / 2;
    let even = differences.len().is_multiple_of(2);
    let (below, value, _) = differences
        .get(middle)
        .is_some()
        .then(|| differences.select_nth_unstable_by(middle, f64::total_cmp))?;
    let lower = if even { below.iter().copied().fold(f64::NEG_INFINITY, f64::max) } else { *value };
    Some(0.5 * (lower + *value))
}
