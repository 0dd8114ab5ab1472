//! Quality of answers, of one model or of two on the same examples.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged, enough, of_bootstrap, resampling, rows, table};
use crate::{
    Asked, Baseline, Bound, Check, Metric, Scored,
    bootstrap::Bootstrapped,
    evidence::Evidence,
    judge::Finding,
    stats::{Interval, Paired, clopper_pearson, mean_of_proportions, sign_flips, wilcoxon, wilson},
};

/// The metric, and the number of the class that it is of.
fn asked(check: &Check, evidence: &Evidence<'_>, n: u64) -> Result<Asked, NotJudged> {
    let Some(class) = &check.class else { return Ok(check.metric.into()) };
    let number = evidence.classes.number(class).ok_or_else(|| {
        let why = format!("no example is of class `{class}` and no model knows it");
        NotJudged::new(CheckState::NotApplicable, n, why)
    })?;
    Ok(Asked { metric: check.metric, class: Some(number) })
}

/// A rate of one class says nothing while there are hardly any examples of that class.
fn enough_of_class(
    check: &Check,
    asked: Asked,
    scored: &Scored,
    rows: &[usize],
) -> Result<(), NotJudged> {
    let Some(class) = asked.class else { return Ok(()) };
    let among = if asked.metric == Metric::Precision { &scored.said } else { &scored.truth };
    let n = rows.iter().filter(|&&row| among[row] == class).count() as u64;
    if n >= check.min_class {
        return Ok(());
    }
    let are = if asked.metric == Metric::Precision { "are said to be" } else { "are" };
    let need = check.min_class;
    let why = format!("{n} examples {are} of this class: at least {need} are needed");
    Err(NotJudged::new(CheckState::Insufficient, n, why))
}

/// One model against an absolute bound.
pub(super) fn alone(check: &Check, evidence: &Evidence<'_>) -> Found {
    let (rows, scored) = (rows(check, evidence), &table(check, evidence).candidate);
    let n = enough(check, &rows)?;
    let asked = asked(check, evidence, n)?;
    enough_of_class(check, asked, scored, &rows)?;
    let level = evidence.of.level(check);
    let (value, interval, method) = match check.metric {
        metric if metric.is_counted() => {
            let (right, all) = scored.trials(asked, &rows);
            let value = right as f64 / all as f64;
            if check.exact {
                (value, clopper_pearson(right, all, level), "clopper_pearson")
            } else {
                (value, wilson(right, all, level), "wilson")
            }
        }
        Metric::Asr => {
            let (broken, all) = scored.broken(&rows);
            if all < check.min_n {
                return Err(NotJudged::few(all, check.min_n));
            }
            (broken as f64 / all as f64, wilson(broken, all, level), "wilson")
        }
        Metric::BalancedAccuracy => {
            let recalls = scored.recalls(&rows);
            if matches!(check.bound, Bound::AboveChance(_)) && recalls.len() < 2 {
                let why = "all examples are of one class, so nothing is above chance";
                return Err(NotJudged::new(CheckState::Insufficient, n, why));
            }
            let mean = mean_of_proportions(&recalls, level);
            let (value, interval) = mean.expect("only classes with examples are counted");
            (value, interval, "wilson_mover")
        }
        Metric::AccuracyOverMajority => {
            let pair = scored.over_majority(&rows);
            (pair.difference(), pair.newcombe(level), "newcombe_paired")
        }
        _ => {
            let found = scored.interval(asked, &rows, resampling(check, evidence));
            parts(of_bootstrap(found, n)?)
        }
    };
    Ok(Finding {
        candidate: Some(value),
        estimate: value,
        interval: Some(interval),
        method,
        n,
        ..Finding::default()
    })
}

const fn parts(found: Bootstrapped) -> (f64, Interval, &'static str) {
    (found.estimate, found.interval, found.method)
}

/// Both models on the same examples.
pub(super) fn versus(check: &Check, evidence: &Evidence<'_>) -> Found {
    let (rows, table) = (rows(check, evidence), table(check, evidence));
    let n = enough(check, &rows)?;
    let candidate = &table.candidate;
    let baseline = match check.versus {
        Baseline::Champion => &table.champion,
        Baseline::Anchor => &table.anchor,
    };
    let baseline = baseline.as_ref().expect("a relative check runs with a baseline only");
    let asked = asked(check, evidence, n)?;
    enough_of_class(check, asked, candidate, &rows)?;
    let (estimate, interval, method, note) = if check.metric.is_right_or_wrong() {
        let right = |scored: &Scored, row| scored.is_hit(check.metric, row);
        let pairs = rows.iter().map(|&row| (right(candidate, row), right(baseline, row)));
        let pair = Paired::count(pairs);
        let note = format!(
            "; {} won and {} lost, McNemar p {:.3}, mid-p {:.3}",
            pair.only_candidate,
            pair.only_baseline,
            pair.mcnemar(),
            pair.mcnemar_mid()
        );
        (pair.difference(), pair.newcombe(evidence.of.level(check)), "newcombe_paired", note)
    } else {
        let how = resampling(check, evidence);
        let found = if matches!(check.bound, Bound::Ratio(_)) {
            candidate.ratio(baseline, asked, &rows, how)
        } else {
            candidate.difference(baseline, asked, &rows, how)
        };
        let (estimate, interval, method) = parts(of_bootstrap(found, n)?);
        (estimate, interval, method, paired_note(check, evidence, &rows, candidate, baseline))
    };
    Ok(Finding {
        candidate: candidate.value(asked, &rows),
        baseline: baseline.value(asked, &rows),
        estimate,
        interval: Some(interval),
        method,
        n,
        note,
        ..Finding::default()
    })
}

/// Of metrics that are a mean or a median over examples: how probable so large a difference would be
/// if it were chance which model answered what.
fn paired_note(
    check: &Check,
    evidence: &Evidence<'_>,
    rows: &[usize],
    candidate: &Scored,
    baseline: &Scored,
) -> String {
    let difference =
        |&row: &usize| Some(candidate.loss(check.metric, row)? - baseline.loss(check.metric, row)?);
    let Some(differences) = rows.iter().map(difference).collect::<Option<Vec<f64>>>() else {
        return String::new();
    };
    if check.metric == Metric::MedianAe {
        let test = wilcoxon(&differences);
        return test.map_or(String::new(), |(_, p)| format!("; Wilcoxon p {p:.3}"));
    }
    let (count, seed) = (evidence.of.suite.limits().permutations, evidence.of.seed);
    let p = sign_flips(&differences, true, count, seed);
    p.map_or(String::new(), |p| format!("; permutation p {p:.3}"))
}
