//! Jobs: what was asked for, by whom, and what became of it.
use std::sync::Arc;

use axum::{
    extract::State,
    response::{Redirect, Response},
};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use tidegate_contracts::Role;
use tidegate_ledger::JobRecord;

use super::{
    Frame, forms,
    words::{badge, link, plain, span, when},
};
use crate::{
    api::{JobWish, Query},
    caller::Caller,
    desk::{Answer, Desk},
    view,
};

/// Jobs shown.
const SHOWN: usize = 100;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Shown {
    done: String,
}

pub(super) async fn show(
    State(desk): State<Arc<Desk>>,
    Query(shown): Query<Shown>,
    caller: Caller,
) -> Answer<Response> {
    let state = desk.ledger.state().await?;
    let now = Utc::now();
    let next = view::KINDS.map(|kind| desk.schedule.next(kind, now).map(|at| (kind, at)));
    let body = html! {
        h1 { "Jobs" }
        (forms::done(&shown.done))
        @if next.iter().any(Option::is_some) {
            p { "By the clock: "
                @for (i, (kind, at)) in next.iter().flatten().enumerate() {
                    @if i > 0 { ", " } "a " (plain(kind.as_str())) " " (when(*at, now))
                }
                ", if there is anything new by then." }
        }
        @if desk.may(&caller, Role::Operator) {
            details {
                summary { "Ask for a job" }
                form.decision method="post" action="/jobs" {
                    (forms::kinds(&state))
                    (forms::transfer())
                    (forms::reason(false))
                    (forms::name(&desk))
                    div.buttons { button.yes type="submit" { "Ask for it" } }
                }
            }
        }
        @if state.jobs().is_empty() { p.dim { "None yet." } }
        ol.items reversed start=(state.jobs().len()) {
            @for job in state.jobs().iter().rev().take(SHOWN) { (item(job, now)) }
        }
        @if state.jobs().len() > SHOWN { p.dim { "Older ones are in the ledger." } }
    };
    let refresh = false;
    let frame = Frame { desk: &desk, caller: &caller, title: "Jobs", here: "/jobs", refresh };
    Ok(frame.around(&body))
}

fn item(job: &JobRecord, now: DateTime<Utc>) -> Markup {
    let took = job.started.as_ref().zip(job.finished_at).map(|((at, ..), end)| span(end - *at));
    html! {
        li {
            b { (plain(job.kind.as_str())) } " " (badge(view::job_state(job.state))) " "
            span.dim {
                "asked for by " (job.requested_by) " " (when(job.requested_at, now))
                @if let Some(took) = took { " · took " (took) }
                @if job.attempts > 1 { " · " (job.attempts) " attempts" }
            }
            @if let Some(domain) = &job.domain { " of " (domain) }
            @if let Some(source) = &job.source { " from " (link(source)) }
            @if let Some(id) = &job.generation { " → " (link(id)) }
            @if !job.reason.is_empty() { p.why { (job.reason) } }
            @if let Some(failure) = &job.failure { p.refusal { (failure) } }
        }
    }
}

pub(super) async fn request(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    forms::Fields(wish): forms::Fields<JobWish>,
) -> Answer<Redirect> {
    let by = desk.by_operator(&caller, &wish.actor, &wish.reason)?;
    let order = desk.order(&wish.kind, &wish.domain, &wish.source).await?;
    desk.request_job(order, by).await?;
    Ok(Redirect::to("/jobs?done=job"))
}
