//! What the broker keeps, and where.
//!
//! ```text
//! lock                                  held while a process uses the folder
//! catalog.log                           topics, committed offsets, producer ids
//! topics/<topic id>/<partition>/
//!     00000000000000000000.log          a segment, named by the first offset it may hold
//!     00000000000000000000.sealed       its sidecar, once it is full and on the disk
//! ```
//!
//! **Segment**: record batches of Kafka's format 2, end to end, exactly as their producers sent
//! them but for the base offset and the leader epoch. Nothing else: a batch's own crc tells
//! whether it is whole. **Sidecar** and **catalogue**: lines of [`frame`]. A sidecar is one line:
//! the segment's length, offsets, times and sparse index, and the state of idempotent producers
//! behind it. The catalogue is a list of changes whose fold is the state.
//!
//! Invariants:
//! - *Acknowledged is written.* A batch, a committed offset, a topic is given to the operating
//!   system before its answer is sent, so a killed process loses none. It is forced to the disk
//!   every `fsync_ms`: a power cut loses at most what came since.
//! - *The log is a prefix.* A start reads the newest segment and cuts it at the first byte that is
//!   no whole batch. What was cut was never acknowledged, or came since the last force.
//! - *A sidecar vouches.* It is written after its segment is on the disk, and believed only if the
//!   length fits. Without it the segment is read instead; so a start reads little (the newest
//!   segments, and those that filled up just before the end), and a lost sidecar loses nothing.
//! - *The catalogue knows first.* A topic's folder is made after its creation is recorded, and
//!   removed after its deletion is; a folder that the catalogue never heard of is left alone.
//! - *Offsets only rise*, across deletion of records, retention and restarts: the newest segment
//!   always stays, and its name holds the offset.
//! - *Producer state is a fold of the log* too, so that a repeated batch is known after a restart.
//!
//! Locks are taken in this order: catalogue, topics, log; none is held while waiting.
mod batch;
mod catalog;
mod frame;
mod log;
mod producers;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use self::{
    batch::{Batch, Malformed},
    catalog::{Change, Committed, Offsets},
    log::{LogOptions, Refused},
    producers::SequenceError,
};
use self::{
    catalog::{Catalog, State, TopicEntry},
    log::Log,
};
use crate::error::StreamError;

/// Partitions of all topics together: each holds a file open.
const PARTITIONS: usize = 4_096;

/// A topic that is open.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) partitions: Vec<Arc<Partition>>,
}

/// A partition that is open.
pub(crate) struct Partition {
    log: Mutex<Log>,
    /// Changes with every append, and when the topic is deleted: what a waiting fetch looks at.
    end: watch::Sender<i64>,
}

impl Partition {
    /// Appends a batch and wakes those who wait for it.
    pub(crate) fn append(&self, batch: &Batch) -> Result<i64, Refused> {
        let mut log = self.log.lock();
        let offset = log.append(batch)?;
        self.end.send_replace(log.end());
        Ok(offset)
    }

    /// The first offset, and the one after the last.
    pub(crate) fn bounds(&self) -> (i64, i64) {
        let log = self.log.lock();
        (log.start(), log.end())
    }

    /// The log, for a look. Twice in one statement waits for itself for ever.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// Tells of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<i64> {
        self.end.subscribe()
    }

    fn sync(&self) -> io::Result<()> {
        let unsynced = self.log.lock().unsynced();
        let forced = unsynced.force();
        if forced.is_err() {
            self.log.lock().still_unsynced(unsynced);
        }
        forced
    }
}

/// Why a topic was not created or changed.
#[derive(Debug)]
pub(crate) enum TopicError {
    Exists,
    Unknown,
    /// It has this many partitions already, which can't become fewer.
    Fewer(usize),
    /// Over the limit of partitions.
    TooMany,
    Storage(io::Error),
}

impl From<io::Error> for TopicError {
    fn from(error: io::Error) -> Self {
        Self::Storage(error)
    }
}

/// Turns a topic's configuration into how its logs are kept.
pub(crate) type Options = Box<dyn Fn(&BTreeMap<String, String>) -> LogOptions + Send + Sync>;

/// Everything that is kept, by one process at a time.
pub(crate) struct Storage {
    dir: PathBuf,
    options: Options,
    catalog: Mutex<Catalog>,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    _lock: File,
}

impl Storage {
    /// Opens the folder, or begins one.
    pub(crate) fn open(
        dir: &Path,
        options: Options,
        sync_always: bool,
    ) -> Result<Self, StreamError> {
        let storage = |path: &Path| {
            let path = path.to_owned();
            move |source| StreamError::Storage { path, source }
        };
        std::fs::create_dir_all(dir.join("topics")).map_err(storage(dir))?;
        let lock = lock(dir)?;
        let mut catalog = Catalog::open(&dir.join("catalog.log"), sync_always)?;
        for id in catalog.state().doomed.clone() {
            remove_folder(&dir.join("topics").join(id.to_string())).map_err(storage(dir))?;
            catalog.record(Change::TopicRemoved { id }).map_err(storage(dir))?;
        }
        warn_of_strangers(dir, catalog.state());
        let mut topics = BTreeMap::new();
        for (name, entry) in &catalog.state().topics {
            let topic = open_topic(dir, name, entry, options(&entry.configs), &[])
                .map_err(storage(&dir.join("topics").join(entry.id.to_string())))?;
            topics.insert(name.clone(), Arc::new(topic));
        }
        let (catalog, topics) = (Mutex::new(catalog), RwLock::new(topics));
        Ok(Self { dir: dir.to_owned(), options, catalog, topics, _lock: lock })
    }

    pub(crate) fn cluster(&self) -> Uuid {
        self.catalog.lock().state().cluster
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().get(name).cloned()
    }

    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.topics.read().values().find(|topic| topic.id == id).cloned()
    }

    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().values().cloned().collect()
    }

    pub(crate) fn partition(&self, topic: &str, partition: i32) -> Option<Arc<Partition>> {
        let topic = self.topic(topic)?;
        topic.partitions.get(usize::try_from(partition).ok()?).cloned()
    }

    pub(crate) fn create(
        &self,
        name: &str,
        partitions: i32,
        configs: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, TopicError> {
        let mut catalog = self.catalog.lock();
        if catalog.state().topics.contains_key(name) {
            return Err(TopicError::Exists);
        }
        self.check_room(partitions, 0)?;
        let id = Uuid::new_v4();
        let entry = TopicEntry { id, partitions, configs, starts: BTreeMap::new() };
        let change = Change::TopicCreated { name: name.to_owned(), topic: entry.clone() };
        catalog.record(change)?;
        let options = (self.options)(&entry.configs);
        let topic = Arc::new(open_topic(&self.dir, name, &entry, options, &[])?);
        self.topics.write().insert(name.to_owned(), topic.clone());
        tracing::info!(topic = name, partitions, "topic created");
        Ok(topic)
    }

    fn check_room(&self, wanted: i32, has: usize) -> Result<(), TopicError> {
        let held: usize = self.topics.read().values().map(|t| t.partitions.len()).sum();
        let fits = usize::try_from(wanted).is_ok_and(|n| held - has + n <= PARTITIONS);
        if fits { Ok(()) } else { Err(TopicError::TooMany) }
    }

    /// Gives a topic more partitions.
    pub(crate) fn grow(&self, name: &str, partitions: i32) -> Result<(), TopicError> {
        let mut catalog = self.catalog.lock();
        let topic = self.topic(name).ok_or(TopicError::Unknown)?;
        let has = topic.partitions.len();
        if usize::try_from(partitions).is_ok_and(|wanted| wanted <= has) {
            return Err(TopicError::Fewer(has));
        }
        self.check_room(partitions, has)?;
        catalog.record(Change::TopicGrew { name: name.to_owned(), partitions })?;
        let entry = &catalog.state().topics[name];
        let options = (self.options)(&entry.configs);
        let grown = open_topic(&self.dir, name, entry, options, &topic.partitions)?;
        self.topics.write().insert(name.to_owned(), Arc::new(grown));
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str) -> Result<(), TopicError> {
        let mut catalog = self.catalog.lock();
        let topic = self.topic(name).ok_or(TopicError::Unknown)?;
        catalog.record(Change::TopicDeleted { name: name.to_owned() })?;
        self.topics.write().remove(name);
        for partition in &topic.partitions {
            partition.end.send_modify(|_| {});
        }
        remove_folder(&self.dir.join("topics").join(topic.id.to_string()))?;
        catalog.record(Change::TopicRemoved { id: topic.id })?;
        tracing::info!(topic = name, "topic deleted");
        Ok(())
    }

    /// Deletes the records before `before`; returns the first offset that is left.
    pub(crate) fn delete_records(
        &self,
        name: &str,
        partition: i32,
        before: i64,
    ) -> Result<i64, TopicError> {
        let mut catalog = self.catalog.lock();
        let log = self.partition(name, partition).ok_or(TopicError::Unknown)?;
        let name = name.to_owned();
        catalog.record(Change::RecordsDeleted { name, partition, before })?;
        let mut log = log.log.lock();
        log.trim(before);
        Ok(log.start())
    }

    /// Keeps the offsets that a group committed.
    pub(crate) fn commit(&self, group: &str, offsets: Offsets) -> io::Result<()> {
        self.catalog.lock().record(Change::Committed { group: group.to_owned(), offsets })
    }

    /// The offsets that a group committed; None when it never did.
    pub(crate) fn committed(&self, group: &str) -> Option<Offsets> {
        self.catalog.lock().state().groups.get(group).cloned()
    }

    /// The groups that ever committed.
    pub(crate) fn groups(&self) -> Vec<String> {
        self.catalog.lock().state().groups.keys().cloned().collect()
    }

    /// Forgets a group's offsets; false when there are none.
    pub(crate) fn delete_group(&self, group: &str) -> io::Result<bool> {
        let mut catalog = self.catalog.lock();
        if !catalog.state().groups.contains_key(group) {
            return Ok(false);
        }
        catalog.record(Change::GroupDeleted { group: group.to_owned() })?;
        Ok(true)
    }

    pub(crate) fn producer_id(&self) -> io::Result<i64> {
        self.catalog.lock().producer_id()
    }

    /// Forces everything to the disk, and drops what is too old. What fails is said, and tried
    /// again at the next call.
    pub(crate) fn maintain(&self, now_ms: i64) {
        let catalog = self.catalog.lock().unsynced();
        if let Some(Err(error)) = catalog.map(|file| file.sync_data()) {
            tracing::error!(%error, "the catalogue could not be forced to the disk");
        }
        for topic in self.topics() {
            for (number, partition) in topic.partitions.iter().enumerate() {
                if let Err(error) = partition.sync() {
                    let topic = &topic.name;
                    tracing::error!(topic, number, %error, "could not be forced to the disk");
                }
                partition.log.lock().retain_time(now_ms);
            }
        }
    }
}

/// Takes the folder for this process; the system gives it back when the process ends, however.
fn lock(dir: &Path) -> Result<File, StreamError> {
    let path = dir.join("lock");
    let storage = |source| StreamError::Storage { path: path.clone(), source };
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(storage)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StreamError::InUse(dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(storage(error)),
    }
}

/// Opens the logs of a topic, but for those that are `open` already.
fn open_topic(
    dir: &Path,
    name: &str,
    entry: &TopicEntry,
    options: LogOptions,
    open: &[Arc<Partition>],
) -> io::Result<Topic> {
    let folder = dir.join("topics").join(entry.id.to_string());
    let mut partitions = open.to_vec();
    for number in open.len() as i32..entry.partitions {
        let start = entry.starts.get(&number).copied().unwrap_or_default();
        let log = Log::open(&folder.join(number.to_string()), options, start)?;
        let (end, _) = watch::channel(log.end());
        partitions.push(Arc::new(Partition { log: Mutex::new(log), end }));
    }
    Ok(Topic { name: name.to_owned(), id: entry.id, configs: entry.configs.clone(), partitions })
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A folder that the catalogue does not know may be all that is left of a topic: it stays.
fn warn_of_strangers(dir: &Path, state: &State) {
    let known = |name: &str| state.topics.values().any(|topic| topic.id.to_string() == name);
    for entry in std::fs::read_dir(dir.join("topics")).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(known) {
            let path = entry.path();
            tracing::warn!(path = %path.display(), "no topic has this folder: it is left alone");
        }
    }
}
