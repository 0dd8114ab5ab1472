//! Jobs that learn what token comes next.
mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Log, cold_start, examples, hot_update, published, trained};
use tidegate_contracts::{Class, FeatureValue, JobKind, Part};
use tidegate_learning::{
    CheckpointDir, Compute, Example, Job, REPLAY, Replay, StartingPoint, Train, plan, train,
};
use tidegate_model::{Device, Input, Model, Sampling, Surprise, Task, WEIGHTS};
use tokio_util::sync::CancellationToken;

const BOTH: &[&str] = &["spam", "ham"];

fn writer(id: &str) -> Job {
    let mut job = cold_start(id);
    job.recipe.architecture.task = Task::NextToken;
    job.recipe.architecture.vocab = 400;
    job.recipe.cold_start.epochs = 40;
    job.recipe.cold_start.deep_rate = 0.01;
    job
}

/// Texts without a label.
fn texts(classes: &[&str], from: usize, count: usize) -> Vec<Example> {
    let mut examples = examples(classes, from, count);
    examples.iter_mut().for_each(|example| example.label = Class::new(""));
    examples
}

fn surprise(files: &BTreeMap<String, Bytes>, examples: &[Example]) -> f64 {
    let inputs: Vec<Input> = examples.iter().map(|example| example.input.clone()).collect();
    let model = Model::from_files(files, &Device::Cpu).unwrap();
    model.surprise(&inputs).unwrap().into_iter().sum::<Surprise>().bits_per_byte()
}

#[test]
fn it_learns_to_write_what_it_read_and_says_how_well() {
    let job = writer("first");
    let window = texts(BOTH, 0, 60);
    let first = trained(&job, &window).unwrap();
    assert!(first.labels.is_empty());
    let held_out = texts(BOTH, 1_000, 40);
    let bits = surprise(&first.files, &held_out);
    let untrained = {
        let mut job = writer("untrained");
        (job.recipe.cold_start.deep_rate, job.recipe.cold_start.epochs) = (0.0, 1);
        surprise(&trained(&job, &window).unwrap().files, &held_out)
    };
    assert!(bits < 0.25 * untrained, "{bits} {untrained}");
    let perplexity = first.metrics["perplexity"];
    assert!((perplexity.ln() - first.metrics["loss"]).abs() < 1e-9 && perplexity < 3.0);
    let model = Model::from_files(&first.files, &Device::Cpu).unwrap();
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let text: String = model.generate("winner ", greedy).unwrap().map(|piece| piece.text).collect();
    assert!(text.contains(" about item ") && text.contains(" of "), "{text}");
    let planned = plan(&job, &window).unwrap();
    assert_eq!((planned.parameters.total, planned.parameters.active), model.parameters());
    let tokens = first.metrics["tokens"];
    assert!((planned.work.tokens as f64 - tokens).abs() < 1.0, "{tokens}");
}

#[test]
fn an_update_learns_new_texts_and_rehearsal_keeps_the_old() {
    let first_job = writer("first");
    let first = trained(&first_job, &texts(BOTH, 0, 60)).unwrap();
    let champion = published(&first_job, &first);
    let (old, new) = (texts(BOTH, 1_000, 40), texts(&["news"], 1_000, 40));
    let update = |share: f64| {
        let mut job = hot_update("second", champion.clone());
        job.recipe = first_job.recipe.clone();
        job.recipe.rehearsal.share = share;
        job.recipe.hot_update.epochs = 20;
        job.recipe.hot_update.deep_rate = 0.01;
        trained(&job, &texts(&["news"], 0, 60)).unwrap().files
    };
    let (with, without) = (update(0.5), update(0.0));
    assert!(surprise(&with, &new) < 0.5 * surprise(&first.files, &new));
    let (kept, forgot) = (surprise(&with, &old), surprise(&without, &old));
    assert!(kept < 0.8 * forgot, "{kept} {forgot}");
    assert!(Replay::from_bytes(&with[REPLAY]).unwrap().len() > 60);
}

#[test]
fn it_resumes_to_the_bit() {
    let mut job = writer("first");
    job.recipe.cold_start.epochs = 2;
    job.recipe.cold_start.micro_batch = 3;
    let mut window = texts(BOTH, 0, 60);
    window[7].weight = 2.0;
    let whole = trained(&job, &window).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointDir::open(folder.path()).unwrap();
    let cancel = CancellationToken::new();
    let mut log = Log { cancel_after: Some((7, cancel.clone())), ..Log::default() };
    train(&job, &window, &checkpoints, &mut log, &cancel).unwrap_err();
    let cancel = CancellationToken::new();
    let resumed = train(&job, &window, &checkpoints, &mut Log::default(), &cancel).unwrap();
    assert_eq!(resumed.files, whole.files);
}

#[test]
fn adapters_learn_beside_a_writer_too() {
    let first_job = writer("first");
    let first = trained(&first_job, &texts(BOTH, 0, 60)).unwrap();
    let mut job = hot_update("second", published(&first_job, &first));
    job.recipe.method.train = Train::Adapters;
    job.recipe.method.adapters.attention_rank = 4;
    job.recipe.method.adapters.prefix = 2;
    job.recipe.hot_update.epochs = 20;
    job.recipe.hot_update.deep_rate = 0.02;
    let second = trained(&job, &texts(&["news"], 0, 60)).unwrap();
    let new = texts(&["news"], 1_000, 40);
    assert!(surprise(&second.files, &new) < 0.8 * surprise(&first.files, &new));
}

#[test]
fn what_needs_classes_is_refused_by_name() {
    let window = texts(BOTH, 0, 60);
    for field in ["distillation.fresh_weight", "der.alpha", "ewc.weight"] {
        let mut job = writer("first");
        match field {
            "der.alpha" => job.recipe.der.alpha = 0.5,
            "ewc.weight" => job.recipe.ewc.weight = 1.0,
            _ => job.recipe.distillation.fresh_weight = 0.5,
        }
        let error = trained(&job, &window).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn only_texts_are_learnt_whatever_else_an_event_has() {
    let mut job = writer("first");
    job.recipe.cold_start.epochs = 1;
    let plain = texts(BOTH, 0, 60);
    let table = || {
        let size = FeatureValue::Number(1.0);
        Part::Features(BTreeMap::from([("size".to_owned(), size)]))
    };
    let mut mixed = plain.clone();
    mixed.iter_mut().for_each(|example| example.input.parts.insert(0, table()));
    let mut without = texts(BOTH, 60, 1).remove(0);
    without.input.parts = vec![table()];
    let mut window = mixed.clone();
    window.push(without.clone());
    let (of_texts, of_all) = (trained(&job, &plain).unwrap(), trained(&job, &window).unwrap());
    assert_eq!(of_all.files[WEIGHTS], of_texts.files[WEIGHTS]);
    assert!((of_all.metrics["unread_examples"] - 1.0).abs() < f64::EPSILON);
    let error = trained(&job, &[without]).unwrap_err().to_string();
    assert!(error.contains("reads text"), "{error}");
}

#[test]
fn experts_are_added_to_a_writer_and_it_is_transferred_by_hot_updates_alone() {
    let first_job = writer("first");
    let window = texts(&["news"], 0, 60);
    let champion = published(&first_job, &trained(&first_job, &texts(BOTH, 0, 60)).unwrap());
    let mut job = hot_update("second", champion);
    job.recipe.method.expansion.experts = 2;
    job.recipe.precision.compute = Compute::Bf16;
    (job.recipe.hot_update.epochs, job.recipe.hot_update.deep_rate) = (20, 0.01);
    let made = trained(&job, &window).unwrap();
    let model = Model::from_files(&made.files, &Device::Cpu).unwrap();
    assert_eq!(model.architecture().experts, 6);
    let (old, new) = (job.start.clone(), texts(&["news"], 1_000, 40));
    let StartingPoint::Champion(old) = old else { unreachable!("an update has a champion") };
    assert!(surprise(&made.files, &new) < 0.8 * surprise(old.files(), &new));

    job.kind = JobKind::Transfer;
    let error = trained(&job, &window).unwrap_err().to_string();
    assert!(error.contains("`architecture.task`") && error.contains("next_token"), "{error}");
}

#[test]
fn weights_and_micro_batches_change_the_loss_as_they_should() {
    let mut job = writer("first");
    job.recipe.cold_start.epochs = 1;
    let window = texts(BOTH, 0, 60);
    let loss = |job: &Job, window: &[Example]| trained(job, window).unwrap().metrics["loss"];
    let whole = loss(&job, &window);
    job.recipe.cold_start.micro_batch = 3;
    assert!((loss(&job, &window) - whole).abs() < 1e-4 * whole);
    let mut heavy = window;
    heavy.iter_mut().for_each(|example| example.weight = 3.0);
    assert!((loss(&job, &heavy) - whole).abs() < 1e-4 * whole, "only shares count");
}
