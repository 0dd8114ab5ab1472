//! Attacks: small changes of an input that a model is the least able to bear.
//!
//! White box: slopes of a loss over what the model reads, by autodiff through the deep path and by
//! hand through the wide path, then steps within a ball. What is attacked in pixels, samples or
//! numbers is written back as a real part, and both paths read it as they read any other; an
//! embedding is attacked where it stands, so no text says that, and the wide path, which reads the
//! text, stays as it is. Swaps change real texts. [`Method::Random`] is the black box beside them:
//! a white box that it beats is not to be believed.
mod deep;
mod search;
mod spread;
mod steps;
mod swaps;
mod target;
#[cfg(test)]
mod tests;

use std::{fmt, time::Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

pub(crate) use self::deep::{Slopes, nudged, slopes, vectors};
use self::{
    search::search,
    target::{Target, Victims},
};
pub use self::{
    spread::{NumberSpread, Spread},
    steps::{Ball, Norm, Point, climb},
};
use crate::{Input, Model, ModelError, Scores, threads::on_all_cores};

/// Inputs that are attacked together.
const CHUNK: usize = 16;

/// Of the radius, shared among all steps: so far a point can go that turns round once (Madry et al.).
const WAY: f64 = 2.5;

/// What an attack changes, and what its `eps` is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Pixels of pictures at the size that the model reads, in 1/255 of the whole range.
    Pixels,
    /// Samples of sounds at 16 kHz, in root mean squares of the sound.
    Waveform,
    /// Tabular numbers, in standard deviations of the feature, within the values it is seen to have.
    Numbers,
    /// Vectors of a text's tokens, in root mean squares of these: not a text that anybody can write.
    Embedding,
    /// Letters within words of four and more, the first and the last of each kept; `eps` is how many
    /// changes. Digits and punctuation stay.
    Characters,
    /// Words that are left out or change places with the next; `eps` is how many changes.
    Words,
}

impl Space {
    /// The name in suites.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pixels => "pixels",
            Self::Waveform => "waveform",
            Self::Numbers => "numbers",
            Self::Embedding => "embedding",
            Self::Characters => "characters",
            Self::Words => "words",
        }
    }

    /// Whether it is a text that is changed, step by step.
    #[must_use]
    pub const fn is_of_swaps(self) -> bool {
        matches!(self, Self::Characters | Self::Words)
    }

    /// The kind of part that it is of, as [`tidegate_contracts::Part::name`] says.
    #[must_use]
    pub const fn part(self) -> &'static str {
        match self {
            Self::Pixels => "image",
            Self::Waveform => "audio",
            Self::Numbers => "features",
            Self::Embedding | Self::Characters | Self::Words => "text",
        }
    }
}

/// How an attack looks for its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// One step along the signs of the slope (Goodfellow et al. 2014, arXiv 1412.6572).
    Fgsm,
    /// Steps along the signs, no coordinate further than `eps` (Madry et al. 2017, arXiv 1706.06083).
    PgdLinf,
    /// Steps along the slope, the root of the mean square of all changes at most `eps`.
    PgdL2,
    /// Swaps in a text, the most promising by the slope first (Ebrahimi et al. 2017, arXiv
    /// 1712.06751); of these the one that does the most harm.
    Hotflip,
    /// Without a slope: random changes, of which those are kept that do harm.
    Random(Norm),
}

impl Method {
    /// The name in suites, behind `attack.`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fgsm => "fgsm",
            Self::PgdLinf => "pgd_linf",
            Self::PgdL2 => "pgd_l2",
            Self::Hotflip => "hotflip",
            Self::Random(_) => "random",
        }
    }

    /// How far is measured.
    #[must_use]
    pub const fn norm(self) -> Norm {
        match self {
            Self::PgdL2 | Self::Random(Norm::L2) => Norm::L2,
            _ => Norm::Linf,
        }
    }
}

/// One attack, with its budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attack {
    /// How it looks.
    pub method: Method,
    /// What it changes.
    pub space: Space,
    /// How much, in the unit of the space.
    pub eps: f64,
    /// Steps of a run; of [`Method::Random`] how often the model is asked.
    pub steps: u32,
    /// Runs after the first, each from a random place in the ball. PGD's losses take turns: cross
    /// entropy, then the margin, since the former's slope vanishes where a model is sure (Croce and
    /// Hein 2020, arXiv 2003.01690).
    pub restarts: u32,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, space, eps, steps, .. } = self;
        write!(f, "attack.{} {} {eps}", method.as_str(), space.as_str())?;
        if matches!(method, Method::PgdLinf | Method::PgdL2 | Method::Random(_)) {
            write!(f, ", {steps} steps")?;
        }
        Ok(())
    }
}

/// What an attack is given beside its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// Of each input's random choices.
    pub seeds: &'a [u64],
    /// How the numbers of features are spread.
    pub spread: &'a Spread,
    /// When it is to end, done or not.
    pub until: Instant,
}

/// What became of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum Attacked {
    /// The answer to the worst change that was found.
    Answer {
        /// Of the model, both paths.
        scores: Scores,
        /// The input as it was changed; nothing where no input says that.
        input: Option<Input>,
        /// How often the model was asked.
        queries: u32,
    },
    /// It has no part that this attack could change and the model reads.
    Nothing,
    /// The time was over before.
    Unfinished,
}

/// Why slopes are not looked for any more.
#[derive(Debug)]
pub(crate) enum Stop {
    Late,
    Model(ModelError),
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

/// What is to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    CrossEntropy,
    Margin,
}

impl Loss {
    /// Its slope over one row of logits; none where the class is not the likeliest any more, so that
    /// what has succeeded stays.
    pub(crate) fn slope(self, logits: &[f32], class: usize) -> Vec<f32> {
        let mut slope = vec![0.0; logits.len()];
        let (other, margin) = margin(logits, class);
        if margin <= 0.0 {
            return slope;
        }
        match self {
            Self::CrossEntropy => {
                slope = crate::inference::softmax(logits).probabilities;
                slope[class] -= 1.0;
                // Of a sure model all would be 0 in f32.
                let largest = slope.iter().fold(f32::MIN_POSITIVE, |most, s| most.max(s.abs()));
                slope.iter_mut().for_each(|slope| *slope /= largest);
            }
            Self::Margin => (slope[class], slope[other]) = (-1.0, 1.0),
        }
        slope
    }
}

/// The likeliest other class, and how far it is behind.
pub(crate) fn margin(logits: &[f32], class: usize) -> (usize, f32) {
    let others = (0..logits.len()).filter(|&other| other != class);
    let best = others.max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.map_or((class, f32::INFINITY), |other| (other, logits[class] - logits[other]))
}

impl Model {
    /// Answers to inputs after each was changed by an attack on this model; `classes` are the right
    /// ones, by label index. The same seeds give the same changes.
    ///
    /// # Errors
    /// [`ModelError::Task`] for a model whose labels are not classes.
    ///
    /// # Panics
    /// When there are not as many classes and seeds as inputs.
    pub fn attacked(
        &self,
        inputs: &[Input],
        classes: &[usize],
        attack: &Attack,
        means: &Means<'_>,
    ) -> Result<Vec<Attacked>, ModelError> {
        self.needs(crate::Task::Classification)?;
        assert!(inputs.len() == classes.len() && inputs.len() == means.seeds.len(), "one for each");
        let all: Vec<usize> = (0..inputs.len()).collect();
        let one = |chunk: &[usize]| {
            let victims = Victims::open(self, inputs, classes, chunk, attack, means)?;
            let found = if attack.space.is_of_swaps() {
                swaps::swap(&victims, attack, means)
            } else {
                change(&victims, attack, means)
            };
            match found {
                Ok(found) => Ok(victims.told(found, chunk)),
                Err(Stop::Late) => Ok(victims.unfinished(chunk)),
                Err(Stop::Model(error)) => Err(error),
            }
        };
        let chunks: Result<Vec<Vec<Attacked>>, ModelError> =
            on_all_cores(|| all.par_chunks(CHUNK).map(one).collect());
        Ok(chunks?.into_iter().flatten().collect())
    }
}

/// The worst of all runs for each target.
fn change(
    victims: &Victims<'_>,
    attack: &Attack,
    means: &Means<'_>,
) -> Result<Vec<target::Found>, Stop> {
    let norm = attack.method.norm();
    let ball = |target: &Target<'_>| Ball { norm, radius: target.radius(attack) };
    let balls: Vec<Ball> = victims.targets.iter().map(ball).collect();
    let mut worst = victims.scored(victims.points(), 1)?;
    if let Method::Random(_) = attack.method {
        return search(victims, worst, &balls, attack.steps, means);
    }
    let (steps, stride) = match attack.method {
        Method::Fgsm => (1, 1.0),
        _ => (attack.steps, WAY / f64::from(attack.steps.max(1))),
    };
    for run in 0..=attack.restarts {
        let loss = if run % 2 == 0 { Loss::CrossEntropy } else { Loss::Margin };
        let mut points = victims.points();
        if run > 0 {
            for ((point, ball), target) in points.iter_mut().zip(&balls).zip(&victims.targets) {
                let mut rng = ChaCha8Rng::seed_from_u64(target.seed ^ u64::from(run));
                point.at.iter_mut().for_each(|at| *at += attack.eps * rng.random_range(-1.0..1.0));
                ball.project(point);
            }
        }
        climb(&balls, (steps, stride), &mut points, |points| {
            if Instant::now() > means.until {
                Err(Stop::Late)
            } else {
                victims.slopes(points, loss)
            }
        })?;
        let found = victims.scored(points, steps + 1)?;
        worst = worst.into_iter().zip(found).map(|(worst, found)| worst.or(found)).collect();
        if worst.iter().all(|found| found.margin <= 0.0) {
            break;
        }
    }
    Ok(worst)
}
