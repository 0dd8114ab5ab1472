//! What JPEG loses (ITU-T T.81), without the file: packing the numbers loses nothing.
use tidegate_model::Picture;

const SIDE: usize = 8;

/// Annex K, tables 1 and 2, row by row.
#[rustfmt::skip]
const LUMINANCE: [u8; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];
#[rustfmt::skip]
const CHROMINANCE: [u8; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
];

/// One of brightness and both colours, row by row.
#[derive(Debug, Clone)]
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl Plane {
    fn at(&self, x: usize, y: usize) -> f64 {
        self.values[y.min(self.height - 1) * self.width + x.min(self.width - 1)]
    }

    /// Each value the mean of four.
    fn halved(&self) -> Self {
        let [width, height] = [self.width, self.height].map(|side| side.div_ceil(2));
        let mean = |(x, y): (usize, usize)| {
            let at = |dx, dy| self.at(2 * x + dx, 2 * y + dy);
            (at(0, 0) + at(1, 0) + at(0, 1) + at(1, 1)) / 4.0
        };
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Self { width, height, values: places.map(mean).collect() }
    }

    /// Block by block: transformed, divided, rounded, and back.
    fn rounded(mut self, steps: &[f64; 64], waves: &[[f64; SIDE]; SIDE]) -> Self {
        let whole = self.clone();
        for top in (0..self.height).step_by(SIDE) {
            for left in (0..self.width).step_by(SIDE) {
                let mut block = [[0.0; SIDE]; SIDE];
                for (y, row) in block.iter_mut().enumerate() {
                    for (x, value) in row.iter_mut().enumerate() {
                        *value = whole.at(left + x, top + y) - 128.0;
                    }
                }
                let mut found = product(&product(waves, &block, false, false), waves, false, true);
                for (value, step) in found.iter_mut().flatten().zip(steps) {
                    *value = (*value / step).round() * step;
                }
                let back = product(&product(waves, &found, true, false), waves, false, false);
                for (y, row) in back.iter().enumerate().take(self.height - top) {
                    for (x, value) in row.iter().enumerate().take(self.width - left) {
                        self.values[(top + y) * self.width + left + x] = value + 128.0;
                    }
                }
            }
        }
        self
    }
}

type Block = [[f64; SIDE]; SIDE];

/// `a b`, either turned round first.
fn product(a: &Block, b: &Block, turn_a: bool, turn_b: bool) -> Block {
    let of = |m: &Block, turn: bool, y: usize, x: usize| if turn { m[x][y] } else { m[y][x] };
    std::array::from_fn(|y| {
        std::array::from_fn(|x| (0..SIDE).map(|k| of(a, turn_a, y, k) * of(b, turn_b, k, x)).sum())
    })
}

/// The cosine transform of T.81, A.3.3.
fn waves() -> Block {
    std::array::from_fn(|u| {
        let scale = if u == 0 { (1.0 / 8.0_f64).sqrt() } else { 0.5 };
        std::array::from_fn(|x| {
            scale * ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos()
        })
    })
}

/// The tables at a quality of 1 to 100, as the Independent JPEG Group's library scales them.
fn steps(table: &[u8; 64], quality: f64) -> [f64; 64] {
    let scale = if quality < 50.0 { 5_000.0 / quality } else { 200.0 - 2.0 * quality }.floor();
    table.map(|step| ((f64::from(step) * scale + 50.0) / 100.0).floor().clamp(1.0, 255.0))
}

/// The picture after it was a JPEG of this quality, with colours at half the size (4:2:0).
pub(super) fn lossy(picture: &Picture, quality: f64) -> Picture {
    let [width, height] = picture.size();
    let pixels = || picture.rgb().chunks_exact(3).map(|p| [p[0], p[1], p[2]].map(f64::from));
    // ITU-T T.871.
    let plane =
        |of: fn([f64; 3]) -> f64| Plane { width, height, values: pixels().map(of).collect() };
    let brightness = plane(|[r, g, b]| 0.299 * r + 0.587 * g + 0.114 * b);
    let blue = plane(|[r, g, b]| -0.168_736 * r - 0.331_264 * g + 0.5 * b + 128.0);
    let red = plane(|[r, g, b]| 0.5 * r - 0.418_688 * g - 0.081_312 * b + 128.0);
    let waves = waves();
    let (fine, coarse) = (steps(&LUMINANCE, quality), steps(&CHROMINANCE, quality));
    let brightness = brightness.rounded(&fine, &waves);
    let [blue, red] = [blue, red].map(|plane| plane.halved().rounded(&coarse, &waves));
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let bytes = places.flat_map(|(x, y)| {
        let light = brightness.at(x, y);
        let (blue, red) = (blue.at(x / 2, y / 2) - 128.0, red.at(x / 2, y / 2) - 128.0);
        let green = light - 0.344_136 * blue - 0.714_136 * red;
        [light + 1.402 * red, green, light + 1.772 * blue]
            .map(|value| value.round().clamp(0.0, 255.0) as u8)
    });
    Picture::of_rgb([width, height], bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_stays_and_the_best_quality_loses_next_to_nothing() {
        let plain = Picture::of_rgb([11, 5], [90, 140, 200].repeat(55));
        let far = |a: &Picture, b: &Picture| {
            a.rgb().iter().zip(b.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
        };
        assert!(far(&lossy(&plain, 90.0), &plain) <= 3);
        let grey: Vec<u8> = (0..16 * 16_u32).flat_map(|at| [(at * 37 % 251) as u8; 3]).collect();
        let grey = Picture::of_rgb([16, 16], grey);
        assert!(far(&lossy(&grey, 100.0), &grey) <= 2);
        assert!(far(&lossy(&grey, 10.0), &grey) > 20);
    }

    #[test]
    fn tables_are_scaled_as_by_libjpeg() {
        assert_eq!(steps(&LUMINANCE, 50.0)[..3], [16.0, 11.0, 10.0]);
        assert_eq!(steps(&LUMINANCE, 25.0)[..3], [32.0, 22.0, 20.0]);
        assert_eq!(steps(&LUMINANCE, 80.0)[..3], [6.0, 4.0, 4.0]);
        assert_eq!(steps(&CHROMINANCE, 7.0)[63], 255.0);
    }
}
