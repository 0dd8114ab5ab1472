//! Fused operators for the CPU: slices in, vectors out, divided over the threads of the current
//! pool. The same inputs give the same bits, whatever the number of threads.
mod adamw;
mod attention;
mod bank;
mod cross_entropy;
mod experts;
mod feed_forward;
mod fresh;
mod linear;
mod norm;
mod product;
mod simd;

pub(super) use self::{
    adamw::adamw,
    attention::{Attended, Projected, attention, attention_backward, turned},
    bank::{Bank, Form, Hidden, Learnt},
    cross_entropy::{cross_entropy, cross_entropy_backward},
    experts::{Sent, experts, experts_backward},
    feed_forward::{feed_forward, feed_forward_backward},
    linear::{linear, linear_all, linear_backward},
    norm::{rms_norm, rms_norm_backward},
};

pub(crate) use self::product::matrix_product;

/// Rows that a task works on at a time, where the work by row is little.
const BLOCK: usize = 64;

/// Multiplications below which a task is not worth its hand-over.
const WORTH: usize = 100_000;

/// Rows of one task of `rows`, each `work` multiplications: few enough that there are tasks for
/// every thread, and otherwise many, since each task packs its matrix anew (of 64 rows and a
/// transposed matrix, packing takes two thirds of the time).
fn block(rows: usize, work: usize) -> usize {
    let least = WORTH.div_ceil(work.max(1)).max(16);
    let even = rows.div_ceil(rayon::current_num_threads());
    even.max(least).next_multiple_of(16).min(512)
}

/// Splits off the first `size` elements of what is left.
fn take<'a, T>(rest: &mut &'a mut [T], size: usize) -> &'a mut [T] {
    let (taken, left) = std::mem::take(rest).split_at_mut(size);
    *rest = left;
    taken
}
