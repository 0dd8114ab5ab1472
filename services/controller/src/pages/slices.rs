//! Candidate and champion slice by slice, and the examples on which they differ.
use maud::{Markup, html};
use tidegate_contracts::{Changed, Class, ModelAnswer, SliceKind, SliceResult, Verdict};

use super::{
    chart::{self, Scale},
    words::amount,
};

/// Slices in sight; the rest unfolds.
const IN_SIGHT: usize = 12;

/// A slice's value: a share as per cent, an error in the unit of the labels.
pub(crate) fn slice_value(metric: &str, value: f64) -> String {
    if metric == "mae" { amount(metric, value) } else { format!("{:.1} %", value * 100.0) }
}

/// Slices worth a row: a domain is one only beside others.
pub(crate) fn slices_shown(verdict: &Verdict) -> Vec<&SliceResult> {
    let domains = verdict.slices.iter().filter(|one| one.kind == SliceKind::Domain).count();
    let all = verdict.slices.iter();
    all.filter(|one| domains > 1 || one.kind != SliceKind::Domain).collect()
}

/// The picture of every slice, on one scale.
pub(super) fn view(verdict: &Verdict) -> Markup {
    let slices = slices_shown(verdict);
    let Some((first, scale)) = slices.first().zip(Scale::of(&slices)) else { return html! {} };
    let measure = if first.metric == "mae" {
        "Mean absolute error, where less is better"
    } else {
        "Share of right answers"
    };
    let (from, to) = (slice_value(&first.metric, scale.from), slice_value(&first.metric, scale.to));
    let (near, far) = slices.split_at(slices.len().min(IN_SIGHT));
    html! {
        h3 { "Slice by slice" }
        p.quiet {
            (measure) ", from " (from) " at the left to " (to) " at the right. The full dot is the candidate"
            @if first.champion.is_some() {
                ", the empty one the champion; the line is where the candidate may lie, seen from the \
                 champion, at " (format!("{:.0} %", first.level * 100.0)) " confidence. Where it does not reach \
                 the empty dot, the difference is hardly chance. This informs; the checks below decide."
            } @else { ", the line where it may lie." }
        }
        (table(near, &scale))
        @if !far.is_empty() { details { summary { (far.len()) " smaller slices" } (table(far, &scale)) } }
    }
}

fn table(slices: &[&SliceResult], scale: &Scale) -> Markup {
    html! {
        table.checks.slices role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for name in ["Slice", "Champion", "Candidate", "Examples", "Beside each other"] {
                        th role="columnheader" scope="col" { (name) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for one in slices {
                    tr role="row" {
                        th role="rowheader" scope="row" { (one.slice) }
                        td.number role="cell" data-name="champion" {
                            (one.champion.map_or("–".to_owned(), |champion| slice_value(&one.metric, champion)))
                        }
                        td.number role="cell" data-name="candidate" { (slice_value(&one.metric, one.candidate)) }
                        td.number role="cell" data-name="examples" { (one.n) }
                        td role="cell" { (chart::slice(one, scale)) }
                    }
                }
            }
        }
    }
}

/// Examples that got worse, then those that got better.
pub(super) fn changed(verdict: &Verdict) -> Markup {
    let (worse, better): (Vec<_>, Vec<_>) = verdict.changed.iter().partition(|one| one.worse);
    html! {
        @if !worse.is_empty() {
            h3 { "What got worse" }
            p.quiet { "Held-out examples that the champion answers better, the candidate's surest mistakes first." }
            (list(&worse))
        }
        @if !better.is_empty() {
            details { summary { "What got better: " (better.len()) " examples" } (list(&better)) }
        }
    }
}

fn list(examples: &[&Changed]) -> Markup {
    html! {
        ul.items.examples {
            @for one in examples {
                li {
                    q { (one.excerpt) }
                    p.why {
                        "Labelled " b { (one.label) } "; the champion says " (answer(&one.champion, &one.label))
                        ", the candidate " (answer(&one.candidate, &one.label)) "."
                    }
                    span.dim {
                        (if one.fresh { "of the new window" } else { "of an earlier window" })
                        ", domain " (one.domain) ", " code { (one.id) }
                    }
                }
            }
        }
    }
}

fn answer(said: &ModelAnswer, label: &Class) -> Markup {
    html! {
        b class=[said.sure.map(|_| if said.answer == *label { "right" } else { "wrong" })] { (said.answer) }
        @if let Some(sure) = said.sure { " (" (format!("{:.0} %", sure * 100.0)) " sure)" }
    }
}
