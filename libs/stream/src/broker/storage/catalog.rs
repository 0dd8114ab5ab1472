//! The catalogue: topics, committed offsets, producer ids. A log of changes; the state is its fold.
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame;
use crate::error::StreamError;

/// The file is rewritten as one snapshot when it has grown by this much.
const COMPACT_AFTER: u64 = 8 << 20;
/// Producer ids are taken in blocks, so that most of them cost no write.
const PRODUCER_BLOCK: i64 = 1_000;

/// A topic, as it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicEntry {
    /// Names the topic's folder: a topic of the same name that is created later is another.
    pub(crate) id: Uuid,
    pub(crate) partitions: i32,
    pub(crate) configs: BTreeMap<String, String>,
    /// By partition, the offset up to which records were deleted.
    #[serde(default)]
    pub(crate) starts: BTreeMap<i32, i64>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// Offsets of one group, by topic and partition.
pub(crate) type Offsets = BTreeMap<String, BTreeMap<i32, Committed>>;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// Everything so far; first in a file that was rewritten.
    Snapshot(State),
    TopicCreated {
        name: String,
        topic: TopicEntry,
    },
    TopicGrew {
        name: String,
        partitions: i32,
    },
    TopicDeleted {
        name: String,
    },
    /// The folder of a deleted topic is gone.
    TopicRemoved {
        id: Uuid,
    },
    RecordsDeleted {
        name: String,
        partition: i32,
        before: i64,
    },
    Committed {
        group: String,
        offsets: Offsets,
    },
    GroupDeleted {
        group: String,
    },
    /// Ids below this may have been given out.
    ProducerIds {
        below: i64,
    },
}

/// What the changes add up to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) cluster: Uuid,
    pub(crate) topics: BTreeMap<String, TopicEntry>,
    /// Deleted topics whose folders may still be there.
    pub(crate) doomed: Vec<Uuid>,
    pub(crate) groups: BTreeMap<String, Offsets>,
    producer_ids: i64,
}

impl State {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Snapshot(state) => *self = state,
            Change::TopicCreated { name, topic } => {
                self.topics.insert(name, topic);
            }
            Change::TopicGrew { name, partitions } => {
                if let Some(topic) = self.topics.get_mut(&name) {
                    topic.partitions = partitions;
                }
            }
            Change::TopicDeleted { name } => {
                self.doomed.extend(self.topics.remove(&name).map(|topic| topic.id));
                for offsets in self.groups.values_mut() {
                    offsets.remove(&name);
                }
            }
            Change::TopicRemoved { id } => self.doomed.retain(|doomed| *doomed != id),
            Change::RecordsDeleted { name, partition, before } => {
                if let Some(topic) = self.topics.get_mut(&name) {
                    topic.starts.insert(partition, before);
                }
            }
            Change::Committed { group, offsets } => {
                let held = self.groups.entry(group).or_default();
                for (topic, partitions) in offsets {
                    held.entry(topic).or_default().extend(partitions);
                }
            }
            Change::GroupDeleted { group } => {
                self.groups.remove(&group);
            }
            Change::ProducerIds { below } => self.producer_ids = below,
        }
    }
}

/// The catalogue and its file.
pub(crate) struct Catalog {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    /// The length after the last rewrite.
    compacted: u64,
    state: State,
    next_producer_id: i64,
    dirty: bool,
    sync_always: bool,
}

impl Catalog {
    /// Reads the catalogue, or begins one.
    pub(crate) fn open(path: &Path, sync_always: bool) -> Result<Self, StreamError> {
        let storage = |source| StreamError::Storage { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(storage(error)),
        };
        let mut state = State {
            cluster: Uuid::new_v4(),
            topics: BTreeMap::new(),
            doomed: Vec::new(),
            groups: BTreeMap::new(),
            producer_ids: 1,
        };
        let (changes, whole) = read(path, &bytes)?;
        let fresh = changes.is_empty();
        for change in changes {
            state.apply(change);
        }
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(storage)?;
        file.set_len(whole).map_err(storage)?;
        let mut catalog = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            len: whole,
            compacted: 0,
            next_producer_id: state.producer_ids,
            state,
            dirty: true,
            sync_always,
        };
        if fresh || whole > COMPACT_AFTER {
            catalog.compact().map_err(storage)?;
        }
        Ok(catalog)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Writes a change and applies it; the operating system has it when this returns.
    pub(crate) fn record(&mut self, change: Change) -> io::Result<()> {
        let line = frame::encode(&change);
        let written = (&*self.file)
            .write_all(&line)
            .and_then(|()| if self.sync_always { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Half a line must not stand before the next one.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += line.len() as u64;
        self.dirty = true;
        self.state.apply(change);
        if self.len > self.compacted + COMPACT_AFTER
            && let Err(error) = self.compact()
        {
            // The change is written all the same; the file stays long.
            tracing::warn!(path = %self.path.display(), %error, "catalogue was not rewritten");
            self.compacted = self.len;
        }
        Ok(())
    }

    /// A producer id that was never given out.
    pub(crate) fn producer_id(&mut self) -> io::Result<i64> {
        if self.next_producer_id >= self.state.producer_ids {
            let below = self.next_producer_id + PRODUCER_BLOCK;
            self.record(Change::ProducerIds { below })?;
        }
        self.next_producer_id += 1;
        Ok(self.next_producer_id - 1)
    }

    /// Replaces the file by one snapshot.
    fn compact(&mut self) -> io::Result<()> {
        let snapshot = frame::encode(&Change::Snapshot(self.state.clone()));
        let new = self.path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        (&file).write_all(&snapshot)?;
        file.sync_data()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = Arc::new(OpenOptions::new().append(true).open(&self.path)?);
        self.len = snapshot.len() as u64;
        self.compacted = self.len;
        Ok(())
    }

    /// The file, when it has changes that are not on the disk yet.
    pub(crate) fn unsynced(&mut self) -> Option<Arc<File>> {
        std::mem::take(&mut self.dirty).then(|| self.file.clone())
    }
}

/// The changes in a catalogue file, and the bytes of it that are whole. A last line that was cut
/// short was never acknowledged; anything else that is not whole is damage, and not guessed at.
fn read(path: &Path, bytes: &[u8]) -> Result<(Vec<Change>, u64), StreamError> {
    let mut changes = Vec::new();
    let mut whole = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let change = if line.ends_with(b"\n") { frame::decode(line) } else { None };
        let Some(change) = change else { break };
        changes.push(change);
        whole += line.len();
    }
    let rest = &bytes[whole..];
    let lines = rest.split(|&byte| byte == b'\n');
    if lines.skip(1).any(|line| frame::decode::<Change>(line).is_some()) {
        return Err(StreamError::Catalog {
            path: path.to_owned(),
            reason: format!("it is damaged at byte {whole}, and whole again after"),
        });
    }
    if !rest.is_empty() {
        tracing::warn!(
            path = %path.display(),
            bytes = rest.len(),
            "the end of the catalogue is not whole and was cut off: it was never acknowledged"
        );
    }
    Ok((changes, whole as u64))
}
