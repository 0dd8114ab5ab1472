//! Corruptions of pictures, as Hendrycks and Dietterich define them (arXiv 1903.12261).
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tidegate_model::Picture;

use super::{
    Kind,
    draw::{normal, poisson},
    jpeg,
};

/// Pictures whose shorter side has fewer pixels take the first table, those of CIFAR-10-C; others the
/// second, those of ImageNet-C.
const LARGE: usize = 64;
/// The longest side of what is perturbed; models read less.
const LONGEST: usize = 512;

type Table = [[f64; 5]; 2];

const GAUSSIAN: Table = [[0.04, 0.06, 0.08, 0.09, 0.10], [0.08, 0.12, 0.18, 0.26, 0.38]];
const SHOT: Table = [[500.0, 250.0, 100.0, 75.0, 50.0], [60.0, 25.0, 12.0, 5.0, 3.0]];
const IMPULSE: Table = [[0.01, 0.02, 0.03, 0.05, 0.07], [0.03, 0.06, 0.09, 0.17, 0.27]];
const SPECKLE: Table = [[0.06, 0.10, 0.12, 0.16, 0.20], [0.15, 0.20, 0.35, 0.45, 0.60]];
const BLUR: Table = [[0.4, 0.6, 0.7, 0.8, 1.0], [1.0, 2.0, 3.0, 4.0, 6.0]];
const CONTRAST: Table = [[0.75, 0.5, 0.4, 0.3, 0.15], [0.4, 0.3, 0.2, 0.1, 0.05]];
const BRIGHTNESS: Table = [[0.05, 0.1, 0.15, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]];
/// What saturation is multiplied by, and what is added.
const SATURATE: [[(f64, f64); 5]; 2] = [
    [(0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)],
    [(0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)],
];
const JPEG: Table = [[80.0, 65.0, 58.0, 50.0, 40.0], [25.0, 18.0, 15.0, 10.0, 7.0]];
const PIXELATE: Table = [[0.95, 0.9, 0.85, 0.75, 0.65], [0.6, 0.5, 0.4, 0.3, 0.25]];

/// The picture, corrupted, as a PNG; nothing where it cannot be decoded.
pub(super) fn change(
    kind: Kind,
    severity: usize,
    bytes: &[u8],
    rng: &mut ChaCha8Rng,
) -> Option<Vec<u8>> {
    let mut picture = Picture::read(bytes).ok()?;
    let longest = picture.size().into_iter().max()?;
    if longest > LONGEST {
        let size = picture.size().map(|side| (side * LONGEST / longest).max(1));
        picture = picture.resized(size);
    }
    Some(corrupt(kind, severity, &picture, rng).to_png())
}

fn corrupt(kind: Kind, severity: usize, picture: &Picture, rng: &mut ChaCha8Rng) -> Picture {
    let size = picture.size();
    let table = usize::from(size[0].min(size[1]) >= LARGE);
    let by = |values: &Table| values[table][severity - 1];
    let each = |change: &mut dyn FnMut(f64) -> f64| of_values(size, values(picture).map(change));
    match kind {
        Kind::ImageGaussianNoise => each(&mut |x| x + by(&GAUSSIAN) * normal(rng)),
        Kind::ImageShotNoise => each(&mut |x| poisson(x * by(&SHOT), rng) / by(&SHOT)),
        Kind::ImageImpulseNoise => each(&mut |x| match rng.random_bool(by(&IMPULSE)) {
            true => f64::from(rng.random_range(0..2_u8)),
            false => x,
        }),
        Kind::ImageSpeckleNoise => each(&mut |x| x + x * by(&SPECKLE) * normal(rng)),
        Kind::ImageGaussianBlur => blurred(picture, by(&BLUR)),
        Kind::ImageContrast => contrast(picture, by(&CONTRAST)),
        Kind::ImageBrightness => hsv(picture, |[h, s, v]| [h, s, v + by(&BRIGHTNESS)]),
        Kind::ImageSaturate => {
            let (times, more) = SATURATE[table][severity - 1];
            hsv(picture, |[h, s, v]| [h, s * times + more, v])
        }
        Kind::ImageJpeg => jpeg::lossy(picture, by(&JPEG)),
        Kind::ImagePixelate => pixelated(picture, by(&PIXELATE)),
        _ => picture.clone(),
    }
}

/// 0 to 1.
fn values(picture: &Picture) -> impl Iterator<Item = f64> {
    picture.rgb().iter().map(|&byte| f64::from(byte) / 255.0)
}

/// What lies beyond 0 and 1 is there.
fn of_values(size: [usize; 2], values: impl Iterator<Item = f64>) -> Picture {
    let bytes = values.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8);
    Picture::of_rgb(size, bytes.collect())
}

/// Across, then down; beyond an edge as at it.
fn blurred(picture: &Picture, deviation: f64) -> Picture {
    let reach = (4.0 * deviation).ceil() as isize;
    let weight = |at: isize| (-0.5 * (at as f64 / deviation).powi(2)).exp();
    let sum: f64 = (-reach..=reach).map(weight).sum();
    let [width, height] = picture.size();
    let across = |all: &[f64], step: usize, count: usize| -> Vec<f64> {
        let of = |place: usize| {
            let at = (place / step % count) as isize;
            let here = |by: isize| (at + by).clamp(0, count as isize - 1) - at;
            let value = |by: isize| all[place.wrapping_add_signed(here(by) * step as isize)];
            (-reach..=reach).map(|by| weight(by) * value(by)).sum::<f64>() / sum
        };
        (0..all.len()).map(of).collect()
    };
    let narrow = across(&values(picture).collect::<Vec<_>>(), 3, width);
    of_values([width, height], across(&narrow, 3 * width, height).into_iter())
}

/// Nearer to each colour's mean.
fn contrast(picture: &Picture, by: f64) -> Picture {
    let count = (picture.rgb().len() / 3) as f64;
    let mean = |colour: usize| values(picture).skip(colour).step_by(3).sum::<f64>() / count;
    let means = [mean(0), mean(1), mean(2)];
    let moved = values(picture).enumerate().map(|(at, x)| (x - means[at % 3]) * by + means[at % 3]);
    of_values(picture.size(), moved)
}

/// Changes hue, saturation and value of each pixel, all 0 to 1 (Smith 1978).
fn hsv(picture: &Picture, change: impl Fn([f64; 3]) -> [f64; 3]) -> Picture {
    let all: Vec<f64> = values(picture).collect();
    let one = |rgb: &[f64]| {
        let (most, least) = (rgb[0].max(rgb[1]).max(rgb[2]), rgb[0].min(rgb[1]).min(rgb[2]));
        let range = most - least;
        let hue = match () {
            () if range == 0.0 => 0.0,
            () if most == rgb[0] => (rgb[1] - rgb[2]) / range,
            () if most == rgb[1] => (rgb[2] - rgb[0]) / range + 2.0,
            () => (rgb[0] - rgb[1]) / range + 4.0,
        };
        let saturation = if most > 0.0 { range / most } else { 0.0 };
        let [hue, saturation, value] = change([hue.rem_euclid(6.0), saturation, most]);
        let (saturation, value) = (saturation.clamp(0.0, 1.0), value.clamp(0.0, 1.0));
        // Each colour is the value less what the hue takes of it.
        [5.0, 3.0, 1.0].map(|turn: f64| {
            let way = (turn + hue).rem_euclid(6.0);
            value - value * saturation * way.min(4.0 - way).clamp(0.0, 1.0)
        })
    };
    of_values(picture.size(), all.chunks_exact(3).flat_map(one))
}

/// Smaller, and back without smoothing.
fn pixelated(picture: &Picture, by: f64) -> Picture {
    let [width, height] = picture.size();
    let size = [width, height].map(|side| ((side as f64 * by) as usize).max(1));
    let small = picture.resized(size);
    let pixel = |(x, y): (usize, usize)| {
        // The small pixel that lies under this one's middle.
        let [left, top] = [(x, width, size[0]), (y, height, size[1])]
            .map(|(at, side, small)| (2 * at + 1) * small / (2 * side));
        let at = 3 * (top * size[0] + left);
        small.rgb()[at..at + 3].to_vec()
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    Picture::of_rgb([width, height], places.flat_map(pixel).collect())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const KINDS: [Kind; 10] = [
        Kind::ImageGaussianNoise,
        Kind::ImageShotNoise,
        Kind::ImageImpulseNoise,
        Kind::ImageSpeckleNoise,
        Kind::ImageGaussianBlur,
        Kind::ImageContrast,
        Kind::ImageBrightness,
        Kind::ImageSaturate,
        Kind::ImageJpeg,
        Kind::ImagePixelate,
    ];

    /// Waves in every colour, with an edge.
    fn picture(side: usize) -> Picture {
        let bytes = (0..3 * side * side).map(|at| {
            let (x, y, colour) = (at / 3 % side, at / 3 / side, at % 3);
            let wave = ((x * (colour + 1)) as f64 / side as f64 * 4.0).sin() * 60.0;
            (110.0 + wave + if y > side / 2 { 50.0 } else { -20.0 }) as u8
        });
        Picture::of_rgb([side; 2], bytes.collect())
    }

    fn distance(a: &Picture, b: &Picture) -> f64 {
        let squares = values(a).zip(values(b)).map(|(a, b)| (a - b).powi(2));
        (squares.sum::<f64>() / a.rgb().len() as f64).sqrt()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_no_kind_leaves_the_picture_as_it_is() {
        for side in [32, 96] {
            let whole = picture(side);
            let png = whole.to_png();
            for kind in KINDS {
                let of =
                    |seed| change(kind, 4, &png, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
                assert_eq!(of(3), of(3), "{kind:?}");
                let changed = Picture::read(&of(3)).unwrap();
                assert_eq!(changed.size(), whole.size());
                assert!(distance(&changed, &whole) > 0.002, "{kind:?}");
            }
        }
        assert_eq!(change(KINDS[0], 1, b"no picture", &mut ChaCha8Rng::seed_from_u64(0)), None);
    }

    #[test]
    fn what_is_more_severe_is_further_away() {
        // But for saturation, which first takes colour away and then gives more of it.
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::ImageSaturate) {
            for side in [32, 128] {
                let whole = picture(side);
                let far = |severity| {
                    let one = |seed| {
                        let mut rng = ChaCha8Rng::seed_from_u64(seed);
                        distance(&corrupt(kind, severity, &whole, &mut rng), &whole)
                    };
                    (0..4).map(one).sum::<f64>()
                };
                let all: Vec<f64> = (1..=5).map(far).collect();
                // One picture may be lucky: a coarser step of a grid can lie nearer to it.
                let lucky = matches!(kind, Kind::ImageJpeg | Kind::ImagePixelate);
                let steps = lucky || all.is_sorted_by(|a, b| a < b);
                assert!(steps && all[0] < all[4], "{kind:?} {side}: {all:?}");
            }
        }
    }

    #[test]
    fn hue_saturation_and_value_are_the_usual_ones() {
        let one = Picture::of_rgb([1, 1], vec![100, 50, 20]);
        assert_eq!(hsv(&one, |hsv| hsv), one);
        // More value makes every colour larger by the same factor, here 202 / 100.
        let bright = hsv(&one, |[h, s, v]| [h, s, v + 0.4]);
        assert_eq!(bright.rgb(), [202, 101, 40]);
        let grey = hsv(&one, |[h, _, v]| [h, 0.0, v]);
        assert_eq!(grey.rgb(), [100, 100, 100]);
    }

    #[test]
    fn the_size_chooses_the_table() {
        let far = |side| {
            let whole = picture(side);
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            distance(&corrupt(Kind::ImageGaussianNoise, 3, &whole, &mut rng), &whole)
        };
        assert!((far(63) - 0.08).abs() < 0.006, "{}", far(63));
        assert!((far(64) - 0.18).abs() < 0.03, "{}", far(64));
    }
}
