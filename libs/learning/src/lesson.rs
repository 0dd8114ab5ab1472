//! What one job learns from, as the network sees it.
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidegate_contracts::{Class, JobKind};
use tidegate_model::{
    ARCHITECTURE, Architecture, Features, Featurizer, Input, LABELS, ModelError, TOKENIZER,
    Tokenizer,
};

use crate::{
    Course, Example, Job, LearningError, REPLAY, Replay,
    checkpoint::Checkpoint,
    replay::Remembered,
    sampler::{self, Sampler},
};

/// Fairness groups that are told apart: those of the most examples.
const GROUPS: usize = 64;

/// The stream of random numbers that the replay buffer is filled by; epochs count up from 0.
const REPLAY_STREAM: u64 = u64::MAX;

/// One example with its class by index.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) features: Features,
    pub(crate) class: usize,
    pub(crate) weight: f32,
    /// Indices of [`Lesson::groups`].
    groups: Vec<usize>,
    /// Of the classes that there were when it was learnt first; empty when none were recorded.
    pub(crate) logits: Vec<f32>,
}

/// A job's data.
#[derive(Debug)]
pub(crate) struct Lesson {
    /// The champion's classes, then new ones by name.
    pub(crate) labels: Vec<Class>,
    /// How many of them the champion knows.
    pub(crate) known: usize,
    pub(crate) featurizer: Featurizer,
    /// Fairness groups as `name=value`, sorted.
    groups: Vec<String>,
    /// The window.
    pub(crate) fresh: Vec<Item>,
    /// What is replayed: the champion's buffer.
    pub(crate) before: Replay,
    /// What the new generation remembers.
    pub(crate) after: Replay,
    pub(crate) sampler: Sampler,
    pub(crate) steps: u64,
    /// Whether `max_steps` is why they are not more.
    pub(crate) cut: bool,
}

impl Lesson {
    /// Checks the examples, learns or reads the tokenizer, and makes features of the window.
    pub(crate) fn prepare(
        job: &Job,
        examples: &[Example],
        resumed: Option<&Checkpoint>,
    ) -> Result<Self, LearningError> {
        let course = job.recipe.course(job.kind);
        let newest = &examples[examples.len().saturating_sub(course.max_examples)..];
        check(newest)?;
        let champion = job.start.files();
        let old = champion.map(read_labels).transpose()?.unwrap_or_default();
        let known = old.len();
        let labels = with_new(old, newest);
        if labels.len() < 2 {
            let class = labels[0].clone();
            return Err(LearningError::OneClass { class, examples: newest.len() });
        }
        let featurizer = match champion {
            Some(files) => read_featurizer(files)?,
            None => new_featurizer(job, newest, resumed)?,
        };
        let before = match champion.and_then(|files| files.get(REPLAY)) {
            Some(bytes) if job.kind == JobKind::HotUpdate => Replay::from_bytes(bytes)?,
            _ => Replay::default(),
        };
        let after = match resumed.and_then(|checkpoint| checkpoint.files.get(REPLAY)) {
            Some(bytes) => Replay::from_bytes(bytes)?,
            None => remember(job, &before, newest),
        };
        let sampler = sampler(job, course, newest, &before);
        let wanted = sampler.steps() * course.epochs;
        let cut = course.max_steps > 0 && course.max_steps < wanted;
        let steps = if cut { course.max_steps } else { wanted };
        let groups = groups(newest, &before);
        let mut fresh = items(&featurizer, &labels, &groups, newest)?;
        balance(&mut fresh, labels.len(), course.balance);
        Ok(Self { labels, known, featurizer, groups, fresh, before, after, sampler, steps, cut })
    }

    /// Features of what is replayed, by index.
    pub(crate) fn recall(&self, chosen: &[usize]) -> Result<Vec<Item>, LearningError> {
        self.items_of(chosen.iter().map(|&at| &self.before.items()[at]))
    }

    /// Fairness groups of an example, as `name=value`.
    pub(crate) fn groups_of(&self, item: &Item) -> Vec<&str> {
        item.groups.iter().map(|&at| self.groups[at].as_str()).collect()
    }

    /// Features of remembered examples.
    pub(crate) fn items_of<'a>(
        &self,
        remembered: impl Iterator<Item = &'a Remembered> + Clone,
    ) -> Result<Vec<Item>, LearningError> {
        let inputs: Vec<Input> =
            remembered.clone().map(|item| Input { text: item.text.clone() }).collect();
        let features = self.featurizer.features_all(&inputs)?;
        let item = |(features, item): (Features, &Remembered)| {
            let class = self.labels.iter().position(|label| *label == item.class);
            // A buffer travels with the labels it was filled by.
            let class = class.expect("a remembered class is one of the champion's");
            let logits = item.logits.iter().map(|logit| logit.to_f32()).collect();
            let groups = indices(&self.groups, &item.groups);
            Item { features, class, weight: item.weight, groups, logits }
        };
        Ok(features.into_iter().zip(remembered).map(item).collect())
    }
}

fn check(examples: &[Example]) -> Result<(), LearningError> {
    if examples.is_empty() {
        return Err(LearningError::EmptyWindow);
    }
    match examples.iter().find(|e| !(e.weight.is_finite() && e.weight > 0.0)) {
        Some(e) => Err(LearningError::Weight { id: e.id.clone(), weight: e.weight }),
        None => Ok(()),
    }
}

fn with_new(mut labels: Vec<Class>, examples: &[Example]) -> Vec<Class> {
    let new: BTreeSet<&Class> =
        examples.iter().map(|e| &e.label).filter(|label| !labels.contains(label)).collect();
    let new: Vec<Class> = new.into_iter().cloned().collect();
    labels.extend(new);
    labels
}

fn file<'a>(
    files: &'a BTreeMap<String, Bytes>,
    name: &'static str,
) -> Result<&'a Bytes, LearningError> {
    Ok(files.get(name).ok_or(ModelError::MissingFile(name))?)
}

fn read_json<T: serde::de::DeserializeOwned>(
    files: &BTreeMap<String, Bytes>,
    name: &'static str,
) -> Result<T, LearningError> {
    serde_json::from_slice(file(files, name)?)
        .map_err(|e| ModelError::BadFile { file: name, reason: e.to_string() }.into())
}

fn read_labels(files: &BTreeMap<String, Bytes>) -> Result<Vec<Class>, LearningError> {
    read_json(files, LABELS)
}

fn read_featurizer(files: &BTreeMap<String, Bytes>) -> Result<Featurizer, LearningError> {
    let architecture: Architecture = read_json(files, ARCHITECTURE)?;
    architecture.validate()?;
    let tokenizer = Tokenizer::from_bytes(file(files, TOKENIZER)?)?;
    Ok(Featurizer { tokenizer, architecture })
}

/// A cold start learns its tokenizer, or finds it in its checkpoint.
fn new_featurizer(
    job: &Job,
    examples: &[Example],
    resumed: Option<&Checkpoint>,
) -> Result<Featurizer, LearningError> {
    let architecture = job.recipe.architecture.clone();
    let tokenizer = match resumed.and_then(|checkpoint| checkpoint.files.get(TOKENIZER)) {
        Some(bytes) => Tokenizer::from_bytes(bytes)?,
        None => {
            let texts: Vec<&str> = examples.iter().map(|e| e.input.text.as_str()).collect();
            Tokenizer::train(&texts, architecture.vocab)?
        }
    };
    Ok(Featurizer { tokenizer, architecture })
}

/// The most common pairs of name and value, sorted.
fn groups(examples: &[Example], before: &Replay) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let remembered = before.items().iter().map(|item| &item.groups);
    for groups in examples.iter().map(|example| &example.groups).chain(remembered) {
        for pair in groups {
            *counts.entry(group(pair)).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(GROUPS);
    let mut groups: Vec<String> = counts.into_iter().map(|(group, _)| group).collect();
    groups.sort_unstable();
    groups
}

fn group((name, value): (&String, &String)) -> String {
    format!("{name}={value}")
}

fn indices(groups: &[String], of: &BTreeMap<String, String>) -> Vec<usize> {
    of.iter().filter_map(|pair| groups.binary_search(&group(pair)).ok()).collect()
}

fn items(
    featurizer: &Featurizer,
    labels: &[Class],
    groups: &[String],
    examples: &[Example],
) -> Result<Vec<Item>, LearningError> {
    let index: BTreeMap<&Class, usize> = labels.iter().zip(0..).collect();
    let mut items = Vec::with_capacity(examples.len());
    // By chunks, so that texts are not all there twice.
    for chunk in examples.chunks(1_024) {
        let inputs: Vec<Input> = chunk.iter().map(|e| e.input.clone()).collect();
        let features = featurizer.features_all(&inputs)?;
        items.extend(chunk.iter().zip(features).map(|(example, features)| Item {
            features,
            class: index[&example.label],
            weight: example.weight,
            groups: indices(groups, &example.groups),
            logits: Vec::new(),
        }));
    }
    Ok(items)
}

/// Multiplies weights by `share^-exponent` of their class, and keeps their sum.
fn balance(items: &mut [Item], classes: usize, exponent: f64) {
    let sum = |items: &[Item]| items.iter().map(|item| f64::from(item.weight)).sum::<f64>();
    let total = sum(items);
    let mut of_class = vec![0.0; classes];
    for item in &*items {
        of_class[item.class] += f64::from(item.weight);
    }
    for item in &mut *items {
        item.weight *= (of_class[item.class] / total).powf(-exponent) as f32;
    }
    let scale = (total / sum(items)) as f32;
    items.iter_mut().for_each(|item| item.weight *= scale);
}

fn remember(job: &Job, before: &Replay, examples: &[Example]) -> Replay {
    let rehearsal = &job.recipe.rehearsal;
    let mut rng = sampler::rng(job.seed, REPLAY_STREAM);
    let mut replay = before.clone();
    replay.balance_by(&rehearsal.balance_by);
    for example in examples {
        replay.offer(Remembered::new(example, rehearsal.text_bytes), rehearsal, &mut rng);
    }
    replay
}

fn sampler(job: &Job, course: &Course, examples: &[Example], before: &Replay) -> Sampler {
    let share = job.recipe.rehearsal.share;
    let replay = if share > 0.0 { before.items() } else { &[] };
    Sampler {
        fresh: examples.iter().map(|e| e.input.text.len()).collect(),
        replay: replay.iter().map(|item| item.text.len()).collect(),
        batch: course.batch,
        share,
        seed: job.seed,
    }
}
