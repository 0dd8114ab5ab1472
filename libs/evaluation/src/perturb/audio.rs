//! Disturbances of sounds.
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tidegate_model::Sound;

use super::{Kind, draw::normal};

/// Seconds of a sound that are perturbed at most; models hear less.
const SECONDS: usize = 30;

/// Decibels that the sound is louder than the noise.
const SIGNAL_TO_NOISE: [f64; 5] = [20.0, 15.0, 10.0, 5.0, 0.0];
/// Decibels, up or down.
const GAIN: [f64; 5] = [2.0, 4.0, 6.0, 9.0, 12.0];
/// Share of the peak above which everything is cut off.
const CLIPPING: [f32; 5] = [0.8, 0.6, 0.4, 0.25, 0.1];
/// Hertz above which nothing is left.
const BAND: [f64; 5] = [6_000.0, 4_000.0, 3_000.0, 2_000.0, 1_000.0];
/// Half the taps of the filter for it.
const TAPS: isize = 50;
/// Share of the time that is silent.
const MASK: [f64; 5] = [0.05, 0.1, 0.15, 0.2, 0.3];

/// The sound, disturbed, as a WAV of floats; nothing where it cannot be decoded.
pub(super) fn change(
    kind: Kind,
    severity: usize,
    bytes: &[u8],
    rng: &mut ChaCha8Rng,
) -> Option<Vec<u8>> {
    let mut sound = Sound::read(bytes, SECONDS).ok()?;
    disturb(kind, severity - 1, &mut sound, rng);
    Some(sound.to_wav())
}

fn disturb(kind: Kind, at: usize, sound: &mut Sound, rng: &mut ChaCha8Rng) {
    let samples = &mut sound.samples;
    match kind {
        Kind::AudioWhiteNoise => {
            let power = samples.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>();
            let signal = (power / samples.len() as f64).sqrt();
            let noise = signal * 10_f64.powf(-SIGNAL_TO_NOISE[at] / 20.0);
            samples.iter_mut().for_each(|sample| *sample += (noise * normal(rng)) as f32);
        }
        Kind::AudioGain => {
            let decibels = if rng.random_bool(0.5) { GAIN[at] } else { -GAIN[at] };
            let gain = 10_f64.powf(decibels / 20.0) as f32;
            samples.iter_mut().for_each(|sample| *sample *= gain);
        }
        Kind::AudioClipping => {
            let peak = samples.iter().fold(0.0_f32, |most, sample| most.max(sample.abs()));
            let most = peak * CLIPPING[at];
            samples.iter_mut().for_each(|sample| *sample = sample.clamp(-most, most));
        }
        Kind::AudioBandLimit => *samples = low(samples, BAND[at] / f64::from(sound.rate)),
        Kind::AudioTimeMask => {
            let length = (samples.len() as f64 * MASK[at]).round() as usize;
            let from = rng.random_range(0..=samples.len() - length);
            samples[from..from + length].fill(0.0);
        }
        _ => {}
    }
}

/// What is below `cut`, a share of the rate: a sinc under a Hann window.
fn low(samples: &[f32], cut: f64) -> Vec<f32> {
    if cut >= 0.5 {
        return samples.to_vec();
    }
    let tap = |at: isize| {
        let turn = 2.0 * std::f64::consts::PI * cut * at as f64;
        let sinc =
            if at == 0 { 2.0 * cut } else { turn.sin() / (std::f64::consts::PI * at as f64) };
        let hann = 0.5 + 0.5 * (std::f64::consts::PI * at as f64 / (TAPS + 1) as f64).cos();
        (sinc * hann) as f32
    };
    let taps: Vec<f32> = (-TAPS..=TAPS).map(tap).collect();
    let one = |at: usize| {
        let from = at.saturating_sub(TAPS as usize);
        let to = (at + TAPS as usize + 1).min(samples.len());
        let first = from + TAPS as usize - at;
        samples[from..to].iter().zip(&taps[first..]).map(|(sample, tap)| sample * tap).sum()
    };
    (0..samples.len()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const KINDS: [Kind; 5] = [
        Kind::AudioWhiteNoise,
        Kind::AudioGain,
        Kind::AudioClipping,
        Kind::AudioBandLimit,
        Kind::AudioTimeMask,
    ];

    /// Tones up to 7 kHz.
    fn sound() -> Sound {
        let sample = |at: u32| {
            let t = f64::from(at) / 16_000.0;
            let tone = |hertz: f64| (std::f64::consts::TAU * hertz * t).sin();
            let tones = [500.0, 1_500.0, 2_500.0, 3_500.0, 5_000.0, 7_000.0];
            (tones.into_iter().map(tone).sum::<f64>() / 12.0) as f32
        };
        Sound { samples: (0..4_000).map(sample).collect(), rate: 16_000 }
    }

    fn far(kind: Kind, severity: usize, seed: u64) -> f64 {
        let (whole, mut changed) = (sound(), sound());
        disturb(kind, severity - 1, &mut changed, &mut ChaCha8Rng::seed_from_u64(seed));
        let pairs = whole.samples.iter().zip(&changed.samples);
        let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        (pairs.map(square).sum::<f64>() / 4_000.0).sqrt()
    }

    #[test]
    fn what_is_more_severe_is_further_away() {
        for kind in KINDS {
            let sum = |severity| (0..8).map(|seed| far(kind, severity, seed)).sum::<f64>();
            let all: Vec<f64> = (1..=5).map(sum).collect();
            assert!(all.is_sorted_by(|a, b| a < b) && all[0] > 0.0, "{kind:?}: {all:?}");
        }
    }

    #[test]
    fn noise_is_as_loud_as_it_says_and_bytes_are_the_same_for_a_seed() {
        let whole = sound();
        let power = whole.samples.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / 4_000.0;
        let noise = far(Kind::AudioWhiteNoise, 3, 1);
        assert!((20.0 * (power.sqrt() / noise).log10() - 10.0).abs() < 0.3, "{noise}");
        let wav = whole.to_wav();
        for kind in KINDS {
            let of = |seed| change(kind, 2, &wav, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
            assert_eq!(of(5), of(5));
            assert_eq!(Sound::read(&of(5), 9).unwrap().samples.len(), 4_000);
        }
        assert_eq!(change(KINDS[0], 1, b"RIFF", &mut ChaCha8Rng::seed_from_u64(0)), None);
    }

    #[test]
    fn a_band_limit_keeps_what_is_below_and_takes_what_is_above() {
        let left = |hertz: f64| {
            let tone: Vec<f32> = (0..2_000)
                .map(|at| (std::f64::consts::TAU * hertz * f64::from(at) / 16_000.0).sin() as f32)
                .collect();
            let kept = low(&tone, 2_000.0 / 16_000.0);
            kept[200..1_800].iter().fold(0.0_f32, |most, s| most.max(s.abs()))
        };
        assert!(
            left(1_000.0) > 0.97 && left(3_000.0) < 0.03,
            "{} {}",
            left(1_000.0),
            left(3_000.0)
        );
    }
}
