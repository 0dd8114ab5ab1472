//! Follows the curated topic and keeps the tally.
use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tidegate_ledger::{Ledger, LedgerError};
use tidegate_stream::{Stream, StreamError};
use tokio_util::sync::CancellationToken;

use crate::tally::Tally;

/// Where the tally is kept, so that a restart need not read the topic again.
const KEPT: &str = "controller/tally";
/// How long to wait for what is away before the next try.
const PATIENCE: Duration = Duration::from_secs(1);

/// The tally, as far as the topic has been read. Every controller follows the topic, also one that
/// stands by: its pages show the same counts.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    tally: Mutex<Tally>,
}

impl Lag {
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("counting does not panic")
    }

    /// Reads until `shutdown`.
    pub(crate) async fn follow(
        &self,
        stream: &Stream,
        ledger: &Ledger,
        shutdown: &CancellationToken,
    ) {
        shutdown
            .run_until_cancelled(async {
                self.restore(ledger).await;
                loop {
                    if let Err(error) = self.read(stream).await {
                        tracing::warn!(%error, "curated records cannot be counted; trying again");
                    }
                    tokio::time::sleep(PATIENCE).await;
                }
            })
            .await;
    }

    async fn restore(&self, ledger: &Ledger) {
        let bytes = loop {
            match ledger.get_state(KEPT).await {
                Ok(bytes) => break bytes,
                Err(error) => {
                    tracing::warn!(%error, "the ledger does not answer; waiting for it");
                    tokio::time::sleep(PATIENCE).await;
                }
            }
        };
        match bytes.map(|bytes| serde_json::from_slice(&bytes)) {
            None => {}
            Some(Ok(kept)) => *self.tally() = kept,
            Some(Err(error)) => {
                tracing::warn!(%error, "the kept counts cannot be read: counting anew");
            }
        }
    }

    async fn read(&self, stream: &Stream) -> Result<(), StreamError> {
        let topic = stream.topics().curated.as_str();
        let log = stream.watermarks(topic).await?;
        let from = self.tally().resume(&log);
        let mut source = stream.tail(topic, from).await?;
        loop {
            match source.next().await {
                Ok(record) => self.tally().take(&record),
                Err(error @ StreamError::OffsetGone { .. }) => {
                    *self.tally() = Tally::default();
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps what was counted since `kept`, and returns it.
    pub(crate) async fn keep(
        &self,
        ledger: &Ledger,
        token: u64,
        kept: Tally,
    ) -> Result<Tally, LedgerError> {
        let now = self.tally().clone();
        if now != kept {
            let bytes = serde_json::to_vec(&now).expect("a tally has integer keys only");
            ledger.put_state(KEPT, token, &bytes).await?;
        }
        Ok(now)
    }
}
