//! The counted part of the wide path: once a job, before its first step.
use tidegate_model::{Counts, Features};

use crate::lesson::{Item, Lesson};

/// What the evidence may be multiplied by.
const SCALES: [f32; 10] = [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6];

/// What the sum may be divided by.
const HEATS: [f32; 6] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

/// Of counts that nothing is known of yet. Early on they know more than what is learnt by steps.
const FIRST_SCALE: f32 = 4.0;

/// So many texts count for as much as all that scale and heat were chosen by before.
const SURE_AFTER: f32 = 125.0;

/// Texts that they are chosen by at most.
const ASKED: usize = 128;

/// Where nothing is counted yet: one in so many texts of the window only chooses.
const ONE_IN: usize = 4;

/// Logits of items, `[items.len(), classes]`.
pub(crate) type Logits<'a> = dyn Fn(&[&Item]) -> Vec<f32> + 'a;

/// The champion's counts, or none yet, with the window's. `champion`: without evidence; nothing in a
/// cold start.
///
/// How far counts can be relied on beside the rest is found out on texts that neither has seen: on
/// the window, before it is counted and learnt (stacking: Wolpert 1992, with one weight).
pub(crate) fn recount(
    before: Option<Counts>,
    smoothing: f32,
    lesson: &Lesson,
    champion: Option<&Logits<'_>>,
) -> Counts {
    let (architecture, classes) = (&lesson.featurizer.architecture, lesson.labels.len());
    let fresh = &lesson.fresh;
    let mut counts =
        before.unwrap_or_else(|| Counts::none(architecture, classes, smoothing, FIRST_SCALE));
    counts.smoothing = smoothing;
    if counts.is_empty() {
        let (most, last) = fresh.split_at(fresh.len() - fresh.len() / ONE_IN);
        let mut first = counts.clone();
        add(&mut first, most, lesson);
        weigh(&mut first, last, champion);
        (counts.scale, counts.heat) = (first.scale, first.heat);
    } else {
        weigh(&mut counts, fresh, champion);
    }
    add(&mut counts, fresh, lesson);
    counts
}

/// By their own weights: those of steps make up for how many of a class a window has, and counts of
/// many windows are to be those of all at once.
fn add(counts: &mut Counts, items: &[Item], lesson: &Lesson) {
    for item in items {
        counts.add(&item.features, item.class, lesson.own_weight(item));
    }
}

/// Scale and heat between those of before and the ones by which the texts are least surprising: the
/// nearer to these the more texts there are. Without a champion the scale stays.
fn weigh(counts: &mut Counts, items: &[Item], champion: Option<&Logits<'_>>) {
    let counted = counts.counted();
    let known: Vec<&Item> = items.iter().filter(|item| counted[item.class]).collect();
    if counted.iter().filter(|counted| **counted).count() < 2 || known.is_empty() {
        return;
    }
    let every = known.len().div_ceil(ASKED);
    let asked: Vec<&Item> = known.into_iter().step_by(every).collect();
    let features: Vec<&Features> = asked.iter().map(|item| &item.features).collect();
    let odds = counts.evidence().logits(&features);
    let learnt = champion.map_or_else(|| vec![0.0; odds.len()], |champion| champion(&asked));
    let classes = counted.len();
    let surprise = |&(scale, heat): &(f32, f32)| -> f64 {
        let rows = learnt.chunks_exact(classes).zip(odds.chunks_exact(classes)).zip(&asked);
        rows.map(|((learnt, odds), item)| {
            let logit = |class: usize| f64::from((learnt[class] + scale * odds[class]) / heat);
            let logits = || (0..classes).filter(|&class| counted[class]).map(logit);
            let most = logits().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits().map(|logit| (logit - most).exp()).sum();
            f64::from(item.weight) * (most + sum.ln() - logit(item.class))
        })
        .sum()
    };
    let scales = if champion.is_some() { SCALES.to_vec() } else { vec![counts.scale] };
    let ways = scales.into_iter().flat_map(|scale| HEATS.map(|heat| (scale, heat)));
    let (_, (scale, heat)) = ways
        .map(|way| (surprise(&way), way))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .expect("there are scales and heats");
    let part = asked.len() as f32 / (asked.len() as f32 + SURE_AFTER);
    let between = |old: f32, best: f32| (1.0 - part) * old.log2() + part * best.log2();
    counts.scale = between(counts.scale, scale).exp2();
    counts.heat = between(counts.heat, heat).round().exp2();
}
