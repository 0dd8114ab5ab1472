//! What a suite can tell, before it is trusted.
use serde::Serialize;
use tidegate_contracts::{Layer, Severity};

use crate::{
    Bound, Line, Metric, Suite, Under,
    judge::{Limit, rule},
    metric::{Answers, Family},
    stats::{normal_cdf, under_needed, wilson, z},
};

/// Share of examples on which two models of the same quality are taken to differ.
const DISCORDANCE: f64 = 0.05;
/// The one-sided power that a detectable effect is stated for: 80 %.
const POWER_Z: f64 = 0.841_6;

/// One check, and what it can tell on so many examples.
#[derive(Debug, Clone, Serialize)]
pub struct LintLine {
    /// The check's id.
    pub id: String,
    /// Its layer.
    pub layer: Layer,
    /// Its metric.
    pub metric: String,
    /// Its slice.
    pub slice: String,
    /// What a failure does.
    pub severity: Severity,
    /// The rule in force for so many examples.
    pub rule: String,
    /// What it can tell, in words.
    pub resolution: String,
}

impl Suite {
    /// What each check can tell on `n` examples of its slice, two models of equal quality
    /// differing on 5 % of them.
    #[must_use]
    pub fn lint(&self, n: u64) -> Vec<LintLine> {
        self.checks()
            .iter()
            .map(|check| LintLine {
                id: check.id.clone(),
                layer: check.layer,
                metric: check.metric.as_str().to_owned(),
                slice: check.place(),
                severity: check.severity,
                rule: rule(check, Limit::new(check, n, 2)),
                resolution: self.resolution(check, n),
            })
            .collect()
    }

    fn resolution(&self, check: &crate::Check, n: u64) -> String {
        if check.metric.has_slices() && n < check.min_n {
            return format!("nothing: {n} examples, {} are needed", check.min_n);
        }
        // The robust layer sees a bounded sample.
        let limits = self.limits();
        let most = match check.under {
            Some(Under::Attacked(_)) => limits.attack_rows,
            Some(_) => limits.perturbed_rows,
            None if check.metric.is_robust() => limits.perturbed_rows,
            None => usize::MAX,
        };
        let n = n.min(most as u64);
        if check.metric.has_slices() && n < check.min_n {
            return format!("nothing: {n} examples at most, {} are needed", check.min_n);
        }
        // What two models of equal quality differ by is known of shares of right answers only.
        let counts = check.metric.is_share()
            && check.metric.answers() == Answers::Classes
            && !matches!(check.metric, Metric::Asr | Metric::CorruptionError);
        match (check.metric.family(), check.bound) {
            (Family::Quality, Bound::Margin(margin)) if counts => {
                let error = (DISCORDANCE / n as f64).sqrt();
                let (reach, margin) = (z(check.level(self, Line::default())), margin.at(n));
                let equal = normal_cdf(margin / error - reach);
                let surely = (margin + POWER_Z * error).max((reach + POWER_Z) * error);
                format!(
                    "passes an equal candidate {:.0} % of the time; blocks a loss of {:.1} points \
                     4 times in 5 (n {n})",
                    equal * 100.0,
                    surely * 100.0
                )
            }
            (Family::Quality, Bound::Floor(_) | Bound::AboveChance(_)) if counts => {
                let level = check.level(self, Line::default());
                let likely = wilson((0.9 * n as f64) as u64, n, level);
                format!(
                    "knows 90 % to within {:.1} points (n {n})",
                    (likely.high - likely.low) * 50.0
                )
            }
            (Family::Server, _) => self.server_resolution(check),
            _ => "depends on the data".to_owned(),
        }
    }

    /// Whether the load of the suite has as many queries as the quantile needs at least.
    fn server_resolution(&self, check: &crate::Check) -> String {
        let limits = self.limits();
        let planned = limits.server_ms * u64::from(limits.server_qps) / 2000;
        let q = check.metric.quantile().expect("a latency metric has a quantile");
        let level = check.level(self, Line::default());
        let least = 1 + under_needed(1, q, f64::midpoint(1.0, level));
        let says = if planned < least { "nothing: " } else { "" };
        format!("{says}about {planned} queries of each of two models, at least {least} are needed")
    }
}
