//! Where a session begins: from a checkpoint, a champion or nothing.
use std::collections::{BTreeMap, HashMap};

use burn::module::AutodiffModule as _;
use bytes::Bytes;
use tidegate_model::{Adapters, WEIGHTS, Weights};

use super::{
    Session,
    start::{Start, champion as read_champion, file},
};
use crate::{
    DIAGNOSIS, FISHER, Job, LearningError, Method, OPTIMIZER, Train, Trains,
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
        let method = Method { train, ..recipe.method.clone() };
        let start = match champion {
            Some(files) => Some(Start::of::<B>(files, lesson, &method, &device)?),
            None => None,
        };
        let (architecture, classes) = (&lesson.featurizer.architecture, lesson.labels.len());
        let mut weights: Weights<B> = match (&resumed, &start) {
            (resumed, Some(start)) => {
                let resumed = resumed.as_ref().map(|checkpoint| &checkpoint.files);
                start.read(lesson, resumed, job.seed, &device)?
            }
            (Some(checkpoint), None) => {
                let bytes = file(&checkpoint.files, WEIGHTS)?;
                Weights::from_safetensors(architecture, classes, bytes, &device)?
            }
            (None, None) => Weights::init(architecture, classes, job.seed, &device),
        };
        weights.network = freeze(weights.network, &method);
        let mut optimizer = DeepOptimizer::new(course);
        if let Some(state) = optimizer_state(champion, resumed.as_ref())? {
            // State of adapters that were folded away is of no use to fresh ones of the same name.
            let stale = resumed.is_none() && start.as_ref().is_some_and(|start| !start.continued);
            let learns = |name: &str| method.includes(name) && !(stale && Adapters::own(name));
            optimizer = optimizer.load(&weights.network, state, learns)?;
        }
        let fisher = match champion.and_then(|files| files.get(FISHER)) {
            Some(bytes) if recipe.ewc.weight > 0.0 => {
                named::from_bytes(FISHER, &weights.network.valid(), bytes)?
            }
            _ => Named::new(),
        };
        let anchor = match &start {
            Some(start) if Anchor::<B>::is_needed(recipe) => {
                let start: Weights<B> = start.read(lesson, None, job.seed, &device)?;
                Some(Anchor::new(&start.network.valid(), fisher.clone(), recipe))
            }
            _ => None,
        };
        let teacher = match champion.filter(|_| Teacher::<B>::is_needed(lesson, recipe)) {
            Some(files) => {
                let mut teacher = read_champion::<B>(files, lesson, &device)?;
                teacher.network = teacher.network.folded();
                Some(teacher)
            }
            None => None,
        };
        let adapters = start.as_ref().map(|start| start.adapters).unwrap_or_default();
        let base = start.filter(|_| train == Train::Adapters).map(|start| start.weights);
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
            method,
            peak: Some(recipe.diagnosis.peak_flops).filter(|&peak| peak > 0.0),
            device,
            weights,
            adapters,
            base,
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
