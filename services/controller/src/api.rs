//! The control API over HTTP and JSON: every call of `tidegate.v1.Control` has its twin under
//! `/api/v1`. Answers are the messages of the proto in their JSON mapping; what is refused is
//! `{"error": why, "code": gRPC's word for it}`.
use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{any, get, post},
};
use futures::{Stream, StreamExt as _};
use serde::Deserialize;
use tidegate_contracts::proto::v1;

use crate::{
    caller::Caller,
    decide::{Yes, envelope},
    desk::{Answer, Desk},
    error::Refused,
    view,
};

/// A watcher with nothing to hear is told so, that proxies keep its connection.
const STILL_HERE: Duration = Duration::from_secs(15);

/// A request's or an answer's JSON.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Refused))]
struct Json<T>(T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Refused))]
pub(crate) struct Query<T>(pub(crate) T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Refused))]
pub(crate) struct Path<T>(pub(crate) T);

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Rows {
    limit: u32,
    from: u64,
}

/// What is said about a generation, by JSON or by a form.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Said {
    /// Who, where there are no tokens.
    pub(crate) actor: String,
    pub(crate) reason: String,
    /// The verdict that was read, to approve under; the newest when empty.
    pub(crate) verdict: String,
    /// Of an override: the checks that are waived, between commas.
    pub(crate) waives: String,
    /// Of an approval or override: signed with the approver's own key, a DSSE envelope as JSON.
    pub(crate) envelope: String,
}

impl Said {
    fn yes(&self, id: &str) -> Answer<Yes> {
        let (generation, verdict) = (id.to_owned(), self.verdict.clone());
        Ok(Yes { generation, verdict, envelope: envelope(&self.envelope)?, ..Yes::default() })
    }

    fn waives(&self) -> Vec<String> {
        let names = self.waives.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }
}

/// What a job is asked for with, by JSON or by a form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobWish {
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) actor: String,
    #[serde(default)]
    pub(crate) reason: String,
    /// Of a transfer: what it learns; all when empty.
    #[serde(default)]
    pub(crate) domain: String,
    /// Of a transfer: what it starts from; the champion when empty.
    #[serde(default)]
    pub(crate) source: String,
}

type Desks = State<Arc<Desk>>;

pub(crate) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/api/v1/overview", get(overview))
        .route("/api/v1/jobs", get(jobs).post(request_job))
        .route("/api/v1/generations", get(generations))
        .route("/api/v1/generations/{id}", get(generation))
        .route("/api/v1/generations/{id}/card", get(card))
        .route("/api/v1/generations/{id}/{decision}", post(decision))
        .route("/api/v1/rollback", post(rollback))
        .route("/api/v1/producers", get(producers))
        .route("/api/v1/producers/{decision}", post(producer))
        .route("/api/v1/verdicts", get(verdicts))
        .route("/api/v1/verdicts/{id}", get(verdict))
        .route("/api/v1/entries", get(entries))
        .route("/api/v1/entries/watch", get(watch))
        .route("/api/v1/ledger/verify", get(verify))
        .route("/api/{*rest}", any(unknown))
}

async fn unknown(uri: Uri) -> Refused {
    Refused::NotFound(format!("nothing is served under {}", uri.path()))
}

async fn overview(State(desk): Desks) -> Answer<Json<v1::Overview>> {
    Ok(Json(desk.overview().await?))
}

async fn jobs(State(desk): Desks, Query(rows): Query<Rows>) -> Answer<Json<v1::ListJobsResponse>> {
    Ok(Json(desk.jobs(rows.limit).await?))
}

async fn generations(
    State(desk): Desks,
    Query(rows): Query<Rows>,
) -> Answer<Json<v1::ListGenerationsResponse>> {
    Ok(Json(desk.generations(rows.limit).await?))
}

async fn generation(State(desk): Desks, Path(id): Path<String>) -> Answer<Json<v1::Generation>> {
    Ok(Json(desk.generation(&id).await?))
}

async fn card(State(desk): Desks, Path(id): Path<String>) -> Answer<Json<v1::ModelCard>> {
    Ok(Json(desk.card(&id).await?))
}

async fn verdicts(
    State(desk): Desks,
    Query(rows): Query<Rows>,
) -> Answer<Json<v1::ListVerdictsResponse>> {
    Ok(Json(desk.verdicts(rows.limit).await?))
}

async fn verdict(State(desk): Desks, Path(id): Path<String>) -> Answer<Json<v1::Verdict>> {
    Ok(Json(desk.verdict(&id).await?))
}

async fn entries(
    State(desk): Desks,
    Query(rows): Query<Rows>,
) -> Answer<Json<v1::ListEntriesResponse>> {
    Ok(Json(desk.entries(rows.from, rows.limit).await?))
}

/// Entries as server-sent events, each under its sequence number: a browser that loses the
/// connection goes on after the last one it got. An error is the last event.
async fn watch(
    State(desk): Desks,
    Query(rows): Query<Rows>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = last.map_or(rows.from, |last| last.saturating_add(1));
    let events = desk.watch(from).scan(false, |ended, entry| {
        let event = (!*ended).then(|| match entry {
            Ok(entry) => {
                let json = serde_json::to_string(&view::entry(&entry));
                let json = json.expect("an entry's view has string keys only");
                Ok(Event::default().event("entry").id(entry.seq.to_string()).data(json))
            }
            Err(error) => {
                *ended = true;
                Ok(Event::default().event("error").data(Refused::from(error).to_string()))
            }
        });
        std::future::ready(event)
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(STILL_HERE))
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Depth {
    artifacts: bool,
}

async fn verify(
    State(desk): Desks,
    Query(depth): Query<Depth>,
) -> Answer<Json<v1::VerifyLedgerResponse>> {
    Ok(Json(desk.verify(depth.artifacts).await?))
}

async fn request_job(
    State(desk): Desks,
    caller: Caller,
    Json(wish): Json<JobWish>,
) -> Answer<(StatusCode, Json<v1::RequestJobResponse>)> {
    let by = desk.by_operator(&caller, &wish.actor, &wish.reason)?;
    let order = desk.order(&wish.kind, &wish.domain, &wish.source).await?;
    let job = desk.request_job(order, by).await?;
    Ok((StatusCode::CREATED, Json(job)))
}

async fn decision(
    State(desk): Desks,
    Path((id, decision)): Path<(String, String)>,
    caller: Caller,
    Json(said): Json<Said>,
) -> Answer<Json<v1::DecisionResponse>> {
    Ok(Json(decide(&desk, &caller, &id, &decision, &said).await?))
}

/// Back to the champion before.
async fn rollback(
    State(desk): Desks,
    caller: Caller,
    Json(said): Json<Said>,
) -> Answer<Json<v1::DecisionResponse>> {
    Ok(Json(decide(&desk, &caller, "", "rollback", &said).await?))
}

/// What is said about a producer, by JSON or by a form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfProducer {
    producer: String,
    #[serde(default)]
    actor: String,
    #[serde(default)]
    reason: String,
}

async fn producers(State(desk): Desks) -> Answer<Json<v1::ProducersResponse>> {
    Ok(Json(desk.producers().await?))
}

async fn producer(
    State(desk): Desks,
    Path(decision): Path<String>,
    caller: Caller,
    Json(said): Json<OfProducer>,
) -> Answer<Json<v1::ProducersResponse>> {
    Ok(Json(decide_producer(&desk, &caller, &decision, &said).await?))
}

/// What JSON and forms lead to, of a producer.
pub(crate) async fn decide_producer(
    desk: &Desk,
    caller: &Caller,
    decision: &str,
    said: &OfProducer,
) -> Answer<v1::ProducersResponse> {
    let by = desk.by(caller, &said.actor, &said.reason)?;
    match decision {
        "quarantine" => desk.set_aside(&said.producer, true, by).await,
        "release" => desk.set_aside(&said.producer, false, by).await,
        _ => {
            Err(Refused::NotFound("no such decision: there are quarantine and release".to_owned()))
        }
    }
}

/// What JSON and forms lead to.
pub(crate) async fn decide(
    desk: &Desk,
    caller: &Caller,
    id: &str,
    decision: &str,
    said: &Said,
) -> Answer<v1::DecisionResponse> {
    let by = desk.by(caller, &said.actor, &said.reason)?;
    match decision {
        "approve" => desk.approve(said.yes(id)?, by).await,
        "override" => desk.approve(said.yes(id)?.waiving(said.waives())?, by).await,
        "reject" => desk.reject(id, by).await,
        "withdraw" => desk.withdraw(id, by).await,
        "promote" => desk.promote(id, by).await,
        "rollback" => desk.rollback(id, by).await,
        _ => {
            let known = "approve, override, reject, withdraw, promote and rollback";
            Err(Refused::NotFound(format!("no such decision: there are {known}")))
        }
    }
}
