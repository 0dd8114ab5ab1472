//! PNG and JPEG to patches.
use std::panic::{AssertUnwindSafe, catch_unwind};

use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;
use zune_png::PngDecoder;

use super::{Evidence, ImageShape, Patches, evidence, keys, picture::Picture};

/// Pixels of an image that is decoded at all.
const MOST_PIXELS: usize = 1 << 24;
/// The same of one side.
const MOST_SIDE: usize = 1 << 14;
/// Cells of a side, and directions in each, that the wide path sees.
const CELLS: usize = 8;
const DIRECTIONS: usize = 8;
const COLOUR_CELLS: usize = 4;

/// The picture, what is transparent on white. Its size is looked at before memory is taken.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let png = bytes.starts_with(b"\x89PNG");
    // The bytes are anybody's, and a decoder may have an invariant too many.
    catch_unwind(AssertUnwindSafe(|| if png { of_png(bytes) } else { of_jpeg(bytes) }))
        .unwrap_or_else(|_| Err("its decoder failed on it".to_owned()))
}

fn options() -> DecoderOptions {
    DecoderOptions::new_safe()
        .set_max_width(MOST_SIDE)
        .set_max_height(MOST_SIDE)
        .set_strict_mode(true)
}

fn of_png(bytes: &[u8]) -> Result<Picture, String> {
    let options = options().png_set_strip_to_8bit(true).png_set_confirm_crc(true);
    let bytes = bare(bytes)?;
    let mut decoder = PngDecoder::new_with_options(ZCursor::new(&bytes[..]), options);
    decoder.decode_headers().map_err(said)?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    check(width, height)?;
    let pixels = decoder.decode_raw().map_err(said)?;
    let colours = decoder.colorspace().ok_or("it has no colours")?.num_components();
    Picture::new([width, height], colours, &pixels)
}

/// Only what pixels are made of: texts and profiles are packed, and a few bytes unpack to anything.
fn bare(png: &[u8]) -> Result<Vec<u8>, String> {
    let mut kept = png[..8.min(png.len())].to_vec();
    let mut rest = &png[kept.len()..];
    while let Some((size, _)) = rest.split_first_chunk::<4>() {
        // A length, a kind, so many bytes, and their checksum.
        let all = (u32::from_be_bytes(*size) as usize).saturating_add(12);
        let chunk = rest.get(..all).ok_or("the PNG is cut short")?;
        if matches!(&chunk[4..8], b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" | b"IEND") {
            kept.extend_from_slice(chunk);
        }
        rest = &rest[all..];
    }
    Ok(kept)
}

/// In words; the decoder has them only for debugging, in quotes and with a line's end.
fn said(error: zune_png::error::PngDecodeErrors) -> String {
    format!("{error:?}").trim_matches(['"', '\n', ' ']).to_owned()
}

fn of_jpeg(bytes: &[u8]) -> Result<Picture, String> {
    let options = options().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("it has no size")?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check(width, height)?;
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let colours = decoder.output_colorspace().ok_or("it has no colours")?.num_components();
    Picture::new([width, height], colours, &pixels)
}

fn check(width: usize, height: usize) -> Result<(), String> {
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        return Err(format!("it has {width} x {height} pixels"));
    }
    if pixels > MOST_PIXELS {
        return Err(format!("it has {width} x {height} pixels: at most {MOST_PIXELS} are decoded"));
    }
    Ok(())
}

/// The picture at the shape's size, patch by patch; of each, pixel by pixel, red, green and blue. And
/// what the wide path sees of it.
pub(super) fn read(bytes: &[u8], shape: &ImageShape) -> Result<(Patches, Vec<Evidence>), String> {
    let picture = decode(bytes)?.resized([shape.side; 2]);
    let mut evidence = edges(&picture);
    evidence.extend(colours(&picture));
    Ok((patches(&picture, shape), evidence))
}

fn patches(picture: &Picture, shape: &ImageShape) -> Patches {
    let (side, patch) = (shape.side, shape.patch);
    let mut cut = Vec::with_capacity(3 * side * side);
    for top in (0..side).step_by(patch) {
        for left in (0..side).step_by(patch) {
            for y in top..top + patch {
                (left..left + patch).for_each(|x| cut.extend(picture.pixel(x, y)));
            }
        }
    }
    Patches { count: shape.patches(), bytes: cut }
}

/// Directions of brightness in each of 8 x 8 cells (histograms of oriented gradients, Dalal and Triggs
/// 2005, "Histograms of oriented gradients for human detection"), of length 1 under the root. A
/// linear map from these knows handwritten digits from a few hundred examples, long before a network
/// does.
fn edges(picture: &Picture) -> Vec<Evidence> {
    let mut cells = vec![0.0_f32; CELLS * CELLS * DIRECTIONS];
    for edge in edges_of(picture) {
        let [first, second] = edge.cells;
        cells[first] += edge.length * (1.0 - edge.share);
        cells[second] += edge.length * edge.share;
    }
    let sum: f32 = cells.iter().sum();
    if sum == 0.0 {
        return Vec::new();
    }
    let values = cells.into_iter().map(|cell| (cell / sum).sqrt());
    evidence("edges", values)
}

/// How brightness changes at one pixel.
struct Edge {
    at: usize,
    across: f32,
    down: f32,
    length: f32,
    /// The two directions of its cell that it lies between, and the second's share.
    cells: [usize; 2],
    share: f32,
}

/// What red, green and blue add to brightness.
const BRIGHTNESS: [f32; 3] = [0.299, 0.587, 0.114];

/// Of all pixels at which it changes.
fn edges_of(picture: &Picture) -> Vec<Edge> {
    let [side, _] = picture.size();
    let brightness = |pixel: [u8; 3]| {
        pixel.into_iter().zip(BRIGHTNESS).map(|(colour, by)| f32::from(colour) * by).sum()
    };
    let grey: Vec<f32> = picture.pixels().map(brightness).collect();
    let slope = |low: usize, high: usize| grey[high] - grey[low];
    let mut edges = Vec::with_capacity(side * side);
    for y in 0..side {
        for x in 0..side {
            let at = y * side + x;
            let across = if x == 0 || x + 1 == side { 0.0 } else { slope(at - 1, at + 1) };
            let down = if y == 0 || y + 1 == side { 0.0 } else { slope(at - side, at + side) };
            let length = across.hypot(down);
            if length == 0.0 {
                continue;
            }
            // Shared between the two directions that it lies between.
            let turn = down.atan2(across) / std::f32::consts::TAU + 1.0;
            let turn = turn * DIRECTIONS as f32;
            let (first, share) = (turn.floor() as usize, turn.fract());
            let cell = (y * CELLS / side * CELLS + x * CELLS / side) * DIRECTIONS;
            let cells = [first, first + 1].map(|way| cell + way % DIRECTIONS);
            edges.push(Edge { at, across, down, length, cells, share });
        }
    }
    edges
}

/// The slope of a score over the bytes of a picture of the shape's size, from its slopes over the
/// patches' numbers and over what the wide path sees: the way back of [`read`].
///
/// `cut`: `[count, width]`; `seen`: of a key. Returns `[side, side, 3]`.
pub(super) fn slope(
    picture: &Picture,
    shape: &ImageShape,
    cut: &[f32],
    seen: impl Fn(u64) -> f32,
) -> Vec<f32> {
    let (side, patch) = (shape.side, shape.patch);
    let mut slopes = vec![0.0_f32; 3 * side * side];
    let mut cut = cut.chunks_exact(3 * patch);
    for top in (0..side).step_by(patch) {
        for left in (0..side).step_by(patch) {
            for (y, row) in (top..top + patch).zip(&mut cut) {
                let start = 3 * (y * side + left);
                slopes[start..start + 3 * patch]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(slope, number)| *slope += number / 127.5);
            }
        }
    }
    edges_slope(picture, &mut slopes, &seen);
    colours_slope(side, &mut slopes, &seen);
    slopes
}

fn edges_slope(picture: &Picture, slopes: &mut [f32], seen: &impl Fn(u64) -> f32) {
    let (edges, [side, _]) = (edges_of(picture), picture.size());
    let mut cells = vec![0.0_f32; CELLS * CELLS * DIRECTIONS];
    for edge in &edges {
        cells[edge.cells[0]] += edge.length * (1.0 - edge.share);
        cells[edge.cells[1]] += edge.length * edge.share;
    }
    let sum: f32 = cells.iter().sum();
    if sum == 0.0 {
        return;
    }
    // What is seen of a cell is sqrt(cell / sum). Near 0 its slope has no bound and says nothing of a
    // step of a few bytes; it is then that of a cell of a tenth of the mean.
    let least = 0.1 * sum / cells.len() as f32;
    let key = keys("edges");
    let given: Vec<f32> = (0..cells.len()).map(|at| seen(key(at))).collect();
    let root = |cell: f32| (cell.max(least) / sum).sqrt();
    let along: f32 = given.iter().zip(&cells).map(|(g, &c)| 0.5 * g * c / (root(c) * sum)).sum();
    let of_cell: Vec<f32> =
        given.iter().zip(&cells).map(|(g, &c)| (0.5 * g / root(c) - along) / sum).collect();
    let turn = DIRECTIONS as f32 / std::f32::consts::TAU;
    let mut grey = vec![0.0_f32; side * side];
    for edge in &edges {
        let [first, second] = edge.cells.map(|cell| of_cell[cell]);
        let of_length = first * (1.0 - edge.share) + second * edge.share;
        // The angle's change is the share's; the length stands before both.
        let of_turn = (second - first) * turn / edge.length;
        let across = (of_length * edge.across / edge.length) - of_turn * edge.down;
        let down = (of_length * edge.down / edge.length) + of_turn * edge.across;
        let (x, y) = (edge.at % side, edge.at / side);
        if x > 0 && x + 1 < side {
            grey[edge.at + 1] += across;
            grey[edge.at - 1] -= across;
        }
        if y > 0 && y + 1 < side {
            grey[edge.at + side] += down;
            grey[edge.at - side] -= down;
        }
    }
    for (pixel, grey) in slopes.chunks_exact_mut(3).zip(grey) {
        pixel.iter_mut().zip(BRIGHTNESS).for_each(|(slope, by)| *slope += by * grey);
    }
}

fn colours_slope(side: usize, slopes: &mut [f32], seen: &impl Fn(u64) -> f32) {
    let (key, scale) = (keys("colours"), colours_scale(side));
    let given: Vec<f32> =
        (0..2 * COLOUR_CELLS * COLOUR_CELLS).map(|at| scale * seen(key(at))).collect();
    for (at, pixel) in slopes.chunks_exact_mut(3).enumerate() {
        let cell = colour_cell(at, side);
        let (red, blue) = (given[cell], given[cell + 1]);
        let bent = [red - blue / 2.0, -red - blue / 2.0, blue];
        pixel.iter_mut().zip(bent).for_each(|(slope, by)| *slope += by);
    }
}

/// Where the cell of a pixel begins.
fn colour_cell(at: usize, side: usize) -> usize {
    let [x, y] = [at % side, at / side].map(|at| at * COLOUR_CELLS / side);
    2 * (y * COLOUR_CELLS + x)
}

/// A picture of one strong colour is about as long as its edges.
fn colours_scale(side: usize) -> f32 {
    let cells = 2 * COLOUR_CELLS * COLOUR_CELLS;
    let scale = cells as f32 / 2.0 / (side * side) as f32 / 255.0;
    scale / (cells as f32).sqrt()
}

/// How red and how blue each of 4 x 4 cells is; nothing of a grey picture.
fn colours(picture: &Picture) -> Vec<Evidence> {
    let [side, _] = picture.size();
    let mut cells = vec![0.0_f32; 2 * COLOUR_CELLS * COLOUR_CELLS];
    for (at, pixel) in picture.pixels().enumerate() {
        let [red, green, blue] = pixel.map(f32::from);
        let cell = colour_cell(at, side);
        cells[cell] += red - green;
        cells[cell + 1] += blue - (red + green) / 2.0;
    }
    let scale = colours_scale(side);
    evidence("colours", cells.into_iter().map(|cell| cell * scale))
}

/// The picture as a PNG of at most `most` bytes: of half the size, and half of that, until it fits.
pub(super) fn smaller(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut picture = decode(bytes).ok()?;
    loop {
        let png = picture.to_png();
        if png.len() <= most {
            return Some(png);
        }
        let size = picture.size();
        if size == [1, 1] {
            return None;
        }
        // A picture far too large for its bytes is not halved a dozen times.
        let excess = ((png.len() / most) as f64).sqrt().max(2.0);
        picture = picture.resized(size.map(|side| ((side as f64 / excess) as usize).max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(size: [usize; 2], colours: usize, pixels: &[u8]) -> Vec<u8> {
        Picture::new(size, colours, pixels).unwrap().to_png()
    }

    #[test]
    fn patches_hold_the_pixels_they_cover() {
        let pixels: Vec<u8> = (0..4 * 4 * 3).collect();
        let shape = ImageShape { side: 4, patch: 2, limit: 1 };
        let (found, _) = read(&png([4, 4], 3, &pixels), &shape).unwrap();
        assert_eq!((found.count, found.bytes.len()), (4, 48));
        let at = |x: u8, y: u8| [0, 1, 2].map(|colour| (y * 4 + x) * 3 + colour);
        let second = [at(2, 0), at(3, 0), at(2, 1), at(3, 1)].concat();
        assert_eq!(found.bytes[12..24], second);
    }

    #[test]
    fn grey_is_all_colours_and_what_is_transparent_is_white() {
        let shape = ImageShape { side: 1, patch: 1, limit: 1 };
        let (grey, _) = read(&png([1, 1], 1, &[7]), &shape).unwrap();
        assert_eq!(grey.bytes, [7, 7, 7]);
        let (clear, _) = read(&png([1, 1], 4, &[9, 9, 9, 0]), &shape).unwrap();
        assert_eq!(clear.bytes, [255, 255, 255]);
    }

    #[test]
    fn a_larger_picture_is_averaged_and_a_smaller_one_is_spread() {
        let shape = ImageShape { side: 2, patch: 2, limit: 1 };
        let stripes: Vec<u8> = (0..64 * 64).map(|at| if at % 2 == 0 { 0 } else { 200 }).collect();
        let (found, _) = read(&png([64, 64], 1, &stripes), &shape).unwrap();
        assert!(found.bytes.iter().all(|&b| (92..108).contains(&b)), "{:?}", found.bytes);
        let (found, _) = read(&png([1, 1], 1, &[50]), &shape).unwrap();
        assert_eq!(found.bytes, [50; 12]);
    }

    #[test]
    fn the_wide_path_sees_where_brightness_rises_and_what_is_coloured() {
        let of = |colour: fn(usize, usize) -> [u8; 3]| {
            let pixels: Vec<u8> = (0..32 * 32).flat_map(|at| colour(at % 32, at / 32)).collect();
            Picture::new([32, 32], 3, &pixels).unwrap()
        };
        let length = |found: &[Evidence]| found.iter().map(|(_, v)| v * v).sum::<f32>();
        let right = edges(&of(|x, _| [8 * x as u8; 3]));
        let down = edges(&of(|_, y| [8 * y as u8; 3]));
        assert!((length(&right) - 1.0).abs() < 1e-4 && (length(&down) - 1.0).abs() < 1e-4);
        // One direction a cell; no key is shared.
        let keys = |found: &[Evidence]| found.iter().map(|e| e.0).collect::<Vec<_>>();
        let (right, down) = (keys(&right), keys(&down));
        assert_eq!((right.len(), right.iter().any(|key| down.contains(key))), (64, false));
        assert!(edges(&of(|_, _| [9; 3])).is_empty() && colours(&of(|_, _| [9; 3])).is_empty());
        let (red, blue) = (colours(&of(|_, _| [255, 0, 0])), colours(&of(|_, _| [0, 0, 255])));
        assert!((0.5..1.5).contains(&length(&red)) && (0.3..1.5).contains(&length(&blue)));
        assert_ne!(red, blue);
    }

    #[test]
    fn the_way_back_is_that_of_finite_differences() {
        let shape = ImageShape { side: 16, patch: 4, limit: 1 };
        let pixels: Vec<u8> = (0..16 * 16 * 3_u32)
            .map(|at| {
                (120.0 + 90.0 * (f64::from(at / 3 % 16 * 7 + at / 48 * 3 + at % 3) * 0.31).sin())
                    as u8
            })
            .collect();
        let picture = Picture::of_rgb([16, 16], pixels);
        let weight = |key: u64| (key % 1_000) as f32 / 500.0 - 1.0;
        // What is nearly nothing has a slope of its own making.
        let strong: Vec<u64> = edges(&picture)
            .into_iter()
            .filter(|(_, value)| value * value > 0.5 / (CELLS * CELLS * DIRECTIONS) as f32)
            .chain(colours(&picture))
            .map(|(key, _)| key)
            .collect();
        let of_key = |key: u64| if strong.contains(&key) { 5.0 * weight(key) } else { 0.0 };
        let cut: Vec<f32> = (0..16 * 16 * 3).map(|at| 0.3 * weight(at * 37)).collect();
        let score = |picture: &Picture| {
            let patches = patches(picture, &shape);
            let numbers = patches.bytes.iter().zip(&cut);
            let numbers = numbers.map(|(&byte, by)| (f32::from(byte) / 127.5 - 1.0) * by);
            let seen = edges(picture).into_iter().chain(colours(picture));
            let seen = seen.map(|(key, value)| of_key(key) * value);
            numbers.chain(seen).map(f64::from).sum::<f64>()
        };
        let slopes = slope(&picture, &shape, &cut, of_key);
        let (mut both, mut one, mut other) = (0.0, 0.0, 0.0);
        for at in 0..16 * 16 * 3 {
            let moved = |by: i16| {
                let mut bytes = picture.rgb().to_vec();
                bytes[at] = (i16::from(bytes[at]) + by) as u8;
                score(&Picture::of_rgb([16, 16], bytes))
            };
            let (found, wanted) = (f64::from(slopes[at]), (moved(1) - moved(-1)) / 2.0);
            both += found * wanted;
            one += found * found;
            other += wanted * wanted;
        }
        let (alike, size) = (both / (one * other).sqrt(), (one / other).sqrt());
        assert!(alike > 0.98 && (0.95..1.05).contains(&size), "{alike} {size}");
    }

    #[test]
    fn what_is_cut_or_no_picture_is_refused_with_the_reason() {
        let whole = png([64, 64], 1, &[0; 64 * 64]);
        for size in [8, 40, whole.len() / 2] {
            assert!(decode(&whole[..size]).is_err(), "{size}");
        }
        assert!(decode(b"\xff\xd8\xff\xe0 not a JPEG").is_err());
        assert!(decode(b"").is_err());
    }

    #[test]
    fn a_picture_is_made_to_fit_and_stays_the_same_picture() {
        let noise: Vec<u8> =
            (0..128 * 128_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let whole = png([128, 128], 1, &noise);
        let small = smaller(&whole, 4_000).unwrap();
        assert!(small.len() <= 4_000 && decode(&small).unwrap().size()[0] >= 16);
        assert_eq!(smaller(&whole, 10), None);
        assert_eq!(smaller(b"no picture", 10), None);
    }

    /// A few bytes that say they are a huge picture.
    #[test]
    fn a_bomb_is_refused_before_memory_is_taken() {
        let mut bomb = png([1, 1], 1, &[0]);
        for (side, said) in [(60_000_u32, "60000"), (16_000, "16000 x 16000 pixels")] {
            bomb[16..20].copy_from_slice(&side.to_be_bytes());
            bomb[20..24].copy_from_slice(&side.to_be_bytes());
            let mut crc = flate2::Crc::new();
            crc.update(&bomb[12..29]);
            bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
            let error = decode(&bomb).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_packed_beside_the_pixels_is_not_unpacked() {
        use std::io::Write as _;

        let sound = png([1, 1], 3, &[1, 2, 3]);
        let mut packed = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::best());
        packed.write_all(&vec![0; 1 << 20]).unwrap();
        let text = [b"zTXtnote\0\0".to_vec(), packed.finish().unwrap()].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&text);
        let length = (text.len() - 4) as u32;
        let chunk = [&length.to_be_bytes()[..], &text, &crc.sum().to_be_bytes()].concat();
        // Behind the header, which takes 8 + 25 bytes.
        let bomb = [&sound[..33], &chunk.repeat(50), &sound[33..]].concat();
        assert_eq!(bare(&bomb).unwrap(), bare(&sound).unwrap());
        assert_eq!(decode(&bomb).unwrap().pixel(0, 0), [1, 2, 3]);
        assert!(decode(&bomb[..40]).unwrap_err().contains("cut short"));
    }
}
