//! The gate's operating characteristic: how often it lets an equal candidate through, and how
//! often a worse one. Toy models whose errors are drawn by seed; everything else is real.
mod toy;

use std::collections::HashSet;

use tidegate_contracts::{CheckState, Layer, Outcome, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, ExampleKey, Line, Memory, Subject, Suite, evaluate,
};
use toy::{Day, Toy, examples, generation, manifest, quick, without_text};

const EMAIL: &str = include_str!("../../../eval-suites/email/suite.yaml");
const DEFAULT: &str = include_str!("../../../eval-suites/default/suite.yaml");

struct Case<'a> {
    suite: &'a Suite,
    candidate: Toy,
    champion: Option<Toy>,
    day: Day,
    seed: u64,
}

impl Case<'_> {
    fn verdict(&self) -> Verdict {
        self.verdict_with(&HashSet::new())
    }

    fn verdict_with(&self, trained: &HashSet<ExampleKey>) -> Verdict {
        let (examples, window_labels) = examples(&self.day, self.seed);
        self.verdict_on(trained, &examples, &window_labels)
    }

    fn verdict_on(
        &self,
        trained: &HashSet<ExampleKey>,
        examples: &[EvalExample],
        window_labels: &[EvalExample],
    ) -> Verdict {
        let (manifest_of, old) = (manifest(1), manifest(0));
        let champion = self.champion.as_ref().map(|toy| Subject {
            id: generation(0),
            predictor: toy,
            manifest: &old,
        });
        let of = Evaluation {
            suite: self.suite,
            candidate: Subject {
                id: generation(1),
                predictor: &self.candidate,
                manifest: &manifest_of,
            },
            champion,
            // As on the first update of a line.
            anchor: champion,
            examples,
            frozen: &[],
            window_labels: if champion.is_some() { window_labels } else { &[] },
            trained,
            window: &manifest_of.window,
            line: Line::default(),
            pue: 1.0,
            copies: &Copies::default(),
            region: "WORLD",
            seed: self.seed,
        };
        evaluate(&of, &mut Memory::default())
    }
}

/// A champion that is right 94 times in 100, and an equal candidate that differs on 3.
fn equal(seed: u64) -> (Toy, Toy) {
    (Toy::new(seed, 0.06, 0.0, 0.0), Toy::new(seed, 0.06, 0.015, 0.015))
}

fn outcomes(count: u64, of: impl Fn(u64) -> Verdict) -> Vec<Verdict> {
    (0..count).map(of).collect()
}

fn share(verdicts: &[Verdict], outcome: Outcome) -> f64 {
    let found = verdicts.iter().filter(|verdict| verdict.outcome == outcome).count();
    found as f64 / verdicts.len() as f64
}

fn check(verdict: &Verdict, id: &str) -> CheckState {
    verdict.checks.iter().find(|check| check.id == id).expect("the check is there").state
}

#[test]
fn an_equal_update_is_promoted_nearly_always() {
    let suite = quick(EMAIL);
    for earlier in [80, 180, 780] {
        let verdicts = outcomes(100, |seed| {
            let (champion, candidate) = equal(seed);
            let day = Day { earlier, fresh: 20, labels: 110, flipped: 0.0 };
            Case { suite: &suite, candidate, champion: Some(champion), day, seed }.verdict()
        });
        let promoted = share(&verdicts, Outcome::AutoPromote);
        let stopped = verdicts.iter().find(|v| v.outcome != Outcome::AutoPromote);
        println!("equal, n = {}: promoted {promoted}", earlier + 20);
        assert!(promoted >= 0.95, "{earlier}: {promoted}, e.g. {:?}", stopped.map(|v| &v.reasons));
        assert!(share(&verdicts, Outcome::Blocked) <= 0.01);
    }
}

#[test]
fn an_update_that_forgets_eight_points_is_blocked_and_never_promoted() {
    let suite = quick(EMAIL);
    for earlier in [300, 600] {
        let verdicts = outcomes(100, |seed| {
            let champion = Toy::new(seed, 0.06, 0.0, 0.0);
            // Nine points of new errors on earlier windows, one of old ones mended.
            let candidate = Toy::new(seed, 0.06, 0.09, 0.01).sound_when_fresh();
            let day = Day { earlier, fresh: 20, labels: 110, flipped: 0.0 };
            Case { suite: &suite, candidate, champion: Some(champion), day, seed }.verdict()
        });
        let blocked = share(&verdicts, Outcome::Blocked);
        println!("8 points worse, n = {earlier}: blocked {blocked}");
        assert_eq!(share(&verdicts, Outcome::AutoPromote), 0.0);
        assert!(blocked >= 0.85, "{earlier}: {blocked}");
    }
}

#[test]
fn a_day_of_flipped_labels_is_blocked_with_the_reason() {
    let suites = [quick(EMAIL), quick(DEFAULT)];
    for (suite, flipped) in [(&suites[0], 1.0), (&suites[0], 0.7), (&suites[1], 1.0)] {
        for earlier in [75, 400] {
            let verdicts = outcomes(25, |seed| {
                let champion = Toy::new(seed, 0.06, 0.0, 0.0);
                let candidate = Toy::new(seed, 0.06, 0.04, 0.02);
                let day = Day { earlier, fresh: 20, labels: 110, flipped };
                Case { suite, candidate, champion: Some(champion), day, seed }.verdict()
            });
            assert_eq!(share(&verdicts, Outcome::Blocked), 1.0, "{flipped} {earlier}");
            let reason = &verdicts[0].reasons[0];
            assert!(reason.contains("agreement with the new window's labels"), "{reason}");
        }
    }
}

/// Earlier windows hold `ham` hams in all, as a stream does that begins with spam.
fn after_spam_only(ham: usize, seed: u64) -> (Vec<EvalExample>, Vec<EvalExample>) {
    let day = Day { earlier: 150, fresh: 20, labels: 110, flipped: 0.0 };
    let (mut held_out, labels) = examples(&day, seed);
    let mut left = ham;
    held_out.retain(|example| {
        let rare = !example.fresh && example.label.as_str() == "ham";
        left -= usize::from(rare && left > 0);
        !rare || left > 0
    });
    (held_out, labels)
}

#[test]
fn other_shares_of_the_classes_are_no_reason_to_disbelieve_labels() {
    for text in [EMAIL, DEFAULT] {
        let suite = quick(text);
        for (ham, state) in [(0, CheckState::Insufficient), (40, CheckState::Pass)] {
            let (examples, labels) = after_spam_only(ham, 11);
            // Right about ham from now on; the champion never was.
            let (champion, candidate) = (Toy::always_spam(11), Toy::new(11, 0.05, 0.0, 0.0));
            let day = Day { earlier: 0, fresh: 0, labels: 0, flipped: 0.0 };
            let case = Case { suite: &suite, candidate, champion: Some(champion), day, seed: 11 };
            let verdict = case.verdict_on(&HashSet::new(), &examples, &labels);
            assert_eq!(check(&verdict, "label-agreement"), state, "{ham} {:?}", verdict.reasons);
            assert_ne!(verdict.outcome, Outcome::Blocked, "{:?}", verdict.reasons);
        }
    }
}

#[test]
fn a_first_generation_that_learnt_something_passes_and_one_that_did_not_is_stopped() {
    for (name, text) in [("default", DEFAULT), ("email", EMAIL)] {
        let suite = quick(text);
        for (errors, promoted) in [(0.10, true), (0.5, false)] {
            let verdicts = outcomes(30, |seed| {
                let day = Day { earlier: 0, fresh: 75, labels: 0, flipped: 0.0 };
                let candidate = Toy::new(seed, errors, 0.0, 0.0);
                Case { suite: &suite, candidate, champion: None, day, seed }.verdict()
            });
            let share = share(&verdicts, Outcome::AutoPromote);
            if promoted {
                assert!(share >= 0.95, "{name}: {share} {:?}", verdicts[0].reasons);
            } else {
                assert_eq!(share, 0.0, "{name}");
            }
            let retention = check(&verdicts[0], "retention");
            assert_eq!(retention, CheckState::NotApplicable);
        }
    }
}

#[test]
fn too_little_data_waits_for_a_person() {
    for text in [DEFAULT, EMAIL] {
        let suite = quick(text);
        let day = Day { earlier: 0, fresh: 12, labels: 0, flipped: 0.0 };
        let candidate = Toy::new(1, 0.0, 0.0, 0.0);
        let verdict = Case { suite: &suite, candidate, champion: None, day, seed: 1 }.verdict();
        assert_eq!(verdict.outcome, Outcome::NeedsApproval);
        assert_eq!(check(&verdict, "above-chance"), CheckState::Insufficient);
        assert!(verdict.reasons[0].contains("12 examples are too few"), "{:?}", verdict.reasons);
    }
}

#[test]
fn what_was_trained_on_may_not_judge() {
    let suite = quick(EMAIL);
    let (champion, candidate) = equal(3);
    let day = Day { earlier: 200, fresh: 20, labels: 110, flipped: 0.0 };
    let (examples, _) = examples(&day, 3);
    let leaked = ExampleKey::new(&examples[7].domain, &examples[7].id);
    let case = Case { suite: &suite, candidate, champion: Some(champion), day, seed: 3 };
    let verdict = case.verdict_with(&HashSet::from([leaked]));
    assert_eq!(verdict.outcome, Outcome::Blocked);
    assert_eq!(verdict.data.leaked, 1);
    assert!(verdict.reasons[0].contains("1 of 220 held-out ids"), "{:?}", verdict.reasons);
}

#[test]
fn the_same_inputs_give_the_same_verdict() {
    let suite = quick(EMAIL);
    let judge = || {
        let (champion, candidate) = equal(5);
        let day = Day { earlier: 250, fresh: 20, labels: 110, flipped: 0.0 };
        Case { suite: &suite, candidate, champion: Some(champion), day, seed: 5 }.verdict()
    };
    let (first, second) = (judge(), judge());
    let timed = [Layer::Efficiency, Layer::Cost];
    let fixed = |verdict: &Verdict| {
        let checks = verdict.checks.iter().filter(|check| !timed.contains(&check.layer));
        checks.cloned().collect::<Vec<_>>()
    };
    assert_eq!(fixed(&first), fixed(&second));
    assert_eq!((first.data, first.golden), (second.data, second.golden));
}

#[test]
fn a_verdict_covers_every_layer_and_reads_back_from_json() {
    let suite = quick(EMAIL);
    let (champion, candidate) = equal(9);
    let day = Day { earlier: 400, fresh: 20, labels: 110, flipped: 0.0 };
    let case = Case { suite: &suite, candidate, champion: Some(champion), day, seed: 9 };
    let verdict = case.verdict();
    for layer in Layer::ALL {
        let judged = |state| !matches!(state, CheckState::Error | CheckState::NotApplicable);
        let found = verdict.checks.iter().any(|check| check.layer == layer && judged(check.state));
        assert!(found, "{layer:?}");
    }
    assert!(verdict.checks.iter().all(|check| !check.reason.is_empty() && !check.rule.is_empty()));
    assert_eq!(verdict.golden.len(), 16);
    let json = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
}

#[test]
fn a_slow_candidate_is_stopped() {
    let suite = quick(EMAIL);
    let (champion, candidate) = equal(4);
    let day = Day { earlier: 300, fresh: 20, labels: 110, flipped: 0.0 };
    let candidate = candidate.slower(8);
    let verdict =
        Case { suite: &suite, candidate, champion: Some(champion), day, seed: 4 }.verdict();
    assert_eq!(check(&verdict, "latency-gross"), CheckState::Fail, "{:?}", verdict.reasons);
    assert_eq!(verdict.outcome, Outcome::Blocked);
}

#[test]
fn a_candidate_that_cannot_answer_is_blocked_with_what_it_said() {
    let suite = quick(DEFAULT);
    let day = Day { earlier: 100, fresh: 20, labels: 0, flipped: 0.0 };
    let candidate = Toy::new(1, 0.0, 0.0, 0.0).broken();
    let verdict = Case { suite: &suite, candidate, champion: None, day, seed: 1 }.verdict();
    assert_eq!(verdict.outcome, Outcome::Blocked);
    assert!(verdict.reasons[0].contains("the candidate could not answer"), "{:?}", verdict.reasons);
}

#[test]
fn examples_without_a_text_are_judged_and_robustness_says_why_it_is_not() {
    let suite = quick(DEFAULT);
    let day = Day { earlier: 400, fresh: 40, labels: 110, flipped: 0.0 };
    let (champion, candidate) = equal(5);
    let case = Case { suite: &suite, candidate, champion: Some(champion), day, seed: 5 };
    let (mut held_out, mut labels) = examples(&day, 5);
    without_text(&mut held_out);
    without_text(&mut labels);
    let verdict = case.verdict_on(&HashSet::new(), &held_out, &labels);
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:?}", verdict.reasons);
    assert_eq!(check(&verdict, "accuracy"), CheckState::Pass);
    let robust: Vec<_> =
        verdict.checks.iter().filter(|check| check.layer == Layer::Robustness).collect();
    assert_eq!(robust.len(), 5);
    for check in robust {
        assert_eq!(check.state, CheckState::NotApplicable);
        if check.id == "triggers" {
            assert!(check.reason.contains("no mark of its own"), "{check:?}");
            continue;
        }
        assert!(check.reason.contains("none of 440 held-out examples has a text"), "{check:?}");
    }
    // What is asked again before it serves are the parts themselves.
    assert_eq!(verdict.golden.len(), 16);
    assert!(verdict.golden.iter().all(|golden| golden.text.is_empty() && !golden.parts.is_empty()));
    let written = serde_json::to_vec(&verdict).unwrap();
    let read: Verdict = serde_json::from_slice(&written).unwrap();
    assert_eq!(read.golden, verdict.golden);
}

#[test]
fn what_one_model_reads_the_other_is_held_against_and_what_none_reads_judges_nobody() {
    let suite = quick(DEFAULT);
    let day = Day { earlier: 400, fresh: 40, labels: 110, flipped: 0.0 };
    let (mut held_out, mut labels) = examples(&day, 6);
    let half = held_out.len() / 2;
    without_text(&mut held_out[..half]);
    without_text(&mut labels[..50]);
    let verdict = |candidate: Toy, champion: Toy| {
        let case = Case { suite: &suite, candidate, champion: Some(champion), day, seed: 6 };
        case.verdict_on(&HashSet::new(), &held_out, &labels)
    };
    let (champion, candidate) = equal(6);
    // It has lost what its champion reads.
    let lost = verdict(candidate.clone().text_only(), champion.clone());
    assert_eq!(lost.outcome, Outcome::Blocked, "{:?}", lost.reasons);
    // Neither ever read it.
    let both = verdict(candidate.text_only(), champion.text_only());
    assert_eq!(both.outcome, Outcome::AutoPromote, "{:?}", both.reasons);
    assert!(both.environment["sample.unread"].starts_with("220 held-out examples"));
    assert_eq!(both.data.earlier + both.data.fresh, 220);
}
