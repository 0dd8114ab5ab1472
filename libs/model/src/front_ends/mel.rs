//! The log-mel spectrogram of a sound at 16 kHz.
use std::sync::LazyLock;

use crate::ops::matrix_product;

/// Samples a second.
pub(super) const RATE: u32 = 16_000;
/// Samples of a window: 25 ms.
const WINDOW: usize = 400;
/// Samples from one window to the next: 10 ms.
const HOP: usize = 160;
/// Frequencies of its Fourier transform.
const BINS: usize = WINDOW / 2 + 1;
/// Energies are not below this, so that silence has a logarithm.
const SILENCE: f32 = 1e-10;

/// The Fourier transform of a window (Hann), real parts before imaginary ones,
/// `[WINDOW, 2 * BINS]`. At this length a matrix product over all frames takes a few milliseconds for
/// a second of sound, and no other library.
static TRANSFORM: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let turn = |at: usize| std::f64::consts::TAU * (at % WINDOW) as f64 / WINDOW as f64;
    let row = |at: usize| {
        let hann = 0.5 - 0.5 * turn(at).cos();
        let cos = (0..BINS).map(move |bin| (hann * turn(at * bin).cos()) as f32);
        let sin = (0..BINS).map(move |bin| (hann * turn(at * bin).sin()) as f32);
        cos.chain(sin)
    };
    (0..WINDOW).flat_map(row).collect()
});

/// The same turned round, `[2 * BINS, WINDOW]`: the way back.
static BACK: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let row = |bin: usize| (0..WINDOW).map(move |at| TRANSFORM[at * 2 * BINS + bin]);
    (0..2 * BINS).flat_map(row).collect()
});

/// Natural logarithms of mel energies, `[frames, mels]`: power of windows of 25 ms (Hann) every
/// 10 ms, in triangles of equal width on Slaney's mel scale, each of area 1 (Slaney 1998,
/// "Auditory toolbox"). The last window begins where a whole one is left; a sound that is shorter
/// than one has silence behind it.
pub(super) fn log_mel(sound: &[f32], mels: usize) -> Vec<f32> {
    let (bands, spectra) = (bands(mels), spectra(sound));
    let mut energies = Vec::with_capacity(spectra.len() / (2 * BINS) * mels);
    for spectrum in spectra.chunks_exact(2 * BINS) {
        let power = power(spectrum);
        energies.extend(bands.iter().map(|band| band.energy(&power).max(SILENCE).ln()));
    }
    energies
}

/// The slope of a score over the sound's samples, from its slopes over the energies of the first
/// frames: the way back of [`log_mel`].
pub(super) fn log_mel_slope(sound: &[f32], mels: usize, slopes: &[f32]) -> Vec<f32> {
    let (bands, mut spectra) = (bands(mels), spectra(sound));
    let frames = spectra.len() / (2 * BINS);
    for (frame, spectrum) in spectra.chunks_exact_mut(2 * BINS).enumerate() {
        let power = power(spectrum);
        let mut of_power = [0.0; BINS];
        let slopes = slopes.get(frame * mels..(frame + 1) * mels).unwrap_or_default();
        for (band, slope) in bands.iter().zip(slopes) {
            let energy = band.energy(&power);
            if energy > SILENCE {
                let places = of_power[band.first..].iter_mut().zip(&band.weights);
                places.for_each(|(sum, weight)| *sum += slope * weight / energy);
            }
        }
        let (real, imaginary) = spectrum.split_at_mut(BINS);
        for ((re, im), of_power) in real.iter_mut().zip(imaginary).zip(of_power) {
            (*re, *im) = (2.0 * *re * of_power, 2.0 * *im * of_power);
        }
    }
    let windows = matrix_product(&spectra, &BACK, [frames, 2 * BINS, WINDOW]);
    let mut all = vec![0.0; sound.len()];
    for (window, start) in windows.chunks_exact(WINDOW).zip((0..).step_by(HOP)) {
        let start = start.min(all.len());
        all[start..].iter_mut().zip(window).for_each(|(sum, slope)| *sum += slope);
    }
    all
}

/// Fourier transforms of the sound's windows, `[frames, 2 * BINS]`.
fn spectra(sound: &[f32]) -> Vec<f32> {
    let frames = 1 + sound.len().saturating_sub(WINDOW) / HOP;
    let mut windows = vec![0.0; frames * WINDOW];
    for (window, start) in windows.chunks_exact_mut(WINDOW).zip((0..).step_by(HOP)) {
        let rest = &sound[sound.len().min(start)..];
        let length = rest.len().min(WINDOW);
        window[..length].copy_from_slice(&rest[..length]);
    }
    matrix_product(&windows, &TRANSFORM, [frames, WINDOW, 2 * BINS])
}

fn power(spectrum: &[f32]) -> [f32; BINS] {
    std::array::from_fn(|bin| spectrum[bin].powi(2) + spectrum[BINS + bin].powi(2))
}

/// A triangle over the bins of the transform.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl Band {
    fn energy(&self, power: &[f32; BINS]) -> f32 {
        self.weights.iter().zip(&power[self.first..]).map(|(weight, power)| weight * power).sum()
    }
}

fn bands(mels: usize) -> Vec<Band> {
    let highest = mel(f64::from(RATE) / 2.0);
    let edge = |at: usize| hertz(highest * at as f64 / (mels + 1) as f64);
    let bin = f64::from(RATE) / WINDOW as f64;
    (0..mels)
        .map(|band| {
            let [low, middle, high] = [edge(band), edge(band + 1), edge(band + 2)];
            let weight = |at: usize| {
                let here = at as f64 * bin;
                let side = ((here - low) / (middle - low)).min((high - here) / (high - middle));
                (side.max(0.0) * 2.0 / (high - low)) as f32
            };
            let first = (low / bin).floor() as usize;
            let last = ((high / bin).ceil() as usize).min(WINDOW / 2);
            Band { first, weights: (first..=last).map(weight).collect() }
        })
        .collect()
}

/// Where Slaney's scale turns from linear to logarithmic, in hertz and in mels; hertz of a mel
/// below, and the logarithm of a mel's ratio above.
const TURN: (f64, f64) = (1_000.0, 15.0);
const LINEAR: f64 = 200.0 / 3.0;

fn step() -> f64 {
    6.4_f64.ln() / 27.0
}

fn mel(hertz: f64) -> f64 {
    if hertz < TURN.0 { hertz / LINEAR } else { TURN.1 + (hertz / TURN.0).ln() / step() }
}

fn hertz(mel: f64) -> f64 {
    if mel < TURN.1 { mel * LINEAR } else { TURN.0 * ((mel - TURN.1) * step()).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        samples: usize,
        mels: usize,
        frames: usize,
        log_mel: Vec<f32>,
    }

    /// The signal of `tests/model/mel.py`: a rising tone, a steady one and a tick.
    fn signal(samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|at| {
                let t = at as f64 / f64::from(RATE);
                let rising = (std::f64::consts::TAU * (200.0 + 3_000.0 * t) * t).sin();
                let steady = (std::f64::consts::TAU * 440.0 * t).sin();
                let tick = f64::from(u8::from(at % 1_600 == 0));
                (0.5 * rising + 0.25 * steady + 0.5 * tick) as f32
            })
            .collect()
    }

    #[test]
    fn the_energies_are_those_of_librosa() {
        let reference: Reference =
            serde_json::from_str(include_str!("../../tests/model/mel.json")).unwrap();
        let found = log_mel(&signal(reference.samples), reference.mels);
        assert_eq!(found.len(), reference.frames * reference.mels);
        assert_eq!(found.len(), reference.log_mel.len());
        for (at, (found, wanted)) in found.iter().zip(&reference.log_mel).enumerate() {
            // A thousandth, or what rounding leaves where there is next to nothing.
            let near = (found.exp() - wanted.exp()).abs() <= 1e-3 * wanted.exp() + 1e-10;
            assert!(near, "{at}: {found}, librosa says {wanted}");
        }
    }

    #[test]
    fn a_tone_is_loudest_in_its_band_and_silence_is_the_floor() {
        for hertz in [300.0, 1_500.0, 6_000.0_f64] {
            let turn = std::f64::consts::TAU * hertz / f64::from(RATE);
            let tone: Vec<f32> = (0..1_600).map(|at| (turn * f64::from(at)).sin() as f32).collect();
            let found = log_mel(&tone, 64);
            let loudest = (0..64).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
            let band = mel(hertz) / mel(8_000.0) * 65.0 - 1.0;
            assert!((loudest as f64 - band).abs() < 1.0, "{hertz}: {loudest}, {band}");
        }
        assert!(log_mel(&[0.0; 10], 64).iter().all(|&e| (e - SILENCE.ln()).abs() < 1e-4));
        assert_eq!(log_mel(&[], 64).len(), 64);
    }
}
