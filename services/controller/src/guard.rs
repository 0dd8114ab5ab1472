//! What every HTTP request passes first: whoever reads is a viewer, and what a browser sends comes
//! from a page of ours.
//!
//! Without tokens, being on this machine is the only right a caller has, and a browser on this
//! machine lends it to every site it visits. Two ways in are closed: a page of another site may
//! send forms here (refused by `Sec-Fetch-Site` and `Origin`), and it may have its own name point
//! at the loopback address so that the browser takes us for that site (DNS rebinding; refused by
//! `Host`). Programs send neither and are not held up.
use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tidegate_contracts::Role;

use crate::{
    caller::Caller,
    desk::{Answer, Desk},
    error::{Reason, Refused},
    pages,
};

/// Bytes of a request, by any door.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Set on every answer. `same-origin` and not `no-referrer`: with the latter browsers send
/// `Origin: null` with our own forms.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(crate) async fn guard(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let is_page = !request.uri().path().starts_with("/api/");
    let mut response = match desk.let_in(&caller, &request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    if is_page && let Some(Reason(reason)) = response.extensions_mut().remove() {
        response = pages::refused(&desk, &caller, response.status(), &reason);
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Desk {
    fn let_in(&self, caller: &Caller, request: &Request) -> Answer<()> {
        let headers = request.headers();
        // Behind tokens a rebound name gains nothing: it has neither the cookie nor the token.
        if self.listen.tokens.is_empty() {
            self.check_host(headers, request.uri())?;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            self.check_origin(headers)?;
        }
        if pages::is_open(request.uri().path()) {
            return Ok(());
        }
        self.admit(caller, Role::Viewer)
    }

    fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Answer<()> {
        let named = text(headers, &header::HOST).or_else(|| uri.authority().map(Authority::as_str));
        // No browser leaves it out.
        let Some(named) = named else { return Ok(()) };
        let host = named.parse::<Authority>().ok();
        if host.is_some_and(|host| self.is_ours(host.host())) {
            return Ok(());
        }
        Err(Refused::Foreign(format!(
            "`{named}` is not a name of this service: add it to controller.allowed_hosts if it is"
        )))
    }

    /// An address cannot be rebound, only a name can.
    fn is_ours(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let allowed = self.config.allowed_hosts.iter();
        bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || allowed.into_iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Answer<()> {
        if is_same_origin(headers) || self.is_proxied(headers) {
            return Ok(());
        }
        let reason =
            "a page of another site may not change anything here: use the dashboard itself";
        Err(Refused::Foreign(reason.to_owned()))
    }

    /// A proxy may have replaced `Host`; the browser then still tells the name that is allowed.
    fn is_proxied(&self, headers: &HeaderMap) -> bool {
        let origin = text(headers, &header::ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
        let host = origin.as_ref().and_then(Uri::host);
        let mut allowed = self.config.allowed_hosts.iter();
        host.is_some_and(|host| allowed.any(|allowed| allowed.eq_ignore_ascii_case(host)))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// By what only a browser can say, and no page can make it say falsely.
fn is_same_origin(headers: &HeaderMap) -> bool {
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    if headers.contains_key(&SITE) {
        // Another port of this machine is `same-site`, and another service.
        return matches!(text(headers, &SITE), Some("same-origin" | "none"));
    }
    if !headers.contains_key(header::ORIGIN) {
        // No browser sends a form without either; whoever does is no browser.
        return true;
    }
    let origin = text(headers, &header::ORIGIN).and_then(|origin| origin.split_once("://"));
    matches!((origin, text(headers, &header::HOST)), (Some((_, origin)), Some(host)) if origin == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_our_own_pages_and_programs_are_of_this_origin() {
        let ours: [&[(&str, &str)]; 5] = [
            &[],
            &[("host", "127.0.0.1:8080")],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://proxy.example")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://localhost:8080"), ("host", "localhost:8080")],
        ];
        for ours in ours {
            assert!(is_same_origin(&headers(ours)), "{ours:?}");
        }
        let foreign: [&[(&str, &str)]; 6] = [
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:8080")],
            &[("origin", "null"), ("host", "localhost:8080")],
            &[("origin", "http://localhost:9999"), ("host", "localhost:8080")],
            &[("origin", "http://evil.example"), ("host", "localhost:8080")],
            &[("origin", "http://localhost:8080")],
        ];
        for foreign in foreign {
            assert!(!is_same_origin(&headers(foreign)), "{foreign:?}");
        }
    }
}
