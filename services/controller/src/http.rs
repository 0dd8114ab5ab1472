//! The control API as HTTP/JSON, and the dashboard's pages and forms.
use axum::{
    Form, Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tidegate_contracts::{AccessError, Role};

use crate::{
    api::{ApiError, Shared, kind},
    dashboard,
};

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Access(AccessError::Forbidden { .. }) => StatusCode::FORBIDDEN,
            Self::Access(_) => StatusCode::UNAUTHORIZED,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Refused(_) => StatusCode::CONFLICT,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Page {
    limit: u32,
    from: u64,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Decision {
    reason: String,
    actor: String,
    verdict: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobRequest {
    kind: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    actor: String,
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

type Answer = Result<Response, ApiError>;

pub(crate) fn router(controller: Shared) -> Router {
    Router::new()
        .route("/", get(dashboard::home))
        .route("/generations/{id}", get(dashboard::generation))
        .route("/generations/{id}/{decision}", post(form))
        .route("/ledger", get(dashboard::ledger))
        .route("/api/v1/overview", get(overview))
        .route("/api/v1/jobs", get(jobs).post(request_job))
        .route("/api/v1/generations", get(generations))
        .route("/api/v1/generations/{id}", get(generation))
        .route("/api/v1/generations/{id}/{decision}", post(decision))
        .route("/api/v1/verdicts", get(verdicts))
        .route("/api/v1/verdicts/{id}", get(verdict))
        .route("/api/v1/entries", get(entries))
        .route("/api/v1/ledger/verify", get(verify))
        .layer(DefaultBodyLimit::max(64 << 10))
        .layer(middleware::from_fn_with_state(controller.clone(), guard))
        .with_state(controller)
}

/// Reading needs a viewer; changing state from a browser needs our own page, since on loopback
/// there is no token that another site's page would lack.
async fn guard(State(controller): State<Shared>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if let Err(error) = controller.caller(authorization(headers), Role::Viewer, "") {
        return error.into_response();
    }
    if request.method() != Method::GET && request.method() != Method::HEAD && foreign(headers) {
        let error = "a page of another site may not decide here";
        return (StatusCode::FORBIDDEN, Json(json!({ "error": error }))).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; \
                  form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a browser says that another site's page sent this.
fn foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => origin.split("://").nth(1) != Some(host),
        // No browser leaves both out of a post; a program that does is no browser.
        (None, _) => false,
        (Some(_), None) => true,
    }
}

async fn overview(State(c): State<Shared>) -> Answer {
    Ok(Json(c.overview().await?).into_response())
}

async fn jobs(State(c): State<Shared>, Query(page): Query<Page>) -> Answer {
    Ok(Json(c.jobs(page.limit).await?).into_response())
}

async fn generations(State(c): State<Shared>, Query(page): Query<Page>) -> Answer {
    Ok(Json(c.generations(page.limit).await?).into_response())
}

async fn generation(State(c): State<Shared>, Path(id): Path<String>) -> Answer {
    Ok(Json(c.generation(&id).await?).into_response())
}

async fn verdicts(State(c): State<Shared>, Query(page): Query<Page>) -> Answer {
    Ok(Json(c.verdicts(page.limit).await?).into_response())
}

async fn verdict(State(c): State<Shared>, Path(id): Path<String>) -> Answer {
    Ok(Json(c.verdict(&id).await?).into_response())
}

async fn entries(State(c): State<Shared>, Query(page): Query<Page>) -> Answer {
    Ok(Json(c.entries(page.from, page.limit).await?).into_response())
}

async fn verify(State(c): State<Shared>) -> Answer {
    Ok(Json(c.verify_ledger().await?).into_response())
}

async fn request_job(
    State(c): State<Shared>,
    headers: HeaderMap,
    Json(asked): Json<JobRequest>,
) -> Answer {
    let actor = c.caller(authorization(&headers), Role::Operator, &asked.actor)?;
    let job = c.request_job(kind(&asked.kind)?, actor, &asked.reason).await?;
    Ok((StatusCode::CREATED, Json(job)).into_response())
}

async fn decision(
    State(c): State<Shared>,
    Path((id, decision)): Path<(String, String)>,
    headers: HeaderMap,
    Json(asked): Json<Decision>,
) -> Answer {
    decide(&c, &id, &decision, &headers, &asked).await
}

/// The dashboard's buttons; back to the page afterwards.
async fn form(
    State(c): State<Shared>,
    Path((id, decision)): Path<(String, String)>,
    headers: HeaderMap,
    Form(asked): Form<Decision>,
) -> Answer {
    match decide(&c, &id, &decision, &headers, &asked).await {
        Ok(_) => Ok(Redirect::to("/").into_response()),
        Err(error) => Ok(dashboard::refused(&error)),
    }
}

async fn decide(
    c: &Shared,
    id: &str,
    decision: &str,
    headers: &HeaderMap,
    asked: &Decision,
) -> Answer {
    let by = c.by(authorization(headers), &asked.actor, &asked.reason)?;
    let response = match decision {
        "approve" => c.approve(id, &asked.verdict, by).await?,
        "reject" => c.reject(id, by).await?,
        "withdraw" => c.withdraw(id, by).await?,
        "promote" => c.promote(id, by).await?,
        "rollback" => c.rollback(id, by).await?,
        other => {
            let known = "approve, reject, withdraw, promote, rollback";
            return Err(ApiError::NotFound(format!("`{other}` is no decision: {known}")));
        }
    };
    Ok(Json(response).into_response())
}
