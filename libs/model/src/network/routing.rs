//! Which token goes to which experts.
use rayon::prelude::*;

use crate::{
    Architecture,
    ops::{Dispatch, Segments},
    threads::is_alone,
};

/// Share of one layer's assignments that each expert got; sums to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertLoad(pub Vec<f32>);

/// What the router of one layer did with a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Routed {
    /// Of the choices, dropped ones included: what balancing is to even out.
    pub load: ExpertLoad,
    /// Assignments of each text that found their expert full, `[texts]`.
    pub dropped: Vec<u32>,
    /// Assignments in all, dropped ones included.
    pub assignments: usize,
    /// Mean over tokens of the entropy of their affinities, as a share of the highest there is:
    /// 1 when the router does not care, 0 when it is sure.
    pub entropy: f32,
}

/// How the experts of a token are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rule {
    pub(crate) top_k: usize,
    /// Experts are chosen out of the best `top_groups` of so many groups of equal size, so that a
    /// token travels to a bounded number of devices (DeepSeek-V3, arXiv 2412.19437, section 2.1.2,
    /// "node-limited routing"). 1: out of all.
    pub(crate) groups: usize,
    pub(crate) top_groups: usize,
    /// Every expert is given as many tokens, whatever the router says.
    pub(crate) even: bool,
}

/// A rule, and the batch that it is for.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    pub(crate) rule: Rule,
    /// An expert takes at most so many times its even share of the assignments, first come first
    /// served by the order of rows (Switch, arXiv 2101.03961, eq. 3); 0: as many as come.
    pub(crate) capacity_factor: f64,
    pub(crate) segments: &'a Segments,
}

impl Routing<'_> {
    /// Assignments that an expert takes.
    pub(crate) fn capacity(&self, experts: usize) -> usize {
        let assignments = self.segments.rows() * self.rule.top_k;
        match self.capacity_factor {
            0.0 => usize::MAX,
            factor => (assignments as f64 * factor / experts as f64).ceil() as usize,
        }
    }
}

impl Rule {
    /// The only expert there is.
    pub(crate) const ONE: Self = Self { top_k: 1, groups: 1, top_groups: 1, even: false };

    pub(super) fn of(a: &Architecture) -> Self {
        let (groups, top_groups) = (a.expert_groups, a.top_groups);
        Self { top_k: a.top_k, groups, top_groups, even: false }
    }

    /// The `k` experts with the highest affinity + bias, best first; of equals, the first.
    fn choose(&self, scores: &[f32], chosen: &mut [u32]) {
        let group = scores.len() / self.groups;
        let mut open = vec![self.groups == self.top_groups; self.groups];
        if self.groups > self.top_groups {
            // A group is as good as the experts that could be chosen of it.
            let each = (self.top_k / self.top_groups).max(1);
            let worth: Vec<f32> = scores
                .chunks_exact(group)
                .map(|scores| best(scores, each, |_| true).iter().map(|&at| scores[at]).sum())
                .collect();
            best(&worth, self.top_groups, |_| true).into_iter().for_each(|at| open[at] = true);
        }
        let experts = best(scores, self.top_k, |expert| open[expert / group]);
        for (chosen, expert) in chosen.iter_mut().zip(experts) {
            *chosen = expert as u32;
        }
    }
}

/// Indices of the `count` highest of those allowed, highest first; of equals, the first.
fn best(scores: &[f32], count: usize, allowed: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::with_capacity(count + 1);
    for at in (0..scores.len()).filter(|&at| allowed(at)) {
        // NaN is above nothing, and so is last.
        let is_above = |other: usize| scores[at] > scores[other];
        let place = found.partition_point(|&other| !is_above(other));
        if place < count {
            found.insert(place, at);
            found.truncate(count);
        }
    }
    found
}

/// Who goes where in one layer.
#[derive(Debug)]
pub struct Plan {
    pub(crate) dispatch: Dispatch,
    /// For each assignment, in the order of `dispatch`: `row * experts + expert`.
    pub(crate) cells: Vec<i32>,
    /// `[rows, experts]`: 1 where the row chose the expert, dropped or not.
    pub(crate) chosen: Vec<f32>,
    pub(crate) routed: Routed,
}

impl Plan {
    /// `affinity`: `[rows, experts]`; `bias`: `[experts]`, added for the choice.
    pub(crate) fn new(affinity: &[f32], bias: &[f32], how: &Routing<'_>) -> Self {
        let Routing { rule, segments, .. } = *how;
        let (experts, rows) = (bias.len(), segments.rows());
        let assignments = rows * rule.top_k;
        let capacity = how.capacity(experts);
        let (picks, entropy) = picks(affinity, bias, rule);
        let mut counts = vec![0_usize; experts];
        let mut choices = Vec::with_capacity(assignments);
        let mut chosen = vec![0.0; rows * experts];
        let mut dropped = vec![0; segments.texts()];
        let texts = segments.ranges().enumerate();
        let rows_of = texts.flat_map(|(text, range)| range.map(move |row| (text, row)));
        for ((text, row), picks) in rows_of.zip(picks.chunks_exact(rule.top_k)) {
            for &expert in picks {
                let at = expert as usize;
                chosen[row * experts + at] = 1.0;
                if counts[at] < capacity {
                    choices.push((row as u32, expert));
                } else {
                    dropped[text] += 1;
                }
                counts[at] += 1;
            }
        }
        let dispatch = Dispatch::new(&choices, rows, experts);
        let cells = dispatch
            .starts()
            .windows(2)
            .enumerate()
            .flat_map(|(expert, ends)| {
                let rows = &dispatch.rows()[ends[0]..ends[1]];
                rows.iter().map(move |&row| index(row as usize * experts + expert))
            })
            .collect();
        let load = counts.iter().map(|&count| count as f32 / assignments as f32).collect();
        let routed = Routed { load: ExpertLoad(load), dropped, assignments, entropy };
        Self { dispatch, cells, chosen, routed }
    }
}

/// Rows that a task chooses for.
const BLOCK: usize = 64;

/// The experts of each row, `[rows, top_k]`, best first; and the mean entropy of the rows, each made
/// to sum to 1, over that of an even row.
fn picks(affinity: &[f32], bias: &[f32], rule: Rule) -> (Vec<u32>, f32) {
    let experts = bias.len();
    let rows = affinity.len() / experts;
    let mut picks = vec![0; rows * rule.top_k];
    let mut entropies = vec![0.0; rows];
    let choose = |((picks, entropies), affinity): ((&mut [u32], &mut [f32]), &[f32])| {
        let mut scores = vec![0.0; experts];
        let rows = picks.chunks_exact_mut(rule.top_k).zip(affinity.chunks_exact(experts));
        for ((picks, own), of_row) in rows.zip(entropies) {
            for (score, (affinity, bias)) in scores.iter_mut().zip(own.iter().zip(bias)) {
                *score = affinity + bias;
            }
            rule.choose(&scores, picks);
            *of_row = entropy(own);
        }
    };
    if rule.even {
        for (at, pick) in picks.iter_mut().enumerate() {
            *pick = (at % experts) as u32;
        }
        for (own, of_row) in affinity.chunks_exact(experts).zip(&mut entropies) {
            *of_row = entropy(own);
        }
    } else if rows <= 4 * BLOCK || is_alone() {
        choose(((&mut picks[..], &mut entropies[..]), affinity));
    } else {
        picks
            .par_chunks_mut(BLOCK * rule.top_k)
            .zip(entropies.par_chunks_mut(BLOCK))
            .zip(affinity.par_chunks(BLOCK * experts))
            .for_each(choose);
    }
    let even = if experts == 1 { 1.0 } else { (experts as f32).ln() };
    (picks, entropies.iter().sum::<f32>() / rows as f32 / even)
}

/// Of a row made to sum to 1; of one expert alone 1, since there is no choice.
fn entropy(row: &[f32]) -> f32 {
    if row.len() == 1 {
        return 1.0;
    }
    let total: f32 = row.iter().sum();
    let share = |a: &f32| (a / total.max(f32::MIN_POSITIVE)).max(f32::MIN_POSITIVE);
    -row.iter().map(share).map(|p| p * p.ln()).sum::<f32>()
}

fn index(at: usize) -> i32 {
    i32::try_from(at).expect("a batch has fewer than 2^31 cells")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Rule = Rule { top_k: 2, groups: 1, top_groups: 1, even: false };

    fn plan(affinity: &[f32], bias: &[f32], rule: Rule, factor: f64, texts: &[usize]) -> Plan {
        let segments = Segments::new(texts.iter().copied());
        let how = Routing { rule, capacity_factor: factor, segments: &segments };
        Plan::new(affinity, bias, &how)
    }

    #[test]
    fn the_bias_steers_the_choice_and_of_equals_the_first_is_taken() {
        let affinity = [0.5, 0.5, 0.5, 0.1, /* row 2 */ 0.9, 0.2, 0.1, 0.3];
        let found = plan(&affinity, &[0.0; 4], ALL, 0.0, &[2]);
        assert_eq!(found.chosen, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        let found = plan(&affinity, &[0.0, -1.0, 0.0, 0.0], ALL, 0.0, &[2]);
        assert_eq!(found.chosen, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(found.dispatch.rows(), [0, 1, 0, 1]);
        assert_eq!(found.dispatch.starts(), [0, 2, 2, 3, 4]);
        assert_eq!(found.cells, [0, 4, 2, 7]);
        assert_eq!(found.routed.load.0, [0.5, 0.0, 0.25, 0.25]);
    }

    #[test]
    fn a_full_expert_drops_who_comes_last_and_says_whose_it_was() {
        let affinity = [0.9, 0.8, 0.1, 0.0].repeat(4);
        let found = plan(&affinity, &[0.0; 4], ALL, 1.0, &[1, 3]);
        // 8 assignments over 4 experts: each takes 2, and all 4 rows want the same two.
        assert_eq!(found.dispatch.rows(), [0, 1, 0, 1]);
        assert_eq!(found.routed.dropped, [0, 4]);
        assert_eq!(found.routed.load.0, [0.5, 0.5, 0.0, 0.0]);
        assert!(found.dispatch.of_row(3).is_empty());
    }

    #[test]
    fn only_the_best_groups_are_chosen_from() {
        let rule = Rule { groups: 2, ..ALL };
        // The best expert of all is in the group whose best two are worth less.
        let affinity = [0.9, 0.0, 0.6, 0.5];
        let found = plan(&affinity, &[0.0; 4], rule, 0.0, &[1]);
        assert_eq!(found.chosen, [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn entropy_is_of_the_router_not_of_the_choice() {
        let even = plan(&[0.3; 8], &[0.0; 4], ALL, 0.0, &[2]).routed.entropy;
        let sure = plan(&[1.0, 0.0, 0.0, 0.0], &[0.0; 4], ALL, 0.0, &[1]).routed.entropy;
        assert!((even - 1.0).abs() < 1e-6 && sure < 1e-6);
    }

    #[test]
    fn a_router_of_nan_still_sends_every_token_somewhere() {
        let found = plan(&[f32::NAN; 8], &[0.0; 4], ALL, 0.0, &[2]);
        assert_eq!(found.dispatch.rows().len(), 4);
    }
}
