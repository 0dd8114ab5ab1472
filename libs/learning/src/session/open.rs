//! Where a session begins: from a checkpoint, a champion or nothing.
use std::collections::{BTreeMap, HashMap};

use burn::module::AutodiffModule as _;
use bytes::Bytes;
use tidegate_model::{Adapters, Modality, WEIGHTS, Weights};

use super::{
    Session,
    counted::Counted,
    start::{Start, champion as read_champion, file},
};
use crate::{
    Course, DIAGNOSIS, Expansion, FISHER, Job, LearningError, Method, OPTIMIZER, Train, Trains,
    checkpoint::{Checkpoint, Position},
    diagnosis::Diagnosis,
    lesson::Lesson,
    named::{self, Named},
    optimizer::{DeepOptimizer, Kept, LossScaler, freeze},
    teacher::Teacher,
    tether::Tether,
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
        let recipe = &job.recipe;
        let champion = job.start.files();
        // From scratch everything has to be learnt.
        let method = match champion {
            Some(_) => recipe.method(job.kind).clone(),
            None => Method {
                train: Train::Full,
                expansion: Expansion::default(),
                ..recipe.method.clone()
            },
        };
        let train = method.train;
        let mut course = recipe.course(job.kind).clone();
        if !wide_learns(lesson, &method, &course) {
            course.deep_every = 1;
        }
        let start = match champion {
            Some(files) => Some(Start::of::<B>(files, lesson, &method, job.seed, &device)?),
            None => None,
        };
        let (architecture, classes) = (&lesson.featurizer.architecture, lesson.outputs());
        let mut weights: Weights<B> = match (&resumed, &start) {
            (resumed, Some(start)) => {
                let resumed = resumed.as_ref().map(|checkpoint| &checkpoint.files);
                start.read(lesson, resumed, job.seed, &device)?
            }
            (Some(checkpoint), None) => {
                let bytes = file(&checkpoint.files, WEIGHTS)?;
                Weights::from_safetensors(architecture, classes, bytes, &device)?
            }
            (None, None) => match &lesson.pretrained {
                Some(pretrained) => pretrained.weights(architecture, classes, job.seed, &device)?,
                None => Weights::init(architecture, classes, job.seed, &device),
            },
        };
        let learns_by_steps =
            course.wide_rate > 0.0 && method.includes("wide.rows") && lesson.task().has_labels();
        if learns_by_steps && resumed.is_none() {
            weights = Counted::out_of(weights, job, lesson)?;
        }
        weights.network = freeze(weights.network, &method).computing_in(recipe.precision.compute);
        let parts = matches!(train, Train::FrozenExperts | Train::NewExperts);
        let kept = (parts && champion.is_some()).then(|| Kept::of(&method, architecture));
        let mut optimizer = DeepOptimizer::new(&course).keeping(kept.clone());
        if let Some(state) = optimizer_state(champion, resumed.as_ref())? {
            // State of adapters that were folded away is of no use to fresh ones of the same name.
            let stale = resumed.is_none() && start.as_ref().is_some_and(|start| !start.continued);
            // Columns of other classes may have the same shape by chance.
            let relabelled = resumed.is_none() && lesson.is_relabelled();
            let learns = |name: &str| {
                let other = (stale && Adapters::own(name)) || (relabelled && is_head(name));
                method.includes(name) && !other
            };
            optimizer = optimizer.load(&weights.network, state, learns)?;
        }
        let mut fisher = match champion.and_then(|files| files.get(FISHER)) {
            Some(bytes) if recipe.ewc.weight > 0.0 => {
                named::from_bytes(FISHER, &weights.network.valid(), bytes)?
            }
            _ => Named::new(),
        };
        fisher.retain(|name, _| !(lesson.is_relabelled() && is_head(name)));
        // Grown routers have columns elsewhere; the experts' own were of another shape already.
        fisher.retain(|name, _| !(lesson.added > 0 && name.contains(".mixture.router")));
        let tether = match &start {
            Some(start) if Tether::<B>::is_needed(recipe) => {
                let mut start: Weights<B> = start.read(lesson, None, job.seed, &device)?;
                if learns_by_steps {
                    start = Counted::out_of(start, job, lesson)?;
                }
                Some(Tether::new(&start.network.valid(), fisher.clone(), recipe))
            }
            _ => None,
        };
        let teacher = match champion.filter(|_| Teacher::<B>::is_needed(lesson, recipe)) {
            Some(files) => {
                let mut teacher = read_champion::<B>(files, lesson, &device)?;
                if learns_by_steps {
                    teacher = Counted::out_of(teacher, job, lesson)?;
                }
                teacher.network = teacher.network.folded();
                if lesson.is_relabelled() {
                    teacher = teacher.relabel(&lesson.all_columns()[..lesson.known]);
                }
                Some(teacher)
            }
            None => None,
        };
        let counted = if learns_by_steps {
            let champion = champion.map(|_| &weights);
            Counted::window(job, lesson, resumed.as_ref(), champion, &device)?
        } else {
            Counted::champion(job, lesson)?
        };
        let adapters = start.as_ref().map(|start| start.adapters).unwrap_or_default();
        let opens_by = start.as_ref().and_then(|start| start.closed_by);
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
            kept,
            opens_by,
            optimizer,
            teacher: Teacher::new(teacher, lesson, recipe),
            tether,
            fisher,
            recalled: HashMap::new(),
            position,
            diagnosis,
            load_max: 0.0,
            replay: lesson.after.to_bytes().into(),
            counted,
        })
    }
}

fn is_head(name: &str) -> bool {
    name.starts_with("head.")
}

/// Whether steps of the wide path alone can teach what the job is for: it knows words and features,
/// no pictures and no sounds, and labels, no next tokens.
fn wide_learns(lesson: &Lesson, method: &Method, course: &Course) -> bool {
    let read = &lesson.featurizer.architecture.modalities;
    course.wide_rate > 0.0
        && method.includes("wide.rows")
        && lesson.task().has_labels()
        && !read.contains(&Modality::Image)
        && !read.contains(&Modality::Audio)
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
