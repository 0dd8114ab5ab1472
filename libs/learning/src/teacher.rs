//! What each step is to be answered by: labels, the champion's answers, and recorded logits.
use std::rc::Rc;

use tidegate_model::{Batch, Features, Task, Weights};

use crate::{
    Recipe, Trains,
    lesson::{Item, Lesson},
    loss::{Recorded, Targets, softened},
    optimizer::values,
};

/// Texts that a network is asked about at a time, outside of steps.
pub(crate) const ASK: usize = 32;

/// A remembered example, and what the champion said of it.
pub(crate) struct Recalled {
    pub(crate) item: Item,
    /// Softened, by the new label set; nothing when nothing is distilled.
    pub(crate) answer: Vec<f32>,
}

/// The champion as it was; there only where something is distilled.
pub(crate) struct Teacher<B: Trains> {
    weights: Option<Weights<B::InnerBackend>>,
    /// Classes it knows, and classes to answer by.
    known: usize,
    classes: usize,
    temperature: f32,
}

impl<B: Trains> Teacher<B> {
    pub(crate) fn new(
        weights: Option<Weights<B::InnerBackend>>,
        lesson: &Lesson,
        recipe: &Recipe,
    ) -> Self {
        let temperature = recipe.distillation.temperature as f32;
        Self { weights, known: lesson.known, classes: lesson.labels.len(), temperature }
    }

    /// Whether a job of this recipe needs one.
    pub(crate) fn is_needed(lesson: &Lesson, recipe: &Recipe) -> bool {
        let distillation = &recipe.distillation;
        if lesson.known == 0 || lesson.task() == Task::NextToken {
            return false;
        }
        let replays = !lesson.before.is_empty() && recipe.rehearsal.share > 0.0;
        (distillation.weight > 0.0 && replays) || distillation.fresh_weight > 0.0
    }

    /// What the champion says, softened, with no belief in classes it does not know. An empty
    /// answer for each when there is no teacher.
    pub(crate) fn answers(&self, items: &[&Item], device: &B::Device) -> Vec<Vec<f32>> {
        let Some(weights) = &self.weights else { return vec![Vec::new(); items.len()] };
        let answer = |logits: &[f32]| {
            let mut answer = softened(logits, self.temperature);
            answer.resize(self.classes, 0.0);
            answer
        };
        logits::<B>(weights, items, device).chunks_exact(self.known).map(answer).collect()
    }
}

/// Logits of both paths together, `[items.len(), classes]`.
pub(crate) fn logits<B: Trains>(
    weights: &Weights<B::InnerBackend>,
    items: &[&Item],
    device: &B::Device,
) -> Vec<f32> {
    let features: Vec<&Features> = items.iter().map(|item| &item.features).collect();
    let wide = weights.wide.logits(&features);
    let batch = Batch::new(&features, device).with_wide(wide, weights.wide.classes());
    values(weights.network.forward(&batch).logits)
}

/// Each item's label times its share of all weights, `[items.len(), classes]`: one-hot, or how likely
/// each level of a number should be called.
pub(crate) fn labels(items: &[&Item], classes: usize) -> Vec<f32> {
    let total: f32 = items.iter().map(|item| item.weight).sum();
    let mut label = vec![0.0; items.len() * classes];
    for (row, item) in label.chunks_exact_mut(classes).zip(items) {
        let weight = item.weight / total;
        if item.target.is_empty() {
            row[item.class] = weight;
        }
        row.iter_mut().zip(&item.target).for_each(|(cell, part)| *cell = weight * part);
    }
    label
}

/// Rows of one step: fresh examples, then replayed ones.
pub(crate) struct Rows<'a> {
    pub(crate) fresh: &'a [&'a Item],
    /// The champion's answer to each fresh example; empty where it is not distilled.
    pub(crate) answers: &'a [Vec<f32>],
    pub(crate) replayed: &'a [Rc<Recalled>],
}

impl Rows<'_> {
    /// Weights of the terms, row by row. Each example's parts sum to its weight.
    pub(crate) fn targets(&self, lesson: &Lesson, recipe: &Recipe) -> Targets {
        let classes = lesson.labels.len();
        let replayed = self.replayed.iter().map(|recalled| &recalled.item);
        let items: Vec<&Item> = self.fresh.iter().copied().chain(replayed).collect();
        let total: f32 = items.iter().map(|item| item.weight).sum();
        let label = labels(&items, classes);
        let (der, distillation) = (&recipe.der, &recipe.distillation);
        let mut hard = label.clone();
        let mut soft = vec![0.0; label.len()];
        let mut distils = false;
        for (at, item) in items.iter().enumerate() {
            let row = at * classes..(at + 1) * classes;
            let (answer, share) = match at.checked_sub(self.fresh.len()) {
                Some(at) => (&self.replayed[at].answer, distillation.weight as f32),
                // The champion has no answer about a class that it does not know.
                None if item.class < lesson.known => {
                    (&self.answers[at], distillation.fresh_weight as f32)
                }
                None => (&self.answers[at], 0.0),
            };
            if !answer.is_empty() && share > 0.0 {
                distils = true;
                hard[row.clone()].iter_mut().for_each(|value| *value *= 1.0 - share);
                let weight = share * item.weight / total;
                for (cell, answer) in soft[row.clone()].iter_mut().zip(answer) {
                    *cell = weight * answer;
                }
            }
            if der.alpha > 0.0 && at >= self.fresh.len() {
                hard[row].iter_mut().for_each(|value| *value *= der.beta as f32);
            }
        }
        let recorded = (der.alpha > 0.0).then(|| recorded(&items, total, classes, der.alpha));
        let soft = distils.then_some(soft);
        let temperature = distillation.temperature as f32;
        Targets { label, hard, soft, temperature, recorded }
    }
}

/// The distance is a mean over the classes that there were when the logits were recorded.
fn recorded(items: &[&Item], total: f32, classes: usize, alpha: f64) -> Recorded {
    let mut recorded = Recorded {
        logits: vec![0.0; items.len() * classes],
        weight: vec![0.0; items.len() * classes],
    };
    for (at, item) in items.iter().enumerate() {
        let then = item.logits.len();
        let row = at * classes..at * classes + then;
        recorded.logits[row.clone()].copy_from_slice(&item.logits);
        recorded.weight[row].fill(alpha as f32 * item.weight / (total * then as f32));
    }
    recorded
}
