//! Pixels.
use std::io::Write as _;

use flate2::{Compression, Crc, write::ZlibEncoder};

use crate::ModelError;

/// A picture in red, green and blue.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// `[height, width, 3]`.
    bytes: Vec<u8>,
}

impl Picture {
    /// Decodes a PNG or a JPEG; what is transparent becomes white.
    ///
    /// # Errors
    /// [`ModelError::BadPart`] says what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        let bad = |reason| ModelError::BadPart { field: "image".to_owned(), reason };
        super::image::decode(bytes).map_err(bad)
    }

    /// A picture of these bytes: red, green and blue, pixel by pixel, row by row.
    ///
    /// # Panics
    /// When they are not `[height, width, 3]`, or none.
    #[must_use]
    pub fn of_rgb([width, height]: [usize; 2], bytes: Vec<u8>) -> Self {
        assert!(width * height > 0 && bytes.len() == 3 * width * height, "three bytes a pixel");
        Self { width, height, bytes }
    }

    /// Red, green and blue, pixel by pixel, row by row: `[height, width, 3]`.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.bytes
    }

    /// `pixels`: `[height, width, colours]`, which are grey, or red, green and blue, with how opaque
    /// each pixel is behind them where there are two or four. What is transparent becomes white.
    pub(super) fn new(
        [width, height]: [usize; 2],
        colours: usize,
        pixels: &[u8],
    ) -> Result<Self, String> {
        if !(1..=4).contains(&colours) || pixels.len() != width * height * colours {
            let found = pixels.len();
            return Err(format!("{found} bytes are no {width} x {height} pixels of {colours}"));
        }
        let on_white = |colour: u8, opaque: u8| {
            let (colour, opaque) = (u16::from(colour), u16::from(opaque));
            ((colour * opaque + 255 * (255 - opaque) + 127) / 255) as u8
        };
        let rgb = |pixel: &[u8]| match *pixel {
            [grey] => [grey; 3],
            [grey, opaque] => [on_white(grey, opaque); 3],
            [red, green, blue] => [red, green, blue],
            [red, green, blue, opaque] => [red, green, blue].map(|c| on_white(c, opaque)),
            _ => unreachable!("a pixel has one to four numbers"),
        };
        let bytes = pixels.chunks_exact(colours).flat_map(rgb).collect();
        Ok(Self { width, height, bytes })
    }

    /// Width and height.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    pub(super) fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = 3 * (y * self.width + x);
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]]
    }

    /// Row by row.
    pub(super) fn pixels(&self) -> impl Iterator<Item = [u8; 3]> {
        self.bytes.as_chunks::<3>().0.iter().copied()
    }

    /// The same picture at another size. A new pixel is a mean over what it covers and a little beyond
    /// (a triangle), so that thin strokes do not vanish; between pixels it is linear.
    ///
    /// # Panics
    /// When a side is 0.
    #[must_use]
    pub fn resized(&self, [width, height]: [usize; 2]) -> Self {
        if self.size() == [width, height] {
            return self.clone();
        }
        // Across first, over the rows that there are; then down.
        let across = weights(self.width, width);
        let mut narrow = vec![0.0_f32; self.height * width * 3];
        for (row, out) in
            self.bytes.chunks_exact(3 * self.width).zip(narrow.chunks_exact_mut(3 * width))
        {
            for ((first, weights), out) in across.iter().zip(out.chunks_exact_mut(3)) {
                for (pixel, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
                    for (out, colour) in out.iter_mut().zip(pixel) {
                        *out += weight * f32::from(*colour);
                    }
                }
            }
        }
        let mut bytes = Vec::with_capacity(height * width * 3);
        let mut sums = vec![0.0_f32; 3 * width];
        for (first, weights) in weights(self.height, height) {
            sums.fill(0.0);
            for (row, weight) in narrow[3 * width * first..].chunks_exact(3 * width).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
            bytes.extend(sums.iter().map(|sum| sum.round() as u8));
        }
        Self { width, height, bytes }
    }

    /// As a PNG without loss.
    #[must_use]
    pub fn to_png(&self) -> Vec<u8> {
        let mut rows = Vec::with_capacity(self.bytes.len() + self.height);
        for row in self.bytes.chunks_exact(3 * self.width) {
            // Each byte less that of the pixel before.
            rows.push(1);
            rows.extend_from_slice(&row[..3]);
            rows.extend(row.iter().zip(&row[3..]).map(|(left, here)| here.wrapping_sub(*left)));
        }
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        let packed = packer.write_all(&rows).and_then(|()| packer.finish());
        let packed = packed.expect("memory takes every byte");
        let side = |side: usize| (side as u32).to_be_bytes();
        // Eight bits of red, green and blue; no interlacing.
        let header = [&side(self.width)[..], &side(self.height), &[8, 2, 0, 0, 0]].concat();
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, content) in [(b"IHDR", &header), (b"IDAT", &packed), (b"IEND", &Vec::new())] {
            let mut crc = Crc::new();
            crc.update(kind);
            crc.update(content);
            png.extend((content.len() as u32).to_be_bytes());
            png.extend_from_slice(kind);
            png.extend_from_slice(content);
            png.extend(crc.sum().to_be_bytes());
        }
        png
    }
}

/// Of each new pixel the first old one that it sees, and what each counts; they sum to 1.
fn weights(old: usize, new: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = old as f64 / new as f64;
    let reach = scale.max(1.0);
    let of = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = ((centre - reach).floor().max(0.0)) as usize;
        let last = ((centre + reach).ceil() as usize).min(old);
        let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - centre) / reach).abs()).max(0.0);
        let sum: f64 = (first..last).map(weight).sum();
        (first, (first..last).map(|at| (weight(at) / sum) as f32).collect())
    };
    (0..new).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_see_what_they_cover() {
        for (old, new) in [(1, 32), (8, 32), (32, 8), (100, 7), (7, 100), (5, 1), (1, 1)] {
            let all = weights(old, new);
            assert_eq!(all.len(), new);
            for (first, weights) in &all {
                assert!(first + weights.len() <= old);
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{old} {new}");
            }
        }
    }

    /// As Pillow's `resize` with `Resampling.BILINEAR` does it: `[0, 100, 200, 40]` at half and at
    /// twice the width.
    #[test]
    fn a_row_is_resized_as_pillow_does() {
        let row = Picture::new([4, 1], 1, &[0, 100, 200, 40]).unwrap();
        let grey = |picture: &Picture| picture.pixels().map(|p| p[0]).collect::<Vec<_>>();
        assert_eq!(grey(&row.resized([2, 1])), [71, 117]);
        assert_eq!(grey(&row.resized([8, 1])), [0, 25, 75, 125, 175, 160, 80, 40]);
    }
}
