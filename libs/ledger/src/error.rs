//! What can go wrong with the ledger and the artifacts.
use std::path::PathBuf;

use tidegate_contracts::{ArtifactHash, GenerationId};

use crate::{Head, Refusal};

/// Why the ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else wrote first.
    #[error(
        "ledger head moved: expected entry {} ({}), found {} ({}); fold again and decide again",
        expected.seq, expected.hash.short(), found.seq, found.hash.short()
    )]
    HeadMoved {
        /// What the writer had folded up to.
        expected: Head,
        /// What is there.
        found: Head,
    },
    /// The writer lost its lease to another.
    #[error("lease `{lease}` was lost: token {token} is older than {newest}; stop and stand by")]
    Fenced {
        /// The lease's name.
        lease: String,
        /// The writer's token.
        token: u64,
        /// The newest one.
        newest: u64,
    },
    /// A lease that ran out, or that another holds now.
    #[error("lease `{0}` was lost: it ran out and may be held by another; stop and stand by")]
    LeaseLost(String),
    /// The entry would break an invariant.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file is open elsewhere.
    #[error(
        "ledger {0} is in use by another process: ask the running service, or keep the ledger in \
         Redis to run services apart"
    )]
    InUse(String),
    /// A key that is missing, or no key.
    #[error("{}: {why}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The bytes do not make a ledger.
    #[error("ledger is damaged: {0}; restore it from a copy (the decisions topic mirrors it)")]
    Damaged(String),
    /// Redis would forget.
    #[error(
        "redis has its append-only file off, so it would lose the ledger when it stops: set \
         `appendonly yes` (CONFIG SET appendonly yes, and in redis.conf)"
    )]
    NotDurable,
    /// The store does not answer.
    #[error("ledger store: {0}")]
    Store(String),
    /// An entry cannot be written or read as JSON.
    #[error("ledger entry as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A blob too large to be small state.
    #[error("state `{name}` has {size} bytes: at most {limit} are kept")]
    TooLarge {
        /// The blob's name.
        name: String,
        /// Its bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// Why an artifact is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Nothing by that name.
    #[error("artifact {0} is missing from the store")]
    Missing(ArtifactHash),
    /// Other bytes than were written.
    #[error("artifact {wanted} is corrupt: its bytes hash to {found}; restore it from a copy")]
    Corrupt {
        /// The name.
        wanted: ArtifactHash,
        /// What is there.
        found: ArtifactHash,
    },
    /// A generation with a file that cannot be had.
    #[error("generation {}: file `{file}`: {source}", generation.short())]
    File {
        /// The generation.
        generation: GenerationId,
        /// The file.
        file: String,
        /// Why.
        source: Box<ArtifactError>,
    },
    /// A manifest that is none.
    #[error("generation {}: its manifest cannot be read: {reason}", generation.short())]
    Manifest {
        /// The generation.
        generation: GenerationId,
        /// What the parser said.
        reason: String,
    },
    /// A manifest that names other files than were given.
    #[error("the manifest and the files given differ: {0}")]
    Mismatch(String),
    /// The disk or the store fails.
    #[error("artifact store: {0}")]
    Store(String),
}
