//! What a store must do; `tests/conformance.rs` holds every store to it.
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Fence, Head, LedgerError};

/// The largest blob of small state, in bytes.
pub(crate) const MAX_STATE_BYTES: usize = 64 << 20;

/// A place for the log, the leases and the small state.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// The end of the log.
    async fn head(&self) -> Result<Head, LedgerError>;

    /// Writes one entry if the head is still `expected` and the fence is not outrun; all or
    /// nothing, durable when it returns.
    async fn append(
        &self,
        expected: Head,
        new: Head,
        entry: Vec<u8>,
        fence: Option<Fence>,
    ) -> Result<(), LedgerError>;

    /// Stored entries from sequence number `from`, at most `limit`, as they are.
    async fn read(&self, from: u64, limit: usize) -> Result<Vec<Bytes>, LedgerError>;

    /// Takes a lease that is free or has run out; its token. `None` while another holds it.
    async fn acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, LedgerError>;

    /// Holds a lease for longer; `false` when it was lost.
    async fn renew(&self, name: &str, token: u64, ttl: Duration) -> Result<bool, LedgerError>;

    /// Gives a lease back.
    async fn release(&self, name: &str, token: u64) -> Result<(), LedgerError>;

    /// Keeps a blob, unless one was kept under a newer token.
    async fn put_state(&self, name: &str, token: u64, bytes: &[u8]) -> Result<(), LedgerError>;

    /// The blob, if there is one.
    async fn get_state(&self, name: &str) -> Result<Option<Bytes>, LedgerError>;
}
