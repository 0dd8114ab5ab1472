//! From numbers to a state and to words.
use tidegate_contracts::{CheckState, Outcome, Severity};

use crate::{
    Baseline, Bound, Check, Metric, Slice,
    stats::{Interval, normal_cdf, z},
};

/// What was found before it is judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finding {
    pub(crate) candidate: Option<f64>,
    pub(crate) baseline: Option<f64>,
    /// What the bound is about: the value, the difference or the ratio.
    pub(crate) estimate: f64,
    pub(crate) interval: Option<Interval>,
    pub(crate) method: &'static str,
    pub(crate) n: u64,
    /// More of what was seen, for the reason.
    pub(crate) note: String,
    /// Whom it is about, where it is one producer.
    pub(crate) producer: Option<String>,
    /// Of the largest of several: how probable one so large is by chance, where that is known.
    pub(crate) chance: Option<f64>,
}

/// The bound in force for `n` examples and `classes`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
    /// Loss, on the difference in the metric's own direction.
    Loss(f64),
}

impl Limit {
    pub(crate) fn new(check: &Check, n: u64, classes: usize) -> Self {
        let higher = check.metric.higher_is_better();
        match check.bound {
            Bound::Floor(floor) => Self::AtLeast(floor),
            Bound::Ceil(ceil) => Self::AtMost(ceil),
            Bound::AboveChance(more) => Self::AtLeast(1.0 / classes.max(1) as f64 + more),
            Bound::Margin(margin) => Self::Loss(margin.at(n)),
            Bound::Ratio(ratio) if higher => Self::AtLeast(1.0 / ratio),
            Bound::Ratio(ratio) => Self::AtMost(ratio),
        }
    }
}

/// The three-valued rule. A difference is in the metric's own sign.
pub(crate) fn judge(metric: Metric, limit: Limit, estimate: f64, interval: Interval) -> CheckState {
    let Interval { low, high } = interval;
    let (pass, fail) = match limit {
        Limit::AtLeast(floor) => (low >= floor, high < floor),
        Limit::AtMost(ceil) => (high <= ceil, low > ceil),
        Limit::Loss(margin) if metric.higher_is_better() => {
            (low > -margin, high < 0.0 && estimate < -margin)
        }
        Limit::Loss(margin) => (high < margin, low > 0.0 && estimate > margin),
    };
    match (pass, fail) {
        (true, _) => CheckState::Pass,
        (_, true) => CheckState::Fail,
        _ => CheckState::Inconclusive,
    }
}

/// How probable a value so far beyond the bound would be if the candidate kept to it, a difference
/// if there were none; normal, by the width of the interval. What failed is sorted by it.
pub(crate) fn chance(metric: Metric, limit: Limit, found: &Finding, level: f64) -> Option<f64> {
    let interval = found.interval?;
    let error = (interval.high - interval.low) / (2.0 * z(level));
    let beyond = match limit {
        Limit::AtLeast(floor) => floor - found.estimate,
        Limit::AtMost(ceil) => found.estimate - ceil,
        Limit::Loss(_) if metric.higher_is_better() => -found.estimate,
        Limit::Loss(_) => found.estimate,
    };
    (error > 0.0 && error.is_finite()).then(|| normal_cdf(-beyond / error))
}

/// The rule in symbols: `L` and `U` are the ends of the interval.
pub(crate) fn rule(check: &Check, limit: Limit) -> String {
    let versus = check.versus.as_str();
    let what = match check.bound {
        Bound::Margin(_) => format!("candidate - {versus}"),
        Bound::Ratio(_) => format!("candidate / {versus}"),
        _ => check.metric.as_str().to_owned(),
    };
    match limit {
        Limit::AtLeast(floor) => format!("L({what}) >= {}", number(floor)),
        Limit::AtMost(ceil) => format!("U({what}) <= {}", number(ceil)),
        Limit::Loss(margin) if check.metric.higher_is_better() => {
            format!("L({what}) > -{}", number(margin))
        }
        Limit::Loss(margin) => format!("U({what}) < {}", number(margin)),
    }
}

/// At most four digits after the point, without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(crate) fn amount(metric: Metric, value: f64) -> String {
    if metric.is_share() {
        format!("{:.1} %", value * 100.0)
    } else {
        format!("{}{}", number(value), metric.unit())
    }
}

/// Signed, in points of a hundred or the metric's unit.
fn signed(metric: Metric, value: f64) -> String {
    if metric.is_share() { format!("{:+.1}", value * 100.0) } else { format!("{value:+.4}") }
}

pub(crate) fn subject(check: &Check) -> String {
    let mut text = check.metric.words().to_owned();
    if let Some(class) = &check.class {
        text = format!("{text} of {class}");
    }
    if let Some(over) = &check.over {
        text = format!("{text} by {over}");
    }
    if let Some(under) = check.under {
        text = format!("{text} under {}", under.words());
    }
    if check.metric.has_slices() {
        text = match &check.data {
            None => format!("{text} {}", check.slice.words()),
            Some(data) if check.slice == Slice::Overall => {
                format!("{text} on frozen data `{data}`")
            }
            Some(data) => format!("{text} {} in frozen data `{data}`", check.slice.words()),
        };
    }
    match check.versus {
        Baseline::Champion => text,
        Baseline::Anchor => format!("{text}, beside the anchor,"),
    }
}

/// What happened, in words, with the numbers.
pub(crate) fn words(
    check: &Check,
    limit: Limit,
    found: &Finding,
    state: CheckState,
    level: f64,
) -> String {
    let metric = check.metric;
    let subject = subject(check);
    let percent = number(level * 100.0);
    let undecided = if state == CheckState::Inconclusive {
        "; the interval reaches past the bound, so this is undecided"
    } else {
        ""
    };
    let n = found.n;
    match check.bound {
        Bound::Margin(_) => {
            let Limit::Loss(margin) = limit else { unreachable!("a margin limits a loss") };
            let worse = if metric.higher_is_better() { -margin } else { margin };
            let moved = match found.estimate {
                d if d < 0.0 => "fell by",
                d if d > 0.0 => "rose by",
                _ => "is unchanged, by",
            };
            let size = if metric.is_share() {
                format!("{:.1} points", found.estimate.abs() * 100.0)
            } else {
                number(found.estimate.abs())
            };
            let ends = found.interval.map_or(String::new(), |i| {
                let (low, high) = (signed(metric, i.low), signed(metric, i.high));
                format!("{percent} % interval {low} to {high}, ")
            });
            let allowed = signed(metric, worse);
            format!("{subject} {moved} {size} ({ends}n {n}; allowed {allowed}){undecided}")
        }
        Bound::Ratio(_) => {
            let ends = found.interval.map_or(String::new(), |i| {
                format!("{percent} % interval {:.2} to {:.2}, ", i.low, i.high)
            });
            let allowed = match limit {
                Limit::AtLeast(floor) => format!("at least {floor:.2}"),
                Limit::AtMost(ceil) | Limit::Loss(ceil) => format!("at most {ceil:.2}"),
            };
            let (times, versus) = (found.estimate, check.versus.as_str());
            format!(
                "{subject} is {times:.2} times the {versus}'s ({ends}n {n}; allowed {allowed})\
                 {undecided}"
            )
        }
        _ => {
            let ends = found.interval.map_or(String::new(), |i| {
                let (low, high) = (amount(metric, i.low), amount(metric, i.high));
                format!("{percent} % interval {low} to {high}, ")
            });
            let need = match limit {
                Limit::AtLeast(floor) => format!("at least {} is needed", amount(metric, floor)),
                Limit::AtMost(ceil) | Limit::Loss(ceil) => {
                    format!("at most {} is allowed", amount(metric, ceil))
                }
            };
            let value = amount(metric, found.estimate);
            format!("{subject}: {value} ({ends}n {n}; {need}){undecided}")
        }
    }
}

/// Words for a check that could not be judged.
pub(crate) fn not_judged(check: &Check, why: &str) -> String {
    format!("{}: {why}", subject(check))
}

/// What a state does to the outcome.
pub(crate) const fn effect(severity: Severity, state: CheckState) -> Outcome {
    match (severity, state) {
        (Severity::Block, CheckState::Fail | CheckState::Error) => Outcome::Blocked,
        (Severity::Block, CheckState::Inconclusive | CheckState::Insufficient)
        | (Severity::Review, CheckState::Fail | CheckState::Error) => Outcome::NeedsApproval,
        _ => Outcome::AutoPromote,
    }
}
