//! What suites may ask beyond the built-in ones: every check finds a number, and says how.
#[allow(dead_code)]
mod toy;

use std::collections::HashSet;

use tidegate_contracts::{CheckResult, CheckState, Outcome, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, ExampleKey, Line, Memory, NearCopy, Subject, Suite, evaluate,
};
use toy::{Day, Toy, examples, generation, manifest};

const HEAD: &str = "{format: 1, name: s, version: '1', limits: {latency_ms: 20, throughput_ms: 20, \
                    bootstrap: 300, permutations: 99, server_ms: 2000, server_qps: 400}, checks: [";

/// A suite of these checks; `{of}` stands for id, layer and severity.
fn suite(checks: &[&str]) -> Suite {
    let one = |(at, check): (usize, &&str)| {
        check.replace("{of}", &format!("{{id: c{at}, layer: quality, severity: warn, "))
    };
    let checks: Vec<String> = checks.iter().enumerate().map(one).collect();
    Suite::parse(&format!("{HEAD}{}]}}", checks.join(", "))).unwrap()
}

struct Asked<'a> {
    suite: &'a Suite,
    examples: &'a [EvalExample],
    copies: Copies,
    trained: HashSet<ExampleKey>,
    line: Line,
}

impl Asked<'_> {
    fn verdict(&self, candidate: &Toy, champion: &Toy) -> Verdict {
        let (new, old) = (manifest(1), manifest(0));
        let champion = Subject { id: generation(0), predictor: champion, manifest: &old };
        let of = Evaluation {
            suite: self.suite,
            candidate: Subject { id: generation(1), predictor: candidate, manifest: &new },
            champion: Some(champion),
            anchor: Some(champion),
            examples: self.examples,
            frozen: &[],
            window_labels: &[],
            trained: &self.trained,
            copies: &self.copies,
            window: &new.window,
            line: self.line,
            region: "USA/california",
            pue: 1.2,
            seed: 11,
        };
        evaluate(&of, &mut Memory::default())
    }
}

fn day() -> Vec<EvalExample> {
    examples(&Day { earlier: 400, fresh: 200, labels: 0, flipped: 0.0 }, 1).0
}

fn judged(suite: &Suite, candidate: &Toy, champion: &Toy) -> Vec<CheckResult> {
    let asked = Asked {
        suite,
        examples: &day(),
        copies: Copies::default(),
        trained: HashSet::new(),
        line: Line::default(),
    };
    asked.verdict(candidate, champion).checks
}

#[test]
fn every_metric_of_classes_finds_a_number_with_an_interval() {
    let whole =
        ["top2_accuracy", "macro_precision", "weighted_f1", "kappa", "mcc", "auroc", "auprc"];
    let of_spam = ["precision", "recall", "f1", "f2", "auroc", "auprc"];
    let low = ["mce", "ace", "label_psi", "label_js", "confidence_psi", "confidence_ks"];
    let of_groups = ["worst_group_accuracy", "demographic_parity_ratio"];
    let mut checks: Vec<String> = Vec::new();
    for metric in whole {
        checks.push(format!("{{of}}metric: {metric}, floor: 0.1}}"));
        checks.push(format!("{{of}}metric: {metric}, versus: champion, margin: {{value: 0.1}}}}"));
    }
    for metric in of_spam {
        checks.push(format!("{{of}}metric: {metric}, class: spam, floor: 0.1}}"));
    }
    for metric in ["benefit_entropy", "benefit_theil"] {
        checks.push(format!("{{of}}metric: {metric}, class: spam, ceil: 0.9}}"));
    }
    checks.extend(low.map(|metric| format!("{{of}}metric: {metric}, ceil: 0.9}}")));
    checks.extend(of_groups.map(|m| format!("{{of}}metric: {m}, over: format, floor: 0.01}}")));
    checks.push("{of}metric: equal_opportunity, over: format, ceil: 0.9}".to_owned());
    checks.push("{of}metric: recall, class: spam, floor: 0.1, exact: true}".to_owned());
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    let toy = Toy::new(1, 0.06, 0.0, 0.0);
    let results = judged(&suite(&checks), &toy, &Toy::new(1, 0.06, 0.02, 0.02));
    for result in &results[..checks.len()] {
        assert_eq!(result.state, CheckState::Pass, "{result:#?}");
        let (low, high) = result.interval.unwrap();
        let value = result.candidate.unwrap();
        assert!(low <= high && value.is_finite(), "{result:#?}");
    }
    let exact = &results[checks.len() - 1];
    assert_eq!(
        (exact.method.as_str(), exact.slice.as_str()),
        ("clopper_pearson", "class spam, overall")
    );
}

#[test]
fn a_reason_says_how_probable_a_difference_is_by_chance() {
    let checks = [
        "{of}metric: accuracy, versus: champion, margin: {value: 0.02}}",
        "{of}metric: log_loss, versus: champion, margin: {value: 0.02}}",
        "{of}metric: latency_p50_ms, versus: champion, ratio: 1.5}",
        "{of}metric: brier, ceil: 0.9}",
    ];
    let worse = Toy::new(1, 0.06, 0.2, 0.0).slower(4);
    let results = judged(&suite(&checks), &worse, &Toy::new(1, 0.06, 0.0, 0.0));
    for (result, test) in results.iter().zip(["McNemar", "permutation p", "Mann-Whitney"]) {
        assert_eq!(result.state, CheckState::Fail, "{result:#?}");
        assert!(result.reason.contains(test), "{}", result.reason);
        assert!(result.reason.contains("among 4 checks: Holm p 0.000"), "{}", result.reason);
        assert!(result.chance.unwrap() < 0.01);
    }
    assert_eq!(results[3].chance, None);
}

#[test]
fn a_load_that_does_not_wait_finds_a_bound_or_says_why_it_cannot() {
    let checks = [
        "{of}metric: server_p50_ms, ceil: 900}",
        "{of}metric: server_p50_ms, versus: champion, ratio: 50}",
        "{of}metric: server_p99_ms, ceil: 900}",
    ];
    let toy = Toy::new(1, 0.06, 0.0, 0.0);
    let results = judged(&suite(&checks), &toy, &toy);
    for result in &results[..2] {
        // A machine that is busy with other tests may be too late to measure anything.
        let late = result.reason.contains("the load came late");
        assert!(result.state == CheckState::Pass || late, "{result:#?}");
    }
    let tail = &results[2];
    assert!(tail.state != CheckState::Pass || tail.interval.unwrap().1 < 900.0, "{tail:#?}");
}

#[test]
fn the_same_content_under_another_id_does_not_judge_and_nearly_the_same_is_only_said() {
    let examples = day();
    let suite = suite(&["{of}metric: accuracy, floor: 0.1}"]);
    let toy = Toy::new(1, 0.06, 0.0, 0.0);
    let near =
        NearCopy { held_out: examples[3].id.clone(), trained: "m-99".to_owned(), similarity: 0.93 };
    let mut asked = Asked {
        suite: &suite,
        examples: &examples,
        copies: Copies { near: vec![near], ..Copies::default() },
        trained: HashSet::new(),
        line: Line { judged: 4, promoted: 3 },
    };
    let verdict = asked.verdict(&toy, &toy);
    assert_ne!(verdict.outcome, Outcome::Blocked);
    assert!(verdict.reasons.iter().any(|r| r.contains("m-3 is like m-99 (0.93)")));
    let budget = &verdict.environment["error_budget"];
    assert!(budget.starts_with("candidate 5 since the anchor, 3 promoted"), "{budget}");
    let key = |example: &EvalExample| ExampleKey::new(&example.domain, &example.id);
    let judged = |verdict: &Verdict| verdict.data.earlier + verdict.data.fresh;
    let copies = |verdict: &Verdict| {
        verdict.checks.iter().find(|check| check.id == "copies").expect("always asked").state
    };
    let all = judged(&verdict);
    asked.copies.same.insert(key(&examples[5]));
    let verdict = asked.verdict(&toy, &toy);
    assert_eq!((verdict.data.leaked, judged(&verdict)), (0, all - 1));
    assert_eq!(copies(&verdict), CheckState::Pass);
    // So many that somebody should look.
    asked.copies.same.extend(examples.iter().take(examples.len() / 5).map(key));
    let verdict = asked.verdict(&toy, &toy);
    assert_eq!(copies(&verdict), CheckState::Fail);
    assert!(verdict.reasons[0].contains("under another id"), "{:?}", verdict.reasons);
    // Who learnt it under its own id has peeked, whatever else was learnt.
    asked.trained.insert(key(&examples[5]));
    let verdict = asked.verdict(&toy, &toy);
    assert_eq!((verdict.data.leaked, verdict.outcome), (1, Outcome::Blocked));
}

#[test]
fn a_line_spends_its_error_and_no_more() {
    let check = "{of}metric: accuracy, versus: anchor, margin: {value: 0.05}, level: 0.95, \
                 spend: {function: pocock, looks: 20}}";
    let suite = suite(&[check]);
    let error = |judged| 1.0 - suite.checks()[0].level(&suite, Line { judged, promoted: 0 });
    let all: f64 = (0..20).map(error).sum();
    assert!((all - 0.05).abs() < 1e-9, "{all}");
    assert!(error(0) < 0.005);
}

#[test]
fn options_that_mean_nothing_are_refused_with_the_reason() {
    let refused = |check: &str, needle: &str| {
        let check = check.replace("{of}", "{id: c, layer: quality, severity: warn, ");
        let error = Suite::parse(&format!("{HEAD}{check}]}}")).unwrap_err().to_string();
        assert!(error.contains(needle), "{check}: {error}");
    };
    refused("{of}metric: recall, floor: 0.1}", "`class: <name>` belongs to");
    refused("{of}metric: accuracy, class: spam, floor: 0.1}", "`class: <name>` belongs to");
    refused("{of}metric: mcc, floor: 0.1, exact: true}", "`exact` belongs to");
    refused(
        "{of}metric: accuracy, floor: 0.1, spend: {function: pocock, looks: 9}}",
        "`spend` belongs to",
    );
    refused("{of}metric: label_psi, floor: 0.1}", "says nothing");
    refused("{of}metric: server_p99_ms, floor: 0.1}", "says nothing");
}
