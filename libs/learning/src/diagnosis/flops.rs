//! Work of the architecture, and what the device can do.
use std::{sync::OnceLock, time::Instant};

use burn::tensor::Tensor;
use tidegate_model::{Architecture, Compute, Kernels, Task};

use crate::optimizer::values;

/// Passes of the measurement; the best counts.
const TRIES: usize = 3;
const SIDE: usize = 1_024;

/// FLOPs of forward and backward over one text of `tokens` tokens.
///
/// Those of the matrix products alone, and the backward pass at twice the forward's (Chowdhery et
/// al. 2022, arXiv 2204.02311, appendix B). A token of a layer: `4 d^2` for query and output, `4 d
/// kv` for key and value with `kv = d kv_heads / heads`, `4 n d` for scores and their sum over n
/// tokens, `2 d experts` for the router, `6 d width` (of GELU `4 d width`) for each of the `top_k`
/// and shared experts. A text: `2 d classes` for the head. Padding is not counted: it is no work that
/// anybody wants.
pub(crate) fn training(a: &Architecture, classes: usize, tokens: usize) -> f64 {
    let (n, d) = (tokens as f64, a.d_model as f64);
    let kv = d * a.kv_heads as f64 / a.heads as f64;
    let attention = 4.0 * d * d + 4.0 * d * kv + 4.0 * n * d;
    let choices: usize = (0..a.layers).map(|layer| a.experts_of(layer).0).sum();
    let expert = 2.0 * a.expert_matrices() as f64 * d * a.expert_width as f64;
    let mixtures = 2.0 * d * choices as f64 + expert * a.experts_met() as f64;
    let heads = if a.task == Task::NextToken { n } else { 1.0 };
    let head = heads * 2.0 * d * classes as f64;
    let forward = n * (a.layers as f64 * attention + mixtures) + head;
    3.0 * forward
}

/// FLOP/s of a matrix product in this format on this device, measured once in a process.
pub(crate) fn peak<I: Kernels>(device: &I::Device, compute: Compute) -> f64 {
    static MEASURED: [OnceLock<f64>; 3] = [const { OnceLock::new() }; 3];
    *MEASURED[compute as usize].get_or_init(|| {
        let square = I::held(Tensor::<I, 2>::ones([SIDE, SIDE], device), compute);
        let seconds = (0..TRIES).map(|_| {
            let began = Instant::now();
            let product = square.clone().matmul(square.clone());
            // Reading a number waits for the device.
            values(product.slice([0..1, 0..1]));
            began.elapsed().as_secs_f64()
        });
        2.0 * (SIDE as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min).max(1e-9)
    })
}

/// The network that `benchmarks/src/reference.rs` measures.
#[cfg(test)]
pub(crate) fn reference() -> Architecture {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_the_reference_network_its_known_work() {
        // 8.43 M parameters, about 23 MFLOP a training step and token.
        let a_token = training(&reference(), 512, 128) / 128.0 / 1e6;
        assert!((18.0..25.0).contains(&a_token), "{a_token}");
    }
}
