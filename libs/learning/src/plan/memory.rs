//! What a job keeps in memory.
use std::fs;

use serde::{Deserialize, Serialize};
use tidegate_model::{Architecture, Task};

/// Bytes of a number.
const F32: u64 = 4;

/// Copies of the generation's files while a checkpoint is written: the files, the checkpoint's body,
/// and the body with its head.
const COPIES_OF_FILES: u64 = 3;

/// Bytes that a job keeps at once, at its fullest; an estimate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Parameters of both paths.
    pub weights: u64,
    /// Of what learns in the deep path.
    pub gradients: u64,
    /// AdamW's moments of that, and the wide path's accumulators.
    pub optimizer: u64,
    /// What the forward pass of the largest micro-batch keeps for the backward pass.
    pub activations: u64,
    /// The champion's weights, to learn from its answers or to be pulled back to.
    pub champion: u64,
    /// Features of the window and of what is replayed, and what is counted.
    pub data: u64,
    /// A checkpoint while it is written.
    pub files: u64,
    /// All of it.
    pub total: u64,
}

/// What [`Memory::of`] reckons with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// Parameters of the deep path.
    pub(crate) deep: usize,
    /// Those that learn.
    pub(crate) trained: usize,
    /// Cells of the wide table.
    pub(crate) wide: usize,
    /// Tokens of the largest micro-batch.
    pub(crate) tokens: usize,
    /// Whole copies of the champion.
    pub(crate) champions: usize,
    /// Bytes of features, texts and counts.
    pub(crate) data: usize,
    /// Bytes of a checkpoint's files.
    pub(crate) files: usize,
}

impl Memory {
    pub(crate) fn of(a: &Architecture, held: &Held) -> Self {
        let [deep, trained, wide] = [held.deep, held.trained, held.wide].map(|size| size as u64);
        let mut memory = Self {
            weights: F32 * (deep + wide),
            gradients: F32 * trained,
            optimizer: F32 * (2 * trained + wide),
            activations: F32 * (held.tokens * kept(a)) as u64,
            champion: F32 * held.champions as u64 * (deep + 2 * wide),
            data: held.data as u64,
            files: COPIES_OF_FILES * held.files as u64,
            total: 0,
        };
        memory.total = memory.parts().iter().map(|(_, bytes)| bytes).sum();
        memory
    }

    /// Its parts by name, without the total.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("champion", self.champion),
            ("data", self.data),
            ("files", self.files),
        ]
    }
}

/// Numbers that a token leaves for the backward pass: of each layer both normed inputs, queries,
/// keys and values, what was attended to, what attention, the shared and the routed experts gave,
/// and the two sums of the residual stream; logits, affinities, choices and weights of the router;
/// gate, up and their product of each expert that it meets (of GELU, which has no gate, less). The
/// embedding and the last norm; where next tokens are learnt, logits and probabilities.
fn kept(a: &Architecture) -> usize {
    let (d, kv) = (a.d_model, a.kv_heads * a.head_width());
    let met = a.expert_matrices() * a.experts_met() * a.expert_width;
    let choices: usize = (0..a.layers).map(|layer| a.experts_of(layer).0).sum();
    let answers = if a.task == Task::NextToken { 2 * a.vocab } else { 0 };
    a.layers * (9 * d + 2 * kv) + 5 * choices + met + 2 * d + answers
}

/// How much memory this process came to take since then, where the system tells (Linux does).
#[derive(Debug, Clone, Copy)]
pub struct PeakMemory {
    before: Option<u64>,
}

impl PeakMemory {
    /// From what the process has now.
    #[must_use]
    pub fn start() -> Self {
        Self { before: status("VmRSS:") }
    }

    /// Forgets a peak that was reached meanwhile. Affects what the system says of this process to
    /// anybody, and nothing else.
    pub fn forget(&self) {
        // 5: "reset the peak resident set size" (proc_pid_clear_refs(5)). Where it is not allowed
        // the older peak counts too.
        drop(fs::write("/proc/self/clear_refs", "5"));
    }

    /// Bytes at the peak above those at the start.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        Some(status("VmHWM:")?.saturating_sub(self.before?))
    }
}

/// A size of `/proc/self/status`, in bytes.
fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_and_frozen_parameters_cost_their_weights_alone() {
        let a = Architecture::default();
        let held = Held {
            deep: 1_000,
            trained: 1_000,
            wide: 10,
            tokens: 64,
            champions: 1,
            ..Held::default()
        };
        let full = Memory::of(&a, &held);
        let frozen = Memory::of(&a, &Held { trained: 0, ..held });
        assert_eq!(full.total - frozen.total, 4 * 3 * 1_000);
        assert_eq!(frozen.gradients, 0);
        assert_eq!(full.total, full.parts().iter().map(|(_, bytes)| bytes).sum::<u64>());
        let twice = Memory::of(&a, &Held { tokens: 128, ..held });
        assert_eq!(twice.activations, 2 * full.activations);
    }

    #[test]
    fn a_large_block_shows_in_the_peak() {
        let memory = PeakMemory::start();
        let block = vec![1_u8; 64 << 20];
        assert!(block.iter().map(|&byte| u64::from(byte)).sum::<u64>() > 0);
        if let Some(bytes) = memory.bytes() {
            assert!(bytes > 48 << 20, "{bytes}");
        }
    }
}
