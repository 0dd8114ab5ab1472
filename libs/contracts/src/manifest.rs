//! What a generation is: its files by hash, and where it comes from.
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{ArtifactHash, Class, GenerationId, JobId, JobKind, Window};

/// One file of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// BLAKE3 of its bytes; where it stands in the artifact store.
    pub hash: ArtifactHash,
    /// Bytes.
    pub size: u64,
}

/// An immutable model and its lineage. Its canonical JSON is hashed into the [`GenerationId`], so
/// that weights, data, recipe and parent can never be told apart from the name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format; 1.
    pub format: u32,
    /// The generation it started from.
    pub parent: Option<GenerationId>,
    /// The job that made it.
    pub job: JobId,
    /// The kind of that job.
    pub kind: JobKind,
    /// Its files, by name within the generation (`weights.safetensors`, `tokenizer.json`, ...).
    pub files: BTreeMap<String, FileEntry>,
    /// The classes it knows, in the order of its outputs.
    pub labels: Vec<Class>,
    /// The recipe it was trained by, as TOML.
    pub recipe: String,
    /// What it learnt from in this job. Everything before it came with the parent.
    pub window: Window,
    /// Seed of every random choice.
    pub seed: u64,
    /// The code that trained it.
    pub code_version: String,
    /// When training ended.
    pub created: DateTime<Utc>,
    /// The latest time a label in the window was published; freshness is measured from it.
    pub newest_label: Option<DateTime<Utc>>,
    /// What the job measured of itself (loss, steps, tokens, joules, seconds, ...), by name.
    pub metrics: BTreeMap<String, f64>,
}

impl Manifest {
    /// The bytes that are hashed and stored: compact JSON, maps sorted by key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys only, so it is always JSON")
    }

    /// The generation's name.
    #[must_use]
    pub fn id(&self) -> GenerationId {
        GenerationId::of(&self.to_bytes())
    }
}
