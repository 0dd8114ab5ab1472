//! Perturbations that leave the label as it is: of texts, pictures, sounds and tables.
//!
//! Seeds come from [`seed_of`], so that candidate and champion see the very same inputs.
mod audio;
mod draw;
mod image;
mod jpeg;
mod table;
mod text;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, Part};
use tidegate_model::{Input, Spread};

/// Bytes of a text that are perturbed at most; models read less.
const PERTURBED_BYTES: usize = 16 << 10;

/// How strong perturbations of pictures, sounds and tables can be.
pub(crate) const SEVERITIES: std::ops::RangeInclusive<u32> = 1..=5;

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A letter becomes its neighbour on a qwerty keyboard.
    Typo,
    /// Two neighbouring letters change places.
    SwapLetters,
    /// A letter is left out.
    DeleteLetter,
    /// A letter is typed twice, or with its neighbour.
    InsertLetter,
    /// One of the four above, drawn for each place.
    Characters,
    /// A word is left out.
    DropWord,
    /// Two neighbouring words change places.
    SwapWords,
    /// A word is written in capitals, or in small letters.
    Case,
    /// One of the three above, drawn for each word.
    Words,
    /// A Latin letter becomes a Cyrillic one that looks alike.
    Homoglyph,
    /// A mark without width comes between two letters.
    ZeroWidth,
    /// A blank is doubled, becomes a tab or a line's end, or is left out.
    Whitespace,
    /// Normal noise on each colour of each pixel.
    #[serde(rename = "image.gaussian_noise")]
    ImageGaussianNoise,
    /// Noise of counted photons.
    #[serde(rename = "image.shot_noise")]
    ImageShotNoise,
    /// Values that are 0 or the most there is.
    #[serde(rename = "image.impulse_noise")]
    ImageImpulseNoise,
    /// Normal noise that grows with the value.
    #[serde(rename = "image.speckle_noise")]
    ImageSpeckleNoise,
    /// A normal blur.
    #[serde(rename = "image.gaussian_blur")]
    ImageGaussianBlur,
    /// Less contrast.
    #[serde(rename = "image.contrast")]
    ImageContrast,
    /// Brighter.
    #[serde(rename = "image.brightness")]
    ImageBrightness,
    /// Paler, then more colourful.
    #[serde(rename = "image.saturate")]
    ImageSaturate,
    /// What JPEG loses.
    #[serde(rename = "image.jpeg")]
    ImageJpeg,
    /// Larger pixels.
    #[serde(rename = "image.pixelate")]
    ImagePixelate,
    /// White noise.
    #[serde(rename = "audio.white_noise")]
    AudioWhiteNoise,
    /// Louder, or softer.
    #[serde(rename = "audio.gain")]
    AudioGain,
    /// What is loud is cut off.
    #[serde(rename = "audio.clipping")]
    AudioClipping,
    /// High frequencies are missing.
    #[serde(rename = "audio.band_limit")]
    AudioBandLimit,
    /// A stretch is silent.
    #[serde(rename = "audio.time_mask")]
    AudioTimeMask,
    /// Normal noise on numbers, in the feature's own deviations.
    #[serde(rename = "features.gaussian_noise")]
    FeaturesGaussianNoise,
    /// Values are missing.
    #[serde(rename = "features.missing")]
    FeaturesMissing,
    /// Categories become others that the feature has.
    #[serde(rename = "features.category_swap")]
    FeaturesCategorySwap,
    /// Numbers in another unit: ten times as large, or as small.
    #[serde(rename = "features.unit_error")]
    FeaturesUnitError,
}

impl Kind {
    /// The name in suites and verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Typo => "typo",
            Self::SwapLetters => "swap_letters",
            Self::DeleteLetter => "delete_letter",
            Self::InsertLetter => "insert_letter",
            Self::Characters => "characters",
            Self::DropWord => "drop_word",
            Self::SwapWords => "swap_words",
            Self::Case => "case",
            Self::Words => "words",
            Self::Homoglyph => "homoglyph",
            Self::ZeroWidth => "zero_width",
            Self::Whitespace => "whitespace",
            Self::ImageGaussianNoise => "image.gaussian_noise",
            Self::ImageShotNoise => "image.shot_noise",
            Self::ImageImpulseNoise => "image.impulse_noise",
            Self::ImageSpeckleNoise => "image.speckle_noise",
            Self::ImageGaussianBlur => "image.gaussian_blur",
            Self::ImageContrast => "image.contrast",
            Self::ImageBrightness => "image.brightness",
            Self::ImageSaturate => "image.saturate",
            Self::ImageJpeg => "image.jpeg",
            Self::ImagePixelate => "image.pixelate",
            Self::AudioWhiteNoise => "audio.white_noise",
            Self::AudioGain => "audio.gain",
            Self::AudioClipping => "audio.clipping",
            Self::AudioBandLimit => "audio.band_limit",
            Self::AudioTimeMask => "audio.time_mask",
            Self::FeaturesGaussianNoise => "features.gaussian_noise",
            Self::FeaturesMissing => "features.missing",
            Self::FeaturesCategorySwap => "features.category_swap",
            Self::FeaturesUnitError => "features.unit_error",
        }
    }

    /// The kind of part that it changes, as [`Part::name`] says.
    #[must_use]
    pub fn part(self) -> &'static str {
        match self.as_str().split_once('.') {
            Some(("image", _)) => "image",
            Some(("audio", _)) => "audio",
            Some(_) => "features",
            None => "text",
        }
    }

    /// Whether it has severities; a kind that has none has a strength.
    pub(crate) fn has_severities(self) -> bool {
        self.part() != "text"
    }

    /// What a strength is a share of.
    const fn unit(self) -> &'static str {
        match self {
            Self::DropWord | Self::SwapWords | Self::Case | Self::Words => "words",
            Self::Whitespace => "blanks",
            _ => "letters",
        }
    }
}

/// A kind at a strength.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perturbation {
    /// What is changed.
    pub kind: Kind,
    /// Of texts the probability with which each letter, word or blank is changed; of other parts the
    /// severity, 1 to 5.
    pub strength: f64,
    /// How often it is drawn: the worst answer to any of so many counts. At least 1.
    pub draws: u32,
}

impl Perturbation {
    /// Drawn once.
    #[must_use]
    pub const fn new(kind: Kind, strength: f64) -> Self {
        Self { kind, strength, draws: 1 }
    }

    /// `typing errors in 5 % of letters`.
    #[must_use]
    pub fn words(&self) -> String {
        let (kind, percent, unit) = (self.kind, self.strength * 100.0, self.kind.unit());
        let once = match kind {
            Kind::Characters => format!("typing errors in {percent:.0} % of {unit}"),
            Kind::Words => format!("word changes at {percent:.0} % of {unit}"),
            _ if kind.has_severities() => format!("{} {}", kind.as_str(), self.strength),
            _ => format!("{} at {percent:.0} % of {unit}", kind.as_str()),
        };
        match self.draws {
            1 => once,
            draws => format!("{once}, the worst of {draws}"),
        }
    }

    /// `input` perturbed; the same seed gives the same bytes. A part that cannot be decoded stays as
    /// it is. `spread`: of the features of all examples.
    #[must_use]
    pub fn apply(&self, input: &Input, spread: &Spread, seed: u64) -> Input {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        if self.kind.part() == "text" {
            let change = |text: &str| {
                let start = start_of(text, PERTURBED_BYTES);
                text::change(self.kind, self.strength, start, &mut rng)
            };
            return input.with_text(change);
        }
        let severity = self.strength as usize;
        let change = |part: &Part| match part {
            Part::Image(bytes) if self.kind.part() == "image" => {
                let changed = image::change(self.kind, severity, bytes, &mut rng);
                changed.map_or_else(|| part.clone(), Part::Image)
            }
            Part::Audio(bytes) if self.kind.part() == "audio" => {
                let changed = audio::change(self.kind, severity, bytes, &mut rng);
                changed.map_or_else(|| part.clone(), Part::Audio)
            }
            Part::Features(values) if self.kind.part() == "features" => {
                Part::Features(table::change(self.kind, severity, values, spread, &mut rng))
            }
            other => other.clone(),
        };
        Input { parts: input.parts.iter().map(change).collect() }
    }
}

/// What of `text` fits into `bytes` without cutting a character.
pub(crate) fn start_of(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The seed of one perturbed example: a function of the suite, the example, the perturbation and
/// which of its draws this is (from 0), and of nothing else.
#[must_use]
pub fn seed_of(suite: &ArtifactHash, example: &str, perturbation: &Perturbation, draw: u32) -> u64 {
    let strength = perturbation.strength.to_le_bytes();
    hashed(&[suite.as_bytes(), perturbation.kind.as_str().as_bytes(), &strength], example, draw)
}

/// A seed of all of these; the first draw's is the same as if there were no other.
pub(crate) fn hashed(parts: &[&[u8]], example: &str, draw: u32) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.update(example.as_bytes());
    if draw > 0 {
        // No id ends so.
        hasher.update(&[0xff]);
        hasher.update(&draw.to_le_bytes());
    }
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Dear Anna,\n\nthe 3 invoices of May, 1,250.00 in all, are paid. Thank you!";

    #[test]
    fn the_same_seed_gives_the_same_text_and_another_another() {
        let (text, spread) = (Input::text(TEXT), Spread::default());
        for kind in
            [Kind::Characters, Kind::Words, Kind::Homoglyph, Kind::ZeroWidth, Kind::Whitespace]
        {
            let perturbation = Perturbation::new(kind, 0.3);
            let of = |seed| perturbation.apply(&text, &spread, seed);
            assert_eq!(of(7), of(7));
            assert_ne!(of(7), of(8));
        }
        let suite = ArtifactHash::of(b"suite");
        let weak = Perturbation::new(Kind::Words, 0.1);
        let strong = Perturbation::new(Kind::Words, 0.2);
        let seeds = [
            seed_of(&suite, "a", &weak, 0),
            seed_of(&suite, "a", &strong, 0),
            seed_of(&suite, "b", &weak, 0),
            seed_of(&suite, "a", &weak, 1),
        ];
        let distinct: std::collections::BTreeSet<u64> = seeds.into();
        assert_eq!(distinct.len(), seeds.len());
    }
}
