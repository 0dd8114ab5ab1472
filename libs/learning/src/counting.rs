//! The counted part of the wide path: once a job, before its first step.
use tidegate_model::{Counts, Features, WideTable};

use crate::lesson::{Item, Lesson};

/// What the evidence may be multiplied by.
const SCALES: [f32; 11] = [0.1, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6];

/// That of counts that nothing is known of yet.
const FIRST_SCALE: f32 = 2.0;

/// So many texts count for as much as all that the scale was chosen by before.
const SURE_AFTER: f64 = 125.0;

/// Texts that a scale is chosen by at most.
const ASKED: usize = 2_000;

/// One in so many texts of a window only chooses the scale, where nothing is counted yet.
const ONE_IN: usize = 4;

/// Counts the window, and puts its evidence in the place of the older one in `wide`. `before`: the
/// champion's counts, none where it has none.
///
/// How far counts can be relied on is found out on texts that they have not seen: on the window,
/// before it is counted; the first time on its last quarter.
pub(crate) fn recount(
    wide: &mut WideTable,
    before: Option<Counts>,
    smoothing: f32,
    lesson: &Lesson,
) -> Counts {
    let classes = lesson.labels.len();
    let fresh = &lesson.fresh;
    let none = || Counts::none(&lesson.featurizer.architecture, classes, smoothing, FIRST_SCALE);
    let mut counts = before.unwrap_or_else(none);
    let old = counts.evidence();
    wide.add(&old, -counts.scale);
    counts.smoothing = smoothing;
    if counts.is_empty() {
        let (most, last) = fresh.split_at(fresh.len() - fresh.len() / ONE_IN);
        let mut first = counts.clone();
        add(&mut first, most);
        counts.scale = scale(wide, &first, last);
        add(&mut counts, fresh);
    } else {
        counts.scale = scale(wide, &counts, fresh);
        add(&mut counts, fresh);
    }
    wide.add(&counts.evidence(), counts.scale);
    counts
}

fn add(counts: &mut Counts, items: &[Item]) {
    for item in items {
        counts.add(&item.features, item.class, item.weight);
    }
}

/// Between that of before and the one by which the texts are least surprising: the nearer to that
/// the more texts there are. `wide`: without evidence.
fn scale(wide: &WideTable, counts: &Counts, items: &[Item]) -> f32 {
    let counted = counts.counted();
    let known: Vec<&Item> = items.iter().filter(|item| counted[item.class]).collect();
    if counted.iter().filter(|counted| **counted).count() < 2 || known.is_empty() {
        return counts.scale;
    }
    let every = known.len().div_ceil(ASKED);
    let asked: Vec<&Item> = known.into_iter().step_by(every).collect();
    let features: Vec<&Features> = asked.iter().map(|item| &item.features).collect();
    let learnt = wide.logits(&features);
    let odds = counts.evidence().logits(&features);
    let classes = counted.len();
    let surprise = |scale: f32| -> f64 {
        let rows = learnt.chunks_exact(classes).zip(odds.chunks_exact(classes)).zip(&asked);
        rows.map(|((learnt, odds), item)| {
            let logit = |class: usize| f64::from(learnt[class] + scale * odds[class]);
            let logits = || (0..classes).filter(|&class| counted[class]).map(logit);
            let most = logits().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits().map(|logit| (logit - most).exp()).sum();
            f64::from(item.weight) * (most + sum.ln() - logit(item.class))
        })
        .sum()
    };
    let best = SCALES
        .into_iter()
        .min_by(|a, b| surprise(*a).total_cmp(&surprise(*b)))
        .expect("there are scales");
    let part = asked.len() as f64 / (asked.len() as f64 + SURE_AFTER);
    let between = f64::from(counts.scale).ln() * (1.0 - part) + f64::from(best).ln() * part;
    between.exp() as f32
}
