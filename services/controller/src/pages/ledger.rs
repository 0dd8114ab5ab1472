//! The ledger, newest first, and the check of its chain.
use std::sync::Arc;

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use tidegate_contracts::proto::v1;
use tidegate_ledger::{Entry, Fact, PromotedBy};

use super::{
    Frame,
    words::{badge, plain, when},
};
use crate::{
    api::Query,
    caller::Caller,
    desk::{Answer, Desk},
};

/// Entries on a page.
const SHOWN: u64 = 100;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Shown {
    /// Entries up to this one; the newest when 0.
    to: u64,
    /// Check every hash. Reads the whole ledger, so only when asked.
    check: bool,
}

pub(super) async fn show(
    State(desk): State<Arc<Desk>>,
    Query(shown): Query<Shown>,
    caller: Caller,
) -> Answer<Response> {
    let head = desk.ledger.head().await?;
    let to = if shown.to == 0 { head.seq } else { shown.to.min(head.seq) };
    let from = to.saturating_sub(SHOWN - 1).max(1);
    let count = usize::try_from(to + 1 - from.min(to + 1)).unwrap_or_default();
    let entries = desk.ledger.read(from, count).await?;
    let report = if shown.check { Some(desk.verify(false).await?) } else { None };
    let now = Utc::now();
    let body = html! {
        h1 { "Ledger" }
        p { (head.seq) " entries; the newest is " code { (head.hash.short()) } ". Each carries the hash of the one before: a change of the past shows." }
        @match &report {
            Some(report) => (checked(report)),
            None => p { a.button href="/ledger?check=true" { "Check every hash and signature" } },
        }
        ol.items reversed start=(to) { @for entry in entries.iter().rev() { (item(entry, now)) } }
        nav.pages aria-label="Older and newer" {
            @if to < head.seq { a href=(format!("/ledger?to={}", (to + SHOWN).min(head.seq))) { "Newer" } }
            @if from > 1 { a href=(format!("/ledger?to={}", from - 1)) { "Older" } }
        }
    };
    let refresh = false;
    let frame = Frame { desk: &desk, caller: &caller, title: "Ledger", here: "/ledger", refresh };
    Ok(frame.around(&body))
}

fn checked(report: &v1::VerifyLedgerResponse) -> Markup {
    html! {
        p role="status" { (badge(if report.ok { "pass" } else { "fail" })) " " (report.entries) " entries and " (report.signatures) " signatures were checked just now. `tidegate ledger verify` also reads all that they name." }
        @for fault in &report.faults { p.refusal { (fault) } }
    }
}

fn item(entry: &Entry, now: DateTime<Utc>) -> Markup {
    let body = serde_json::to_string_pretty(&entry.fact).expect("a fact has string keys only");
    html! {
        li {
            details {
                summary {
                    span.dim { (entry.seq) " " } b { (entry.fact.kind()) } " " (gist(&entry.fact))
                    span.dim { " " (entry.actor) ", " (when(entry.time, now)) }
                }
                pre { (body) }
                dl.pairs {
                    dt { "hash" } dd { code { (entry.hash) } }
                    dt { "before" } dd { code { (entry.prev) } }
                    dt { "token" } dd { (entry.token) }
                }
            }
        }
    }
}

/// What a line of the ledger is about, in a few words; the whole is under it.
fn gist(fact: &Fact) -> String {
    match fact {
        Fact::JobRequested { kind, reason, domain, .. } => {
            let of = domain.as_ref().map(|domain| format!(" of {domain}")).unwrap_or_default();
            format!("{}{of}: {reason}", plain(kind.as_str()))
        }
        Fact::JobStarted { attempt, window, .. } => format!("attempt {attempt} on {window}"),
        Fact::CheckpointWritten { step, .. } => format!("at step {step}"),
        Fact::CandidateRegistered { generation, kind, .. } => {
            format!("{} by {}", generation.short(), plain(kind.as_str()))
        }
        Fact::JobFailed { reason, .. } => reason.clone(),
        Fact::VerdictIssued { generation, outcome, .. } => {
            format!("{}: {}", generation.short(), plain(outcome.as_str()))
        }
        Fact::WindowQuarantined { generation, window, .. } => {
            format!("{window}, of {}", generation.short())
        }
        Fact::ApprovalGiven { generation, reason, waives, .. } if !waives.is_empty() => {
            format!("{}, waives {}: {reason}", generation.short(), waives.join(", "))
        }
        Fact::ApprovalGiven { generation, reason, .. }
        | Fact::ApprovalWithdrawn { generation, reason }
        | Fact::CandidateRejected { generation, reason } => {
            format!("{}: {reason}", generation.short())
        }
        Fact::Promoted { generation, by, .. } => {
            let by = match by {
                PromotedBy::Policy => "policy",
                PromotedBy::Approval => "approval",
                PromotedBy::Override => "override",
            };
            format!("{} by {by}", generation.short())
        }
        Fact::RolledBack { to, from, reason, .. } => {
            format!("from {} to {}: {reason}", from.short(), to.short())
        }
        Fact::ProducerQuarantined { producer, reason }
        | Fact::ProducerReleased { producer, reason } => format!("{producer}: {reason}"),
        Fact::Checkpointed { size, root, .. } => {
            format!("root {} over {size} entries", root.short())
        }
        Fact::HarmFound { generation, reason, .. } => format!("{}: {reason}", generation.short()),
        Fact::StageStarted { generation, stage, terms, .. } => {
            let percent = 100.0 * terms.share;
            format!("{} in {stage}, {percent:.1} % of requests", generation.short())
        }
        Fact::StageEnded { generation, stage, outcome, reason, .. } => {
            format!("{} {stage} {}: {reason}", generation.short(), outcome.as_str())
        }
        Fact::Swapped { gateway, generation, prepare } => {
            format!("{} on {gateway}, prepared in {prepare:.0}", generation.short())
        }
    }
}
