//! Sizes of the front-ends, as `architecture.json` holds them.
use serde::{Deserialize, Serialize};
use tidegate_contracts::Part;

/// Frames, and mel bands, of one patch of a sound (AST, Gong et al. 2021, arXiv 2104.01778).
pub(crate) const AUDIO_PATCH: usize = 16;

/// Frames of a second of sound.
pub(crate) const FRAMES_A_SECOND: usize = 100;

/// Rows of the feature table that sum up to one token: two for the name and two for the value, so
/// that names which share one row by chance differ in the other (Svenstrup et al. 2017, arXiv
/// 1709.03933).
pub(crate) const TERMS: usize = 4;

/// A kind of part that a network may read beside text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// PNG or JPEG.
    Image,
    /// WAV.
    Audio,
    /// Numbers and categories by name.
    Features,
}

impl Modality {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Image, Self::Audio, Self::Features];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Features => "features",
        }
    }

    /// That of a part; none for text.
    #[must_use]
    pub const fn of(part: &Part) -> Option<Self> {
        match part {
            Part::Text(_) => None,
            Part::Image(_) => Some(Self::Image),
            Part::Audio(_) => Some(Self::Audio),
            Part::Features(_) => Some(Self::Features),
        }
    }
}

/// How images are cut (ViT, Dosovitskiy et al. 2020, arXiv 2010.11929).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageShape {
    /// Pixels of a side that every image is brought to; 0: images are never read.
    pub side: usize,
    /// Pixels of a patch's side; divides `side`.
    pub patch: usize,
    /// Images of one event that are read.
    pub limit: usize,
}

impl Default for ImageShape {
    fn default() -> Self {
        Self { side: 32, patch: 4, limit: 2 }
    }
}

impl ImageShape {
    /// Patches of one image.
    #[must_use]
    pub const fn patches(&self) -> usize {
        (self.side / self.patch) * (self.side / self.patch)
    }

    /// Numbers of one patch: three colours a pixel.
    #[must_use]
    pub const fn width(&self) -> usize {
        3 * self.patch * self.patch
    }
}

/// How sounds are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioShape {
    /// Seconds of a sound that are read, from its beginning; 0: sounds are never read.
    pub seconds: usize,
    /// Mel bands; a multiple of 16.
    pub mels: usize,
    /// Sounds of one event that are read.
    pub limit: usize,
}

impl Default for AudioShape {
    fn default() -> Self {
        Self { seconds: 4, mels: 64, limit: 1 }
    }
}

impl AudioShape {
    /// Patches of the longest sound.
    #[must_use]
    pub const fn patches(&self) -> usize {
        (self.seconds * FRAMES_A_SECOND).div_ceil(AUDIO_PATCH) * (self.mels / AUDIO_PATCH)
    }

    /// Numbers of one patch.
    #[must_use]
    pub const fn width(&self) -> usize {
        AUDIO_PATCH * AUDIO_PATCH
    }
}

/// How tabular features become tokens (FT-Transformer, Gorishniy et al. 2021, arXiv 2106.11959).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureShape {
    /// Features of one event that become tokens, in the order of their names; what follows is only
    /// seen by the wide path. 0: features are never read.
    pub tokens: usize,
    /// Rows of the table that names and categories are hashed into; a power of two. The set of
    /// features is open.
    pub rows: usize,
}

impl Default for FeatureShape {
    fn default() -> Self {
        Self { tokens: 64, rows: 2_048 }
    }
}
