//! A pretrained encoder, beside `transformers`; `encoder.py` made the numbers.
use std::{collections::BTreeMap, fs, path::PathBuf};

use bytes::Bytes;
use tidegate_model::{
    ARCHITECTURE, Architecture, Batch, CpuBackend, Device, Featurizer, Input, LABELS, Model,
    ModelError, Pretrained, TOKENIZER, Upcycling, WEIGHTS, Weights,
};

const TINY: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("encoder/config.json")),
    ("model.safetensors", include_bytes!("encoder/model.safetensors")),
    ("tokenizer.json", include_bytes!("encoder/tokenizer.json")),
];

#[derive(serde::Deserialize)]
struct Expected {
    context: usize,
    answers: Vec<Answer>,
}

#[derive(serde::Deserialize)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    embedding: Vec<f32>,
    #[serde(default)]
    states: Vec<f32>,
}

fn expected() -> Expected {
    serde_json::from_str(include_str!("encoder/expected.json")).unwrap()
}

fn tiny_files() -> BTreeMap<String, Bytes> {
    TINY.map(|(name, bytes)| (name.to_owned(), Bytes::from_static(bytes))).into()
}

fn tiny() -> Pretrained {
    Pretrained::from_files(&tiny_files()).unwrap()
}

fn wanted(context: usize) -> Architecture {
    Architecture { context, wide_buckets: 64, ..Architecture::default() }
}

fn near(what: &str, found: &[f32], expected: &[f32], within: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < within, "{what}[{at}]: {found}, expected {expected}");
    }
}

/// Holds tokens, final states and embeddings to what `transformers` found.
fn compare(pretrained: &Pretrained, expected: &Expected) {
    let wanted = wanted(expected.context);
    let architecture = pretrained.architecture(&wanted, &Upcycling::default()).unwrap();
    let weights =
        pretrained.weights::<CpuBackend>(&architecture, 1, 0, &Default::default()).unwrap();
    let tokenizer = pretrained.tokenizer(expected.context).unwrap();
    for answer in &expected.answers {
        let tokens = tokenizer.encode(&answer.text).unwrap();
        assert_eq!(tokens, answer.tokens, "{}", answer.text);
        let batch = Batch::of_tokens([&tokens[..]], &Default::default());
        if !answer.states.is_empty() {
            let states = weights.network.hidden(&batch).into_data().into_vec::<f32>().unwrap();
            near(&answer.text, &states, &answer.states, 2e-5);
        }
        let mut mean = weights.network.pooled(&batch).into_data().into_vec::<f32>().unwrap();
        let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
        mean.iter_mut().for_each(|value| *value /= length);
        near(&answer.text, &mean, &answer.embedding, 2e-6);
    }
}

#[test]
fn an_encoders_states_and_embeddings_are_those_of_transformers() {
    compare(&tiny(), &expected());
}

#[test]
fn the_real_minilm_embeds_as_transformers_does() {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("TIDEGATE_CACHE").unwrap_or(format!("{home}/.cache/tidegate"));
    let folder = PathBuf::from(cache).join("encoder");
    if !folder.join("model.safetensors").exists() {
        eprintln!("left out: {} is not there; setup/encoder.sh gets it", folder.display());
        return;
    }
    let read = |name: &&str| (name.to_string(), fs::read(folder.join(name)).unwrap().into());
    let files = Pretrained::FILES.iter().map(read).collect();
    let expected = serde_json::from_str(include_str!("minilm.json")).unwrap();
    compare(&Pretrained::from_files(&files).unwrap(), &expected);
}

fn upcycled(upcycling: &Upcycling, seed: u64) -> (Architecture, Weights<CpuBackend>) {
    let pretrained = tiny();
    let architecture = pretrained.architecture(&wanted(24), upcycling).unwrap();
    let weights = pretrained.weights(&architecture, 3, seed, &Default::default()).unwrap();
    (architecture, weights)
}

#[test]
fn upcycled_experts_are_the_encoders_function_at_the_start_whatever_the_router_says() {
    let texts = expected();
    let tokens = texts.answers.iter().map(|answer| &answer.tokens[..]);
    let batch = Batch::of_tokens(tokens, &Default::default());
    let states: Vec<f32> = texts.answers.iter().flat_map(|a| a.states.clone()).collect();
    for (experts, top_k, dense_layers) in [(1, 1, 0), (4, 1, 0), (4, 2, 0), (5, 3, 1), (4, 2, 2)] {
        for seed in [1, 2] {
            let upcycling = Upcycling { experts, top_k, dense_layers };
            let (architecture, weights) = upcycled(&upcycling, seed);
            let found = weights.network.hidden(&batch).into_data().to_vec::<f32>().unwrap();
            near(&format!("{upcycling:?}"), &found, &states, 2e-5);
            let output = weights.network.forward(&batch);
            for (layer, load) in output.loads.iter().enumerate() {
                assert_eq!(load.0.len(), architecture.experts_of(layer).0);
                let busy = load.0.iter().filter(|&&share| share > 0.0).count();
                assert!(busy >= architecture.experts_of(layer).1, "{load:?}");
            }
            let logits = output.logits.into_data().to_vec::<f32>().unwrap();
            assert!(logits.iter().all(|&logit| logit == 0.0), "the head knows nothing yet");
        }
    }
}

/// A generation's files, of an upcycled encoder.
fn generation() -> BTreeMap<String, Bytes> {
    let upcycling = Upcycling { experts: 4, top_k: 2, dense_layers: 1 };
    let (architecture, weights) = upcycled(&upcycling, 3);
    let tokenizer = tiny().tokenizer(architecture.context).unwrap();
    let files: [(&str, Vec<u8>); 4] = [
        (ARCHITECTURE, serde_json::to_vec(&architecture).unwrap()),
        (TOKENIZER, tokenizer.to_bytes().unwrap()),
        (WEIGHTS, weights.to_safetensors().unwrap()),
        (LABELS, br#"["a","b","c"]"#.to_vec()),
    ];
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect()
}

#[test]
fn an_encoder_is_a_generation_like_any_other_and_embeds_as_before() {
    let files = generation();
    let model = Model::from_files(&files, &Device::Cpu).unwrap();
    let expected = expected();
    let inputs: Vec<Input> =
        expected.answers.iter().map(|answer| Input::text(answer.text.clone())).collect();
    let embeddings = model.embed(&inputs).unwrap();
    for (answer, embedding) in expected.answers.iter().zip(&embeddings) {
        near(&answer.text, embedding, &answer.embedding, 5e-6);
    }
    let alone = model.embed(&inputs[3..4]).unwrap();
    near("alone", &alone[0], &embeddings[3], 1e-6);
    let scores = model.predict(&inputs).unwrap();
    near("scores", &scores[0].probabilities, &[1.0 / 3.0; 3], 1e-6);

    let architecture: Architecture = serde_json::from_slice(&files[ARCHITECTURE]).unwrap();
    let device = Default::default();
    let read = Weights::<CpuBackend>::from_safetensors(&architecture, 3, &files[WEIGHTS], &device);
    assert_eq!(read.unwrap().to_safetensors().unwrap(), files[WEIGHTS]);
}

#[test]
fn a_long_text_ends_with_the_token_that_marks_its_end() {
    let architecture = tiny().architecture(&wanted(6), &Upcycling::default()).unwrap();
    let tokenizer = tiny().tokenizer(6).unwrap();
    let featurizer = Featurizer::new(tokenizer, architecture);
    let input = Input::text("free tickets to the opera, today only");
    let tokens = featurizer.features(&input).unwrap().tokens;
    assert_eq!((tokens.len(), tokens[0], tokens[5]), (6, 2, 3));
    let empty = featurizer.features(&Input::text("")).unwrap().tokens;
    assert_eq!(empty, [2, 3]);
}

#[test]
fn what_is_wrong_with_an_encoders_files_is_named() {
    let change = |file: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut files = tiny_files();
        let mut value = serde_json::from_slice(&files[file]).unwrap();
        change(&mut value);
        files.insert(file.to_owned(), serde_json::to_vec(&value).unwrap().into());
        files
    };
    let refused = |files: &BTreeMap<String, Bytes>| {
        let read = Pretrained::from_files(files);
        let made = read.and_then(|pretrained| {
            let architecture = pretrained.architecture(&wanted(24), &Upcycling::default())?;
            pretrained.weights::<CpuBackend>(&architecture, 2, 1, &Default::default())
        });
        made.expect_err("it is wrong").to_string()
    };
    for missing in Pretrained::FILES {
        let mut files = tiny_files();
        files.remove(missing);
        let error = refused(&files);
        assert!(error.contains(missing) && error.contains("not there"), "{error}");
    }
    for (field, value, needles) in [
        ("model_type", "llama".into(), ["`model_type` is `llama`", "`bert`"]),
        ("hidden_act", "relu".into(), ["`hidden_act` is `relu`", "`gelu`"]),
        ("position_embedding_type", "relative_key".into(), ["`relative_key`", "`absolute`"]),
        ("vocab_size", 70.into(), ["tokenizer.json", "72 tokens"]),
        ("vocab_size", 280.into(), ["embeddings.word_embeddings.weight", "[280, 16]"]),
        ("num_hidden_layers", 3.into(), ["encoder.layer.2.", "missing"]),
        ("intermediate_size", 25.into(), ["encoder.layer.0.intermediate.dense.weight", "[25, 16]"]),
    ] {
        let files =
            change("config.json", &|config| config[field] = serde_json::Value::clone(&value));
        let error = refused(&files);
        assert!(needles.iter().all(|needle| error.contains(needle)), "{field}: {error}");
    }
    let mut files = tiny_files();
    files.insert("tokenizer.json".to_owned(), Bytes::from_static(b"{}"));
    assert!(refused(&files).contains("tokenizer.json"));
    files = tiny_files();
    files.insert("model.safetensors".to_owned(), Bytes::from_static(b"not it"));
    assert!(refused(&files).contains("model.safetensors"));
}

#[test]
fn what_does_not_fit_an_encoder_is_named() {
    let refused = |context: usize, upcycling: Upcycling| {
        let architecture = tiny().architecture(&wanted(context), &upcycling);
        let error: ModelError = architecture.expect_err("it does not fit");
        error.to_string()
    };
    let none = Upcycling::default();
    let error = refused(41, none);
    assert!(error.contains("`context` is 41") && error.contains("at most 40"), "{error}");
    assert!(refused(24, Upcycling { top_k: 2, ..none }).contains("`top_k`"));
    assert!(refused(24, Upcycling { dense_layers: 3, ..none }).contains("`dense_layers`"));
    let error = tiny().tokenizer(2).expect_err("no room").to_string();
    assert!(error.contains("`context` is 2"), "{error}");
}
