//! A line of daily updates, each a little worse than the one before by less than any test can see.
#[allow(dead_code)]
mod toy;

use std::{collections::HashSet, fmt::Write as _};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{CheckState, Class, Domain, EventId, Outcome, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Predictor, Subject, Suite, evaluate,
};
use tidegate_model::{Input, ModelError, Scores};
use toy::manifest;

/// Points of a hundred that a line may lose.
const BUDGET: f64 = 0.05;

fn suite(anchored: bool) -> Suite {
    let mut text = String::from(
        "{format: 1, name: line, version: '1', limits: {bootstrap: 200, permutations: 99, \
         latency_ms: 1, throughput_ms: 1}, checks: [{id: champion, layer: quality, metric: \
         accuracy, versus: champion, margin: {value: 0.05}, severity: block}",
    );
    if anchored {
        write!(
            text,
            ", {{id: anchor, layer: quality, metric: accuracy, versus: anchor, margin: {{value: \
             {BUDGET}}}, level: 0.999, severity: block}}"
        )
        .unwrap();
    }
    Suite::parse(&(text + "]}")).unwrap()
}

/// Right on `<number> <class>` but for a share of all numbers, and for a few of its own.
struct Worn {
    labels: Vec<Class>,
    errors: f64,
    seed: u64,
}

impl Worn {
    fn new(errors: f64, seed: u64) -> Self {
        Self { labels: ["ham", "spam"].map(Class::new).into(), errors, seed }
    }
}

impl Predictor for Worn {
    fn labels(&self) -> &[Class] {
        &self.labels
    }

    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        let one = |input: &Input| {
            let text = input.texts();
            let mut words = text.split_whitespace().map(|word| word.parse::<u64>().unwrap());
            let (number, class) = (words.next().unwrap(), words.next().unwrap() as usize);
            // Who makes more errors makes those of the others too; one in fifty is anybody's own.
            let hard: f64 = ChaCha8Rng::seed_from_u64(number).random();
            let own = ChaCha8Rng::seed_from_u64(number ^ (self.seed << 32)).random_bool(0.02);
            let wrong = (hard < self.errors) != own;
            let mut probabilities = vec![0.1; 2];
            probabilities[if wrong { 1 - class } else { class }] = 0.9;
            Scores { probabilities }
        };
        Ok(inputs.iter().map(one).collect())
    }
}

/// The newest 2,000 held-out examples of a day: a hundred are new.
fn held_out(day: u64) -> Vec<EvalExample> {
    let example = |number: u64| EvalExample {
        id: EventId::new(format!("m-{number}")),
        domain: Domain::new("mail"),
        input: Input::text(format!("{number} {}", number % 2)),
        label: Class::new(["ham", "spam"][(number % 2) as usize]),
        groups: std::collections::BTreeMap::new(),
        producer: None,
        fresh: false,
    };
    (100 * day..100 * day + 2_000).map(example).collect()
}

fn verdict(suite: &Suite, models: [&Worn; 3], day: u64, memory: &mut Memory) -> Verdict {
    verdict_in(Line::default(), suite, models, day, memory)
}

fn verdict_in(
    line: Line,
    suite: &Suite,
    models: [&Worn; 3],
    day: u64,
    memory: &mut Memory,
) -> Verdict {
    let (new, old) = (manifest(1), manifest(0));
    let [candidate, champion, anchor] = models.map(|model| Subject {
        id: tidegate_contracts::GenerationId::of(&model.seed.to_le_bytes()),
        predictor: model as &dyn Predictor,
        manifest: &old,
    });
    let of = Evaluation {
        suite,
        candidate: Subject { manifest: &new, ..candidate },
        champion: Some(champion),
        anchor: Some(anchor),
        examples: &held_out(day),
        frozen: &[],
        window_labels: &[],
        trained: &HashSet::new(),
        window: &new.window,
        line,
        pue: 1.0,
        copies: &Copies::default(),
        region: "WORLD",
        seed: day,
    };
    evaluate(&of, memory)
}

/// What ninety days cost: how much worse the last champion is than the first, and how many there
/// were.
fn ninety_days(anchored: bool, seed: u64) -> (f64, usize) {
    let suite = suite(anchored);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut memory = Memory::default();
    let anchor = Worn::new(0.06, seed * 1_000);
    let mut champion = Worn::new(0.06, seed * 1_000);
    let mut promotions = 0;
    for day in 1..=90 {
        let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let errors = (champion.errors + 0.002 + 0.003 * normal).max(0.0);
        let candidate = Worn::new(errors, seed * 1_000 + day);
        let verdict = verdict(&suite, [&candidate, &champion, &anchor], day, &mut memory);
        if verdict.outcome == Outcome::AutoPromote {
            (champion, promotions) = (candidate, promotions + 1);
        }
    }
    (champion.errors - anchor.errors, promotions)
}

#[test]
fn ninety_updates_each_a_little_worse_end_within_the_anchors_budget() {
    for seed in 1..=8 {
        let (without, all) = ninety_days(false, seed);
        let (with, some) = ninety_days(true, seed);
        println!(
            "line {seed}: {:.1} points lost in {some} promotions, without an anchor {:.1} in {all}",
            with * 100.0,
            without * 100.0
        );
        assert!(with <= BUDGET, "{with}");
        assert!(with > 0.02 && some > 10, "the gate still lets updates through: {with}, {some}");
        assert!(without > 2.0 * BUDGET, "{without}");
    }
}

#[test]
fn the_anchor_is_named_and_asked_of_what_it_can_answer_alone() {
    let suite = suite(true);
    let (good, bad) = (Worn::new(0.05, 1), Worn::new(0.20, 2));
    let stopped = verdict(&suite, [&bad, &bad, &good], 1, &mut Memory::default());
    let of = |id: &str| stopped.checks.iter().find(|check| check.id == id).unwrap();
    assert_eq!((of("champion").state, of("anchor").state), (CheckState::Pass, CheckState::Fail));
    assert!(of("anchor").reason.contains("beside the anchor"), "{}", of("anchor").reason);
    assert!(of("anchor").rule.contains("candidate - anchor"), "{}", of("anchor").rule);
    assert!(of("anchor").baseline > of("anchor").candidate);
    let named = tidegate_contracts::GenerationId::of(&1_u64.to_le_bytes());
    assert_eq!(stopped.environment["anchor"], named.to_hex());
    for check in [
        "metric: robust_accuracy, versus: anchor, margin: {value: 0.1}",
        "metric: latency_p50_ms, versus: anchor, ratio: 2",
        "metric: accuracy, under: {kind: words, strength: 0.1}, versus: anchor, margin: {value: 0.1}",
    ] {
        let text = format!(
            "{{format: 1, name: s, version: '1', checks: [{{id: a, layer: quality, {check}, \
             severity: block}}]}}"
        );
        let error = Suite::parse(&text).unwrap_err().to_string();
        assert!(error.contains("the anchor is asked nothing else"), "{error}");
    }
}

/// Candidates of ninety days that are each a little more than the margin worse, and would be promoted by
/// the gate alone, and by a policy that keeps the error budget as well.
fn false_promotions(seed: u64) -> (usize, usize) {
    let suite = suite(false);
    let mut memory = Memory::default();
    let champion = Worn::new(0.06, seed * 1_000);
    let (mut by_gate, mut by_budget) = (0, 0);
    for day in 1..=90 {
        let candidate = Worn::new(0.06 + 0.053, seed * 1_000 + day);
        let line = Line { judged: day - 1, promoted: by_budget as u64 };
        let verdict =
            verdict_in(line, &suite, [&candidate, &champion, &champion], day, &mut memory);
        let passed = verdict.outcome == Outcome::AutoPromote;
        by_gate += usize::from(passed);
        by_budget += usize::from(passed && verdict.line.unwrap().holds);
    }
    (by_gate, by_budget)
}

#[test]
fn ninety_candidates_at_the_margin_are_not_promoted_within_the_error_budget() {
    // alpha is 0.05 for each whole line: of eight lines of worse candidates none may be expected to
    // have one.
    let lines: Vec<_> = (1..=8).map(false_promotions).collect();
    println!("by the gate alone, and within the budget: {lines:?}");
    assert!(lines.iter().all(|(_, by_budget)| *by_budget == 0), "{lines:?}");
    assert!(lines.iter().any(|(by_gate, _)| *by_gate > 0), "{lines:?}");
}

#[test]
fn evidence_of_an_equal_candidate_is_enough_early_in_the_line_and_is_said_in_numbers() {
    let suite = suite(false);
    let (candidate, champion) = (Worn::new(0.06, 1), Worn::new(0.06, 2));
    let models = [&candidate, &champion, &champion];
    let found = |judged| {
        let line = Line { judged, promoted: 0 };
        verdict_in(line, &suite, models, 1, &mut Memory::default()).line.unwrap()
    };
    let early = found(0);
    assert!(early.holds, "{}", early.says);
    for needle in ["candidate 1 since the anchor", "e-LOND", "32.9", "5.0 points", "n 2000"] {
        assert!(early.says.contains(needle), "{}", early.says);
    }
    assert!(!found(10_000_000_000).holds);
}
