//! The ledger's handle: append, fold, decide, watch, leases, small state.
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt as _, stream::BoxStream};
use tidegate_telemetry::metrics;
use tokio::sync::watch;

use crate::{
    Author, Entry, Fact, Head, Holder, Keys, LedgerConfig, LedgerError, Refusal, State,
    StoreConfig, VerifyReport,
    store::{MAX_STATE_BYTES, Store},
    store_redb::RedbStore,
    store_redis::RedisStore,
    verify,
};

/// Entries read at once.
const PAGE: usize = 1_000;
/// A watcher looks again after this long even when nobody in this process wrote.
const POLL: Duration = Duration::from_millis(100);
/// A store that is away is asked again after this long.
const AWAY: Duration = Duration::from_millis(500);

/// The record of what happened. Clones share one connection and one fold.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    store: Box<dyn Store>,
    keys: Arc<Keys>,
    folded: Mutex<Arc<State>>,
    /// The newest sequence number this process wrote; wakes its watchers.
    written: watch::Sender<u64>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("written", &*self.0.written.borrow()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the configured store.
    ///
    /// # Errors
    /// [`LedgerError::InUse`], [`LedgerError::Damaged`], [`LedgerError::NotDurable`],
    /// [`LedgerError::Key`] or [`LedgerError::Store`], each with what to do.
    pub async fn open(config: &LedgerConfig, data_dir: &Path) -> Result<Self, LedgerError> {
        let keys = Keys::open(&config.keys, data_dir)?;
        let store: Box<dyn Store> = match &config.store {
            StoreConfig::Embedded => {
                std::fs::create_dir_all(data_dir).map_err(|error| {
                    LedgerError::Store(format!("{}: {error}", data_dir.display()))
                })?;
                Box::new(RedbStore::open(&verify::embedded_path(data_dir))?)
            }
            StoreConfig::Redis { url, prefix } => {
                Box::new(RedisStore::open(url.reveal(), prefix).await?)
            }
        };
        let ledger = Self::over(store, keys);
        ledger.state().await?;
        Ok(ledger)
    }

    fn over(store: Box<dyn Store>, keys: Keys) -> Self {
        let (keys, (written, _)) = (Arc::new(keys), watch::channel(0));
        let folded = Mutex::new(Arc::new(State::under(keys.clone())));
        Self(Arc::new(Inner { store, keys, folded, written }))
    }

    /// Whose signatures are believed.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Whether this process can sign what `holder` decides.
    ///
    /// # Errors
    /// [`LedgerError::Key`] says which key is missing.
    pub fn can_sign_for(&self, holder: &Holder) -> Result<(), LedgerError> {
        self.0.keys.signer(holder).map(|_| ())
    }

    /// The end of the log.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn head(&self) -> Result<Head, LedgerError> {
        self.0.store.head().await
    }

    /// Writes one entry if the head is still `expected`: compare-and-set. What needs a signature
    /// and has none is signed, if this process has the key.
    ///
    /// # Errors
    /// [`LedgerError::HeadMoved`] when somebody else wrote first, [`LedgerError::Refused`] when
    /// the entry would break an invariant, [`LedgerError::Key`] when it cannot be signed here,
    /// [`LedgerError::Fenced`] when the author's lease is old.
    pub async fn append(
        &self,
        expected: Head,
        author: &Author,
        fact: Fact,
    ) -> Result<Entry, LedgerError> {
        let state = self.state().await?;
        if state.head() != expected {
            return Err(LedgerError::HeadMoved { expected, found: state.head() });
        }
        // One time for the check, the signature and the entry: they must agree ever after.
        let now = Utc::now();
        let fact = self.0.keys.seal(fact, &author.actor, &state, now)?;
        state.check(&fact, &author.actor, now)?;
        let entry = Entry::after(expected, author, fact, now);
        let bytes = entry.to_bytes();
        self.0.store.append(expected, entry.head(), bytes, author.fence.clone()).await?;
        metrics::counter("tidegate_ledger_entries_total", "Entries written.", &["kind"])
            .with_label_values(&[entry.fact.kind()])
            .inc();
        self.0.written.send_modify(|seq| *seq = entry.seq.max(*seq));
        Ok(entry)
    }

    /// Folds to the head, lets `f` decide, and writes what it decided; again when somebody else
    /// wrote meanwhile. The way to write every state change. `None`: nothing was to be done.
    ///
    /// # Errors
    /// As [`Ledger::append`], but never [`LedgerError::HeadMoved`].
    pub async fn decide<F>(&self, author: &Author, mut f: F) -> Result<Option<Entry>, LedgerError>
    where
        F: FnMut(&State) -> Result<Option<Fact>, Refusal> + Send,
    {
        loop {
            let state = self.state().await?;
            let Some(fact) = f(&state)? else { return Ok(None) };
            match self.append(state.head(), author, fact).await {
                Err(LedgerError::HeadMoved { .. }) => {
                    metrics::counter(
                        "tidegate_ledger_conflicts_total",
                        "Appends decided again because the head had moved.",
                        &[],
                    )
                    .with_label_values::<&str>(&[])
                    .inc();
                }
                other => return other.map(Some),
            }
        }
    }

    /// The fold up to the head. Only what is new is read.
    ///
    /// # Errors
    /// When the store does not answer, or an entry does not follow on the one before.
    pub async fn state(&self) -> Result<Arc<State>, LedgerError> {
        loop {
            let known = self.0.folded.lock().expect("folding does not panic").clone();
            let news = self.read(known.head().seq + 1, PAGE).await?;
            if news.is_empty() {
                return Ok(known);
            }
            let mut folded = self.0.folded.lock().expect("folding does not panic");
            for entry in &news {
                let head = folded.head();
                if entry.seq <= head.seq {
                    continue; // Another caller took it in meanwhile.
                }
                if entry.seq != head.seq + 1 || entry.prev != head.hash {
                    let seq = entry.seq;
                    return Err(LedgerError::Damaged(format!(
                        "entry {seq} does not follow on entry {}; run `tidegate ledger verify`",
                        head.seq
                    )));
                }
                if let Err(refusal) = Arc::make_mut(&mut folded).follow(entry) {
                    let (seq, kind, actor) = (entry.seq, entry.fact.kind(), &entry.actor);
                    tracing::error!(
                        seq, kind, %actor, %refusal,
                        "an entry that may not stand in the ledger has no effect; look who wrote it"
                    );
                }
            }
            let seq = folded.head().seq as f64;
            metrics::gauge("tidegate_ledger_head", "Entries in the ledger.", &[])
                .with_label_values::<&str>(&[])
                .set(seq);
        }
    }

    /// Entries from sequence number `from`, at most `limit`.
    ///
    /// # Errors
    /// When the store does not answer, or an entry cannot be read.
    pub async fn read(&self, from: u64, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        let rows = self.0.store.read(from, limit).await?;
        rows.iter()
            .enumerate()
            .map(|(i, bytes)| {
                serde_json::from_slice(bytes).map_err(|error| {
                    LedgerError::Damaged(format!("entry {}: {error}", from + i as u64))
                })
            })
            .collect()
    }

    /// Entries from `from` on, then live. Outlives a store that goes away and comes back: it
    /// waits, with a log line.
    #[must_use]
    pub fn watch(&self, from: u64) -> BoxStream<'static, Result<Entry, LedgerError>> {
        let ledger = self.clone();
        let written = self.0.written.subscribe();
        futures::stream::unfold((ledger, from, written), |(ledger, next, mut written)| async move {
            loop {
                match ledger.read(next, PAGE).await {
                    Ok(entries) if entries.is_empty() => {
                        // Woken by a write of this process, or by the clock for those of others.
                        let _ = tokio::time::timeout(POLL, written.changed()).await;
                    }
                    Ok(entries) => {
                        let next = entries.last().map_or(next, |entry| entry.seq + 1);
                        let page = futures::stream::iter(entries.into_iter().map(Ok)).boxed();
                        return Some((page, (ledger, next, written)));
                    }
                    Err(error @ LedgerError::Store(_)) => {
                        tracing::warn!(%error, "the ledger does not answer; waiting for it");
                        tokio::time::sleep(AWAY).await;
                    }
                    Err(error) => {
                        tokio::time::sleep(AWAY).await;
                        let page = futures::stream::iter([Err(error)]).boxed();
                        return Some((page, (ledger, next, written)));
                    }
                }
            }
        })
        .flatten()
        .boxed()
    }

    /// Checks every entry, the chain, the invariants with all signatures, and the stored head.
    ///
    /// # Errors
    /// When the store does not answer; what is wrong with the log is in the report.
    pub async fn verify(&self) -> Result<VerifyReport, LedgerError> {
        Ok(self.verified().await?.0)
    }

    pub(crate) async fn verified(&self) -> Result<(VerifyReport, State), LedgerError> {
        verify::verify(&*self.0.store, self.0.keys.clone()).await
    }

    /// Takes a lease; `None` while another holds it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, LedgerError> {
        let token = self.0.store.acquire(name, holder, ttl).await?;
        Ok(token.map(|token| Lease { ledger: self.clone(), name: name.to_owned(), token, ttl }))
    }

    /// Keeps a small named blob of a service (at most 64 MiB), unless a newer token's is there.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`], [`LedgerError::TooLarge`], or when the store does not answer.
    pub async fn put_state(&self, name: &str, token: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        if bytes.len() > MAX_STATE_BYTES {
            let (name, size) = (name.to_owned(), bytes.len());
            return Err(LedgerError::TooLarge { name, size, limit: MAX_STATE_BYTES });
        }
        self.0.store.put_state(name, token, bytes).await
    }

    /// The blob kept under `name`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn get_state(&self, name: &str) -> Result<Option<Bytes>, LedgerError> {
        self.0.store.get_state(name).await
    }
}

/// The right to be the only one, for a while. Its token grows with every holder, so that what a
/// former holder still tries to write is refused.
#[derive(Debug)]
pub struct Lease {
    ledger: Ledger,
    name: String,
    token: u64,
    ttl: Duration,
}

impl Lease {
    /// Higher than that of every holder before.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Holds it for another term.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`], or when the store does not answer.
    pub async fn renew(&self) -> Result<(), LedgerError> {
        if self.ledger.0.store.renew(&self.name, self.token, self.ttl).await? {
            Ok(())
        } else {
            Err(LedgerError::LeaseLost(self.name.clone()))
        }
    }

    /// Gives it back, so that the next holder need not wait. A store that is away lets it run out.
    pub async fn release(self) {
        if let Err(error) = self.ledger.0.store.release(&self.name, self.token).await {
            tracing::debug!(%error, lease = self.name, "not given back: it will run out");
        }
    }
}
