//! A cold start from a pretrained encoder instead of noise.
mod common;

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf};

use bytes::Bytes;
use common::{Log, cold_start, examples, hot_update, published, trained};
use safetensors::SafeTensors;
use tidegate_contracts::{ArtifactHash, FeatureValue, JobKind, Part};
use tidegate_learning::{
    CheckpointDir, Compute, EncoderFiles, Job, Recipe, StartingPoint, Train, plan, train,
};
use tidegate_model::{
    ARCHITECTURE, Architecture, Batch, CpuBackend, Device, Input, Model, Pretrained, Upcycling,
    WEIGHTS,
};
use tokio_util::sync::CancellationToken;

const BOTH: &[&str] = &["spam", "ham"];

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/model/encoder")
}

/// The files of `folder` as they are now.
fn pinned(folder: &Path, upcycling: Upcycling) -> EncoderFiles {
    let hash = |name: &str| ArtifactHash::of(&fs::read(folder.join(name)).unwrap());
    let [config, model, tokenizer] = Pretrained::FILES.map(hash);
    EncoderFiles { folder: folder.to_owned(), config, model, tokenizer, upcycling }
}

const MIXTURE: Upcycling = Upcycling { experts: 4, top_k: 2, dense_layers: 1 };

fn from_tiny(id: &str) -> Job {
    let mut job = cold_start(id);
    job.recipe.encoder = Some(pinned(&tiny(), MIXTURE));
    job
}

fn embeddings(files: &BTreeMap<String, Bytes>, inputs: &[Input]) -> Vec<f32> {
    Model::from_files(files, &Device::Cpu).unwrap().embed(inputs).unwrap().concat()
}

fn probes() -> Vec<Input> {
    examples(BOTH, 500, 20).into_iter().map(|example| example.input).collect()
}

/// What the encoder itself says of a text's first 16 tokens: their mean state, of length 1.
fn embedded(pretrained: &Pretrained, input: &Input) -> Vec<f32> {
    let wanted = Architecture { context: 16, wide_buckets: 1, ..Architecture::default() };
    let architecture = pretrained.architecture(&wanted, &Upcycling::default()).unwrap();
    let weights =
        pretrained.weights::<CpuBackend>(&architecture, 1, 0, &Default::default()).unwrap();
    let tokens = pretrained.tokenizer(16).unwrap().encode(&input.texts()).unwrap();
    let batch = Batch::of_tokens([&tokens[..]], &Default::default());
    let mean = weights.network.pooled(&batch).into_data().into_vec::<f32>().unwrap();
    let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
    mean.into_iter().map(|value| value / length).collect()
}

#[test]
fn a_cold_start_begins_with_the_encoder_and_learns_from_there() {
    let window = examples(BOTH, 0, 60);
    let mut job = from_tiny("still");
    job.recipe.cold_start.deep_rate = 0.0;
    let still = trained(&job, &window).unwrap();
    let files = Pretrained::FILES
        .map(|name| (name.to_owned(), Bytes::from(fs::read(tiny().join(name)).unwrap())));
    let pretrained = Pretrained::from_files(&files.into()).unwrap();
    let inputs = probes();
    let apart = |one: &[f32], other: &[f32]| {
        one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let known: Vec<f32> = inputs.iter().flat_map(|input| embedded(&pretrained, input)).collect();
    assert!(apart(&embeddings(&still.files, &inputs), &known) < 1e-5);

    let job = from_tiny("first");
    let first = trained(&job, &window).unwrap();
    assert!(apart(&embeddings(&first.files, &inputs), &known) > 1e-3, "it learnt");
    let architecture: Architecture = serde_json::from_slice(&first.files[ARCHITECTURE]).unwrap();
    assert_eq!((architecture.d_model, architecture.experts, architecture.dense_layers), (16, 4, 1));
    assert_eq!(architecture.context, job.recipe.architecture.context);
    assert_eq!(first.metrics["trained_share"], 1.0);

    // Its lineage says what it began with, and what follows needs the encoder no more.
    let recipe = Recipe::from_toml(&job.recipe.to_toml()).unwrap();
    assert_eq!(recipe.encoder, job.recipe.encoder);
    let mut next = hot_update("second", published(&job, &first));
    for train in [Train::Full, Train::Adapters] {
        next.recipe.method.train = train;
        next.recipe.method.adapters.expert_rank = 2;
        let window = examples(&["spam", "ham", "news"], 60, 40);
        assert_eq!(trained(&next, &window).unwrap().labels.len(), 3);
    }
    let planned = plan(&job, &window).unwrap();
    let parameters = Model::from_files(&first.files, &Device::Cpu).unwrap().parameters();
    // A model's count takes the routing biases for parameters of the network, as a plan does.
    assert_eq!(planned.parameters.total, parameters.0);
    assert_eq!(planned.parameters.active, parameters.1);
}

#[test]
fn a_mixture_of_an_encoders_copies_grows_and_is_transferred_like_any_other() {
    let job = from_tiny("first");
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let before = Model::from_files(&first.files, &Device::Cpu).unwrap().parameters().0;
    let champion = published(&job, &first);
    let mut grown = hot_update("grown", champion.clone());
    grown.recipe.method.train = Train::NewExperts;
    grown.recipe.method.expansion.experts = 2;
    let mut transfer = cold_start("transfer");
    (transfer.kind, transfer.start) = (JobKind::Transfer, StartingPoint::Champion(champion));
    for (job, classes) in [(grown, &["spam", "ham"][..]), (transfer, &["ham", "news"])] {
        let planned = plan(&job, &examples(classes, 60, 40)).unwrap();
        let made = trained(&job, &examples(classes, 60, 40)).unwrap();
        let architecture: Architecture = serde_json::from_slice(&made.files[ARCHITECTURE]).unwrap();
        assert_eq!((architecture.experts, architecture.dense_layers), (6, 1));
        let model = Model::from_files(&made.files, &Device::Cpu).unwrap();
        assert_eq!(planned.parameters.total, model.parameters().0);
        assert!((planned.parameters.trained_share - made.metrics["trained_share"]).abs() < 1e-9);
        assert!(model.parameters().0 > before);
    }
}

#[test]
fn new_experts_of_gelu_learn_and_those_of_before_and_dense_layers_keep_their_bits() {
    let job = from_tiny("first");
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let mut grown = hot_update("grown", published(&job, &first));
    grown.recipe.method.train = Train::NewExperts;
    grown.recipe.method.expansion.experts = 2;
    grown.recipe.hot_update.deep_rate = 0.01;
    let second = trained(&grown, &examples(BOTH, 60, 40)).unwrap();
    let values = |files: &BTreeMap<String, Bytes>, name: &str| {
        let file = SafeTensors::deserialize(&files[WEIGHTS]).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    };
    for part in ["up", "down", "up_bias", "down_bias"] {
        let dense = format!("blocks.0.mixture.{part}");
        assert_eq!(values(&second.files, &dense), values(&first.files, &dense), "{dense}");
        let routed = format!("blocks.1.mixture.{part}");
        let (old, new) = (values(&first.files, &routed), values(&second.files, &routed));
        let each = old.len() / 4;
        assert_eq!((new.len(), &new[..old.len()]), (each * 6, &old[..]), "{routed}");
        let copied = |at: usize| old.chunks(each).any(|old| old == &new[at * each..][..each]);
        assert!(!copied(4) && !copied(5), "{routed}");
    }
    let router = "blocks.0.mixture.router";
    assert_eq!(values(&second.files, router), values(&first.files, router));
}

#[test]
fn it_learns_in_halves_too() {
    let mut job = from_tiny("halves");
    job.recipe.precision.compute = Compute::Bf16;
    let half = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    job.recipe.precision.compute = Compute::F32;
    let full = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let apart = (half.metrics["loss"] - full.metrics["loss"]).abs();
    assert!(apart < 0.05 && half.files[WEIGHTS] != full.files[WEIGHTS], "{apart}");
}

#[test]
fn pictures_are_read_beside_it() {
    let mut window = examples(BOTH, 0, 40);
    for (at, example) in window.iter_mut().enumerate() {
        let size = FeatureValue::Number(at as f64);
        example.input.parts.push(Part::Features(BTreeMap::from([("size".to_owned(), size)])));
    }
    let made = trained(&from_tiny("parts"), &window).unwrap();
    let model = Model::from_files(&made.files, &Device::Cpu).unwrap();
    assert_eq!(model.architecture().reads(), ["text", "features"]);
    let inputs: Vec<Input> = window.iter().map(|example| example.input.clone()).collect();
    assert_eq!(model.predict(&inputs).unwrap().len(), 40);
}

#[test]
fn it_resumes_to_the_bit_without_the_encoders_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in Pretrained::FILES {
        fs::copy(tiny().join(name), folder.path().join(name)).unwrap();
    }
    let mut job = from_tiny("first");
    job.recipe.encoder = Some(pinned(folder.path(), MIXTURE));
    let window = examples(BOTH, 0, 60);
    let whole = trained(&job, &window).unwrap();
    let checkpoints = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointDir::open(checkpoints.path()).unwrap();
    let cancel = CancellationToken::new();
    let mut log = Log { cancel_after: Some((7, cancel.clone())), ..Log::default() };
    train(&job, &window, &checkpoints, &mut log, &cancel).unwrap_err();
    for name in Pretrained::FILES {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let cancel = CancellationToken::new();
    let resumed = train(&job, &window, &checkpoints, &mut Log::default(), &cancel).unwrap();
    assert_eq!(resumed.files, whole.files);
}

#[test]
fn a_file_that_is_missing_or_another_one_is_named_with_both_hashes() {
    let window = examples(BOTH, 0, 60);
    let mut job = from_tiny("first");
    let wrong = ArtifactHash::of(b"another");
    job.recipe.encoder.as_mut().unwrap().model = wrong;
    let error = trained(&job, &window).unwrap_err().to_string();
    let found = pinned(&tiny(), MIXTURE).model.to_hex();
    for needle in ["model.safetensors", &wrong.to_hex(), &found] {
        assert!(error.contains(needle), "{error}");
    }
    job.recipe.encoder.as_mut().unwrap().folder = "/no/such/folder".into();
    let error = trained(&job, &window).unwrap_err();
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("/no/such/folder/config.json"), "{error}");

    let mut job = from_tiny("long");
    job.recipe.architecture.context = 64;
    let error = trained(&job, &window).unwrap_err().to_string();
    assert!(error.contains("`context` is 64") && error.contains("at most 40"), "{error}");
}
