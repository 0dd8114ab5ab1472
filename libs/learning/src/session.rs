//! The loop.
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use bytes::Bytes;
use tidegate_contracts::ArtifactHash;
use tidegate_model::{
    ARCHITECTURE, Batch, Features, LABELS, Learns, ModelError, TOKENIZER, WEIGHTS, Weights,
};
use tidegate_telemetry::energy::{EnergyMeter, Measurement};
use tokio_util::sync::CancellationToken;

use crate::{
    CheckpointDir, Course, Example, Job, LearningError, OPTIMIZER, Observer, Progress, REPLAY,
    checkpoint::{Checkpoint, Stats, fingerprint},
    lesson::{Item, Lesson},
    loss::{self, Targets},
    optimizer::DeepOptimizer,
    sampler::Step,
    writer::Writer,
};

/// Weight of a new step in the averaged loss.
const AVERAGE: f64 = 0.1;

/// Texts that the champion is asked about at a time.
const TEACH: usize = 32;

/// What a finished session leaves.
pub(crate) struct Outcome {
    pub(crate) files: BTreeMap<String, Bytes>,
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// A remembered example, and what the champion said of it.
struct Recalled {
    item: Item,
    /// Softened, by the new label set; nothing when nothing is distilled.
    answer: Vec<f32>,
}

/// Weights in training.
pub(crate) struct Session<'a, B: Learns> {
    job: &'a Job,
    lesson: &'a Lesson,
    course: &'a Course,
    device: B::Device,
    weights: Weights<B>,
    optimizer: DeepOptimizer<B>,
    /// The champion as it was; only where something is distilled.
    teacher: Option<Weights<B::InnerBackend>>,
    recalled: HashMap<usize, Recalled>,
    step: u64,
    stats: Stats,
}

impl<'a, B: Learns> Session<'a, B> {
    /// From a checkpoint, a champion or nothing.
    pub(crate) fn open(
        job: &'a Job,
        lesson: &'a Lesson,
        resumed: Option<Checkpoint>,
        device: B::Device,
    ) -> Result<Self, LearningError> {
        let course = job.recipe.course(job.kind);
        let architecture = &lesson.featurizer.architecture;
        let classes = lesson.labels.len();
        let champion = job.start.files();
        let bytes = champion.map(|f| f.get(WEIGHTS).ok_or(ModelError::MissingFile(WEIGHTS)));
        let bytes = bytes.transpose()?;
        let read = |classes, bytes: &[u8]| {
            Weights::<B>::from_safetensors(architecture, classes, bytes, &device)
        };
        let mut optimizer = DeepOptimizer::new(course);
        let (mut step, mut stats) = (0, Stats::default());
        let weights = if let Some(checkpoint) = &resumed {
            (step, stats) = (checkpoint.head.step, checkpoint.head.stats.clone());
            let file = |name| checkpoint.files.get(name).ok_or(ModelError::MissingFile(name));
            let weights = read(classes, file(WEIGHTS)?)?;
            optimizer = optimizer.load(&weights.network, file(OPTIMIZER)?)?;
            weights
        } else if let Some(bytes) = bytes {
            let weights = if lesson.known == classes {
                read(classes, bytes)?
            } else {
                // On the plain backend: a tracked tensor cannot be joined to a new parameter.
                let old = Weights::<B::InnerBackend>::from_safetensors(
                    architecture,
                    lesson.known,
                    bytes,
                    &device,
                )?;
                read(classes, &old.grow_labels(classes).to_safetensors()?)?
            };
            if let Some(state) = champion.and_then(|files| files.get(OPTIMIZER)) {
                optimizer = optimizer.load(&weights.network, state)?;
            }
            weights
        } else {
            Weights::init(architecture, classes, job.seed, &device)
        };
        let distils = job.recipe.distillation.weight > 0.0 && !lesson.before.is_empty();
        let teacher = match bytes.filter(|_| distils) {
            Some(bytes) => {
                Some(Weights::from_safetensors(architecture, lesson.known, bytes, &device)?)
            }
            None => None,
        };
        let recalled = HashMap::new();
        Ok(Self { job, lesson, course, device, weights, optimizer, teacher, recalled, step, stats })
    }

    /// To the end, or to the next step after `cancel`.
    pub(crate) fn run(
        &mut self,
        checkpoints: &CheckpointDir,
        examples: &[Example],
        mut clock: Clock<'_>,
        observer: &mut dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Outcome, LearningError> {
        let fingerprint = fingerprint(self.job, examples);
        let writer = Writer::start(checkpoints.clone());
        clock.go_on_from(&self.stats);
        let per_epoch = self.lesson.sampler.steps();
        let mut plan: (Option<u64>, Vec<Step>) = (None, Vec::new());
        while self.step < self.lesson.steps {
            if cancel.is_cancelled() {
                clock.note(&mut self.stats);
                writer.insist(self.checkpoint(fingerprint)?);
                report(writer.finish()?, observer);
                return Err(LearningError::Cancelled { step: self.step });
            }
            let (epoch, at) = (self.step / per_epoch, (self.step % per_epoch) as usize);
            if plan.0 != Some(epoch) {
                plan = (Some(epoch), self.lesson.sampler.epoch(epoch));
                self.recall(&plan.1)?;
            }
            let load_max = self.learn(&plan.1[at])?;
            self.step += 1;
            self.stats.seconds = clock.seconds();
            observer.progress(&self.progress(&clock, load_max));
            if clock.is_due(self.step, self.job) {
                clock.note(&mut self.stats);
                writer.offer(self.checkpoint(fingerprint)?);
            }
            report(writer.done()?, observer);
            if self.stats.seconds > self.course.max_seconds {
                tracing::warn!(
                    job = %self.job.id, step = self.step, steps = self.lesson.steps,
                    "training ends early: its max_seconds are over",
                );
                break;
            }
        }
        clock.note(&mut self.stats);
        report(writer.finish()?, observer);
        Ok(Outcome { files: self.files()?, metrics: self.metrics(&clock) })
    }

    /// One step of both paths. Returns the fullest expert's share.
    fn learn(&mut self, step: &Step) -> Result<f64, LearningError> {
        let lesson = self.lesson;
        let fresh: Vec<&Item> = step.fresh.iter().map(|&at| &lesson.fresh[at]).collect();
        let replayed: Vec<&Recalled> = step.replayed.iter().map(|at| &self.recalled[at]).collect();
        let targets = self.targets(&fresh, &replayed);
        let items = || fresh.iter().copied().chain(replayed.iter().map(|r| &r.item));
        let features: Vec<&Features> = items().map(|item| &item.features).collect();
        let wide = self.weights.wide.logits(&features);
        let network = &self.weights.network;
        let pass = loss::pass(network, &features, wide, &targets, self.course, &self.device);
        if !pass.loss.is_finite() {
            return Err(LearningError::Diverged { step: self.step, loss: pass.loss });
        }
        let annealed = anneal(self.step, lesson.steps, self.course);
        if self.course.wide_rate > 0.0 {
            // The sum over the batch, not the mean: Adagrad's first steps then have the same length
            // whatever the size of the batch, and a new word is learnt from one text.
            let scale = features.len() as f32;
            let gradient: Vec<f32> = pass.wide_gradient.iter().map(|g| g * scale).collect();
            let rate = (self.course.wide_rate * annealed) as f32;
            self.weights.wide.update(&features, &gradient, rate);
        }
        if self.course.deep_rate > 0.0 {
            let network = self.weights.network.clone();
            let network =
                self.optimizer.step(network, pass.gradients, self.course.deep_rate * annealed);
            let step_size = (self.job.recipe.balancing.step * annealed) as f32;
            self.weights.network = network.balance(&pass.loads, step_size);
        }
        let load_max = pass.loads.iter().flat_map(|load| &load.0).copied().fold(0.0, f32::max);
        let stats = &mut self.stats;
        stats.examples += features.len() as u64;
        stats.tokens += features.iter().map(|f| f.tokens.len() as u64).sum::<u64>();
        stats.load_max_sum += f64::from(load_max);
        let loss = f64::from(pass.loss);
        stats.loss = Some(stats.loss.map_or(loss, |average| average + AVERAGE * (loss - average)));
        Ok(f64::from(load_max))
    }

    fn targets(&self, fresh: &[&Item], replayed: &[&Recalled]) -> Targets {
        let classes = self.lesson.labels.len();
        let distillation = &self.job.recipe.distillation;
        let t = distillation.temperature as f32;
        let items = || fresh.iter().copied().chain(replayed.iter().map(|r| &r.item));
        let total: f32 = items().map(|item| item.weight).sum();
        let mut label = vec![0.0; (fresh.len() + replayed.len()) * classes];
        for (row, item) in label.chunks_exact_mut(classes).zip(items()) {
            row[item.class] = item.weight / total;
        }
        if self.teacher.is_none() || replayed.is_empty() {
            return Targets { hard: label.clone(), label, soft: None, temperature: t };
        }
        let share = distillation.weight as f32;
        let mut hard = label.clone();
        let mut soft = vec![0.0; label.len()];
        let start = fresh.len() * classes;
        hard[start..].iter_mut().for_each(|value| *value *= 1.0 - share);
        for (row, recalled) in soft[start..].chunks_exact_mut(classes).zip(replayed) {
            let weight = share * recalled.item.weight / total;
            for (cell, answer) in row.iter_mut().zip(&recalled.answer) {
                *cell = weight * answer;
            }
        }
        Targets { label, hard, soft: Some(soft), temperature: t }
    }

    /// Makes features of what an epoch replays, and asks the champion about it.
    fn recall(&mut self, steps: &[Step]) -> Result<(), LearningError> {
        let mut missing: Vec<usize> = steps.iter().flat_map(|s| s.replayed.clone()).collect();
        missing.retain(|at| !self.recalled.contains_key(at));
        missing.sort_unstable();
        missing.dedup();
        let items = self.lesson.recall(&missing)?;
        for (at, items) in missing.chunks(TEACH).zip(items.chunks(TEACH)) {
            let answers = self.answers(items);
            for ((&at, item), answer) in at.iter().zip(items).zip(answers) {
                self.recalled.insert(at, Recalled { item: item.clone(), answer });
            }
        }
        Ok(())
    }

    /// What the champion says, softened, with no belief in classes it does not know.
    fn answers(&self, items: &[Item]) -> Vec<Vec<f32>> {
        let Some(teacher) = &self.teacher else { return vec![Vec::new(); items.len()] };
        let features: Vec<&Features> = items.iter().map(|item| &item.features).collect();
        let wide = teacher.wide.logits(&features);
        let batch = Batch::new(&features, &self.device).with_wide(wide, self.lesson.known);
        let logits = teacher.network.forward(&batch).logits.into_data().convert::<f32>();
        let logits: Vec<f32> = logits.into_vec().expect("converted to f32 in the line above");
        let t = self.job.recipe.distillation.temperature as f32;
        let answer = |logits: &[f32]| {
            let mut answer = loss::softened(logits, t);
            answer.resize(self.lesson.labels.len(), 0.0);
            answer
        };
        logits.chunks_exact(self.lesson.known).map(answer).collect()
    }

    fn progress(&self, clock: &Clock<'_>, load_max: f64) -> Progress {
        Progress {
            step: self.step,
            steps: self.lesson.steps,
            loss: self.stats.loss.unwrap_or_default(),
            examples_per_s: clock.rate(self.stats.examples),
            expert_load_max_share: load_max,
        }
    }

    fn checkpoint(&self, fingerprint: ArtifactHash) -> Result<Checkpoint, LearningError> {
        let files = self.files()?;
        Ok(Checkpoint::new(self.job, fingerprint, self.step, self.stats.clone(), files))
    }

    fn files(&self) -> Result<BTreeMap<String, Bytes>, LearningError> {
        let lesson = self.lesson;
        let json = |value: serde_json::Result<Vec<u8>>| value.expect("plain structs are JSON");
        let files = [
            (ARCHITECTURE, json(serde_json::to_vec_pretty(&lesson.featurizer.architecture))),
            (LABELS, json(serde_json::to_vec(&lesson.labels))),
            (TOKENIZER, lesson.featurizer.tokenizer.to_bytes()?),
            (WEIGHTS, self.weights.to_safetensors()?),
            (OPTIMIZER, self.optimizer.to_bytes(&self.weights.network)?),
            (REPLAY, lesson.after.to_bytes()),
        ];
        Ok(files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect())
    }

    fn metrics(&self, clock: &Clock<'_>) -> BTreeMap<String, f64> {
        let stats = &self.stats;
        let fresh = self.lesson.fresh.len() as f64;
        // A metric is a number, so the method is a part of a name.
        let method = format!("energy_method.{}", clock.meter.method().as_str());
        let values = [
            (method.as_str(), 1.0),
            ("energy_joules", stats.joules),
            ("loss", stats.loss.unwrap_or_default()),
            ("steps", self.step as f64),
            ("examples", stats.examples as f64),
            ("window_examples", fresh),
            ("replay_examples", self.lesson.after.len() as f64),
            ("tokens", stats.tokens as f64),
            ("seconds", stats.seconds),
            ("examples_per_s", stats.examples as f64 / stats.seconds.max(1e-9)),
            ("expert_load_max_share", stats.load_max_sum / (self.step as f64).max(1.0)),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn report(written: Vec<(u64, ArtifactHash)>, observer: &mut dyn Observer) {
    for (step, digest) in written {
        observer.checkpoint(step, digest);
    }
}

/// Share of the highest rate: a straight rise, then a half cosine.
fn anneal(step: u64, steps: u64, course: &Course) -> f64 {
    let rise = (steps as f64 * course.warm_up).floor();
    let at = step as f64;
    if at < rise {
        return (at + 1.0) / (rise + 1.0);
    }
    let way = (at - rise) / (steps as f64 - rise).max(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * way).cos());
    course.final_rate + (1.0 - course.final_rate) * cosine
}

/// Time and energy of this attempt, added to that of those before.
pub(crate) struct Clock<'a> {
    meter: &'a EnergyMeter,
    stretch: Option<Measurement<'a>>,
    began: Instant,
    before: Stats,
    last_checkpoint: Instant,
}

impl<'a> Clock<'a> {
    pub(crate) fn start(meter: &'a EnergyMeter) -> Self {
        let (began, stretch) = (Instant::now(), Some(meter.start()));
        Self { meter, stretch, began, before: Stats::default(), last_checkpoint: began }
    }

    fn go_on_from(&mut self, before: &Stats) {
        self.before = before.clone();
    }

    /// Adds what was used since the last call.
    fn note(&mut self, stats: &mut Stats) {
        stats.seconds = self.seconds();
        let stretch = self.stretch.replace(self.meter.start());
        let energy = stretch.expect("a stretch is always running").stop();
        stats.joules += energy.joules.map_or(0.0, |joules| joules.0);
    }

    /// Of all attempts.
    fn seconds(&self) -> f64 {
        self.before.seconds + self.began.elapsed().as_secs_f64()
    }

    fn rate(&self, examples: u64) -> f64 {
        (examples - self.before.examples) as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    fn is_due(&mut self, step: u64, job: &Job) -> bool {
        let every = &job.recipe.checkpoints;
        let by_steps = every.steps > 0 && step.is_multiple_of(every.steps);
        let by_time =
            every.seconds > 0.0 && self.last_checkpoint.elapsed().as_secs_f64() >= every.seconds;
        let due = by_steps || by_time;
        if due {
            self.last_checkpoint = Instant::now();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_then_fall_to_the_final_share() {
        let course = crate::Recipe::default().cold_start;
        let rates: Vec<f64> = (0..100).map(|step| anneal(step, 100, &course)).collect();
        let top = rates.iter().position(|&rate| rate >= 1.0).unwrap();
        assert!(rates[..top].is_sorted() && rates[top..].is_sorted_by(|a, b| a >= b));
        assert!(rates[0] > 0.0 && (rates[99] - course.final_rate).abs() < 0.01);
        assert!(anneal(0, 1, &course) > 0.0);
    }
}
