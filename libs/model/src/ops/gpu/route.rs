//! Routing on the device: choices, and a slot for each.
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, backend::Backend};

use crate::network::{ExpertLoad, Routed, Routing, Rule};

/// Rows whose choices are counted together. Counts of a block are whole numbers that every format
/// of a GPU's matrix products holds.
const BLOCK: usize = 128;

/// Experts get multiples of so many slots: the same sizes come again, and memory and the choice of
/// kernels with them.
const STEP: usize = 64;

/// What stands for a score that is no number.
const UNKNOWN: f32 = -1e30;

/// Who sits where: each expert has the same number of slots.
#[derive(Debug, Clone)]
pub struct Slots<B: Backend> {
    experts: usize,
    capacity: usize,
    /// The expert of each choice, `[rows, top_k]`.
    chosen: Tensor<B, 2, Int>,
    /// The slot of each row's first choice, second choice ..: `[rows]` each. Slot 0 for one that was
    /// dropped.
    places: Vec<Tensor<B, 1, Int>>,
    /// The same of all choices, row by row, `[rows * top_k]`; behind the last slot for dropped ones.
    written: Tensor<B, 1, Int>,
    /// The row in each slot, `[experts * capacity]`; row 0 in empty ones.
    rows: Tensor<B, 1, Int>,
    /// 1 for each choice, 0 where it was dropped, f32 `[rows, top_k]`; nothing where none is.
    kept: Option<Tensor<B, 2>>,
}

impl<B: Backend> Slots<B> {
    pub(super) fn experts(&self) -> usize {
        self.experts
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Slots of all experts.
    pub(super) fn count(&self) -> usize {
        self.experts * self.capacity
    }

    pub(super) fn top_k(&self) -> usize {
        self.places.len()
    }

    pub(super) fn places(&self) -> &[Tensor<B, 1, Int>] {
        &self.places
    }

    pub(super) fn written(&self) -> Tensor<B, 1, Int> {
        self.written.clone()
    }

    pub(super) fn rows(&self) -> Tensor<B, 1, Int> {
        self.rows.clone()
    }

    /// f32 `[rows, 1]`; nothing where no choice was dropped.
    pub(super) fn kept(&self, choice: usize) -> Option<Tensor<B, 2>> {
        self.kept.as_ref().map(|kept| kept.clone().narrow(1, choice, 1))
    }

    pub(in crate::ops) fn all_kept(&self) -> Option<Tensor<B, 2>> {
        self.kept.clone()
    }

    pub(in crate::ops) fn chosen(&self) -> Tensor<B, 2, Int> {
        self.chosen.clone()
    }
}

/// `affinity`: f32 `[rows, experts]`; `bias`: f32 `[experts]`, added for the choice. As
/// [`crate::network::Plan`] routes, but for what of equals is chosen. Waits for the device once, and
/// again where an expert is full.
pub(in crate::ops) fn route<B: Backend>(
    affinity: Tensor<B, 2>,
    bias: Tensor<B, 1>,
    how: &Routing<'_>,
) -> (Slots<B>, Routed) {
    let [rows, experts] = affinity.dims();
    if experts == 1 && how.capacity_factor == 0.0 {
        return dense(how, &affinity.device());
    }
    let top_k = how.rule.top_k;
    let (chosen, cells) = choose(affinity.clone() + bias.unsqueeze(), &how.rule);
    let (before, counts) = before(cells);
    let seat = before.gather(1, chosen.clone());

    let even = Tensor::cat(vec![counts, entropy(affinity)], 0);
    let even = values(even);
    let counts = &even[..experts];
    let assignments = rows * top_k;
    let fullest = counts.iter().copied().fold(0.0, f32::max) as usize;
    let limit = how.capacity(experts);
    let capacity = fullest.min(limit).max(1).next_multiple_of(STEP);

    let slot = chosen.clone().mul_scalar(capacity as i32) + seat.clone().int();
    let drops = fullest > limit;
    let kept = drops.then(|| seat.lower_elem(limit as f32).float());
    let (slot, written) = match &kept {
        None => (slot.clone(), slot),
        Some(kept) => {
            let dropped = kept.clone().equal_elem(0.0);
            let behind = (experts * capacity) as i32;
            (slot.clone().mask_fill(dropped.clone(), 0), slot.mask_fill(dropped, behind))
        }
    };
    let written = written.reshape([assignments]);
    let device = slot.device();
    let row = Tensor::<B, 1, Int>::arange(0..rows as i64, &device);
    let row: Tensor<B, 1, Int> =
        row.reshape([rows, 1]).expand([rows, top_k]).reshape([assignments]);
    let in_slots = Tensor::<B, 1, Int>::zeros([experts * capacity + 1], &device)
        .scatter_nd(written.clone().reshape([assignments, 1]), row, IndexingUpdateOp::Assign)
        .narrow(0, 0, experts * capacity);
    let places =
        (0..top_k).map(|choice| slot.clone().narrow(1, choice, 1).reshape([rows])).collect();

    let dropped = match &kept {
        None => vec![0; how.segments.texts()],
        Some(kept) => {
            let kept = values(kept.clone().sum_dim(1).reshape([rows]));
            let of = |rows: std::ops::Range<usize>| {
                (rows.len() * top_k) as u32 - kept[rows].iter().sum::<f32>() as u32
            };
            how.segments.ranges().map(of).collect()
        }
    };
    let load = counts.iter().map(|&count| count / assignments as f32).collect();
    let routed = Routed { load: ExpertLoad(load), dropped, assignments, entropy: even[experts] };
    (Slots { experts, capacity, chosen, places, written, rows: in_slots, kept }, routed)
}

/// Of a layer with a single expert, which sees every row: nothing to wait for.
fn dense<B: Backend>(how: &Routing<'_>, device: &B::Device) -> (Slots<B>, Routed) {
    let rows = how.segments.rows();
    let all = Tensor::<B, 1, Int>::arange(0..rows as i64, device);
    let slots = Slots {
        experts: 1,
        capacity: rows,
        chosen: Tensor::zeros([rows, 1], device),
        places: vec![all.clone()],
        written: all.clone(),
        rows: all,
        kept: None,
    };
    let dropped = vec![0; how.segments.texts()];
    let routed = Routed { load: ExpertLoad(vec![1.0]), dropped, assignments: rows, entropy: 1.0 };
    (slots, routed)
}

/// Each row's experts, `[rows, top_k]`, and 1 where a row chose an expert, f32 `[rows, experts]`.
fn choose<B: Backend>(scores: Tensor<B, 2>, rule: &Rule) -> (Tensor<B, 2, Int>, Tensor<B, 2>) {
    let [rows, experts] = scores.dims();
    // burn's argmax finds no place for what is no number; the CPU sends such a token somewhere, too.
    // Finite, so that what is closed stays below it.
    let unknown = scores.clone().is_nan();
    let scores = scores.mask_fill(unknown, UNKNOWN);
    if rule.even {
        let at = Tensor::<B, 1, Int>::arange(0..(rows * rule.top_k) as i64, &scores.device());
        let chosen = at.remainder_scalar(experts as i32).reshape([rows, rule.top_k]);
        let numbers = numbers(experts, &scores.device());
        let cells = (0..rule.top_k)
            .map(|choice| is(&chosen.clone().narrow(1, choice, 1), &numbers, rows))
            .reduce(|sum, one| sum + one)
            .expect("a token has an expert");
        return (chosen, cells);
    }
    if rule.groups == rule.top_groups {
        return best(scores, rule.top_k);
    }
    // A group is as good as the experts that could be chosen of it.
    let (groups, size) = (rule.groups, experts / rule.groups);
    let each = (rule.top_k / rule.top_groups).max(1);
    let grouped = scores.clone().reshape([rows * groups, size]);
    let (_, counted) = best(grouped.clone(), each);
    let worth = (grouped * counted).sum_dim(1).reshape([rows, groups]);
    let (_, open) = best(worth, rule.top_groups);
    let closed = open.equal_elem(0.0).unsqueeze_dim::<3>(2).expand([rows, groups, size]);
    best(scores.mask_fill(closed.reshape([rows, experts]), f32::NEG_INFINITY), rule.top_k)
}

/// The `count` highest of each row, highest first, `[rows, count]`; and 1 at them.
///
/// Round after round the highest: burn sorts on the host.
fn best<B: Backend>(mut scores: Tensor<B, 2>, count: usize) -> (Tensor<B, 2, Int>, Tensor<B, 2>) {
    let [rows, columns] = scores.dims();
    let numbers = numbers(columns, &scores.device());
    let mut found = Vec::with_capacity(count);
    let mut cells: Option<Tensor<B, 2>> = None;
    for _ in 0..count {
        let highest = scores.clone().argmax(1);
        let here = is(&highest, &numbers, rows);
        scores = scores.mask_fill(here.clone().greater_elem(0.5), f32::NEG_INFINITY);
        found.push(highest);
        cells = Some(cells.map_or_else(|| here.clone(), |cells| cells + here.clone()));
    }
    (Tensor::cat(found, 1), cells.expect("at least one is chosen"))
}

/// `[1, count]`.
fn numbers<B: Backend>(count: usize, device: &B::Device) -> Tensor<B, 2, Int> {
    Tensor::<B, 1, Int>::arange(0..count as i64, device).unsqueeze()
}

/// 1 where a row's number is that of the column, f32 `[rows, columns]`. `of_row`: `[rows, 1]`.
fn is<B: Backend>(
    of_row: &Tensor<B, 2, Int>,
    numbers: &Tensor<B, 2, Int>,
    rows: usize,
) -> Tensor<B, 2> {
    let [_, columns] = numbers.dims();
    let shape = [rows, columns];
    of_row.clone().expand(shape).equal(numbers.clone().expand(shape)).float()
}

/// How many rows before it chose the same expert, `[rows, experts]`, and how many in all,
/// `[experts]`; f32.
///
/// Sums over blocks by products with a triangle of ones: burn's running sum adds every prefix anew.
fn before<B: Backend>(cells: Tensor<B, 2>) -> (Tensor<B, 2>, Tensor<B, 1>) {
    let [rows, experts] = cells.dims();
    let device = cells.device();
    let blocks = rows.div_ceil(BLOCK);
    let missing = blocks * BLOCK - rows;
    let cells = match missing {
        0 => cells,
        _ => Tensor::cat(vec![cells, Tensor::zeros([missing, experts], &device)], 0),
    };
    let cells = cells.reshape([blocks, BLOCK, experts]);
    let totals: Tensor<B, 2> = cells.clone().sum_dim(1).reshape([blocks, experts]);
    let within = earlier(BLOCK, &device).unsqueeze::<3>().expand([blocks, BLOCK, BLOCK]);
    let within = within.matmul(cells);
    let of_blocks = earlier(blocks, &device).matmul(totals.clone());
    let all = (within + of_blocks.reshape([blocks, 1, experts])).reshape([blocks * BLOCK, experts]);
    (all.narrow(0, 0, rows), totals.sum_dim(0).reshape([experts]))
}

/// 1 where the column is before the row, `[size, size]`.
fn earlier<B: Backend>(size: usize, device: &B::Device) -> Tensor<B, 2> {
    let number = Tensor::<B, 1, Int>::arange(0..size as i64, device).float();
    let (row, column) = (number.clone().reshape([size, 1]), number.reshape([1, size]));
    (row - column).greater_elem(0.5).float()
}

/// Mean over the rows of the entropy of their affinities, as a share of the highest there is, `[1]`.
fn entropy<B: Backend>(affinity: Tensor<B, 2>) -> Tensor<B, 1> {
    let [_, experts] = affinity.dims();
    if experts == 1 {
        return Tensor::ones([1], &affinity.device());
    }
    let total = affinity.clone().sum_dim(1).clamp_min(f32::MIN_POSITIVE);
    let share = (affinity / total).clamp_min(f32::MIN_POSITIVE);
    let entropy = (share.clone() * share.log()).sum_dim(1).mean();
    entropy.div_scalar(-(experts as f32).ln())
}

fn values<B: Backend>(x: Tensor<B, 1>) -> Vec<f32> {
    let data: TensorData = x.into_data().convert::<f32>();
    data.into_vec().expect("converted to f32 in the line above")
}
