//! WAV to patches of its log-mel spectrogram.
use std::io::Cursor;

use hound::{SampleFormat, WavReader};

use super::{
    AudioShape, Evidence, Patches, evidence, keys,
    mel::{RATE, log_mel, log_mel_slope},
    resample::resample,
    shape::{AUDIO_PATCH, FRAMES_A_SECOND},
};
use crate::ModelError;

/// A sound of one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// About -1 to 1.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate: u32,
}

impl Sound {
    /// Decodes the first `seconds` of a WAV; of several channels their mean.
    ///
    /// # Errors
    /// [`ModelError::BadPart`] says what is wrong with it.
    pub fn read(bytes: &[u8], seconds: usize) -> Result<Self, ModelError> {
        let bad = |reason| ModelError::BadPart { field: "audio".to_owned(), reason };
        let (samples, rate) = samples(bytes, seconds).map_err(bad)?;
        Ok(Self { samples, rate })
    }

    /// As a WAV of floats, without loss.
    #[must_use]
    pub fn to_wav(&self) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: self.rate,
            bits_per_sample: 32,
            sample_format: SampleFormat::Float,
        };
        let mut wav = Cursor::new(Vec::with_capacity(4 * self.samples.len() + 64));
        let written = hound::WavWriter::new(&mut wav, spec).and_then(|mut writer| {
            self.samples.iter().try_for_each(|&sample| writer.write_sample(sample))?;
            writer.finalize()
        });
        written.expect("memory takes every sample");
        wav.into_inner()
    }

    /// The same at 16 kHz: what a model hears.
    pub(crate) fn heard(self) -> Self {
        Self { samples: resample(&self.samples, self.rate, RATE), rate: RATE }
    }
}

/// Sample rates that are read.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=192_000;
/// Channels that are read.
const MOST_CHANNELS: u16 = 16;
/// Samples are about -1 to 1; far beyond, their energies have no finite f32.
const LOUDEST: f32 = 1e6;
/// Standard deviations that a byte has room for, to each side.
const SPAN: f32 = 4.0;
/// What the wide path hears of a sound: bands, and stretches of time.
const BANDS: usize = 16;
const STRETCHES: usize = 8;
/// Change of a level, in deviations a frame, that is next to none.
const STILL: f32 = 0.05;
/// A sound whose energies vary less is taken for silence.
const LEAST_DEVIATION: f64 = 1e-3;

/// All channels' mean, and the rate; at most the first `seconds`.
pub(super) fn samples(bytes: &[u8], seconds: usize) -> Result<(Vec<f32>, u32), String> {
    let said = |error: hound::Error| match error {
        hound::Error::IoError(_) => "the WAV is cut short".to_owned(),
        other => other.to_string(),
    };
    let mut reader = WavReader::new(Cursor::new(bytes)).map_err(said)?;
    let spec = reader.spec();
    if !RATES.contains(&spec.sample_rate) {
        let (low, high) = (RATES.start(), RATES.end());
        let rate = spec.sample_rate;
        return Err(format!("its rate is {rate} samples a second: {low} to {high} are read"));
    }
    if !(1..=MOST_CHANNELS).contains(&spec.channels) {
        return Err(format!("it has {} channels: 1 to {MOST_CHANNELS} are read", spec.channels));
    }
    let channels = usize::from(spec.channels);
    let wanted = seconds.saturating_mul(spec.sample_rate as usize).saturating_mul(channels);
    let all: Vec<f32> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().take(wanted).collect::<Result<_, _>>(),
        SampleFormat::Int => {
            let scale = 1.0 / (1_i64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            let sample = |sample: Result<i32, _>| sample.map(|sample| sample as f32 * scale);
            reader.samples::<i32>().take(wanted).map(sample).collect::<Result<_, _>>()
        }
    }
    .map_err(said)?;
    // What is no number is within no bound.
    let is_sound = |sample: &f32| sample.abs() <= LOUDEST;
    if let Some(at) = all.iter().position(|sample| !is_sound(sample)) {
        return Err(format!("sample {at} is {}: -1 to 1 is usual", all[at]));
    }
    let mean = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
    let mono: Vec<f32> = all.chunks_exact(channels).map(mean).collect();
    if mono.is_empty() {
        return Err("it has no samples".to_owned());
    }
    Ok((mono, spec.sample_rate))
}

/// Patches of 16 frames by 16 bands, of energies with mean 0 and deviation 1 over the sound: how
/// loud it was recorded says nothing. Frames behind the end are as its quietest. And what the wide
/// path hears.
pub(super) fn read(bytes: &[u8], shape: &AudioShape) -> Result<(Patches, Vec<Evidence>), String> {
    let (sound, rate) = samples(bytes, shape.seconds)?;
    let (energies, _) = standard_energies(&resample(&sound, rate, RATE), shape);
    let heard = outline(&energies, shape.mels);
    let byte = |z: f32| ((z.clamp(-SPAN, SPAN) / SPAN + 1.0) * 127.5).round() as u8;
    let levels: Vec<u8> = energies.into_iter().map(byte).collect();
    let quietest = levels.iter().copied().min().unwrap_or_default();
    let frames = levels.len() / shape.mels;
    let (columns, bands) = (frames.div_ceil(AUDIO_PATCH), shape.mels / AUDIO_PATCH);
    let mut cut = Vec::with_capacity(columns * bands * shape.width());
    for column in 0..columns {
        for band in 0..bands {
            for frame in column * AUDIO_PATCH..(column + 1) * AUDIO_PATCH {
                let start = frame * shape.mels + band * AUDIO_PATCH;
                match levels.get(start..start + AUDIO_PATCH) {
                    Some(row) => cut.extend_from_slice(row),
                    None => cut.extend([quietest; AUDIO_PATCH]),
                }
            }
        }
    }
    Ok((Patches { count: columns * bands, bytes: cut }, heard))
}

/// Log-mel energies of a sound at 16 kHz with mean 0 and deviation 1, `[frames, mels]`, and the
/// deviation that they had.
fn standard_energies(sound: &[f32], shape: &AudioShape) -> (Vec<f32>, f64) {
    let mut energies = log_mel(sound, shape.mels);
    energies.truncate(shape.seconds * FRAMES_A_SECOND * shape.mels);
    let count = energies.len() as f64;
    let mean = energies.iter().copied().map(f64::from).sum::<f64>() / count;
    let square = |e: &f32| (f64::from(*e) - mean).powi(2);
    let deviation = (energies.iter().map(square).sum::<f64>() / count).sqrt();
    let deviation = deviation.max(LEAST_DEVIATION);
    for energy in &mut energies {
        *energy = ((f64::from(*energy) - mean) / deviation) as f32;
    }
    (energies, deviation)
}

/// Mean level of each of 16 bands in each of 8 stretches of time, and how it rises and falls over all:
/// each of length 1 by the root of 2; of a sound that hardly changes the latter is shorter.
fn outline(levels: &[f32], mels: usize) -> Vec<Evidence> {
    let heard = sums(levels, mels).into_iter().flat_map(|sums| {
        let scale = sums.scale();
        evidence(sums.kind, sums.values.into_iter().map(|value| value * scale))
    });
    heard.collect()
}

/// What is added up over a sound, before it has its length.
struct Sums {
    kind: &'static str,
    values: Vec<f32>,
    /// They count as being at least so long.
    least: f32,
}

impl Sums {
    fn length(&self) -> f32 {
        self.values.iter().map(|value| value * value).sum::<f32>().sqrt()
    }

    fn scale(&self) -> f32 {
        std::f32::consts::FRAC_1_SQRT_2 / self.length().max(self.least)
    }
}

fn band(mel: usize, mels: usize) -> usize {
    mel * BANDS / mels
}

fn stretch(frame: usize, frames: usize) -> usize {
    frame * STRETCHES / frames
}

fn sums(levels: &[f32], mels: usize) -> [Sums; 2] {
    let frames = levels.len() / mels;
    let mut means = vec![0.0_f32; STRETCHES * BANDS];
    let mut changes = vec![0.0_f32; 2 * BANDS];
    for (frame, row) in levels.chunks_exact(mels).enumerate() {
        for (mel, level) in row.iter().enumerate() {
            means[stretch(frame, frames) * BANDS + band(mel, mels)] += level;
            if frame > 0 {
                let change = level - levels[(frame - 1) * mels + mel];
                changes[2 * band(mel, mels) + usize::from(change < 0.0)] += change.abs();
            }
        }
    }
    // As long as if every level moved by that much from frame to frame, half of them up.
    let still = STILL * levels.len() as f32 / (2.0 * BANDS as f32).sqrt();
    [
        Sums { kind: "levels", values: means, least: f32::MIN_POSITIVE },
        Sums { kind: "changes", values: changes, least: still },
    ]
}

/// The slope of a score over the samples of a sound at 16 kHz, from its slopes over the patches'
/// numbers and over what the wide path hears: the way back of [`read`].
///
/// `patches`: `[count, width]`; `heard`: of a key. Returns one number a sample.
pub(super) fn slope(
    sound: &[f32],
    shape: &AudioShape,
    patches: &[f32],
    heard: impl Fn(u64) -> f32,
) -> Vec<f32> {
    let (levels, deviation) = standard_energies(sound, shape);
    let (mels, frames) = (shape.mels, levels.len() / shape.mels);
    let mut slopes = vec![0.0_f32; levels.len()];
    for (patch, numbers) in patches.chunks_exact(shape.width()).enumerate() {
        let (column, bands) = (patch * AUDIO_PATCH / mels, mels / AUDIO_PATCH);
        for (row, numbers) in numbers.chunks_exact(AUDIO_PATCH).enumerate() {
            let start = (column * AUDIO_PATCH + row) * mels + patch % bands * AUDIO_PATCH;
            let Some(slopes) = slopes.get_mut(start..start + AUDIO_PATCH) else { continue };
            for ((slope, number), level) in slopes.iter_mut().zip(numbers).zip(&levels[start..]) {
                // Beyond, a byte says no more.
                *slope += if level.abs() < SPAN { number / SPAN } else { 0.0 };
            }
        }
    }
    let [means, changes] = sums(&levels, mels).map(|sums| {
        let key = keys(sums.kind);
        let given: Vec<f32> = (0..sums.values.len()).map(|at| heard(key(at))).collect();
        let (scale, length) = (sums.scale(), sums.length());
        let along: f32 = given.iter().zip(&sums.values).map(|(g, v)| g * v).sum();
        let bent = if length > sums.least { along / (length * length) } else { 0.0 };
        let slope = given.iter().zip(&sums.values).map(|(g, v)| scale * (g - bent * v));
        slope.collect::<Vec<f32>>()
    });
    for frame in 0..frames {
        for mel in 0..mels {
            let (at, band) = (frame * mels + mel, band(mel, mels));
            slopes[at] += means[stretch(frame, frames) * BANDS + band];
            if frame > 0 {
                let change = levels[at] - levels[at - mels];
                let slope = changes[2 * band + usize::from(change < 0.0)] * change.signum();
                slopes[at] += slope;
                slopes[at - mels] -= slope;
            }
        }
    }
    let count = slopes.len() as f32;
    let mean = slopes.iter().sum::<f32>() / count;
    let along = slopes.iter().zip(&levels).map(|(s, level)| s * level).sum::<f32>() / count;
    for (slope, level) in slopes.iter_mut().zip(&levels) {
        *slope = (*slope - mean - level * along) / deviation as f32;
    }
    log_mel_slope(sound, mels, &slopes)
}

/// The sound as a WAV of at most `most` bytes: at 16 kHz with 16 bits, and no longer than fits.
pub(super) fn shorter(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    const HEADER: usize = 44;
    let count = most.checked_sub(HEADER)? / 2;
    let (sound, rate) = samples(bytes, (count / RATE as usize).saturating_add(1)).ok()?;
    let sound = resample(&sound, rate, RATE);
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut wav = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut wav, spec).ok()?;
    for sample in sound.into_iter().take(count) {
        let sample = (sample * f32::from(i16::MAX)).round();
        writer.write_sample(sample as i16).ok()?;
    }
    let whole = writer.len() > 0;
    writer.finalize().ok()?;
    whole.then(|| wav.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(spec: hound::WavSpec, samples: &[f32]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for &sample in samples {
            match spec.sample_format {
                SampleFormat::Float => writer.write_sample(sample).unwrap(),
                SampleFormat::Int => {
                    let scale = ((1_i64 << (spec.bits_per_sample - 1)) - 1) as f32;
                    writer.write_sample((sample * scale) as i32).unwrap();
                }
            }
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    fn spec(rate: u32, channels: u16, bits: u16) -> hound::WavSpec {
        let sample_format = if bits == 32 { SampleFormat::Float } else { SampleFormat::Int };
        hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format }
    }

    fn tone(rate: u32, seconds: f64) -> Vec<f32> {
        let turn = std::f64::consts::TAU * 700.0 / f64::from(rate);
        let count = (f64::from(rate) * seconds) as usize;
        (0..count).map(|at| 0.5 * (turn * at as f64).sin() as f32).collect()
    }

    #[test]
    fn every_depth_and_number_of_channels_says_the_same() {
        let sound = tone(16_000, 0.1);
        for bits in [8, 16, 24, 32] {
            let (mono, rate) = samples(&wav(spec(16_000, 1, bits), &sound), 9).unwrap();
            assert_eq!((mono.len(), rate), (1_600, 16_000));
            let twice: Vec<f32> = sound.iter().flat_map(|&sample| [sample, sample]).collect();
            let (both, _) = samples(&wav(spec(16_000, 2, bits), &twice), 9).unwrap();
            for ((mono, both), sound) in mono.iter().zip(&both).zip(&sound) {
                assert!((mono - sound).abs() < 0.02 && (mono - both).abs() < 1e-6, "{bits}");
            }
        }
    }

    #[test]
    fn patches_are_as_many_as_the_sound_is_long_and_do_not_hear_its_volume() {
        let shape = AudioShape { seconds: 1, mels: 32, limit: 1 };
        let of = |rate, seconds, volume: f32| {
            let sound: Vec<f32> = tone(rate, seconds).iter().map(|s| s * volume).collect();
            read(&wav(spec(rate, 1, 32), &sound), &shape).unwrap().0
        };
        assert_eq!(of(16_000, 0.1, 1.0).count, 2);
        assert_eq!(of(16_000, 9.0, 1.0).count, shape.patches());
        assert_eq!(of(48_000, 0.5, 1.0).count, of(16_000, 0.5, 1.0).count);
        let (loud, soft) = (of(16_000, 0.3, 1.0), of(16_000, 0.3, 0.25));
        let far = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        let most = loud.bytes.iter().zip(&soft.bytes).map(far).max().unwrap();
        assert!(most <= 12, "{most}");
    }

    #[test]
    fn the_wide_path_hears_whether_a_tone_is_high_or_rises() {
        let of = |from: f64, to: f64| {
            let tone = (0..8_000).scan(0.0, |turn: &mut f64, at| {
                let hertz = from + (to - from) * f64::from(at) / 8_000.0;
                *turn += std::f64::consts::TAU * hertz / 16_000.0;
                Some(turn.sin() as f32)
            });
            let sound = wav(spec(16_000, 1, 32), &tone.collect::<Vec<f32>>());
            let (_, mut heard) = read(&sound, &AudioShape::default()).unwrap();
            heard.sort_by_key(|(key, _)| *key);
            heard
        };
        let likeness = |a: &[Evidence], b: &[Evidence]| {
            let of = |key| b.iter().find(|e| e.0 == key).map_or(0.0, |e| e.1);
            a.iter().map(|(key, value)| value * of(*key)).sum::<f32>()
        };
        let (low, high) = (of(300.0, 300.0), of(3_000.0, 3_000.0));
        let (rises, falls) = (of(300.0, 3_000.0), of(3_000.0, 300.0));
        // A steady tone has levels alone.
        let alone = likeness(&low, &low);
        assert!((0.499..0.9).contains(&alone), "{alone}");
        assert!((likeness(&rises, &rises) - 1.0).abs() < 1e-3);
        assert!(likeness(&low, &high) < 0.4 && likeness(&rises, &falls) < 0.8);
    }

    /// Before its numbers become bytes, between which there is no slope.
    #[test]
    fn the_way_back_is_that_of_finite_differences() {
        let shape = AudioShape { seconds: 1, mels: 16, limit: 1 };
        // With some noise: next to silence the logarithm bends within any step.
        let noise = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 16_777_216.0;
        let sound: Vec<f32> = (0..1_600_u16)
            .map(|at| {
                let t = f32::from(at) / 16_000.0;
                let tones =
                    0.3 * (4_000.0 * t * (1.0 + 9.0 * t)).sin() + 0.2 * (40_000.0 * t).sin();
                tones + 0.4 * (noise(u64::from(at) + 1) - 0.5)
            })
            .collect();
        let weight = |key: u64| (key % 1_000) as f32 / 500.0 - 1.0;
        // With 16 bands a patch is 16 frames, one behind the other.
        let score = |sound: &[f32]| {
            let (levels, _) = standard_energies(sound, &shape);
            let numbers = levels.iter().enumerate();
            let patches =
                numbers.map(|(at, z)| weight(at as u64 * 37) * z.clamp(-SPAN, SPAN) / SPAN);
            let heard =
                outline(&levels, 16).into_iter().map(|(key, value)| 5.0 * weight(key) * value);
            patches.chain(heard).map(f64::from).sum::<f64>()
        };
        let patches: Vec<f32> = (0..16 * 16).map(|at| weight(at * 37)).collect();
        let slopes = slope(&sound, &shape, &patches, |key| 5.0 * weight(key));
        let difference = |at: usize| {
            let moved = |by: f32| {
                let mut sound = sound.clone();
                sound[at] += by;
                score(&sound)
            };
            (moved(2e-3) - moved(-2e-3)) / 4e-3
        };
        let (mut both, mut one, mut other) = (0.0, 0.0, 0.0);
        for at in (3..1_600).step_by(17) {
            let (found, wanted) = (f64::from(slopes[at]), difference(at));
            both += found * wanted;
            one += found * found;
            other += wanted * wanted;
        }
        let (alike, size) = (both / (one * other).sqrt(), (one / other).sqrt());
        assert!(alike > 0.98 && (0.95..1.05).contains(&size), "{alike} {size}");
    }

    #[test]
    fn a_sound_is_made_to_fit() {
        let shape = AudioShape::default();
        let long = wav(spec(48_000, 2, 32), &tone(48_000, 2.0));
        let short = shorter(&long, 20_000).unwrap();
        assert!(short.len() <= 20_000);
        let (found, rate) = samples(&short, 9).unwrap();
        assert_eq!((found.len(), rate), ((20_000 - 44) / 2, 16_000));
        assert!(read(&short, &shape).unwrap().0.count < read(&long, &shape).unwrap().0.count);
        assert_eq!(shorter(&long, 44), None);
        assert_eq!(shorter(b"RIFF", 20_000), None);
    }

    #[test]
    fn what_is_cut_empty_or_not_finite_is_refused_with_the_reason() {
        let refused = |bytes: &[u8]| samples(bytes, 9).unwrap_err();
        assert_eq!(refused(&wav(spec(16_000, 1, 16), &[])), "it has no samples");
        let whole = wav(spec(16_000, 1, 16), &tone(16_000, 0.1));
        for size in [0, 20, 50, whole.len() - 1] {
            assert!(refused(&whole[..size]).contains("cut short"), "{size}");
        }
        let broken = wav(spec(16_000, 1, 32), &[0.0, f32::NAN]);
        assert!(refused(&broken).contains("sample 1 is NaN"));
        // Finite, and louder than any energy can say; two channels of them have no finite mean.
        let loud = wav(spec(16_000, 1, 32), &[0.5, 2e17]);
        assert!(refused(&loud).contains("sample 1 is 200000000000000000"));
        assert!(refused(&wav(spec(16_000, 2, 32), &[f32::MAX, f32::MAX])).contains("sample 0"));
        assert!(refused(&wav(spec(400, 1, 16), &[0.0])).contains("400 samples a second"));
        assert!(refused(b"RIFF\x04\0\0\0WAVE").contains("cut short"));
    }
}
