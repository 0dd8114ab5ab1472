//! Front-ends: the parts of an event beside its text, as rows of numbers that the network takes.
//!
//! Bytes come from anybody: what is decoded is bounded before memory is taken, and what cannot be
//! read is refused with the reason. The same bytes give the same rows on every machine.
mod audio;
mod image;
mod mel;
mod picture;
mod resample;
mod shape;
mod table;

use tidegate_contracts::Part;

pub use self::{
    audio::Sound,
    picture::Picture,
    shape::{AudioShape, FeatureShape, ImageShape, Modality},
    table::{MOST_FEATURES, Scales},
};
pub(crate) use self::{
    shape::{AUDIO_PATCH, TERMS},
    table::Read,
};
use crate::{
    Architecture, Input, ModelError,
    text::{fnv, mix},
};

/// Of running text, about.
const BYTES_OF_A_TOKEN: usize = 4;

/// A key of the wide path and what it counts.
pub(crate) type Evidence = (u64, f32);

/// Keys of a list of values; none of what is 0.
fn evidence(kind: &str, values: impl Iterator<Item = f32>) -> Vec<Evidence> {
    let key = keys(kind);
    let values = (0..).zip(values).filter(|&(_, value)| value != 0.0);
    values.map(|(at, value)| (key(at), value)).collect()
}

/// The key of each place of a list.
fn keys(kind: &str) -> impl Fn(usize) -> u64 {
    let kind = fnv(kind.bytes());
    move |at| mix(kind.wrapping_add(at as u64))
}

/// What a front-end made of one part: rows of the sequence before they have their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Of an image, row by row, from the top left.
    Image(Patches),
    /// Of a sound, column by column: from low to high, then on in time.
    Audio(Patches),
    /// Of tabular features: each is a sum of rows of the table, weighted.
    Features(Vec<[(u32, f32); TERMS]>),
}

/// Patches of a picture, as bytes: a byte `b` stands for `b / 127.5 - 1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// How many.
    pub(crate) count: usize,
    /// `[count, width]`.
    pub(crate) bytes: Vec<u8>,
}

impl Rows {
    /// How many tokens they become.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Image(patches) | Self::Audio(patches) => patches.count,
            Self::Features(tokens) => tokens.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Image(patches) | Self::Audio(patches) => patches.bytes.len(),
            Self::Features(tokens) => size_of_val(&tokens[..]),
        }
    }
}

/// Reads one part to its end, whatever the network: what a model of any architecture could not read
/// is refused here already.
///
/// # Errors
/// [`ModelError::BadPart`] names it as `parts[index].image` and says what is wrong.
pub fn check_part(index: usize, part: &Part) -> Result<(), ModelError> {
    let checked = match part {
        Part::Text(_) => Ok(()),
        Part::Image(bytes) => image::decode(bytes).map(drop),
        Part::Audio(bytes) => audio::samples(bytes, usize::MAX).map(drop),
        Part::Features(values) => table::check(values, 0),
    };
    checked.map_err(|reason| bad(index, part, reason))
}

/// The part as it is, or made to fit into `bytes`; nothing of one that cannot be read or made so
/// small, nor of features that take more. Text stays.
pub(crate) fn bounded(part: Part, bytes: usize) -> Option<Part> {
    match part {
        Part::Image(image) if image.len() > bytes => image::smaller(&image, bytes).map(Part::Image),
        Part::Audio(sound) if sound.len() > bytes => audio::shorter(&sound, bytes).map(Part::Audio),
        Part::Features(_) if part.bytes() > bytes => None,
        kept => Some(kept),
    }
}

/// Bytes of text that take about as long as the parts beside it.
pub(crate) fn length(input: &Input, a: &Architecture) -> usize {
    let rows = |part: &Part| match part {
        Part::Image(_) if a.modalities.contains(&Modality::Image) => a.image.patches(),
        Part::Audio(bytes) if a.modalities.contains(&Modality::Audio) => {
            // As if it were of 16 bits at 16 kHz.
            a.audio.patches().min(a.audio.patches() * bytes.len() / (32_000 * a.audio.seconds))
        }
        Part::Features(values) if a.modalities.contains(&Modality::Features) => {
            values.len().min(a.features.tokens)
        }
        _ => 0,
    };
    BYTES_OF_A_TOKEN * input.parts.iter().map(rows).sum::<usize>()
}

fn bad(index: usize, part: &Part, reason: String) -> ModelError {
    ModelError::BadPart { field: format!("parts[{index}].{}", part.name()), reason }
}

/// The slope of a score over a picture's bytes, from those over what both paths made of it.
pub(crate) fn picture_slope(
    picture: &Picture,
    shape: &ImageShape,
    patches: &[f32],
    seen: impl Fn(u64) -> f32,
) -> Vec<f32> {
    image::slope(picture, shape, patches, seen)
}

/// The same over the samples of a sound at 16 kHz.
pub(crate) fn sound_slope(
    sound: &[f32],
    shape: &AudioShape,
    patches: &[f32],
    heard: impl Fn(u64) -> f32,
) -> Vec<f32> {
    audio::slope(sound, shape, patches, heard)
}

/// What both paths make of one number.
pub(crate) use self::table::number as table_number;

/// Rows of all parts that the architecture reads beside text, in their order; and what the wide path
/// sees of them.
pub(crate) fn read(
    input: &Input,
    a: &Architecture,
    scales: &Scales,
) -> Result<(Vec<Rows>, Vec<Evidence>), ModelError> {
    let (mut rows, mut seen) = (Vec::new(), Vec::new());
    let (mut images, mut sounds, mut values, mut all) = (0, 0, 0, 0);
    for (index, part) in input.parts.iter().enumerate() {
        let reads = |modality| a.modalities.contains(&modality);
        let made = match part {
            Part::Image(bytes) if reads(Modality::Image) && images < a.image.limit => {
                images += 1;
                image::read(bytes, &a.image).map(|(patches, evidence)| {
                    seen.extend(evidence);
                    Rows::Image(patches)
                })
            }
            Part::Audio(bytes) if reads(Modality::Audio) && sounds < a.audio.limit => {
                sounds += 1;
                audio::read(bytes, &a.audio).map(|(patches, evidence)| {
                    seen.extend(evidence);
                    Rows::Audio(patches)
                })
            }
            Part::Features(features) if reads(Modality::Features) => {
                let checked = table::check(features, all);
                all += features.len();
                checked.map(|()| {
                    let read = Read::new(features, a.features.rows, scales);
                    seen.extend(read.evidence);
                    let left = a.features.tokens.saturating_sub(values);
                    let tokens: Vec<_> = read.tokens.into_iter().take(left).collect();
                    values += tokens.len();
                    Rows::Features(tokens)
                })
            }
            _ => continue,
        };
        let made = made.map_err(|reason| bad(index, part, reason))?;
        if !made.is_empty() {
            rows.push(made);
        }
    }
    Ok((rows, seen))
}
