//! The service: one session after the other.
use std::time::Duration;

use tidegate_contracts::JobId;
use tidegate_ledger::Ledger;
use tidegate_stream::{Stream, StreamError};
use tokio_util::sync::CancellationToken;

use crate::{
    CuratorConfig,
    session::{Session, pause},
};

/// How long to wait before a new session.
const PATIENCE: Duration = Duration::from_secs(1);

/// Curates until `shutdown`. A broker or a ledger that is away is waited for.
///
/// # Errors
/// Only for what cannot heal: a configuration that cannot work, or topics whose partitions do not
/// go together.
pub async fn run(
    config: CuratorConfig,
    stream: Stream,
    ledger: Ledger,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.validate()?;
    let holder = format!("curator-{}-{}", std::process::id(), JobId::generate());
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        checked = check_partitions(&stream) => checked?,
    }
    while !shutdown.is_cancelled() {
        let session = Session::join(&config, &stream, &ledger, &holder, &shutdown);
        let ended = match session.await {
            Ok(mut session) => session.work().await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended
            && !shutdown.is_cancelled()
        {
            tracing::warn!("the curator starts over from its checkpoints: {error:#}");
            pause(PATIENCE, &shutdown).await;
        }
    }
    Ok(())
}

/// An event and its label meet in the partition of their key, so both topics need as many.
async fn check_partitions(stream: &Stream) -> anyhow::Result<()> {
    let topics = stream.topics();
    let mut said = false;
    loop {
        let counts = async {
            let events = stream.watermarks(&topics.events).await?.len();
            Ok((events, stream.watermarks(&topics.labels).await?.len()))
        };
        match counts.await {
            Ok((events, labels)) => {
                anyhow::ensure!(
                    events == labels,
                    "{} has {events} partitions and {} has {labels}: events and labels meet in \
                     the partition of their key, so give both topics as many",
                    topics.events,
                    topics.labels
                );
                return Ok(());
            }
            Err(StreamError::UnknownTopic { topic, .. }) => {
                if !said {
                    tracing::warn!("topic {topic} does not exist yet: waiting for it");
                    said = true;
                }
                tokio::time::sleep(PATIENCE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
