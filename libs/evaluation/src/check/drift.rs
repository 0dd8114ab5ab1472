//! How far the new window lies from what came before it.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged, of_bootstrap, resampling};
use crate::{
    Check, Metric,
    bootstrap::{Cells, Resampling, bootstrap},
    drift::{
        bin, distances_of, jensen_shannon, kolmogorov_smirnov, same_shares, stability_index, tenths,
    },
    evidence::Evidence,
    judge::Finding,
};

/// Held-out examples of earlier windows (side 0) and of the candidate's (side 1).
pub(super) fn drift(check: &Check, evidence: &Evidence<'_>) -> Found {
    let table = &evidence.clean;
    let side = |row: usize| usize::from(evidence.of.examples[table.examples[row]].fresh);
    let sides: Vec<usize> = (0..table.examples.len()).map(side).collect();
    let fresh = sides.iter().sum::<usize>();
    let least = fresh.min(sides.len() - fresh) as u64;
    if fresh == sides.len() {
        let why = "there are no earlier held-out examples to compare with";
        return Err(NotJudged::new(CheckState::NotApplicable, least, why));
    }
    if least < check.min_n.max(1) {
        return Err(NotJudged::few(least, check.min_n.max(1)));
    }
    let how = Resampling { strata: &sides, ..resampling(check, evidence) };
    let found = match (check.metric, values(check.metric, evidence)) {
        (Metric::ConfidenceKs | Metric::ConfidenceW1, values) => {
            distance(check.metric, &values, &sides, how)
        }
        (metric, values) => {
            let bins = if metric == Metric::ConfidencePsi || evidence.of.answers_numbers() {
                let earlier = values.iter().zip(&sides).filter(|(_, side)| **side == 0);
                let edges = tenths(&earlier.map(|(value, _)| *value).collect::<Vec<_>>());
                values.iter().map(|&value| bin(&edges, value)).collect()
            } else {
                table.candidate.truth.clone()
            };
            shares(metric, &bins, &sides, how)
        }
    };
    let (found, note) = found;
    let found = of_bootstrap(found, sides.len() as u64)?;
    Ok(Finding {
        candidate: Some(found.estimate),
        estimate: found.estimate,
        interval: Some(found.interval),
        method: found.method,
        n: sides.len() as u64,
        note,
        ..Finding::default()
    })
}

type Measured = (Option<crate::bootstrap::Bootstrapped>, String);

/// Labels that are numbers; or what the champion answers: of classes how sure it is. Without a
/// champion, the candidate.
fn values(metric: Metric, evidence: &Evidence<'_>) -> Vec<f64> {
    let table = &evidence.clean;
    let scored = table.champion.as_ref().unwrap_or(&table.candidate);
    match (&scored.numbers, metric) {
        (Some(numbers), Metric::LabelPsi | Metric::LabelJs) => numbers.truth.clone(),
        (Some(numbers), _) => numbers.said.clone(),
        (None, _) => scored.confidence.clone(),
    }
}

/// Of bins, or of classes.
fn shares(metric: Metric, bins: &[usize], sides: &[usize], how: Resampling<'_>) -> Measured {
    let kinds = bins.iter().max().map_or(0, |most| most + 1);
    let cells = Cells::by(bins.len(), |row| (sides[row], bins[row]));
    let counts = |weights: &[f64]| {
        let mut counts = [vec![0.0; kinds], vec![0.0; kinds]];
        for (&row, weight) in cells.rows.iter().zip(weights) {
            counts[sides[row]][bins[row]] += weight;
        }
        counts
    };
    let found = bootstrap(&cells, how, |weights| {
        let [before, after] = counts(weights).map(|side| {
            let all: f64 = side.iter().sum();
            side.into_iter().map(|count| count / all).collect::<Vec<_>>()
        });
        let of = if metric == Metric::LabelJs { jensen_shannon } else { stability_index };
        Some(of(&before, &after))
    });
    let whole: Vec<f64> = cells.counts.iter().copied().map(f64::from).collect();
    let [before, after] = counts(&whole);
    let (_, _, p) = same_shares(&before, &after);
    (found, format!("; chi-squared p {p:.3}"))
}

/// Of values as they are.
fn distance(metric: Metric, values: &[f64], sides: &[usize], how: Resampling<'_>) -> Measured {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let both = |weights: &[f64]| {
        let step = |&row: &usize| match sides[row] {
            0 => (values[row], weights[row], 0.0),
            _ => (values[row], 0.0, weights[row]),
        };
        distances_of(&order.iter().map(step).collect::<Vec<_>>())
    };
    let found = bootstrap(&Cells::each(values.len()), how, |weights| {
        let (largest, way) = both(weights)?;
        Some(if metric == Metric::ConfidenceKs { largest } else { way })
    });
    let p = both(&vec![1.0; values.len()]).map_or(1.0, |(largest, _)| {
        let fresh: usize = sides.iter().sum();
        kolmogorov_smirnov(largest, sides.len() - fresh, fresh)
    });
    (found, format!("; Kolmogorov-Smirnov p {p:.3}"))
}
