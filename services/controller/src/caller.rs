//! Who asks, and what they may.
use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use tidegate_contracts::{Actor, Role};
use tonic::metadata::MetadataMap;

use crate::{
    desk::{Answer, Desk},
    error::Refused,
};

/// The cookie that keeps a browser signed in. It holds the token, in hexadecimal digits: tokens may
/// have characters that cookies may not. No script can read it, and nothing is kept on our side, so
/// that any controller and any restart knows it.
pub(crate) const COOKIE: &str = "tidegate-token";
/// Bytes of a name.
const NAME_BYTES: usize = 80;
/// Bytes of a reason.
pub(crate) const REASON_BYTES: usize = 2_000;

/// What a caller shows: the value of an `authorization` header, if any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller(Option<String>);

impl Caller {
    /// Of a gRPC call.
    pub(crate) fn of_call(metadata: &MetadataMap) -> Self {
        Self(metadata.get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned))
    }

    /// Of a browser that signs in with a token.
    pub(crate) fn bearing(token: &str) -> Self {
        Self(Some(format!("Bearer {token}")))
    }

    fn of_request(headers: &HeaderMap) -> Self {
        let header = headers.get(header::AUTHORIZATION);
        if header.is_some() {
            return Self(header.and_then(|value| value.to_str().ok()).map(str::to_owned));
        }
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut pairs = cookies.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(';'));
        let token = pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == COOKIE).then(|| from_digits(value))?
        });
        token.map_or_else(Self::default, |token| Self::bearing(&token))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of_request(&parts.headers))
    }
}

/// The digits of a cookie's value.
pub(crate) fn to_digits(token: &str) -> String {
    token.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn from_digits(digits: &str) -> Option<String> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|pair| byte(pair)).collect::<Option<Vec<u8>>>()?;
    rest.is_empty().then(|| String::from_utf8(bytes).ok())?
}

impl Desk {
    /// Lets callers pass who may do what `needs` says.
    pub(crate) fn admit(&self, caller: &Caller, needs: Role) -> Answer<()> {
        self.listen.authorize(caller.0.as_deref(), needs)?;
        Ok(())
    }

    /// Whether a caller may do what `needs` says.
    pub(crate) fn may(&self, caller: &Caller, needs: Role) -> bool {
        self.admit(caller, needs).is_ok()
    }

    /// Whom a caller's token names; `None` where there are no tokens, or none that counts.
    pub(crate) fn held_by(&self, caller: &Caller) -> Option<&str> {
        self.listen.authorize(caller.0.as_deref(), Role::Client).ok().flatten()
    }

    /// Who goes on record: whom the token names or, without tokens, whom the caller claims to be.
    pub(crate) fn actor(&self, caller: &Caller, needs: Role, claimed: &str) -> Answer<Actor> {
        let name = match self.listen.authorize(caller.0.as_deref(), needs)? {
            Some(held) => held,
            None => check_name(claimed.trim())?,
        };
        // Services write under their own names (`controller`, `trainer`); nobody else may.
        let name = name.strip_prefix("operator:").unwrap_or(name);
        Ok(Actor::new(format!("operator:{name}")))
    }
}

/// A name that reads as what it is: nothing invisible, nothing that moves a terminal's cursor.
fn check_name(name: &str) -> Answer<&str> {
    if name.is_empty() {
        return Ok("local");
    }
    let plain = |c: char| c.is_alphanumeric() || " .-_@+:'\\".contains(c);
    if name.len() > NAME_BYTES || !name.chars().all(plain) {
        return Err(Refused::Invalid(format!(
            "actor: at most {NAME_BYTES} bytes of letters, digits, spaces and .-_@+:'\\"
        )));
    }
    Ok(name)
}

/// What goes on record as the reason.
pub(crate) fn check_reason(reason: &str, needed: bool) -> Answer<String> {
    let reason = reason.trim();
    if needed && reason.is_empty() {
        return Err(Refused::Invalid("reason: is needed, it goes on record".to_owned()));
    }
    // Whoever prints the ledger on a terminal is not to be played tricks on.
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    if reason.len() > REASON_BYTES || !reason.chars().all(plain) {
        let what = format!("reason: at most {REASON_BYTES} bytes, without control characters");
        return Err(Refused::Invalid(what));
    }
    Ok(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_brings_back_the_token_it_was_given() {
        for token in ["t", "a;b, \"c\" = d", "grün"] {
            let cookie = format!("other=1; {COOKIE}={}; last=2", to_digits(token));
            let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
            assert_eq!(Caller::of_request(&headers).0, Caller::bearing(token).0);
        }
        for cookie in ["", "tidegate-token=", "tidegate-token=0", "tidegate-token=zz", "x=74"] {
            let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
            assert!(!matches!(Caller::of_request(&headers).0, Some(value) if value != "Bearer "));
        }
    }

    #[test]
    fn a_name_that_could_deceive_is_refused() {
        for name in ["ana", "", "Jörg O'Neil", "operator:ana", "ana@example.org", "CORP\\ana"] {
            check_name(name).unwrap();
        }
        for name in ["a\u{1b}[2J", "a\nb", "ana\u{200b}", "\u{202e}ana", "<b>", &"a".repeat(81)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
