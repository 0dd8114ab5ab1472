//! What the line of candidates since the anchor may cost, and what one of them adds to it.
use tidegate_contracts::{LineEvidence, Severity};

use crate::{
    Baseline, Bound, Check, EProcess, Evaluation, Metric, Slice, check::rows, evidence::Evidence,
};

/// One side of an interval errs towards promotion.
fn alpha(of: &Evaluation<'_>) -> f64 {
    0.5 * (1.0 - of.suite.level())
}

/// What the promotions since the anchor may have cost, and what a level would be that keeps it
/// bounded for ever.
pub(crate) fn error_budget(of: &Evaluation<'_>) -> String {
    let (line, alpha) = (of.line, alpha(of));
    format!(
        "candidate {} since the anchor, {} promoted; at {alpha:.3} each at most {:.2} wrong \
         promotions are expected of them; e-LOND would test this one at {:.5}",
        line.judged + 1,
        line.promoted,
        line.expected_errors(alpha),
        line.e_lond(alpha)
    )
}

/// The evidence that a candidate is no worse than the champion by the margin, beside what e-LOND asks
/// of its place in the line; of the stream's held-out examples. None without a champion.
pub(crate) fn evidence_of(evidence: &Evidence<'_>) -> Option<LineEvidence> {
    let of = &evidence.of;
    let (champion, candidate) = (evidence.clean.champion.as_ref()?, &evidence.clean.candidate);
    let place = of.line.judged + 1;
    let none = |why: &str| {
        let says = format!("candidate {place} since the anchor: no evidence, because {why}");
        Some(LineEvidence { holds: false, says })
    };
    let Some((check, margin)) = of.suite.checks().iter().find_map(of_accuracy) else {
        return none(
            "the suite has no blocking check of accuracy beside the champion with a margin, on all \
             held-out examples of the stream",
        );
    };
    if of.answers_numbers() {
        return none("answers are numbers, whose errors have no bound");
    }
    let rows = rows(check, evidence);
    let n = rows.len() as u64;
    if n < check.min_n {
        return none(&format!("{n} examples are too few ({} are needed)", check.min_n));
    }
    let margin = margin.at(n);
    let mut process = EProcess::new(-margin.min(0.99));
    for row in rows {
        let right = |right: bool| f64::from(u8::from(right));
        process.observe(right(candidate.right(row)) - right(champion.right(row)));
    }
    let level = of.line.e_lond(alpha(of));
    let says = format!(
        "candidate {place} since the anchor, {} promoted: e-LOND asks for evidence of {:.1} (level \
         {level:.5}) that it is no worse than the champion by {:.1} points, and there is evidence of {:.1} \
         (n {n})",
        of.line.promoted,
        1.0 / level,
        100.0 * margin,
        process.log_e().exp()
    );
    Some(LineEvidence { holds: process.holds_at(level), says })
}

/// The check that says how much worse a champion may be: the first that blocks.
fn of_accuracy(check: &Check) -> Option<(&Check, crate::Margin)> {
    let Bound::Margin(margin) = check.bound else { return None };
    let fits = check.metric == Metric::Accuracy
        && check.versus == Baseline::Champion
        && check.severity == Severity::Block
        && check.slice == Slice::Overall
        && check.under.is_none();
    fits.then_some((check, margin))
}
