//! How a candidate was tried on live requests.
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use tidegate_ledger::{
    GenerationRecord, StageEvidence, StageOutcome, StageProgress, StageRecord, StageTerms,
};

use super::words::{badge, when};

/// Every stage that `one` was in; `progress` is of the one that runs.
pub(super) fn view(
    one: &GenerationRecord,
    progress: Option<&StageProgress>,
    now: DateTime<Utc>,
) -> Markup {
    html! {
        @if !one.stages.is_empty() {
            h3 { "Stages" }
            ol.items { @for stage in &one.stages { (item(stage, progress, now)) } }
        }
    }
}

fn item(record: &StageRecord, progress: Option<&StageProgress>, now: DateTime<Utc>) -> Markup {
    let StageRecord { stage, terms, started_at, ended, .. } = record;
    let progress = progress.filter(|progress| progress.stage == *stage && ended.is_none());
    let evidence = ended.as_ref().map(|end| &end.evidence);
    html! {
        li {
            b { (stage) } " "
            (badge(ended.as_ref().map_or("running", |end| end.outcome.as_str()))) " "
            span.dim {
                (format!("{:.1} % of ", 100.0 * terms.share))
                @if *stage == tidegate_ledger::Stage::Canary { "clients" } @else { "requests" }
                ", began " (when(*started_at, now))
                @match ended {
                    Some(end) => { ", ended " (when(end.at, now)) },
                    None => { ", ends " (when(terms.until, now)) " at the latest" },
                }
            }
            @if let Some(end) = ended { p.why { (end.reason) } }
            @if let Some(seen) = evidence.or(progress.map(|progress| &progress.evidence)) {
                (counts(seen, terms))
            }
            @if let Some(progress) = progress {
                p { "It waits for " (progress.waits.join("; ")) "." }
            }
        }
    }
}

fn counts(seen: &StageEvidence, terms: &StageTerms) -> Markup {
    let both = seen.requests.saturating_sub(seen.errors).max(1) as f64;
    html! {
        dl.pairs {
            dt { "requests" } dd { (seen.requests) " of " (terms.requests) ", " (seen.errors) " failed by it" }
            dt { "same answer" } dd { (format!("{:.1} %", 100.0 * seen.agreed as f64 / both)) ", drift " (seen.drift) }
            dt { "slow" } dd { (format!("{:.1} %", 100.0 * seen.slow as f64 / both)) " beyond " (terms.latency) " times the champion's time" }
            dt { "labels" } dd { (seen.labels) " of " (terms.labels) ": it alone right " (seen.better) ", the champion alone " (seen.worse) }
            dt { "log evidence" } dd { (seen.log_harm) " of harm, " (seen.log_pass) " of no loss; " (format!("{:.2}", -terms.alpha.ln())) " is enough" }
        }
    }
}

/// In a line of the history.
pub(super) fn gist(one: &GenerationRecord) -> Markup {
    html! {
        @for stage in &one.stages {
            " · " (stage.stage) " " (stage.ended.as_ref().map_or("runs", |end| match end.outcome {
                StageOutcome::Passed => "passed",
                StageOutcome::Harmful => "found harm",
                StageOutcome::Undecided => "undecided",
            }))
        }
    }
}
