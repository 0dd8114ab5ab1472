//! Adapters that learn beside a champion's weights, which keep their bits.
mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{accuracy, cold_start, examples, hot_update, published, trained};
use safetensors::SafeTensors;
use tidegate_learning::{Example, Job, LearningError, OPTIMIZER, Train, Trained};
use tidegate_ledger::Verified;
use tidegate_model::{
    ADAPTER_WEIGHTS, ADAPTERS, ARCHITECTURE, Adapters, Architecture, Batch, CpuBackend, Device,
    Features, Featurizer, Input, Model, TOKENIZER, Tokenizer, WEIGHTS, Weights,
};

const BOTH: &[&str] = &["spam", "ham"];
const LORA: Adapters =
    Adapters { attention_rank: 2, expert_rank: 2, alpha: 8.0, prefix: 0, head: true };

fn champion() -> (Verified, Trained) {
    let mut first = cold_start("first");
    // What is counted is sure of such few words, and would drown what the network says.
    first.recipe.counting.smoothing = 0.0;
    let made = trained(&first, &examples(BOTH, 0, 60)).unwrap();
    (published(&first, &made), made)
}

/// An update of nothing but adapters, at a rate that shows.
fn update(id: &str, champion: &Verified, adapters: Adapters) -> Job {
    let mut job = hot_update(id, champion.clone());
    job.recipe.method.train = Train::Adapters;
    job.recipe.method.adapters = adapters;
    job.recipe.hot_update.deep_rate = 0.02;
    job
}

/// Spam and ham with their labels exchanged: answers have to move.
fn turned() -> Vec<Example> {
    let mut window = examples(BOTH, 60, 40);
    for example in &mut window {
        example.label = if example.label.as_str() == "spam" { "ham" } else { "spam" }.into();
    }
    window
}

fn names(bytes: &[u8]) -> Vec<String> {
    SafeTensors::deserialize(bytes).unwrap().names().into_iter().map(str::to_owned).collect()
}

fn probes() -> Vec<Input> {
    examples(BOTH, 500, 30).into_iter().map(|example| example.input).collect()
}

fn answers(files: &BTreeMap<String, Bytes>) -> Vec<f32> {
    let model = Model::from_files(files, &Device::Cpu).unwrap();
    model.predict(&probes()).unwrap().into_iter().flat_map(|scores| scores.probabilities).collect()
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

#[test]
fn adapters_learn_and_the_file_below_them_keeps_its_hash() {
    let (start, first) = champion();
    let prefix = Adapters { prefix: 3, head: false, ..Adapters::default() };
    for adapters in [LORA, Adapters { alpha: 1.0, ..prefix }] {
        let second = trained(&update("second", &start, adapters), &turned()).unwrap();
        assert_eq!(second.files[WEIGHTS], first.files[WEIGHTS]);
        let kept: Adapters = serde_json::from_slice(&second.files[ADAPTERS]).unwrap();
        assert_eq!(kept, adapters);
        for name in names(&second.files[ADAPTER_WEIGHTS]) {
            assert!(adapters.keep(&name), "{name}");
        }
        let stated = names(&second.files[OPTIMIZER]);
        assert!(stated.iter().all(|name| adapters.keep(name)), "{stated:?}");
        assert!(stated.len() >= 3);
        // A prefix starts without values, and says little after a few steps.
        assert!(apart(&answers(&first.files), &answers(&second.files)) > 1e-6);
        let share = second.metrics["trained_share"];
        assert!((1e-4..0.1).contains(&share), "{share}");
    }
}

#[test]
fn before_the_first_step_answers_are_the_champions() {
    let (start, first) = champion();
    let mut job = update("second", &start, LORA);
    // A rate of 0 takes no step.
    job.recipe.hot_update.deep_rate = 0.0;
    let second = trained(&job, &turned()).unwrap();
    assert_eq!(answers(&first.files), answers(&second.files));
}

#[test]
fn a_model_with_its_adapters_folded_in_answers_as_they_do_beside_the_weights() {
    let (start, _) = champion();
    let files = trained(&update("second", &start, LORA), &turned()).unwrap().files;
    let architecture: Architecture = serde_json::from_slice(&files[ARCHITECTURE]).unwrap();
    let both = (&files[WEIGHTS][..], Some(&files[ADAPTER_WEIGHTS][..]));
    let device = Default::default();
    let weights =
        Weights::<CpuBackend>::with_adapters(&architecture, &LORA, 2, both, 0, &device).unwrap();
    let tokenizer = Tokenizer::from_bytes(&files[TOKENIZER]).unwrap();
    let features = Featurizer::new(tokenizer, architecture).features_all(&probes()).unwrap();
    let features: Vec<&Features> = features.iter().collect();
    let batch = Batch::new(&features, &device).with_wide(weights.wide.logits(&features), 2);
    let logits = weights.network.forward(&batch).logits.into_data().to_vec::<f32>().unwrap();
    let beside: Vec<f32> = logits
        .chunks(2)
        .flat_map(|row| {
            let spam = 1.0 / (1.0 + (row[0] - row[1]).exp());
            [1.0 - spam, spam]
        })
        .collect();
    assert!(apart(&beside, &answers(&files)) < 1e-5);
}

#[test]
fn a_new_class_is_appended_beside_a_base_that_does_not_know_it() {
    let (start, first) = champion();
    let mut job = update("second", &start, LORA);
    job.recipe.hot_update.epochs = 12;
    let second = trained(&job, &examples(&["spam", "ham", "news"], 0, 60)).unwrap();
    assert_eq!(second.files[WEIGHTS], first.files[WEIGHTS]);
    assert_eq!(second.labels.len(), 3);
    let right = accuracy(&second.files, &examples(&["news"], 1_000, 30));
    assert!(right > 0.8, "{right}");
    // And once more, with a class that was known to the adapters alone.
    let again = update("third", &published(&job, &second), LORA);
    let third = trained(&again, &examples(&["spam", "ham", "news"], 60, 30)).unwrap();
    assert_eq!(third.files[WEIGHTS], first.files[WEIGHTS]);

    let headless = Adapters { head: false, ..LORA };
    let error = trained(&update("fourth", &start, headless), &examples(&["news"], 0, 9));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`method.adapters.head`"), "{error}");
}

#[test]
fn the_same_adapters_go_on_and_others_are_folded_first() {
    let (start, first) = champion();
    let job = update("second", &start, LORA);
    let second = trained(&job, &turned()).unwrap();
    let next = published(&job, &second);
    let mut still = update("still", &next, LORA);
    still.recipe.hot_update.deep_rate = 0.0;
    let still = trained(&still, &turned()).unwrap();
    assert_eq!(still.files[ADAPTER_WEIGHTS], second.files[ADAPTER_WEIGHTS], "they go on");
    assert_eq!(still.files[WEIGHTS], first.files[WEIGHTS]);

    let wider = Adapters { attention_rank: 4, ..LORA };
    let mut other = update("other", &next, wider);
    other.recipe.hot_update.deep_rate = 0.0;
    let folded = trained(&other, &turned()).unwrap();
    assert_ne!(folded.files[WEIGHTS], first.files[WEIGHTS], "a new base");
    assert!(apart(&answers(&folded.files), &answers(&second.files)) < 1e-5);

    let mut full = hot_update("full", next);
    full.recipe.hot_update.deep_rate = 0.0;
    full.recipe.hot_update.wide_rate = 0.0;
    let full = trained(&full, &turned()).unwrap();
    assert!(!full.files.contains_key(ADAPTERS) && !full.files.contains_key(ADAPTER_WEIGHTS));
    assert!(apart(&answers(&full.files), &answers(&second.files)) < 1e-5);
}

#[test]
fn a_prefix_cannot_be_folded_and_so_stays_or_is_refused() {
    let (start, _) = champion();
    let both = Adapters { prefix: 2, ..LORA };
    let job = update("second", &start, both);
    let second = trained(&job, &turned()).unwrap();
    let next = published(&job, &second);
    let error = trained(&update("third", &next, LORA), &turned()).unwrap_err();
    assert!(matches!(error, LearningError::Recipe { .. }), "{error}");
    assert!(error.to_string().contains("`method.adapters.prefix`"), "{error}");

    let mut full = hot_update("full", next);
    full.recipe.hot_update.deep_rate = 0.0;
    full.recipe.hot_update.wide_rate = 0.0;
    let full = trained(&full, &turned()).unwrap();
    let kept: Adapters = serde_json::from_slice(&full.files[ADAPTERS]).unwrap();
    assert_eq!(kept, Adapters { prefix: 2, ..Adapters::default() });
    assert!(apart(&answers(&full.files), &answers(&second.files)) < 1e-5);
}

#[test]
fn adapters_that_do_not_fit_the_champion_are_refused_by_name() {
    let (start, _) = champion();
    let wide = Adapters { attention_rank: 9, ..LORA };
    let error = trained(&update("second", &start, wide), &turned()).unwrap_err().to_string();
    assert!(error.contains("`attention_rank`") && error.contains("at most 8"), "{error}");
}

#[test]
fn a_cold_start_has_no_adapters() {
    let mut job = cold_start("cold");
    job.recipe.method.train = Train::Adapters;
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    assert!(!first.files.contains_key(ADAPTERS));
    assert!((first.metrics["trained_share"] - 1.0).abs() < f64::EPSILON);
}
