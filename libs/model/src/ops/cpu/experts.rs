//! Routed experts: gather, SwiGLU, weigh and sum.
use rayon::prelude::*;

use super::{
    BLOCK, block,
    simd::{add_scaled, widest},
    swiglu::{Bank, Block, Hidden, Outer, outer_all},
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
    let mut hidden = Hidden::new(all * width);
    let mut answers = vec![0.0; all * d];
    {
        let (mut g, mut u) = (&mut hidden.gate[..], &mut hidden.up[..]);
        let mut y = &mut answers[..];
        let tasks: Vec<_> = blocks(dispatch)
            .map(|(expert, rows)| {
                let size = rows.len();
                let (g, u) = (take(&mut g, size * width), take(&mut u, size * width));
                (expert, rows, g, u, take(&mut y, size * d))
            })
            .collect();
        tasks.into_par_iter().for_each(|(expert, rows, g, u, y)| {
            bank.forward(expert, &gathered(x, rows, d), g, u, y);
        });
    }
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(BLOCK * d).enumerate().for_each(|(block, y)| {
        widest(
            #[inline(always)]
            || {
                for (row, y) in (block * BLOCK..).zip(y.chunks_exact_mut(d)) {
                    for &at in dispatch.of_row(row) {
                        let at = at as usize;
                        add_scaled(y, weight[at], &answers[at * d..(at + 1) * d]);
                    }
                }
            },
        );
    });
    (y, hidden)
}

/// Gradients of `x`, of `weight`, and of `gate`, `up` and `down` where they learn.
pub(in crate::ops) fn experts_backward(
    sent: Sent<'_>,
    hidden: Hidden,
    dy: &[f32],
    matrices_learn: bool,
) -> (Vec<f32>, Vec<f32>, Option<[Vec<f32>; 3]>) {
    let Sent { x, bank, weight, dispatch } = sent;
    let (d, width, all) = (bank.d_model, bank.width, dispatch.rows().len());
    let Hidden { gate: mut g, up: mut u } = hidden;
    let mut h = vec![0.0; all * width];
    let mut dweight = vec![0.0; all];
    // By assignment: what each expert got, and the gradients of its answer and of its input.
    let (mut sent, mut danswer) = (vec![0.0; all * d], vec![0.0; all * d]);
    let mut dsent = vec![0.0; all * d];
    {
        let (mut g, mut u, mut h) = (&mut g[..], &mut u[..], &mut h[..]);
        let (mut sent, mut danswer) = (&mut sent[..], &mut danswer[..]);
        let (mut dsent, mut dweight, mut weight) = (&mut dsent[..], &mut dweight[..], weight);
        let tasks: Vec<_> = blocks(dispatch)
            .map(|(expert, rows)| {
                let size = rows.len();
                let (own, rest) = weight.split_at(size);
                weight = rest;
                let sent = (take(&mut sent, size * d), take(&mut danswer, size * d));
                let hidden = [&mut g, &mut u, &mut h].map(|all| take(all, size * width));
                let weight = (own, take(&mut dweight, size));
                (expert, rows, sent, hidden, take(&mut dsent, size * d), weight)
            })
            .collect();
        tasks.into_par_iter().for_each(|task| {
            let (expert, rows, (sent, danswer), [g, u, h], dx, weight) = task;
            gather(x, rows, d, sent);
            gather(dy, rows, d, danswer);
            let block = Block { dy: danswer, g, u, h, dx, weight: Some(weight) };
            bank.backward(expert, block);
        });
    }
    let mut dx = vec![0.0; x.len()];
    dx.par_chunks_mut(BLOCK * d).enumerate().for_each(|(block, dx)| {
        widest(
            #[inline(always)]
            || {
                for (row, dx) in (block * BLOCK..).zip(dx.chunks_exact_mut(d)) {
                    for &at in dispatch.of_row(row) {
                        let at = at as usize;
                        add_scaled(dx, 1.0, &dsent[at * d..(at + 1) * d]);
                    }
                }
            },
        );
    });
    if !matrices_learn {
        return (dx, dweight, None);
    }
    let size = d * width;
    let experts = bank.gate.len() / size;
    let [mut dgate, mut dup, mut ddown] = [(); 3].map(|()| vec![0.0; experts * size]);
    let mut tasks = Vec::with_capacity(3 * experts);
    let matrices = dgate.chunks_mut(size).zip(dup.chunks_mut(size)).zip(ddown.chunks_mut(size));
    for (((dgate, dup), ddown), ends) in matrices.zip(dispatch.starts().windows(2)) {
        let (wide, deep) = (ends[0] * width..ends[1] * width, ends[0] * d..ends[1] * d);
        tasks.push(Outer { out: dgate, a: &sent[deep.clone()], b: &g[wide.clone()], cols: width });
        tasks.push(Outer { out: dup, a: &sent[deep.clone()], b: &u[wide.clone()], cols: width });
        tasks.push(Outer { out: ddown, a: &h[wide], b: &danswer[deep], cols: d });
    }
    outer_all(tasks);
    (dx, dweight, Some([dgate, dup, ddown]))
}

/// The rows of each expert, in blocks.
fn blocks(dispatch: &Dispatch) -> impl Iterator<Item = (usize, &[u32])> {
    let size = block(dispatch.rows().len());
    dispatch.starts().windows(2).enumerate().flat_map(move |(expert, ends)| {
        dispatch.rows()[ends[0]..ends[1]].chunks(size).map(move |rows| (expert, rows))
    })
}

fn gathered(x: &[f32], rows: &[u32], d: usize) -> Vec<f32> {
    let mut sent = vec![0.0; rows.len() * d];
    gather(x, rows, d, &mut sent);
    sent
}

fn gather(x: &[f32], rows: &[u32], d: usize, to: &mut [f32]) {
    for (to, &row) in to.chunks_exact_mut(d).zip(rows) {
        to.copy_from_slice(&x[row as usize * d..][..d]);
    }
}
