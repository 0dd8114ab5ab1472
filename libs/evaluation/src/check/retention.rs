//! What is still known of a frozen slice of the past.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged, enough, rows};
use crate::{Check, Metric, evidence::Evidence, judge::Finding, stats::newcombe_independent};

/// The candidate's accuracy beside that of an earlier champion, as it was when that was judged. Its
/// answers are not kept, so the two are independent samples: an interval wider than of pairs.
pub(super) fn retention(check: &Check, evidence: &Evidence<'_>) -> Found {
    let rows = rows(check, evidence);
    let n = enough(check, &rows)?;
    let scored = &evidence.clean.candidate;
    let now = (rows.iter().filter(|&&row| scored.right(row)).count() as u64, n);
    let past = evidence.frozen.as_ref().map_or(&[][..], |asked| &asked.past);
    let (before, which) = match check.metric {
        Metric::ForgettingMax => {
            (past.iter().max_by(|a, b| a.accuracy.total_cmp(&b.accuracy)), "the best so far")
        }
        _ => (past.first(), "the first that was asked"),
    };
    let Some(before) = before else {
        let why = "no champion was asked this slice of the past yet";
        return Err(NotJudged::new(CheckState::NotApplicable, n, why));
    };
    let right = (before.accuracy * before.n as f64).round() as u64;
    let then = (right.min(before.n), before.n);
    let share = |(right, n): (u64, u64)| right as f64 / n.max(1) as f64;
    let (more, less) = match check.metric {
        Metric::BackwardTransfer => (now, then),
        _ => (then, now),
    };
    let estimate = share(more) - share(less);
    Ok(Finding {
        candidate: Some(estimate),
        estimate,
        interval: Some(newcombe_independent(more, less, evidence.of.level(check))),
        method: "newcombe_independent",
        n,
        note: format!(
            "; {:.1} % now, {:.1} % by {} ({which})",
            share(now) * 100.0,
            share(then) * 100.0,
            before.generation.short()
        ),
        ..Finding::default()
    })
}
