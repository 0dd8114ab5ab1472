//! How many texts a second the default architecture trains on and predicts, on this machine.
//!
//! `cargo run -p tidegate-model --example throughput [seconds a measurement] [batch]`
//!
//! The texts are random words by Zipf's law, as long as an e-mail, so every context is full: the
//! worst case.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use burn::{
    backend::Autodiff,
    optim::{AdamWConfig, GradientsAccumulator, GradientsParams, Optimizer as _},
    tensor::{Int, Tensor, TensorData, activation},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tidegate_model::{
    ARCHITECTURE, Architecture, Batch, CpuBackend, Device, ExpertLoad, Features, Featurizer, Input,
    LABELS, Model, ModelError, TOKENIZER, Tokenizer, WEIGHTS, Weights,
};

type Train = Autodiff<CpuBackend>;

const TEXTS: usize = 512;

/// Texts that one core takes at a time.
const SHARD: usize = 16;

fn main() -> Result<(), ModelError> {
    let mut args = std::env::args().skip(1).map_while(|arg| arg.parse::<usize>().ok());
    let budget = Duration::from_secs(args.next().unwrap_or(5) as u64);
    let batch = args.next().unwrap_or(32);
    let architecture = Architecture::default();
    let inputs: Vec<Input> = texts();

    let started = Instant::now();
    let words: Vec<_> = inputs.iter().map(|input| input.texts()).collect();
    let tokenizer = Tokenizer::train(&words, architecture.vocab)?;
    println!("tokenizer learnt from {TEXTS} texts in {:.2} s", started.elapsed().as_secs_f64());

    let featurizer = Featurizer::new(tokenizer, architecture);
    let features = featurizer.features_all(&inputs)?;
    rate("features", TEXTS, budget, || drop(featurizer.features_all(&inputs)));

    let weights = train(&featurizer.architecture, &features, batch, budget);
    let model = Model::from_files(&files(&featurizer, &weights)?, &Device::Cpu)?;
    let (total, active) = model.parameters();
    println!("{total} parameters, {active} active for a token");
    rate("predicted in one call", TEXTS, budget, || drop(model.predict(&inputs)));
    rate("predicted one by one", 32, budget, || {
        for input in &inputs[..32] {
            drop(model.predict(std::slice::from_ref(input)));
        }
    });
    Ok(())
}

/// Trains as the learning crate does: AdamW on the deep path, Adagrad on the wide one.
fn train(
    architecture: &Architecture,
    features: &[Features],
    batch: usize,
    budget: Duration,
) -> Weights<Train> {
    let device = Default::default();
    let mut weights = Weights::<Train>::init(architecture, 2, 1, &device);
    let mut optimizer = AdamWConfig::new().init();
    let targets: Vec<i32> = (0..TEXTS).map(|at| i32::from(at % 2 == 0)).collect();
    let mut at = 0;
    rate(&format!("trained in batches of {batch}"), batch, budget, || {
        let chosen: Vec<usize> = (0..batch).map(|offset| (at + offset) % TEXTS).collect();
        at += batch;
        let texts: Vec<&Features> = chosen.iter().map(|&at| &features[at]).collect();
        let target: Vec<i32> = chosen.iter().map(|&at| targets[at]).collect();
        let shards: Vec<_> = texts.chunks(SHARD).zip(target.chunks(SHARD)).collect();
        let learnt: Vec<_> = shards
            .par_iter()
            .map(|(texts, target)| gradient(&weights, texts, target, batch))
            .collect();
        let mut sum = GradientsAccumulator::new();
        let mut dlogits = Vec::new();
        let mut loads = Vec::new();
        for (gradients, shard_dlogits, load) in learnt {
            sum.accumulate(&weights.network, gradients);
            dlogits.extend(shard_dlogits);
            loads = load;
        }
        weights.wide.update(&texts, &dlogits, 0.5);
        let network = optimizer.step(1e-3, weights.network.clone(), sum.grads());
        weights.network = network.balance(&loads, 1e-3);
    });
    weights
}

/// Gradients of one shard of a batch, by a copy of the network with its own graph.
fn gradient(
    weights: &Weights<Train>,
    texts: &[&Features],
    target: &[i32],
    batch: usize,
) -> (GradientsParams, Vec<f32>, Vec<ExpertLoad>) {
    let device = Default::default();
    let n = texts.len();
    let network = weights.network.shard();
    let wide = weights.wide.logits(texts);
    let output = network.forward(&Batch::new(texts, &device).with_wide(wide, 2));
    let target =
        Tensor::<Train, 2, Int>::from_data(TensorData::new(target.to_vec(), [n, 1]), &device);
    let log_p = activation::log_softmax(output.logits, 1);
    let loss = log_p.clone().gather(1, target.clone()).sum().neg().div_scalar(batch as f32);
    let one_hot = Tensor::<Train, 2>::zeros([n, 2], &device).scatter(
        1,
        target,
        Tensor::ones([n, 1], &device),
        burn::tensor::IndexingUpdateOp::Add,
    );
    let dlogits = (log_p.detach().exp() - one_hot).div_scalar(batch as f32);
    let dlogits: Vec<f32> = dlogits.into_data().into_vec().expect("f32 on the CPU");
    (GradientsParams::from_grads(loss.backward(), &network), dlogits, output.loads)
}
/// Runs `step` until `budget` is over, and prints how many texts a second that was.
fn rate(what: &str, texts: usize, budget: Duration, mut step: impl FnMut()) {
    step();
    let started = Instant::now();
    let mut steps = 0_u32;
    while started.elapsed() < budget {
        step();
        steps += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} texts/s", f64::from(steps) * texts as f64 / seconds);
}

fn files(
    featurizer: &Featurizer,
    weights: &Weights<Train>,
) -> Result<BTreeMap<String, bytes::Bytes>, ModelError> {
    let json = serde_json::to_vec(&featurizer.architecture).expect("numbers are JSON");
    let files = [
        (ARCHITECTURE, json),
        (TOKENIZER, featurizer.tokenizer.to_bytes()?),
        (WEIGHTS, weights.to_safetensors()?),
        (LABELS, br#"["ham", "spam"]"#.to_vec()),
    ];
    Ok(files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect())
}

/// Texts of 150 to 400 words out of 20,000.
fn texts() -> Vec<Input> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let words: Vec<String> = (0..20_000)
        .map(|_| {
            let length = rng.random_range(2..10);
            (0..length).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
        })
        .collect();
    (0..TEXTS)
        .map(|_| {
            let length = rng.random_range(150..400);
            let text: Vec<&str> = (0..length)
                .map(|_| {
                    let rank = (words.len() as f64).powf(rng.random_range(0.0..1.0)) as usize;
                    words[rank.min(words.len() - 1)].as_str()
                })
                .collect();
            Input::text(text.join(" "))
        })
        .collect()
}
