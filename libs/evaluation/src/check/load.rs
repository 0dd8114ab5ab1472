//! Time, throughput, energy and carbon.
use tidegate_contracts::{CheckState, Joules, Manifest};
use tidegate_telemetry::energy::{EnergyMethod, carbon_at, grid_intensity};

use super::{Found, NotJudged, of_bootstrap, resampling};
use crate::{
    Bound, Check, Metric,
    bootstrap::Bootstrapped,
    evidence::Evidence,
    judge::Finding,
    load::{Block, Latency, Throughput},
    server::{Run, lag_allowed},
    stats::{
        Interval, hodges_lehmann, mann_whitney, nearest_rank, queries_for_quantile, under_needed,
    },
};

pub(super) fn latency(check: &Check, evidence: &Evidence<'_>) -> Found {
    let measured = &evidence.latency;
    let n = measured.n();
    if n < check.min_n {
        return Err(NotJudged::few(n, check.min_n));
    }
    let level = evidence.of.level(check);
    let q = check.metric.quantile().expect("a latency metric has a quantile");
    let of = |samples: &[[f64; 2]]| Latency::quantile(samples, q, level);
    let few = || NotJudged::new(CheckState::Insufficient, n, "the sample is too small to tell");
    let (value, interval) = of(&measured.candidate).ok_or_else(few)?;
    let baseline = of(&measured.champion).map(|(value, _)| value);
    if !check.bound.is_relative() {
        let interval = Some(interval).filter(|i| i.high.is_finite()).ok_or_else(few)?;
        return Ok(Finding {
            candidate: Some(value),
            baseline,
            estimate: value,
            interval: Some(interval),
            method: "order_statistics",
            n,
            ..Finding::default()
        });
    }
    let found = of_bootstrap(measured.ratio(q, resampling(check, evidence)), n)?;
    let note = slower(&flat(&measured.candidate), &flat(&measured.champion));
    Ok(Finding { note, ..ratio(value, baseline, found, n) })
}

fn flat(samples: &[[f64; 2]]) -> Vec<f64> {
    samples.as_flattened().to_vec()
}

/// By rank, whatever the tails are.
fn slower(candidate: &[f64], champion: &[f64]) -> String {
    let test = mann_whitney(candidate, champion);
    let by = hodges_lehmann(candidate, champion);
    test.zip(by).map_or(String::new(), |(test, by)| {
        let share = test.larger * 100.0;
        format!("; slower in {share:.0} % of pairs, by {by:.3} ms, Mann-Whitney p {:.3}", test.p)
    })
}

/// Under a load that does not wait for answers. An upper end is LoadGen's: the highest latency that
/// the answers above it, were it the bound, still leave shown.
pub(super) fn server(check: &Check, evidence: &Evidence<'_>) -> Found {
    let run = evidence.server.as_ref().ok_or_else(|| {
        let why = "nothing could be measured: no held-out example that all models read";
        NotJudged::new(CheckState::Inconclusive, 0, why)
    })?;
    let n = run.candidate.latencies_ms.len() as u64;
    let q = check.metric.quantile().expect("a latency metric has a quantile");
    let level = evidence.of.level(check);
    let baseline = run.champion.as_ref().and_then(|run| nearest_rank(&run.latencies_ms, q));
    let bound = match check.bound {
        Bound::Ceil(ceil) => Some(ceil),
        _ => baseline,
    };
    let lag = run.lag_p99_ms();
    let allowed = lag_allowed(bound.unwrap_or_default());
    if lag > allowed {
        let why = format!(
            "the load came late on this machine: p99 of {lag:.2} ms behind its schedule, at most \
             {allowed:.2} ms make a run valid"
        );
        return Err(NotJudged::new(CheckState::Inconclusive, n, why));
    }
    let value = nearest_rank(&run.candidate.latencies_ms, q);
    let (Some(value), Some(interval)) = (value, quantile_under_load(&run.candidate, q, level))
    else {
        let confidence = f64::midpoint(1.0, level);
        let why = format!(
            "{n} queries are too few for this quantile: {} are the least, {:.0} place it well; \
             raise limits.server_ms or limits.server_qps",
            1 + under_needed(1, q, confidence),
            queries_for_quantile(q, level, (1.0 - q) / 20.0)
        );
        return Err(NotJudged::new(CheckState::Insufficient, n, why));
    };
    let note = format!("; {:.0} queries a second, lag p99 {lag:.2} ms", run.qps);
    if !check.bound.is_relative() {
        return Ok(Finding {
            candidate: Some(value),
            baseline,
            estimate: value,
            interval: Some(interval),
            method: "early_stopping",
            n,
            note,
            ..Finding::default()
        });
    }
    let found = of_bootstrap(run.ratio(q, resampling(check, evidence)), n)?;
    Ok(Finding { note, ..ratio(value, baseline, found, n) })
}

fn quantile_under_load(run: &Run, q: f64, level: f64) -> Option<Interval> {
    let (low, _) = crate::stats::quantile_ranks(run.latencies_ms.len() as u64, q, level);
    let low = low.map_or(0.0, |rank| run.latencies_ms[rank as usize - 1]);
    Some(Interval::new(low, run.shown_at_most(q, f64::midpoint(1.0, level))?))
}

fn ratio(candidate: f64, baseline: Option<f64>, found: Bootstrapped, n: u64) -> Finding {
    Finding {
        candidate: Some(candidate),
        baseline,
        estimate: found.estimate,
        interval: Some(found.interval),
        method: found.method,
        n,
        ..Finding::default()
    }
}

pub(super) fn throughput(
    check: &Check,
    evidence: &Evidence<'_>,
    of: fn(&[Block], &[usize]) -> Option<f64>,
) -> Found {
    let measured = &evidence.throughput;
    let (n, all) = (measured.rounds(), measured.all_rounds());
    let relative = check.bound.is_relative();
    let value = of(&measured.candidate, &all).ok_or_else(|| {
        let why = "nothing could be measured: no examples, no time, or below what the meter tells";
        NotJudged::new(CheckState::Inconclusive, n, why)
    })?;
    let baseline = if measured.champion.is_empty() { None } else { of(&measured.champion, &all) };
    let found = measured.figure(of, relative, resampling(check, evidence));
    Ok(ratio(value, baseline, of_bootstrap(found, n)?, n))
}

/// Joules or carbon of a thousand predictions; unknown is never nothing.
pub(super) fn energy(check: &Check, evidence: &Evidence<'_>) -> Found {
    let unknown = |why: String| NotJudged::new(CheckState::Inconclusive, 0, why);
    if evidence.energy_method == EnergyMethod::None {
        return Err(unknown("this machine has no meter and no model of its energy".to_owned()));
    }
    let mut found = throughput(check, evidence, Throughput::joules_per_1k)?;
    if check.metric == Metric::Gco2ePer1k {
        let region = evidence.of.region;
        let grid = grid_intensity(region)
            .ok_or_else(|| unknown(format!("no carbon intensity is known for `{region}`")))?;
        let grams = |joules: f64| carbon_at(Joules(joules), evidence.of.pue, grid).0;
        found.candidate = found.candidate.map(grams);
        found.baseline = found.baseline.map(grams);
        if !check.bound.is_relative() {
            found.estimate = grams(found.estimate);
            found.interval = found.interval.map(|i| Interval::new(grams(i.low), grams(i.high)));
        }
    }
    Ok(found)
}

/// Joules of a training job and how they were found, from its manifest.
fn trained(manifest: &Manifest) -> Option<(f64, &str)> {
    let of = |name: &str| manifest.metrics.get(name).copied().filter(|&joules| joules > 0.0);
    // The architecture's search is a part of what a cold start took.
    let joules = of("energy_joules")? + of("search.joules").unwrap_or_default();
    let prefix = "energy_method.";
    let method = manifest.metrics.keys().find_map(|name| name.strip_prefix(prefix))?;
    (method != EnergyMethod::None.as_str()).then_some((joules, method))
}

pub(super) fn training(check: &Check, evidence: &Evidence<'_>) -> Found {
    let unknown = |why: &str| NotJudged::new(CheckState::Inconclusive, 0, why);
    let (joules, method) = trained(evidence.of.candidate.manifest)
        .ok_or_else(|| unknown("the training job does not know its energy"))?;
    let champion = evidence.of.champion.and_then(|champion| trained(champion.manifest));
    let mut found = Finding {
        candidate: Some(joules),
        baseline: champion.map(|(joules, _)| joules),
        estimate: joules,
        interval: None,
        method: "reported",
        n: 1,
        ..Finding::default()
    };
    if check.bound.is_relative() {
        let (base, other) = champion
            .ok_or_else(|| unknown("the champion's training job does not know its energy"))?;
        if other != method {
            let why = "energy was found by different methods, which are never compared";
            return Err(unknown(why));
        }
        found.estimate = joules / base;
    }
    Ok(found)
}
