//! How far one sample lies from another: by how much, and whether by more than chance.
//!
//! With many examples a test finds any difference significant, so checks hold the size of a
//! difference against a bound and only say how probable it was.
use crate::stats::{chi_squared_tail, linear_quantile};

/// Shares below this count as this in logarithms.
const LEAST_SHARE: f64 = 1e-4;

/// Population stability index of shares, 0 where they are the same; by convention 0.1 is some
/// drift and 0.25 much.
#[must_use]
pub fn stability_index(before: &[f64], after: &[f64]) -> f64 {
    let clip = |share: &f64| share.max(LEAST_SHARE);
    let one = |(a, b): (f64, f64)| (b - a) * (b / a).ln();
    before.iter().map(clip).zip(after.iter().map(clip)).map(one).sum()
}

/// Kullback and Leibler's divergence of `after` from `before`, in nats; infinite where `after` has
/// nothing of what there was.
#[must_use]
pub fn divergence(before: &[f64], after: &[f64]) -> f64 {
    let one = |(a, b): (&f64, &f64)| if *a == 0.0 { 0.0 } else { a * (a / b).ln() };
    before.iter().zip(after).map(one).sum()
}

/// Jensen and Shannon's distance of shares, from 0 to 1: the root of the divergence, in bits.
#[must_use]
pub fn jensen_shannon(before: &[f64], after: &[f64]) -> f64 {
    let middle: Vec<f64> = before.iter().zip(after).map(|(a, b)| f64::midpoint(*a, *b)).collect();
    let nats = f64::midpoint(divergence(before, &middle), divergence(after, &middle));
    (nats / std::f64::consts::LN_2).max(0.0).sqrt()
}

/// Edges of bins that each hold a tenth of `values`; the outer bins are open.
#[must_use]
pub fn tenths(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (1..10).filter_map(|tenth| linear_quantile(&sorted, f64::from(tenth) / 10.0)).collect()
}

/// The bin of a value; one on an edge belongs to the upper bin.
#[must_use]
pub fn bin(edges: &[f64], value: f64) -> usize {
    edges.partition_point(|edge| *edge <= value)
}

/// The largest distance of two distribution functions, and Wasserstein's first distance: the mean
/// way that a value has to move. `None` where a sample is empty.
#[must_use]
pub fn distances(before: &[f64], after: &[f64]) -> Option<(f64, f64)> {
    let of_before = before.iter().map(|&value| (value, 1.0, 0.0));
    let mut values: Vec<_> =
        of_before.chain(after.iter().map(|&value| (value, 0.0, 1.0))).collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    distances_of(&values)
}

/// The same of sorted values with how often each was there before and after.
pub(crate) fn distances_of(values: &[(f64, f64, f64)]) -> Option<(f64, f64)> {
    let (n, m) = values.iter().fold((0.0, 0.0), |(n, m), (_, a, b)| (n + a, m + b));
    if n <= 0.0 || m <= 0.0 {
        return None;
    }
    let (mut before, mut after, mut largest, mut area) = (0.0, 0.0, 0.0_f64, 0.0);
    for (at, &(value, a, b)) in values.iter().enumerate() {
        before += a / n;
        after += b / m;
        // Equal values are one step.
        let Some(&(next, ..)) = values.get(at + 1) else { break };
        if next > value {
            let apart: f64 = before - after;
            largest = largest.max(apart.abs());
            area += apart.abs() * (next - value);
        }
    }
    Some((largest, area))
}

/// How probable a distance of two distribution functions of at least `distance` would be if both
/// samples, of `n` and `m` values, were of one distribution: Kolmogorov's distribution at the
/// equivalent size, as scipy has it.
#[must_use]
pub fn kolmogorov_smirnov(distance: f64, n: usize, m: usize) -> f64 {
    let size = (n as f64 * m as f64 / (n + m).max(1) as f64).round();
    kolmogorov_tail(distance, size as usize)
}

/// Sizes up to which the distribution is exact.
const EXACT: usize = 400;

/// `P(D >= d)` for a sample of `n`: Marsaglia, Tsang and Wang (Journal of Statistical Software 8,
/// 2003); in the far tail and of large samples the limit.
fn kolmogorov_tail(d: f64, n: usize) -> f64 {
    let size = n as f64;
    let s = d * d * size;
    if n == 0 || d <= 0.0 {
        return 1.0;
    }
    if n > EXACT || s > 18.0 {
        let root = (s.sqrt() * (1.0 + (0.12 + 0.11 / size.sqrt()) / size.sqrt())).powi(2);
        let term = |k: i32| {
            let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
            sign * (-2.0 * f64::from(k * k) * root).exp()
        };
        return (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0);
    }
    let k = (size * d).ceil().max(1.0) as usize;
    let side = 2 * k - 1;
    let h = k as f64 - size * d;
    let mut one = vec![0.0; side * side];
    for i in 0..side {
        for j in 0..side {
            one[i * side + j] = if j <= i + 1 { 1.0 } else { 0.0 };
        }
    }
    for i in 0..side {
        one[i * side] -= h.powi(i as i32 + 1);
        one[(side - 1) * side + i] -= h.powi((side - i) as i32);
    }
    one[(side - 1) * side] += if 2.0 * h > 1.0 { (2.0 * h - 1.0).powi(side as i32) } else { 0.0 };
    for i in 0..side {
        for j in 0..=i {
            for g in 1..=(i + 1 - j) {
                one[i * side + j] /= g as f64;
            }
        }
    }
    let (power, exponent) = to_power(&one, side, n);
    let mut inside = power[(k - 1) * side + k - 1].ln() + exponent * std::f64::consts::LN_10;
    for i in 1..=n {
        inside += (i as f64 / size).ln();
    }
    (1.0 - inside.exp()).clamp(0.0, 1.0)
}

/// A matrix to a power, and the power of ten that was taken out of it.
fn to_power(matrix: &[f64], side: usize, power: usize) -> (Vec<f64>, f64) {
    let times = |a: &[f64], b: &[f64]| {
        let mut product = vec![0.0; side * side];
        for i in 0..side {
            for k in 0..side {
                let factor = a[i * side + k];
                for j in 0..side {
                    product[i * side + j] += factor * b[k * side + j];
                }
            }
        }
        product
    };
    let mut result: Vec<f64> =
        (0..side * side).map(|at| if at % (side + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let (mut square, mut exponent, mut square_exponent, mut left) =
        (matrix.to_vec(), 0.0, 0.0, power);
    let small = |matrix: &mut Vec<f64>, exponent: &mut f64| {
        let centre = side / 2 * side + side / 2;
        if matrix[centre] > 1e140 {
            matrix.iter_mut().for_each(|value| *value *= 1e-140);
            *exponent += 140.0;
        }
    };
    while left > 0 {
        if left % 2 == 1 {
            result = times(&result, &square);
            exponent += square_exponent;
            small(&mut result, &mut exponent);
        }
        square = times(&square, &square);
        square_exponent *= 2.0;
        small(&mut square, &mut square_exponent);
        left /= 2;
    }
    (result, exponent)
}

/// Pearson's test that two samples have the same shares of classes: chi-squared, degrees of freedom
/// and how probable so large a one would be. Classes that neither has are left out.
#[must_use]
pub fn same_shares(before: &[f64], after: &[f64]) -> (f64, u64, f64) {
    let (n, m): (f64, f64) = (before.iter().sum(), after.iter().sum());
    let (mut chi, mut classes) = (0.0, 0_u64);
    for (a, b) in before.iter().zip(after).filter(|(a, b)| *a + *b > 0.0) {
        let expected = |of: f64| (a + b) * of / (n + m);
        chi += (a - expected(n)).powi(2) / expected(n) + (b - expected(m)).powi(2) / expected(m);
        classes += 1;
    }
    let degrees = classes.saturating_sub(1);
    (chi, degrees, chi_squared_tail(chi, degrees))
}
