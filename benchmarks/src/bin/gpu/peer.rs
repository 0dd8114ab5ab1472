//! PyTorch on the same card. Its scripts travel inside this binary.
use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::json;
use tidegate_benchmarks::{
    median,
    turns::{Peer, Timed},
};

use crate::speed::{ADAMW, Measured, Sizes, routing};

const SCRIPT: &str = include_str!("../../../gpu/peer.py");
const TURNS: &str = include_str!("../../../peers/turns.py");

/// What it says first.
#[derive(Deserialize)]
struct First {
    versions: BTreeMap<String, String>,
    /// Ways that it can run the network.
    ways: Vec<String>,
}

#[derive(Deserialize)]
struct Trained {
    samples_s: Vec<f64>,
    memory_gib: f64,
    fullest: f64,
    loss: f64,
}

/// What PyTorch did.
pub(crate) struct Theirs {
    pub(crate) matmul_flops: f64,
    pub(crate) ways: Vec<Measured>,
    pub(crate) versions: BTreeMap<String, String>,
}

impl Theirs {
    /// Tokens a second of its best way.
    pub(crate) fn best(&self, routing: &str) -> f64 {
        let same = self.ways.iter().filter(|way| way.routing == routing);
        same.map(|way| way.tokens_per_s).fold(f64::NAN, f64::max)
    }
}

/// Ours is gone from the card by now.
pub(crate) fn measure(python: &Path, sizes: &Sizes) -> anyhow::Result<Theirs> {
    let folder = tempfile::tempdir()?;
    for (name, content) in [("gpu/peer.py", SCRIPT), ("peers/turns.py", TURNS)] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
        fs::write(path, content)?;
    }
    let job = json!({
        "architecture": sizes.architecture,
        "batch": sizes.batch,
        "sequence": sizes.sequence,
        "learning_rate": ADAMW.rate,
        "beta1": ADAMW.beta_1,
        "beta2": ADAMW.beta_2,
        "epsilon": ADAMW.epsilon,
        "weight_decay": ADAMW.weight_decay,
        "balance": 1e-3,
    });
    let script = folder.path().join("gpu/peer.py");
    let script = script.to_string_lossy();
    let (mut peer, first) = Peer::start::<First>(python, &script, &job, folder.path())?;
    let mut matmul_flops = 0.0_f64;
    for &side in &sizes.squares {
        let samples: Timed = peer.ask(&format!("matmul {side} {}", sizes.seconds / 4.0))?;
        let rate = 2.0 * (side as f64).powi(3) / median(samples.samples_s);
        matmul_flops = matmul_flops.max(rate);
    }
    let mut ways = Vec::new();
    for way in &first.ways {
        for even in [true, false] {
            let routing = routing(even);
            eprintln!("PyTorch, {way}, {routing}");
            let request = format!("train {way} {routing} {}", sizes.seconds);
            // One way that this PyTorch cannot compile is no reason to lose the others.
            let found: Trained = match peer.ask(&request) {
                Ok(found) => found,
                Err(error) => {
                    eprintln!("left out: {error:#}");
                    continue;
                }
            };
            ways.push(Measured {
                way: format!("{way}, {routing}"),
                routing: routing.to_owned(),
                steps: found.samples_s.len(),
                tokens_per_s: (sizes.batch * sizes.sequence) as f64 / median(found.samples_s),
                memory_gib: Some(found.memory_gib),
                fullest: found.fullest,
                loss: found.loss,
            });
        }
    }
    anyhow::ensure!(!ways.is_empty(), "PyTorch ran the network in no way; its errors are above");
    Ok(Theirs { matmul_flops, ways, versions: first.versions })
}
