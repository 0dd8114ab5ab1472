//! The operator's pages: rendered here, no script, nothing loaded from elsewhere.
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;
use tidegate_contracts::{CheckResult, Layer, Verdict};
use tidegate_ledger::{GenerationRecord, GenerationState, JobRecord, JobState};

use crate::api::{ApiError, Shared, find};

const STYLE: &str = include_str!("dashboard.css");

/// What the trainer keeps under `progress/<job>`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Progress {
    step: u64,
    steps: u64,
    loss: f64,
    examples_per_s: f64,
    history: Vec<(f64, f64)>,
}

fn page(title: &str, refresh: bool, body: Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if refresh { meta http-equiv="refresh" content="5"; }
                title { (title) " · tidegate" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { a href="/" { "tidegate" } nav { a href="/" { "Gate" } a href="/ledger" { "Ledger" } a href="/metrics" { "Metrics" } } }
                main { (body) }
            }
        }
    };
    axum::response::Html(markup.into_string()).into_response()
}

fn ago(time: DateTime<Utc>) -> String {
    let seconds = (Utc::now() - time).num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => time.format("%Y-%m-%d").to_string(),
    }
}

/// `/`: what serves, what waits, why, and what happened.
pub(crate) async fn home(State(c): State<Shared>) -> Result<Response, ApiError> {
    let state = c.ledger.state().await?;
    let champion = state.champion().and_then(|id| state.generation(&id));
    let candidate = state.candidate();
    let latest = state.generations().iter().rev().find(|one| one.verdict.is_some());
    let shown = candidate.filter(|one| one.verdict.is_some()).or(latest);
    let document = match shown {
        Some(one) => c.verdict_document(one).await.ok(),
        None => None,
    };
    let running = state.jobs().iter().find(|job| job.state == JobState::Running);
    let progress = match running {
        Some(job) => {
            let bytes = c.ledger.get_state(&format!("progress/{}", job.job)).await?;
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())
        }
        None => None,
    };
    let waiting = candidate.is_some_and(|one| one.state == GenerationState::NeedsApproval);
    let body = html! {
        section.facts {
            (fact("serves now", &champion.map_or_else(|| "nothing yet".into(), |one| one.id.short()),
                &champion.and_then(|one| one.promoted_at).map(ago).unwrap_or_default()))
            (fact("candidate", &candidate.map_or_else(|| "none".into(), |one| one.id.short()),
                candidate.map_or("", |one| one.state.as_str())))
            (fact("records waiting", &c.lag(&state).to_string(), "labelled, not learnt yet"))
            (fact("promotions", &state.promotions().to_string(), &format!("{} blocked", state.blocked())))
        }
        @if let Some(job) = running { (training(job, &progress.unwrap_or_default())) }
        @if let Some(one) = candidate {
            section {
                h2 { "Candidate " code { (one.id.short()) } " " (badge(one.state.as_str())) }
                @if waiting || one.verdict.is_some() { (decision_form(one)) }
            }
        }
        @if let (Some(one), Some(verdict)) = (shown, &document) { (verdict_view(one, verdict)) }
        section { h2 { "History" } (history(state.generations())) }
    };
    // A form that is being filled in must not be reloaded away.
    Ok(page("Gate", !waiting, body))
}

fn fact(name: &str, value: &str, note: &str) -> Markup {
    html! { div { span.dim { (name) } b { (value) } span.dim { (note) } } }
}

fn badge(state: &str) -> Markup {
    html! { span class={ "badge " (state) } { (state.replace('_', " ")) } }
}

fn training(job: &JobRecord, progress: &Progress) -> Markup {
    html! {
        section {
            h2 { "Learning: " (job.kind) " " span.dim { (job.reason) } }
            progress max=(progress.steps.max(1)) value=(progress.step) {}
            p.dim { "step " (progress.step) " of " (progress.steps) ", loss " (format!("{:.3}", progress.loss))
                ", " (format!("{:.0}", progress.examples_per_s)) " examples/s" }
            @if progress.history.len() > 1 { (curve(&progress.history)) }
        }
    }
}

fn curve(points: &[(f64, f64)]) -> Markup {
    let last = points.iter().map(|p| p.0).fold(1.0, f64::max);
    let top = points.iter().map(|p| p.1).filter(|v| v.is_finite()).fold(1e-9, f64::max);
    let d: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{:.1},{:.1}", x / last * 600.0, 78.0 - y / top * 74.0))
        .collect();
    html! {
        svg viewBox="0 0 600 80" role="img" aria-label="training loss by step" {
            polyline points=(d.join(" ")) fill="none" stroke="var(--accent)" stroke-width="2" {}
        }
    }
}

fn decision_form(one: &GenerationRecord) -> Markup {
    let verdict = one.verdict.as_ref().map(|v| v.id.to_string()).unwrap_or_default();
    let action = format!("/generations/{}", one.id);
    html! {
        form method="post" action=(format!("{action}/approve")) {
            input type="hidden" name="verdict" value=(verdict);
            label { "Reason, on record " input name="reason" required maxlength="500"; }
            label { "Your name " input name="actor" maxlength="80" placeholder="taken from the token where there is one"; }
            button type="submit" { "Approve" }
            button.no type="submit" formaction=(format!("{action}/reject")) { "Reject" }
        }
        @for given in &one.approvals {
            p.dim { (given.approver) " approved " (ago(given.given_at)) @if given.withdrawn { " (withdrawn)" } ": " (given.reason) }
        }
    }
}

fn verdict_view(one: &GenerationRecord, verdict: &Verdict) -> Markup {
    html! {
        section {
            h2 { "Verdict on " code { (one.id.short()) } " " (badge(verdict.outcome.as_str())) }
            p.dim {
                "Suite " (verdict.suite.name) " " (verdict.suite.version) ", " (verdict.data.earlier) " earlier and "
                (verdict.data.fresh) " fresh held-out examples, against "
                @match verdict.champion { Some(id) => { "champion " code { (id.short()) } }, None => "absolute bounds only (no champion yet)" }
                ", in " (format!("{:.1} s", verdict.seconds)) "."
            }
            @for reason in &verdict.reasons { p { (reason) } }
            div.scroll { table {
                tr { th { "layer" } th { "check" } th { "state" } th { "candidate" } th { "champion" } th { "interval and bound" } th { "n" } th { "in words" } }
                @for layer in Layer::ALL {
                    @for check in verdict.checks.iter().filter(|check| check.layer == layer) { (check_row(check)) }
                }
            } }
        }
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

fn check_row(check: &CheckResult) -> Markup {
    html! {
        tr {
            td.dim { (check.layer.as_str()) }
            td { (check.id) " " span.dim { (check.slice) } }
            td { (badge(check.state.as_str())) }
            td { (number(check.candidate)) }
            td { (number(check.baseline)) }
            td { @if let Some(interval) = check.interval { (whisker(interval)) } code { (check.rule) } }
            td { (check.n) }
            td { (check.reason) }
        }
    }
}

/// An interval as a line with its ends, around the middle of its own scale; 0 is marked.
fn whisker((low, high): (f64, f64)) -> Markup {
    let reach = low.abs().max(high.abs()).max(1e-9) * 1.15;
    let x = |value: f64| 60.0 + value / reach * 58.0;
    html! {
        svg.whisker viewBox="0 0 120 14" role="img" aria-label=(format!("{low:.4} to {high:.4}")) {
            line x1="60" x2="60" y1="0" y2="14" stroke="var(--line)" {}
            line x1=(x(low)) x2=(x(high)) y1="7" y2="7" stroke="var(--accent)" stroke-width="3" {}
            title { (format!("{low:.4} to {high:.4}")) }
        }
    }
}

fn history(generations: &[GenerationRecord]) -> Markup {
    html! {
        @if generations.is_empty() {
            p.dim { "Nothing yet: a first cold start follows when enough labelled events have come." }
        } @else {
            div.scroll { table {
                tr { th { "generation" } th { "kind" } th { "state" } th { "registered" } th { "from" } th { "why" } }
                @for one in generations.iter().rev().take(50) {
                    tr {
                        td { a href=(format!("/generations/{}", one.id)) { code { (one.id.short()) } } }
                        td { (one.kind) }
                        td { (badge(one.state.as_str())) }
                        td { (ago(one.registered_at)) }
                        td { @if let Some(parent) = one.parent { code { (parent.short()) } } @else { "scratch" } }
                        td { @if let Some(reason) = one.verdict.as_ref().and_then(|v| v.reasons.first()) { (reason) } }
                    }
                }
            } }
        }
    }
}

/// `/generations/{id}`: one generation with its verdict and lineage.
pub(crate) async fn generation(
    State(c): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let state = c.ledger.state().await?;
    let one = find(&state, &id)?;
    let document = c.verdict_document(one).await.ok();
    let manifest = c.artifacts.manifest(&one.id).await.ok();
    let body = html! {
        h1 { "Generation " code { (one.id.short()) } " " (badge(one.state.as_str())) }
        @if let Some(manifest) = &manifest {
            table {
                tr { td { "id" } td { code { (one.id) } } }
                tr { td { "parent" } td { @if let Some(parent) = manifest.parent { a href=(format!("/generations/{parent}")) { code { (parent.short()) } } } @else { "scratch" } } }
                tr { td { "job" } td { (manifest.kind) " " code { (manifest.job) } } }
                tr { td { "window" } td { (manifest.window) } }
                tr { td { "classes" } td { (manifest.labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) } }
                tr { td { "code, seed" } td { (manifest.code_version) ", " (manifest.seed) } }
                @for (name, value) in &manifest.metrics { tr { td.dim { (name) } td { (format!("{value:.4}")) } } }
                @for (name, file) in &manifest.files { tr { td.dim { (name) } td { (file.size) " bytes, " code { (file.hash.short()) } } } }
            }
        } @else { p { "Its manifest cannot be read." } }
        @if let Some(verdict) = &document { (verdict_view(one, verdict)) }
    };
    Ok(page("Generation", false, body))
}

/// `/ledger`: the newest entries, and whether the chain holds.
pub(crate) async fn ledger(State(c): State<Shared>) -> Result<Response, ApiError> {
    let report = c.verify_ledger().await?;
    let from = c.ledger.head().await?.seq.saturating_sub(199).max(1);
    let entries = c.entries(from, 200).await?.entries;
    let body = html! {
        h1 { "Ledger " @if report.ok { (badge("pass")) } @else { (badge("fail")) } }
        p.dim { (report.entries) " entries; every hash was checked for this page." }
        @for fault in &report.faults { p { (fault) } }
        div.scroll { table {
            tr { th { "seq" } th { "entry" } th { "actor" } th { "body" } }
            @for entry in entries.iter().rev() {
                tr { td { (entry.seq) } td { (entry.kind) } td { (entry.actor) } td { code { (entry.body_json) } } }
            }
        } }
    };
    Ok(page("Ledger", false, body))
}

/// A form that was refused, with the reason and a way back.
pub(crate) fn refused(error: &ApiError) -> Response {
    let body = html! { h1 { "Not done" } p { (error) } p { a href="/" { "Back" } } };
    let mut response = page("Not done", false, body);
    *response.status_mut() = StatusCode::CONFLICT;
    response
}
