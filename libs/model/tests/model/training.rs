//! The parts that the training loop stands on.
use burn::{
    backend::Autodiff,
    optim::{AdamWConfig, GradientsAccumulator, GradientsParams, Optimizer as _},
    tensor::{Int, Tensor, TensorData, activation::log_softmax},
};
use tidegate_model::{Architecture, Batch, CpuBackend, ExpertLoad, Features, Weights};

use crate::samples::{self, architecture, random, read};

type Train = Autodiff<CpuBackend>;

/// Mean cross-entropy of `texts`, its gradients and the loads.
fn gradients(
    weights: &Weights<Train>,
    texts: &[&Features],
    targets: &[i32],
) -> (f32, GradientsParams, Vec<ExpertLoad>) {
    let device = Default::default();
    let network = weights.network.shard();
    let output = network.forward(&Batch::new(texts, &device));
    let targets = TensorData::new(targets.to_vec(), [texts.len(), 1]);
    let targets = Tensor::<Train, 2, Int>::from_data(targets, &device);
    let loss = log_softmax(output.logits, 1).gather(1, targets).mean().neg();
    let value = loss.clone().into_scalar();
    (value, GradientsParams::from_grads(loss.backward(), &network), output.loads)
}

/// Texts of two classes told apart by their words; the deep path must find it by tokens.
fn task() -> (Vec<Features>, Vec<i32>) {
    let token = |at: usize| u32::try_from(at % 40).unwrap();
    (0..32)
        .map(|i| {
            let class = i % 2;
            let tokens = (0..8 + i % 4).map(|j| token(i * 7 + j * 3) + 100 * class as u32);
            (Features { tokens: tokens.collect(), ..Features::default() }, class as i32)
        })
        .unzip()
}

/// `steps` of AdamW in two shards; returns the losses and the file.
fn learn(steps: usize) -> (Vec<f32>, Vec<u8>) {
    let (features, targets) = task();
    let texts: Vec<&Features> = features.iter().collect();
    let mut weights = Weights::<Train>::init(&architecture(), 2, 9, &Default::default());
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let shards: Vec<_> = texts.chunks(16).zip(targets.chunks(16)).collect();
        let done: Vec<_> = std::thread::scope(|scope| {
            let shard = |&(texts, targets)| {
                let weights = &weights;
                scope.spawn(move || gradients(weights, texts, targets))
            };
            let running: Vec<_> = shards.iter().map(shard).collect();
            running.into_iter().map(|shard| shard.join().unwrap()).collect()
        });
        let mut sum = GradientsAccumulator::new();
        let mut loads = Vec::new();
        losses.push(done.iter().map(|(loss, ..)| loss).sum::<f32>() / 2.0);
        for (_, gradients, load) in done {
            sum.accumulate(&weights.network, gradients);
            loads = load;
        }
        let network = optimizer.step(1e-2, weights.network.clone(), sum.grads());
        weights.network = network.balance(&loads, 1e-3);
    }
    (losses, weights.to_safetensors().unwrap())
}

#[test]
fn the_deep_path_learns_and_the_same_seed_learns_the_same_bits() {
    let (losses, bytes) = learn(40);
    assert!((losses[0] - 2_f32.ln()).abs() < 1e-3, "a fresh head knows nothing: {}", losses[0]);
    assert!(losses[39] < 0.05, "{losses:?}");
    assert_eq!(learn(40).1, bytes);
}

#[test]
fn every_parameter_is_trained_by_gradient_but_the_routing_bias() {
    let bytes = random(&architecture(), 2, 6);
    let weights =
        Weights::<Train>::from_safetensors(&architecture(), 2, &bytes, &Default::default())
            .unwrap();
    let (features, targets) = task();
    let texts: Vec<&Features> = features.iter().collect();
    let (_, gradients, _) = gradients(&weights, &texts, &targets);
    let names = read(&bytes);
    let untrained = |name: &&String| name.ends_with("mixture.bias") || name.starts_with("wide.");
    assert_eq!(names.keys().filter(untrained).count(), 2 + 2);
    assert_eq!(gradients.len(), names.len() - 4);
}

#[test]
fn a_gradient_agrees_with_finite_differences() {
    let architecture = architecture();
    let mut tensors = read(&random(&architecture, 2, 8));
    // The choice of experts is a step; biases that leave no choice make the loss smooth.
    for layer in 0..architecture.layers {
        let bias = &mut tensors.get_mut(&format!("blocks.{layer}.mixture.bias")).unwrap().1;
        bias.copy_from_slice(&[0.0, 10.0, 0.0, 10.0, 0.0]);
    }
    let (features, targets) = task();
    let texts: Vec<&Features> = features.iter().take(4).collect();
    let device = Default::default();
    let loss = |tensors: &samples::Tensors| {
        let bytes = samples::write(tensors);
        let weights =
            Weights::<Train>::from_safetensors(&architecture, 2, &bytes, &device).unwrap();
        gradients(&weights, &texts, &targets[..4]).0
    };
    // The step that the gradient promises to pay: every weight moved against its sign.
    let bytes = samples::write(&tensors);
    let mut weights =
        Weights::<Train>::from_safetensors(&architecture, 2, &bytes, &device).unwrap();
    let (before, gradients, _) = gradients(&weights, &texts, &targets[..4]);
    let mut sgd = burn::optim::SgdConfig::new().init();
    weights.network = sgd.step(1.0, weights.network.clone(), gradients);
    let moved = read(&weights.to_safetensors().unwrap());
    for (name, (_, after)) in &moved {
        if name.starts_with("wide.") || name.ends_with("mixture.bias") {
            assert_eq!(after, &tensors[name].1, "{name}");
            continue;
        }
        let old = &tensors[name].1;
        let gradient: Vec<f32> = old.iter().zip(after).map(|(old, new)| old - new).collect();
        let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!(length > 0.0, "{name} has no gradient");
        let along = |by: f64| {
            let mut tensors = tensors.clone();
            let values = &mut tensors.get_mut(name).unwrap().1;
            for (value, g) in values.iter_mut().zip(&gradient) {
                *value += (by * f64::from(*g) / length) as f32;
            }
            f64::from(loss(&tensors))
        };
        let numeric = (along(2e-3) - along(-2e-3)) / 4e-3;
        assert!(
            (numeric - length).abs() < 0.02 * length + 2e-4,
            "{name}: slope {numeric}, gradient {length}, loss {before}"
        );
    }
}

#[test]
fn balancing_evens_out_the_load_of_skewed_texts() {
    let architecture = Architecture { layers: 1, experts: 8, ..architecture() };
    let mut weights = Weights::<CpuBackend>::init(&architecture, 2, 3, &Default::default());
    // A few tokens make up nearly all of the text, as in any language.
    let texts: Vec<Features> = (0..64_u32)
        .map(|i| {
            let tokens = (0..12).map(|j| (i * 31 + j * 17) % 97 % (1 + (i + j) % 9) * 3);
            Features { tokens: tokens.collect(), ..Features::default() }
        })
        .collect();
    let texts: Vec<&Features> = texts.iter().collect();
    let batch = Batch::new(&texts, &Default::default());
    let fullest = |loads: &[ExpertLoad]| loads[0].0.iter().copied().fold(0.0, f32::max);
    let first = fullest(&weights.network.forward(&batch).loads);
    let mut last = 0.0;
    for _ in 0..300 {
        let loads = weights.network.forward(&batch).loads;
        last = fullest(&loads);
        weights.network = weights.network.balance(&loads, 2e-3);
    }
    assert!(first > 0.25, "the texts are skewed: the fullest of 8 experts gets {first}");
    assert!(last < 0.2, "after balancing it gets {last}");
}
