//! Signing in, where there are tokens: a browser keeps the token in a cookie that no script reads.
use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::html;
use serde::Deserialize;
use tidegate_contracts::Role;

use super::{Frame, forms::Fields};
use crate::{
    caller::{COOKIE, Caller, to_digits},
    desk::Desk,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    token: String,
}

pub(super) async fn show(State(desk): State<Arc<Desk>>, caller: Caller) -> Response {
    if desk.may(&caller, Role::Viewer) {
        return Redirect::to("/").into_response();
    }
    ask(&desk, &caller, "")
}

/// The page that asks for a token; `why` the last one did not do.
pub(super) fn ask(desk: &Desk, caller: &Caller, why: &str) -> Response {
    let body = html! {
        h1 { "Sign in" }
        @if !why.is_empty() { p.refusal role="alert" { (why) } }
        form.decision method="post" action="/sign-in" {
            label.grow { "Token"
                input name="token" type="password" required maxlength="1000" autocomplete="current-password";
            }
            div.buttons { button.yes type="submit" { "Sign in" } }
            p.dim { "One of those configured under listen.tokens: a viewer's to look, an approver's to decide." }
        }
    };
    let frame = Frame { desk, caller, title: "Sign in", here: "", refresh: false };
    let mut response = frame.around(&body);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn cookie(desk: &Desk, value: &str, age: &str) -> String {
    let secure = if desk.listen.tls.is_some() { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax{age}{secure}")
}

pub(super) async fn sign_in(
    State(desk): State<Arc<Desk>>,
    Fields(shown): Fields<Shown>,
) -> Response {
    let caller = Caller::bearing(&shown.token);
    match desk.admit(&caller, Role::Viewer) {
        Ok(()) => {
            let cookie = cookie(&desk, &to_digits(&shown.token), "");
            ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
        }
        Err(_) => ask(&desk, &Caller::default(), "This token does not open the dashboard."),
    }
}

pub(super) async fn sign_out(State(desk): State<Arc<Desk>>) -> Response {
    let cookie = cookie(&desk, "", "; Max-Age=0");
    ([(header::SET_COOKIE, cookie)], Redirect::to("/sign-in")).into_response()
}
