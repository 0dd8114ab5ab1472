//! What each continual-learning term does, and what each set of trained parameters leaves alone.
mod common;

use std::collections::BTreeMap;

use common::{accuracy, cold_start, example, examples, hot_update, published, trained};
use safetensors::SafeTensors;
use tidegate_contracts::Domain;
use tidegate_learning::{
    BalanceBy, Example, FISHER, Job, OPTIMIZER, REPLAY, Recipe, Replay, Train, Trained,
};
use tidegate_ledger::Verified;
use tidegate_model::{Device, Model, WEIGHTS};

const BOTH: &[&str] = &["spam", "ham"];

/// A champion of both classes, made with this recipe.
fn champion(change: impl Fn(&mut Recipe)) -> (Verified, Trained) {
    let mut job = cold_start("cold");
    change(&mut job.recipe);
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    (published(&job, &first), first)
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let floats = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    floats
        .map(|(name, view)| (name.to_owned(), view.data().chunks_exact(4).map(word).collect()))
        .collect()
}

/// Distance of the deep path's weights.
fn distance(one: &Trained, other: &Trained) -> f64 {
    let (one, other) = (tensors(&one.files[WEIGHTS]), tensors(&other.files[WEIGHTS]));
    let deep = one.iter().filter(|(name, _)| !name.starts_with("wide."));
    let squares = deep.flat_map(|(name, values)| values.iter().zip(&other[name]));
    squares.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

/// How far answers about the champion's window moved on average.
fn drift_of(one: &Trained, other: &Trained) -> f32 {
    let window: Vec<_> = examples(BOTH, 0, 60).into_iter().map(|e| e.input).collect();
    let spam = |trained: &Trained| -> Vec<f32> {
        let model = Model::from_files(&trained.files, &Device::Cpu).unwrap();
        model.predict(&window).unwrap().iter().map(|score| score.probabilities[1]).collect()
    };
    let pairs = spam(one).into_iter().zip(spam(other));
    pairs.map(|(a, b)| (a - b).abs()).sum::<f32>() / window.len() as f32
}

fn update(champion: &Verified, change: impl Fn(&mut Recipe)) -> Job {
    let mut job = hot_update("hot", champion.clone());
    job.recipe.rehearsal.share = 0.0;
    job.recipe.hot_update.epochs = 4;
    change(&mut job.recipe);
    job
}

/// Spam and ham with their labels exchanged.
fn turned() -> Vec<Example> {
    let label = |at: usize| if at.is_multiple_of(2) { "ham" } else { "spam" };
    let turned = |at: usize| Example { label: label(at).into(), ..example(BOTH[at % 2], at) };
    (0..40).map(turned).collect()
}

#[test]
fn what_is_frozen_keeps_its_bits_and_has_no_optimiser_state() {
    let (start, first) = champion(|_| {});
    let before = tensors(&first.files[WEIGHTS]);
    for (train, share) in [
        (Train::Full, 1.0..=1.0),
        (Train::FrozenRouter, 0.9..=0.9999),
        (Train::RouterOnly, 0.001..=0.02),
        (Train::HeadOnly, 0.0001..=0.02),
    ] {
        let job = update(&start, |recipe| recipe.method.train = train);
        let second = trained(&job, &examples(BOTH, 60, 40)).unwrap();
        let found = second.metrics["trained_share"];
        assert!(share.contains(&found), "{train:?}: {found}");
        let learns = |name: &str| {
            let router = name.ends_with(".router") || name.ends_with("mixture.bias");
            match train {
                Train::Full => true,
                Train::FrozenRouter => !router,
                Train::RouterOnly => router,
                Train::HeadOnly => name.starts_with("head."),
                Train::FrozenExperts | Train::NewExperts | Train::Adapters => {
                    unreachable!("they have tests of their own")
                }
            }
        };
        for (name, after) in tensors(&second.files[WEIGHTS]) {
            assert_eq!(after != before[&name], learns(&name), "{train:?}: {name}");
        }
        for name in tensors(&second.files[OPTIMIZER]).keys() {
            assert!(learns(name.trim_end_matches(".m1").trim_end_matches(".m2")), "{name}");
        }
        let stated = tensors(&second.files[OPTIMIZER]).len();
        assert!(stated >= 2, "{train:?}: {stated}");
    }
}

#[test]
fn a_cold_start_learns_everything_whatever_an_update_may() {
    let (_, first) = champion(|recipe| recipe.method.train = Train::RouterOnly);
    assert!((first.metrics["trained_share"] - 1.0).abs() < f64::EPSILON);
    assert!(accuracy(&first.files, &examples(BOTH, 1_000, 60)) > 0.95);
}

#[test]
fn micro_batches_and_loss_scaling_lead_to_the_same_model() {
    let train = |change: fn(&mut Recipe)| {
        let mut job = cold_start("same");
        change(&mut job.recipe);
        trained(&job, &examples(BOTH, 0, 60)).unwrap()
    };
    let whole = train(|_| {});
    let scaled = train(|recipe| recipe.precision.loss_scaling = true);
    // The scale is a power of two, and f32 has room for it.
    assert_eq!(scaled.files[WEIGHTS], whole.files[WEIGHTS]);
    assert!(scaled.metrics["skipped_steps"].abs() < f64::EPSILON);
    let parts = train(|recipe| recipe.cold_start.micro_batch = 3);
    assert!(distance(&whole, &parts) < 1e-2, "{}", distance(&whole, &parts));
    assert!(distance(&whole, &train(|recipe| recipe.cold_start.batch = 3)) > 0.05);
}

#[test]
fn the_nearer_the_pull_to_the_start_the_nearer_the_result() {
    let (start, first) = champion(|_| {});
    let way = |weight: f64| {
        let job = update(&start, |recipe| recipe.l2_to_start.weight = weight);
        let second = trained(&job, &turned()).unwrap();
        assert_eq!(second.metrics.contains_key("penalty"), weight > 0.0);
        distance(&first, &second)
    };
    let ways = [0.0, 1.0, 100.0].map(way);
    assert!(ways.is_sorted_by(|far, near| far > near), "{ways:?}");
}

#[test]
fn consolidation_holds_what_mattered_and_lets_go_of_the_rest() {
    let (start, first) = champion(|recipe| recipe.ewc.weight = 1.0);
    let fisher = tensors(&first.files[FISHER]);
    assert!(fisher.values().flatten().all(|value| value.is_finite() && *value >= 0.0));
    let moved = |weight: f64| {
        let job = update(&start, |recipe| recipe.ewc.weight = weight);
        let second = trained(&job, &turned()).unwrap();
        let (before, after) = (tensors(&first.files[WEIGHTS]), tensors(&second.files[WEIGHTS]));
        // The sum that the penalty is made of, and the plain one.
        let sum = |weighted: bool| -> f64 {
            let pairs = fisher.iter().flat_map(|(name, fisher)| {
                fisher.iter().zip(before[name].iter().zip(&after[name]))
            });
            let square = |(f, (a, b)): (&f32, (&f32, &f32))| {
                f64::from(a - b).powi(2) * if weighted { f64::from(*f) } else { 1.0 }
            };
            pairs.map(square).sum()
        };
        (sum(true), sum(false))
    };
    let (free, held) = (moved(1e-9), moved(1e4));
    assert!(held.0 < 0.5 * free.0, "{held:?} {free:?}");
    assert!(held.0 / free.0 < held.1 / free.1, "where it mattered, more: {held:?} {free:?}");
}

#[test]
fn fisher_information_fades_and_grows_with_the_classes() {
    let (start, first) = champion(|recipe| recipe.ewc.weight = 1.0);
    let job = update(&start, |recipe| {
        recipe.ewc.weight = 1.0;
        recipe.ewc.samples = 4;
    });
    let second = trained(&job, &examples(&["news"], 0, 20)).unwrap();
    let (before, after) = (tensors(&first.files[FISHER]), tensors(&second.files[FISHER]));
    assert_eq!((before["head.bias"].len(), after["head.bias"].len()), (2, 3));
    for (name, before) in before.iter().filter(|(name, _)| !name.starts_with("head")) {
        assert!(before.iter().zip(&after[name]).all(|(b, a)| *a >= 0.899 * b), "{name}");
    }
    assert!(
        !trained(&cold_start("none"), &examples(BOTH, 0, 20)).unwrap().files.contains_key(FISHER)
    );
}

#[test]
fn recorded_logits_hold_answers_in_their_place() {
    let (start, first) = champion(|recipe| recipe.der.alpha = 1.0);
    let (plain, _) = champion(|_| {});
    let recorded = Replay::from_bytes(&first.files[REPLAY]).unwrap();
    let without = trained(&cold_start("cold"), &examples(BOTH, 0, 60)).unwrap();
    assert_eq!(recorded.len(), 60);
    assert!(first.files[REPLAY].len() > without.files[REPLAY].len());
    // An update that says the opposite of what was learnt.
    let drift = |champion: &Verified, alpha: f64| {
        let job = update(champion, |recipe| {
            recipe.rehearsal.share = 0.5;
            recipe.distillation.weight = 0.0;
            (recipe.der.alpha, recipe.der.beta) = (alpha, 0.0);
        });
        let second = trained(&job, &turned()).unwrap();
        drift_of(&first, &second)
    };
    let (held, free) = (drift(&start, 4.0), drift(&start, 0.0));
    assert!(held < 0.8 * free, "{held} {free}");
    // A champion without recorded logits has nothing to be held by, and that is no error.
    assert!(drift(&plain, 4.0) > held);
}

#[test]
fn the_champion_can_be_asked_about_the_window_too() {
    let (start, first) = champion(|_| {});
    let drift = |weight: f64| {
        let job = update(&start, |recipe| {
            recipe.distillation.fresh_weight = weight;
            // Else the wide path goes on learning the labels alone.
            recipe.hot_update.wide_loss = 0.0;
        });
        drift_of(&first, &trained(&job, &turned()).unwrap())
    };
    let (held, free) = (drift(1.0), drift(0.0));
    assert!(held < 0.5 * free, "{held} {free}");
    // A class that the champion does not know is learnt from its labels alone.
    let job = update(&start, |recipe| {
        recipe.distillation.fresh_weight = 1.0;
        recipe.hot_update.epochs = 8;
    });
    let second = trained(&job, &examples(&["news"], 0, 30)).unwrap();
    assert!(accuracy(&second.files, &examples(&["news"], 1_000, 30)) > 0.9);
}

#[test]
fn a_buffer_balanced_by_domain_keeps_the_small_ones() {
    let mut window = examples(BOTH, 0, 60);
    for (at, example) in window.iter_mut().enumerate() {
        example.domain = Domain::new(if at.is_multiple_of(20) { "shop" } else { "mail" });
    }
    let size = |balance_by: Vec<BalanceBy>| {
        let mut job = cold_start("domains");
        job.recipe.rehearsal.capacity = 10;
        job.recipe.rehearsal.balance_by = balance_by;
        let files = trained(&job, &window).unwrap().files;
        Replay::from_bytes(&files[REPLAY]).unwrap().domains()[&Domain::new("shop")]
    };
    assert_eq!(size(vec![BalanceBy::Domain]), 3, "all there are");
}

#[test]
fn budgets_end_a_job_in_good_order_and_say_which() {
    let run = |change: fn(&mut Recipe)| {
        let mut job = cold_start("budget");
        change(&mut job.recipe);
        trained(&job, &examples(BOTH, 0, 60)).unwrap().metrics
    };
    let ended = |metrics: &BTreeMap<String, f64>| -> Vec<String> {
        metrics.keys().filter(|name| name.starts_with("ended_by.")).cloned().collect()
    };
    assert_eq!(ended(&run(|_| {})), Vec::<String>::new());
    let steps = run(|recipe| recipe.cold_start.max_steps = 3);
    assert_eq!(ended(&steps), ["ended_by.max_steps"]);
    let seconds = run(|recipe| recipe.cold_start.max_seconds = 0.001);
    assert_eq!(ended(&seconds), ["ended_by.max_seconds"]);
    let joules = run(|recipe| {
        recipe.checkpoints.steps = 0;
        recipe.cold_start.epochs = 10_000;
        recipe.cold_start.max_joules = 0.5;
    });
    assert_eq!(ended(&joules), ["ended_by.max_joules"]);
    assert!(joules["energy_joules"] > 0.5 && joules["steps"] < 80_000.0);
}
