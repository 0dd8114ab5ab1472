//! Elementwise mathematics that LLVM vectorises.
use std::f32::consts::LOG2_E;

/// Runs `work` compiled for the widest vectors that this CPU has.
#[inline(always)]
pub(super) fn widest<T>(work: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(work)
}

/// 1.5 * 2^23: a float of this size has no fraction, so adding it rounds to the nearest integer (of
/// two equals the even one), which then stands in the low bits.
const ROUNDS: f32 = 12_582_912.0;

/// e^x within 2 units in the last place; x is held to -87..=88 (Cephes `expf`: Cody-Waite reduction
/// and a polynomial of degree 7).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(LOG2_E, ROUNDS);
    let n = rounded - ROUNDS;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // 2^n. A checked addition would keep the loop from being vectorised.
    y * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The standard normal distribution at x, within 3e-7 (Abramowitz and Stegun 1964, 7.1.26), and its
/// density.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1_f32.mul_add(z, 1.0);
    let p = 1.061_405_4_f32
        .mul_add(t, -1.453_152)
        .mul_add(t, 1.421_413_7)
        .mul_add(t, -0.284_496_74)
        .mul_add(t, 0.254_829_6);
    let bell = exp(-z * z);
    let beyond = 0.5 * p * t * bell;
    (if x < 0.0 { beyond } else { 1.0 - beyond }, 0.398_942_3 * bell)
}

/// Lanes of partial sums: enough for the widest vectors, and the same on every machine, so that
/// sums are too.
const LANES: usize = 16;

/// Sum of products.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_full, a_rest) = a.as_chunks::<LANES>();
    let (b_full, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_full.iter().zip(b_full) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = a.mul_add(*b, *lane);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest; negative infinity of none.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (full, rest) = values.as_chunks::<LANES>();
    for values in full {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = lane.max(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = lane.max(*value);
    }
    fold(lanes, f32::max)
}

/// Replaces each x by e^(x - highest); returns the sum.
#[inline(always)]
pub(super) fn exp_all(values: &mut [f32], highest: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (full, rest) = values.as_chunks_mut::<LANES>();
    for values in full {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *value = exp(*value - highest);
            *lane += *value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *value = exp(*value - highest);
        *lane += *value;
    }
    fold(lanes, |a, b| a + b)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for at in 0..half {
            lanes[at] = join(lanes[at], lanes[at + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `to += by * from`.
#[inline(always)]
pub(super) fn add_scaled(to: &mut [f32], by: f32, from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = by.mul_add(*from, *to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place_and_held_to_its_range() {
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let (found, exact) = (exp(x), f64::from(x).exp());
            let unit = exact * 2f64.powi(-23);
            assert!((f64::from(found) - exact).abs() <= 2.0 * unit, "{x}: {found} {exact}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) < 2e-38 && exp(1e9).is_finite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_is_the_integral_of_its_density() {
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let step = 1e-3;
        let mut below = 0.0;
        for at in -9_000..9_000_i32 {
            let x = f64::from(at) * step;
            let (found, bell) = normal(x as f32);
            assert!((f64::from(found) - below).abs() < 3e-7, "{x}: {found} {below}");
            assert!((f64::from(bell) - density(x)).abs() < 1e-7, "{x}: {bell}");
            // Simpson's rule.
            let middle = density(x + 0.5 * step);
            below += step / 6.0 * (density(x) + 4.0 * middle + density(x + step));
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_width_of_vectors() {
        let values: Vec<f32> = (0..1_003).map(|at| (at as f32 * 0.37).sin()).collect();
        assert_eq!(dot(&values, &values).to_bits(), widest(|| dot(&values, &values)).to_bits());
        assert_eq!(max(&values), values.iter().copied().fold(f32::MIN, f32::max));
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
