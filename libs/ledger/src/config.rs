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

/// The artifact store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactsConfig {
    /// Its folder; `<data_dir>/artifacts` when absent.
    pub dir: Option<PathBuf>,
}
