//! Small things that every page says in the same way.
use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use tidegate_contracts::GenerationId;
use tidegate_ledger::GenerationRecord;

/// A state as a coloured word with a sign, for those who do not see the colour.
pub(super) fn badge(state: &str) -> Markup {
    let (tone, sign) = match state {
        "pass" | "passed" | "auto_promote" | "succeeded" | "champion" => ("good", "✓"),
        "fail" | "harmful" | "blocked" | "rejected" | "failed" | "error" => ("bad", "✗"),
        "needs_approval" | "undecided" | "inconclusive" | "insufficient" => ("ask", "?"),
        "rolled_back" => ("bad", "↩"),
        "running" | "candidate" => ("busy", "•"),
        _ => ("", "–"),
    };
    html! { span class={ "badge " (tone) } { span aria-hidden="true" { (sign) } " " (plain(state)) } }
}

/// `needs_approval` as people write it.
pub(super) fn plain(name: &str) -> String {
    name.replace('_', " ")
}

/// What the gate says of a generation, and the reasons of its verdict or of the stage that blocks it.
pub(super) fn gate(words: &str, one: &GenerationRecord) -> Markup {
    let reasons = one.blocked_by();
    html! {
        p { b { "The gate: " } (words) "." }
        @if !reasons.is_empty() { ul.reasons { @for reason in &reasons { li { (reason) } } } }
    }
}

/// A duration in its largest unit, two digits or so.
pub(super) fn span(time: TimeDelta) -> String {
    match time.num_seconds().max(0) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// When, relative to now; exactly on a longer look.
pub(super) fn when(time: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let relative = if time > now {
        format!("in {}", span(time - now))
    } else {
        format!("{} ago", span(now - time))
    };
    let exact = time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! { time datetime=(time.to_rfc3339()) title=(exact) { (relative) } }
}

/// A generation by its first digits, as a way to its page.
pub(super) fn link(id: &GenerationId) -> Markup {
    html! { a href=(format!("/generations/{id}")) { code { (id.short()) } } }
}

/// A measured value: as many digits as are worth reading, with the unit its name tells.
pub(crate) fn amount(metric: &str, value: f64) -> String {
    let size = value.abs();
    let number = match size {
        _ if !size.is_finite() => return "–".to_owned(),
        s if s >= 100.0 => format!("{value:.0}"),
        s if s >= 10.0 => format!("{value:.1}"),
        s if s >= 1.0 => format!("{value:.2}"),
        s if s >= 0.01 || s == 0.0 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    };
    let unit = [("_ms", " ms"), ("_per_s", " /s"), ("joules", " J"), ("gco2e", " gCO₂e")];
    let unit = unit.iter().find(|(part, _)| metric.contains(part)).map_or("", |(_, unit)| unit);
    format!("{number}{unit}")
}

/// A term and what stands under it.
pub(super) fn fact(term: &str, value: &Markup, note: &Markup) -> Markup {
    html! {
        div.fact {
            dt { (term) }
            dd.value { (value) }
            dd.note { (note) }
        }
    }
}
