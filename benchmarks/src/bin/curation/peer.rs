//! The peer: `benchmarks/curation/peer.py`, a process of its own.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_curation::{Banding, CurationConfig};

/// What became of each record, by side and offset.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Decisions {
    pub(crate) events: Vec<String>,
    pub(crate) labels: Vec<String>,
}

impl Decisions {
    /// Records that were decided otherwise.
    pub(crate) fn differ(&self, other: &Self) -> usize {
        let unlike = |a: &[String], b: &[String]| a.iter().zip(b).filter(|(a, b)| a != b).count();
        unlike(&self.events, &other.events) + unlike(&self.labels, &other.labels)
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |names: &[&str]| {
            self.events.iter().filter(|found| names.contains(&found.as_str())).count()
        };
        Counts {
            events: self.events.len(),
            kept: of(&["train", "eval", "train_unlabelled", "eval_unlabelled", "waiting"]),
            exact: of(&["duplicate_id", "duplicate_content"]),
            near: of(&["near_duplicate"]),
            held_out: of(&["eval", "eval_unlabelled"]),
            joined: self.labels.iter().filter(|found| *found == "joined").count(),
        }
    }
}

/// What the stages did, in numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Counts {
    pub(crate) events: usize,
    /// Those that still wait for a label included.
    pub(crate) kept: usize,
    pub(crate) exact: usize,
    pub(crate) near: usize,
    pub(crate) held_out: usize,
    pub(crate) joined: usize,
}

impl Counts {
    /// The largest difference of any count but the held out, as a share of the events.
    pub(crate) fn apart(&self, other: &Self) -> f64 {
        let of = |c: &Self| [c.kept, c.exact, c.near, c.joined];
        let widest = of(self).into_iter().zip(of(other)).map(|(a, b)| a.abs_diff(b)).max();
        widest.unwrap_or_default() as f64 / self.events as f64
    }

    /// How far the held-out counts are apart, in standard deviations of two independent draws.
    pub(crate) fn held_out_apart(&self, other: &Self, fraction: f64) -> f64 {
        let variance = fraction * (1.0 - fraction) * (self.kept + other.kept) as f64;
        self.held_out.abs_diff(other.held_out) as f64 / variance.sqrt()
    }
}

/// What one run of the peer printed.
#[derive(Debug, Deserialize)]
pub(crate) struct Pass {
    pub(crate) cpu_s: f64,
    pub(crate) wall_s: f64,
    pub(crate) versions: BTreeMap<String, String>,
}

/// How the peer is run.
pub(crate) struct Peer<'a> {
    pub(crate) python: &'a Path,
    pub(crate) input: &'a Path,
    pub(crate) folder: &'a Path,
}

impl Peer<'_> {
    pub(crate) fn run(
        &self,
        config: &CurationConfig,
        signatures: &str,
        hashes: &str,
    ) -> anyhow::Result<(Pass, Decisions)> {
        let script = PathBuf::from("benchmarks/curation/peer.py");
        let decisions = self.folder.join("decisions.json");
        let output = Command::new(self.python)
            .arg(&script)
            .arg(self.input)
            .args(["--config", &options(config), "--signatures", signatures, "--hashes", hashes])
            .arg("--decisions")
            .arg(&decisions)
            .env("OMP_NUM_THREADS", "1")
            .output()
            .with_context(|| self.python.display().to_string())?;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{}: {error}", script.display());
        let pass = serde_json::from_slice(&output.stdout)?;
        Ok((pass, serde_json::from_slice(&std::fs::read(&decisions)?)?))
    }
}

/// Our parameters, as the peer takes them.
fn options(config: &CurationConfig) -> String {
    let near = &config.near;
    let banding = Banding::choose(near.permutations, near.threshold);
    json!({
        "max_future_s": config.validate.max_future_s,
        "exact_capacity": config.exact.capacity,
        "near": {
            "threshold": near.threshold,
            "permutations": near.permutations,
            "bands": banding.bands,
            "rows": banding.rows,
            "shingle": near.shingle,
            "max_shingles": near.max_shingles,
            "capacity": near.capacity,
        },
        "salt": config.holdout.salt,
        "fraction": config.holdout.fraction,
        "horizon_s": config.join.horizon_s,
        "join_capacity": config.join.capacity,
    })
    .to_string()
}
