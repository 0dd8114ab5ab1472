//! What one job learns from, as the network sees it.
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use tidegate_contracts::{Class, Domain, EventId, FeatureValue, JobKind, Part};
use tidegate_model::{
    ARCHITECTURE, Architecture, FEATURE_SCALES, Features, Featurizer, Input, LABELS, Modality,
    ModelError, Pretrained, Scales, TOKENIZER, Task, Tokenizer,
};

use crate::{
    BalanceBy, Course, Example, Job, LearningError, NewLabels, REPLAY, Replay,
    checkpoint::Checkpoint,
    held_back::hold_back,
    levels::{Learnt, levels},
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
    /// Of a number that of the nearest level; 0 where no labels are learnt.
    pub(crate) class: usize,
    /// Of a number how likely each level should be called; empty where a class is learnt.
    pub(crate) target: Vec<f32>,
    pub(crate) weight: f32,
    /// Indices of [`Lesson::groups`].
    groups: Vec<usize>,
    /// Of the classes that there were when it was learnt first; empty when none were recorded.
    pub(crate) logits: Vec<f32>,
}

/// A job's data.
#[derive(Debug)]
pub(crate) struct Lesson {
    /// The champion's classes, or those of them that are kept, then new ones by name; levels where
    /// numbers are learnt, and none where next tokens are.
    pub(crate) labels: Vec<Class>,
    /// What these stand for where numbers are learnt.
    pub(crate) levels: Option<Learnt>,
    /// How many of them the champion knows: the first ones.
    pub(crate) known: usize,
    /// For each of those, the champion's index.
    pub(crate) columns: Vec<usize>,
    /// Classes of the champion, kept or not.
    pub(crate) of_champion: usize,
    /// Routed experts that this job adds to each layer.
    pub(crate) added: usize,
    /// With the architecture of the generation.
    pub(crate) featurizer: Featurizer,
    /// What fresh weights are made from; nothing where they are noise, or are there already.
    pub(crate) pretrained: Option<Pretrained>,
    /// Fairness groups as `name=value`, sorted.
    groups: Vec<String>,
    /// The window.
    pub(crate) fresh: Vec<Item>,
    /// Its part that is not learnt from; of a transfer.
    pub(crate) held_back: Vec<Item>,
    /// Its numbers, where numbers are learnt.
    pub(crate) held_numbers: Vec<f64>,
    /// Its domains, with the examples of each.
    pub(crate) domains: BTreeMap<Domain, usize>,
    /// Examples of the window that the network cannot read.
    pub(crate) unread: usize,
    /// What is replayed: the champion's buffer.
    pub(crate) before: Replay,
    /// What the new generation remembers.
    pub(crate) after: Replay,
    pub(crate) sampler: Sampler,
    /// What each class's weights are multiplied by.
    balance: Vec<f32>,
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
        let task = match champion {
            Some(files) => read_json::<Architecture>(files, ARCHITECTURE)?.task,
            None => job.recipe.architecture.task,
        };
        let (newest, no_number) = learnable(job, task, newest)?;
        let newest = &newest[..];
        let transfer = &job.recipe.transfer;
        let share = if job.kind == JobKind::Transfer { transfer.held_back } else { 0.0 };
        let (learnt, held) = if share > 0.0 {
            let (learnt, held) = hold_back(newest, share, job.seed, task);
            (Cow::Owned(learnt), held)
        } else {
            (Cow::Borrowed(newest), Vec::new())
        };
        let (featurizer, pretrained, added) = match champion {
            Some(files) => {
                let mut featurizer = read_featurizer(files, &learnt)?;
                let is_transfer = job.kind == JobKind::Transfer;
                let name = if is_transfer { "transfer.method" } else { "method" };
                let expansion = &job.recipe.method(job.kind).expansion;
                let (architecture, added) = expansion.of(featurizer.architecture, name)?;
                featurizer.architecture = architecture;
                (featurizer, None, added)
            }
            None => {
                let (featurizer, pretrained) = new_featurizer(job, &learnt, resumed)?;
                (featurizer, pretrained, 0)
            }
        };
        if task == Task::NextToken {
            refuse_what_needs_classes(job)?;
        }
        let Window { examples: learnt, features, unread, first } =
            Window::read(job, &featurizer, &learnt)?;
        if let (true, Some((id, error))) = (learnt.is_empty(), first) {
            return Err(LearningError::Unread { examples: unread, id, source: error });
        }
        let held = Window::read(job, &featurizer, &held)?;
        let learnt = &learnt[..];
        let all: Vec<&Example> = learnt.iter().chain(&held.examples).copied().collect();
        let old = champion.map(read_labels).transpose()?.unwrap_or_default();
        let of_champion = old.len();
        let (labels, columns) = match task {
            Task::Classification => labels(job, old, &all),
            Task::Regression => {
                let columns = (0..old.len()).collect();
                (levels(old, numbers(&all), &job.recipe.regression)?, columns)
            }
            Task::NextToken => (Vec::new(), Vec::new()),
        };
        let known = columns.len();
        if task.has_labels() && labels.len() < 2 {
            let (class, examples) = (labels[0].clone(), all.len());
            return Err(match task {
                Task::Regression => LearningError::OneNumber { number: class, examples },
                _ => LearningError::OneClass { class, examples },
            });
        }
        let levels = match task {
            Task::Regression => Some(Learnt::new(&labels, &numbers(&all), &job.recipe.regression)?),
            _ => None,
        };
        let mut before = match champion.and_then(|files| files.get(REPLAY)) {
            Some(bytes) if job.kind == JobKind::HotUpdate || transfer.keep_replay => {
                Replay::from_bytes(bytes)?
            }
            _ => Replay::default(),
        };
        if known < of_champion {
            before.keep_classes(&labels);
        }
        before.forget(&job.without);
        let after = match resumed.and_then(|checkpoint| checkpoint.files.get(REPLAY)) {
            Some(bytes) => Replay::from_bytes(bytes)?,
            None => remember(job, &before, &all, &featurizer),
        };
        let sampler = sampler(job, course, learnt, &before, &featurizer);
        let wanted = sampler.steps() * course.epochs;
        let cut = course.max_steps > 0 && course.max_steps < wanted;
        let steps = if cut { course.max_steps } else { wanted };
        let groups = groups(&all, &before);
        let names = Names::new(&labels, levels.as_ref(), &groups);
        let mut fresh = names.items(features, learnt);
        let held_back = names.items(held.features, &held.examples);
        let held_numbers = if levels.is_some() { numbers(&held.examples) } else { Vec::new() };
        let balance = if task == Task::Classification {
            let index: BTreeMap<&Class, usize> = labels.iter().zip(0..).collect();
            let replayed = before.items().iter().map(|item| (index[&item.class], item.weight));
            let new = shares(fresh.iter().map(|item| (item.class, item.weight)), labels.len());
            let shares = mixed(&new, &shares(replayed, labels.len()), sampler.replayed());
            balance(&shares, course.balance)
        } else {
            vec![1.0; labels.len().max(1)]
        };
        fresh.iter_mut().for_each(|item| item.weight *= balance[item.class]);
        let mut domains = BTreeMap::new();
        for example in &all {
            *domains.entry(example.domain.clone()).or_default() += 1;
        }
        Ok(Self {
            labels,
            levels,
            known,
            columns,
            of_champion,
            added,
            featurizer,
            pretrained,
            groups,
            fresh,
            held_back,
            held_numbers,
            domains,
            unread: unread + held.unread + no_number,
            before,
            after,
            sampler,
            balance,
            steps,
            cut,
        })
    }

    /// What is learnt.
    pub(crate) fn task(&self) -> Task {
        self.featurizer.architecture.task
    }

    /// Columns of the network's head.
    pub(crate) fn outputs(&self) -> usize {
        self.featurizer.architecture.outputs(self.labels.len())
    }

    /// Whether the champion's columns are not simply those of the first classes.
    pub(crate) fn is_relabelled(&self) -> bool {
        self.known < self.of_champion
    }

    /// The champion's index of each class; nothing for a new one.
    pub(crate) fn all_columns(&self) -> Vec<Option<usize>> {
        let new = std::iter::repeat_n(None, self.labels.len() - self.known);
        self.columns.iter().copied().map(Some).chain(new).collect()
    }

    fn names(&self) -> Names<'_> {
        Names::new(&self.labels, self.levels.as_ref(), &self.groups)
    }

    /// Features of other examples of its classes, of those that can be read.
    pub(crate) fn features_of(
        &self,
        job: &Job,
        examples: &[Example],
    ) -> Result<Vec<Item>, LearningError> {
        let window = Window::read(job, &self.featurizer, examples)?;
        Ok(self.names().items(window.features, &window.examples))
    }

    /// An example's weight without that of its class.
    pub(crate) fn own_weight(&self, item: &Item) -> f32 {
        item.weight / self.balance[item.class]
    }

    /// Features of what is replayed, by index.
    pub(crate) fn recall(&self, chosen: &[usize]) -> Result<Vec<Item>, LearningError> {
        let mut items = self.items_of(chosen.iter().map(|&at| &self.before.items()[at]))?;
        items.iter_mut().for_each(|item| item.weight *= self.balance[item.class]);
        Ok(items)
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
        let inputs: Vec<&Input> = remembered.clone().map(|item| &item.input).collect();
        let features = self.featurizer.features_all(&inputs)?;
        let names = self.names();
        let item = |(features, item): (Features, &Remembered)| {
            // A buffer travels with the labels it was filled by.
            let (class, target) = names.answer(&item.class);
            let logits = item.logits.iter().map(|logit| logit.to_f32()).collect();
            let groups = indices(&self.groups, &item.groups);
            Item { features, class, target, weight: item.weight, groups, logits }
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

/// What is defined by classes.
fn refuse_what_needs_classes(job: &Job) -> Result<(), LearningError> {
    let recipe = &job.recipe;
    if job.kind == JobKind::Transfer {
        let need = "a transfer is measured by classes: where next tokens are learnt, order a hot \
                    update over the other domain";
        let (field, value) = ("architecture.task".to_owned(), "next_token".to_owned());
        return Err(LearningError::Recipe { field, value, need });
    }
    for (field, value) in [
        ("distillation.fresh_weight", recipe.distillation.fresh_weight),
        ("der.alpha", recipe.der.alpha),
        ("ewc.weight", recipe.ewc.weight),
    ] {
        if value > 0.0 {
            let need = "only classes are learnt so: 0 is needed where next tokens are";
            let (field, value) = (field.to_owned(), value.to_string());
            return Err(LearningError::Recipe { field, value, need });
        }
    }
    Ok(())
}

/// The classes of the generation, and the champion's index of those that it knows, which come first.
fn labels(job: &Job, old: Vec<Class>, examples: &[&Example]) -> (Vec<Class>, Vec<usize>) {
    let is_there: BTreeSet<&Class> = examples.iter().map(|example| &example.label).collect();
    let shared: Vec<usize> = (0..old.len()).filter(|&at| is_there.contains(&old[at])).collect();
    let replaces = match job.recipe.transfer.labels {
        _ if job.kind != JobKind::Transfer => false,
        NewLabels::Append => false,
        NewLabels::Replace => true,
        NewLabels::Auto => shared.is_empty(),
    };
    let columns: Vec<usize> = if replaces { shared } else { (0..old.len()).collect() };
    let kept = columns.iter().map(|&at| old[at].clone()).collect();
    (with_new(kept, examples), columns)
}

fn with_new(mut labels: Vec<Class>, examples: &[&Example]) -> Vec<Class> {
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

/// The champion's, with scales of the features that are new in the window.
fn read_featurizer(
    files: &BTreeMap<String, Bytes>,
    examples: &[Example],
) -> Result<Featurizer, LearningError> {
    let architecture: Architecture = read_json(files, ARCHITECTURE)?;
    architecture.validate()?;
    let tokenizer = Tokenizer::from_bytes(file(files, TOKENIZER)?)?;
    let mut featurizer = Featurizer::new(tokenizer, architecture);
    if featurizer.architecture.modalities.contains(&Modality::Features) {
        let old = Scales::from_bytes(file(files, FEATURE_SCALES)?)?;
        featurizer.scales = Arc::new(old.learn(tables(examples)));
    }
    Ok(featurizer)
}

/// All tabular features of a window.
fn tables(examples: &[Example]) -> impl Iterator<Item = &BTreeMap<String, FeatureValue>> {
    examples.iter().flat_map(|example| &example.input.parts).filter_map(|part| match part {
        Part::Features(values) => Some(values),
        _ => None,
    })
}

/// One in so many examples must have a kind of part for a cold start to read it.
const ONE_IN: usize = 100;

/// Kinds of parts that enough of the window has, as far as the recipe gives them a size.
fn found<'a>(
    architecture: &'a Architecture,
    examples: &'a [Example],
) -> impl Iterator<Item = Modality> + 'a {
    Modality::ALL.into_iter().filter(move |&modality| {
        let has = |example: &&Example| {
            example.input.parts.iter().any(|part| Modality::of(part) == Some(modality))
        };
        let count = examples.iter().filter(has).count();
        count > 0 && count * ONE_IN >= examples.len() && architecture.can_read(modality)
    })
}

/// What of a window the network can read.
struct Window<'a> {
    examples: Vec<&'a Example>,
    features: Vec<Features>,
    unread: usize,
    /// The first of those, and why.
    first: Option<(EventId, ModelError)>,
}

impl<'a> Window<'a> {
    /// Leaves out, with a warning, what cannot be read: one broken picture is no reason to learn
    /// nothing.
    fn read(
        job: &Job,
        featurizer: &Featurizer,
        newest: &'a [Example],
    ) -> Result<Self, LearningError> {
        let mut window =
            Self { examples: Vec::new(), features: Vec::new(), unread: 0, first: None };
        let inputs: Vec<&Input> = newest.iter().map(|example| &example.input).collect();
        for (example, features) in newest.iter().zip(featurizer.features_each(&inputs)) {
            match features {
                Ok(features) => {
                    window.examples.push(example);
                    window.features.push(features);
                }
                Err(error) if error.is_of_input() => {
                    window.unread += 1;
                    window.first.get_or_insert_with(|| (example.id.clone(), error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some((id, error)) = &window.first {
            let unread = window.unread;
            tracing::warn!(job = %job.id, unread, %id, %error, "examples cannot be read");
        }
        Ok(window)
    }
}

/// A cold start reads the kinds of parts that its window has. It learns its tokenizer, or takes its
/// encoder's, which comes along; one that goes on finds all in its checkpoint.
fn new_featurizer(
    job: &Job,
    examples: &[Example],
    resumed: Option<&Checkpoint>,
) -> Result<(Featurizer, Option<Pretrained>), LearningError> {
    if let Some(checkpoint) = resumed {
        return Ok((read_featurizer(&checkpoint.files, examples)?, None));
    }
    let wanted = &job.recipe.architecture;
    let (mut architecture, tokenizer, pretrained) = match &job.recipe.encoder {
        Some(encoder) => {
            let pretrained = encoder.read()?;
            let architecture = pretrained.architecture(wanted, &encoder.upcycling)?;
            let tokenizer = pretrained.tokenizer(architecture.context)?;
            (architecture, tokenizer, Some(pretrained))
        }
        None => {
            let texts: Vec<_> = examples.iter().map(|e| e.input.texts()).collect();
            let tokenizer = Tokenizer::train(&texts, wanted.tokenizer_vocab())?;
            (wanted.clone(), tokenizer, None)
        }
    };
    if architecture.task.has_labels() {
        architecture.modalities.extend(found(wanted, examples));
    }
    let mut featurizer = Featurizer::new(tokenizer, architecture);
    if featurizer.architecture.modalities.contains(&Modality::Features) {
        featurizer.scales = Arc::new(Scales::default().learn(tables(examples)));
    }
    Ok((featurizer, pretrained))
}

/// The most common pairs of name and value, sorted.
fn groups(examples: &[&Example], before: &Replay) -> Vec<String> {
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

/// What labels and groups are to the network.
struct Names<'a> {
    /// Of classes.
    index: BTreeMap<&'a Class, usize>,
    levels: Option<&'a Learnt>,
    groups: &'a [String],
}

impl<'a> Names<'a> {
    fn new(labels: &'a [Class], levels: Option<&'a Learnt>, groups: &'a [String]) -> Self {
        Self { index: labels.iter().zip(0..).collect(), levels, groups }
    }

    /// Index of a label, and of a number how likely each level should be called.
    fn answer(&self, label: &Class) -> (usize, Vec<f32>) {
        match self.levels {
            Some(levels) => levels.answer(label),
            None if self.index.is_empty() => (0, Vec::new()),
            None => (self.index[label], Vec::new()),
        }
    }

    fn items(&self, features: Vec<Features>, examples: &[&Example]) -> Vec<Item> {
        let item = |(example, features): (&&Example, Features)| {
            let (class, target) = self.answer(&example.label);
            let groups = indices(self.groups, &example.groups);
            Item { features, class, target, weight: example.weight, groups, logits: Vec::new() }
        };
        examples.iter().zip(features).map(item).collect()
    }
}

/// The examples that this task can learn from, and how many others there are.
fn learnable<'a>(
    job: &Job,
    task: Task,
    examples: &'a [Example],
) -> Result<(Cow<'a, [Example]>, usize), LearningError> {
    let is_other = |example: &&Example| example.label.number().is_none();
    let Some(first) = examples.iter().find(is_other).filter(|_| task == Task::Regression) else {
        return Ok((Cow::Borrowed(examples), 0));
    };
    let kept: Vec<Example> = examples.iter().filter(|one| !is_other(one)).cloned().collect();
    let others = examples.len() - kept.len();
    let Example { id, label, .. } = first;
    if kept.is_empty() {
        let (id, label) = (id.clone(), label.clone());
        return Err(LearningError::NoNumber { examples: others, id, label });
    }
    tracing::warn!(job = %job.id, others, %id, %label, "labels that are no numbers are left out");
    Ok((Cow::Owned(kept), others))
}

/// Of labels that are numbers, all of them.
fn numbers(examples: &[&Example]) -> Vec<f64> {
    examples.iter().filter_map(|example| example.label.number()).collect()
}

/// Each class's share of the weights; all 0 of nothing.
fn shares(weights: impl Iterator<Item = (usize, f32)>, classes: usize) -> Vec<f64> {
    let mut shares = vec![0.0; classes];
    for (class, weight) in weights {
        shares[class] += f64::from(weight);
    }
    let total = shares.iter().sum::<f64>();
    if total > 0.0 {
        shares.iter_mut().for_each(|share| *share /= total);
    }
    shares
}

/// Those of batches of which so large a part is replayed.
fn mixed(fresh: &[f64], replayed: &[f64], part: f64) -> Vec<f64> {
    fresh.iter().zip(replayed).map(|(f, r)| (1.0 - part) * f + part * r).collect()
}

/// What the weights of each class are multiplied by: `share^-exponent`, scaled so that all weights
/// together stay what they were.
fn balance(shares: &[f64], exponent: f64) -> Vec<f32> {
    let raised = |share: &f64| if *share > 0.0 { share.powf(-exponent) } else { 0.0 };
    let sum: f64 = shares.iter().map(|share| share * raised(share)).sum();
    shares.iter().map(|share| (raised(share) / sum) as f32).collect()
}

fn remember(job: &Job, before: &Replay, examples: &[&Example], featurizer: &Featurizer) -> Replay {
    let mut rehearsal = job.recipe.rehearsal.clone();
    if featurizer.architecture.task == Task::Regression {
        // Nearly every number is a class of its own.
        rehearsal.balance_by.retain(|by| *by != BalanceBy::Class);
    }
    let rehearsal = &rehearsal;
    let mut rng = sampler::rng(job.seed, REPLAY_STREAM);
    let mut replay = before.clone();
    replay.balance_by(&rehearsal.balance_by);
    for example in examples {
        let remembered = Remembered::new(example, rehearsal);
        // A picture that no bound can hold is not remembered.
        if featurizer.reads(&remembered.input) {
            replay.offer(remembered, rehearsal, &mut rng);
        }
    }
    replay
}

fn sampler(
    job: &Job,
    course: &Course,
    examples: &[&Example],
    before: &Replay,
    featurizer: &Featurizer,
) -> Sampler {
    let share = job.recipe.rehearsal.share;
    let replay = if share > 0.0 { before.items() } else { &[] };
    Sampler {
        fresh: examples.iter().map(|e| featurizer.length(&e.input)).collect(),
        replay: replay.iter().map(|item| featurizer.length(&item.input)).collect(),
        batch: course.batch,
        share,
        seed: job.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rare_class_counts_for_more_and_all_together_for_the_same() {
        let new = shares([(0, 1.0), (0, 2.0), (1, 1.0)].into_iter(), 3);
        assert_eq!(new, [0.75, 0.25, 0.0]);
        let old = shares([(2, 1.0)].into_iter(), 3);
        let both = mixed(&new, &old, 0.5);
        assert_eq!(both, [0.375, 0.125, 0.5]);
        for exponent in [0.0, 0.5, 1.0] {
            let factors = balance(&both, exponent);
            let mass: f64 = both.iter().zip(&factors).map(|(s, f)| s * f64::from(*f)).sum();
            assert!((mass - 1.0).abs() < 1e-6, "{exponent}: {factors:?}");
        }
        // At 1 every class is alike.
        let alike = balance(&both, 1.0);
        assert!((both[0] * f64::from(alike[0]) - both[2] * f64::from(alike[2])).abs() < 1e-6);
        // Nothing replayed: the window alone decides; a class that is not there has no weight.
        assert_eq!(balance(&mixed(&new, &shares([].into_iter(), 3), 0.0), 0.5)[2], 0.0);
    }
}
