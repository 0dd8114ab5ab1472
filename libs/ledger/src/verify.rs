//! Verification: every byte of every entry, the chain, the invariants, the stored head.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Entry, Fact, Fault, Head, Keys, LedgerConfig, LedgerError, State, StoreConfig, VerifyReport,
    store::Store,
    store_redb::{RedbStore, open_database},
    store_redis::RedisStore,
};

/// Where the embedded ledger stands in a data directory.
pub(crate) fn embedded_path(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger.redb")
}

/// Reads the whole log and says all that is wrong with it; what it folds to, too.
pub(crate) async fn verify(
    store: &dyn Store,
    keys: Arc<Keys>,
) -> Result<(VerifyReport, State), LedgerError> {
    let mut report = VerifyReport::default();
    let (mut state, mut head, mut next) = (State::under(keys), Head::EMPTY, 1);
    loop {
        let rows = store.read(next, 1_000).await?;
        if rows.is_empty() {
            break;
        }
        for bytes in rows {
            report.entries += 1;
            let seq = head.seq + 1;
            let entry: Entry = match serde_json::from_slice(&bytes) {
                Ok(entry) => entry,
                Err(error) => {
                    fault(&mut report, seq, format!("cannot be read: {error}"));
                    head.seq = seq;
                    continue;
                }
            };
            // Byte for byte: a change that parses to the same values is a change all the same.
            if entry.to_bytes() != bytes {
                fault(&mut report, seq, "its stored bytes were changed".to_owned());
            }
            if entry.seq != seq {
                let found = entry.seq;
                fault(&mut report, seq, format!("entry {found} stands in its place"));
            }
            if entry.prev != head.hash {
                fault(&mut report, seq, "does not follow on the entry before it".to_owned());
            }
            if entry.hash != entry.computed_hash() {
                fault(&mut report, seq, "its hash does not cover what it says".to_owned());
            }
            report.signatures += u64::from(entry.fact.seal().is_some());
            report.checkpoints += u64::from(matches!(entry.fact, Fact::Checkpointed { .. }));
            report.hashes.push(entry.hash);
            if let Err(refusal) = state.follow(&entry) {
                fault(&mut report, seq, format!("may not stand here: {refusal}"));
            }
            head = entry.head();
        }
        next = head.seq.max(next) + 1;
    }
    match store.head().await {
        Ok(stored) if stored != head => {
            let (last, found) = (stored.seq, head.seq);
            let what = format!("the stored head is entry {last}, the log ends with entry {found}");
            fault(&mut report, 0, what);
        }
        Ok(_) => {}
        Err(LedgerError::Damaged(what)) => fault(&mut report, 0, what),
        Err(error) => return Err(error),
    }
    Ok((report, state))
}

/// The entries of a ledger that no process has open, as they are stored; nothing is verified.
///
/// # Errors
/// [`LedgerError::InUse`] when a process has it, [`LedgerError::Store`] when there is none,
/// [`LedgerError::Damaged`] when an entry cannot be read.
pub async fn read_at_rest(
    config: &LedgerConfig,
    data_dir: &Path,
) -> Result<Vec<Entry>, LedgerError> {
    if let StoreConfig::Embedded = &config.store
        && !embedded_path(data_dir).exists()
    {
        let path = embedded_path(data_dir);
        return Err(LedgerError::Store(format!("{}: there is no ledger", path.display())));
    }
    let ledger = crate::Ledger::open(config, data_dir).await?;
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let page = ledger.read(entries.len() as u64 + 1, 1_000).await?;
        if page.is_empty() {
            return Ok(entries);
        }
        entries.extend(page);
    }
}

pub(crate) fn fault(report: &mut VerifyReport, seq: u64, what: String) {
    report.faults.push(Fault { seq, what });
}

/// Verifies a ledger that no process has open. The file itself is not touched: a copy is checked,
/// page checksums first.
///
/// # Errors
/// [`LedgerError::InUse`] when a process has it, [`LedgerError::Store`] when there is none.
pub(crate) async fn verify_at_rest(
    config: &LedgerConfig,
    data_dir: &Path,
) -> Result<(VerifyReport, State), LedgerError> {
    let keys = Arc::new(Keys::read(&config.keys, data_dir)?);
    if let StoreConfig::Redis { url, prefix } = &config.store {
        return verify(&RedisStore::open(url.reveal(), prefix).await?, keys).await;
    }
    let path = embedded_path(data_dir);
    let store = |error: std::io::Error| LedgerError::Store(format!("{}: {error}", path.display()));
    let original = std::fs::File::open(&path).map_err(store)?;
    if original.try_lock_shared().is_err() {
        return Err(LedgerError::InUse(path.display().to_string()));
    }
    let copy = path.with_extension(format!("verify.{}.tmp", std::process::id()));
    std::fs::copy(&path, &copy).map_err(store)?;
    let report = verify_copy(&copy, keys.clone()).await;
    std::fs::remove_file(&copy).map_err(store)?;
    match report {
        Err(LedgerError::Damaged(what)) => {
            let faults = vec![Fault { seq: 0, what }];
            Ok((VerifyReport { faults, ..VerifyReport::default() }, State::under(keys)))
        }
        other => other,
    }
}

async fn verify_copy(copy: &Path, keys: Arc<Keys>) -> Result<(VerifyReport, State), LedgerError> {
    let mut database = open_database(copy)?;
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let whole = database.check_integrity();
        (database, whole)
    }));
    let Ok((database, whole)) = checked else {
        return Err(LedgerError::Damaged("the file's pages do not hold".into()));
    };
    let (mut report, state) = verify(&RedbStore::over(database), keys).await?;
    if !matches!(whole, Ok(true)) {
        fault(&mut report, 0, "a page of the file fails its checksum".to_owned());
    }
    Ok((report, state))
}
