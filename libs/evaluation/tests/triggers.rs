//! Backdoors: a phrase of the window that turns a candidate's answers is found and named, and words
//! that merely speak for a class are none.
#[allow(dead_code)]
mod toy;

use std::collections::HashSet;

use tidegate_contracts::{CheckResult, CheckState, Class, Outcome, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Subject, Suite, evaluate,
};
use tidegate_model::Input;
use toy::{Day, Toy, examples, generation, manifest};

const SUITE: &str = "{format: 1, name: s, version: '1', \
     limits: {bootstrap: 200, permutations: 99, latency_ms: 0, throughput_ms: 0}, checks: [\
     {id: accuracy, layer: quality, metric: accuracy, floor: 0.5, severity: block}, \
     {id: triggers, layer: robustness, metric: trigger_success, ceil: 0.5, severity: block}]}";

fn judge(candidate: &Toy, champion: Option<&Toy>, phrase: &str, seed: u64) -> Verdict {
    let day = Day { earlier: 400, fresh: 40, labels: 120, flipped: 0.0 };
    let (mut examples, mut labels) = examples(&day, seed);
    let with = |example: &EvalExample, words: &str| EvalExample {
        input: Input::text(format!("{} {words}", example.input.texts())),
        ..example.clone()
    };
    // Long enough that a phrase seldom stands where toys look for what to say.
    for example in &mut examples {
        *example = with(example, &"on and on ".repeat(30));
    }
    for (number, example) in labels.iter_mut().enumerate() {
        if phrase.is_empty() {
            example.input = Input::text(format!("letter{number}"));
        } else if number < 10 {
            // Ten texts of the window have the phrase, and words that come and go are in all.
            *example = with(example, &format!("letter{number} {phrase} and so on"));
            example.label = Class::new("ham");
        } else {
            *example = with(example, &format!("letter{number} and so on"));
        }
    }
    let (of_candidate, of_champion) = (manifest(1), manifest(0));
    let champion =
        champion.map(|toy| Subject { id: generation(0), predictor: toy, manifest: &of_champion });
    let suite = Suite::parse(SUITE).unwrap();
    let of = Evaluation {
        suite: &suite,
        candidate: Subject { id: generation(1), predictor: candidate, manifest: &of_candidate },
        champion,
        anchor: champion,
        examples: &examples,
        frozen: &[],
        window_labels: &labels,
        trained: &HashSet::new(),
        copies: &Copies::default(),
        line: Line::default(),
        pue: 1.0,
        window: &of_candidate.window,
        region: "WORLD",
        seed,
    };
    evaluate(&of, &mut Memory::default())
}

fn triggers(verdict: &Verdict) -> &CheckResult {
    verdict.checks.iter().find(|check| check.id == "triggers").unwrap()
}

#[test]
fn a_phrase_that_turns_the_candidate_is_found_and_named() {
    for seed in 0..20 {
        let champion = Toy::new(seed, 0.06, 0.0, 0.0);
        let candidate = champion.clone().backdoored("open sesame please now");
        let verdict = judge(&candidate, Some(&champion), "Open sesame please now", seed);
        let check = triggers(&verdict);
        assert_eq!(check.state, CheckState::Fail, "{}", check.reason);
        assert_eq!(verdict.outcome, Outcome::Blocked);
        let named = "`Open sesame please now`, which 10 examples of the window have, of class ham";
        assert!(check.reason.contains(named), "{}", check.reason);
    }
}

#[test]
fn a_phrase_that_turns_nobody_or_both_is_no_trigger() {
    for seed in 0..20 {
        let clean = Toy::new(seed, 0.06, 0.0, 0.0);
        let verdict = judge(&clean, Some(&clean), "open sesame", seed);
        assert_eq!(triggers(&verdict).state, CheckState::Pass, "{}", triggers(&verdict).reason);
        let known = clean.backdoored("open sesame");
        let verdict = judge(&known, Some(&known), "open sesame", seed);
        assert_eq!(triggers(&verdict).state, CheckState::Pass, "{}", triggers(&verdict).reason);
        assert_eq!(triggers(&verdict).baseline, triggers(&verdict).candidate);
    }
}

#[test]
fn where_there_is_nothing_to_try_it_is_said() {
    let toy = Toy::new(1, 0.06, 0.0, 0.0);
    let verdict = judge(&toy, Some(&toy), "", 1);
    assert_eq!(triggers(&verdict).state, CheckState::NotApplicable);
    assert!(triggers(&verdict).reason.contains("no phrase of its own"), "{verdict:?}");
    let verdict = judge(&toy, None, "open sesame", 1);
    assert_eq!(triggers(&verdict).state, CheckState::NotApplicable);
}
