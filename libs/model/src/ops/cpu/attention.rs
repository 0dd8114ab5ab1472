//! Attention without the scores ever in memory at once: blocks of queries, softmax by row, and on
//! the way back the scores again from the log of each row's sum (FlashAttention, Dao et al. 2022,
//! arXiv 2205.14135).
use std::sync::Arc;

use super::{
    BLOCK,
    fresh::{MOVED, copied, fresh, written},
    product::{View, add_product, product_into},
    simd::{add_scaled, dot, exp_all, max, widest},
};
use crate::ops::{Heads, Segments, layout::Angles};

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

/// Every head of each row turned by its position. `x`: `[rows, heads.keys * width]`, and so is the
/// result.
pub(in crate::ops) fn turned(x: &[f32], heads: Heads, segments: &Segments) -> Vec<f32> {
    let (width, stride) = (heads.width, heads.keys * heads.width);
    let of = Projected { query: x, key: x, value: x, prefix: None };
    let plan = Plan::new(of, Heads { queries: heads.keys, ..heads }, segments);
    let mut out = vec![0.0; x.len()];
    for (rows, head) in plan.tasks(segments) {
        let turned = plan.turned(x, &rows, head, 1.0);
        for (row, turned) in rows.zip(turned.chunks_exact(width)) {
            out[row * stride + head * width..][..width].copy_from_slice(turned);
        }
    }
    out
}

/// One text and one key head, with the queries that share it.
struct Plan<'a> {
    heads: Heads,
    of: Projected<'a>,
    angles: Arc<Angles>,
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
                    (self.heads.first..).zip(rows.clone()).zip(out.chunks_exact_mut(width))
                {
                    let (first, second) = x[row * stride + head * width..][..width].split_at(half);
                    let (out_first, out_second) = out.split_at_mut(half);
                    let cos = &self.angles.cos[position * half..][..half];
                    let sin = &self.angles.sin[position * half..][..half];
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
                let rows = gradient.chunks_exact_mut(width);
                for (position, row) in (self.heads.first..).zip(rows) {
                    let (first, second) = row.split_at_mut(half);
                    let cos = &self.angles.cos[position * half..][..half];
                    let sin = &self.angles.sin[position * half..][..half];
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

    /// Multiplications of one product of all queries with all keys; a softmax is about as many.
    fn work(&self, segments: &Segments) -> usize {
        let scores = segments.ranges().map(|rows| rows.len() * (self.before + rows.len()));
        scores.sum::<usize>() * self.heads.queries * self.heads.width
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
                let mut all = self.column(keys, self.heads.keys, &(0..self.before), head);
                all.extend(own);
                all
            }
        }
    }

    fn values(&self, rows: &std::ops::Range<usize>, head: usize) -> Vec<f32> {
        let own = self.column(self.of.value, self.heads.keys, rows, head);
        match self.of.prefix {
            None => own,
            Some((_, values)) => {
                let mut all = self.column(values, self.heads.keys, &(0..self.before), head);
                all.extend(own);
                all
            }
        }
    }

    /// One of `heads` of some rows, with room for as many rows as the prefix has.
    fn column(
        &self,
        x: &[f32],
        heads: usize,
        rows: &std::ops::Range<usize>,
        head: usize,
    ) -> Vec<f32> {
        let (width, stride) = (self.heads.width, heads * self.heads.width);
        let mut out = Vec::with_capacity((self.before + rows.len()) * width);
        for row in rows.clone() {
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
        let keys = View::new(&keys[..seen * width], seen, width);
        product_into(&mut scores[..rows * seen], query, keys.t());
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
                product_into(out, weights, View::new(&values[..seen * width], seen, width));
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

    /// Adds the gradients of one text and key head: to those of its queries, `[group, rows, width]`,
    /// and of its keys and values, `[before + rows, width]`.
    fn backward(
        &self,
        (rows, head): (&std::ops::Range<usize>, usize),
        (out, dout): (&[f32], &[f32]),
        sums: &[f32],
        [dquery, dkeys, dvalues]: [&mut &mut [f32]; 3],
    ) {
        let (width, size) = (self.heads.width, rows.len());
        let group = self.heads.group();
        let (keys, values) = (self.keys(rows, head), self.values(rows, head));
        let mut weights = vec![0.0; BLOCK.min(size) * (keys.len() / width)];
        let mut dscores = weights.clone();
        for (member, dquery) in dquery.chunks_exact_mut(size * width).enumerate() {
            let own = head * group + member;
            let query = self.turned(self.of.query, rows, own, self.scale());
            let (out, dout) = (
                self.column(out, self.heads.queries, rows, own),
                self.column(dout, self.heads.queries, rows, own),
            );
            let sums = &sums[member * size..][..size];
            for (block, dquery) in dquery.chunks_mut(BLOCK * width).enumerate() {
                let (start, count) = (block * BLOCK, dquery.len() / width);
                let of_block = start * width..(start + count) * width;
                let [query, out, dout] = [&query, &out, &dout].map(|x| &x[of_block.clone()]);
                let seen = self.scores(query, start, &keys, &mut weights);
                let far = View::new(&values[..seen * width], seen, width);
                let dscores = &mut dscores[..count * seen];
                product_into(dscores, View::new(dout, count, width), far.t());
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
                let dscores = View::new(dscores, count, seen);
                let weights = View::new(&weights, count, seen);
                product_into(dquery, dscores, View::new(&keys[..seen * width], seen, width));
                let query = View::new(query, count, width);
                add_product(&mut dkeys[..seen * width], dscores.t(), query);
                let dout = View::new(dout, count, width);
                add_product(&mut dvalues[..seen * width], weights.t(), dout);
            }
            self.turn_back(dquery, self.scale());
        }
        self.turn_back(&mut dkeys[self.before * width..], 1.0);
    }

    /// From `[text][head][before + row][width]` to rows of all heads side by side.
    fn by_row(&self, x: &[f32], of_heads: usize, before: usize, segments: &Segments) -> Vec<f32> {
        let width = self.heads.width;
        let mut rest = x;
        let tasks = segments.ranges().map(|rows| {
            let (own, others) = rest.split_at(of_heads * (before + rows.len()) * width);
            rest = others;
            ((own, before + rows.len()), [of_heads * rows.len() * width])
        });
        let size = segments.rows() * of_heads * width;
        let [out] = fresh([size], size * MOVED, tasks, |(x, rows), [out]| {
            let head = |row| move |head| &x[(head * rows + row) * width..][..width];
            [copied(out, (before..rows).flat_map(|row| (0..of_heads).map(head(row))))]
        });
        out
    }
}

pub(in crate::ops) fn attention(of: Projected<'_>, heads: Heads, segments: &Segments) -> Attended {
    let plan = Plan::new(of, heads, segments);
    let group = heads.group();
    let tasks = plan.tasks(segments).into_iter().map(|(rows, head)| {
        let size = group * rows.len();
        ((rows, head), [size * heads.width, size])
    });
    let sizes = [of.query.len(), of.query.len() / heads.width];
    let [by_head, log_sums] =
        fresh(sizes, 2 * plan.work(segments), tasks, |(rows, head), parts| {
            let [out, sums] = parts.map(|part| written(part, std::iter::repeat(0.0)));
            plan.forward(&rows, head, out, sums);
            [out, sums]
        });
    Attended { out: plan.by_row(&by_head, heads.queries, 0, segments), log_sums }
}

pub(in crate::ops) fn attention_backward(
    of: Projected<'_>,
    heads: Heads,
    segments: &Segments,
    attended: &Attended,
    dout: &[f32],
) -> Gradients {
    let plan = Plan::new(of, heads, segments);
    let (group, width, before) = (heads.group(), heads.width, plan.before);
    let mut sums = &attended.log_sums[..];
    let all = plan.tasks(segments);
    let tasks = all.iter().map(|task| {
        let rows = task.0.len();
        let (own, rest) = sums.split_at(group * rows);
        sums = rest;
        let of_keys = (before + rows) * width;
        ((task, own), [group * rows * width, of_keys, of_keys])
    });
    let of_keys = (before * segments.texts() + segments.rows()) * heads.keys * width;
    let sizes = [of.query.len(), of_keys, of_keys];
    let [dquery, dkey, dvalue] =
        fresh(sizes, 5 * plan.work(segments), tasks, |((rows, head), sums), parts| {
            let mut parts = parts.map(|part| written(part, std::iter::repeat(0.0)));
            plan.backward((rows, *head), (&attended.out, dout), sums, parts.each_mut());
            parts
        });
    let prefix = of.prefix.map(|(keys, values)| {
        // In the order of texts, whichever thread was first.
        let sum = |size: usize, of_heads: &[f32]| {
            let mut sum = vec![0.0; size];
            let mut start = 0;
            for (rows, head) in &all {
                let own = of_heads[start..][..before * width].chunks_exact(width);
                for (sum, own) in sum.chunks_exact_mut(heads.keys * width).zip(own) {
                    add_scaled(&mut sum[head * width..][..width], 1.0, own);
                }
                start += (before + rows.len()) * width;
            }
            sum
        };
        (sum(keys.len(), &dkey), sum(values.len(), &dvalue))
    });
    Gradients {
        query: plan.by_row(&dquery, heads.queries, 0, segments),
        key: plan.by_row(&dkey, heads.keys, before, segments),
        value: plan.by_row(&dvalue, heads.keys, before, segments),
        prefix,
    }
}
