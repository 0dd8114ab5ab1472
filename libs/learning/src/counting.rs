//! The counted part of the wide path: once a job, before its first step.
use tidegate_model::{Counts, Features};

use crate::lesson::{Item, Lesson};

/// What the evidence may be multiplied by.
const SCALES: [f32; 10] = [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6];

/// What the sum is divided by, each time the best of these: words say the same many times over, so
/// either part may be too sure of itself, and only their ratio is looked for.
const HEATS: [f64; 7] = [0.5, 0.7, 1.0, 2.0, 4.0, 8.0, 16.0];

/// Of counts that nothing is known of yet. Early on they know more than what is learnt by steps.
const FIRST_SCALE: f32 = 4.0;

/// So many texts count for as much as all that the scale was chosen by before.
const SURE_AFTER: f64 = 125.0;

/// Texts that a scale is chosen by at most.
const ASKED: usize = 128;

/// Where a champion has no counts: one in so many texts of its window only chooses the scale.
const ONE_IN: usize = 4;

/// The champion's counts, or none yet, with the window's. `champion`: its logits without evidence,
/// `[items.len(), classes]`; nothing in a cold start.
///
/// How far counts can be relied on beside the rest is found out on texts that neither has seen: on
/// the window, before it is counted and learnt (stacking: Wolpert 1992, with one weight).
pub(crate) fn recount(
    before: Option<Counts>,
    smoothing: f32,
    lesson: &Lesson,
    champion: Option<&dyn Fn(&[&Item]) -> Vec<f32>>,
) -> Counts {
    let (architecture, classes) = (&lesson.featurizer.architecture, lesson.labels.len());
    let fresh = &lesson.fresh;
    let mut counts =
        before.unwrap_or_else(|| Counts::none(architecture, classes, smoothing, FIRST_SCALE));
    counts.smoothing = smoothing;
    if let Some(champion) = champion {
        counts.scale = if counts.is_empty() {
            let (most, last) = fresh.split_at(fresh.len() - fresh.len() / ONE_IN);
            let mut first = counts.clone();
            add(&mut first, most);
            scale(&first, last, champion)
        } else {
            scale(&counts, fresh, champion)
        };
    }
    add(&mut counts, fresh);
    counts
}

fn add(counts: &mut Counts, items: &[Item]) {
    for item in items {
        counts.add(&item.features, item.class, item.weight);
    }
}

/// Between that of before and the one by which the texts are least surprising: the nearer to that
/// the more texts there are.
fn scale(counts: &Counts, items: &[Item], champion: &dyn Fn(&[&Item]) -> Vec<f32>) -> f32 {
    let counted = counts.counted();
    let known: Vec<&Item> = items.iter().filter(|item| counted[item.class]).collect();
    if counted.iter().filter(|counted| **counted).count() < 2 || known.is_empty() {
        return counts.scale;
    }
    let every = known.len().div_ceil(ASKED);
    let asked: Vec<&Item> = known.into_iter().step_by(every).collect();
    let features: Vec<&Features> = asked.iter().map(|item| &item.features).collect();
    let learnt = champion(&asked);
    let odds = counts.evidence().logits(&features);
    let classes = counted.len();
    let surprise = |scale: f32, heat: f64| -> f64 {
        let rows = learnt.chunks_exact(classes).zip(odds.chunks_exact(classes)).zip(&asked);
        rows.map(|((learnt, odds), item)| {
            let logit = |class: usize| f64::from(learnt[class] + scale * odds[class]) / heat;
            let logits = || (0..classes).filter(|&class| counted[class]).map(logit);
            let most = logits().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits().map(|logit| (logit - most).exp()).sum();
            f64::from(item.weight) * (most + sum.ln() - logit(item.class))
        })
        .sum()
    };
    let least = |scale: f32| {
        HEATS.into_iter().map(|heat| surprise(scale, heat)).fold(f64::INFINITY, f64::min)
    };
    let found = SCALES.map(|scale| (scale, least(scale)));
    let (best, _) = found.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are scales");
    let part = asked.len() as f64 / (asked.len() as f64 + SURE_AFTER);
    let between = f64::from(counts.scale).ln() * (1.0 - part) + f64::from(best).ln() * part;
    between.exp() as f32
}
