//! A member of a group: what it says of itself, and what it waits for.
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError as Code;
use tokio::sync::oneshot;

/// What a member says when it joins.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Empty at first.
    pub(crate) member: String,
    /// Of a static member: its place survives a restart of its process.
    pub(crate) instance: Option<String>,
    pub(crate) client: String,
    pub(crate) host: String,
    pub(crate) session: Duration,
    pub(crate) rebalance: Duration,
    pub(crate) kind: String,
    /// Name and metadata, preferred first.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// Whether a new member must come back with the name it is given (KIP-394).
    pub(crate) name_first: bool,
}

/// What a member that joined is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) kind: String,
    pub(crate) protocol: String,
    pub(crate) leader: String,
    pub(crate) member: String,
    /// To the leader only: everyone, with their metadata.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

/// What it is told, or why it was refused and under which name.
pub(crate) type JoinAnswer = Result<Joined, (Code, String)>;
/// Kind, protocol and share.
pub(crate) type SyncAnswer = Result<(String, String, Bytes), Code>;

/// A member.
pub(crate) struct Member {
    pub(crate) instance: Option<String>,
    pub(crate) client: String,
    pub(crate) host: String,
    pub(super) session: Duration,
    pub(super) rebalance: Duration,
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(crate) share: Bytes,
    pub(super) heard: Instant,
    pub(super) joining: Option<oneshot::Sender<JoinAnswer>>,
    pub(super) syncing: Option<oneshot::Sender<SyncAnswer>>,
}

impl Member {
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// A member that waits for an answer needs no heartbeat.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.joining.is_none() && self.syncing.is_none() && now > self.heard + self.session
    }
}
