//! How tokens find their experts, by the public surface.
use burn::backend::Autodiff;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_model::{Affinity, Architecture, Batch, CpuBackend, Network, RouterTraining, Task};

type Train = Autodiff<CpuBackend>;

fn wide() -> Architecture {
    Architecture {
        task: Task::NextToken,
        d_model: 32,
        layers: 1,
        experts: 16,
        expert_width: 8,
        vocab: 256,
        ..Architecture::default()
    }
}

/// Texts where a few tokens make up most of what is said.
fn skewed(texts: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut token = || (256.0_f64.powf(rng.random_range(0.0..1.0)) - 1.0) as u32;
    (0..texts).map(|_| (0..64).map(|_| token()).collect()).collect()
}

fn batch<B: burn::tensor::backend::Backend>(texts: &[Vec<u32>]) -> Batch<B> {
    Batch::of_tokens(texts.iter().map(|text| &text[..]), &Default::default())
}

#[test]
fn balancing_evens_out_skewed_data_within_the_steps_of_a_hot_update() {
    let texts = skewed(16);
    let mut network = Network::<CpuBackend>::init(&wide(), 256, 3, &Default::default());
    let fullest = |network: &Network<CpuBackend>| {
        let loads = network.forward(&batch(&texts)).loads;
        loads[0].0.iter().copied().fold(0.0, f32::max) * 16.0
    };
    let before = fullest(&network);
    assert!(before > 2.5, "{before} times the even share: the data is skewed");
    for step in 0..60_u8 {
        let loads = network.forward(&batch(&texts)).loads;
        network = network.balance(&loads, 0.02 * (1.0 - f32::from(step) / 60.0));
    }
    let after = fullest(&network);
    assert!(after < 1.3, "{after} times the even share is left of {before}");
}

#[test]
fn a_capacity_bounds_the_fullest_expert_and_only_while_it_learns() {
    let texts = skewed(8);
    let network = Network::<CpuBackend>::init(&wide(), 256, 3, &Default::default());
    let training = RouterTraining { capacity_factor: 1.0, ..Default::default() };
    let learning = network.forward_learning(&batch(&texts), training);
    let serving = network.forward(&batch(&texts));
    assert_eq!(serving.routed[0].dropped, [0; 8]);
    let dropped: u32 = learning.routed[0].dropped.iter().sum();
    let even = learning.routed[0].assignments as f32 / 16.0;
    let over: f32 = serving.loads[0]
        .0
        .iter()
        .map(|share| (share * learning.routed[0].assignments as f32 - even).max(0.0))
        .sum();
    assert!((dropped as f32 - over).abs() < 1e-2, "{dropped} dropped, {over} were over");
    assert_eq!(learning.loads, serving.loads, "what is dropped is counted, so that it is balanced");
}

#[test]
fn the_auxiliary_losses_even_out_the_load_and_keep_logits_small() {
    for affinity in [Affinity::Sigmoid, Affinity::Softmax] {
        let architecture = Architecture { affinity, ..wide() };
        let texts = skewed(8);
        let network = Network::<Train>::init(&architecture, 256, 3, &Default::default());
        let of = |training: RouterTraining, network: &Network<Train>| {
            network.forward_learning(&batch(&texts), training).router_loss
        };
        assert!(of(RouterTraining::default(), &network).is_none());
        for training in [
            RouterTraining { balance_loss: 1.0, ..Default::default() },
            RouterTraining { z_loss: 1.0, ..Default::default() },
        ] {
            let (mut moved, mut losses) = (network.clone(), Vec::new());
            let mut sgd = burn::optim::SgdConfig::new().init();
            for _ in 0..20 {
                let loss = of(training, &moved).unwrap();
                losses.push(loss.clone().into_scalar());
                let gradients = burn::optim::GradientsParams::from_grads(loss.backward(), &moved);
                moved = burn::optim::Optimizer::step(&mut sgd, 0.3, moved, gradients);
            }
            assert!(losses[19] < losses[0] - 1e-4, "{affinity:?} {training:?}: {losses:?}");
        }
    }
}

#[test]
fn experts_of_the_best_groups_only_are_used() {
    let limited = Architecture { expert_groups: 4, top_groups: 1, ..wide() };
    limited.validate().unwrap();
    let network = Network::<CpuBackend>::init(&limited, 256, 3, &Default::default());
    let one = network.forward(&batch(&[vec![7]])).loads;
    let used: Vec<usize> = (0..16).filter(|&expert| one[0].0[expert] > 0.0).collect();
    assert_eq!(used.len(), 2);
    assert_eq!(used[0] / 4, used[1] / 4, "both are of one group: {used:?}");
    let impossible = Architecture { expert_groups: 8, top_groups: 1, top_k: 3, ..wide() };
    assert!(impossible.validate().unwrap_err().to_string().contains("`top_k`"));
}
