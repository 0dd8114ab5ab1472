//! How much of a finding is shown, by the tier of the data that it is of.
//!
//! Whoever sees the value of every candidate on the same data can choose candidates, or checks, by it
//! until the data says nothing any more. The Ladder (Blum and Hardt 2015, arXiv 1502.04585) shows a new
//! value only where it is better than the best one before by more than a standard error, and rounded:
//! then what many looks can find out grows with their logarithm. Exact values are kept nowhere: a verdict
//! is read by who may see the dashboard, and who has the file and the generation can compute them again.
use tidegate_contracts::{CheckState, Tier};

use crate::{
    Check,
    judge::{Finding, amount, subject},
    stats::{Interval, z},
};

/// What of a finding goes into the verdict.
pub(crate) enum Shown {
    /// All.
    Whole,
    /// Rounded to half a standard error.
    Rounded(Finding),
    /// No better than what was shown before: that again.
    Same(f64),
    /// Only whether it passed.
    Nothing,
}

impl Shown {
    /// `best`: the best value that was shown of this check so far.
    pub(crate) fn new(
        tier: Option<Tier>,
        check: &Check,
        found: &Finding,
        level: f64,
        best: Option<f64>,
    ) -> Self {
        match tier {
            None | Some(Tier::Open) => Self::Whole,
            Some(Tier::Sealed) => Self::Nothing,
            Some(Tier::Gate) => ladder(check, found, level, best),
        }
    }
}

fn ladder(check: &Check, found: &Finding, level: f64, best: Option<f64>) -> Shown {
    let error = found.interval.map_or(0.0, |i| (i.high - i.low) / (2.0 * z(level)));
    let value = found.candidate.unwrap_or(found.estimate);
    let gained =
        |best: f64| if check.metric.higher_is_better() { value - best } else { best - value };
    if let Some(best) = best.filter(|&best| gained(best) <= error) {
        return Shown::Same(best);
    }
    let step = 0.5 * error;
    let round = |value: f64| to_steps(value, step);
    Shown::Rounded(Finding {
        candidate: found.candidate.map(round),
        baseline: found.baseline.map(round),
        estimate: round(found.estimate),
        interval: found.interval.map(|i| Interval::new(round(i.low), round(i.high))),
        note: "; rounded to half a standard error".to_owned(),
        ..found.clone()
    })
}

/// The nearest multiple of `step`; as it is where that is 0.
fn to_steps(value: f64, step: f64) -> f64 {
    if step > 0.0 && step.is_finite() { (value / step).round() * step } else { value }
}

/// A share of `n` to half of its standard error, which is not below half an example.
pub(crate) fn rounded_share(share: f64, n: u64) -> f64 {
    let n = n.max(1) as f64;
    let error = (share * (1.0 - share) / n).sqrt().max(1.0 / n);
    to_steps(share, 0.5 * error).clamp(0.0, 1.0)
}

/// In words, where a value that was shown before is shown again.
pub(crate) fn same(check: &Check, best: f64) -> String {
    format!(
        "{}: not better by a standard error than {}, the best that was shown so far (tier gate shows no \
         more)",
        subject(check),
        amount(check.metric, best)
    )
}

/// In words, where nothing is shown.
pub(crate) fn sealed(check: &Check, state: CheckState) -> String {
    let did = if state == CheckState::Pass { "passed" } else { "did not pass" };
    format!("{}: it {did} (sealed data shows no more)", subject(check))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_to_half_its_standard_error() {
        // 0.9 of 400: a standard error of 0.015.
        let shown = rounded_share(0.9025, 400);
        assert!((shown - 0.9025).abs() <= 0.003_75 && (shown - 0.9025).abs() > 1e-6, "{shown}");
        assert_eq!(rounded_share(1.0, 400), 1.0);
        assert_eq!(rounded_share(0.0, 0), 0.0);
    }
}
