//! A cold start's architecture by successive halving.
mod draw;
mod state;

use std::{collections::BTreeMap, time::Instant};

use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, JobId, Score, SearchLog};
use tidegate_model::{Architecture, Task};
use tidegate_telemetry::energy::EnergyMeter;
use tokio_util::sync::CancellationToken;

pub(crate) use self::draw::candidates;
use self::{draw::ranked, state::State};
use crate::{
    CheckpointDir, Example, Job, LearningError, Observer, Progress, Recipe, Search, Trains,
    checkpoint::fingerprint,
    clock::Clock,
    diagnosis::flops,
    held_back::hold_back,
    lesson::{Item, Lesson},
    session::Session,
};

/// Epochs that no candidate comes to: its steps are those of the rungs.
const ENDLESS: u64 = 10_000;
/// Seconds that no candidate takes: the search has a bound of its own.
const UNBOUND: f64 = 1e7;

/// What a search came to.
pub(crate) struct Found {
    pub(crate) architecture: Architecture,
    pub(crate) log: SearchLog,
    /// Times and energy, by name.
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// How far a search is.
#[derive(Debug, Clone, Copy)]
pub struct SearchProgress<'a> {
    /// From 1.
    pub rung: usize,
    /// The candidate that trains or was just judged, by its index in the log.
    pub candidate: usize,
    /// Steps done, of all candidates.
    pub step: u64,
    /// Steps in all, if no candidate fails.
    pub steps: u64,
    /// What was found so far.
    pub log: &'a SearchLog,
}

/// What a search will cost; in [`crate::Plan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchPlan {
    /// Candidates that each rung trains, and the steps that they have done at its end.
    pub rungs: Vec<(usize, u64)>,
    /// Of all candidates.
    pub steps: u64,
    /// By the steps of this job that were measured, and the mean work of the candidates.
    pub seconds: f64,
    /// The budget that will end it early.
    pub ended_by: Option<String>,
}

impl SearchPlan {
    /// `step_s`: what a step of the recipe's own architecture takes.
    pub(crate) fn of(recipe: &Recipe, classes: usize, step_s: f64) -> Result<Self, LearningError> {
        let search = &recipe.search;
        let all = candidates(recipe, classes)?;
        let work = |a: &Architecture| flops::training(a, classes, a.context);
        let mean = all.iter().map(work).sum::<f64>() / all.len() as f64;
        let rungs: Vec<(usize, u64)> = (0..search.trained_rungs(all.len()))
            .map(|rung| (search.of_rung(rung, all.len()), search.steps_after(rung)))
            .collect();
        let steps = steps(search, all.len());
        let whole = steps as f64 * step_s * mean / work(&recipe.architecture);
        let bound = if search.max_seconds > 0.0 { search.max_seconds } else { f64::INFINITY };
        let ended_by = (whole > bound).then(|| "search.max_seconds".to_owned());
        Ok(Self { rungs, steps, seconds: whole.min(bound), ended_by })
    }
}

/// Steps of all rungs.
fn steps(search: &Search, candidates: usize) -> u64 {
    let rungs = 0..search.trained_rungs(candidates);
    rungs.map(|rung| search.of_rung(rung, candidates) as u64 * stretch(search, rung)).sum()
}

/// Steps of one candidate in one rung.
fn stretch(search: &Search, rung: usize) -> u64 {
    let before = if rung == 0 { 0 } else { search.steps_after(rung - 1) };
    search.steps_after(rung) - before
}

/// Finds the architecture of a cold start; goes on from what an earlier attempt found.
pub(crate) fn run<B: Trains>(
    job: &Job,
    examples: &[Example],
    checkpoints: &CheckpointDir,
    observer: &mut dyn Observer,
    cancel: &CancellationToken,
    device: &B::Device,
) -> Result<Found, LearningError> {
    let (search, course) = (&job.recipe.search, &job.recipe.cold_start);
    let newest = &examples[examples.len().saturating_sub(course.max_examples)..];
    let (learnt, held) = hold_back(newest, search.held_back, job.seed, Task::Classification);
    let mut base = job.clone();
    base.recipe.search.candidates = 0;
    let course = &mut base.recipe.cold_start;
    (course.epochs, course.max_seconds, course.max_joules) = (ENDLESS, UNBOUND, 0.0);
    let mut lesson = Lesson::prepare(&base, &learnt, None)?;
    // What is learnt may be of fewer classes, where parts cannot be read.
    let held: Vec<Example> =
        held.into_iter().filter(|example| lesson.labels.contains(&example.label)).collect();
    let held = lesson.features_of(&base, &held)?;
    if held.is_empty() {
        let reason = "the window is too small to hold any example back: wait for more labels, or \
                      leave out `search`";
        return Err(LearningError::Search(reason.to_owned()));
    }
    // With the kinds of parts that the window has.
    let architecture = lesson.featurizer.architecture.clone();
    let recipe = Recipe { architecture, ..job.recipe.clone() };
    let architectures = candidates(&recipe, lesson.labels.len())?;
    // Rates are annealed to the end of the last rung.
    let last = search.trained_rungs(architectures.len()).saturating_sub(1);
    lesson.steps = search.steps_after(last);
    base.recipe.cold_start.max_steps = lesson.steps;
    let dir = checkpoints.of_search(&job.id)?;
    let fingerprint = fingerprint(job, examples);
    let state = match State::read(&dir, fingerprint) {
        Some(state) => state,
        None => {
            // Candidates that an earlier search took further would be judged at the wrong step.
            checkpoints.forget_search(&job.id)?;
            checkpoints.of_search(&job.id)?;
            State::start(fingerprint, search, &lesson, held.len(), &architectures)
        }
    };
    let mut halving = Halving::<B> {
        search: search.clone(),
        base,
        learnt,
        lesson,
        held,
        architectures,
        dir,
        state,
        meter: EnergyMeter::detect(),
        began: Instant::now(),
        device: device.clone(),
    };
    halving.run(observer, cancel)?;
    halving.found()
}

/// A search under way.
struct Halving<B: Trains> {
    search: Search,
    /// What the candidates' jobs are made of.
    base: Job,
    learnt: Vec<Example>,
    lesson: Lesson,
    held: Vec<Item>,
    architectures: Vec<Architecture>,
    dir: CheckpointDir,
    state: State,
    meter: EnergyMeter,
    began: Instant,
    device: B::Device,
}

/// How a candidate's stretch ended.
enum Ended {
    Judged(f64),
    Failed(String),
    OutOfTime,
}

impl<B: Trains> Halving<B> {
    fn run(
        &mut self,
        observer: &mut dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<(), LearningError> {
        if self.state.log.winner.is_some() {
            return Ok(());
        }
        for rung in 0..self.search.trained_rungs(self.architectures.len()) {
            for at in self.alive() {
                // What an earlier attempt has judged is not judged again.
                if self.state.log.candidates[at].scores.len() > rung {
                    continue;
                }
                match self.train(rung, at, observer, cancel)? {
                    Ended::Judged(accuracy) => {
                        let steps = self.search.steps_after(rung);
                        let candidate = &mut self.state.log.candidates[at];
                        candidate.scores.push(Score { steps, accuracy });
                    }
                    Ended::Failed(reason) => {
                        let reason = format!("rung {}: {reason}", rung + 1);
                        self.state.log.candidates[at].dropped = Some(reason);
                    }
                    Ended::OutOfTime => {
                        self.state.log.ended_by = Some("search.max_seconds".to_owned());
                        return self.end();
                    }
                }
                self.state.write(&self.dir)?;
                observer.search(&self.progress(rung, at));
            }
            self.halve(rung)?;
        }
        self.end()
    }

    /// The job of a candidate.
    fn id(&self, at: usize) -> JobId {
        JobId::new(format!("{}/candidate-{at}", self.base.id))
    }

    /// Those that are not dropped.
    fn alive(&self) -> Vec<usize> {
        let candidates = self.state.log.candidates.iter().enumerate();
        candidates.filter(|(_, one)| one.dropped.is_none()).map(|(at, _)| at).collect()
    }

    /// Takes one candidate on from where it stopped, to the end of the rung, and judges it.
    fn train(
        &mut self,
        rung: usize,
        at: usize,
        observer: &mut dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Ended, LearningError> {
        let mut job = self.base.clone();
        job.id = self.id(at);
        job.recipe.architecture = self.architectures[at].clone();
        self.lesson.featurizer.architecture = self.architectures[at].clone();
        let resumed = self.dir.newest(&job, &self.learnt);
        let spent = self.state.seconds.iter().sum::<f64>() - self.state.seconds[at];
        let mut session = Session::<B>::open(&job, &self.lesson, resumed, self.device.clone())?;
        let stop = cancel.child_token();
        let bound = match self.search.max_seconds {
            0.0 => f64::INFINITY,
            seconds => seconds - spent,
        };
        let before = self.search.steps_after(rung) - stretch(&self.search, rung);
        let mut relay = Relay {
            observer,
            progress: self.progress(rung, at),
            before,
            bound,
            so_far: session.seconds(),
            began: Instant::now(),
            stop: &stop,
        };
        let until = self.search.steps_after(rung);
        let clock = Clock::start(&self.meter);
        let gone = session.run_to(until, &self.dir, &self.learnt, clock, &mut relay, &stop);
        let ended = match gone {
            Ok(()) => Ended::Judged(session.accuracy(&self.held)),
            Err(LearningError::Cancelled { .. }) if !cancel.is_cancelled() => Ended::OutOfTime,
            Err(error) if error.is_of_training() => Ended::Failed(error.to_string()),
            Err(error) => return Err(error),
        };
        (self.state.seconds[at], self.state.joules[at]) = (session.seconds(), session.joules());
        Ok(ended)
    }

    /// Keeps the best of a rung that all have come to the end of.
    fn halve(&mut self, rung: usize) -> Result<(), LearningError> {
        let alive = self.ranked(self.alive());
        let all = self.architectures.len();
        let last = rung + 1 == self.search.trained_rungs(all);
        let keep = if last { 1 } else { self.search.of_rung(rung + 1, all) };
        let score = |at: usize| self.state.score(at);
        let Some(&worst) = alive.get(..keep.min(alive.len())).and_then(<[usize]>::last) else {
            let reasons = self.state.log.candidates.iter().filter_map(|one| one.dropped.as_ref());
            let first = reasons.take(1).cloned().collect::<String>();
            return Err(LearningError::Search(format!(
                "every candidate failed; the first: {first}"
            )));
        };
        let bound = score(worst);
        let dropped: Vec<(usize, String)> = alive
            .iter()
            .skip(keep)
            .map(|&at| {
                let found = score(at);
                let why = if found + self.search.tie < bound {
                    "is behind"
                } else {
                    "is not ahead, for more work a token, of"
                };
                let what = format!(
                    "rung {}: {found:.4} {why} the {bound:.4} of candidate {worst}, \
                                    the last that is kept",
                    rung + 1
                );
                (at, what)
            })
            .collect();
        for (at, why) in &dropped {
            self.state.log.candidates[*at].dropped = Some(why.clone());
        }
        self.state.write(&self.dir)?;
        // On record as dropped: nobody goes on from there.
        dropped.iter().try_for_each(|(at, _)| self.dir.clear(&self.id(*at)))
    }

    /// Names the winner.
    fn end(&mut self) -> Result<(), LearningError> {
        let alive = self.alive();
        let rungs = |at: &usize| self.state.log.candidates[*at].scores.len();
        let furthest = alive.iter().map(rungs).max().unwrap_or_default();
        let furthest: Vec<usize> = alive.into_iter().filter(|at| rungs(at) == furthest).collect();
        // With nothing judged the first wins.
        let judged = furthest.iter().any(|at| rungs(at) > 0);
        let order = if judged { self.ranked(furthest) } else { furthest };
        let winner = order.first().copied();
        if self.state.log.ended_by.is_some() {
            for at in self.alive().into_iter().filter(|&at| Some(at) != winner) {
                let why = "the search was out of time, and another had come further or was better";
                self.state.log.candidates[at].dropped = Some(why.to_owned());
            }
        }
        self.state.log.winner = winner;
        self.state.write(&self.dir)
    }

    /// Best first.
    fn ranked(&self, of: Vec<usize>) -> Vec<usize> {
        let scored = of
            .into_iter()
            .map(|at| (at, self.state.score(at), self.state.log.candidates[at].flops_per_token));
        ranked(scored.collect(), self.search.tie)
    }

    fn progress(&self, rung: usize, at: usize) -> SearchProgress<'_> {
        let log = &self.state.log;
        let judged = log.candidates.iter().flat_map(|one| one.scores.last());
        SearchProgress {
            rung: rung + 1,
            candidate: at,
            step: judged.map(|score| score.steps).sum(),
            steps: steps(&self.search, self.architectures.len()),
            log,
        }
    }

    fn found(self) -> Result<Found, LearningError> {
        let log = self.state.log;
        let winner = log.winner.expect("a search ends with a winner or an error");
        let seconds: f64 = self.state.seconds.iter().sum();
        tracing::info!(
            job = %self.base.id, winner, seconds, this_attempt_s = self.began.elapsed().as_secs_f64(),
            architecture = log.candidates[winner].describe(), "architecture found",
        );
        let of_all = [
            ("search.candidates", log.candidates.len() as f64),
            ("search.winner", winner as f64),
            ("search.seconds", seconds),
            ("search.joules", self.state.joules.iter().sum()),
        ];
        let mut metrics: BTreeMap<String, f64> =
            of_all.map(|(name, value)| (name.to_owned(), value)).into();
        for (at, seconds) in self.state.seconds.iter().enumerate() {
            metrics.insert(format!("search.candidate_{at}_seconds"), *seconds);
        }
        Ok(Found { architecture: self.architectures[winner].clone(), log, metrics })
    }
}

/// Tells the job's observer of a candidate's steps, and ends them when time is over.
struct Relay<'a> {
    observer: &'a mut dyn Observer,
    progress: SearchProgress<'a>,
    /// Steps of the candidate before this rung.
    before: u64,
    /// Seconds that are left to this candidate, those of its earlier rungs included.
    bound: f64,
    so_far: f64,
    began: Instant,
    stop: &'a CancellationToken,
}

impl Observer for Relay<'_> {
    fn progress(&mut self, now: &Progress) {
        let step = self.progress.step + now.step.saturating_sub(self.before);
        self.observer.search(&SearchProgress { step, ..self.progress });
        if self.so_far + self.began.elapsed().as_secs_f64() > self.bound {
            self.stop.cancel();
        }
    }

    /// A candidate's own checkpoints are nothing that the job could be resumed from alone.
    fn checkpoint(&mut self, _: u64, _: ArtifactHash) {}
}
