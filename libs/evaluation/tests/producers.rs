//! One producer of several that lies is seen and named; honest ones, small ones and new ones are not
//! accused.
#[allow(dead_code)]
mod toy;

use std::collections::HashSet;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{CheckResult, CheckState, Class, Outcome, Producer, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Subject, Suite, evaluate,
};
use toy::{Day, Toy, examples, generation, manifest};

const SUITE: &str = "{format: 1, name: s, version: '1', level: 0.9, \
     limits: {bootstrap: 500, permutations: 199, latency_ms: 0, throughput_ms: 0}, checks: [\
     {id: accuracy, layer: quality, metric: accuracy, floor: 0.5, severity: block}, \
     {id: dispute, layer: quality, metric: producer_dispute, ceil: 0.2, severity: review, min_n: 20}, \
     {id: influence, layer: quality, metric: producer_influence, ceil: 0.02, level: 0.99, \
      severity: review, min_n: 20}]}";

/// Held-out examples and labels of a window, each by one of `producers`.
fn day(labels: usize, producers: usize, seed: u64) -> [Vec<EvalExample>; 2] {
    let day = Day { earlier: 400, fresh: 60, labels, flipped: 0.0 };
    let (mut examples, mut labels) = examples(&day, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xfeed);
    for one in examples.iter_mut().chain(&mut labels) {
        one.producer = Some(Producer::new(format!("feed-{}", rng.random_range(0..producers))));
    }
    [examples, labels]
}

/// Turns a share of one producer's fresh labels round.
fn lie(examples: &mut [EvalExample], producer: &str, share: f64, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x11e);
    for one in examples {
        let is = one.producer.as_ref().is_some_and(|is| is.as_str() == producer);
        if one.fresh && is && rng.random_bool(share) {
            one.label = Class::new(if one.label.as_str() == "ham" { "spam" } else { "ham" });
        }
    }
}

fn judge(toy: &Toy, [examples, labels]: &[Vec<EvalExample>; 2], seed: u64) -> Verdict {
    let (of_candidate, of_champion) = (manifest(1), manifest(0));
    let champion = Subject { id: generation(0), predictor: toy, manifest: &of_champion };
    let suite = Suite::parse(SUITE).unwrap();
    let of = Evaluation {
        suite: &suite,
        candidate: Subject { id: generation(1), predictor: toy, manifest: &of_candidate },
        champion: Some(champion),
        anchor: Some(champion),
        examples,
        window_labels: labels,
        trained: &HashSet::new(),
        copies: &Copies::default(),
        frozen: &[],
        line: Line::default(),
        pue: 1.0,
        window: &of_candidate.window,
        region: "WORLD",
        seed,
    };
    evaluate(&of, &mut Memory::default())
}

fn check<'v>(verdict: &'v Verdict, id: &str) -> &'v CheckResult {
    verdict.checks.iter().find(|check| check.id == id).unwrap()
}

#[test]
fn one_producer_of_five_that_turns_its_labels_is_named_by_both_screens() {
    for seed in 0..20 {
        let mut day = day(300, 5, seed);
        day.iter_mut().for_each(|all| lie(all, "feed-3", 1.0, seed));
        let verdict = judge(&Toy::new(seed, 0.06, 0.0, 0.0), &day, seed);
        for id in ["dispute", "influence"] {
            let check = check(&verdict, id);
            assert_eq!(check.state, CheckState::Fail, "{seed}: {}", check.reason);
            assert_eq!(check.slice, "producer=feed-3");
            assert!(check.reason.contains("producer feed-3"), "{}", check.reason);
        }
        assert_eq!(verdict.outcome, Outcome::NeedsApproval);
    }
}

#[test]
fn one_that_turns_every_second_label_is_named_nine_times_in_ten() {
    let is_named = |seed: &u64| {
        let mut day = day(300, 5, *seed);
        day.iter_mut().for_each(|all| lie(all, "feed-3", 0.5, *seed));
        let verdict = judge(&Toy::new(*seed, 0.06, 0.0, 0.0), &day, *seed);
        check(&verdict, "dispute").slice == "producer=feed-3"
    };
    let named = (0..40).filter(is_named).count();
    assert!(named >= 36, "{named} of 40");
}

#[test]
fn honest_producers_stop_at_most_one_update_of_a_hundred() {
    for (labels, producers) in [(300, 5), (600, 25)] {
        let stopped = |seed: &u64| {
            let day = day(labels, producers, *seed);
            let verdict = judge(&Toy::new(*seed, 0.08, 0.0, 0.0), &day, *seed);
            ["dispute", "influence"].iter().any(|id| check(&verdict, id).state == CheckState::Fail)
        };
        let stopped: Vec<u64> = (0..100).filter(stopped).collect();
        assert!(stopped.len() <= 1, "{producers} producers: {stopped:?}");
    }
}

#[test]
fn many_small_producers_are_judged_together_and_nobody_is_named_for_it() {
    let mut day = day(300, 5, 1);
    let small = |one: &EvalExample| one.producer.as_ref().is_some_and(|is| is.as_str() == "feed-2");
    for all in &mut day {
        lie(all, "feed-2", 1.0, 1);
        let of_2 = all.iter_mut().filter(|one| small(one)).enumerate();
        of_2.for_each(|(at, one)| one.producer = Some(Producer::new(format!("small-{}", at % 20))));
    }
    let verdict = judge(&Toy::new(1, 0.06, 0.0, 0.0), &day, 1);
    let check = check(&verdict, "dispute");
    assert_eq!(check.state, CheckState::Fail, "{}", check.reason);
    assert_eq!(check.slice, "all");
    assert!(check.reason.contains("the producers with few records, together"), "{}", check.reason);
}

#[test]
fn where_nobody_is_named_there_is_nobody_to_compare() {
    let mut day = day(300, 5, 1);
    day.iter_mut().flatten().for_each(|one| one.producer = None);
    let verdict = judge(&Toy::new(1, 0.06, 0.0, 0.0), &day, 1);
    for id in ["dispute", "influence"] {
        let check = check(&verdict, id);
        assert_eq!(check.state, CheckState::NotApplicable, "{}", check.reason);
        assert!(check.reason.contains("of one producer"), "{}", check.reason);
    }
}

#[test]
fn records_that_name_nobody_are_of_one_who_is_unknown() {
    let mut day = day(300, 5, 1);
    for all in &mut day {
        lie(all, "feed-4", 1.0, 1);
        let is = |one: &&mut EvalExample| one.producer == Some(Producer::new("feed-4"));
        all.iter_mut().filter(is).for_each(|one| one.producer = None);
    }
    let verdict = judge(&Toy::new(1, 0.06, 0.0, 0.0), &day, 1);
    assert_eq!(check(&verdict, "dispute").slice, "producer=unknown");
}
