//! The embedded store: one `redb` file, every write a durable transaction.
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::{Fence, Head, LedgerError, store::Store};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// Stored apart from the entries, so that a truncated tail is found.
const HEAD: TableDefinition<'_, (), &[u8]> = TableDefinition::new("head");
const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");
/// Eight bytes of token, little-endian, then the blob.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");

#[derive(Serialize, Deserialize)]
struct LeaseRow {
    holder: String,
    token: u64,
    expires_ms: i64,
}

pub(crate) struct RedbStore(Arc<Database>);

fn store(error: impl Into<redb::Error>) -> LedgerError {
    match error.into() {
        redb::Error::Corrupted(what) => LedgerError::Damaged(what),
        other => LedgerError::Store(other.to_string()),
    }
}

/// Opens a file; redb may panic on pages that were altered, which must not bring a service down.
pub(crate) fn open_database(path: &Path) -> Result<Database, LedgerError> {
    let opened = catch_unwind(AssertUnwindSafe(|| Database::create(path)));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => {
            Err(LedgerError::InUse(path.display().to_string()))
        }
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(error))))
            if error.kind() != std::io::ErrorKind::InvalidData =>
        {
            Err(LedgerError::Store(format!("{}: {error}", path.display())))
        }
        Ok(Err(error)) => Err(LedgerError::Damaged(format!("{}: {error}", path.display()))),
        Err(_) => Err(LedgerError::Damaged(format!("{}: its pages do not hold", path.display()))),
    }
}

impl RedbStore {
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        let this = Self(Arc::new(open_database(path)?));
        this.prepare()?;
        Ok(this)
    }

    pub(crate) fn over(database: Database) -> Self {
        Self(Arc::new(database))
    }

    /// Makes the tables. Whoever held a lease is dead, since this process has the file: their
    /// leases run out now; tokens go on from where they were.
    fn prepare(&self) -> Result<(), LedgerError> {
        let write = self.0.begin_write().map_err(store)?;
        {
            write.open_table(ENTRIES).map_err(store)?;
            write.open_table(HEAD).map_err(store)?;
            write.open_table(STATE).map_err(store)?;
            let mut leases = write.open_table(LEASES).map_err(store)?;
            let mut rows = Vec::new();
            for row in leases.iter().map_err(store)? {
                let (name, row) = row.map_err(store)?;
                let row: LeaseRow = serde_json::from_slice(row.value())?;
                rows.push((name.value().to_owned(), LeaseRow { expires_ms: 0, ..row }));
            }
            for (name, row) in rows {
                leases.insert(&*name, &*serde_json::to_vec(&row)?).map_err(store)?;
            }
        }
        write.commit().map_err(store)
    }

    /// Runs `work` off the async threads: a commit waits for the disk.
    async fn blocking<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T, LedgerError> + Send + 'static,
    {
        let database = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&database)).await {
            Ok(result) => result,
            Err(_) => {
                Err(LedgerError::Damaged("reading the file failed: its pages do not hold".into()))
            }
        }
    }
}

fn stored_head(table: &impl redb::ReadableTable<(), &'static [u8]>) -> Result<Head, LedgerError> {
    match table.get(()).map_err(store)? {
        None => Ok(Head::EMPTY),
        Some(bytes) => serde_json::from_slice(bytes.value())
            .map_err(|error| LedgerError::Damaged(format!("the stored head: {error}"))),
    }
}

fn lease_row(
    table: &impl redb::ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<LeaseRow>, LedgerError> {
    match table.get(name).map_err(store)? {
        None => Ok(None),
        Some(bytes) => Ok(Some(serde_json::from_slice(bytes.value())?)),
    }
}

fn deadline(ttl: Duration) -> i64 {
    Utc::now().timestamp_millis().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

#[async_trait]
impl Store for RedbStore {
    async fn head(&self) -> Result<Head, LedgerError> {
        self.blocking(|database| {
            let read = database.begin_read().map_err(store)?;
            stored_head(&read.open_table(HEAD).map_err(store)?)
        })
        .await
    }

    async fn append(
        &self,
        expected: Head,
        new: Head,
        entry: Vec<u8>,
        fence: Option<Fence>,
    ) -> Result<(), LedgerError> {
        self.blocking(move |database| {
            let write = database.begin_write().map_err(store)?;
            {
                let mut head = write.open_table(HEAD).map_err(store)?;
                let found = stored_head(&head)?;
                if found != expected {
                    return Err(LedgerError::HeadMoved { expected, found });
                }
                if let Some(Fence { lease, token }) = fence {
                    let leases = write.open_table(LEASES).map_err(store)?;
                    let newest = lease_row(&leases, &lease)?.map_or(0, |row| row.token);
                    if token < newest {
                        return Err(LedgerError::Fenced { lease, token, newest });
                    }
                }
                let mut entries = write.open_table(ENTRIES).map_err(store)?;
                entries.insert(new.seq, &*entry).map_err(store)?;
                head.insert((), &*serde_json::to_vec(&new)?).map_err(store)?;
            }
            write.commit().map_err(store)
        })
        .await
    }

    async fn read(&self, from: u64, limit: usize) -> Result<Vec<Bytes>, LedgerError> {
        self.blocking(move |database| {
            let read = database.begin_read().map_err(store)?;
            let entries = read.open_table(ENTRIES).map_err(store)?;
            let range = entries.range(from..).map_err(store)?;
            range
                .take(limit)
                .map(|row| {
                    let (_, bytes) = row.map_err(store)?;
                    Ok(Bytes::copy_from_slice(bytes.value()))
                })
                .collect()
        })
        .await
    }

    async fn acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, LedgerError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.blocking(move |database| {
            let write = database.begin_write().map_err(store)?;
            let token = {
                let mut leases = write.open_table(LEASES).map_err(store)?;
                let row = lease_row(&leases, &name)?;
                let now = Utc::now().timestamp_millis();
                if row.as_ref().is_some_and(|row| row.expires_ms > now) {
                    return Ok(None);
                }
                let token = row.map_or(0, |row| row.token) + 1;
                let row = LeaseRow { holder, token, expires_ms: deadline(ttl) };
                leases.insert(&*name, &*serde_json::to_vec(&row)?).map_err(store)?;
                token
            };
            write.commit().map_err(store)?;
            Ok(Some(token))
        })
        .await
    }

    async fn renew(&self, name: &str, token: u64, ttl: Duration) -> Result<bool, LedgerError> {
        self.extend(name, token, deadline(ttl)).await
    }

    async fn release(&self, name: &str, token: u64) -> Result<(), LedgerError> {
        self.extend(name, token, 0).await.map(|_| ())
    }

    async fn put_state(&self, name: &str, token: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let (name, mut value) = (name.to_owned(), token.to_le_bytes().to_vec());
        value.extend_from_slice(bytes);
        self.blocking(move |database| {
            let write = database.begin_write().map_err(store)?;
            {
                let mut state = write.open_table(STATE).map_err(store)?;
                let newest = match state.get(&*name).map_err(store)? {
                    Some(old) => token_of(old.value())?,
                    None => 0,
                };
                if token < newest {
                    return Err(LedgerError::Fenced { lease: name, token, newest });
                }
                state.insert(&*name, &*value).map_err(store)?;
            }
            write.commit().map_err(store)
        })
        .await
    }

    async fn get_state(&self, name: &str) -> Result<Option<Bytes>, LedgerError> {
        let name = name.to_owned();
        self.blocking(move |database| {
            let read = database.begin_read().map_err(store)?;
            let state = read.open_table(STATE).map_err(store)?;
            let value = state.get(&*name).map_err(store)?;
            value
                .map(|value| {
                    token_of(value.value())?;
                    Ok(Bytes::copy_from_slice(&value.value()[8..]))
                })
                .transpose()
        })
        .await
    }
}

fn token_of(value: &[u8]) -> Result<u64, LedgerError> {
    let token = value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    token.ok_or_else(|| LedgerError::Damaged("a state blob without its token".into()))
}

impl RedbStore {
    async fn extend(&self, name: &str, token: u64, until: i64) -> Result<bool, LedgerError> {
        let name = name.to_owned();
        self.blocking(move |database| {
            let write = database.begin_write().map_err(store)?;
            {
                let mut leases = write.open_table(LEASES).map_err(store)?;
                let now = Utc::now().timestamp_millis();
                let held = lease_row(&leases, &name)?
                    .filter(|row| row.token == token && row.expires_ms > now);
                let Some(row) = held else { return Ok(false) };
                let row = LeaseRow { expires_ms: until, ..row };
                leases.insert(&*name, &*serde_json::to_vec(&row)?).map_err(store)?;
            }
            write.commit().map_err(store)?;
            Ok(true)
        })
        .await
    }
}
