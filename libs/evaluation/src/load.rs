//! Time, throughput and energy of models under load.
//!
//! Both models are measured in turns (A B B A ...): whatever else the machine does
//! meanwhile falls on both. Samples are few and kept raw, so quantiles are exact ranks and their
//! intervals are order statistics; ratios are resampled by input, so that a pair stays together.
use std::time::{Duration, Instant};

use tidegate_contracts::Joules;
use tidegate_model::Input;
use tidegate_telemetry::energy::{EnergyMeter, per_thousand};

use crate::{
    EvaluationError, Predictor,
    bootstrap::{Bootstrapped, Cells, Resampling, bootstrap},
    stats::{Interval, linear_quantile, nearest_rank, quantile_ranks},
};

/// Rounds that are measured even when the time is up.
const LEAST_ROUNDS: usize = 4;
/// Rounds that are enough, however quick the models are.
const MOST_ROUNDS: usize = 400;
/// Inputs of one batch.
const BATCH: usize = 32;

/// Who is measured.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) candidate: &'a dyn Predictor,
    pub(crate) champion: Option<&'a dyn Predictor>,
}

impl<'a> Pair<'a> {
    /// The order of one round of single predictions: `true` is the candidate.
    fn turns(&self, round: usize) -> &'static [bool] {
        match (self.champion, round % 2) {
            (None, _) => &[true, true],
            (Some(_), 0) => &[true, false, false, true],
            (Some(_), _) => &[false, true, true, false],
        }
    }

    /// The order of one round of batches, which are dear: two rounds make A B B A.
    fn batch_turns(&self, round: usize) -> &'static [bool] {
        match (self.champion, round % 2) {
            (None, _) => &[true],
            (Some(_), 0) => &[true, false],
            (Some(_), _) => &[false, true],
        }
    }

    /// Whose turn it is.
    pub(crate) fn who(&self, candidate: bool) -> (&'static str, &'a dyn Predictor) {
        match (candidate, self.champion) {
            (false, Some(champion)) => ("champion", champion),
            _ => ("candidate", self.candidate),
        }
    }

    fn predict(&self, candidate: bool, inputs: &[Input]) -> Result<(), EvaluationError> {
        let (who, model) = self.who(candidate);
        model.predict(inputs).map_err(|source| EvaluationError::Model { who, source })?;
        Ok(())
    }

    /// What is loaded lazily is loaded before the clock runs.
    pub(crate) fn warm(&self, inputs: &[Input]) -> Result<(), EvaluationError> {
        for candidate in [true, false] {
            self.predict(candidate, inputs)?;
        }
        Ok(())
    }
}

/// Milliseconds of single predictions; two for each round and model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency {
    pub(crate) candidate: Vec<[f64; 2]>,
    pub(crate) champion: Vec<[f64; 2]>,
}

impl Latency {
    /// One prediction after another for `budget`; a round asks all turns about one input.
    pub(crate) fn measure(
        pair: Pair<'_>,
        inputs: &[Input],
        budget: Duration,
    ) -> Result<Self, EvaluationError> {
        let mut latency = Self::default();
        if inputs.is_empty() || budget.is_zero() {
            return Ok(latency);
        }
        pair.warm(&inputs[..1])?;
        let began = Instant::now();
        for round in 0..MOST_ROUNDS {
            if round >= LEAST_ROUNDS && began.elapsed() > budget {
                break;
            }
            let input = std::slice::from_ref(&inputs[round % inputs.len()]);
            let (mut candidate, mut champion) = (Vec::new(), Vec::new());
            for &turn in pair.turns(round) {
                let began = Instant::now();
                pair.predict(turn, input)?;
                let ms = began.elapsed().as_secs_f64() * 1e3;
                if turn { candidate.push(ms) } else { champion.push(ms) }
            }
            latency.candidate.push([candidate[0], candidate[1]]);
            if let [first, second] = champion[..] {
                latency.champion.push([first, second]);
            }
        }
        Ok(latency)
    }

    pub(crate) fn n(&self) -> u64 {
        2 * self.candidate.len() as u64
    }

    /// A quantile and its interval; an end that the sample is too small for is infinite.
    pub(crate) fn quantile(samples: &[[f64; 2]], q: f64, level: f64) -> Option<(f64, Interval)> {
        let mut sorted: Vec<f64> = samples.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let value = nearest_rank(&sorted, q)?;
        let (low, high) = quantile_ranks(sorted.len() as u64, q, level);
        let at = |rank: u64| sorted[rank as usize - 1];
        Some((value, Interval::new(low.map_or(0.0, at), high.map_or(f64::INFINITY, at))))
    }

    /// The candidate's quantile over the champion's.
    pub(crate) fn ratio(&self, q: f64, how: Resampling<'_>) -> Option<Bootstrapped> {
        let quantile = |samples: &[[f64; 2]], weights: &[f64]| {
            let mut picked: Vec<f64> = drawn(weights).flat_map(|round| samples[round]).collect();
            picked.sort_unstable_by(f64::total_cmp);
            linear_quantile(&picked, q)
        };
        bootstrap(&Cells::each(self.champion.len()), how, |weights| {
            Some(quantile(&self.candidate, weights)? / quantile(&self.champion, weights)?)
        })
    }
}

/// The places that were drawn, each as often as it was.
fn drawn(weights: &[f64]) -> impl Iterator<Item = usize> {
    let times = |(place, weight): (usize, &f64)| std::iter::repeat_n(place, *weight as usize);
    weights.iter().enumerate().flat_map(times)
}

/// What one model's turns of one round took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Block {
    pub(crate) predictions: f64,
    pub(crate) seconds: f64,
    pub(crate) joules: Option<Joules>,
}

/// Predictions in batches; one block for each round and model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Throughput {
    pub(crate) candidate: Vec<Block>,
    pub(crate) champion: Vec<Block>,
}

impl Throughput {
    /// Batch after batch for `budget`.
    pub(crate) fn measure(
        pair: Pair<'_>,
        inputs: &[Input],
        meter: &EnergyMeter,
        budget: Duration,
    ) -> Result<Self, EvaluationError> {
        let mut throughput = Self::default();
        if inputs.is_empty() || budget.is_zero() {
            return Ok(throughput);
        }
        let batch: Vec<Input> = inputs.iter().cycle().take(BATCH).cloned().collect();
        pair.warm(&batch)?;
        let began = Instant::now();
        for round in 0..MOST_ROUNDS {
            if round >= LEAST_ROUNDS && began.elapsed() > budget {
                break;
            }
            let mut blocks = [Block { joules: Some(Joules(0.0)), ..Block::default() }; 2];
            for &turn in pair.batch_turns(round) {
                let stretch = meter.start();
                pair.predict(turn, &batch)?;
                let energy = stretch.stop();
                let block = &mut blocks[usize::from(!turn)];
                block.predictions += BATCH as f64;
                block.seconds += energy.seconds;
                block.joules = block.joules.zip(energy.joules).map(|(a, b)| a + b);
            }
            throughput.candidate.push(blocks[0]);
            if pair.champion.is_some() {
                throughput.champion.push(blocks[1]);
            }
        }
        Ok(throughput)
    }

    pub(crate) fn rounds(&self) -> u64 {
        self.candidate.len() as u64
    }

    /// Predictions a second.
    pub(crate) fn rate(blocks: &[Block], rounds: &[usize]) -> Option<f64> {
        let total =
            |of: &dyn Fn(&Block) -> f64| rounds.iter().map(|&r| of(&blocks[r])).sum::<f64>();
        let seconds = total(&|block| block.seconds);
        (seconds > 0.0).then(|| total(&|block| block.predictions) / seconds)
    }

    /// Joules of a thousand predictions; `None` when unknown, or below what the meter can tell.
    pub(crate) fn joules_per_1k(blocks: &[Block], rounds: &[usize]) -> Option<f64> {
        let joules: Option<Joules> = rounds.iter().map(|&r| blocks[r].joules).sum();
        let predictions: f64 = rounds.iter().map(|&r| blocks[r].predictions).sum();
        let joules = joules.filter(|joules| joules.0 > 0.0)?;
        Some(per_thousand(joules.0, predictions))
    }

    /// A figure of one model, or of the candidate over the champion, with its interval.
    pub(crate) fn figure(
        &self,
        of: fn(&[Block], &[usize]) -> Option<f64>,
        ratio: bool,
        how: Resampling<'_>,
    ) -> Option<Bootstrapped> {
        bootstrap(&Cells::each(self.candidate.len()), how, |weights| {
            let rounds: Vec<usize> = drawn(weights).collect();
            let candidate = of(&self.candidate, &rounds)?;
            if ratio { Some(candidate / of(&self.champion, &rounds)?) } else { Some(candidate) }
        })
    }

    pub(crate) fn all_rounds(&self) -> Vec<usize> {
        (0..self.candidate.len()).collect()
    }
}
