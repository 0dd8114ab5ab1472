//! What a recipe asks of routers, and what a job tells about them.
mod common;

use std::collections::BTreeMap;

use common::{cold_start, examples, hot_update, published, trained};
use tidegate_learning::{DIAGNOSIS, Diagnosis, Example, Recipe, Train, Trained};

const BOTH: &[&str] = &["spam", "ham"];

fn window() -> Vec<Example> {
    let mut window = examples(BOTH, 0, 60);
    for (at, example) in window.iter_mut().enumerate() {
        let region = if at.is_multiple_of(3) { "eu" } else { "us" };
        example.groups = BTreeMap::from([("region".to_owned(), region.to_owned())]);
    }
    window
}

fn train(change: impl Fn(&mut Recipe)) -> Trained {
    let mut job = cold_start("routers");
    change(&mut job.recipe);
    trained(&job, &window()).unwrap()
}

fn diagnosis(trained: &Trained) -> Diagnosis {
    serde_json::from_slice(&trained.files[DIAGNOSIS]).unwrap()
}

#[test]
fn a_capacity_drops_what_is_too_much_and_tells_whose_it_was() {
    let free = train(|_| {});
    assert!(!free.metrics.contains_key("drop_rate"));
    let bound = train(|recipe| recipe.balancing.capacity_factor = 1.0);
    let rate = bound.metrics["drop_rate"];
    assert!((0.001..0.5).contains(&rate), "{rate}");
    let found = diagnosis(&bound);
    assert_eq!(found.group_drops.keys().collect::<Vec<_>>(), ["region=eu", "region=us"]);
    let mut sum = found.group_drops["region=eu"];
    sum += found.group_drops["region=us"];
    assert_eq!(sum, found.drops, "every text is of one region");
    assert!((found.drops.rate() - rate).abs() < 1e-12);
    let eu = bound.metrics["drop_rate.region=eu"];
    assert!((eu - found.group_drops["region=eu"].rate()).abs() < 1e-12);
    assert!(found.experts[0].dropped > 0.0);
    // What is bounded is the work of a step, not the answer: serving drops nothing.
    assert!(common::accuracy(&bound.files, &examples(BOTH, 1_000, 60)) > 0.95);
}

#[test]
fn the_balance_loss_evens_out_what_the_bias_is_not_asked_to() {
    let fullest = |balance_loss: f64| {
        let trained = train(|recipe| {
            (recipe.balancing.step, recipe.balancing.balance_loss) = (0.0, balance_loss);
            (recipe.cold_start.deep_rate, recipe.cold_start.epochs) = (0.01, 12);
        });
        assert_eq!(trained.metrics.contains_key("router_loss"), balance_loss > 0.0);
        let experts = diagnosis(&trained).experts.remove(0);
        experts.load.into_iter().fold(0.0, f64::max)
    };
    let (free, even) = (fullest(0.0), fullest(1.0));
    assert!(even < free - 0.02, "{even} {free}");
}

#[test]
fn a_router_that_does_not_learn_has_no_loss_of_its_own() {
    let first = cold_start("first");
    let champion = published(&first, &trained(&first, &window()).unwrap());
    for (train, has) in [(Train::Full, true), (Train::RouterOnly, true), (Train::HeadOnly, false)] {
        let mut job = hot_update("second", champion.clone());
        (job.recipe.balancing.balance_loss, job.recipe.balancing.z_loss) = (0.01, 0.01);
        job.recipe.method.train = train;
        let metrics = trained(&job, &examples(BOTH, 60, 24)).unwrap().metrics;
        assert_eq!(metrics.contains_key("router_loss"), has, "{train:?}");
        assert!((0.0..=1.0).contains(&metrics["router_entropy"]));
    }
}
