//! Patches of pictures.
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::Part;
use tidegate_model::{Input, Picture};

use super::{Kind, Mark, hash};

/// A picture is cut into so many cells a side.
const GRID: usize = 16;
/// Of a cell's mean colour so many bits of each channel are told apart: what a lossy encoder changes
/// of a patch is less.
const BITS: u32 = 3;

/// What stands at one place of pictures: a cell, or two by two.
pub(super) struct Patches;

/// Cells of a picture: the first column and row, and those after the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells([usize; 4]);

/// What stands in those cells.
struct Patch {
    cells: Cells,
    picture: Picture,
}

impl Kind for Patches {
    type Place = Cells;

    /// Reading pictures takes time.
    const MOST: usize = 600;

    fn is_in(&self, input: &Input) -> bool {
        input.parts.iter().any(|part| matches!(part, Part::Image(_)))
    }

    fn pieces(&self, input: &Input, _of: usize, f: &mut dyn FnMut(Self::Place, u64)) {
        let Some(picture) = first(input).filter(is_large) else { return };
        let colours: Vec<u16> =
            (0..GRID * GRID).map(|at| colour(&picture, [at % GRID, at / GRID])).collect();
        for at in 0..GRID * GRID {
            let (x, y) = (at % GRID, at / GRID);
            for wide in [1, 2] {
                if x + wide > GRID || y + wide > GRID {
                    continue;
                }
                let mut key = vec![at as u16, wide as u16];
                for row in 0..wide {
                    key.extend(&colours[at + row * GRID..][..wide]);
                }
                let key: Vec<u8> = key.into_iter().flat_map(u16::to_le_bytes).collect();
                f(Cells([x, y, x + wide, y + wide]), hash(&key));
            }
        }
    }

    fn join(&self, input: &Input, _of: usize, places: &[Self::Place]) -> Box<dyn Mark> {
        // The smallest pieces: larger ones have some of what stands beside them.
        let width = |cells: &&Cells| cells.0[2] - cells.0[0];
        let least = places.iter().map(|cells| width(&cells)).min();
        let cells = places.iter().filter(|cells| Some(width(cells)) == least);
        let whole = cells.fold([GRID, GRID, 0, 0], |all, Cells(one)| {
            [all[0].min(one[0]), all[1].min(one[1]), all[2].max(one[2]), all[3].max(one[3])]
        });
        let cells = Cells(whole);
        let picture = first(input).expect("it had pieces");
        Box::new(Patch { cells, picture: cells.cut(&picture) })
    }
}

impl Cells {
    /// Pixels: left, top, right, bottom.
    fn pixels(self, [width, height]: [usize; 2]) -> [usize; 4] {
        let [x, y, right, bottom] = self.0;
        [x * width / GRID, y * height / GRID, right * width / GRID, bottom * height / GRID]
    }

    fn cut(self, picture: &Picture) -> Picture {
        let [left, top, right, bottom] = self.pixels(picture.size());
        let row =
            |y: usize| &picture.rgb()[3 * (y * picture.size()[0] + left)..][..3 * (right - left)];
        let rgb = (top..bottom).flat_map(|y| row(y).iter().copied()).collect();
        Picture::of_rgb([right - left, bottom - top], rgb)
    }
}

impl Mark for Patch {
    fn put(&self, input: &Input, _rng: &mut ChaCha8Rng) -> Input {
        let mut parts = input.parts.clone();
        for part in &mut parts {
            if let Part::Image(bytes) = part
                && let Some(picture) = Picture::read(bytes).ok().filter(is_large)
            {
                *bytes = self.on(&picture).to_png();
                break;
            }
        }
        Input { parts }
    }

    fn words(&self) -> String {
        let [left, top, right, bottom] = self.cells.0.map(|at| at * 100 / GRID);
        format!(
            "the patch that reaches from {left} % to {right} % of the width and from {top} % to \
             {bottom} % of the height"
        )
    }
}

impl Patch {
    fn on(&self, picture: &Picture) -> Picture {
        let size = picture.size();
        let [left, top, right, bottom] = self.cells.pixels(size);
        let patch = self.picture.resized([right - left, bottom - top]);
        let mut rgb = picture.rgb().to_vec();
        for (y, row) in patch.rgb().chunks_exact(3 * (right - left)).enumerate() {
            rgb[3 * ((top + y) * size[0] + left)..][..row.len()].copy_from_slice(row);
        }
        Picture::of_rgb(size, rgb)
    }
}

/// The first picture that can be read.
fn first(input: &Input) -> Option<Picture> {
    input.parts.iter().find_map(|part| match part {
        Part::Image(bytes) => Picture::read(bytes).ok(),
        _ => None,
    })
}

/// Whether each cell has a pixel.
fn is_large(picture: &Picture) -> bool {
    picture.size().into_iter().all(|side| side >= GRID)
}

/// The mean colour of a cell, coarsely.
fn colour(picture: &Picture, [x, y]: [usize; 2]) -> u16 {
    let width = picture.size()[0];
    let [left, top, right, bottom] = Cells([x, y, x + 1, y + 1]).pixels(picture.size());
    let mut sums = [0_u32; 3];
    for row in top..bottom {
        let pixels = &picture.rgb()[3 * (row * width + left)..3 * (row * width + right)];
        for pixel in pixels.chunks_exact(3) {
            sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += u32::from(value));
        }
    }
    let count = ((right - left) * (bottom - top)) as u32;
    sums.into_iter().fold(0, |all, sum| all << BITS | (sum / count) as u16 >> (8 - BITS))
}
