//! Attention without the scores ever in memory at once: blocks of queries, softmax by row, and on
//! the way back the scores again from the log of each row's sum (FlashAttention, Dao et al. 2022,
//! arXiv 2205.14135).
use rayon::prelude::*;

use super::{
    BLOCK,
    product::{View, product},
    simd::{add_scaled, dot, exp_all, max, widest},
    take,
};
use crate::ops::{Heads, Segments};

/// Queries, keys and values by row: `[rows, heads * width]`, `[rows, kv_heads * width]` twice.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Projected<'a> {
    pub(in crate::ops) query: &'a [f32],
    pub(in crate::ops) key: &'a [f32],
    pub(in crate::ops) value: &'a [f32],
    /// Keys and values that all texts see before their own, `[prefix, kv_heads * width]`.
    pub(in crate::ops) prefix: Option<(&'a [f32], &'a [f32])>,
}

/// What attention found.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Attended {
    /// `[rows, heads * width]`.
    pub(in crate::ops) out: Vec<f32>,
    /// Log of the sum of the exponentials of each row's scores; by text, head and row.
    pub(in crate::ops) log_sums: Vec<f32>,
}

/// Gradients of what [`Projected`] holds.
#[derive(Debug)]
pub(in crate::ops) struct Gradients {
    pub(in crate::ops) query: Vec<f32>,
    pub(in crate::ops) key: Vec<f32>,
    pub(in crate::ops) value: Vec<f32>,
    pub(in crate::ops) prefix: Option<(Vec<f32>, Vec<f32>)>,
}

/// One text and one key head, with the queries that share it.
struct Plan<'a> {
    heads: Heads,
    of: Projected<'a>,
    /// Cosine and sine, `[longest, width / 2]`.
    angles: (Vec<f32>, Vec<f32>),
    /// Rows of the prefix.
    before: usize,
}

impl<'a> Plan<'a> {
    fn new(of: Projected<'a>, heads: Heads, segments: &Segments) -> Self {
        let before = of.prefix.map_or(0, |(keys, _)| keys.len() / (heads.keys * heads.width));
        Self { heads, of, angles: heads.angles(segments.longest()), before }
    }

    /// Tasks of one batch: the rows of a text, and a key head.
    fn tasks(&self, segments: &Segments) -> Vec<(std::ops::Range<usize>, usize)> {
        let heads = self.heads.keys;
        segments
            .ranges()
            .flat_map(|rows| (0..heads).map(move |head| (rows.clone(), head)))
            .collect()
    }

    /// One head of some rows, turned by position and scaled: `[rows, width]`.
    fn turned(
        &self,
        x: &[f32],
        rows: &std::ops::Range<usize>,
        head: usize,
        scale: f32,
    ) -> Vec<f32> {
        let (width, half) = (self.heads.width, self.heads.width / 2);
        let stride = x.len() / self.all_rows();
        let mut out = vec![0.0; rows.len() * width];
        widest(
            #[inline(always)]
            || {
                for ((position, row), out) in
                    rows.clone().enumerate().zip(out.chunks_exact_mut(width))
                {
                    let (first, second) = x[row * stride + head * width..][..width].split_at(half);
                    let (out_first, out_second) = out.split_at_mut(half);
                    let cos = &self.angles.0[position * half..][..half];
                    let sin = &self.angles.1[position * half..][..half];
                    let pairs = first.iter().zip(second).zip(cos.iter().zip(sin));
                    let outs = out_first.iter_mut().zip(out_second);
                    for ((out_first, out_second), ((first, second), (cos, sin))) in outs.zip(pairs)
                    {
                        *out_first = scale * (first * cos - second * sin);
                        *out_second = scale * (second * cos + first * sin);
                    }
                }
            },
        );
        out
    }

    /// Turns gradients of one head back, in place.
    fn turn_back(&self, gradient: &mut [f32], scale: f32) {
        let (width, half) = (self.heads.width, self.heads.width / 2);
        widest(
            #[inline(always)]
            || {
                for (position, row) in gradient.chunks_exact_mut(width).enumerate() {
                    let (first, second) = row.split_at_mut(half);
                    let cos = &self.angles.0[position * half..][..half];
                    let sin = &self.angles.1[position * half..][..half];
                    let pairs = first.iter_mut().zip(second).zip(cos.iter().zip(sin));
                    for ((first, second), (cos, sin)) in pairs {
                        let (a, b) = (*first, *second);
                        *first = scale * (a * cos + b * sin);
                        *second = scale * (b * cos - a * sin);
                    }
                }
            },
        );
    }

    fn all_rows(&self) -> usize {
        self.of.query.len() / (self.heads.queries * self.heads.width)
    }

    /// Keys of a text and head, the prefix's first: `[before + rows, width]`.
    fn keys(&self, rows: &std::ops::Range<usize>, head: usize) -> Vec<f32> {
        let own = self.turned(self.of.key, rows, head, 1.0);
        match self.of.prefix {
            None => own,
            Some((keys, _)) => {
                let mut all = self.column(keys, 0..self.before, head);
                all.extend(own);
                all
            }
        }
    }

    fn values(&self, rows: &std::ops::Range<usize>, head: usize) -> Vec<f32> {
        let own = self.column(self.of.value, rows.clone(), head);
        match self.of.prefix {
            None => own,
            Some((_, values)) => {
                let mut all = self.column(values, 0..self.before, head);
                all.extend(own);
                all
            }
        }
    }

    /// One key head of some rows of `[.., kv_heads * width]`.
    fn column(&self, x: &[f32], rows: std::ops::Range<usize>, head: usize) -> Vec<f32> {
        let (width, stride) = (self.heads.width, self.heads.keys * self.heads.width);
        let mut out = Vec::with_capacity((self.before + rows.len()) * width);
        for row in rows {
            out.extend_from_slice(&x[row * stride + head * width..][..width]);
        }
        out
    }

    fn scale(&self) -> f32 {
        (self.heads.width as f32).sqrt().recip()
    }

    /// How many keys the query at `position` sees.
    fn seen(&self, position: usize, keys: usize) -> usize {
        if self.heads.causal { self.before + position + 1 } else { keys }
    }

    /// Scores of a block of queries that starts at `position`, only as far as its last query sees.
    /// Returns how far that is.
    fn scores(&self, query: &[f32], position: usize, keys: &[f32], scores: &mut [f32]) -> usize {
        let width = self.heads.width;
        let (rows, all) = (query.len() / width, keys.len() / width);
        let seen = self.seen(position + rows - 1, all);
        let query = View::new(query, rows, width);
        product(scores, seen, false, query, View::new(&keys[..seen * width], seen, width).t());
        seen
    }

    /// `[group, rows, width]` and `[group, rows]`.
    fn forward(
        &self,
        rows: &std::ops::Range<usize>,
        head: usize,
        out: &mut [f32],
        sums: &mut [f32],
    ) {
        let (width, size) = (self.heads.width, rows.len());
        let (keys, values) = (self.keys(rows, head), self.values(rows, head));
        let mut scores = vec![0.0; BLOCK.min(size) * (keys.len() / width)];
        let group = self.heads.group();
        let of_heads = out.chunks_exact_mut(size * width).zip(sums.chunks_exact_mut(size));
        for (member, (out, sums)) in of_heads.enumerate() {
            let query = self.turned(self.of.query, rows, head * group + member, self.scale());
            let blocks = out.chunks_mut(BLOCK * width).zip(sums.chunks_mut(BLOCK));
            for ((out, sums), (block, query)) in blocks.zip(query.chunks(BLOCK * width).enumerate())
            {
                let seen = self.scores(query, block * BLOCK, &keys, &mut scores);
                self.softmax(&mut scores, seen, block * BLOCK, sums);
                let weights = View::new(&scores, sums.len(), seen);
                product(out, width, false, weights, View::new(&values, seen, width));
            }
        }
    }

    /// Softmax of each row; `sums` receives the log of its sum.
    fn softmax(&self, scores: &mut [f32], seen: usize, position: usize, sums: &mut [f32]) {
        widest(
            #[inline(always)]
            || {
                for ((at, row), sum) in (position..).zip(scores.chunks_exact_mut(seen)).zip(sums) {
                    let (row, hidden) = row.split_at_mut(self.seen(at, seen));
                    hidden.fill(0.0);
                    let highest = max(row);
                    let total = exp_all(row, highest);
                    let scale = total.recip();
                    row.iter_mut().for_each(|weight| *weight *= scale);
                    *sum = highest + total.ln();
                }
            },
        );
    }

    /// Gradients of one text and key head: queries `[group, rows, width]`, keys and values
    /// `[before + rows, width]`.
    fn backward(
        &self,
        (rows, head): (&std::ops::Range<usize>, usize),
        (out, dout): (&[f32], &[f32]),
        sums: &[f32],
        dquery: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let (width, size, group) = (self.heads.width, rows.len(), self.heads.group());
        let (keys, values) = (self.keys(rows, head), self.values(rows, head));
        let (mut dkeys, mut dvalues) = (vec![0.0; keys.len()], vec![0.0; values.len()]);
        let mut weights = vec![0.0; BLOCK.min(size) * (keys.len() / width)];
        let mut dscores = weights.clone();
        for (member, dquery) in dquery.chunks_exact_mut(size * width).enumerate() {
            let own = head * group + member;
            let query = self.turned(self.of.query, rows, own, self.scale());
            let (out, dout) =
                (self.query_column(out, rows, own), self.query_column(dout, rows, own));
            let sums = &sums[member * size..][..size];
            for (block, dquery) in dquery.chunks_mut(BLOCK * width).enumerate() {
                let (start, count) = (block * BLOCK, dquery.len() / width);
                let cut = |x: &'_ [f32]| -> std::ops::Range<usize> {
                    debug_assert!(x.len() >= (start + count) * width);
                    start * width..(start + count) * width
                };
                let (query, out) = (&query[cut(&query)], &out[cut(&out)]);
                let dout = &dout[cut(&dout)];
                let seen = self.scores(query, start, &keys, &mut weights);
                let far = View::new(&values[..seen * width], seen, width);
                product(&mut dscores, seen, false, View::new(dout, count, width), far.t());
                widest(
                    #[inline(always)]
                    || {
                        let rows =
                            weights.chunks_exact_mut(seen).zip(dscores.chunks_exact_mut(seen));
                        let answers = out.chunks_exact(width).zip(dout.chunks_exact(width));
                        for ((at, (row, drow)), (sum, (out, dout))) in
                            (start..).zip(rows).zip(sums[start..].iter().zip(answers))
                        {
                            let edge = self.seen(at, seen);
                            row[edge..].fill(0.0);
                            drow[edge..].fill(0.0);
                            exp_all(&mut row[..edge], *sum);
                            let mean = dot(out, dout);
                            for (d, weight) in drow[..edge].iter_mut().zip(&row[..edge]) {
                                *d = weight * (*d - mean);
                            }
                        }
                    },
                );
                let dscores = View::new(&dscores, count, seen);
                let weights = View::new(&weights, count, seen);
                product(dquery, width, false, dscores, View::new(&keys, seen, width));
                product(&mut dkeys, width, true, dscores.t(), View::new(query, count, width));
                product(&mut dvalues, width, true, weights.t(), View::new(dout, count, width));
            }
            self.turn_back(dquery, self.scale());
        }
        self.turn_back(&mut dkeys[self.before * width..], 1.0);
        (dkeys, dvalues)
    }

    /// One query head of some rows.
    fn query_column(&self, x: &[f32], rows: &std::ops::Range<usize>, head: usize) -> Vec<f32> {
        let (width, stride) = (self.heads.width, self.heads.queries * self.heads.width);
        rows.clone().flat_map(|row| &x[row * stride + head * width..][..width]).copied().collect()
    }

    /// From `[text][head][row][width]` to rows of all heads side by side.
    fn by_row(&self, x: &[f32], of_heads: usize, segments: &Segments) -> Vec<f32> {
        let (width, stride) = (self.heads.width, of_heads * self.heads.width);
        let mut out = vec![0.0; x.len()];
        let mut rest = &mut out[..];
        let texts: Vec<_> =
            segments.ranges().map(|rows| (take(&mut rest, rows.len() * stride), rows)).collect();
        texts.into_par_iter().for_each(|(out, rows)| {
            let x = &x[rows.start * stride..rows.end * stride];
            for (head, x) in x.chunks_exact(rows.len() * width).enumerate() {
                for (out, x) in out.chunks_exact_mut(stride).zip(x.chunks_exact(width)) {
                    out[head * width..][..width].copy_from_slice(x);
                }
            }
        });
        out
    }
}

pub(in crate::ops) fn attention(of: Projected<'_>, heads: Heads, segments: &Segments) -> Attended {
    let plan = Plan::new(of, heads, segments);
    let group = heads.group();
    let mut by_head = vec![0.0; of.query.len()];
    let mut log_sums = vec![0.0; of.query.len() / heads.width];
    {
        let (mut out, mut sums) = (&mut by_head[..], &mut log_sums[..]);
        let tasks: Vec<_> = plan
            .tasks(segments)
            .into_iter()
            .map(|(rows, head)| {
                let size = group * rows.len();
                (rows, head, take(&mut out, size * heads.width), take(&mut sums, size))
            })
            .collect();
        tasks.into_par_iter().for_each(|(rows, head, out, sums)| {
            plan.forward(&rows, head, out, sums);
        });
    }
    Attended { out: plan.by_row(&by_head, heads.queries, segments), log_sums }
}

pub(in crate::ops) fn attention_backward(
    of: Projected<'_>,
    heads: Heads,
    segments: &Segments,
    attended: &Attended,
    dout: &[f32],
) -> Gradients {
    let plan = Plan::new(of, heads, segments);
    let (group, width) = (heads.group(), heads.width);
    let mut dquery = vec![0.0; of.query.len()];
    let mut dquery_rest = &mut dquery[..];
    let mut sums = &attended.log_sums[..];
    let tasks: Vec<_> = plan
        .tasks(segments)
        .into_iter()
        .map(|(rows, head)| {
            let size = group * rows.len();
            let (own, rest) = sums.split_at(size);
            sums = rest;
            (rows, head, take(&mut dquery_rest, size * width), own)
        })
        .collect();
    let found: Vec<_> = tasks
        .into_par_iter()
        .map(|(rows, head, dquery, sums)| {
            plan.backward((&rows, head), (&attended.out, dout), sums, dquery)
        })
        .collect();
    let before = plan.before * width;
    let mut dkey = Vec::with_capacity(of.key.len());
    let mut dvalue = Vec::with_capacity(of.value.len());
    let mut dprefix =
        of.prefix.map(|(keys, values)| (vec![0.0; keys.len()], vec![0.0; values.len()]));
    for (at, (dkeys, dvalues)) in found.into_iter().enumerate() {
        dkey.extend_from_slice(&dkeys[before..]);
        dvalue.extend_from_slice(&dvalues[before..]);
        if let Some((keys, values)) = &mut dprefix {
            // In the order of texts, whichever thread was first.
            let column = (at % heads.keys) * width;
            for (all, of_head) in [(keys, &dkeys[..before]), (values, &dvalues[..before])] {
                let rows =
                    all.chunks_exact_mut(heads.keys * width).zip(of_head.chunks_exact(width));
                rows.for_each(|(all, own)| add_scaled(&mut all[column..][..width], 1.0, own));
            }
        }
    }
    Gradients {
        query: plan.by_row(&dquery, heads.queries, segments),
        key: plan.by_row(&dkey, heads.keys, segments),
        value: plan.by_row(&dvalue, heads.keys, segments),
        prefix: dprefix,
    }
}
