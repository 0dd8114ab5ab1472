//! Matrices of 8-bit codes with one scale for each tile.
use super::{E4M3, fp8::MAGNITUDE};

/// Side of a tile.
const SIDE: usize = 128;

/// Which elements of a matrix share a scale. At the edges tiles are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tile {
    /// 1 x 128: what is summed over a row, such as activations in a forward product.
    Row,
    /// 128 x 1: what is summed over a column, such as activations in a weight's gradient.
    Column,
    /// 128 x 128: weights. The transposed matrix has the same codes.
    Block,
}

impl Tile {
    /// Height and width.
    #[must_use]
    pub const fn shape(self) -> [usize; 2] {
        match self {
            Self::Row => [1, SIDE],
            Self::Column => [SIDE, 1],
            Self::Block => [SIDE, SIDE],
        }
    }
}

/// A matrix as [`E4M3`] codes, with one f32 scale for each [`Tile`].
///
/// A tile's scale is its largest magnitude / 448, and at least the smallest normal f32: so a tile
/// of zeros stays zeros, and one of subnormal numbers keeps them to an absolute 2^-136.
///
/// What is not finite is never hidden: one NaN or infinity makes every element of its tile NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Fp8Matrix {
    shape: [usize; 2],
    tile: Tile,
    codes: Vec<E4M3>,
    scales: Vec<f32>,
}

impl Fp8Matrix {
    /// Rounds `values`, row by row, of `shape` (rows, columns).
    ///
    /// # Panics
    /// When there are not rows x columns values.
    #[must_use]
    pub fn quantise(values: &[f32], shape: [usize; 2], tile: Tile) -> Self {
        let [rows, columns] = shape;
        assert_eq!(values.len(), rows * columns, "one value for each cell of {shape:?}");
        let [_, width] = tile.shape();
        let mut codes = Vec::with_capacity(values.len());
        let mut scales = Vec::new();
        for_each_band(values, columns, tile, |band, scale| {
            scales.extend(scale.iter().step_by(width));
            for row in band.chunks_exact(columns) {
                codes.extend(row.iter().zip(scale).map(|(value, scale)| encode(*value, *scale)));
            }
        });
        Self { shape, tile, codes, scales }
    }

    /// What the codes stand for, row by row.
    #[must_use]
    pub fn dequantise(&self) -> Vec<f32> {
        let [_, columns] = self.shape;
        let [height, width] = self.tile.shape();
        let mut values = Vec::with_capacity(self.codes.len());
        let bands = self.codes.chunks((height * columns).max(1));
        for (band, scales) in bands.zip(self.scales.chunks(columns.div_ceil(width).max(1))) {
            for row in band.chunks_exact(columns) {
                for (codes, scale) in row.chunks(width).zip(scales) {
                    values.extend(codes.iter().map(|code| decode(*code, *scale)));
                }
            }
        }
        values
    }

    /// Rows and columns.
    #[must_use]
    pub const fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// What shares a scale.
    #[must_use]
    pub const fn tile(&self) -> Tile {
        self.tile
    }

    /// `[rows, columns]`.
    #[must_use]
    pub fn codes(&self) -> &[E4M3] {
        &self.codes
    }

    /// `[ceil(rows / tile height), ceil(columns / tile width)]`.
    #[must_use]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }
}

/// `values`, row by row, as they come out of an [`Fp8Matrix`].
pub(super) fn round(values: &[f32], columns: usize, tile: Tile, into: &mut Vec<f32>) {
    for_each_band(values, columns, tile, |band, scale| {
        for row in band.chunks_exact(columns) {
            into.extend(
                row.iter().zip(scale).map(|(value, scale)| decode(encode(*value, *scale), *scale)),
            );
        }
    });
}

/// Calls `each` with as many rows as a tile is high, and the scale of each column in them.
fn for_each_band(values: &[f32], columns: usize, tile: Tile, mut each: impl FnMut(&[f32], &[f32])) {
    let [height, width] = tile.shape();
    let mut peaks = vec![0_u32; columns];
    let mut scales = vec![0.0; columns];
    for band in values.chunks((height * columns).max(1)) {
        peaks.fill(0);
        for row in band.chunks_exact(columns) {
            for (peak, value) in peaks.iter_mut().zip(row) {
                // The bits of magnitudes are in the order of magnitudes, with NaN above them all.
                *peak = (*peak).max(value.to_bits() & MAGNITUDE);
            }
        }
        for (peaks, scales) in peaks.chunks(width).zip(scales.chunks_mut(width)) {
            let peak = peaks.iter().copied().max().expect("chunks are not empty");
            scales.fill(scale(f32::from_bits(peak)));
        }
        each(band, &scales);
    }
}

/// The scale of a tile whose largest magnitude is `peak`.
fn scale(peak: f32) -> f32 {
    let scale = peak / E4M3::MAX;
    // Not `max`, which would lose a NaN.
    if scale < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { scale }
}

#[inline]
fn encode(value: f32, scale: f32) -> E4M3 {
    E4M3::from_f32(value / scale)
}

#[inline]
fn decode(code: E4M3, scale: f32) -> f32 {
    code.to_f32() * scale
}
