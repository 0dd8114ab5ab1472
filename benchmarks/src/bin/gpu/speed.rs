//! How fast the device multiplies, and how fast it trains.
use std::time::Instant;

use burn::tensor::{Distribution, FloatDType, Tensor, backend::Backend};
use serde::Serialize;
use serde_json::json;
use tidegate_benchmarks::{
    median,
    training::{Batches, Training, rows},
    turns::timed,
};
use tidegate_model::{AdamW, Architecture, Compute, Learns, Network, Task};

use crate::card::Card;

/// Of both sides.
pub(crate) const ADAMW: AdamW = AdamW {
    rate: 1e-3,
    beta_1: 0.9,
    beta_2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    gradient_scale: 1.0,
    time: 0,
};

/// Steps before the ones that count: kernels are compiled and chosen in them.
const WARM_UP: usize = 4;

/// What is timed.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) architecture: Architecture,
    pub(crate) batch: usize,
    pub(crate) sequence: usize,
    pub(crate) seconds: f64,
    /// Sides of the square matrices that the matmul rate is measured with.
    pub(crate) squares: Vec<usize>,
}

impl Sizes {
    pub(crate) fn of(small: bool, batch: Option<usize>, seconds: Option<f64>) -> Self {
        let whole = Architecture {
            task: Task::NextToken,
            d_model: 1024,
            layers: 16,
            heads: 16,
            kv_heads: 16,
            context: 1024,
            vocab: 4096,
            experts: 32,
            top_k: 4,
            shared_experts: 1,
            expert_width: 512,
            wide_buckets: 1,
            ..Architecture::default()
        };
        let miniature = Architecture {
            d_model: 64,
            layers: 2,
            heads: 4,
            kv_heads: 4,
            context: 64,
            vocab: 256,
            experts: 8,
            top_k: 2,
            expert_width: 32,
            ..whole.clone()
        };
        let (architecture, least, squares) = if small {
            (miniature, (2, 0.2), vec![128, 256])
        } else {
            (whole, (16, 20.0), vec![4096, 8192, 16384])
        };
        Self {
            sequence: architecture.context,
            architecture,
            batch: batch.unwrap_or(least.0),
            seconds: seconds.unwrap_or(least.1),
            squares,
        }
    }

    /// In all, and those that a token meets; of the embedding a row.
    pub(crate) fn parameters(&self) -> (usize, usize) {
        let a = &self.architecture;
        let (d, kv) = (a.d_model, a.kv_heads * a.head_width());
        let matrices = 3 * d * a.expert_width;
        let layer = |experts: usize| {
            2 * d * d
                + 2 * d * kv
                + (experts + a.shared_experts) * matrices
                + (d + 1) * a.experts
                + 2 * d
        };
        let head = (d + 1) * a.vocab + d;
        (a.vocab * d + a.layers * layer(a.experts) + head, d + a.layers * layer(a.top_k) + head)
    }
}

/// What was found of one way to train.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    /// In words.
    pub(crate) way: String,
    /// `balanced` or `router`.
    pub(crate) routing: String,
    pub(crate) tokens_per_s: f64,
    pub(crate) steps: usize,
    /// Of everybody on the card, at the end.
    pub(crate) memory_gib: Option<f64>,
    /// What the fullest expert got, as a multiple of the even share.
    pub(crate) fullest: f64,
    /// Of the last step.
    pub(crate) loss: f64,
}

impl Measured {
    pub(crate) fn json(&self, share: f64) -> serde_json::Value {
        json!({
            "way": self.way, "routing": self.routing, "tokens_per_s": self.tokens_per_s,
            "steps": self.steps, "memory_gib": self.memory_gib, "fullest_expert": self.fullest,
            "loss": self.loss, "share_of_matmul_rate": share,
        })
    }
}

pub(crate) fn routing(even: bool) -> &'static str {
    if even { "balanced" } else { "router" }
}

/// Training steps in bf16, until the time is over.
pub(crate) fn train<B: Learns>(
    device: &B::Device,
    sizes: &Sizes,
    even: bool,
    card: Option<&Card>,
) -> anyhow::Result<Measured> {
    let a = &sizes.architecture;
    let began = Instant::now();
    let network = Network::<B>::init(a, a.vocab, 7, device).computing_in(Compute::Bf16);
    let network = if even { network.routed_evenly() } else { network };
    let batches =
        Batches::new(&rows(a.vocab as u32, 8 * sizes.batch, sizes.sequence + 1), sizes.batch);
    let mut training = Training::new(network, ADAMW, 1e-3, batches, device.clone());
    eprintln!("{}: built in {:.0} s", routing(even), began.elapsed().as_secs_f64());
    let began = Instant::now();
    for _ in 0..WARM_UP {
        training.step()?;
    }
    eprintln!("{}: warm after {:.0} s", routing(even), began.elapsed().as_secs_f64());
    let mut loss = 0.0;
    let steps = timed(sizes.seconds, || {
        loss = f64::from(training.step()?);
        Ok(())
    })?
    .samples_s;
    anyhow::ensure!(loss.is_finite(), "training diverged: {loss}");
    let memory_gib = card.and_then(Card::used_gib);
    let (count, fullest) = (steps.len(), f64::from(training.fullest()));
    drop(training);
    B::memory_cleanup(device);
    Ok(Measured {
        way: routing(even).to_owned(),
        routing: routing(even).to_owned(),
        tokens_per_s: (sizes.batch * sizes.sequence) as f64 / median(steps),
        steps: count,
        memory_gib,
        fullest,
        loss,
    })
}

/// FLOP/s of bf16 products of square matrices.
#[derive(Debug, Serialize)]
pub(crate) struct Matmul {
    /// The best of all.
    pub(crate) best: f64,
    /// By side.
    by_side: Vec<(usize, f64)>,
}

pub(crate) fn matmul<B: Learns>(device: &B::Device, sizes: &Sizes) -> anyhow::Result<Matmul> {
    let mut by_side = Vec::new();
    for &side in &sizes.squares {
        let random = || {
            let uniform = Distribution::Uniform(-1.0, 1.0);
            Tensor::<B::InnerBackend, 2>::random([side, side], uniform, device)
                .cast(FloatDType::BF16)
        };
        let (a, b) = (random(), random());
        // Several in a row, so that asking for one hides behind another.
        const EACH: usize = 8;
        let multiply = || -> anyhow::Result<()> {
            for _ in 0..EACH {
                std::hint::black_box(a.clone().matmul(b.clone()));
            }
            B::InnerBackend::sync(device).map_err(|error| anyhow::anyhow!("{error:?}"))
        };
        for _ in 0..WARM_UP {
            multiply()?;
        }
        let seconds = median(timed(sizes.seconds / 4.0, multiply)?.samples_s) / EACH as f64;
        by_side.push((side, 2.0 * (side as f64).powi(3) / seconds));
    }
    // What these took is not the network's.
    B::InnerBackend::memory_cleanup(device);
    let best = by_side.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    Ok(Matmul { best, by_side })
}
