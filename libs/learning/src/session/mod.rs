//! The loop.
mod counted;
mod open;
mod outcome;
mod probe;
mod start;
mod transfer;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Instant,
};

use bytes::Bytes;
use tidegate_contracts::{ArtifactHash, JobKind};
use tidegate_model::{Adapters, ExpertLoad, Features, Network, Task, WEIGHTS, Weights};
use tokio_util::sync::CancellationToken;

use self::counted::Counted;
pub(crate) use self::{outcome::Outcome, probe::Prepared};
use crate::{
    CheckpointDir, Course, Example, Job, LearningError, Method, Observer, TRANSFER, Train, Trains,
    checkpoint::{Checkpoint, Position, fingerprint},
    clock::{Clock, exhausted},
    diagnosis::{Diagnosis, Norms, flops},
    lesson::{Item, Lesson},
    loss::{self, Pass, Setting},
    named::Named,
    optimizer::{DeepOptimizer, Kept},
    sampler::Step,
    successor,
    teacher::{self, ASK, Recalled, Rows, Teacher},
    tether::Tether,
    writer::Writer,
};

/// Weight of a new step in the averaged loss.
const AVERAGE: f64 = 0.1;

/// Seconds after which a job takes the time to measure its device; a shorter one does at its end, so
/// that a killed one is back at its steps at once.
const MEASURED_AFTER: f64 = 5.0;

/// How far to go, and where checkpoints are handed to.
#[derive(Clone, Copy)]
struct Way<'a> {
    until: u64,
    fingerprint: ArtifactHash,
    writer: &'a Writer,
}

/// Weights in training.
pub(crate) struct Session<'a, B: Trains> {
    job: &'a Job,
    lesson: &'a Lesson,
    course: Course,
    /// What learns in this job.
    method: Method,
    device: B::Device,
    weights: Weights<B>,
    adapters: Adapters,
    /// The file of what lies below adapters that learn: it stays as it is.
    base: Option<Bytes>,
    /// The experts that keep their bits; only where no more than new ones learn.
    kept: Option<Kept>,
    /// How far the routing biases of new experts are raised in the first steps.
    opens_by: Option<f32>,
    optimizer: DeepOptimizer<B>,
    teacher: Teacher<B>,
    /// What pulls the weights back; only where the recipe says so.
    tether: Option<Tether<B>>,
    /// The champion's Fisher information.
    fisher: Named<B::InnerBackend>,
    recalled: HashMap<usize, Rc<Recalled>>,
    position: Position,
    diagnosis: Diagnosis,
    /// The fullest expert's share, for an observer.
    load_max: f64,
    /// FLOP/s that the device can do, once it is known.
    peak: Option<f64>,
    /// The new replay buffer as a file, without what this job's end adds.
    replay: Bytes,
    /// What was counted, the window included; nothing where nothing is.
    counted: Option<Counted>,
}

impl<B: Trains> Session<'_, B> {
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
        let transfers = self.job.kind == JobKind::Transfer;
        if transfers && self.position.step == 0 {
            self.position.stats.transfer = self.shots(false);
        }
        let way = Way { until: self.lesson.steps, fingerprint, writer: &writer };
        let gone = self.go(&way, &mut clock, observer, cancel);
        let (ended_by, writer) = unless_cancelled(gone, writer, observer)?;
        let mut files = self.last_files()?;
        let mut after = BTreeMap::new();
        if transfers {
            after = self.shots(true);
            files.insert(TRANSFER.to_owned(), self.transfer_report(&after).into());
        }
        clock.note(&mut self.position.stats);
        outcome::report(writer.finish()?, observer);
        let mut metrics = self.metrics(&clock, ended_by);
        metrics.extend(self.position.stats.transfer.clone());
        metrics.extend(after);
        for (name, value) in metrics.iter().filter(|(name, _)| name.starts_with("transfer.")) {
            tracing::info!(job = %self.job.id, name, value, "on what was held back");
        }
        Ok(Outcome { files, metrics })
    }

    /// To a step on the way, with a checkpoint there. The next session goes on from it.
    pub(crate) fn run_to(
        &mut self,
        until: u64,
        checkpoints: &CheckpointDir,
        examples: &[Example],
        mut clock: Clock<'_>,
        observer: &mut dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<(), LearningError> {
        let fingerprint = fingerprint(self.job, examples);
        let writer = Writer::start(checkpoints.clone());
        let way = Way { until, fingerprint, writer: &writer };
        let before = self.position.step;
        let gone = self.go(&way, &mut clock, observer, cancel);
        let (_, writer) = unless_cancelled(gone, writer, observer)?;
        if self.position.step > before {
            clock.note(&mut self.position.stats);
            writer.insist(self.checkpoint(fingerprint)?);
        }
        outcome::report(writer.finish()?, observer);
        Ok(())
    }

    /// Steps up to `way.until`. Says which budget ended it, or cut its steps.
    fn go(
        &mut self,
        way: &Way<'_>,
        clock: &mut Clock<'_>,
        observer: &mut dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Option<&'static str>, LearningError> {
        let Way { until, fingerprint, writer } = *way;
        clock.go_on_from(&self.position.stats);
        let per_epoch = self.lesson.sampler.steps();
        let mut plan: (Option<u64>, Vec<Step>) = (None, Vec::new());
        while self.position.step < until {
            let step = self.position.step;
            if cancel.is_cancelled() {
                clock.note(&mut self.position.stats);
                writer.insist(self.checkpoint(fingerprint)?);
                return Err(LearningError::Cancelled { step });
            }
            let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize);
            if plan.0 != Some(epoch) {
                plan = (Some(epoch), self.lesson.sampler.epoch(epoch));
                self.recall(&plan.1)?;
            }
            let load_max = self.learn(&plan.1[at])?;
            self.position.step += 1;
            clock.tick(&mut self.position.stats);
            if self.peak.is_none() && self.position.stats.seconds > MEASURED_AFTER {
                self.peak = Some(self.measured_peak());
            }
            observer.progress(&self.progress(clock, load_max));
            if clock.is_due(self.position.step, self.job) {
                clock.note(&mut self.position.stats);
                let began = Instant::now();
                writer.offer(self.checkpoint(fingerprint)?);
                clock.paused(began.elapsed(), &mut self.position.stats);
            }
            outcome::report(writer.done()?, observer);
            if let Some(budget) = exhausted(&self.position.stats, &self.course) {
                tracing::warn!(
                    job = %self.job.id, step = self.position.step, steps = self.lesson.steps,
                    budget, "training ends early: a budget is used up",
                );
                return Ok(Some(budget));
            }
        }
        Ok(self.lesson.cut.then_some("max_steps"))
    }

    /// FLOP/s that the device can do in the format that this job computes in.
    fn measured_peak(&self) -> f64 {
        flops::peak::<B::InnerBackend>(&self.device, self.job.recipe.precision.compute)
    }

    /// One step. Returns the fullest expert's share in the last one that the deep path took part in.
    fn learn(&mut self, step: &Step) -> Result<f64, LearningError> {
        if self.course.is_deep(self.position.step) {
            self.load_max = self.learn_both(step)?;
        } else {
            self.learn_wide(step)?;
        }
        self.open_experts();
        Ok(self.load_max)
    }

    /// Raises the routing biases of new experts to where tokens are sent to them, a part in each step
    /// of the rates' rise, whatever else the step did.
    fn open_experts(&mut self) {
        let opening = rise(self.lesson.steps, &self.course).max(1.0);
        let opens = (self.position.step as f64) < opening && self.course.deep_rate > 0.0;
        if let Some(by) = self.opens_by.filter(|_| opens) {
            let new: Vec<usize> =
                self.lesson.featurizer.architecture.new_experts(self.lesson.added).collect();
            let network = self.weights.network.clone();
            self.weights.network = network.open_experts(&new, by / opening as f32);
        }
    }

    /// One step of the wide path alone.
    fn learn_wide(&mut self, step: &Step) -> Result<(), LearningError> {
        let lesson = self.lesson;
        let replayed: Vec<Rc<Recalled>> =
            step.replayed.iter().map(|at| Rc::clone(&self.recalled[at])).collect();
        let fresh = step.fresh.iter().map(|&at| &lesson.fresh[at]);
        let items: Vec<&Item> = fresh.chain(replayed.iter().map(|r| &r.item)).collect();
        let features: Vec<&Features> = items.iter().map(|item| &item.features).collect();
        let classes = lesson.labels.len();
        let label = teacher::labels(&items, classes);
        let wide = self.weights.wide.logits(&features);
        let (loss, gradient) = loss::wide_alone(&wide, &label, classes);
        if !loss.is_finite() {
            return Err(LearningError::Diverged { step: self.position.step, loss });
        }
        let stats = &mut self.position.stats;
        stats.examples += features.len() as u64;
        average(&mut stats.loss, f64::from(loss));
        if self.course.wide_rate > 0.0 && self.method.includes("wide.rows") {
            self.move_wide(&features, &gradient);
        }
        Ok(())
    }

    /// The sum over the batch, not the mean: Adagrad's first steps then have the same length
    /// whatever the size of the batch, and a new word is learnt from one text.
    ///
    /// `gradient`: that of the mean, `[batch, classes]`.
    fn move_wide(&mut self, features: &[&Features], gradient: &[f32]) {
        let size = features.len() as f32;
        let gradient: Vec<f32> = gradient.iter().map(|g| g * size).collect();
        let annealed = anneal(self.position.step, self.lesson.steps, &self.course);
        let rate = (self.course.wide_rate * annealed) as f32;
        self.weights.wide.update(features, &gradient, rate);
    }

    /// One step of both paths. Returns the fullest expert's share.
    fn learn_both(&mut self, step: &Step) -> Result<f64, LearningError> {
        let (lesson, recipe) = (self.lesson, &self.job.recipe);
        let fresh: Vec<&Item> = step.fresh.iter().map(|&at| &lesson.fresh[at]).collect();
        let replayed: Vec<Rc<Recalled>> =
            step.replayed.iter().map(|at| Rc::clone(&self.recalled[at])).collect();
        let answers = if recipe.distillation.fresh_weight > 0.0 {
            // Asked anew at each step: a resumed job then asks with the very same batches.
            self.teacher.answers(&fresh, &self.device)
        } else {
            vec![Vec::new(); fresh.len()]
        };
        let rows = Rows { fresh: &fresh, answers: &answers, replayed: &replayed };
        let items: Vec<&Item> =
            fresh.iter().copied().chain(replayed.iter().map(|r| &r.item)).collect();
        let features: Vec<&Features> = items.iter().map(|item| &item.features).collect();
        let wide = self.weights.wide.logits(&features);
        let scale = self.position.scaler.map_or(1.0, |scaler| scaler.scale());
        let router = recipe.balancing.training(self.method.train);
        let setting = Setting { course: &self.course, scale, router };
        let network = &self.weights.network;
        let pass = match lesson.task() {
            Task::Classification | Task::Regression => {
                let targets = rows.targets(lesson, recipe);
                loss::accumulate(network, &features, &wide, &targets, setting, &self.device)
            }
            Task::NextToken => {
                let weights: Vec<f32> = items.iter().map(|item| item.weight).collect();
                successor::accumulate(network, &features, &weights, setting, &self.device)
            }
        };
        if !pass.loss.is_finite() {
            return Err(LearningError::Diverged { step: self.position.step, loss: pass.loss });
        }
        let loads = pass.routed.iter().flat_map(|routed| &routed.load.0);
        let load_max = loads.copied().fold(0.0, f32::max);
        self.count(&features, &pass, load_max);
        self.take(&items, pass, scale)?;
        Ok(f64::from(load_max))
    }

    /// Moves the weights by what a pass found, or leaves the step out where scaled gradients
    /// overflowed.
    fn take(
        &mut self,
        items: &[&Item],
        mut pass: Pass<B>,
        scale: f32,
    ) -> Result<(), LearningError> {
        let (step, recipe) = (self.position.step, &self.job.recipe);
        let features: Vec<&Features> = items.iter().map(|item| &item.features).collect();
        if scale != 1.0 {
            pass.gradients.scale(1.0 / f64::from(scale));
            pass.wide_gradient.iter_mut().for_each(|gradient| *gradient /= scale);
        }
        if let Some(tether) = &self.tether {
            let penalty = tether.pull(&self.weights.network, &mut pass.gradients);
            average(&mut self.position.stats.penalty, penalty);
        }
        if let Some(kept) = &self.kept {
            kept.out_of(&mut pass.gradients);
        }
        let norms = Norms::of(&pass.gradients.norms());
        if self.overflows(&norms, &pass.wide_gradient)? {
            return Ok(());
        }
        let architecture = &self.lesson.featurizer.architecture;
        self.diagnosis.routed(step, &pass.routed, architecture, &recipe.alerts)?;
        if recipe.balancing.capacity_factor > 0.0 {
            // The last token of a text has no successor to be learnt.
            let unseen = usize::from(self.lesson.task() == Task::NextToken);
            let texts = items.iter().map(|item| {
                let chosen = (0..architecture.layers).map(|layer| architecture.experts_of(layer).1);
                let assignments = (item.features.rows() - unseen) * chosen.sum::<usize>();
                (assignments, self.lesson.groups_of(item))
            });
            self.diagnosis.dropped(&pass.routed, texts);
        }
        let annealed = anneal(step, self.lesson.steps, &self.course);
        if self.course.wide_rate > 0.0 && self.method.includes("wide.rows") {
            self.move_wide(&features, &pass.wide_gradient);
        }
        if self.course.deep_rate > 0.0 {
            self.diagnosis.gradient(step, &norms, &recipe.alerts)?;
            let last = step + self.course.deep_every >= self.lesson.steps;
            let before = self.course.deep_steps(step);
            let measured = before.is_multiple_of(recipe.diagnosis.every) || last;
            let rate = self.course.deep_rate * annealed;
            let network = self.weights.network.clone();
            let (network, moved) =
                self.optimizer.step(network, pass.gradients, norms.total, rate, measured);
            self.diagnosis.moved(step, &moved);
            let loads = pass.routed.into_iter().map(|routed| routed.load).collect();
            self.weights.network = self.balanced(network, loads, annealed);
        }
        Ok(())
    }

    /// Moves the routing biases towards an even load.
    fn balanced(&self, network: Network<B>, loads: Vec<ExpertLoad>, annealed: f64) -> Network<B> {
        let step = (self.job.recipe.balancing.step * annealed) as f32;
        match &self.kept {
            _ if !self.method.train.balances() => network,
            Some(kept) if self.method.train == Train::NewExperts => {
                network.balance_where(&loads, step, |at| kept.learns(at))
            }
            _ => network.balance(&loads, step),
        }
    }

    /// Whether the gradients of a step are not finite because the loss is scaled too far.
    fn overflows(&mut self, norms: &Norms, wide: &[f32]) -> Result<bool, LearningError> {
        let step = self.position.step;
        let layer = norms.layers.iter().find(|(_, norm)| !norm.is_finite());
        let layer = match layer {
            Some((name, _)) => Some(name.as_str()),
            None => wide.iter().any(|gradient| !gradient.is_finite()).then_some("wide"),
        };
        let Some(scaler) = &mut self.position.scaler else {
            return match layer {
                Some(layer) => Err(LearningError::Gradient { step, layer: layer.to_owned() }),
                None => Ok(false),
            };
        };
        match layer {
            None => scaler.succeeded(),
            Some(layer) if !scaler.overflowed() => {
                return Err(LearningError::Gradient { step, layer: layer.to_owned() });
            }
            Some(_) => self.diagnosis.skipped += 1,
        }
        self.diagnosis.scale(step + 1, scaler.scale());
        Ok(layer.is_some())
    }

    /// Adds a step to what is measured.
    fn count(&mut self, features: &[&Features], pass: &Pass<B>, load_max: f32) {
        let (architecture, classes) = (&self.lesson.featurizer.architecture, self.lesson.outputs());
        let stats = &mut self.position.stats;
        stats.examples += features.len() as u64;
        for features in features {
            stats.tokens += features.rows() as u64;
            self.diagnosis.flops += flops::training(architecture, classes, features.rows());
        }
        stats.load_max_sum += f64::from(load_max);
        average(&mut stats.loss, f64::from(pass.loss));
        if let Some(loss) = pass.router_loss {
            average(&mut stats.router_loss, f64::from(loss));
        }
    }

    /// Makes features of what an epoch replays, and asks the champion about it.
    fn recall(&mut self, steps: &[Step]) -> Result<(), LearningError> {
        let mut missing: Vec<usize> = steps.iter().flat_map(|s| s.replayed.clone()).collect();
        missing.retain(|at| !self.recalled.contains_key(at));
        missing.sort_unstable();
        missing.dedup();
        let items = self.lesson.recall(&missing)?;
        let distils = self.job.recipe.distillation.weight > 0.0;
        for (at, items) in missing.chunks(ASK).zip(items.chunks(ASK)) {
            let asked: Vec<&Item> = items.iter().collect();
            let answers = if distils {
                self.teacher.answers(&asked, &self.device)
            } else {
                vec![Vec::new(); items.len()]
            };
            for ((&at, item), answer) in at.iter().zip(items).zip(answers) {
                self.recalled.insert(at, Rc::new(Recalled { item: item.clone(), answer }));
            }
        }
        Ok(())
    }

    fn checkpoint(&self, fingerprint: ArtifactHash) -> Result<Checkpoint, LearningError> {
        let mut files = self.files()?;
        if self.base.is_some() {
            files.remove(WEIGHTS);
        }
        Ok(Checkpoint::new(self.job, fingerprint, self.position.clone(), files))
    }
}

/// After a cancellation the last checkpoint is waited for, and told of.
fn unless_cancelled<T>(
    gone: Result<T, LearningError>,
    writer: Writer,
    observer: &mut dyn Observer,
) -> Result<(T, Writer), LearningError> {
    match gone {
        Ok(ended) => Ok((ended, writer)),
        Err(error) => {
            if matches!(error, LearningError::Cancelled { .. }) {
                outcome::report(writer.finish()?, observer);
            }
            Err(error)
        }
    }
}

fn average(average: &mut Option<f64>, value: f64) {
    *average = Some(average.map_or(value, |average| average + AVERAGE * (value - average)));
}

/// Steps in which the rates rise.
fn rise(steps: u64, course: &Course) -> f64 {
    (steps as f64 * course.warm_up).floor()
}

/// Share of the highest rate: a straight rise, then a half cosine.
fn anneal(step: u64, steps: u64, course: &Course) -> f64 {
    let rise = rise(steps, course);
    let at = step as f64;
    if at < rise {
        return (at + 1.0) / (rise + 1.0);
    }
    let way = (at - rise) / (steps as f64 - rise).max(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * way).cos());
    course.final_rate + (1.0 - course.final_rate) * cosine
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
