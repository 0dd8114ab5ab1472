//! One generation: where it stands, what was found, where it comes from.
use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use tidegate_contracts::{Manifest, SearchLog};
use tidegate_ledger::{GenerationRecord, State as Ledger};

use super::{
    Frame, forms, inside, producers, stages, verdict,
    words::{amount, badge, gate, link, plain, when},
};
use crate::{
    api::{Path, Query},
    caller::Caller,
    desk::{Answer, Desk},
    find, policy,
};

/// Ancestors shown.
const ANCESTORS: usize = 12;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Shown {
    done: String,
}

/// The model card as a file.
pub(super) async fn card(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
) -> Answer<Response> {
    let markdown = desk.card(&id).await?.markdown;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], markdown).into_response())
}

pub(super) async fn show(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Query(shown): Query<Shown>,
    caller: Caller,
) -> Answer<Response> {
    let state = desk.ledger.state().await?;
    let (one, now) = (find::generation(&state, &id)?, Utc::now());
    let document = match &one.verdict {
        Some(_) => Some(desk.document(one).await),
        None => None,
    };
    let manifest = desk.manifest(one).await;
    let (diagnosis, search) = match &manifest {
        Some(manifest) => (desk.diagnosis(one, manifest).await, desk.search(one, manifest).await),
        None => (None, None),
    };
    let stage = desk.stage_progress(one).await;
    let stands = policy::gate(&state, one, &desk.config.policy, now);
    let body = html! {
        h1 { "Generation " code { (one.id.short()) } " " (badge(one.state.as_str())) }
        (forms::done(&shown.done))
        (forms::overridden(one))
        @if let Some(Ok(document)) = &document { (verdict::summary(document, stands.is_undecided())) }
        p.dim { a href=(format!("/generations/{}/card.md", one.id)) { "Model card" } }
        section {
            h2 { "Decision" }
            (gate(&stands.words(), one))
            (stages::view(one, stage.as_ref(), now))
            @if let Some(Ok(document)) = &document { (producers::proposed(&desk, &caller, &state, one, document)) }
            (forms::decisions(&desk, &caller, &state, one, now))
        }
        @match &document {
            None => {},
            Some(Ok(document)) => section { h2 { "Verdict " (badge(document.outcome.as_str())) } (verdict::view(document)) },
            Some(Err(error)) => section { h2 { "Verdict" } p.refusal { (error) } },
        }
        @if let Some((manifest, diagnosis)) = manifest.as_ref().zip(diagnosis.as_ref()) {
            section { h2 { "Inside its job" } (inside::view(manifest, diagnosis)) }
        }
        section { h2 { "Lineage" } (lineage(&state, one, now)) }
        @if let Some(search) = &search { section { h2 { "Architecture search" } (searched(search)) } }
        section { h2 { "Manifest" }
            @match &manifest {
                Some(manifest) => (contents(manifest)),
                None => p.refusal { "Its manifest cannot be read from the artifact store; the service's log says why." },
            }
        }
    };
    let title = format!("Generation {}", one.id.short());
    let frame = Frame { desk: &desk, caller: &caller, title: &title, here: "", refresh: false };
    Ok(frame.around(&body))
}

fn lineage(state: &Ledger, one: &GenerationRecord, now: DateTime<Utc>) -> Markup {
    let parent = |one: &GenerationRecord| one.parent.and_then(|id| state.generation(&id));
    let ancestors: Vec<_> =
        std::iter::successors(parent(one), |one| parent(one)).take(ANCESTORS + 1).collect();
    let children: Vec<_> =
        state.generations().iter().filter(|other| other.parent == Some(one.id)).collect();
    html! {
        dl.pairs {
            dt { "job" } dd { (plain(one.kind.as_str())) " " code { (one.job) } }
            dt { "learnt from" } dd { (one.window) @if one.quarantined { " (set aside)" } }
            dt { "registered" } dd { (when(one.registered_at, now)) }
            @if let Some(judged) = &one.verdict { dt { "judged" } dd { (when(judged.issued_at, now)) " by " (judged.suite) } }
            @if let Some(at) = one.promoted_at { dt { "promoted" } dd { (when(at, now)) } }
            @if let Some(at) = one.swapped_at { dt { "first served" } dd { (when(at, now)) } }
            dt { "started from" }
            dd {
                @if one.parent.is_none() { "nothing" }
                @if let Some(parent) = one.parent.filter(|_| ancestors.is_empty()) {
                    code { (parent.short()) } " of another model"
                }
                @for (i, one) in ancestors.iter().take(ANCESTORS).enumerate() {
                    @if i > 0 { " ← " } (link(&one.id))
                }
                @if ancestors.len() > ANCESTORS { " ← …" }
            }
            @if !children.is_empty() {
                dt { "led to" }
                dd { @for one in children { (link(&one.id)) " " (badge(one.state.as_str())) " " } }
            }
        }
    }
}

/// Every candidate, the winner first.
fn searched(log: &SearchLog) -> Markup {
    let mut all: Vec<_> = log.candidates.iter().enumerate().collect();
    all.sort_by_key(|(at, one)| {
        (Some(*at) != log.winner, std::cmp::Reverse(one.scores.len()), *at)
    });
    html! {
        p {
            (log.candidates.len()) " architectures, judged by " (log.held_back) " examples that none of \
            them learnt from; one in " (log.eta) " was kept of each rung."
            @if let Some(budget) = &log.ended_by { " It was ended early by " (budget) "." }
        }
        ol.items {
            @for (at, one) in all {
                li {
                    b { "candidate " (at) } ": " (one.describe()) " "
                    span.dim { (one.active) " parameters a token, " (one.parameters) " in all" }
                    @for score in &one.scores {
                        " · " (format!("{:.4}", score.accuracy)) " after " (score.steps) " steps"
                    }
                    @match &one.dropped {
                        Some(why) => p.why { (why) },
                        None => p.why { b { "It won." } },
                    }
                }
            }
        }
    }
}

fn contents(manifest: &Manifest) -> Markup {
    let labels: Vec<_> = manifest.labels.iter().map(ToString::to_string).collect();
    html! {
        dl.pairs {
            dt { "id" } dd { code { (manifest.id()) } }
            dt { "classes" } dd { (labels.join(", ")) }
            dt { "code, seed" } dd { (manifest.code_version) ", " (manifest.seed) }
            dt { "trained" } dd { (manifest.created.format("%Y-%m-%d %H:%M:%S UTC")) }
            @if let Some(at) = manifest.newest_label { dt { "newest label" } dd { (at.format("%Y-%m-%d %H:%M:%S UTC")) } }
            @for (name, value) in &manifest.metrics { dt { (plain(name)) } dd { (amount(name, *value)) } }
        }
        details {
            summary { "Files" }
            dl.pairs {
                @for (name, file) in &manifest.files { dt { (name) } dd { (file.size) " bytes, " code { (file.hash) } } }
            }
        }
        details { summary { "Recipe" } pre { (manifest.recipe) } }
    }
}
