//! New experts beside a champion's, which keep their bits.
mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{cold_start, examples, hot_update, published, trained};
use safetensors::SafeTensors;
use tidegate_learning::{Compute, Example, Expansion, Job, OPTIMIZER, Train, Trained, plan};
use tidegate_ledger::Verified;
use tidegate_model::{
    ARCHITECTURE, Affinity, Architecture, Device, Input, Model, WEIGHTS, from_le_bytes,
};

const BOTH: &[&str] = &["spam", "ham"];

fn champion(groups: usize) -> (Verified, Trained) {
    let mut first = cold_start("first");
    // What is counted is sure of such few words, and would drown what the network says.
    first.recipe.counting.smoothing = 0.0;
    first.recipe.architecture.expert_groups = groups;
    first.recipe.architecture.top_groups = groups;
    let made = trained(&first, &examples(BOTH, 0, 60)).unwrap();
    (published(&first, &made), made)
}

/// An update with two more experts a layer, at a rate that shows.
fn update(id: &str, champion: &Verified, train: Train) -> Job {
    let mut job = hot_update(id, champion.clone());
    job.recipe.method.train = train;
    job.recipe.method.expansion.experts = 2;
    job.recipe.hot_update.deep_rate = 0.02;
    job
}

/// Spam and ham with their labels exchanged: answers have to move.
fn turned(from: usize) -> Vec<Example> {
    let mut window = examples(BOTH, from, 40);
    for example in &mut window {
        example.label = if example.label.as_str() == "spam" { "ham" } else { "spam" }.into();
    }
    window
}

fn answers(files: &BTreeMap<String, Bytes>) -> Vec<f32> {
    let model = Model::from_files(files, &Device::Cpu).unwrap();
    let probes: Vec<Input> = examples(BOTH, 500, 30).into_iter().map(|one| one.input).collect();
    model.predict(&probes).unwrap().into_iter().flat_map(|scores| scores.probabilities).collect()
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

fn architecture(files: &BTreeMap<String, Bytes>) -> Architecture {
    serde_json::from_slice(&files[ARCHITECTURE]).unwrap()
}

fn tensor(files: &BTreeMap<String, Bytes>, name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(&files[WEIGHTS]).unwrap();
    from_le_bytes(tensors.tensor(name).unwrap().data())
}

fn steps_of(files: &BTreeMap<String, Bytes>, name: &str) -> Option<u64> {
    let tensors = SafeTensors::deserialize(&files[OPTIMIZER]).unwrap();
    let time = tensors.tensor(&format!("{name}.time")).ok()?;
    Some(u64::from_le_bytes(time.data().try_into().unwrap()))
}

/// The part of each expert in a tensor of `experts` of them.
fn by_expert(values: &[f32], experts: usize, name: &str) -> Vec<Vec<f32>> {
    if name.ends_with("router") {
        return (0..experts)
            .map(|at| values.iter().skip(at).step_by(experts).copied().collect())
            .collect();
    }
    values.chunks_exact(values.len() / experts).map(<[f32]>::to_vec).collect()
}

#[test]
fn before_the_first_step_answers_are_the_champions_and_the_network_is_larger() {
    for groups in [1, 2] {
        let (start, first) = champion(groups);
        for train in [Train::NewExperts, Train::FrozenExperts, Train::Full] {
            let mut job = update("second", &start, train);
            // Rates of 0 take no step.
            (job.recipe.hot_update.deep_rate, job.recipe.hot_update.wide_rate) = (0.0, 0.0);
            let second = trained(&job, &turned(60)).unwrap();
            let grown = architecture(&second.files);
            assert_eq!((grown.experts, grown.top_k, grown.expert_groups), (6, 2, groups));
            let apart = apart(&answers(&first.files), &answers(&second.files));
            assert!(apart < 1e-5, "{train:?}: {apart}");
        }
    }
}

#[test]
fn old_experts_keep_their_bits_and_new_ones_learn() {
    for (groups, old) in [(1, [0, 1, 2, 3]), (2, [0, 1, 3, 4])] {
        let (start, first) = champion(groups);
        for train in [Train::NewExperts, Train::FrozenExperts] {
            let second = trained(&update("second", &start, train), &turned(60)).unwrap();
            assert!(apart(&answers(&first.files), &answers(&second.files)) > 1e-3);
            let mut kept = vec!["gate", "up", "down"];
            if train == Train::NewExperts {
                kept.extend(["router", "bias"]);
            }
            for name in kept {
                let name = format!("blocks.0.mixture.{name}");
                let before = by_expert(&tensor(&first.files, &name), 4, &name);
                let after = by_expert(&tensor(&second.files, &name), 6, &name);
                for (was, is) in old.into_iter().enumerate() {
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&before[was]), bits(&after[is]), "{train:?} {name} {was}");
                }
                for new in (0..6).filter(|at| !old.contains(at)) {
                    assert!(!before.contains(&after[new]), "{name} {new} is more than a copy");
                }
            }
            let same = |name: &str| tensor(&first.files, name) == tensor(&second.files, name);
            let all_else = ["embedding", "blocks.0.attention.query", "blocks.0.mixture.shared.up"];
            assert!(all_else.iter().all(|name| same(name) == (train == Train::NewExperts)));
            assert_eq!(same("wide.rows"), train == Train::NewExperts);
            assert!(!same("head.weight"));
        }
    }
}

#[test]
fn new_experts_are_opened_in_steps_of_the_wide_path_alone_and_in_those_left_out_too() {
    let (start, _) = champion(1);
    let biases = |change: &dyn Fn(&mut Job)| {
        let mut job = update("second", &start, Train::FrozenExperts);
        job.recipe.balancing.step = 0.0;
        change(&mut job);
        let second = trained(&job, &turned(60)).unwrap();
        let biases = tensor(&second.files, "blocks.0.mixture.bias")[4..].to_vec();
        (biases, second.metrics["skipped_steps"])
    };
    let (open, _) = biases(&|_| {});
    let (wide, _) = biases(&|job| job.recipe.hot_update.deep_every = 3);
    // So much loss that the first scaled gradients overflow.
    let (half, skipped) = biases(&|job| {
        job.recipe.precision.compute = Compute::F16;
        job.recipe.hot_update.deep_loss = 100.0;
    });
    assert!(skipped > 0.0);
    for found in [&wide, &half] {
        assert!(apart(found, &open) < 1e-3, "{found:?} {open:?}");
    }
}

#[test]
fn optimiser_state_goes_on_where_nothing_has_grown_and_the_share_is_that_of_the_new() {
    let (start, first) = champion(1);
    let job = update("second", &start, Train::FrozenExperts);
    let second = trained(&job, &turned(60)).unwrap();
    let steps = second.metrics["steps"] as u64;
    let before = steps_of(&first.files, "embedding").unwrap();
    assert_eq!(steps_of(&second.files, "embedding"), Some(before + steps));
    assert_eq!(steps_of(&second.files, "blocks.0.mixture.up"), Some(steps), "begun anew");

    let job = update("second", &start, Train::NewExperts);
    let second = trained(&job, &turned(60)).unwrap();
    assert_eq!(steps_of(&second.files, "embedding"), None, "frozen");
    let planned = plan(&job, &turned(60)).unwrap();
    // Two experts of three matrices of 16 x 16, their router columns and biases, and the head.
    assert_eq!(planned.parameters.trained, 2 * 3 * 256 + 2 * 16 + 2 + 2 * 16 + 2);
    assert!((planned.parameters.trained_share - second.metrics["trained_share"]).abs() < 1e-9);
    assert!(planned.method.starts_with("2 experts a layer added"), "{}", planned.method);
}

#[test]
fn at_the_ceiling_the_newest_experts_go_on_learning() {
    let (start, _) = champion(1);
    let mut job = update("second", &start, Train::NewExperts);
    job.recipe.method.expansion.most = 6;
    let second = trained(&job, &turned(60)).unwrap();
    let next = published(&job, &second);
    let mut again = update("third", &next, Train::NewExperts);
    again.recipe.method.expansion.most = 6;
    let third = trained(&again, &turned(100)).unwrap();
    assert_eq!(architecture(&third.files).experts, 6);
    let steps = (second.metrics["steps"] + third.metrics["steps"]) as u64;
    assert_eq!(steps_of(&third.files, "blocks.0.mixture.up"), Some(steps), "its state goes on");
    let name = "blocks.0.mixture.up";
    let (before, after) = (tensor(&second.files, name), tensor(&third.files, name));
    let (before, after) = (by_expert(&before, 6, name), by_expert(&after, 6, name));
    assert_eq!(before[..4], after[..4]);
    assert_ne!(before[4..], after[4..]);
    // Without a ceiling another two come.
    let third = trained(&update("third", &next, Train::NewExperts), &turned(100)).unwrap();
    assert_eq!(architecture(&third.files).experts, 8);
}

#[test]
fn what_cannot_be_grown_is_refused_by_name() {
    let (start, _) = champion(2);
    let mut job = update("second", &start, Train::NewExperts);
    job.recipe.method.expansion.experts = 3;
    let error = trained(&job, &turned(60)).unwrap_err().to_string();
    assert!(
        error.contains("`method.expansion.experts`") && error.contains("`expert_groups`"),
        "{error}"
    );

    job.recipe.method.expansion = Expansion { experts: 6, most: 4, ..Expansion::default() };
    let error = trained(&job, &turned(60)).unwrap_err().to_string();
    assert!(
        error.contains("`method.expansion.experts`") && error.contains("expansion.most"),
        "{error}"
    );

    let mut first = cold_start("first");
    first.recipe.architecture.affinity = Affinity::Softmax;
    let made = trained(&first, &examples(BOTH, 0, 60)).unwrap();
    let job = update("second", &published(&first, &made), Train::NewExperts);
    let error = trained(&job, &turned(60)).unwrap_err().to_string();
    assert!(error.contains("sigmoid"), "{error}");
}

#[test]
fn a_cold_start_has_nothing_to_grow() {
    let mut job = cold_start("cold");
    job.recipe.method.train = Train::NewExperts;
    job.recipe.method.expansion.experts = 2;
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    assert_eq!(architecture(&first.files).experts, 4);
    assert!((first.metrics["trained_share"] - 1.0).abs() < f64::EPSILON);
}
