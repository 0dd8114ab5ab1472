//! How the curator works.
use serde::{Deserialize, Serialize};
use tidegate_curation::CurationConfig;

/// The curator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CuratorConfig {
    /// The consumer group. Curators of one group share the lanes.
    pub group: String,
    /// How often a checkpoint is written while records come, in milliseconds. Longer when writing
    /// takes long: it gets a twentieth of the time at most.
    pub checkpoint_ms: u64,
    /// Records that are curated before their results are written.
    pub batch: usize,
    /// How long the lane of a curator that died stays shut, in seconds.
    pub lease_s: u64,
    /// The stages.
    pub curation: CurationConfig,
}

impl Default for CuratorConfig {
    fn default() -> Self {
        Self {
            group: "tidegate-curator".into(),
            checkpoint_ms: 1_000,
            batch: 512,
            lease_s: 5,
            curation: CurationConfig::default(),
        }
    }
}

impl CuratorConfig {
    /// Refuses what cannot work.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        self.curation.validate()?;
        for (field, value) in [
            ("checkpoint_ms", self.checkpoint_ms),
            ("batch", self.batch as u64),
            ("lease_s", self.lease_s),
        ] {
            anyhow::ensure!(value > 0, "curator.{field}: is 0, at least 1 is right");
        }
        anyhow::ensure!(!self.group.is_empty(), "curator.group: is empty");
        Ok(())
    }
}
