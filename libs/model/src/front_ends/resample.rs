//! One sample rate to another.

/// Zero crossings of the kernel to each side.
const CROSSINGS: f64 = 24.0;

/// Share of the lower band that is kept: the rest is where the kernel falls off.
const BAND: f64 = 0.94;

/// A band-limited signal at another rate: a sinc under a Hann window (Smith, "Digital audio
/// resampling"), one set of weights for each phase that occurs. A constant stays what it is.
pub(super) fn resample(signal: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to || signal.is_empty() {
        return signal.to_vec();
    }
    let common = gcd(from, to);
    let (up, down) = ((to / common) as usize, (from / common) as usize);
    let cutoff = BAND * (f64::from(to) / f64::from(from)).min(1.0);
    let reach = (CROSSINGS / cutoff).ceil() as usize;
    let mut phases: Vec<Vec<f32>> = vec![Vec::new(); up];
    let count = (signal.len() * up).div_ceil(down);
    let mut samples = Vec::with_capacity(count);
    for at in 0..count {
        let (centre, phase) = (at * down / up, at * down % up);
        if phases[phase].is_empty() {
            phases[phase] = weights(phase as f64 / up as f64, cutoff, reach);
        }
        // The first weight belongs to `centre + 1 - reach`.
        let first = (centre + 1).saturating_sub(reach);
        let last = (centre + 1 + reach).min(signal.len());
        let weights = &phases[phase][first + reach - (centre + 1)..];
        let sum = signal[first.min(last)..last].iter().zip(weights).map(|(x, w)| x * w).sum();
        samples.push(sum);
    }
    samples
}

/// Of the samples `1 - reach` to `reach` around a place `offset` behind sample 0.
fn weights(offset: f64, cutoff: f64, reach: usize) -> Vec<f32> {
    let weight = |at: usize| {
        let distance = at as f64 + 1.0 - reach as f64 - offset;
        let turn = std::f64::consts::PI * cutoff * distance;
        let sinc = if turn.abs() < 1e-9 { 1.0 } else { turn.sin() / turn };
        let inside = (distance / reach as f64).clamp(-1.0, 1.0);
        sinc * (0.5 + 0.5 * (std::f64::consts::PI * inside).cos())
    };
    let weights: Vec<f64> = (0..2 * reach).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| (weight / sum) as f32).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f64, rate: u32, seconds: f64) -> Vec<f32> {
        let count = (f64::from(rate) * seconds) as usize;
        let turn = std::f64::consts::TAU * hertz / f64::from(rate);
        (0..count).map(|at| (turn * at as f64).sin() as f32).collect()
    }

    #[test]
    fn a_tone_is_the_same_tone_at_every_rate() {
        let wanted = tone(1_000.0, 16_000, 0.25);
        for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 44_101] {
            let found = resample(&tone(1_000.0, rate, 0.25), rate, 16_000);
            assert!(found.len().abs_diff(wanted.len()) <= 1, "{rate}: {}", found.len());
            // Beyond the ends there is silence, which a kernel sees.
            for at in 200..wanted.len() - 200 {
                let (found, wanted) = (found[at], wanted[at]);
                assert!((found - wanted).abs() < 2e-3, "{rate}, {at}: {found}, {wanted}");
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        let found = resample(&tone(12_000.0, 48_000, 0.25), 48_000, 16_000);
        let loudest = found[200..found.len() - 200].iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!(loudest < 2e-3, "{loudest}");
    }

    #[test]
    fn a_constant_stays_and_nothing_stays_nothing() {
        let found = resample(&[0.5; 4_000], 44_100, 16_000);
        assert!(found[100..found.len() - 100].iter().all(|x| (x - 0.5).abs() < 1e-5));
        assert_eq!(resample(&[], 8_000, 16_000), Vec::<f32>::new());
        assert_eq!(resample(&[1.0], 16_000, 16_000), [1.0]);
        assert_eq!(resample(&[1.0], 48_000, 16_000).len(), 1);
    }
}
