//! Our network, as the peer has it: the same weights, tokens and optimiser.
use burn::backend::Autodiff;
use tidegate_benchmarks::training::{Batches, Training};
use tidegate_model::{AdamW, Architecture, CpuBackend, Network};

use crate::Settings;

pub(crate) type Ours = Training<Autodiff<CpuBackend>>;

pub(crate) fn ours(architecture: &Architecture, settings: &Settings, rows: &[Vec<u32>]) -> Ours {
    let device = Default::default();
    let network = Network::init(architecture, architecture.vocab, settings.seed, &device);
    let by = AdamW {
        rate: settings.learning_rate,
        beta_1: settings.beta1,
        beta_2: settings.beta2,
        epsilon: settings.epsilon,
        weight_decay: settings.weight_decay,
        gradient_scale: 1.0,
        time: 0,
    };
    let batches = Batches::new(rows, settings.batch);
    Training::new(network, by, settings.balance, batches, device)
}
