//! The gate where answers are numbers: what it lets through, and what it stops. Toy models whose
//! errors are drawn by seed; everything else is real.
#[allow(dead_code)]
mod toy;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{CheckState, Class, Domain, EventId, Outcome, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Predictor, Subject, Suite, evaluate,
};
use tidegate_model::{Input, Levels, ModelError, Scores};
use toy::{Toy, generation, manifest, quick};

const REGRESSION: &str = include_str!("../../../eval-suites/regression/suite.yaml");

/// Answers `<number> <truth> <group> words ...` with the truth and an error of its own.
#[derive(Clone)]
struct Numbers {
    labels: Vec<Class>,
    levels: Levels,
    seed: u64,
    /// Standard deviation of its errors, in both groups.
    noise: [f64; 2],
}

impl Numbers {
    fn new(seed: u64, noise: f64) -> Self {
        let labels: Vec<Class> = (0..=20).map(|at| Class::new((5 * at).to_string())).collect();
        let levels = Levels::of(&labels).unwrap();
        Self { labels, levels, seed, noise: [noise; 2] }
    }
}

/// Of the normal distribution with variance 1, about: Irwin and Hall's sum of twelve.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

impl Predictor for Numbers {
    fn labels(&self) -> &[Class] {
        &self.labels
    }

    fn levels(&self) -> Option<&Levels> {
        Some(&self.levels)
    }

    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        let one = |input: &Input| {
            let began = Instant::now();
            let text = input.texts();
            let mut words = text.split_whitespace();
            let mut next = || words.next().and_then(|word| word.parse::<f64>().ok());
            // A perturbed text may have lost its number: any answer does, the same of all toys.
            let said = match (next(), next(), next()) {
                (Some(number), Some(truth), Some(group)) => {
                    let seed = self.seed.wrapping_mul(1_000_003) ^ number as u64;
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    truth + self.noise[group as usize % 2] * normal(&mut rng)
                }
                _ => 50.0,
            };
            while inputs.len() < 40 && began.elapsed() < Duration::from_micros(20) {
                std::hint::spin_loop();
            }
            Scores { probabilities: self.levels.target(said, 1.5) }
        };
        Ok(inputs.iter().map(one).collect())
    }
}

/// Held-out examples, a fifth of them fresh, and the window's labels; `wrong` says what a fresh label
/// is instead.
fn examples(count: usize, wrong: impl Fn(f64) -> f64) -> (Vec<EvalExample>, Vec<EvalExample>) {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut one = |number: usize, fresh: bool| {
        let truth = 100.0 * rng.random::<f64>();
        let group = number % 2;
        let said = if fresh { wrong(truth) } else { truth };
        EvalExample {
            id: EventId::new(format!("n-{number}")),
            domain: Domain::new("rents"),
            input: Input::text(format!("{number} {truth} {group} the rest of the offer")),
            label: Class::new(said.to_string()),
            groups: BTreeMap::from([("side".to_owned(), ["a", "b"][group].to_owned())]),
            producer: None,
            fresh,
        }
    };
    let held_out = (0..count).map(|number| one(number, number >= count * 4 / 5)).collect();
    let labels = (0..110).map(|number| one(1_000_000 + number, true)).collect();
    (held_out, labels)
}

fn verdict(
    suite: &Suite,
    candidate: &dyn Predictor,
    champion: Option<&dyn Predictor>,
    (examples, labels): &(Vec<EvalExample>, Vec<EvalExample>),
    seed: u64,
) -> Verdict {
    let (new, old) = (manifest(1), manifest(0));
    let champion =
        champion.map(|predictor| Subject { id: generation(0), predictor, manifest: &old });
    let of = Evaluation {
        suite,
        candidate: Subject { id: generation(1), predictor: candidate, manifest: &new },
        champion,
        anchor: None,
        examples,
        frozen: &[],
        window_labels: if champion.is_some() { labels } else { &[] },
        trained: &HashSet::new(),
        window: &new.window,
        line: Line::default(),
        pue: 1.0,
        copies: &Copies::default(),
        region: "WORLD",
        seed,
    };
    evaluate(&of, &mut Memory::default())
}

#[track_caller]
fn state(verdict: &Verdict, id: &str) -> CheckState {
    verdict.checks.iter().find(|check| check.id == id).expect("the check is there").state
}

#[test]
fn a_first_model_of_numbers_must_know_more_than_their_mean() {
    let (suite, data) = (quick(REGRESSION), examples(200, |truth| truth));
    let good = verdict(&suite, &Numbers::new(1, 8.0), None, &data, 1);
    assert_eq!(good.outcome, Outcome::AutoPromote, "{:?}", good.reasons);
    let blind = verdict(&suite, &Numbers::new(1, 90.0), None, &data, 1);
    assert_eq!((blind.outcome, state(&blind, "above-mean")), (Outcome::Blocked, CheckState::Fail));
    // A label that is no number judges nothing.
    let mut some = data;
    some.0[3].label = Class::new("dear");
    let verdict = verdict(&suite, &Numbers::new(1, 8.0), None, &some, 1);
    assert!(verdict.environment["sample.unread"].starts_with("1 held-out"));
}

#[test]
fn equal_updates_pass_and_worse_ones_are_stopped() {
    let suite = quick(REGRESSION);
    for count in [100, 400] {
        let data = examples(count, |truth| truth);
        let of = |noise: f64| -> Vec<Verdict> {
            let judged = |seed: u64| {
                let (champion, candidate) =
                    (Numbers::new(2 * seed, 10.0), Numbers::new(2 * seed + 1, noise));
                verdict(&suite, &candidate, Some(&champion), &data, seed)
            };
            (1..=40).map(judged).collect()
        };
        let share = |all: &[Verdict], outcome: Outcome| {
            all.iter().filter(|one| one.outcome == outcome).count() as f64 / all.len() as f64
        };
        let (equal, worse) = (of(10.0), of(25.0));
        let promoted = share(&equal, Outcome::AutoPromote);
        let blocked = share(&worse, Outcome::Blocked);
        println!("n {count}: equal ones promoted {promoted}, worse ones blocked {blocked}");
        assert!(promoted >= 0.9, "{:?}", equal.iter().map(|one| &one.reasons).collect::<Vec<_>>());
        assert!(share(&equal, Outcome::Blocked) <= 0.05 && blocked >= 0.95);
        assert!(share(&worse, Outcome::AutoPromote) <= 0.0);
    }
}

#[test]
fn labels_that_the_champion_finds_nowhere_near_are_not_believed() {
    let suite = quick(REGRESSION);
    let (champion, candidate) = (Numbers::new(1, 6.0), Numbers::new(2, 6.0));
    let judged = |data| verdict(&suite, &candidate, Some(&champion), &data, 3);
    let honest = judged(examples(200, |truth| truth));
    assert_eq!(state(&honest, "label-agreement"), CheckState::Pass, "{:?}", honest.reasons);
    let turned = judged(examples(200, |truth| 100.0 - truth));
    assert_eq!(state(&turned, "label-agreement"), CheckState::Fail);
    assert_eq!(turned.outcome, Outcome::Blocked);
}

#[test]
fn a_gap_between_groups_is_measured_in_the_unit_of_the_labels() {
    let suite = quick(
        "{format: 1, name: s, version: '1', checks: [{id: gap, layer: fairness, metric: mae_gap, \
         over: side, ceil: 5, severity: block}, {id: worst, layer: robustness, metric: robust_mae, \
         versus: champion, ratio: 1.2, severity: block}, {id: typing, layer: robustness, metric: \
         mae, versus: champion, ratio: 1.2, under: {kind: characters, strength: 0.05}, severity: \
         warn}, {id: right, layer: quality, metric: accuracy, floor: 0.1, severity: review}]}",
    );
    let data = examples(400, |truth| truth);
    let fair = Numbers::new(1, 6.0);
    let unfair = Numbers { noise: [2.0, 20.0], ..fair.clone() };
    let even = verdict(&suite, &fair, Some(&fair), &data, 1);
    assert_eq!((state(&even, "gap"), state(&even, "worst")), (CheckState::Pass, CheckState::Pass));
    assert_eq!(state(&even, "right"), CheckState::NotApplicable, "a metric of classes");
    let uneven = verdict(&suite, &unfair, Some(&fair), &data, 1);
    assert_eq!(state(&uneven, "gap"), CheckState::Fail);
    let gap = uneven.checks.iter().find(|check| check.id == "gap").unwrap();
    assert!((12.0..18.0).contains(&gap.candidate.unwrap()), "{gap:?}");
}

#[test]
fn numbers_and_classes_are_never_held_against_each_other() {
    let (suite, data) = (quick(REGRESSION), examples(100, |truth| truth));
    let (numbers, classes) = (Numbers::new(1, 5.0), Toy::new(1, 0.0, 0.0, 0.0));
    for (candidate, champion) in [
        (&numbers as &dyn Predictor, &classes as &dyn Predictor),
        (&classes as &dyn Predictor, &numbers as &dyn Predictor),
    ] {
        let verdict = verdict(&suite, candidate, Some(champion), &data, 1);
        assert_eq!(verdict.outcome, Outcome::Blocked);
        assert!(verdict.reasons[0].contains("a ledger, of its own"), "{:?}", verdict.reasons);
    }
}

#[test]
fn numbers_are_shown_slice_by_slice_by_their_error_and_where_it_grew_most() {
    let (suite, data) = (quick(REGRESSION), examples(200, |truth| truth));
    let (champion, candidate) = (Numbers::new(2, 5.0), Numbers::new(3, 15.0));
    let shown = verdict(&suite, &candidate, Some(&champion), &data, 1);
    let overall = &shown.slices[0];
    assert_eq!((&*overall.slice, &*overall.metric, overall.n), ("overall", "mae", 200));
    assert!(overall.candidate > overall.champion.unwrap());
    let (low, high) = overall.interval.unwrap();
    let more = overall.candidate - overall.champion.unwrap();
    assert!(low > 0.0 && (low..high).contains(&more), "{overall:?}");
    assert!(shown.slices.iter().all(|slice| !slice.slice.starts_with("class=")));
    let off = |one: &tidegate_contracts::Changed| {
        let number = |class: &Class| class.number().unwrap();
        let by = |said: &Class| (number(said) - number(&one.label)).abs();
        by(&one.candidate.answer) - by(&one.champion.answer)
    };
    let worse: Vec<f64> = shown.changed.iter().filter(|one| one.worse).map(off).collect();
    assert!(worse.len() == 12 && worse.is_sorted_by(|a, b| a >= b) && worse[11] > 0.0, "{worse:?}");
    assert!(shown.changed.iter().filter(|one| !one.worse).all(|one| off(one) < 0.0));
}
