//! Gaps between groups.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged, resampling, rows, table};
use crate::{Check, Groups, bootstrap::Bootstrapped, evidence::Evidence, judge::Finding};

fn groups(check: &Check, evidence: &Evidence<'_>) -> Groups {
    let over = check.over.as_deref().unwrap_or_default();
    let table = table(check, evidence);
    let value = |row: usize| evidence.of.examples[table.examples[row]].groups.get(over).cloned();
    Groups::new(&rows(check, evidence), value, &table.candidate, check.min_n, check.min_class)
}

pub(super) fn gap(check: &Check, evidence: &Evidence<'_>) -> Found {
    let (groups, table) = (groups(check, evidence), table(check, evidence));
    let n = groups.n();
    let metric = check.metric;
    let undefined = || {
        let large = groups.names.len();
        let small: Vec<String> =
            groups.small.iter().take(8).map(|(name, n)| format!("{name} has {n}")).collect();
        let why = format!(
            "{large} groups are large enough (at least {} examples each): two are needed{}{}",
            check.min_n,
            if small.is_empty() { "" } else { "; " },
            small.join(", ")
        );
        NotJudged::new(CheckState::Insufficient, n, why)
    };
    let how = resampling(check, evidence);
    let candidate = groups.gap(metric, &table.candidate).ok_or_else(undefined)?;
    let baseline = table.champion.as_ref().and_then(|scored| groups.gap(metric, scored));
    let found = match (&table.champion, check.bound.is_relative()) {
        (Some(champion), true) => groups.change(metric, &table.candidate, champion, how),
        _ => groups.interval(metric, &table.candidate, how),
    };
    let Bootstrapped { estimate, interval, method } = found.ok_or_else(undefined)?;
    let interval = Some(interval);
    let candidate = Some(candidate);
    Ok(Finding { candidate, baseline, estimate, interval, method, n, ..Finding::default() })
}

pub(super) fn gap_chance(check: &Check, evidence: &Evidence<'_>) -> Option<f64> {
    let permutations = evidence.of.suite.limits().permutations;
    let candidate = &table(check, evidence).candidate;
    groups(check, evidence).chance(check.metric, candidate, permutations, evidence.of.seed)
}
