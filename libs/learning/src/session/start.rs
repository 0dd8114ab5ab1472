//! A champion's weights, made fit for a job: for its classes, and for what learns in it.
use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_model::{
    ADAPTER_WEIGHTS, ADAPTERS, ARCHITECTURE, Adapters, Architecture, Batch, ExpertLoad, Features,
    ModelError, WEIGHTS, Weights,
};

use crate::{Expansion, LearningError, Method, Train, Trains, lesson::Lesson, teacher::ASK};

/// Texts of the window that say which experts it needs most.
const SURVEYED: usize = 4 * ASK;

/// What a session starts from, as files that [`Start::read`] takes.
pub(super) struct Start {
    /// Which adapters the network has.
    pub(super) adapters: Adapters,
    /// Whether they are the champion's, and not fresh ones.
    pub(super) continued: bool,
    /// The base. With adapters that learn it is the champion's own file, unless others had to be
    /// folded into it first.
    pub(super) weights: Bytes,
    pub(super) adapter_weights: Option<Bytes>,
    /// How far new experts are to be raised until tokens are sent to them; nothing without any.
    pub(super) closed_by: Option<f32>,
}

impl Start {
    pub(super) fn of<B: Trains>(
        files: &BTreeMap<String, Bytes>,
        lesson: &Lesson,
        method: &Method,
        seed: u64,
        device: &B::Device,
    ) -> Result<Self, LearningError> {
        let old = adapters_of(files)?;
        let grows = lesson.known < lesson.labels.len();
        if method.train != Train::Adapters {
            return Self::without::<B>(files, lesson, old, (&method.expansion, seed), device);
        }
        let adapters = method.adapters;
        if grows && !adapters.head {
            return Err(refused("head", "false", "the window has new classes: they need a head"));
        }
        let base = file(files, WEIGHTS)?.clone();
        let fresh = |weights: Bytes| {
            let (continued, adapter_weights, closed_by) = (false, None, None);
            Self { adapters, continued, weights, adapter_weights, closed_by }
        };
        if old.is_empty() && !lesson.is_relabelled() {
            return Ok(fresh(base));
        }
        if old != adapters || lesson.is_relabelled() {
            if old.prefix > 0 {
                let need = "the champion's prefix cannot be folded into its weights: go on with \
                            the adapters that it has, or from an earlier champion";
                return Err(refused("prefix", &adapters.prefix.to_string(), need));
            }
            let mut champion = champion::<B>(files, lesson, device)?;
            champion.network = champion.network.folded();
            if lesson.is_relabelled() {
                champion = champion.relabel(&lesson.all_columns());
            }
            return Ok(fresh(champion.to_safetensors()?.into()));
        }
        let own = if grows {
            let champion = champion::<B>(files, lesson, device)?.grow_labels(lesson.labels.len());
            champion.adapters_to_safetensors(&adapters)?.into()
        } else {
            file(files, ADAPTER_WEIGHTS)?.clone()
        };
        let adapter_weights = Some(own);
        Ok(Self { adapters, continued: true, weights: base, adapter_weights, closed_by: None })
    }

    /// For a job that trains no adapters: those of the champion are folded in. A prefix cannot be,
    /// and stays.
    fn without<B: Trains>(
        files: &BTreeMap<String, Bytes>,
        lesson: &Lesson,
        old: Adapters,
        (expansion, seed): (&Expansion, u64),
        device: &B::Device,
    ) -> Result<Self, LearningError> {
        let adapters = Adapters { prefix: old.prefix, ..Adapters::default() };
        let same_labels = lesson.known == lesson.labels.len() && !lesson.is_relabelled();
        if old.is_empty() && same_labels && lesson.added == 0 {
            let weights = file(files, WEIGHTS)?.clone();
            let (adapter_weights, closed_by) = (None, None);
            return Ok(Self { adapters, continued: true, weights, adapter_weights, closed_by });
        }
        // On the plain backend: a tracked tensor cannot be joined to a new parameter.
        let mut weights = champion::<B>(files, lesson, device)?;
        weights.network = weights.network.folded();
        if lesson.is_relabelled() {
            weights = weights.relabel(&lesson.all_columns());
        } else if !same_labels {
            weights = weights.grow_labels(lesson.labels.len());
        }
        let mut closed_by = None;
        if lesson.added > 0 {
            let loads = survey::<B>(&weights, lesson, device);
            let grown = &lesson.featurizer.architecture;
            let grown = weights.network.grow_experts(grown, &loads, expansion.noise, seed);
            weights.network = grown.network;
            closed_by = Some(grown.closed_by);
        }
        let adapter_weights = if adapters.is_empty() {
            None
        } else {
            Some(weights.adapters_to_safetensors(&adapters)?.into())
        };
        let weights = weights.to_safetensors()?.into();
        Ok(Self { adapters, continued: true, weights, adapter_weights, closed_by })
    }

    /// Weights of all the lesson's classes; with the adapters of a checkpoint where there is one.
    pub(super) fn read<B: Trains>(
        &self,
        lesson: &Lesson,
        resumed: Option<&BTreeMap<String, Bytes>>,
        seed: u64,
        device: &B::Device,
    ) -> Result<Weights<B>, LearningError> {
        let (base, own) = match resumed {
            // The base of adapters that learn is no part of a checkpoint: it never changes.
            Some(files) => {
                (files.get(WEIGHTS).unwrap_or(&self.weights), files.get(ADAPTER_WEIGHTS))
            }
            None => (&self.weights, self.adapter_weights.as_ref()),
        };
        let files = (&base[..], own.map(|bytes| &bytes[..]));
        let (architecture, classes) = (&lesson.featurizer.architecture, lesson.outputs());
        Ok(Weights::with_adapters(architecture, &self.adapters, classes, files, seed, device)?)
    }
}

/// The champion as it is.
pub(super) fn champion<B: Trains>(
    files: &BTreeMap<String, Bytes>,
    lesson: &Lesson,
    device: &B::Device,
) -> Result<Weights<B::InnerBackend>, LearningError> {
    let architecture: Architecture = serde_json::from_slice(file(files, ARCHITECTURE)?)
        .map_err(|e| ModelError::BadFile { file: ARCHITECTURE, reason: e.to_string() })?;
    let classes = architecture.outputs(lesson.of_champion);
    let adapters = adapters_of(files)?;
    let own = if adapters.is_empty() { None } else { Some(&file(files, ADAPTER_WEIGHTS)?[..]) };
    let files = (&file(files, WEIGHTS)?[..], own);
    Ok(Weights::with_adapters(&architecture, &adapters, classes, files, 0, device)?)
}

/// Which share of the window each expert gets, layer by layer: of texts spread over all of it.
fn survey<B: Trains>(
    weights: &Weights<B::InnerBackend>,
    lesson: &Lesson,
    device: &B::Device,
) -> Vec<ExpertLoad> {
    let every = lesson.fresh.len().div_ceil(SURVEYED);
    let chosen: Vec<&Features> =
        lesson.fresh.iter().step_by(every).map(|item| &item.features).collect();
    let mut sums: Vec<ExpertLoad> = Vec::new();
    for texts in chosen.chunks(ASK) {
        let loads = weights.network.forward(&Batch::new(texts, device)).loads;
        if sums.is_empty() {
            sums = loads;
            continue;
        }
        for (sum, load) in sums.iter_mut().zip(loads) {
            sum.0.iter_mut().zip(load.0).for_each(|(sum, share)| *sum += share);
        }
    }
    sums
}

/// Those of a generation; none without a file.
fn adapters_of(files: &BTreeMap<String, Bytes>) -> Result<Adapters, LearningError> {
    let Some(bytes) = files.get(ADAPTERS) else { return Ok(Adapters::default()) };
    serde_json::from_slice(bytes)
        .map_err(|e| ModelError::BadFile { file: ADAPTERS, reason: e.to_string() }.into())
}

pub(super) fn file<'a>(
    files: &'a BTreeMap<String, Bytes>,
    name: &'static str,
) -> Result<&'a Bytes, LearningError> {
    Ok(files.get(name).ok_or(ModelError::MissingFile(name))?)
}

fn refused(field: &str, value: &str, need: &'static str) -> LearningError {
    let field = format!("method.adapters.{field}");
    LearningError::Recipe { field, value: value.to_owned(), need }
}
