//! Time under a load that does not wait for answers.
//!
//! The server scenario of MLPerf's LoadGen: queries arrive at random at a constant rate, on a schedule
//! that is drawn by seed before the run. A latency counts from when its query was due, so that a
//! stall falls on everything that had to wait, and not only on the query that stalled. Queries wait
//! in one queue; what waits is answered together, as behind a gateway.
use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_model::Input;

use crate::{
    EvaluationError, Predictor,
    bootstrap::{Bootstrapped, Cells, Resampling, bootstrap},
    load::Pair,
    stats::{nearest_rank, under_needed},
};

/// What waits is answered together, up to so many.
const BATCH: usize = 32;

/// Queries of one run at most: latencies are kept raw.
const MOST_QUERIES: usize = 200_000;

/// Of what is slept before a query is due, this is left to waiting awake: sleeps end late.
const AWAKE: Duration = Duration::from_micros(150);

/// How late the load may come, by its 99th percentile, so that latencies say something of a bound:
/// 1 ms or 5 % of it, what is more.
pub(crate) fn lag_allowed(bound_ms: f64) -> f64 {
    (0.05 * bound_ms).max(1.0)
}

/// One model's latencies, sorted, and by how much the load came late; in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    pub(crate) latencies_ms: Vec<f64>,
    lags_ms: Vec<f64>,
}

impl Run {
    /// The least bound that these latencies show the quantile to be within, at a one-sided
    /// `confidence`: LoadGen's early stopping estimate, which discards one less of the highest than
    /// may lie above it. `None` where there are too few to show any.
    pub(crate) fn shown_at_most(&self, q: f64, confidence: f64) -> Option<f64> {
        let n = self.latencies_ms.len() as u64;
        let enough = |over: u64| under_needed(over, q, confidence) + over <= n;
        if !enough(1) {
            return None;
        }
        let (mut low, mut high) = (1, n);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if enough(middle) { low = middle } else { high = middle }
        }
        Some(self.latencies_ms[(n - low) as usize])
    }

    fn add(&mut self, other: Self) {
        self.latencies_ms.extend(other.latencies_ms);
        self.lags_ms.extend(other.lags_ms);
    }

    fn sort(&mut self) {
        self.latencies_ms.sort_by(f64::total_cmp);
        self.lags_ms.sort_by(f64::total_cmp);
    }
}

/// Both models under the same schedule.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) qps: f64,
    pub(crate) candidate: Run,
    pub(crate) champion: Option<Run>,
}

impl Server {
    /// Half of `budget` for each of two models, in blocks A B B A; all of it for one.
    pub(crate) fn measure(
        pair: Pair<'_>,
        inputs: &[Input],
        qps: f64,
        budget: Duration,
        seed: u64,
    ) -> Result<Option<Self>, EvaluationError> {
        if inputs.is_empty() {
            return Ok(None);
        }
        pair.warm(&inputs[..1])?;
        let turns: &[bool] =
            if pair.champion.is_some() { &[true, false, false, true] } else { &[true, true] };
        let long = budget.as_secs_f64() / turns.len() as f64;
        let mut runs = [Run::default(), Run::default()];
        let mut blocks = [0_u64; 2];
        for &turn in turns {
            let model = usize::from(!turn);
            // Both models see the same blocks.
            let schedule = schedule(qps, long, seed ^ blocks[model]);
            blocks[model] += 1;
            let (who, predictor) = pair.who(turn);
            let run = open_loop(predictor, inputs, &schedule)
                .map_err(|source| EvaluationError::Model { who, source })?;
            runs[model].add(run);
        }
        let [mut candidate, mut champion] = runs;
        candidate.sort();
        champion.sort();
        let champion = pair.champion.map(|_| champion);
        Ok(Some(Self { qps, candidate, champion }))
    }

    /// How late the load came, of both models.
    pub(crate) fn lag_p99_ms(&self) -> f64 {
        let of = |run: &Run| nearest_rank(&run.lags_ms, 0.99).unwrap_or_default();
        of(&self.candidate).max(self.champion.as_ref().map_or(0.0, of))
    }

    /// The candidate's quantile over the champion's; latencies of both are resampled apart.
    pub(crate) fn ratio(&self, q: f64, how: Resampling<'_>) -> Option<Bootstrapped> {
        let (one, other) = (&self.candidate.latencies_ms, &self.champion.as_ref()?.latencies_ms);
        let strata: Vec<usize> =
            (0..one.len() + other.len()).map(|at| usize::from(at >= one.len())).collect();
        let cells = Cells::each(strata.len());
        bootstrap(&cells, Resampling { strata: &strata, ..how }, |weights| {
            let (of_one, of_other) = weights.split_at(one.len());
            Some(weighed_quantile(one, of_one, q)? / weighed_quantile(other, of_other, q)?)
        })
    }
}

/// The quantile by the nearest rank, of sorted values that count as often as their weights.
fn weighed_quantile(sorted: &[f64], weights: &[f64], q: f64) -> Option<f64> {
    let rank = q * weights.iter().sum::<f64>();
    let mut below = 0.0;
    let at = weights.iter().position(|weight| {
        below += weight;
        *weight > 0.0 && below >= rank - 1e-9
    })?;
    sorted.get(at).copied()
}

/// When queries are due, in seconds: exponential pauses.
fn schedule(qps: f64, long: f64, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut at = 0.0;
    let next = || {
        at -= (1.0 - rng.random::<f64>()).ln() / qps;
        (at < long).then_some(at)
    };
    std::iter::from_fn(next).take(MOST_QUERIES).collect()
}

fn open_loop(
    predictor: &dyn Predictor,
    inputs: &[Input],
    schedule: &[f64],
) -> Result<Run, tidegate_model::ModelError> {
    let (issue, queue) = mpsc::channel::<usize>();
    let began = Instant::now() + Duration::from_millis(1);
    let due = |query: usize| began + Duration::from_secs_f64(schedule[query]);
    let ms_since_due = |query: usize| due(query).elapsed().as_secs_f64() * 1e3;
    std::thread::scope(|scope| {
        let serve = move || {
            let mut latencies_ms = Vec::with_capacity(schedule.len());
            while let Ok(first) = queue.recv() {
                let mut waiting = vec![first];
                waiting.extend(queue.try_iter().take(BATCH - 1));
                let batch: Vec<Input> =
                    waiting.iter().map(|query| inputs[query % inputs.len()].clone()).collect();
                predictor.predict(&batch)?;
                latencies_ms.extend(waiting.into_iter().map(ms_since_due));
            }
            Ok(latencies_ms)
        };
        let server = scope.spawn(serve);
        let mut lags_ms = Vec::with_capacity(schedule.len());
        for query in 0..schedule.len() {
            wait_until(due(query));
            lags_ms.push(ms_since_due(query));
            if issue.send(query).is_err() {
                break; // The model failed; its error comes from the join.
            }
        }
        drop(issue);
        let latencies_ms = server.join().expect("a model that answers does not panic")?;
        Ok(Run { latencies_ms, lags_ms })
    })
}

fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > AWAKE {
        std::thread::sleep(left - AWAKE);
    }
    while Instant::now() < due {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_drawn_before_the_run_and_keeps_its_rate() {
        let one = schedule(200.0, 50.0, 7);
        assert_eq!(one, schedule(200.0, 50.0, 7));
        assert!((9_600..10_400).contains(&one.len()), "{}", one.len());
        assert!(one.is_sorted() && one.iter().all(|at| *at < 50.0));
    }

    #[test]
    fn the_shown_bound_discards_as_many_as_load_gen_does() {
        let latencies_ms: Vec<f64> = (1..=662).map(f64::from).collect();
        let of = |n: usize| Run { latencies_ms: latencies_ms[..n].to_vec(), lags_ms: vec![] };
        // 662 queries are LoadGen's least for the 99th percentile, 64 for the 90th.
        assert_eq!(of(662).shown_at_most(0.99, 0.99), Some(662.0));
        assert_eq!(of(661).shown_at_most(0.99, 0.99), None);
        assert_eq!(of(64).shown_at_most(0.9, 0.99), Some(64.0));
        assert_eq!(of(63).shown_at_most(0.9, 0.99), None);
    }

    #[test]
    fn late_load_makes_no_valid_run() {
        assert_eq!(lag_allowed(10.0), 1.0);
        assert_eq!(lag_allowed(100.0), 5.0);
    }
}
