//! Progress that survives a kill.
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, JobId, JobKind, Window};

use crate::{Example, Job, LearningError, optimizer::LossScaler};

/// Behind the magic: BLAKE3 of all that follows, the head's size as u64, the head as JSON, the
/// files one behind the other.
const MAGIC: &[u8; 8] = b"TGCKPT02";
const PREFIX: usize = 8 + 32 + 8;

/// How many checkpoints of a job are kept: the newest, and one before in case it is damaged.
const KEPT: usize = 2;

/// What was measured so far; goes on over a kill.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stats {
    pub(crate) examples: u64,
    pub(crate) tokens: u64,
    pub(crate) seconds: f64,
    pub(crate) joules: f64,
    /// Seconds that training stood still for checkpoints.
    #[serde(default)]
    pub(crate) paused: f64,
    /// Exponentially averaged.
    pub(crate) loss: Option<f64>,
    /// The same of the routers' own losses, where there are any.
    pub(crate) router_loss: Option<f64>,
    /// The same of what pulls the weights back, where anything does.
    pub(crate) penalty: Option<f64>,
    /// Sum over steps of the fullest expert's share.
    pub(crate) load_max_sum: f64,
    /// What a transfer knew before its first step, by name.
    #[serde(default)]
    pub(crate) transfer: BTreeMap<String, f64>,
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Steps done. With the seed it is the sampler's position: an epoch's order is a function of
    /// seed and epoch.
    pub(crate) step: u64,
    pub(crate) stats: Stats,
    /// Only where the loss is scaled.
    pub(crate) scaler: Option<LossScaler>,
}

impl Position {
    pub(crate) fn start(scaler: Option<LossScaler>) -> Self {
        Self { scaler, ..Self::default() }
    }
}

/// What a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    pub(crate) job: JobId,
    pub(crate) kind: JobKind,
    /// Of recipe, seed, parent, window and examples: a checkpoint goes on with these only.
    pub(crate) fingerprint: ArtifactHash,
    /// The offsets that the examples came from.
    pub(crate) window: Window,
    pub(crate) position: Position,
    files: Vec<(String, u64)>,
}

/// One moment of a job: head and files (weights with the wide path's accumulators, optimiser
/// state, tokenizer, replay buffer, diagnosis).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) head: Head,
    pub(crate) files: BTreeMap<String, Bytes>,
}

impl Checkpoint {
    pub(crate) fn new(
        job: &Job,
        fingerprint: ArtifactHash,
        position: Position,
        files: BTreeMap<String, Bytes>,
    ) -> Self {
        let sizes = files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
        let (window, kind) = (job.window.clone(), job.kind);
        let job = job.id.clone();
        Self { head: Head { job, kind, fingerprint, window, position, files: sizes }, files }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let head = serde_json::to_vec(&self.head).expect("a head has string keys only");
        let mut body = (head.len() as u64).to_le_bytes().to_vec();
        body.extend(head);
        for bytes in self.files.values() {
            body.extend_from_slice(bytes);
        }
        let mut bytes = Vec::with_capacity(PREFIX + body.len());
        bytes.extend(MAGIC);
        bytes.extend(blake3::hash(&body).as_bytes());
        bytes.extend(body);
        bytes
    }

    /// Says why when it is not what [`Checkpoint::to_bytes`] wrote.
    fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.len() < PREFIX || !bytes.starts_with(MAGIC) {
            return Err("it does not begin as a checkpoint does".to_owned());
        }
        let bytes = Bytes::from(bytes);
        let body = bytes.slice(MAGIC.len() + 32..);
        if blake3::hash(&body).as_bytes() != &bytes[MAGIC.len()..MAGIC.len() + 32] {
            return Err("its hash does not match its content".to_owned());
        }
        // What the hash covers was written by us; the bounds guard against another version of us.
        let size = u64::from_le_bytes(body[..8].try_into().expect("8 bytes")) as usize;
        let head = body.get(8..8 + size).ok_or("its head is cut short")?;
        let head: Head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
        let mut files = BTreeMap::new();
        let mut at = 8 + size;
        for (name, size) in &head.files {
            let end = at + *size as usize;
            if end > body.len() {
                return Err(format!("file `{name}` is cut short"));
            }
            files.insert(name.clone(), body.slice(at..end));
            at = end;
        }
        Ok(Self { head, files })
    }
}

/// Hash of everything that a job's result depends on.
pub(crate) fn fingerprint(job: &Job, examples: &[Example]) -> ArtifactHash {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(job.id.as_str().as_bytes());
    field(job.kind.as_str().as_bytes());
    field(job.recipe.to_toml().as_bytes());
    field(&job.seed.to_le_bytes());
    field(job.start.parent().map_or(String::new(), |id| id.to_hex()).as_bytes());
    field(&serde_json::to_vec(&job.window).expect("a window has string keys only"));
    for example in examples {
        field(example.id.as_str().as_bytes());
        field(example.label.as_str().as_bytes());
        field(&example.weight.to_le_bytes());
        field(&example.input.canonical());
        field(example.domain.as_str().as_bytes());
        field(&serde_json::to_vec(&example.groups).expect("groups are text"));
    }
    ArtifactHash::from_bytes(*hasher.finalize().as_bytes())
}

/// A folder of checkpoints, of one training process at a time.
#[derive(Debug, Clone)]
pub struct CheckpointDir {
    path: PathBuf,
}

impl CheckpointDir {
    /// Makes the folder when it is not there.
    ///
    /// # Errors
    /// [`LearningError::Checkpoint`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LearningError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(at(&path))?;
        Ok(Self { path })
    }

    /// Removes every checkpoint of `job`: it is done, or failed for good.
    ///
    /// # Errors
    /// [`LearningError::Checkpoint`].
    pub fn clear(&self, job: &JobId) -> Result<(), LearningError> {
        let unfinished = self.list(job, ".tmp")?;
        let finished = self.list(job, ".ckpt")?;
        for (_, path) in finished.into_iter().chain(unfinished) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
        self.forget_search(job)
    }

    /// Removes what an architecture search of `job` left.
    pub(crate) fn forget_search(&self, job: &JobId) -> Result<(), LearningError> {
        let search = self.search_path(job);
        match fs::remove_dir_all(&search) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&search)(error)),
            _ => Ok(()),
        }
    }

    /// The folder of this job's architecture search.
    pub(crate) fn of_search(&self, job: &JobId) -> Result<Self, LearningError> {
        Self::open(self.search_path(job))
    }

    fn search_path(&self, job: &JobId) -> PathBuf {
        self.path.join(format!("{}.search", prefix(job)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a small file in place of the one of this name: all of it or, after a kill, the old one.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), LearningError> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!("{name}.tmp")));
        self.put(&temporary, &path, bytes)
    }

    fn put(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), LearningError> {
        let mut file = fs::File::create(temporary).map_err(at(temporary))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(temporary))?;
        fs::rename(temporary, path).map_err(at(path))?;
        // The rename itself is safe only when the folder is.
        fs::File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(at(&self.path))
    }

    /// The newest checkpoint that is whole and of this very job and data. Others are passed over
    /// with a log line. What a killed writer left unfinished is removed.
    pub(crate) fn newest(&self, job: &Job, examples: &[Example]) -> Option<Checkpoint> {
        for (_, path) in self.list(&job.id, ".tmp").unwrap_or_default() {
            drop(fs::remove_file(path));
        }
        let mut found = self.list(&job.id, ".ckpt").unwrap_or_default();
        found.sort();
        let fingerprint = fingerprint(job, examples);
        while let Some((step, path)) = found.pop() {
            let read = fs::read(&path).map_err(|error| error.to_string());
            match read.and_then(Checkpoint::from_bytes) {
                Ok(checkpoint) if checkpoint.head.fingerprint == fingerprint => {
                    tracing::info!(job = %job.id, step, "going on from a checkpoint");
                    return Some(checkpoint);
                }
                Ok(_) => {
                    let path = path.display();
                    tracing::warn!(job = %job.id, %path, "checkpoint refused: it is of other data or another recipe");
                }
                Err(reason) => {
                    let path = path.display();
                    tracing::warn!(job = %job.id, %path, reason, "checkpoint refused: it is damaged");
                }
            }
        }
        None
    }

    /// Writes under a name of its own, syncs, renames, and removes all but the newest.
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> Result<ArtifactHash, LearningError> {
        let bytes = checkpoint.to_bytes();
        let (job, step) = (&checkpoint.head.job, checkpoint.head.position.step);
        let path = self.path.join(format!("{}-{step:012}.ckpt", prefix(job)));
        let own = format!("{}-{step:012}.{}.tmp", prefix(job), std::process::id());
        let temporary = self.path.join(own);
        self.put(&temporary, &path, &bytes)?;
        let mut all = self.list(job, ".ckpt")?;
        all.sort();
        for (_, old) in &all[..all.len().saturating_sub(KEPT)] {
            fs::remove_file(old).map_err(at(old))?;
        }
        Ok(ArtifactHash::of(&bytes))
    }

    /// Step and path of each file of `job` that ends so.
    fn list(&self, job: &JobId, end: &str) -> Result<Vec<(u64, PathBuf)>, LearningError> {
        let start = format!("{}-", prefix(job));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let path = entry.map_err(at(&self.path))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let rest = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(end));
            let step = rest.and_then(|rest| rest.split('.').next()?.parse().ok());
            found.extend(step.map(|step| (step, path)));
        }
        Ok(found)
    }
}

/// A file name for any id: ids are UUIDs, but nothing makes them so.
fn prefix(job: &JobId) -> String {
    ArtifactHash::of(job.as_str().as_bytes()).short()
}

fn at(path: &Path) -> impl Fn(io::Error) -> LearningError + use<> {
    let path = path.to_owned();
    move |source| LearningError::Checkpoint { path: path.clone(), source }
}
