//! Copies every ledger entry to the decisions topic, for other systems, and as the copy that shows
//! a rewritten ledger.
//!
//! Key: the sequence number. Value: the entry as JSON. All on partition 0, in order. Each once: it
//! goes on after the last one found on the topic's tail. (A producer that is killed may have bytes
//! on their way while its successor looks: a reader that must not see one twice goes by the key.)
use std::{ops::ControlFlow, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use tidegate_contracts::{EntryHash, Offset, Partition, Window};
use tidegate_ledger::{Entry, Ledger};
use tidegate_stream::{Message, Stream};
use tokio_util::sync::CancellationToken;

const PARTITION: Partition = Partition(0);
/// Entries written at once.
const BATCH: usize = 200;
/// Offsets looked at from the end of the topic; more when they hold nothing.
const TAIL: i64 = 64;
const PATIENCE: Duration = Duration::from_secs(5);

/// Mirrors until `held` is cancelled.
pub(crate) async fn mirror(stream: &Stream, ledger: &Ledger, held: &CancellationToken) {
    held.run_until_cancelled(async {
        loop {
            if let Err(error) = copy(stream, ledger).await {
                let error = format!("{error:#}");
                tracing::warn!(error, "the ledger is not mirrored; trying again");
            }
            tokio::time::sleep(PATIENCE).await;
        }
    })
    .await;
}

async fn copy(stream: &Stream, ledger: &Ledger) -> anyhow::Result<()> {
    let sink = stream.sink()?;
    let mut next = 1;
    if let Some((seq, hash)) = last_mirrored(stream).await? {
        let ours = ledger.read(seq, 1).await?;
        anyhow::ensure!(
            ours.first().is_some_and(|entry| entry.hash == hash),
            "the decisions topic has another entry {seq} than this ledger: the ledger was changed or \
             replaced (compare them; to start over, use another topic prefix)"
        );
        next = seq + 1;
    }
    let mut pages = ledger.watch(next).ready_chunks(BATCH);
    while let Some(page) = pages.next().await {
        let page: Result<Vec<Entry>, _> = page.into_iter().collect();
        let messages: Result<Vec<Message>, _> =
            page?.iter().map(|entry| message(&stream.topics().decisions, entry)).collect();
        sink.send_all(messages?).await?;
    }
    Ok(())
}

fn message(topic: &str, entry: &Entry) -> serde_json::Result<Message> {
    let mut message = Message::new(topic, Bytes::from(serde_json::to_vec(entry)?))
        .key(entry.seq.to_string())
        .header("content-type", Bytes::from_static(b"application/json"));
    message.partition = Some(PARTITION);
    Ok(message)
}

/// Sequence number and hash of the newest entry on the topic.
async fn last_mirrored(stream: &Stream) -> anyhow::Result<Option<(u64, EntryHash)>> {
    let topic = &stream.topics().decisions;
    let marks = stream.watermarks(topic).await?;
    let &(low, high) = marks.get(&PARTITION).context("the decisions topic has no partition 0")?;
    let (mut to, mut step) = (high, TAIL);
    while to > low {
        let from = Offset(low.0.max(to.0.saturating_sub(step)));
        let window = Window::new(topic, [(PARTITION, (from, to))].into())?;
        let mut last = None;
        stream
            .read_each(&window, |record| {
                if let Ok(entry) = serde_json::from_slice::<Entry>(&record.value) {
                    last = Some((entry.seq, entry.hash)).max(last.take());
                }
                ControlFlow::Continue(())
            })
            .await?;
        if last.is_some() {
            return Ok(last);
        }
        (to, step) = (from, step.saturating_mul(4));
    }
    Ok(None)
}
