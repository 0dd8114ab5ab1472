//! A job's first steps, to say what all of them will take.
use std::{collections::BTreeSet, time::Instant};

use tidegate_telemetry::energy::EnergyMeter;

use super::Session;
use crate::{
    LearningError, Trains,
    plan::{Energy, Held, Memory, Parameters, Plan, Probe, Time, Work, seconds_of, shares},
    sampler::Step,
    teacher::Teacher,
    tether::Tether,
};

/// Steps before the ones that count: caches, pools and the optimiser's state are then there.
const WARM_UP: usize = 3;

/// Steps that are enough once they took this many seconds, as energy counters are slow; and the
/// fewest once it has taken long.
const STEPS: usize = 24;
const SHORT: f64 = 0.25;
const FEWEST: usize = 4;
const LONG: f64 = 3.0;

/// What was spent before the session was open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prepared {
    pub(crate) seconds: f64,
    pub(crate) joules: Option<f64>,
}

/// Steps that were taken, and what they took.
struct Measured {
    /// Tokens and seconds of each.
    steps: Vec<(f64, f64)>,
    /// Seconds of a step of the wide path alone; 0 where the deep path takes part in all.
    wide_s: f64,
    watts: Option<f64>,
}

impl<B: Trains> Session<'_, B> {
    /// Takes a few of its steps, and throws what they learnt away.
    ///
    /// # Errors
    /// What these steps would end the job with.
    pub(crate) fn plan(
        mut self,
        meter: &EnergyMeter,
        prepared: Prepared,
    ) -> Result<Plan, LearningError> {
        let first = self.lesson.sampler.epoch(0);
        let (recall_s, recalled) = timed(|| self.recall(&first));
        recalled?;
        let recall_s = recall_s * self.share_recalled();
        let measured = self.probe(&first, meter)?;
        let (last_s, files) = timed(|| self.last_files());
        let bytes = files?.values().map(|file| file.len()).sum();
        let (checkpoint_s, _) = timed(|| self.files());

        let steps = self.lesson.steps;
        let deep_share = self.course.deep_steps(steps) as f64 / steps as f64;
        let a_step = self.tokens(&first) / steps as f64;
        let tokens = (a_step * self.course.deep_steps(steps) as f64).round() as u64;
        let deep_s = seconds_of(&measured.steps, a_step);
        let step_s = deep_share * deep_s + (1.0 - deep_share) * measured.wide_s;
        let every = &self.job.recipe.checkpoints;
        let by_steps = if every.steps > 0 { 1.0 / every.steps as f64 } else { 0.0 };
        let by_time = if every.seconds > 0.0 { step_s / every.seconds } else { 0.0 };
        let steps_s = steps as f64 * (step_s + by_steps.max(by_time) * checkpoint_s);
        let before_s = prepared.seconds + recall_s;
        let joules = |steps_s: f64| {
            let rest = measured.watts? * (recall_s + steps_s + last_s);
            Some(prepared.joules.unwrap_or_default() + rest)
        };
        // Budgets are looked at after a step, and count from the very beginning.
        let of_time = (self.course.max_seconds - before_s) / steps_s;
        let of_energy = match joules(steps_s) {
            Some(all) if self.course.max_joules > 0.0 => self.course.max_joules / all,
            _ => f64::INFINITY,
        };
        let share = of_time.min(of_energy).clamp(1.0 / steps as f64, 1.0);
        let budget = if of_time <= of_energy { "max_seconds" } else { "max_joules" };
        let ended_by = match (share < 1.0, self.lesson.cut) {
            (true, _) => Some(budget),
            (false, true) => Some("max_steps"),
            (false, false) => None,
        };
        let seconds = before_s + share * steps_s + last_s;
        let (architecture, classes) = (&self.lesson.featurizer.architecture, self.lesson.outputs());
        let recipe = &self.job.recipe;
        Ok(Plan {
            kind: self.job.kind,
            search: None,
            method: self.method.to_string(),
            parameters: Parameters::of(architecture, classes, &self.adapters, &self.method),
            methods: shares(architecture, classes, &recipe.method(self.job.kind).adapters),
            memory: Memory::of(architecture, &self.held(&first, bytes)),
            work: Work {
                examples: self.lesson.fresh.len(),
                replayed: self.lesson.sampler.replay.len(),
                classes,
                steps: (share * steps as f64).ceil() as u64,
                tokens: (share * tokens as f64).round() as u64,
            },
            time: Time { seconds, prepare_s: before_s, steps_s: share * steps_s, finish_s: last_s },
            energy: Energy {
                joules: joules(share * steps_s),
                method: meter.method().as_str().to_owned(),
            },
            probe: Probe {
                steps: measured.steps.len(),
                tokens: measured.steps.iter().map(|(tokens, _)| *tokens as u64).sum(),
                seconds: measured.steps.iter().map(|(_, seconds)| seconds).sum(),
            },
            ended_by: ended_by.map(str::to_owned),
        })
    }

    fn probe(&mut self, first: &[Step], meter: &EnergyMeter) -> Result<Measured, LearningError> {
        let most = first.len().min(self.lesson.steps as usize);
        let warm_up = WARM_UP.min(most / 2);
        for step in &first[..warm_up] {
            self.learn_both(step)?;
            self.advance();
        }
        let (stretch, began) = (meter.start(), Instant::now());
        let mut steps = Vec::new();
        // A short job's steps are taken again and again: they take as long each time.
        for step in first[warm_up..most].iter().cycle() {
            let tokens = self.position.stats.tokens;
            let (seconds, learnt) = timed(|| self.learn_both(step));
            learnt?;
            self.advance();
            steps.push(((self.position.stats.tokens - tokens) as f64, seconds));
            let elapsed = began.elapsed().as_secs_f64();
            let enough = steps.len() >= STEPS && elapsed > SHORT;
            if enough || (steps.len() >= FEWEST && elapsed > LONG) {
                break;
            }
        }
        let wide_s = self.probe_wide(first)?;
        let energy = stretch.stop();
        let watts = energy.joules.map(|joules| joules.0 / energy.seconds.max(1e-9));
        Ok(Measured { steps, wide_s, watts })
    }

    /// Seconds of a step of the wide path alone.
    fn probe_wide(&mut self, first: &[Step]) -> Result<f64, LearningError> {
        if self.course.deep_every == 1 {
            return Ok(0.0);
        }
        let few = &first[..first.len().min(STEPS)];
        let (seconds, learnt) = timed(|| few.iter().try_for_each(|step| self.learn_wide(step)));
        learnt?;
        Ok(seconds / few.len() as f64)
    }

    /// To the next step, but not behind the last.
    fn advance(&mut self) {
        self.position.step = (self.position.step + 1).min(self.lesson.steps - 1);
    }

    /// Distinct examples that all epochs replay, over those of the first.
    fn share_recalled(&self) -> f64 {
        if self.recalled.is_empty() {
            return 1.0;
        }
        let epochs = self.lesson.steps.div_ceil(self.lesson.sampler.steps()) as usize;
        let all = (epochs * self.recalled.len()).min(self.lesson.sampler.replay.len());
        all as f64 / self.recalled.len() as f64
    }

    /// Tokens of all steps, as if each epoch replayed texts as long as the first one's.
    fn tokens(&self, first: &[Step]) -> f64 {
        let epoch: usize = first.iter().flat_map(|step| self.lengths(step)).sum();
        let epochs = self.lesson.steps as f64 / self.lesson.sampler.steps() as f64;
        epoch as f64 * epochs
    }

    /// Tokens of each text of a step.
    fn lengths(&self, step: &Step) -> Vec<usize> {
        let fresh = step.fresh.iter().map(|&at| &self.lesson.fresh[at]);
        let replayed = step.replayed.iter().map(|at| &self.recalled[at].item);
        fresh.chain(replayed).map(|item| item.features.rows()).collect()
    }

    /// `bytes`: of the generation's files.
    fn held(&self, first: &[Step], bytes: usize) -> Held {
        let (lesson, recipe) = (self.lesson, &self.job.recipe);
        let (architecture, classes) = (&lesson.featurizer.architecture, lesson.outputs());
        let parameters = Parameters::of(architecture, classes, &self.adapters, &self.method);
        let wide = self.weights.wide.buckets() * self.weights.wide.classes();
        let wide_learns = self.method.includes("wide.rows");
        let micro = if self.course.micro_batch > 0 { self.course.micro_batch } else { usize::MAX };
        let largest = |step: &Step| {
            let lengths = self.lengths(step);
            let sums = lengths.chunks(micro.min(lengths.len())).map(|part| part.iter().sum());
            sums.max().unwrap_or(0_usize)
        };
        let replayed: BTreeSet<usize> = self.recalled.keys().copied().collect();
        let items = replayed.iter().map(|at| &self.recalled[at].item).chain(&lesson.fresh);
        let features = items.map(|item| item.features.bytes() + size_of_val(item));
        // The table and its file.
        let counts = self.counted.as_ref().map_or(0, |counted| 2 * counted.file.len());
        let from_champion = self.job.start.parent().is_some();
        let teacher = from_champion && Teacher::<B>::is_needed(lesson, recipe);
        let tether = from_champion && Tether::<B>::is_needed(recipe);
        Held {
            deep: parameters.total - wide,
            trained: parameters.trained - if wide_learns { wide } else { 0 },
            wide,
            tokens: first.iter().map(largest).max().unwrap_or_default(),
            champions: usize::from(teacher) + usize::from(tether),
            data: features.sum::<usize>() + self.replay.len() + counts,
            files: bytes,
        }
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let done = work();
    (began.elapsed().as_secs_f64(), done)
}
