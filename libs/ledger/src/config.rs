//! Which store the ledger is kept in, and where artifacts lie.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_contracts::config::Secret;

/// Where the record of what happened is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// The store of the log.
    pub store: StoreConfig,
    /// The store of everything that is named by its hash.
    pub artifacts: ArtifactsConfig,
    /// Whose signatures are believed, and what is signed with here.
    pub keys: KeysConfig,
}

/// The store of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreConfig {
    /// One `redb` file, `<data_dir>/ledger.redb`; for one process.
    #[default]
    Embedded,
    /// Redis 7 or newer with its append-only file on; for services that run apart.
    Redis {
        /// `redis://[user:password@]host:port/db`.
        url: Secret,
        /// Before every key.
        #[serde(default = "default_prefix")]
        prefix: String,
    },
}

fn default_prefix() -> String {
    "tidegate".to_owned()
}

/// Keys of verdicts, approvals and promotions, ed25519 in PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// Their folder: `evaluator.pub`, `controller.pub` and `operator-<name>.pub` are believed, and a
    /// service signs with its `.key`. `<data_dir>/keys` when absent, where they are made at the first
    /// start: enough for one process, and for several on one data directory.
    pub dir: Option<PathBuf>,
    /// Decisions of an older version, up to this entry, count without signatures.
    pub unsigned_until: u64,
}

/// The artifact store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactsConfig {
    /// Its folder; `<data_dir>/artifacts` when absent.
    pub dir: Option<PathBuf>,
}
