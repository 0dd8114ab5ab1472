//! The casts between f32 and the two 8-bit floats of Micikevicius et al. (arXiv 2209.05433).
//!
//! Both are written without branches, so that a loop over them becomes vector code.

/// All bits of an f32 but its sign.
pub(super) const MAGNITUDE: u32 = 0x7fff_ffff;
const F32_INFINITY: u32 = 0x7f80_0000;
const F32_MANTISSA: u32 = 23;
const F32_BIAS: u32 = 127;

/// 1 sign, 4 exponent and 3 mantissa bits, bias 7: from 2^-9 to 448 in steps of at most 1/8.
///
/// There is no infinity, and one NaN of each sign: the `E4M3FN` of other libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct E4M3(u8);

/// 1 sign, 5 exponent and 2 mantissa bits, bias 15: from 2^-16 to 57344 in steps of at most 1/4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct E5M2(u8);

impl E4M3 {
    /// The largest value.
    pub const MAX: f32 = 448.0;
    const FORMAT: Format =
        Format { mantissa: 3, bias: 7, largest: 0x7e, infinity: None, nan: 0x7f };

    /// The nearest value, of two as near the even one; [`E4M3::MAX`] for all beyond it and for
    /// infinity, with the sign. NaN stays NaN.
    #[inline]
    #[must_use]
    pub fn from_f32(value: f32) -> Self {
        Self(Self::FORMAT.encode(value))
    }

    /// The value, exactly.
    #[inline]
    #[must_use]
    pub fn to_f32(self) -> f32 {
        Self::FORMAT.decode(self.0)
    }

    /// The number with this code.
    #[must_use]
    pub const fn from_bits(code: u8) -> Self {
        Self(code)
    }

    /// Its code.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.0
    }
}

impl E5M2 {
    /// The largest finite value.
    pub const MAX: f32 = 57344.0;
    const FORMAT: Format =
        Format { mantissa: 2, bias: 15, largest: 0x7b, infinity: Some(0x7c), nan: 0x7e };

    /// The nearest finite value, of two as near the even one; [`E5M2::MAX`] for all beyond it and
    /// for infinity, with the sign. NaN stays NaN.
    #[inline]
    #[must_use]
    pub fn from_f32(value: f32) -> Self {
        Self(Self::FORMAT.encode(value))
    }

    /// The value, exactly.
    #[inline]
    #[must_use]
    pub fn to_f32(self) -> f32 {
        Self::FORMAT.decode(self.0)
    }

    /// The number with this code.
    #[must_use]
    pub const fn from_bits(code: u8) -> Self {
        Self(code)
    }

    /// Its code.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.0
    }
}

/// What tells one 8-bit float from another. Codes are without sign.
struct Format {
    mantissa: u32,
    bias: u32,
    largest: u32,
    infinity: Option<u32>,
    nan: u32,
}

impl Format {
    #[inline]
    fn encode(&self, value: f32) -> u8 {
        let bits = value.to_bits();
        let magnitude = bits & MAGNITUDE;

        // Half of the lowest kept bit, less one if that bit is even: carries are the rounding.
        let dropped = F32_MANTISSA - self.mantissa;
        let half = (1 << (dropped - 1)) - 1 + ((magnitude >> dropped) & 1);
        let rebias = (F32_BIAS - self.bias) << self.mantissa;
        let normal = ((magnitude + half) >> dropped).wrapping_sub(rebias);

        // Where one step of f32 is one step of our subnormals, the addition of f32 rounds for us.
        let anchor = (F32_BIAS + F32_MANTISSA + 1 - self.bias - self.mantissa) << F32_MANTISSA;
        let sum = f32::from_bits(magnitude) + f32::from_bits(anchor);
        let subnormal = sum.to_bits().wrapping_sub(anchor);

        let smallest_normal = (F32_BIAS + 1 - self.bias) << F32_MANTISSA;
        let finite = if magnitude < smallest_normal { subnormal } else { normal };
        let code = if magnitude > F32_INFINITY { self.nan } else { finite.min(self.largest) };
        ((bits >> 24) & 0x80 | code) as u8
    }

    #[inline]
    fn decode(&self, code: u8) -> f32 {
        let sign = u32::from(code & 0x80) << 24;
        let code = u32::from(code & 0x7f);
        let normal =
            (code << (F32_MANTISSA - self.mantissa)) + ((F32_BIAS - self.bias) << F32_MANTISSA);
        let step = (F32_BIAS + 1 - self.bias - self.mantissa) << F32_MANTISSA;
        let subnormal = (code as f32 * f32::from_bits(step)).to_bits();

        let finite = if code >> self.mantissa == 0 { subnormal } else { normal };
        let special = if Some(code) == self.infinity { F32_INFINITY } else { f32::NAN.to_bits() };
        let magnitude = if code > self.largest { special } else { finite };
        f32::from_bits(sign | magnitude)
    }
}
