//! A verdict: the candidate beside the champion, layer by layer.
use maud::{Markup, html};
use tidegate_contracts::{
    CheckResult, CheckState, FrozenUse, Layer, Outcome, Severity, Tier, Verdict,
};

use super::{
    chart, slices,
    words::{amount, badge, link},
};
use crate::account::Account;

/// What happened, for somebody who has not read the code, and as long as it is `undecided` what can
/// be done about it.
pub(super) fn summary(verdict: &Verdict, undecided: bool) -> Markup {
    let account = Account::of(verdict);
    let tone = match verdict.outcome {
        Outcome::AutoPromote => "good",
        Outcome::NeedsApproval => "ask",
        Outcome::Blocked => "bad",
    };
    html! {
        div class={ "headline account " (tone) } {
            p { (account.judged) }
            p { b { (account.conclusion) } }
            @if !account.because.is_empty() { ul.reasons { @for why in &account.because { li { (why) } } } }
            @if undecided {
                p { b { "What you can do: " } (account.advice.join(" ")) }
            }
        }
    }
}

/// The whole of a verdict.
pub(super) fn view(verdict: &Verdict) -> Markup {
    html! {
        ul.layers aria-label="Layers" {
            @for layer in Layer::ALL { (glance(layer, &verdict.checks)) }
        }
        (slices::view(verdict))
        (slices::changed(verdict))
        h3 { "Check by check" }
        table.checks role="table" {
            caption.quiet { "Every check, with the interval it is decided on: L and U are its lower and its upper end, the shaded side is the one to stay out of, and the dashed line is where both are equal." }
            thead role="rowgroup" {
                tr role="row" {
                    @for name in ["Check", "Champion", "Candidate", "Interval and bound", "Examples", "Found"] {
                        th role="columnheader" scope="col" { (name) }
                    }
                }
            }
            @for layer in Layer::ALL {
                @let checks: Vec<_> = of(layer, &verdict.checks).collect();
                @if !checks.is_empty() {
                    tbody role="rowgroup" id=(format!("layer-{}", layer.as_str())) {
                        tr.layer role="row" { th role="rowheader" scope="rowgroup" colspan="6" { (layer.as_str()) } }
                        @for check in checks { (row(check)) }
                    }
                }
            }
        }
        (frozen(&verdict.frozen))
        (evidence(verdict))
    }
}

/// Frozen data of the suite: who asked it, and how often it may be asked.
fn frozen(all: &[FrozenUse]) -> Markup {
    html! {
        @if !all.is_empty() {
            h3 { "Frozen data" }
            table role="table" {
                caption.quiet { "Data beside the suite. Each verdict that asks it is a query; when the budget is used up it judges nobody, and is to be rotated. Of tier gate numbers are rounded and shown where they are better than before, of tier sealed only whether a check passed." }
                thead role="rowgroup" {
                    tr role="row" {
                        @for name in ["Data", "Tier", "Examples", "Queries", "Left", "In this verdict"] {
                            th role="columnheader" scope="col" { (name) }
                        }
                    }
                }
                tbody role="rowgroup" {
                    @for one in all {
                        tr role="row" {
                            td role="cell" { b { (one.id) } " " code { (one.sha256.short()) } }
                            td role="cell" data-name="tier" { (one.tier.as_str()) }
                            td.number role="cell" data-name="examples" { (one.rows) }
                            td.number role="cell" data-name="queries" { (one.queries) " of " (one.query_budget) }
                            td.number role="cell" data-name="left" { (one.left()) }
                            td role="cell" {
                                @match &one.not_asked {
                                    Some(why) => { "not asked: " (why) },
                                    None if one.tier == Tier::Sealed => b { "opened" },
                                    None => "asked",
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn of(layer: Layer, checks: &[CheckResult]) -> impl Iterator<Item = &CheckResult> {
    checks.iter().filter(move |check| check.layer == layer)
}

/// One layer in a glance: what does not pass is counted.
fn glance(layer: Layer, checks: &[CheckResult]) -> Markup {
    let count = |states: &[CheckState]| {
        of(layer, checks).filter(|check| states.contains(&check.state)).count()
    };
    let all = of(layer, checks).count();
    let passed = count(&[CheckState::Pass]);
    let failed = count(&[CheckState::Fail, CheckState::Error]);
    let open = count(&[CheckState::Inconclusive, CheckState::Insufficient]);
    let (tone, sign) = match (failed, open) {
        _ if all == 0 => ("", "–"),
        (0, 0) => ("good", "✓"),
        (0, _) => ("ask", "?"),
        _ => ("bad", "✗"),
    };
    let mut words = format!("{passed} of {all} pass");
    for (count, word) in [(failed, "fail"), (open, "open")] {
        if count > 0 {
            words.push_str(&format!(", {count} {word}"));
        }
    }
    html! {
        li class=(tone) {
            a href=(format!("#layer-{}", layer.as_str())) {
                span aria-hidden="true" { (sign) } " " b { (layer.as_str()) }
                small { @if all == 0 { "no check" } @else { (words) } }
            }
        }
    }
}

fn row(check: &CheckResult) -> Markup {
    let value = |value: Option<f64>| value.map_or("–".to_owned(), |v| amount(&check.metric, v));
    let severity = match check.severity {
        Severity::Block => "blocks",
        Severity::Review => "asks for review",
        Severity::Warn => "informs",
    };
    html! {
        tr role="row" {
            td role="cell" {
                b { (check.id) }
                span.dim { (check.metric) " · " (check.slice) " · " (severity) }
            }
            td.number role="cell" data-name="champion" { (value(check.baseline)) }
            td.number role="cell" data-name="candidate" { (value(check.candidate)) }
            td role="cell" {
                @if let Some(picture) = chart::interval(check) { (picture) }
                code { (check.rule) }
            }
            td.number role="cell" data-name="examples" { (check.n) }
            td role="cell" { (badge(check.state.as_str())) span.dim { (check.reason) } }
        }
    }
}

/// What it rests on.
fn evidence(verdict: &Verdict) -> Markup {
    let Verdict { suite, data, energy, .. } = verdict;
    html! {
        p.dim {
            "Suite " (suite.name) " " (suite.version) ", on " (data.earlier) " earlier and "
            (data.fresh) " fresh held-out examples, "
            @match &verdict.champion {
                Some(id) => { "against champion " (link(id)) },
                None => "by absolute bounds only (there was no champion)",
            }
            ". It took " (format!("{:.1} s", verdict.seconds))
            @if let Some(joules) = energy.joules { ", " (format!("{:.0} J", joules.0)) " by " (energy.method) }
            @if let Some(grams) = energy.gco2e { ", " (format!("{:.3} gCO₂e", grams.0)) " (" (energy.region) ")" }
            "."
            @if let Some(line) = &verdict.line { " Error budget: " (line.says) "." }
            @if data.leaked > 0 { " " b { (data.leaked) " of the examples were also trained on." } }
        }
        details {
            summary { "Evidence: hashes, seed, environment" }
            dl.pairs {
                dt { "suite digest" } dd { code { (suite.digest) } }
                dt { "data digest" } dd { code { (data.digest) } }
                dt { "read from" } dd { (data.window) }
                dt { "seed" } dd { (verdict.seed) }
                @for (name, value) in &verdict.environment { dt { (name) } dd { (value) } }
            }
        }
    }
}
