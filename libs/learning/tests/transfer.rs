//! A new domain from another domain's champion.
mod common;

use std::collections::BTreeMap;

use common::{Log, accuracy, cold_start, examples, published, trained, window};
use serde_json::Value;
use tidegate_contracts::{Class, JobId, JobKind};
use tidegate_learning::{
    BalanceBy, CheckpointDir, Example, Expansion, Job, LearningError, NewLabels, REPLAY, Recipe,
    Replay, StartingPoint, TRANSFER, Train, train,
};
use tidegate_ledger::Verified;
use tidegate_model::{ADAPTERS, ARCHITECTURE, Adapters, Architecture, Device, Input, Model};
use tokio_util::sync::CancellationToken;

const BOTH: &[&str] = &["spam", "ham"];

fn champion() -> Verified {
    let mut first = cold_start("first");
    first.recipe.cold_start.epochs = 6;
    let made = trained(&first, &examples(BOTH, 0, 80)).unwrap();
    published(&first, &made)
}

fn transfer(id: &str, champion: &Verified) -> Job {
    let mut job = cold_start(id);
    job.id = JobId::new(id);
    job.kind = JobKind::Transfer;
    job.start = StartingPoint::Champion(champion.clone());
    job.window = window(60, 200);
    let course = &mut job.recipe.transfer.course;
    (course.epochs, course.batch, course.deep_rate) = (8, 8, 5e-3);
    job
}

/// Of the domain "shop": other classes, or the same with other words.
fn shop(classes: &[&str], from: usize, count: usize) -> Vec<Example> {
    let words = |class: &str| match class {
        "order" => ["parcel", "shipped", "address"],
        "refund" => ["money", "return", "broken"],
        "spam" => ["winner", "voucher", "prize"],
        _ => ["lunch", "offer", "meeting"],
    };
    (from..from + count)
        .map(|at| {
            let class = classes[at % classes.len()];
            let (words, turn) = (words(class), at / classes.len());
            let mut example = examples(BOTH, at, 1).remove(0);
            example.id = format!("shop-{class}-{at}").as_str().into();
            example.label = Class::new(class);
            example.domain = "shop".into();
            let (one, other) = (words[turn % 3], words[turn / 3 % 3]);
            example.input = Input::text(format!("{one} {other} of shop {}", at % 7));
            example
        })
        .collect()
}

const NEW: &[&str] = &["order", "refund"];

fn report(files: &BTreeMap<String, bytes::Bytes>) -> Value {
    serde_json::from_slice(&files[TRANSFER]).unwrap()
}

#[test]
fn classes_that_the_source_does_not_know_get_a_head_of_their_own() {
    let made = trained(&transfer("job", &champion()), &shop(NEW, 0, 120)).unwrap();
    assert_eq!(made.labels, [Class::new("order"), Class::new("refund")]);
    assert!(accuracy(&made.files, &shop(NEW, 5_000, 60)) > 0.9);
    assert!(made.metrics["transfer.zero_shot_accuracy"].abs() < f64::EPSILON, "it knew neither");
    assert!(made.metrics["transfer.accuracy"] > 0.9);
    for shots in [1, 5, 20] {
        let before = made.metrics[&format!("transfer.few_shot_{shots}_accuracy")];
        let after = made.metrics[&format!("transfer.few_shot_{shots}_accuracy_after")];
        assert!((0.0..=1.0).contains(&before) && (0.5..=1.0).contains(&after), "{before} {after}");
    }
    let metric = |name: &str| made.metrics[name];
    let after = [1, 20].map(|k| metric(&format!("transfer.few_shot_{k}_accuracy_after")));
    assert!(after[1] > 0.9 && after[1] >= after[0], "more examples tell more: {after:?}");
    let replay = Replay::from_bytes(&made.files[REPLAY]).unwrap();
    assert_eq!(replay.domains().keys().map(|d| d.as_str()).collect::<Vec<_>>(), ["shop"]);
    assert_eq!(replay.len(), 120, "what was held back is remembered too");
    let report = report(&made.files);
    assert_eq!((&report["labels"], &report["known"]), (&"replace".into(), &0.into()));
    assert_eq!((&report["learnt_from"], &report["held_back"]), (&96.into(), &24.into()));
    assert_eq!(report["domains"]["shop"], 120);
    assert_eq!(report["measured"]["transfer.accuracy"], metric("transfer.accuracy"));
    // By default new experts learn, and old ones do not.
    let architecture: Architecture = serde_json::from_slice(&made.files[ARCHITECTURE]).unwrap();
    assert_eq!(architecture.experts, 6);
}

#[test]
fn classes_that_overlap_are_appended_and_the_source_is_rehearsed() {
    let classes = &["spam", "ham", "refund"];
    let made = trained(&transfer("job", &champion()), &shop(classes, 0, 150)).unwrap();
    let labels: Vec<&str> = made.labels.iter().map(Class::as_str).collect();
    assert_eq!(labels, ["ham", "spam", "refund"], "the source's first");
    assert!(accuracy(&made.files, &shop(classes, 5_000, 60)) > 0.9);
    assert!(accuracy(&made.files, &examples(BOTH, 1_000, 60)) > 0.9, "the source's domain");
    let zero = made.metrics["transfer.zero_shot_accuracy"];
    assert!(zero > 0.2 && zero < 0.67, "it knew two of three: {zero}");
    let replay = Replay::from_bytes(&made.files[REPLAY]).unwrap();
    assert!(replay.domains().len() == 2, "{:?}", replay.domains());
    assert_eq!(report(&made.files)["labels"], "append");

    let mut alone = transfer("alone", &champion());
    alone.recipe.transfer.keep_replay = false;
    let made = trained(&alone, &shop(classes, 0, 150)).unwrap();
    let replay = Replay::from_bytes(&made.files[REPLAY]).unwrap();
    assert_eq!(replay.domains().len(), 1, "no text of the source came along");
}

#[test]
fn a_new_head_by_order_keeps_the_columns_of_shared_classes() {
    let classes = &["refund", "spam"];
    let mut job = transfer("job", &champion());
    job.recipe.transfer.labels = NewLabels::Replace;
    // Rates of 0 take no step, so the answers are the source's.
    (job.recipe.transfer.course.deep_rate, job.recipe.transfer.course.wide_rate) = (0.0, 0.0);
    let made = trained(&job, &shop(classes, 0, 80)).unwrap();
    let labels: Vec<&str> = made.labels.iter().map(Class::as_str).collect();
    assert_eq!(labels, ["spam", "refund"]);
    let replay = Replay::from_bytes(&made.files[REPLAY]).unwrap();
    assert_eq!(replay.counts().keys().map(Class::as_str).collect::<Vec<_>>(), classes);
    let model = Model::from_files(&made.files, &Device::Cpu).unwrap();
    let old = Model::from_files(champion().files(), &Device::Cpu).unwrap();
    let input = [Input::text("winner free prize".to_owned())];
    let (new, old) = (&model.predict(&input).unwrap()[0], &old.predict(&input).unwrap()[0]);
    // Beside a class without evidence the logit of spam is what it was.
    let logit = (new.probabilities[0] / new.probabilities[1]).ln();
    assert!(logit > 0.5 && old.probabilities[1] > 0.5, "{logit} {old:?}");

    job.recipe.transfer.labels = NewLabels::Append;
    let made = trained(&job, &shop(NEW, 0, 80)).unwrap();
    assert_eq!(made.labels.len(), 4);
}

#[test]
fn what_is_held_back_is_not_learnt_and_without_it_nothing_is_measured() {
    let mut job = transfer("job", &champion());
    job.recipe.transfer.held_back = 0.0;
    let made = trained(&job, &shop(NEW, 0, 60)).unwrap();
    assert!((made.metrics["window_examples"] - 60.0).abs() < f64::EPSILON);
    assert!(!made.metrics.keys().any(|name| name.starts_with("transfer.")));
    job.recipe.transfer.held_back = 0.5;
    let made = trained(&job, &shop(NEW, 0, 60)).unwrap();
    assert!((made.metrics["window_examples"] - 30.0).abs() < f64::EPSILON);
}

#[test]
fn a_transfer_that_goes_by_halves_ends_with_the_same_bytes() {
    let start = champion();
    let lora = Adapters { attention_rank: 2, expert_rank: 2, alpha: 8.0, prefix: 0, head: true };
    for (train_what, classes) in [
        (Train::FrozenExperts, NEW),
        (Train::NewExperts, &["spam", "refund"][..]),
        (Train::Adapters, NEW),
        (Train::Full, &["refund", "spam"][..]),
    ] {
        let mut job = transfer("job", &start);
        job.recipe.transfer.course.epochs = 2;
        let method = &mut job.recipe.transfer.method;
        (method.train, method.adapters) = (train_what, lora);
        if matches!(train_what, Train::Adapters | Train::Full) {
            method.expansion = Expansion::default();
        }
        (job.recipe.der.alpha, job.recipe.ewc.weight, job.recipe.ewc.samples) = (0.5, 5.0, 8);
        job.recipe.l2_to_start.weight = 0.1;
        job.recipe.distillation.fresh_weight = 0.2;
        job.recipe.rehearsal.balance_by = vec![BalanceBy::Class, BalanceBy::Domain];
        let examples = shop(classes, 0, 40);
        let whole = trained(&job, &examples).unwrap();
        assert_eq!(whole.files.contains_key(ADAPTERS), train_what == Train::Adapters);
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointDir::open(folder.path()).unwrap();
        for step in 1..whole.metrics["steps"] as u64 {
            let cancel = CancellationToken::new();
            let mut log = Log { cancel_after: Some((step, cancel.clone())), ..Log::default() };
            let error = train(&job, &examples, &checkpoints, &mut log, &cancel).unwrap_err();
            assert!(matches!(error, LearningError::Cancelled { .. }), "{error}");
        }
        let go_on = CancellationToken::new();
        let resumed = train(&job, &examples, &checkpoints, &mut Log::default(), &go_on).unwrap();
        for (name, bytes) in &whole.files {
            assert!(resumed.files[name] == bytes, "{train_what:?}: {name} is not the same");
        }
        let of = |metrics: &BTreeMap<String, f64>| -> Vec<(String, f64)> {
            let all = metrics.iter().filter(|(name, _)| name.starts_with("transfer."));
            all.map(|(name, value)| (name.clone(), *value)).collect()
        };
        assert_eq!(of(&resumed.metrics), of(&whole.metrics));
        assert!(!of(&whole.metrics).is_empty());
    }
}

#[test]
fn a_recipe_from_before_transfers_had_their_own_still_loads() {
    let old = "[cold_start]\nepochs = 7\n[method]\ntrain = \"full\"\n[method.adapters]\n\
               attention_rank = 8\nexpert_rank = 0\nalpha = 16.0\nprefix = 0\nhead = true\n";
    let recipe = Recipe::from_toml(old).unwrap();
    assert_eq!(recipe.course(JobKind::ColdStart).epochs, 7);
    assert_eq!(recipe.course(JobKind::Transfer), &recipe.transfer.course);
    assert_eq!(recipe.method(JobKind::Transfer).train, Train::FrozenExperts);
    assert_eq!(recipe.method(JobKind::HotUpdate).train, Train::Full);
}
