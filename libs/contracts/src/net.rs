//! Who may listen where, and who may call: loopback unless told, TLS and tokens for anything else.
use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Secret;

/// What a token allows. `Operator` may do what `Viewer` may, `Approver` approves and promotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Calls inference.
    Client,
    /// Sees everything, changes nothing.
    Viewer,
    /// Requests jobs.
    Operator,
    /// Approves, rejects, promotes, rolls back.
    Approver,
}

/// A bearer token, who holds it and what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Recorded as the actor, e.g. `operator:ana`.
    pub name: String,
    /// The bearer token itself.
    pub token: Secret,
    /// Everything up to and including this role.
    pub role: Role,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Where a service listens, and what it asks of callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// gRPC address. Port 0 picks a free one.
    pub grpc: SocketAddr,
    /// HTTP address. Port 0 picks a free one.
    pub http: SocketAddr,
    /// TLS; needed for anything but loopback.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Tokens; needed for anything but loopback. With none, loopback callers may do everything.
    #[serde(default)]
    pub tokens: Vec<TokenConfig>,
}

/// Why a caller, or an address, is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccessError {
    /// Open to the network without protection.
    #[error(
        "refusing to listen on {addr} without {missing}: only loopback is open by default \
         (set `tls` and `tokens`, or put a proxy that has them in front of 127.0.0.1)"
    )]
    Exposed {
        /// The address.
        addr: SocketAddr,
        /// `TLS` or `tokens`.
        missing: &'static str,
    },
    /// No token, or one nobody holds.
    #[error("a bearer token is needed: send `authorization: Bearer <token>`")]
    Unauthenticated,
    /// A token that allows less.
    #[error("`{name}` has the role {has:?}: {needs:?} is needed")]
    Forbidden {
        /// Who asked.
        name: String,
        /// What they may do.
        has: Role,
        /// What they would need.
        needs: Role,
    },
}

impl ListenConfig {
    /// Refuses an address that is open to the network without TLS and tokens.
    ///
    /// # Errors
    /// [`AccessError::Exposed`].
    pub fn validate(&self) -> Result<(), AccessError> {
        for addr in [self.grpc, self.http] {
            if addr.ip().is_loopback() {
                continue;
            }
            if self.tls.is_none() {
                return Err(AccessError::Exposed { addr, missing: "TLS" });
            }
            if self.tokens.is_empty() {
                return Err(AccessError::Exposed { addr, missing: "tokens" });
            }
        }
        Ok(())
    }

    /// Who calls, by the value of the `authorization` header. Without configured tokens everyone
    /// is `None` (only loopback can then be listened on).
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`] and [`AccessError::Forbidden`].
    pub fn authorize(
        &self,
        authorization: Option<&str>,
        needs: Role,
    ) -> Result<Option<&str>, AccessError> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let given = authorization
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(AccessError::Unauthenticated)?;
        // Hashes are compared, so that time tells nothing about the token.
        let given = blake3::hash(given.as_bytes());
        let held = self
            .tokens
            .iter()
            .find(|held| blake3::hash(held.token.reveal().as_bytes()) == given)
            .ok_or(AccessError::Unauthenticated)?;
        if held.role < needs {
            return Err(AccessError::Forbidden { name: held.name.clone(), has: held.role, needs });
        }
        Ok(Some(&held.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(addr: &str) -> ListenConfig {
        ListenConfig {
            grpc: addr.parse().unwrap(),
            http: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            tokens: vec![],
        }
    }

    #[test]
    fn an_open_address_needs_tls_and_tokens() {
        assert!(config("127.0.0.1:1").validate().is_ok());
        assert!(config("[::1]:1").validate().is_ok());
        let mut open = config("0.0.0.0:1");
        assert!(open.validate().unwrap_err().to_string().contains("TLS"));
        open.tls = Some(TlsConfig { cert: "c".into(), key: "k".into() });
        assert!(open.validate().unwrap_err().to_string().contains("tokens"));
    }

    #[test]
    fn a_role_allows_what_is_below_it() {
        let mut config = config("127.0.0.1:1");
        assert_eq!(config.authorize(None, Role::Approver), Ok(None));
        config.tokens =
            vec![TokenConfig { name: "ana".into(), token: Secret::new("t"), role: Role::Operator }];
        assert_eq!(config.authorize(Some("Bearer t"), Role::Viewer), Ok(Some("ana")));
        assert!(matches!(
            config.authorize(Some("Bearer t"), Role::Approver),
            Err(AccessError::Forbidden { .. })
        ));
        for wrong in [None, Some("t"), Some("Bearer x"), Some("")] {
            assert_eq!(config.authorize(wrong, Role::Client), Err(AccessError::Unauthenticated));
        }
    }
}
