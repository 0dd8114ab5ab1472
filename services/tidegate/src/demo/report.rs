//! What the demo saw: the numbers for machines, and the claims they must bear out.
use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::Serialize;

use crate::infer::LoggedRequest;

/// One day of the stream.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DayReport {
    pub(crate) date: NaiveDate,
    pub(crate) mails: usize,
    pub(crate) poisoned: bool,
    /// Right answers of the champion, before it learnt the day. None before there was one.
    pub(crate) right: Option<usize>,
    /// Right answers of the first generation, never updated.
    pub(crate) right_frozen: Option<usize>,
    /// Right answers of SGD on hashed 1-2-grams, updated in the same batches.
    pub(crate) right_sgd: Option<usize>,
    /// The same, but spared the poisoned day.
    pub(crate) right_spared_sgd: Option<usize>,
    /// What became of the day's candidate: promoted, approved or blocked.
    pub(crate) decision: String,
    pub(crate) reasons: Vec<String>,
    pub(crate) generation: String,
    /// From the last label of the day to the generation that learnt it serving.
    pub(crate) freshness_s: Option<f64>,
    /// What the service used from the day before's decision to this one.
    pub(crate) energy_j: f64,
}

/// A generation the gate stopped.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Blocked {
    pub(crate) generation: String,
    pub(crate) day: NaiveDate,
    pub(crate) poisoned: bool,
    pub(crate) reasons: Vec<String>,
}

/// A yes that was given through the public interface.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Approved {
    pub(crate) generation: String,
    pub(crate) day: NaiveDate,
    pub(crate) why_asked: Vec<String>,
}

/// Accuracy and macro-F1 over predictions made before their labels were published.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Prequential {
    pub(crate) n: usize,
    pub(crate) accuracy: f64,
    pub(crate) macro_f1: f64,
}

/// The same, and from the 251st mail on, where baselines are compared.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct PrequentialReport {
    #[serde(flatten)]
    pub(crate) all: Prequential,
    pub(crate) after_first_250: Prequential,
    pub(crate) sgd_after_first_250: Prequential,
    pub(crate) spared_sgd_after_first_250: Prequential,
    pub(crate) frozen_after_first_250: Prequential,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Median and worst.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) max: f64,
}

/// A swap, and when.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Swap {
    pub(crate) at_ms: i64,
    pub(crate) generation: String,
    pub(crate) prepare_ms: f64,
}

/// Latency of the requests that were due within one second.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LatencyPoint {
    pub(crate) at_ms: i64,
    pub(crate) p50: f64,
    pub(crate) max: f64,
}

/// `report.json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) events: usize,
    pub(crate) accounted: BTreeMap<String, usize>,
    pub(crate) days: Vec<DayReport>,
    pub(crate) promotions: u64,
    pub(crate) blocked: Vec<Blocked>,
    pub(crate) approvals: Vec<Approved>,
    pub(crate) prequential: PrequentialReport,
    pub(crate) requests: usize,
    pub(crate) failed_requests: usize,
    pub(crate) swaps: usize,
    pub(crate) swap_timeline: Vec<Swap>,
    pub(crate) latency_ms: Latency,
    pub(crate) latency_during_swap_ms: Latency,
    pub(crate) latency_timeline: Vec<LatencyPoint>,
    pub(crate) freshness_s: Spread,
    pub(crate) resume_s: f64,
    pub(crate) energy_j: f64,
    pub(crate) energy_method: String,
    pub(crate) gco2e: Option<f64>,
    pub(crate) region: String,
    pub(crate) wall_s: f64,
    pub(crate) ledger_verified: bool,
    pub(crate) machine: BTreeMap<String, String>,
    /// Every claim of the demo, and whether it held.
    pub(crate) claims: Vec<Claim>,
}

/// One claim. The demo ends with exit code 0 only if all hold.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claim {
    pub(crate) claim: String,
    pub(crate) holds: bool,
}

/// Accuracy and macro-F1 of `(said, true)` pairs.
pub(crate) fn prequential<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Prequential {
    // By class: true positives, predicted, actual.
    let mut classes: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let (mut n, mut right) = (0, 0);
    for (said, truth) in pairs {
        n += 1;
        right += usize::from(said == truth);
        classes.entry(said).or_default()[1] += 1;
        classes.entry(truth).or_default()[2] += 1;
        if said == truth {
            classes.entry(truth).or_default()[0] += 1;
        }
    }
    if n == 0 {
        return Prequential::default();
    }
    let f1 = classes.values().map(|[hit, said, actual]| 2.0 * *hit as f64 / (said + actual) as f64);
    let macro_f1 = f1.sum::<f64>() / classes.len() as f64;
    Prequential { n, accuracy: right as f64 / n as f64, macro_f1 }
}

/// Percentiles by rank (nearest rank, no interpolation).
pub(crate) fn latency<'a>(requests: impl Iterator<Item = &'a LoggedRequest>) -> Latency {
    let mut all: Vec<f64> = requests.map(|request| request.latency_ms).collect();
    all.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let rank = (q * all.len() as f64).ceil() as usize;
        all.get(rank.clamp(1, all.len().max(1)) - 1).copied().unwrap_or_default()
    };
    Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
}

/// Second by second.
pub(crate) fn timeline(requests: &[LoggedRequest]) -> Vec<LatencyPoint> {
    let mut seconds: BTreeMap<i64, Vec<&LoggedRequest>> = BTreeMap::new();
    for request in requests {
        seconds.entry(request.at_ms.div_euclid(1_000)).or_default().push(request);
    }
    let point = |(second, requests): (i64, Vec<&LoggedRequest>)| {
        let Latency { p50, max, .. } = latency(requests.into_iter());
        LatencyPoint { at_ms: second * 1_000, p50, max }
    };
    seconds.into_iter().map(point).collect()
}

/// Median and maximum.
pub(crate) fn spread(mut all: Vec<f64>) -> Spread {
    all.sort_by(f64::total_cmp);
    Spread {
        p50: all.get(all.len() / 2).copied().unwrap_or_default(),
        max: all.last().copied().unwrap_or_default(),
    }
}

/// Whether a request was under way within a second of a swap.
pub(crate) fn during_swap(request: &LoggedRequest, swaps: &[Swap]) -> bool {
    let (from, to) = (request.at_ms, request.at_ms + request.latency_ms as i64);
    swaps.iter().any(|swap| from <= swap.at_ms + 1_000 && to >= swap.at_ms - 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prequential_figures_are_those_of_the_confusion_matrix() {
        let pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")];
        let figures = prequential(pairs.into_iter());
        assert!((figures.accuracy - 0.75).abs() < 1e-12);
        // F1 of a: 2/3, of b: 4/5.
        assert!((figures.macro_f1 - (2.0 / 3.0 + 0.8) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_stall_is_in_the_tail() {
        let requests: Vec<LoggedRequest> = (1..=1000)
            .map(|i| LoggedRequest {
                at_ms: i,
                latency_ms: if i == 7 { 500.0 } else { 1.0 },
                generation: None,
                error: None,
            })
            .collect();
        let latency = latency(requests.iter());
        assert!((latency.max - 500.0).abs() < 1e-9 && (latency.p50 - 1.0).abs() < 1e-9);
    }
}
