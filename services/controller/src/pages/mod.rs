//! The dashboard: rendered here, without scripts, and nothing is loaded from elsewhere. It reads
//! and decides through the same desk as the API, and offers only what the gate would take.
mod chart;
mod forms;
mod generation;
mod history;
mod home;
mod inside;
mod jobs;
mod ledger;
mod producers;
mod session;
mod slices;
mod stages;
mod verdict;
mod words;

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{Html, IntoResponse as _, Response},
    routing::{get, post},
};
use maud::{DOCTYPE, Markup, html};
use tidegate_contracts::{ArtifactHash, CODE_VERSION};

pub use self::inside::job_report;
pub(crate) use self::{
    slices::{slice_value, slices_shown},
    words::amount,
};
use crate::{caller::Caller, desk::Desk};

const STYLE: &str = include_str!("style.css");
/// The style's name changes with its text, so that browsers may keep it.
static STYLE_PATH: LazyLock<String> =
    LazyLock::new(|| format!("/style.css?{}", ArtifactHash::of(STYLE.as_bytes()).short()));
/// The gate, as an icon.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 2v12M14 2v12M4 5h8M4 8h8' stroke='%230f766e' stroke-width='2' fill='none'/%3E%3C/svg%3E";
/// Seconds after which a page that is only watched is loaded again.
const REFRESH_S: &str = "10";

pub(crate) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/", get(home::show))
        .route("/generations/{id}", get(generation::show))
        .route("/generations/{id}/card.md", get(generation::card))
        .route("/generations/{id}/{decision}", post(forms::decide))
        .route("/producers/{decision}", post(producers::decide))
        .route("/jobs", get(jobs::show).post(jobs::request))
        .route("/ledger", get(ledger::show))
        .route("/sign-in", get(session::show).post(session::sign_in))
        .route("/sign-out", post(session::sign_out))
        .route("/style.css", get(style))
}

/// Whether a page is shown to whoever asks: it tells nothing.
pub(crate) fn is_open(path: &str) -> bool {
    matches!(path, "/sign-in" | "/style.css")
}

async fn style() -> Response {
    let kept = "public, max-age=31536000, immutable";
    ([(header::CONTENT_TYPE, "text/css"), (header::CACHE_CONTROL, kept)], STYLE).into_response()
}

/// What stands around a page's own part.
struct Frame<'a> {
    desk: &'a Desk,
    caller: &'a Caller,
    title: &'a str,
    /// Where in the navigation it is.
    here: &'static str,
    /// Loaded again by itself: never a page on which something is being written.
    refresh: bool,
}

impl Frame<'_> {
    fn around(&self, body: &Markup) -> Response {
        Html(self.markup(body).into_string()).into_response()
    }

    fn markup(&self, body: &Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    @if self.refresh { meta http-equiv="refresh" content=(REFRESH_S); }
                    title { (self.title) " · tidegate" }
                    link rel="icon" href=(ICON);
                    link rel="stylesheet" href=(*STYLE_PATH);
                }
                body {
                    a.skip href="#main" { "To the content" }
                    header {
                        a.brand href="/" { "tidegate" }
                        nav aria-label="Pages" {
                            @for (path, name) in [("/", "Gate"), ("/jobs", "Jobs"), ("/ledger", "Ledger")] {
                                a href=(path) aria-current=[(self.here == path).then_some("page")] { (name) }
                            }
                            a href="/metrics" { "Metrics" }
                        }
                        (self.who())
                    }
                    main id="main" { (body) }
                    footer {
                        "tidegate " (CODE_VERSION)
                        @if self.refresh { " · loaded again every " (REFRESH_S) " s · " a href="?still=true" { "hold still" } }
                    }
                }
            }
        }
    }

    fn who(&self) -> Markup {
        html! {
            @if self.desk.listen.tokens.is_empty() {
                span.who title="Only callers on this machine reach this service." { "no sign-in here" }
            } @else if let Some(name) = self.desk.held_by(self.caller) {
                form.who method="post" action="/sign-out" {
                    span { (name) }
                    button.plain type="submit" { "Sign out" }
                }
            }
        }
    }
}

/// What a browser gets instead of the JSON of a refusal.
pub(crate) fn refused(desk: &Desk, caller: &Caller, status: StatusCode, reason: &str) -> Response {
    if status == StatusCode::UNAUTHORIZED {
        return session::ask(desk, caller, "");
    }
    let title = match status {
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::NOT_FOUND => "Nothing here",
        StatusCode::CONFLICT => "Not done",
        StatusCode::SERVICE_UNAVAILABLE => "Something is away",
        status if status.is_client_error() => "Not understood",
        _ => "Something is broken",
    };
    let body = html! {
        h1 { (title) }
        p.refusal role="alert" { (reason) }
        p { a href="/" { "To the gate" } }
    };
    let frame = Frame { desk, caller, title, here: "", refresh: false };
    let mut response = frame.around(&body);
    *response.status_mut() = status;
    response
}
