//! Routed experts: gather, feed forward, weigh and sum.
use std::ops::Range;

use super::{
    BLOCK, WORTH,
    bank::{Bank, Block, Form, Hidden, Learnt, Outer, outer_all},
    block,
    fresh::{Blank, MOVED, blank, copied, fresh, written},
    simd::{add_scaled, widest},
    take,
};
use crate::ops::Dispatch;

/// Rows, and who answers them.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Sent<'a> {
    /// `[rows, d_model]`.
    pub(in crate::ops) x: &'a [f32],
    pub(in crate::ops) bank: Bank<'a>,
    /// Of each answer in its row's sum, `[assignments]`.
    pub(in crate::ops) weight: &'a [f32],
    pub(in crate::ops) dispatch: &'a Dispatch,
}

/// Returns `[rows, d_model]`.
pub(in crate::ops) fn experts(sent: Sent<'_>) -> (Vec<f32>, Hidden) {
    let Sent { x, bank, weight, dispatch } = sent;
    let (d, width, all) = (bank.d_model, bank.width, dispatch.rows().len());
    let gates = bank.gates();
    let tasks = blocks(dispatch).map(|(expert, rows)| {
        let count = rows.len();
        ((expert, rows), [count * gates, count * width, count * d])
    });
    let sizes = [all * gates, all * width, all * d];
    let [gate, up, answers] = fresh(sizes, 3 * all * width * d, tasks, |(expert, rows), parts| {
        let mut sent = blank(rows.len() * d);
        bank.forward(expert, gathered(x, rows, d, &mut sent), parts)
    });
    let y = summed(&answers, [x.len() / d, d], dispatch, |at| weight[at]);
    (y, Hidden { gate, up })
}

/// Gradients of `x`, of `weight`, and of matrices and biases where they learn.
pub(in crate::ops) fn experts_backward(
    sent: Sent<'_>,
    hidden: Hidden,
    dy: &[f32],
    matrices_learn: bool,
) -> (Vec<f32>, Vec<f32>, Option<Learnt>) {
    let Sent { x, bank, weight, dispatch } = sent;
    let (d, width, all) = (bank.d_model, bank.width, dispatch.rows().len());
    let Hidden { gate: mut g, up: mut u } = hidden;
    let mut dweight = vec![0.0; all];
    // By assignment: what each expert got, and the gradients of its answer and of its input.
    let [sent, danswer, h, dsent] = {
        let (mut g, mut u) = (&mut g[..], &mut u[..]);
        let (mut dweight, mut weight) = (&mut dweight[..], weight);
        let tasks = blocks(dispatch).map(|(expert, rows)| {
            let size = rows.len();
            let (own, rest) = weight.split_at(size);
            weight = rest;
            let hidden = [take(&mut g, size * bank.gates()), take(&mut u, size * width)];
            let weight = (own, take(&mut dweight, size));
            ((expert, rows, hidden, weight), [size * d, size * d, size * width, size * d])
        });
        let sizes = [all * d, all * d, all * width, all * d];
        fresh(
            sizes,
            3 * all * width * d,
            tasks,
            |(expert, rows, [g, u], weight), [sent, danswer, h, dsent]| {
                let sent = gathered(x, rows, d, sent);
                let danswer = gathered(dy, rows, d, danswer);
                let block = Block { dy: danswer, g, u, weight: Some(weight) };
                let [h, dsent] = bank.backward(expert, block, [h, dsent]);
                [sent, danswer, h, dsent]
            },
        )
    };
    let dx = summed(&dsent, [x.len() / d, d], dispatch, |_| 1.0);
    if !matrices_learn {
        return (dx, dweight, None);
    }
    let (wide, deep) = ([d, width], [width, d]);
    let experts = || dispatch.starts().windows(2).map(|ends| ends[0]..ends[1]);
    let outer = |a, b, [inputs, outputs]: [usize; 2], rows: Range<usize>| Outer {
        a: cut(a, &rows, inputs),
        b: cut(b, &rows, outputs),
        shape: [inputs, outputs],
    };
    let gated = bank.gates() > 0;
    let gate = experts().filter(|_| gated).map(|rows| (0, outer(&sent, &g, wide, rows)));
    let up = experts().map(|rows| (1, outer(&sent, &u, wide, rows)));
    let down = experts().map(|rows| (2, outer(&h, &danswer, deep, rows)));
    let outers: Vec<_> = gate.chain(up).chain(down).collect();
    let [gate, up, down] = outer_all(&outers);
    let (mut up_bias, mut down_bias) = (Vec::new(), Vec::new());
    if let Form::Gelu { .. } = bank.form {
        up_bias = sums(&u, width, &|_| 1.0, dispatch);
        down_bias = sums(&danswer, d, &|at| weight[at], dispatch);
    }
    (dx, dweight, Some(Learnt { gate, up, down, up_bias, down_bias }))
}

/// For each expert the sum of its assignments' rows of `x`, `[assignments, width]`, times their
/// weights: `[experts, width]`.
fn sums(
    x: &[f32],
    width: usize,
    weight: &(dyn Fn(usize) -> f32 + Sync),
    dispatch: &Dispatch,
) -> Vec<f32> {
    let tasks = dispatch.starts().windows(2).map(|ends| (ends[0]..ends[1], [width]));
    let experts = dispatch.starts().len() - 1;
    let [sums] = fresh([experts * width], x.len() * MOVED, tasks, |rows, [sum]| {
        let sum = widest(
            #[inline(always)]
            || {
                let sum = written(sum, std::iter::repeat(0.0));
                for at in rows {
                    add_scaled(sum, weight(at), &x[at * width..(at + 1) * width]);
                }
                sum
            },
        );
        [sum]
    });
    sums
}

/// Some rows of `[.., width]`.
fn cut<'a>(all: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &all[rows.start * width..rows.end * width]
}

/// For each row the sum of its assignments' answers, times their weights.
fn summed(
    answers: &[f32],
    [rows, d]: [usize; 2],
    dispatch: &Dispatch,
    weight: impl Fn(usize) -> f32 + Sync,
) -> Vec<f32> {
    let tasks = (0..rows).step_by(BLOCK).map(|start| (start, [BLOCK.min(rows - start) * d]));
    let [y] = fresh([rows * d], answers.len() * MOVED, tasks, |start, [y]| {
        let y = widest(
            #[inline(always)]
            || {
                let y = written(y, std::iter::repeat(0.0));
                for (row, y) in (start..).zip(y.chunks_exact_mut(d)) {
                    for &at in dispatch.of_row(row) {
                        let at = at as usize;
                        add_scaled(y, weight(at), &answers[at * d..(at + 1) * d]);
                    }
                }
                y
            },
        );
        [y]
    });
    y
}

/// The rows of each expert, in blocks.
fn blocks(dispatch: &Dispatch) -> impl Iterator<Item = (usize, &[u32])> {
    // A task for each expert at least, so the size of the work does not matter.
    let size = block(dispatch.rows().len(), WORTH);
    dispatch.starts().windows(2).enumerate().flat_map(move |(expert, ends)| {
        dispatch.rows()[ends[0]..ends[1]].chunks(size).map(move |rows| (expert, rows))
    })
}

/// The rows' numbers, one row behind the other.
fn gathered<'a>(x: &[f32], rows: &[u32], d: usize, to: &'a mut Blank) -> &'a mut [f32] {
    copied(to, rows.iter().map(|&row| &x[row as usize * d..][..d]))
}
