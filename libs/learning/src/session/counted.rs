//! What a session counts beside what it learns by steps.
//!
//! A generation's weights have the evidence of counts in them, so that serving knows nothing of
//! counts. Steps are taken without it: a path to which words look known that were only counted would
//! not learn them.
use std::collections::BTreeMap;

use burn::module::AutodiffModule as _;
use bytes::Bytes;
use tidegate_contracts::JobKind;
use tidegate_model::{COUNTS, Counts, Kernels, ModelError, Task, Weights};

use crate::{
    Job, LearningError, Trains,
    checkpoint::Checkpoint,
    counting::{Logits, recount},
    lesson::{Item, Lesson},
    teacher::{self, ASK},
};

/// Counts of a generation.
pub(super) struct Counted {
    counts: Counts,
    /// As a file.
    pub(super) file: Bytes,
    /// Whether the weights have them already, as they stay what they are.
    in_rows: bool,
}

impl Counted {
    /// The champion's, of a job that leaves its wide path as it is.
    pub(super) fn champion(job: &Job, lesson: &Lesson) -> Result<Option<Self>, LearningError> {
        let of =
            |(file, counts): (&Bytes, Counts)| Self { counts, file: file.clone(), in_rows: true };
        Ok(of_champion(job, lesson, lesson.outputs())?.map(of))
    }

    /// Those with the window; a checkpoint has them already. `champion`: what the job begins with,
    /// without evidence; nothing in a cold start.
    pub(super) fn window<B: Trains>(
        job: &Job,
        lesson: &Lesson,
        resumed: Option<&Checkpoint>,
        champion: Option<&Weights<B>>,
        device: &B::Device,
    ) -> Result<Option<Self>, LearningError> {
        let of = |counts: Counts, file: Bytes| Some(Self { counts, file, in_rows: false });
        if let Some(checkpoint) = resumed {
            let Some(file) = checkpoint.files.get(COUNTS) else { return Ok(None) };
            return Ok(of(read(lesson, lesson.labels.len(), file)?, file.clone()));
        }
        if !counts(job, lesson) {
            return Ok(None);
        }
        let smoothing = job.recipe.counting.smoothing as f32;
        let before = of_champion(job, lesson, lesson.labels.len())?.map(|(_, counts)| counts);
        let champion = champion.map(|weights| Weights::<B::InnerBackend> {
            network: weights.network.valid(),
            wide: weights.wide.clone(),
        });
        let asked = champion.map(|weights| {
            move |items: &[&Item]| -> Vec<f32> {
                let parts = items.chunks(ASK);
                parts.flat_map(|part| teacher::logits::<B>(&weights, part, device)).collect()
            }
        });
        let champion = asked.as_ref().map(|asked| asked as &Logits<'_>);
        let counts = recount(before, smoothing, lesson, champion);
        let file = counts.to_safetensors()?.into();
        Ok(of(counts, file))
    }

    /// Weights of the champion, of its classes or more, as they learn: without what was counted. Where
    /// the job counts nothing they keep it, as if it were learnt by steps.
    pub(super) fn out_of<B: Kernels>(
        weights: Weights<B>,
        job: &Job,
        lesson: &Lesson,
    ) -> Result<Weights<B>, LearningError> {
        let old = if counts(job, lesson) {
            of_champion(job, lesson, weights.wide.classes())?
        } else {
            None
        };
        Ok(match old {
            Some((_, counts)) => weights.without(&counts),
            None => weights,
        })
    }

    /// Weights as they answer.
    pub(super) fn into<B: Kernels>(&self, weights: Weights<B>) -> Weights<B> {
        if self.in_rows { weights } else { weights.with(&self.counts) }
    }

    pub(super) fn heat(&self) -> f32 {
        self.counts.heat
    }

    pub(super) fn scale(&self) -> f32 {
        self.counts.scale
    }
}

/// Whether a job whose wide path learns counts: classes are counted, and levels, which have
/// neighbours, are not.
fn counts(job: &Job, lesson: &Lesson) -> bool {
    job.recipe.counting.smoothing > 0.0 && lesson.task() == Task::Classification
}

/// The champion's counts, of so many classes. None of a job in another domain: what was counted
/// elsewhere stays in the rows as if it were learnt by steps, and counting begins anew.
fn of_champion<'a>(
    job: &'a Job,
    lesson: &Lesson,
    classes: usize,
) -> Result<Option<(&'a Bytes, Counts)>, LearningError> {
    let files: Option<&BTreeMap<String, Bytes>> =
        job.start.files().filter(|_| job.kind != JobKind::Transfer);
    match files.and_then(|files| files.get(COUNTS)) {
        Some(file) => Ok(Some((file, read(lesson, classes, file)?))),
        None => Ok(None),
    }
}

fn read(lesson: &Lesson, classes: usize, file: &Bytes) -> Result<Counts, ModelError> {
    Counts::from_safetensors(&lesson.featurizer.architecture, classes, file)
}
