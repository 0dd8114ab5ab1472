//! Whose records make the champion's head worse on what others labelled.
//!
//! What a producer's records do to a model is what the model would be without them (Cook 1977; first-order
//! forms are influence functions, arXiv 1703.04730, and TracIn, arXiv 2002.08484). Of a head that reads
//! fixed embeddings it need not be estimated: the champion's head is refitted on the window with and
//! without the producer, and both are put to held-out examples that the producer did not label. The
//! difference is in the unit of the loss, and so has a margin; a first-order score would need a learning
//! rate to have one.
use tidegate_model::Scores;

use super::{Point, Producers};
use crate::{
    bootstrap::{Cells, Resampling, bootstrap},
    stats::Interval,
};

/// Weight of the squared distance to the champion's head.
const RIDGE: f64 = 3e-3;
/// Steps from the champion's head to that of the whole window, and from there to each without one.
const STEPS: usize = 80;
const STEPS_WITHOUT: usize = 40;
const MOMENTUM: f64 = 0.9;
/// Log-probabilities below this count as this.
const LEAST_SAID: f32 = -6.0;
/// How quickly the champion's own logits are rescaled beside what embeddings add to them.
const SCALE: f64 = 0.25;

/// What removing one producer would do.
#[derive(Debug)]
pub(crate) struct Influence {
    pub(crate) words: String,
    pub(crate) name: Option<String>,
    pub(crate) records: u64,
    /// Producers that were compared.
    pub(crate) compared: usize,
    /// Held-out examples.
    pub(crate) n: u64,
    /// Mean log loss of the head that learnt the whole window, and of the one that left it out.
    pub(crate) with: f64,
    pub(crate) without: f64,
    pub(crate) interval: Interval,
}

impl Point {
    pub(super) fn new(producer: usize, class: usize, embedding: Vec<f32>, answer: &Scores) -> Self {
        let said = answer.probabilities.iter().map(|p| p.ln().max(LEAST_SAID)).collect();
        Self { producer, class, embedding, said }
    }
}

/// The champion's head, and what was added to it.
#[derive(Clone)]
struct Head {
    /// `[classes, d_model + 1]`, the bias last.
    added: Vec<f64>,
    /// What its own logits are multiplied by, less 1, over [`SCALE`].
    sharper: f64,
    width: usize,
}

impl Head {
    fn champion(classes: usize, d_model: usize) -> Self {
        let width = d_model + 1;
        Self { added: vec![0.0; classes * width], sharper: 0.0, width }
    }

    /// `[classes]`, of sum 1.
    fn answer(&self, point: &Point) -> Vec<f64> {
        let rows = self.added.chunks_exact(self.width).zip(&point.said);
        let mut logits: Vec<f64> = rows
            .map(|(row, &said)| {
                let (bias, weights) = row.split_last().expect("the bias is last");
                let x = point.embedding.iter().zip(weights);
                let added: f64 = x.map(|(x, weight)| f64::from(*x) * weight).sum();
                f64::from(said) * (1.0 + SCALE * self.sharper) + added + bias
            })
            .collect();
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        logits.iter_mut().for_each(|logit| *logit = (*logit - highest).exp());
        let sum: f64 = logits.iter().sum();
        logits.iter_mut().for_each(|p| *p /= sum);
        logits
    }

    fn loss(&self, point: &Point) -> f64 {
        -self.answer(point)[point.class].max(1e-9).ln()
    }

    /// Nesterov's steps down the mean log loss of `points` and the ridge.
    fn fit(mut self, points: &[&Point], steps: usize) -> Self {
        let n = points.len() as f64;
        // The Hessian of a softmax is at most half the squared length of what it reads.
        let length = |point: &&Point| {
            let said = point.said.iter().map(|&said| f64::from(said).powi(2)).sum::<f64>();
            2.0 + SCALE * SCALE * said
        };
        let rate = 1.0 / (0.5 * points.iter().map(length).sum::<f64>() / n + RIDGE);
        let mut before = self.clone();
        for _ in 0..steps {
            let ahead = self.beyond(&before);
            before = self;
            self = ahead.step(points, rate / n, rate * RIDGE);
        }
        self
    }

    fn beyond(&self, before: &Self) -> Self {
        let ahead = |now: f64, then: f64| now + MOMENTUM * (now - then);
        let pairs = self.added.iter().zip(&before.added);
        Self {
            added: pairs.map(|(&now, &then)| ahead(now, then)).collect(),
            sharper: ahead(self.sharper, before.sharper),
            width: self.width,
        }
    }

    fn step(self, points: &[&Point], rate: f64, shrink: f64) -> Self {
        let mut next = self.clone();
        next.added.iter_mut().for_each(|weight| *weight *= 1.0 - shrink);
        next.sharper *= 1.0 - shrink;
        for point in points {
            let answer = self.answer(point);
            for (class, row) in next.added.chunks_exact_mut(self.width).enumerate() {
                let slope = answer[class] - f64::from(u8::from(class == point.class));
                let (bias, weights) = row.split_last_mut().expect("the bias is last");
                *bias -= rate * slope;
                next.sharper -= rate * slope * SCALE * f64::from(point.said[class]);
                for (weight, x) in weights.iter_mut().zip(&point.embedding) {
                    *weight -= rate * slope * f64::from(*x);
                }
            }
        }
        next
    }
}

/// Looks for the producer without whom the window would teach more. `Err` says why none is judged.
pub(crate) fn influences(
    of: &Producers,
    min_n: u64,
    how: Resampling<'_>,
) -> Result<Influence, String> {
    let Some(probe) = &of.probe else {
        return Err("the champion shows nothing that a head could be fitted on".to_owned());
    };
    let grouped = of.grouped(probe.window.iter().map(|point| point.producer), min_n);
    let group = |point: &&Point| grouped.of.get(point.producer).copied();
    let window: Vec<&Point> = probe.window.iter().collect();
    let size =
        |wanted: usize| window.iter().filter(|one| group(one) == Some(wanted)).count() as u64;
    let judges = |wanted: usize| -> Vec<&Point> {
        probe.held_out.iter().filter(|one| group(one) != Some(wanted)).collect()
    };
    let is_judged = |&one: &usize| {
        let (n, all) = (size(one), window.len() as u64);
        n >= min_n && all - n >= min_n && judges(one).len() as u64 >= min_n
    };
    let judged: Vec<usize> = (0..grouped.names.len()).filter(is_judged).collect();
    if judged.is_empty() {
        return Err(format!(
            "no producer has {min_n} labelled records beside as many of others and {min_n} held-out \
             examples of others"
        ));
    }
    let (classes, d_model) = (window[0].said.len(), window[0].embedding.len());
    let whole = Head::champion(classes, d_model).fit(&window, STEPS);
    let with = whole.clone().fit(&window, STEPS_WITHOUT);
    let how = Resampling { level: 1.0 - (1.0 - how.level) / judged.len() as f64, ..how };
    let one = |&wanted: &usize| {
        let others: Vec<&Point> =
            window.iter().filter(|one| group(one) != Some(wanted)).copied().collect();
        let without = whole.clone().fit(&others, STEPS_WITHOUT);
        let judges = judges(wanted);
        let pairs: Vec<(f64, f64)> =
            judges.iter().map(|one| (with.loss(one), without.loss(one))).collect();
        let n = pairs.len() as f64;
        let mean = |weights: &[f64]| {
            let sum: f64 = pairs.iter().zip(weights).map(|((a, b), weight)| (a - b) * weight).sum();
            Some(sum / n)
        };
        let found = bootstrap(&Cells::each(pairs.len()), how, mean)?;
        Some(Influence {
            words: grouped.words(wanted),
            name: grouped.names[wanted].clone(),
            records: size(wanted),
            compared: judged.len(),
            n: pairs.len() as u64,
            with: pairs.iter().map(|pair| pair.0).sum::<f64>() / n,
            without: pairs.iter().map(|pair| pair.1).sum::<f64>() / n,
            interval: found.interval,
        })
    };
    let all = judged.iter().filter_map(one);
    all.max_by(|a, b| a.interval.low.total_cmp(&b.interval.low))
        .ok_or_else(|| "the loss is the same on all held-out examples".to_owned())
}
