//! What is known of a new domain, before and after it is learnt.
use std::collections::{BTreeMap, BTreeSet};

use burn::module::AutodiffModule as _;
use rand::seq::SliceRandom as _;
use serde::Serialize;
use tidegate_contracts::{Domain, GenerationId};
use tidegate_model::{Batch, Features, Network, Weights};

use super::Session;
use crate::{
    Trains,
    lesson::Item,
    loss::softened,
    optimizer::values,
    sampler,
    teacher::{self, ASK},
};

/// Draws of examples that a few-shot accuracy is the mean of.
const DRAWS: u64 = 10;

/// The stream of random numbers that examples are drawn with; draws count down from here.
const SHOTS_STREAM: u64 = u64::MAX - 16;

/// Content of [`crate::TRANSFER`].
#[derive(Serialize)]
struct Report<'a> {
    source: Option<GenerationId>,
    /// Examples of each domain of the window.
    domains: &'a BTreeMap<Domain, usize>,
    /// `append` or `replace`.
    labels: &'static str,
    /// Classes of the source that the generation knows, and classes that are new to it.
    known: usize,
    new: usize,
    /// Examples of the source's replay buffer that were kept.
    replayed: usize,
    learnt_from: usize,
    held_back: usize,
    /// By name, as in the metrics.
    measured: BTreeMap<String, f64>,
}

impl<B: Trains> Session<'_, B> {
    /// Measures of what is held back, by name; none where nothing is.
    ///
    /// `transfer.zero_shot_accuracy` is that of the source's answers before the first step, among the
    /// classes that are kept, where an example of another class is missed; `transfer.accuracy` that of
    /// the answers after the last. `transfer.few_shot_K_accuracy` tells what the deep path's representation is
    /// worth with K examples a class: the nearest class mean of normalised pooled outputs
    /// (prototypes, Snell et al. 2017, arXiv 1703.05175; normalised as in SimpleShot, Wang et al.
    /// 2019, arXiv 1911.04623), averaged over ten draws. `_after` is of the trained weights.
    ///
    /// Of numbers `transfer.zero_shot_mae` and `transfer.mae` are the mean absolute errors of the same
    /// answers.
    pub(super) fn shots(&self, trained: bool) -> BTreeMap<String, f64> {
        let lesson = self.lesson;
        if lesson.held_back.is_empty() {
            return BTreeMap::new();
        }
        let network = self.weights.network.valid();
        let held: Vec<&Item> = lesson.held_back.iter().collect();
        if let Some(levels) = &lesson.levels {
            let (name, answers, weights) = if trained {
                ("transfer.mae", lesson.labels.len(), self.in_use())
            } else {
                let weights = Weights { network, wide: self.weights.wide.clone() };
                ("transfer.zero_shot_mae", lesson.known, weights)
            };
            let said = answered::<B, _>(&weights, &held, &self.device, |row| {
                let mut answer = softened(&row[..answers], 1.0);
                answer.resize(row.len(), 0.0);
                levels.mean(&answer)
            });
            let errors = said.iter().zip(&lesson.held_numbers).map(|(said, is)| (said - is).abs());
            return BTreeMap::from([(name.to_owned(), errors.sum::<f64>() / held.len() as f64)]);
        }
        let of_means = self.few_shot(&network, &held).into_iter().map(|(shots, accuracy)| {
            let after = if trained { "_after" } else { "" };
            (format!("transfer.few_shot_{shots}_accuracy{after}"), accuracy)
        });
        let mut found: BTreeMap<String, f64> = of_means.collect();
        let (name, answers, weights) = if trained {
            ("transfer.accuracy", lesson.labels.len(), self.in_use())
        } else {
            let weights = Weights { network, wide: self.weights.wide.clone() };
            ("transfer.zero_shot_accuracy", lesson.known, weights)
        };
        found.insert(name.to_owned(), accuracy::<B>(&weights, &held, answers, &self.device));
        found
    }

    /// Share of other examples that the weights as they are answer rightly.
    pub(crate) fn accuracy(&self, items: &[Item]) -> f64 {
        let items: Vec<&Item> = items.iter().collect();
        accuracy::<B>(&self.in_use(), &items, self.lesson.labels.len(), &self.device)
    }

    fn few_shot(&self, network: &Network<B::InnerBackend>, held: &[&Item]) -> BTreeMap<usize, f64> {
        let (fresh, classes) = (&self.lesson.fresh, self.lesson.labels.len());
        let all = &self.job.recipe.transfer.few_shot;
        let most = all.iter().copied().max().unwrap_or_default();
        // The first K of a draw are the draw of K.
        let draws: Vec<Vec<Vec<usize>>> = (0..DRAWS)
            .map(|draw| {
                let mut rng = sampler::rng(self.job.seed, SHOTS_STREAM - draw);
                let mut of_class = vec![Vec::new(); classes];
                fresh.iter().enumerate().for_each(|(at, item)| of_class[item.class].push(at));
                for chosen in &mut of_class {
                    chosen.shuffle(&mut rng);
                    chosen.truncate(most);
                }
                of_class
            })
            .collect();
        let drawn: BTreeSet<usize> = draws.iter().flatten().flatten().copied().collect();
        let items: Vec<&Item> = drawn.iter().map(|&at| &fresh[at]).collect();
        let examples: BTreeMap<usize, Vec<f32>> =
            drawn.iter().copied().zip(pooled::<B>(network, &items, &self.device)).collect();
        let asked = pooled::<B>(network, held, &self.device);
        let right = |draw: &Vec<Vec<usize>>, shots: usize| {
            let means: Vec<Option<Vec<f32>>> = draw
                .iter()
                .map(|of_class| {
                    let chosen = &of_class[..shots.min(of_class.len())];
                    mean(chosen.iter().map(|at| &examples[at]))
                })
                .collect();
            let right = held.iter().zip(&asked).filter(|(item, of)| {
                let near = means.iter().map(|mean| mean.as_ref().map(|mean| dot(mean, of)));
                best(near.map(|near| near.unwrap_or(f32::NEG_INFINITY))) == item.class
            });
            right.count() as f64 / held.len() as f64
        };
        let averaged =
            |shots: usize| draws.iter().map(|draw| right(draw, shots)).sum::<f64>() / DRAWS as f64;
        all.iter().map(|&shots| (shots, averaged(shots))).collect()
    }

    /// The content of [`crate::TRANSFER`].
    pub(super) fn transfer_report(&self, after: &BTreeMap<String, f64>) -> Vec<u8> {
        let lesson = self.lesson;
        let mut measured = self.position.stats.transfer.clone();
        measured.extend(after.clone());
        let report = Report {
            source: self.job.start.parent(),
            domains: &lesson.domains,
            labels: if lesson.is_relabelled() { "replace" } else { "append" },
            known: lesson.known,
            new: lesson.labels.len() - lesson.known,
            replayed: lesson.before.len(),
            learnt_from: lesson.fresh.len(),
            held_back: lesson.held_back.len(),
            measured,
        };
        serde_json::to_vec_pretty(&report).expect("plain structs are JSON")
    }
}

/// Share of `items` whose class has the highest logit of the first `answers` classes.
fn accuracy<B: Trains>(
    weights: &Weights<B::InnerBackend>,
    items: &[&Item],
    answers: usize,
    device: &B::Device,
) -> f64 {
    let said = answered::<B, _>(weights, items, device, |row| best(row[..answers].iter().copied()));
    // Of no answers the best is none, whatever its number.
    let right = |(item, said): &(&&Item, usize)| item.class < answers && item.class == *said;
    let right = items.iter().zip(said).filter(right).count();
    right as f64 / items.len().max(1) as f64
}

/// What `read` makes of the logits of each item.
fn answered<B: Trains, T>(
    weights: &Weights<B::InnerBackend>,
    items: &[&Item],
    device: &B::Device,
    read: impl Fn(&[f32]) -> T,
) -> Vec<T> {
    let classes = weights.wide.classes();
    let mut answers = Vec::with_capacity(items.len());
    for chunk in items.chunks(ASK) {
        let logits = teacher::logits::<B>(weights, chunk, device);
        answers.extend(logits.chunks_exact(classes).map(&read));
    }
    answers
}

/// The first of the highest.
fn best(scores: impl Iterator<Item = f32>) -> usize {
    let mut found = (0, f32::NEG_INFINITY);
    for (at, score) in scores.enumerate() {
        if score > found.1 {
            found = (at, score);
        }
    }
    found.0
}

/// The deep path's pooled output for each text, of length 1.
fn pooled<B: Trains>(
    network: &Network<B::InnerBackend>,
    items: &[&Item],
    device: &B::Device,
) -> Vec<Vec<f32>> {
    let mut found = Vec::with_capacity(items.len());
    for chunk in items.chunks(ASK) {
        let features: Vec<&Features> = chunk.iter().map(|item| &item.features).collect();
        let pooled = values(network.pooled(&Batch::new(&features, device)));
        let width = pooled.len() / chunk.len();
        found.extend(pooled.chunks_exact(width).map(normalised));
    }
    found
}

fn normalised(row: &[f32]) -> Vec<f32> {
    let norm = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
    row.iter().map(|value| value / norm).collect()
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// Of length 1; nothing of no rows.
fn mean<'a>(mut rows: impl Iterator<Item = &'a Vec<f32>>) -> Option<Vec<f32>> {
    let mut sum = rows.next()?.clone();
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    Some(normalised(&sum))
}
