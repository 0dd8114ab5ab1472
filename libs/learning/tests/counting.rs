//! What is counted beside what is learnt by steps.
mod common;

use std::collections::BTreeMap;

use common::{accuracy, cold_start, examples, hot_update, published, trained};
use tidegate_learning::{Job, Train, Trained};
use tidegate_ledger::Verified;
use tidegate_model::{
    ARCHITECTURE, Architecture, COUNTS, Counts, CpuBackend, Device, Featurizer, Input, Model,
    TOKENIZER, Tokenizer, WEIGHTS, Weights,
};

const BOTH: &[&str] = &["spam", "ham"];

fn champion(smoothing: f64) -> (Verified, Trained) {
    let mut job = cold_start("cold");
    job.recipe.counting.smoothing = smoothing;
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    (published(&job, &first), first)
}

/// Nothing is replayed.
fn update(champion: &Verified, smoothing: f64) -> Job {
    let mut job = hot_update("hot", champion.clone());
    job.recipe.counting.smoothing = smoothing;
    (job.recipe.rehearsal.share, job.recipe.hot_update.epochs) = (0.0, 6);
    job
}

fn counts(trained: &Trained, classes: usize) -> Counts {
    let architecture: Architecture = serde_json::from_slice(&trained.files[ARCHITECTURE]).unwrap();
    Counts::from_safetensors(&architecture, classes, &trained.files[COUNTS]).unwrap()
}

#[test]
fn counts_know_what_steps_alone_forget() {
    let (old, new) = (examples(BOTH, 60, 60), examples(&["news"], 60, 60));
    let known = |smoothing: f64| {
        let (start, _) = champion(smoothing);
        let second = trained(&update(&start, smoothing), &examples(&["news"], 0, 60)).unwrap();
        assert_eq!(second.files.contains_key(COUNTS), smoothing > 0.0);
        assert_eq!(second.metrics.contains_key("evidence_scale"), smoothing > 0.0);
        (accuracy(&second.files, &old), accuracy(&second.files, &new))
    };
    let (with, without) = (known(0.5), known(0.0));
    assert!(with.0 > 0.9 && with.1 > 0.9, "{with:?}");
    assert!(without.0 < with.0 - 0.1, "{without:?} {with:?}");
}

#[test]
fn a_window_adds_to_the_counts_and_a_class_to_their_columns() {
    let (start, first) = champion(0.5);
    assert_eq!(counts(&first, 2).counted(), [true, true]);
    let second = trained(&update(&start, 0.5), &examples(&["news"], 0, 40)).unwrap();
    let (before, after) = (counts(&first, 3), counts(&second, 3));
    assert_eq!(before.counted(), [true, true, false]);
    assert_eq!(after.counted(), [true, true, true]);
    // The window has no text of a class that was counted: nothing new is known of their weight.
    assert!((before.scale, before.heat) == (after.scale, after.heat));
}

#[test]
fn a_job_without_steps_changes_answers_by_what_it_counts_alone() {
    let (start, first) = champion(0.5);
    let mut job = update(&start, 0.5);
    // So low that no weight moves by as much as a rounding.
    (job.recipe.hot_update.deep_rate, job.recipe.hot_update.wide_rate) = (0.0, 1e-12);
    let second = trained(&job, &examples(BOTH, 60, 40)).unwrap();
    let architecture: Architecture = serde_json::from_slice(&first.files[ARCHITECTURE]).unwrap();
    let weights = |trained: &Trained| {
        let bytes = &trained.files[WEIGHTS];
        let weights =
            Weights::<CpuBackend>::from_safetensors(&architecture, 2, bytes, &Default::default())
                .unwrap();
        weights.without(&counts(trained, 2)).to_safetensors().unwrap()
    };
    let (one, other) = (weights(&first), weights(&second));
    let floats = |bytes: &[u8]| -> BTreeMap<String, Vec<f32>> {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        let values = |data: &[u8]| data.chunks_exact(4).map(word).collect();
        file.iter().map(|(name, view)| (name.to_owned(), values(view.data()))).collect()
    };
    let other = floats(&other);
    for (name, one) in floats(&one) {
        let other = &other[&name];
        let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let bound = match name.as_str() {
            // Evidence that is added and taken out again leaves a rounding.
            "wide.rows" => 1e-4,
            "wide.squares" => f32::INFINITY,
            _ => 0.0,
        };
        assert!(apart <= bound, "{name}: {apart}");
    }
    assert_ne!(first.files[WEIGHTS], second.files[WEIGHTS], "the window was counted");
    let probabilities = |trained: &Trained| {
        let model = Model::from_files(&trained.files, &Device::Cpu).unwrap();
        model.predict(&[examples(BOTH, 60, 1)[0].input.clone()]).unwrap()[0].probabilities.clone()
    };
    assert_ne!(probabilities(&first), probabilities(&second));
}

#[test]
fn counts_of_two_windows_are_those_of_both_at_once() {
    let (start, _) = champion(0.5);
    let (old, new) = (examples(BOTH, 0, 60), examples(&["spam", "spam", "ham"], 60, 31));
    let mut update = update(&start, 0.5);
    // Its steps weigh the rare class more.
    update.recipe.hot_update.balance = 1.0;
    let second = trained(&update, &new).unwrap();
    let both = trained(&cold_start("both"), &[old, new].concat()).unwrap();
    let odds = |trained: &Trained| -> Vec<f32> {
        let architecture: Architecture =
            serde_json::from_slice(&trained.files[ARCHITECTURE]).unwrap();
        let tokenizer = Tokenizer::from_bytes(&trained.files[TOKENIZER]).unwrap();
        let inputs: Vec<Input> = examples(BOTH, 200, 20).into_iter().map(|e| e.input).collect();
        let features = Featurizer::new(tokenizer, architecture).features_all(&inputs).unwrap();
        counts(trained, 2).evidence().logits(&features.iter().collect::<Vec<_>>())
    };
    for (one, other) in odds(&second).into_iter().zip(odds(&both)) {
        assert!((one - other).abs() < 1e-3, "{one} {other}");
    }
}

#[test]
fn switched_off_what_was_counted_stays_as_if_it_were_learnt() {
    let (start, first) = champion(0.5);
    let mut job = update(&start, 0.0);
    (job.recipe.hot_update.deep_rate, job.recipe.hot_update.wide_rate) = (0.0, 1e-12);
    let second = trained(&job, &examples(BOTH, 60, 40)).unwrap();
    assert!(!second.files.contains_key(COUNTS));
    let probabilities = |trained: &Trained| -> Vec<f32> {
        let model = Model::from_files(&trained.files, &Device::Cpu).unwrap();
        let inputs: Vec<Input> = examples(BOTH, 200, 20).into_iter().map(|e| e.input).collect();
        model.predict(&inputs).unwrap().into_iter().flat_map(|s| s.probabilities).collect()
    };
    assert_eq!(probabilities(&first), probabilities(&second));
}

#[test]
fn adapters_leave_the_counts_below_them_alone() {
    let (start, first) = champion(0.5);
    let mut job = update(&start, 0.5);
    job.recipe.method.train = Train::Adapters;
    let second = trained(&job, &examples(BOTH, 60, 40)).unwrap();
    assert_eq!(first.files[COUNTS], second.files[COUNTS]);
    assert_eq!(first.files[WEIGHTS], second.files[WEIGHTS]);
}
