//! A network small enough to follow by hand, with no weight left at its starting value.
use std::collections::BTreeMap;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tidegate_model::{
    ARCHITECTURE, Architecture, BlockForm, CpuBackend, Featurizer, FeedForward, Input, LABELS,
    NormForm, Placement, Positions, TOKENIZER, Tokenizer, WEIGHTS, Weights,
};

pub(crate) fn architecture() -> Architecture {
    Architecture {
        d_model: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        context: 12,
        vocab: 300,
        experts: 5,
        top_k: 2,
        shared_experts: 2,
        expert_width: 6,
        wide_buckets: 64,
        ..Architecture::default()
    }
}

/// How the blocks of a pretrained encoder are made.
pub(crate) fn encoder_form() -> BlockForm {
    BlockForm {
        norm: NormForm::Layer,
        placement: Placement::Post,
        positions: Positions::Learned,
        feed_forward: FeedForward::Gelu,
        attention_bias: true,
    }
}

/// A tensor: name, shape, values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) fn read(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(word).collect();
            (name, (view.shape().to_vec(), values))
        })
        .collect()
}

pub(crate) fn write(tensors: &Tensors) -> Vec<u8> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// Weights where everything is random, also gains, biases and the head.
pub(crate) fn random(architecture: &Architecture, classes: usize, seed: u64) -> Vec<u8> {
    let fresh = Weights::<CpuBackend>::init(architecture, classes, seed, &Default::default());
    let mut tensors = read(&fresh.to_safetensors().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, (_, values)) in &mut tensors {
        for value in values {
            if name == "wide.squares" {
                *value = rng.random_range(0.0..2.0);
            } else if name.ends_with("mixture.bias") {
                *value = rng.random_range(-0.1..0.1);
            } else {
                *value += rng.random_range(-0.4..0.4);
            }
        }
    }
    write(&tensors)
}

pub(crate) fn load(
    architecture: &Architecture,
    classes: usize,
    bytes: &[u8],
) -> Weights<CpuBackend> {
    Weights::from_safetensors(architecture, classes, bytes, &Default::default()).unwrap()
}

pub(crate) fn inputs() -> Vec<Input> {
    let texts = [
        "free tickets to the opera, today only",
        "minutes of the meeting",
        "x",
        "the quick brown fox jumps over the lazy dog and then some more words follow it",
        "Ünïcödé 日本語 \u{1f980}",
        "free free free",
    ];
    texts.iter().map(|text| Input::text(*text)).collect()
}

pub(crate) fn featurizer(architecture: &Architecture) -> Featurizer {
    let texts: Vec<String> = inputs().into_iter().map(|input| input.texts().into_owned()).collect();
    let tokenizer = Tokenizer::train(&texts, architecture.vocab).unwrap();
    Featurizer::new(tokenizer, architecture.clone())
}

/// The files of a generation with three labels.
pub(crate) fn files(architecture: &Architecture) -> BTreeMap<String, Bytes> {
    let featurizer = featurizer(architecture);
    let files: [(&str, Vec<u8>); 4] = [
        (ARCHITECTURE, serde_json::to_vec(architecture).unwrap()),
        (TOKENIZER, featurizer.tokenizer.to_bytes().unwrap()),
        (WEIGHTS, random(architecture, 3, 5)),
        (LABELS, br#"["ham","spam","other"]"#.to_vec()),
    ];
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect()
}
