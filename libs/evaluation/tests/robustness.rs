//! Perturbed tables, attacks on models, and what is not believed of them.
#[allow(dead_code)]
mod toy;

use std::{collections::BTreeMap, collections::HashSet};

use tidegate_contracts::{
    CheckResult, CheckState, Class, Domain, EventId, FeatureValue, Part, Verdict, Window,
};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Predictor, Subject, Suite, evaluate,
};
use tidegate_model::{Attack, Attacked, Input, Means, Method, ModelError, Scores};

/// Says `high` above a place on its only number. An honest one is moved by an attack as far as the
/// attack may go; a masked one only without slopes.
#[derive(Clone)]
struct Threshold {
    labels: Vec<Class>,
    at: f64,
    masked: bool,
    late: bool,
}

impl Threshold {
    fn new(at: f64) -> Self {
        let labels = vec![Class::new("low"), Class::new("high")];
        Self { labels, at, masked: false, late: false }
    }

    fn answer(&self, number: f64) -> Scores {
        let high = 1.0 / (1.0 + (-2.0 * (number - self.at)).exp()) as f32;
        Scores { probabilities: vec![1.0 - high, high] }
    }
}

fn number(input: &Input) -> Option<f64> {
    let [Part::Features(values)] = &input.parts[..] else { panic!("one table is asked about") };
    match values.get("x")? {
        FeatureValue::Number(number) => Some(*number),
        FeatureValue::Category(_) => None,
    }
}

impl Predictor for Threshold {
    fn labels(&self) -> &[Class] {
        &self.labels
    }

    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        Ok(inputs.iter().map(|input| self.answer(number(input).unwrap_or(self.at))).collect())
    }

    fn attacked(
        &self,
        inputs: &[Input],
        classes: &[usize],
        attack: &Attack,
        means: &Means<'_>,
    ) -> Option<Result<Vec<Attacked>, ModelError>> {
        let unit = means.spread.number("x").expect("the spread is of all examples").deviation;
        let blind = self.masked && !matches!(attack.method, Method::Random(_));
        let reach = if blind { 0.0 } else { attack.eps * unit };
        let one = |(input, class): (&Input, &usize)| {
            if self.late {
                return Attacked::Unfinished;
            }
            let number = number(input).expect("clean tables have their number");
            let moved = if *class == 1 { number - reach } else { number + reach };
            Attacked::Answer { scores: self.answer(moved), input: None, queries: attack.steps }
        };
        Some(Ok(inputs.iter().zip(classes).map(one).collect()))
    }
}

/// Numbers from -3 to 3, `high` above 0.
fn examples(count: usize) -> Vec<EvalExample> {
    let one = |at: usize| {
        let x = (at * 37 % count) as f64 / count as f64 * 6.0 - 2.99;
        let values = BTreeMap::from([("x".to_owned(), FeatureValue::Number(x))]);
        EvalExample {
            id: EventId::new(format!("e-{at}")),
            domain: Domain::new("numbers"),
            input: Input { parts: vec![Part::Features(values)] },
            label: Class::new(if x > 0.0 { "high" } else { "low" }),
            groups: BTreeMap::new(),
            producer: None,
            fresh: false,
        }
    };
    (0..count).map(one).collect()
}

fn suite(checks: &str) -> Suite {
    Suite::parse(&format!(
        "format: 1\nname: r\nversion: '1'\nlimits: {{perturbed_rows: 300, attack_rows: 200, \
         bootstrap: 200, permutations: 99, latency_ms: 5, throughput_ms: 5}}\nchecks:\n{checks}"
    ))
    .unwrap()
}

fn judged(suite: &Suite, candidate: &Threshold, champion: Option<&Threshold>) -> Verdict {
    let examples = examples(300);
    let manifests = [toy::manifest(1), toy::manifest(0)];
    let window = Window::new("tidegate.curated", BTreeMap::new()).unwrap();
    let subject = |number: u8, predictor, manifest| Subject {
        id: toy::generation(number),
        predictor,
        manifest,
    };
    let evaluation = Evaluation {
        suite,
        candidate: subject(1, candidate as &dyn Predictor, &manifests[0]),
        champion: champion.map(|model| subject(0, model as &dyn Predictor, &manifests[1])),
        anchor: None,
        examples: &examples,
        frozen: &[],
        window_labels: &[],
        trained: &HashSet::new(),
        copies: &Copies::default(),
        window: &window,
        line: Line::default(),
        region: "WORLD",
        pue: 1.0,
        seed: 1,
    };
    evaluate(&evaluation, &mut Memory::default())
}

#[track_caller]
fn result<'v>(verdict: &'v Verdict, id: &str) -> &'v CheckResult {
    let found = verdict.checks.iter().find(|check| check.id == id);
    found.unwrap_or_else(|| panic!("{:?}", verdict.reasons))
}

const ATTACK: &str = "  - {id: pgd, layer: robustness, metric: robust_accuracy, floor: 0.5, \
     severity: block, under: {kind: attack.pgd_linf, space: numbers, eps: 0.2, steps: 10}}\n  - \
     {id: asr, layer: robustness, metric: asr, ceil: 0.4, severity: block, under: \
     {kind: attack.pgd_linf, space: numbers, eps: 0.2, steps: 10}}\n";

#[test]
fn an_honest_attack_is_judged_and_its_controls_are_in_the_verdict() {
    let verdict = judged(&suite(ATTACK), &Threshold::new(0.0), None);
    let (pgd, asr) = (result(&verdict, "pgd"), result(&verdict, "asr"));
    assert_eq!((pgd.state, asr.state), (CheckState::Pass, CheckState::Pass), "{}", pgd.reason);
    // Of a range of 6 it moves 0.2 deviations of 1.73, to either side.
    let broken = asr.candidate.unwrap();
    assert!((broken - 0.115).abs() < 0.03, "{broken}");
    assert!((pgd.candidate.unwrap() - (1.0 - broken)).abs() < 0.01);
    let said = &verdict.environment["attack.pgd_linf numbers 0.2, 10 steps"];
    for word in ["FGSM", "half of eps", "without bound 0", "black box"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_model_whose_slopes_say_nothing_is_not_called_robust() {
    let masked = Threshold { masked: true, ..Threshold::new(0.0) };
    let verdict = judged(&suite(ATTACK), &masked, None);
    let pgd = result(&verdict, "pgd");
    assert_eq!(pgd.state, CheckState::Inconclusive);
    assert!(pgd.reason.contains("robustness untrusted: "), "{}", pgd.reason);
    assert!(pgd.reason.contains("stay right whatever is changed"), "{}", pgd.reason);
    assert!(pgd.reason.contains("a black box does more harm"), "{}", pgd.reason);
}

#[test]
fn what_is_not_finished_is_undecided_and_who_has_no_slopes_is_not_judged() {
    let late = Threshold { late: true, ..Threshold::new(0.0) };
    let verdict = judged(&suite(ATTACK), &late, None);
    let pgd = result(&verdict, "pgd");
    assert_eq!(pgd.state, CheckState::Inconclusive);
    assert!(pgd.reason.contains("limits.attack_ms"), "{}", pgd.reason);

    let pixels = ATTACK.replace("space: numbers, eps: 0.2", "space: pixels, eps: 4");
    let verdict = judged(&suite(&pixels), &Threshold::new(0.0), None);
    let pgd = result(&verdict, "pgd");
    assert_eq!(pgd.state, CheckState::NotApplicable);
    assert!(pgd.reason.contains("`image`"), "{}", pgd.reason);
}

#[test]
fn perturbed_tables_are_the_same_for_both_and_the_worst_of_many_is_worse_than_one() {
    let checks = "  - {id: once, layer: robustness, metric: accuracy, floor: 0.5, severity: warn, \
         under: {kind: features.gaussian_noise, severity: 5}}\n  - {id: worst, layer: robustness, \
         metric: accuracy, floor: 0.5, severity: warn, under: {kind: features.gaussian_noise, \
         severity: 5, worst_of: 5}}\n  - {id: same, layer: robustness, metric: accuracy, versus: \
         champion, margin: {value: 0.05}, severity: block, under: {kind: \
         features.gaussian_noise, severity: 5}}\n  - {id: text, layer: robustness, metric: \
         accuracy, floor: 0.5, severity: warn, under: {kind: typo, strength: 0.1}}\n  - {id: asr, \
         layer: robustness, metric: asr, ceil: 0.5, severity: warn}\n  - {id: ce, layer: \
         robustness, metric: corruption_error, versus: champion, ratio: 1.2, severity: block, \
         under: {kind: features.gaussian_noise}}\n";
    let (good, shifted) = (Threshold::new(0.0), Threshold::new(0.4));
    let suite = suite(checks);
    let verdict = judged(&suite, &good, Some(&good));
    let value = |id: &str| result(&verdict, id).candidate.unwrap();
    assert!(value("once") < 1.0 && value("worst") < value("once"));
    assert_eq!(result(&verdict, "same").candidate, result(&verdict, "same").baseline);
    assert_eq!(result(&verdict, "text").state, CheckState::NotApplicable);
    assert!(value("asr") >= 1.0 - value("worst") - 0.02);
    assert_eq!(result(&verdict, "ce").state, CheckState::Pass);
    let worse = judged(&suite, &shifted, Some(&good));
    let ce = result(&worse, "ce");
    assert_eq!(ce.state, CheckState::Fail, "{}", ce.reason);
    assert!(ce.slice.contains("features.gaussian_noise 1-5"), "{}", ce.slice);
}
