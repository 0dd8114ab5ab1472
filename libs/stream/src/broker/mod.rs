//! The embedded broker: one durable node that speaks Kafka's protocol to unmodified clients.
//!
//! For a machine that has no Kafka: loopback only, no TLS, no access control, no replicas, no
//! transactions, no compaction. What it does, it does as Kafka does: topics and their automatic
//! creation, record batches (stored as they come, whatever their compression), idempotent
//! producers, long-polling fetches, consumer groups of the classic protocol, committed offsets,
//! retention. What it does not do it refuses by name.
//!
//! ```text
//! connection   one client: frames, one request at a time, limits
//!     shape    is a request as long as it says? before the codec believes it
//!     node     which request is answered where
//!         about, topics, configs, produce, fetch, offsets, members, committed
//!             groups     state machines of consumer groups, in memory
//!             storage    logs and catalogue, on disk
//! ```
//!
//! It runs on threads of its own, so that neither a training job nor a caller that blocks its
//! runtime keeps clients waiting.
mod about;
mod committed;
mod configs;
mod connection;
mod fetch;
mod groups;
mod members;
mod node;
mod offsets;
mod produce;
mod shape;
mod storage;
#[cfg(test)]
mod tests;
mod topics;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{node::Node, storage::Storage};
use crate::{config::EmbeddedConfig, error::StreamError};

/// Threads that serve clients. Most of the work is copying bytes.
const THREADS: usize = 2;
/// How long connections may take to end at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// A running broker. It stops when it is dropped, or by [`EmbeddedBroker::shutdown`].
pub struct EmbeddedBroker {
    addr: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker that keeps its data in `data_dir`, one process at a time. Everything that
    /// was acknowledged there before is there again.
    ///
    /// # Errors
    /// [`StreamError::Exposed`] for an address that is not loopback, [`StreamError::Listen`],
    /// [`StreamError::InUse`], [`StreamError::Storage`], [`StreamError::Catalog`].
    pub async fn start(config: &EmbeddedConfig, data_dir: &Path) -> Result<Self, StreamError> {
        if !config.listen.ip().is_loopback() {
            return Err(StreamError::Exposed(config.listen));
        }
        let (config, dir) = (config.clone(), data_dir.to_owned());
        let stop = CancellationToken::new();
        let (started, running) = tokio::sync::oneshot::channel();
        let token = stop.clone();
        let thread = std::thread::Builder::new()
            .name("kafka-broker".into())
            .spawn(move || run(config, &dir, token, started))
            .map_err(|source| StreamError::Storage { path: data_dir.to_owned(), source })?;
        let addr = running.await.expect("the broker says how its start went")?;
        Ok(Self { addr, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops it: connections are closed, everything is forced to the disk, the folder is free.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the embedded broker did not stop in order");
            }
        }
    }
}

impl Drop for EmbeddedBroker {
    /// Waits until the folder is free, so that the next broker can have it at once.
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Started = tokio::sync::oneshot::Sender<Result<SocketAddr, StreamError>>;

/// The broker's own thread: opens, serves until told to stop, closes.
fn run(config: EmbeddedConfig, dir: &Path, stop: CancellationToken, started: Started) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("kafka-broker")
        .enable_all()
        .build();
    let opened = runtime
        .map_err(|source| StreamError::Storage { path: dir.to_owned(), source })
        .and_then(|runtime| {
            let (node, listener) = runtime.block_on(open(config, dir, stop))?;
            Ok((runtime, node, listener))
        });
    let (runtime, node, listener) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Nobody waits for it any more: nothing to tell.
            let _ = started.send(Err(error));
            return;
        }
    };
    let storage = node.storage.clone();
    if started.send(Ok(node.addr)).is_ok() {
        runtime.block_on(serve(Arc::new(node), listener));
    }
    // Connections that did not end in time are cut off here; what they wrote is written.
    drop(runtime);
    storage.maintain(now_ms());
}

async fn open(
    config: EmbeddedConfig,
    dir: &Path,
    stop: CancellationToken,
) -> Result<(Node, TcpListener), StreamError> {
    let addr = config.listen;
    let listener = TcpListener::bind(addr).await;
    let listener = listener.map_err(|source| StreamError::Listen { addr, source })?;
    let addr = listener.local_addr().map_err(|source| StreamError::Listen { addr, source })?;
    let since = Instant::now();
    let kept = config.clone();
    let storage = Storage::open(
        dir,
        Box::new(move |topic| configs::options(&kept, topic)),
        config.fsync_ms == 0,
    )?;
    let (topics, ms) = (storage.topics().len(), since.elapsed().as_millis() as u64);
    tracing::info!(%addr, dir = %PathBuf::from(dir).display(), topics, ms, "embedded broker is up");
    Ok((Node::new(config, addr, Arc::new(storage), stop), listener))
}

/// Accepts clients until told to stop, and keeps house meanwhile.
async fn serve(node: Arc<Node>, listener: TcpListener) {
    let tasks = TaskTracker::new();
    tasks.spawn(keep_house(node.clone()));
    tasks.spawn(watch_groups(node.clone()));
    let places = Arc::new(Semaphore::new(node.config.max_connections.max(1)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = node.stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, mostly: some connection must end first.
                tracing::error!(%error, "no connection can be accepted: waiting");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let max = node.config.max_connections;
            tracing::warn!(%peer, max, "connection refused: `max_connections` are open");
            continue;
        };
        let node = node.clone();
        tasks.spawn(async move {
            connection::serve(node, socket, peer).await;
            drop(place);
        });
    }
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in {GRACE:?} and are cut off");
    }
}

/// Forces what was written to the disk, every `fsync_ms`.
async fn keep_house(node: Arc<Node>) {
    let often = match node.config.fsync_ms {
        // Everything is forced before it is acknowledged; full segments are still to be sealed.
        0 => 1_000,
        ms => ms,
    };
    let mut every = tokio::time::interval(Duration::from_millis(often));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = node.stop.cancelled() => return,
        }
        let storage = node.storage.clone();
        let kept = tokio::task::spawn_blocking(move || storage.maintain(now_ms())).await;
        if kept.is_err() {
            tracing::error!("keeping house failed: trying again");
        }
    }
}

/// Lets time pass for consumer groups.
async fn watch_groups(node: Arc<Node>) {
    let mut every = tokio::time::interval(groups::TICK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => node.groups.tick(Instant::now()),
            () = node.stop.cancelled() => return,
        }
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
