//! Copies the ledger to the decisions topic, for other systems and as a copy out of reach.
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tidegate_contracts::{Partition, Window};
use tidegate_ledger::{Entry, Ledger};
use tidegate_stream::{Message, Stream};
use tokio_util::sync::CancellationToken;

const AGAIN: Duration = Duration::from_secs(1);

/// Follows the ledger until `shutdown`. Goes on after the last entry found on the topic, so each
/// entry is there once; only a crash between the write and its acknowledgement can repeat one,
/// under the same key.
pub(crate) async fn run(
    stream: Stream,
    ledger: Ledger,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let follow = async {
        loop {
            if let Err(error) = mirror(&stream, &ledger).await {
                tracing::warn!("the ledger is not mirrored for the moment: {error:#}");
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    shutdown.run_until_cancelled(follow).await;
    Ok(())
}

async fn mirror(stream: &Stream, ledger: &Ledger) -> anyhow::Result<()> {
    let topic = stream.topics().decisions.clone();
    let sink = stream.sink()?;
    let mut entries = ledger.watch(last_mirrored(stream, &topic).await? + 1);
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        let message = Message {
            topic: topic.clone(),
            // One partition, so that their order is the ledger's.
            partition: Some(Partition(0)),
            key: Some(Bytes::from(entry.seq.to_string())),
            headers: vec![("content-type".into(), Bytes::from_static(b"application/json"))],
            value: Bytes::from(serde_json::to_vec(&entry)?),
        };
        sink.send(message).await?;
    }
    Ok(())
}

/// The highest sequence number on the topic, from its last records.
async fn last_mirrored(stream: &Stream, topic: &str) -> anyhow::Result<u64> {
    let Some((low, high)) = stream.watermarks(topic).await?.remove(&Partition(0)) else {
        return Ok(0);
    };
    let from = tidegate_contracts::Offset(low.0.max(high.0 - 100));
    let tail = Window::new(topic, [(Partition(0), (from, high))].into())?;
    let records = stream.read(&tail).await?;
    let seqs = records.iter().filter_map(|r| serde_json::from_slice::<Entry>(&r.value).ok());
    Ok(seqs.map(|entry| entry.seq).max().unwrap_or(0))
}
