//! Where a session begins: from a checkpoint, a champion or nothing.
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use burn::module::AutodiffModule as _;
use bytes::Bytes;
use tidegate_model::{ModelError, WEIGHTS, Weights};

use super::Session;
use crate::{
    DIAGNOSIS, FISHER, Job, LearningError, OPTIMIZER, Train, Trains,
    anchor::Anchor,
    checkpoint::{Checkpoint, Position},
    diagnosis::Diagnosis,
    lesson::Lesson,
    named::{self, Named},
    optimizer::{DeepOptimizer, LossScaler, freeze},
    teacher::Teacher,
};

type Files = BTreeMap<String, Bytes>;

impl<'a, B: Trains> Session<'a, B> {
    /// From a checkpoint, a champion or nothing.
    pub(crate) fn open(
        job: &'a Job,
        lesson: &'a Lesson,
        resumed: Option<Checkpoint>,
        device: B::Device,
    ) -> Result<Self, LearningError> {
        let (recipe, course) = (&job.recipe, job.recipe.course(job.kind));
        let champion = job.start.files();
        // From scratch everything has to be learnt.
        let train = if champion.is_some() { recipe.method.train } else { Train::Full };
        let start = match champion {
            Some(files) => Some(grown::<B>(files, lesson, &device)?),
            None => None,
        };
        let mut weights = match (&resumed, &start) {
            (Some(checkpoint), _) => read::<B>(lesson, file(&checkpoint.files, WEIGHTS)?, &device)?,
            (None, Some(start)) => read::<B>(lesson, start, &device)?,
            (None, None) => {
                let (architecture, classes) =
                    (&lesson.featurizer.architecture, lesson.labels.len());
                Weights::init(architecture, classes, job.seed, &device)
            }
        };
        weights.network = freeze(weights.network, train);
        let mut optimizer = DeepOptimizer::new(course);
        if let Some(state) = optimizer_state(champion, resumed.as_ref())? {
            optimizer = optimizer.load(&weights.network, state, |name| train.includes(name))?;
        }
        let fisher = match champion.and_then(|files| files.get(FISHER)) {
            Some(bytes) if recipe.ewc.weight > 0.0 => {
                named::from_bytes(FISHER, &weights.network.valid(), bytes)?
            }
            _ => Named::new(),
        };
        let anchor = match &start {
            Some(start) if Anchor::<B>::is_needed(recipe) => {
                let start = read::<B>(lesson, start, &device)?.network.valid();
                Some(Anchor::new(&start, fisher.clone(), recipe))
            }
            _ => None,
        };
        let teacher = match champion.filter(|_| Teacher::<B>::is_needed(lesson, recipe)) {
            Some(files) => Some(known::<B>(files, lesson, &device)?),
            None => None,
        };
        let position = match &resumed {
            Some(checkpoint) => checkpoint.head.position.clone(),
            None => Position::start(recipe.precision.scales().then(LossScaler::default)),
        };
        let diagnosis = match &resumed {
            Some(checkpoint) => Diagnosis::from_bytes(file(&checkpoint.files, DIAGNOSIS)?)?,
            None => Diagnosis::start(position.scaler.map(LossScaler::scale)),
        };
        Ok(Self {
            job,
            lesson,
            course,
            train,
            peak: Some(recipe.diagnosis.peak_flops).filter(|&peak| peak > 0.0),
            device,
            weights,
            optimizer,
            teacher: Teacher::new(teacher, lesson, recipe),
            anchor,
            fisher,
            recalled: HashMap::new(),
            position,
            diagnosis,
            replay: lesson.after.to_bytes().into(),
        })
    }
}

fn file<'a>(files: &'a Files, name: &'static str) -> Result<&'a Bytes, LearningError> {
    Ok(files.get(name).ok_or(ModelError::MissingFile(name))?)
}

/// That of the checkpoint; else the champion's, if it has one.
fn optimizer_state<'a>(
    champion: Option<&'a Files>,
    resumed: Option<&'a Checkpoint>,
) -> Result<Option<&'a Bytes>, LearningError> {
    match resumed {
        Some(checkpoint) => file(&checkpoint.files, OPTIMIZER).map(Some),
        None => Ok(champion.and_then(|files| files.get(OPTIMIZER))),
    }
}

/// Weights of all the lesson's classes.
fn read<B: Trains>(
    lesson: &Lesson,
    bytes: &[u8],
    device: &B::Device,
) -> Result<Weights<B>, LearningError> {
    let architecture = &lesson.featurizer.architecture;
    Ok(Weights::from_safetensors(architecture, lesson.labels.len(), bytes, device)?)
}

/// The champion as it is.
fn known<B: Trains>(
    files: &Files,
    lesson: &Lesson,
    device: &B::Device,
) -> Result<Weights<B::InnerBackend>, LearningError> {
    let architecture = &lesson.featurizer.architecture;
    Ok(Weights::from_safetensors(architecture, lesson.known, file(files, WEIGHTS)?, device)?)
}

/// The champion's weights file, with the lesson's new classes appended.
fn grown<'a, B: Trains>(
    files: &'a Files,
    lesson: &Lesson,
    device: &B::Device,
) -> Result<Cow<'a, [u8]>, LearningError> {
    if lesson.known == lesson.labels.len() {
        return Ok(Cow::Borrowed(file(files, WEIGHTS)?));
    }
    // On the plain backend: a tracked tensor cannot be joined to a new parameter.
    let weights = known::<B>(files, lesson, device)?.grow_labels(lesson.labels.len());
    Ok(Cow::Owned(weights.to_safetensors()?))
}
