//! The network that speed is measured on.
use tidegate_model::{Architecture, Task};

/// About 8.4 million parameters: 4 layers of 8 routed experts and a shared one.
#[must_use]
pub fn architecture() -> Architecture {
    Architecture {
        task: Task::NextToken,
        d_model: 256,
        layers: 4,
        heads: 8,
        kv_heads: 8,
        context: 128,
        vocab: 512,
        experts: 8,
        top_k: 2,
        shared_experts: 1,
        expert_width: 256,
        wide_buckets: 1,
        ..Architecture::default()
    }
}

/// Floating-point operations of one token's forward pass: two for each weight that it meets in a
/// matrix product, and those of causal attention over half of `sequence` on average.
#[must_use]
pub fn forward_flops(a: &Architecture, sequence: usize) -> f64 {
    let (d, kv) = (a.d_model, a.kv_heads * a.head_width());
    let attention = 2 * d * d + 2 * d * kv;
    let experts = (a.top_k + a.shared_experts) * 3 * d * a.expert_width + d * a.experts;
    let scores = d * (sequence + 1);
    (2 * (a.layers * (attention + experts) + d * a.vocab) + 2 * a.layers * scores) as f64
}
