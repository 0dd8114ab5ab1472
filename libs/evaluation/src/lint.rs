//! What a suite can tell, before it is trusted.
use serde::Serialize;
use tidegate_contracts::{Layer, Severity};

use crate::{
    Bound, Check, Frozen, Line, Metric, Slice, Suite, Under,
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
    /// Examples that are reckoned with.
    pub n: u64,
    /// The rule in force for so many examples.
    pub rule: String,
    /// What it can tell, in words.
    pub resolution: String,
}

impl Suite {
    /// What each check can tell on `n` held-out examples of its slice, or on as many as its frozen
    /// data has, two models of equal quality differing on 5 % of them.
    #[must_use]
    pub fn lint(&self, n: u64, frozen: &[Frozen]) -> Vec<LintLine> {
        let line = |check: &Check| {
            let n = self.rows(check, frozen).unwrap_or(n);
            LintLine {
                id: check.id.clone(),
                layer: check.layer,
                metric: check.metric.as_str().to_owned(),
                slice: check.place(),
                severity: check.severity,
                n,
                rule: rule(check, Limit::new(check, n, 2)),
                resolution: self.resolution(check, n),
            }
        };
        self.checks().iter().map(line).collect()
    }

    /// Of a check on frozen data, the examples in its slice.
    fn rows(&self, check: &Check, frozen: &[Frozen]) -> Option<u64> {
        let id = check.data.as_ref()?;
        let read = frozen.iter().find(|one| one.entry().id == *id);
        match (read, &check.slice) {
            (Some(read), Slice::Group(name, value)) => Some(read.in_group(name, value)),
            (_, _) => self.data().iter().find(|one| one.id == *id).map(|one| one.rows),
        }
    }

    fn resolution(&self, check: &Check, n: u64) -> String {
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
                // It fails below the margin where the interval is below 0 as well.
                let undecided = 1.0 - equal - normal_cdf(-(margin / error).max(reach));
                format!(
                    "passes an equal candidate {:.0} % of the time, is undecided {:.0} %; blocks a loss \
                     of {:.1} points 4 times in 5 (n {n})",
                    equal * 100.0,
                    undecided.max(0.0) * 100.0,
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
            (Family::Retention, Bound::Ceil(ceil)) => self.retention_resolution(check, ceil, n),
            (Family::Server, _) => self.server_resolution(check),
            _ => "depends on the data".to_owned(),
        }
    }

    /// Of two independent shares of 90 %.
    fn retention_resolution(&self, check: &Check, ceil: f64, n: u64) -> String {
        let error = (2.0 * 0.9 * 0.1 / n as f64).sqrt();
        let reach = z(check.level(self, Line::default()));
        let equal = normal_cdf(ceil / error - reach);
        format!(
            "passes who forgot nothing {:.0} % of the time; fails a loss of {:.1} points 4 times in 5 \
             (n {n})",
            equal * 100.0,
            (ceil + (reach + POWER_Z) * error) * 100.0
        )
    }

    /// Whether the load of the suite has as many queries as the quantile needs at least.
    fn server_resolution(&self, check: &Check) -> String {
        let limits = self.limits();
        let planned = limits.server_ms * u64::from(limits.server_qps) / 2000;
        let q = check.metric.quantile().expect("a latency metric has a quantile");
        let level = check.level(self, Line::default());
        let least = 1 + under_needed(1, q, f64::midpoint(1.0, level));
        let says = if planned < least { "nothing: " } else { "" };
        format!("{says}about {planned} queries of each of two models, at least {least} are needed")
    }
}
