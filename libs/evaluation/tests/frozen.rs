//! Frozen data of suites: what is refused, and what the tiers, budgets and the past let a verdict say.
#[allow(dead_code)]
mod toy;

use std::{collections::HashSet, fmt::Write as _, io::Write as _, ops::Range, sync::Arc};

use tidegate_contracts::{
    CheckResult, CheckState, FrozenUse, GenerationId, JobKind, Manifest, Outcome, PastScore,
    Verdict,
};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, ExampleKey, Frozen, FrozenSet, Line, MAX_DATA_BYTES, Memory,
    Subject, Suite, evaluate, pin,
};
use toy::{Day, Toy, examples, generation, manifest};

/// Rows as toys read them: `<number> <class> <fresh> words`.
fn lines(numbers: Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let (class, format) =
            (number % 2, ["html", "plain"][usize::from(!number.is_multiple_of(3))]);
        let label = ["ham", "spam"][class];
        writeln!(
            text,
            r#"{{"id":"f-{number}","domain":"mail","parts":[{{"text":"{number} {class} 0 of old"}}],"label":"{label}","groups":{{"format":"{format}"}}}}"#
        )
        .unwrap();
    }
    text
}

/// A suite with one entry, `fields` beside path, hash and rows, and these checks.
fn suite_of(fields: &str, file: &str, checks: &str) -> Suite {
    let (sha256, rows) = pin("old.jsonl", file.as_bytes()).unwrap();
    let data = format!("{{id: old, path: old.jsonl, sha256: '{sha256}', rows: {rows}, {fields}}}");
    Suite::parse(&with(&data, checks)).unwrap()
}

fn with(data: &str, checks: &str) -> String {
    format!(
        "{{format: 1, name: s, version: '1', limits: {{latency_ms: 1, throughput_ms: 1, bootstrap: 300, \
         permutations: 99}}, data: [{data}], checks: [{{id: stream, layer: quality, metric: accuracy, \
         floor: 0.5, severity: block}}, {checks}]}}"
    )
}

const FLOOR: &str =
    "{id: old, layer: retention, metric: accuracy, data: old, floor: 0.8, severity: block}";

#[track_caller]
fn refused(data: &str, checks: &str, needles: &[&str]) {
    let error = Suite::parse(&with(data, checks)).unwrap_err().to_string();
    assert!(needles.iter().all(|needle| error.contains(needle)), "{data} {checks}: {error}");
}

#[test]
fn entries_that_mean_nothing_are_refused_with_the_reason() {
    let hash = "0f".repeat(32);
    let entry = |fields: &str| format!("{{id: old, sha256: '{hash}', rows: 9, {fields}}}");
    for path in ["/etc/a.jsonl", "../a.jsonl", "data/../../a.jsonl", "./a.jsonl", "a\\\\b.jsonl"] {
        refused(&entry(&format!("tier: open, path: \"{path}\"")), FLOOR, &["`old`", "path", ".."]);
    }
    refused(&entry("tier: open, path: a.csv"), FLOOR, &["a.csv", ".jsonl"]);
    refused(&entry("tier: open, path: a.jsonl, size: 3"), FLOOR, &["size"]);
    refused(&entry("tier: shut, path: a.jsonl"), FLOOR, &["shut"]);
    refused(&entry("tier: sealed, role: past, path: a.jsonl"), FLOOR, &["past", "sealed"]);
    refused(&entry("tier: open, opened_by: [cold_start], path: a.jsonl"), FLOOR, &["opened_by"]);
    refused(&entry("tier: open, query_budget: 0, path: a.jsonl"), FLOOR, &["query_budget"]);
    refused("{id: old, tier: open, path: a.jsonl}", FLOOR, &["sha256", "suite pin"]);
    refused("{id: old, tier: open, path: a.jsonl, sha256: abc, rows: 1}", FLOOR, &["abc"]);
    let good = entry("tier: open, path: a.jsonl");
    refused(&format!("{good}, {good}"), FLOOR, &["`old`", "twice"]);
    let check = |fields: &str| format!("{{id: c, layer: quality, severity: warn, {fields}}}");
    refused(&good, &check("metric: accuracy, data: odl, floor: 0.5"), &["odl", "there are: old"]);
    refused(&good, &check("metric: accuracy, data: old, slice: fresh, floor: 0.5"), &["windows"]);
    refused(&good, &check("metric: latency_p50_ms, data: old, ceil: 9"), &["`data` belongs"]);
    refused(&good, &check("metric: forgetting_max, ceil: 0.1"), &["data: <id>"]);
    refused(&good, &check("metric: forgetting_max, data: old, ceil: 0.1"), &["role: past"]);
}

#[test]
fn files_that_are_not_what_the_suite_says_are_refused() {
    let file = lines(0..3);
    let suite = suite_of("tier: open", &file, FLOOR);
    let entry = &suite.data()[0];
    let parsed = Frozen::parse(entry, file.as_bytes()).unwrap();
    assert_eq!((parsed.examples().len(), parsed.in_group("format", "html")), (3, 1));
    let changed = file.replace("of old", "of new");
    let error = Frozen::parse(entry, changed.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("sha256") && error.contains(entry.sha256.as_str()), "{error}");
    let mut more = entry.clone();
    more.rows = 4;
    let error = Frozen::parse(&more, file.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("3 rows") && error.contains("says 4"), "{error}");
    let error = Frozen::parse(entry, &vec![b' '; MAX_DATA_BYTES + 1]).unwrap_err().to_string();
    assert!(error.contains("no more are read"), "{error}");

    let unlabelled = r#"{"id":"u","parts":[{"text":"1 0 0"}]}"#;
    for (text, needles) in [
        (format!("{file}{unlabelled}\n"), vec!["line 4", "`u`", "no label"]),
        (format!("{file}{}", lines(2..3)), vec!["line 4", "`f-2`", "twice"]),
        (format!("{file}\n{}", lines(5..6)), vec!["line 4", "empty"]),
        (file.replace("\"label\"", "\"lable\""), vec!["line 1", "lable"]),
    ] {
        let error = pin("old.jsonl", text.as_bytes()).unwrap_err().to_string();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    }
}

#[test]
fn a_packed_file_is_read_as_a_plain_one() {
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    packed.write_all(lines(0..40).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    assert_eq!(pin("a.jsonl.gz", &packed).unwrap().1, 40);
    let error = pin("a.jsonl.gz", &packed[..packed.len() - 9]).unwrap_err().to_string();
    assert!(error.contains("unpacked"), "{error}");
    assert!(pin("a.jsonl", &packed).is_err());
}

/// A candidate beside a champion, on a stream that both are right about.
struct Asked {
    suite: Suite,
    set: FrozenSet,
    stream: Vec<EvalExample>,
    trained: HashSet<ExampleKey>,
    kind: JobKind,
}

impl Asked {
    fn new(fields: &str, checks: &str) -> Self {
        let file = lines(5_000..5_400);
        let suite = suite_of(fields, &file, checks);
        let data = Frozen::parse(&suite.data()[0], file.as_bytes()).unwrap();
        let set = FrozenSet {
            data: Arc::new(data),
            problem: None,
            copies: Copies::default(),
            queries: 0,
            last: None,
            champions: vec![generation(0)],
        };
        let stream = examples(&Day { earlier: 100, fresh: 0, labels: 0, flipped: 0.0 }, 1).0;
        Self { suite, set, stream, trained: HashSet::new(), kind: JobKind::HotUpdate }
    }

    fn verdict(&self, candidate: &Toy, champion: &Toy) -> Verdict {
        self.verdict_of(generation(1), candidate, champion)
    }

    fn verdict_of(&self, id: GenerationId, candidate: &Toy, champion: &Toy) -> Verdict {
        let (new, old) = (Manifest { kind: self.kind, ..manifest(1) }, manifest(0));
        let of = Evaluation {
            suite: &self.suite,
            candidate: Subject { id, predictor: candidate, manifest: &new },
            champion: Some(Subject { id: generation(0), predictor: champion, manifest: &old }),
            anchor: None,
            examples: &self.stream,
            frozen: std::slice::from_ref(&self.set),
            window_labels: &[],
            trained: &self.trained,
            copies: &Copies::default(),
            window: &new.window,
            line: Line::default(),
            region: "WORLD",
            pue: 1.0,
            seed: 7,
        };
        evaluate(&of, &mut Memory::default())
    }

    /// The next verdict goes on from this one.
    fn follow(&mut self, verdict: &Verdict) {
        self.set.queries = verdict.frozen[0].queries;
        self.set.last = Some(verdict.frozen[0].clone());
    }
}

fn check<'v>(verdict: &'v Verdict, id: &str) -> &'v CheckResult {
    verdict.checks.iter().find(|check| check.id == id).unwrap()
}

fn good() -> Toy {
    Toy::new(1, 0.02, 0.0, 0.0)
}

/// Wrong about a third of what is old, and right on the stream.
fn bad() -> Toy {
    Toy::new(2, 0.35, 0.0, 0.0)
}

#[test]
fn frozen_data_judges_beside_the_stream() {
    let asked = Asked::new("tier: open", FLOOR);
    let passed = asked.verdict(&good(), &good());
    assert_eq!(check(&passed, "old").state, CheckState::Pass, "{:?}", passed.reasons);
    assert_eq!((check(&passed, "old").n, check(&passed, "stream").n), (400, 100));
    let used = &passed.frozen[0];
    assert_eq!((used.queries, used.left(), used.not_asked.as_ref()), (1, 89, None));
    let failed = asked.verdict(&bad(), &good());
    assert_eq!(failed.outcome, Outcome::Blocked, "{:?}", failed.reasons);
    assert!(failed.reasons[0].contains("on frozen data `old`"), "{:?}", failed.reasons);
    assert_eq!(check(&failed, "old").slice, "old: overall");
}

#[test]
fn groups_are_chosen_inside_frozen_data() {
    let checks = "{id: html, layer: fairness, metric: accuracy, data: old, slice: format=html, floor: \
                  0.5, severity: warn}, {id: gap, layer: fairness, metric: accuracy_gap, over: format, \
                  data: old, ceil: 0.2, severity: warn}, {id: noise, layer: robustness, metric: accuracy, \
                  data: old, under: {kind: case, strength: 0.5}, floor: 0.5, severity: warn}";
    let asked = Asked::new("tier: open", checks);
    let verdict = asked.verdict(&good(), &good());
    let html = asked.set.data.in_group("format", "html");
    assert_eq!((check(&verdict, "html").n, html), (133, 133));
    for id in ["html", "gap", "noise"] {
        assert_eq!(check(&verdict, id).state, CheckState::Pass, "{:?}", check(&verdict, id));
    }
    assert_eq!(asked.suite.lint(50, &[(*asked.set.data).clone()])[1].n, 133);
}

#[test]
fn a_leak_of_a_frozen_example_blocks_also_while_it_is_sealed() {
    for tier in ["open", "sealed"] {
        let mut asked = Asked::new(&format!("tier: {tier}"), FLOOR);
        asked.trained.insert(ExampleKey::of(&asked.set.data.examples()[3]));
        let verdict = asked.verdict(&good(), &good());
        assert_eq!((verdict.outcome, verdict.data.leaked), (Outcome::Blocked, 1));
        let said = &check(&verdict, "no-leak").reason;
        assert!(said.contains("`old`") && said.contains("f-5003"), "{said}");
    }
    let mut asked = Asked::new("tier: open", FLOOR);
    let same = asked.set.data.examples().iter().take(60).map(ExampleKey::of);
    asked.set.copies.same = same.collect();
    let verdict = asked.verdict(&good(), &good());
    assert_eq!((verdict.outcome, check(&verdict, "old").n), (Outcome::NeedsApproval, 340));
    assert!(check(&verdict, "copies").reason.contains("60 of 400"), "{:?}", verdict.reasons);
}

#[test]
fn a_file_that_was_changed_meanwhile_blocks_where_its_check_blocks() {
    let mut asked = Asked::new("tier: open", FLOOR);
    asked.set.problem = Some("old.jsonl: its sha256 is another".to_owned());
    let verdict = asked.verdict(&good(), &good());
    assert_eq!(
        (verdict.outcome, check(&verdict, "old").state),
        (Outcome::Blocked, CheckState::Error)
    );
    assert!(verdict.frozen[0].not_asked.as_ref().unwrap().contains("another"));
}

#[test]
fn data_whose_budget_is_used_up_judges_nobody_and_a_person_is_asked() {
    let mut asked = Asked::new("tier: gate, query_budget: 2", FLOOR);
    for queries in 1..=2 {
        let verdict = asked.verdict(&good(), &good());
        assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:?}", verdict.reasons);
        asked.follow(&verdict);
        assert_eq!((asked.set.queries, verdict.frozen[0].left()), (queries, 2 - queries));
    }
    let verdict = asked.verdict(&bad(), &good());
    assert_eq!(verdict.outcome, Outcome::NeedsApproval);
    assert_eq!(check(&verdict, "old").state, CheckState::Insufficient);
    assert!(verdict.reasons[0].contains("rotate the data"), "{:?}", verdict.reasons);
    assert_eq!((verdict.frozen[0].queries, verdict.frozen[0].left()), (2, 0));
}

#[test]
fn sealed_data_is_opened_by_cold_starts_and_shows_whether_it_was_passed() {
    let mut asked = Asked::new("tier: sealed", FLOOR);
    let closed = asked.verdict(&good(), &good());
    assert_eq!(check(&closed, "old").state, CheckState::NotApplicable);
    assert_eq!((closed.outcome, closed.frozen[0].queries), (Outcome::AutoPromote, 0));
    assert!(closed.frozen[0].not_asked.as_ref().unwrap().contains("cold_start"));
    asked.kind = JobKind::ColdStart;
    for (candidate, outcome, word) in
        [(good(), Outcome::AutoPromote, "it passed"), (bad(), Outcome::Blocked, "did not pass")]
    {
        let verdict = asked.verdict(&candidate, &good());
        let old = check(&verdict, "old");
        assert_eq!((verdict.outcome, verdict.frozen[0].not_asked.as_ref()), (outcome, None));
        assert_eq!(
            (old.candidate, old.baseline, old.interval, old.chance),
            (None, None, None, None)
        );
        assert!(old.reason.contains(word) && !old.reason.contains('%'), "{}", old.reason);
    }
    let mut asked = Asked::new("tier: sealed, opened_by: [hot_update]", FLOOR);
    assert_eq!(asked.verdict(&good(), &good()).frozen[0].queries, 1);
    asked.kind = JobKind::ColdStart;
    assert_eq!(asked.verdict(&good(), &good()).frozen[0].queries, 0);
}

#[test]
fn a_gate_shows_rounded_values_and_only_those_that_are_better_than_before() {
    let open = Asked::new("tier: open", FLOOR);
    let mut asked = Asked::new("tier: gate", FLOOR);
    let middling = Toy::new(3, 0.12, 0.0, 0.0);
    let first = asked.verdict(&middling, &good());
    let exact = check(&open.verdict(&middling, &good()), "old").clone();
    let shown = check(&first, "old");
    assert_eq!(shown.state, exact.state);
    let (low, high) = exact.interval.unwrap();
    let step = 0.5 * (high - low) / (2.0 * 1.644_853_6);
    let value = shown.candidate.unwrap();
    assert!((value - exact.candidate.unwrap()).abs() <= step && value != exact.candidate.unwrap());
    assert!(((value / step).round() - value / step).abs() < 1e-4, "{value} in steps of {step}");
    asked.follow(&first);

    // Worse, and as good: the same is shown.
    for other in [bad(), Toy::new(3, 0.12, 0.0, 0.0)] {
        let verdict = asked.verdict(&other, &good());
        let again = check(&verdict, "old");
        assert_eq!((again.candidate, again.interval), (Some(value), None), "{}", again.reason);
        assert!(again.reason.contains("best that was shown so far"), "{}", again.reason);
        asked.follow(&verdict);
    }
    let better = asked.verdict(&good(), &good());
    let shown = check(&better, "old").candidate.unwrap();
    assert!(shown > value + step, "{shown}");
    assert_eq!(better.frozen[0].shown["old"], shown);
}

#[test]
fn forgetting_is_held_against_the_best_and_the_first_champion_so_far() {
    let checks = "{id: max, layer: retention, metric: forgetting_max, data: old, ceil: 0.03, severity: \
                  block}, {id: first, layer: retention, metric: forgetting_first, data: old, ceil: 0.03, \
                  severity: warn}, {id: bwt, layer: retention, metric: backward_transfer, data: old, \
                  floor: -0.03, severity: warn}";
    let mut asked = Asked::new("tier: open, role: past", checks);
    let (first, best, rejected) = (generation(7), generation(8), generation(9));
    asked.set.champions = vec![first, best, generation(0)];
    let score = |generation, accuracy| PastScore { generation, accuracy, n: 400 };
    let file = asked.set.data.entry().clone();
    asked.set.last = Some(FrozenUse {
        id: file.id,
        tier: file.tier,
        sha256: file.sha256,
        rows: 400,
        queries: 3,
        query_budget: 90,
        not_asked: None,
        scores: vec![score(first, 0.80), score(best, 0.97), score(rejected, 1.0)],
        shown: Default::default(),
    });
    let verdict = asked.verdict(&Toy::new(5, 0.12, 0.0, 0.0), &good());
    let exact = verdict.frozen[0].scores.iter().find(|s| s.generation == generation(1)).unwrap();
    let now = exact.accuracy;
    let close = |id: &str, value: f64| {
        let found = check(&verdict, id);
        assert!((found.candidate.unwrap() - value).abs() < 1e-9, "{}", found.reason);
        found.clone()
    };
    // Of champions only, and of the present one as it answers now.
    let champion = verdict.frozen[0].scores.iter().find(|s| s.generation == generation(0)).unwrap();
    let max = close("max", champion.accuracy.max(0.97) - now);
    assert_eq!(
        (max.state, verdict.outcome),
        (CheckState::Fail, Outcome::Blocked),
        "{}",
        max.reason
    );
    assert_eq!(close("first", 0.80 - now).state, CheckState::Pass);
    assert_eq!(close("bwt", now - 0.80).state, CheckState::Pass);
    assert_eq!(verdict.frozen[0].scores.len(), 5);
    let (low, high) = max.interval.unwrap();
    assert!(low < max.candidate.unwrap() && max.candidate.unwrap() < high && high - low < 0.12);

    // Who forgot nothing passes.
    let kept = asked.verdict(&good(), &good());
    assert_eq!(check(&kept, "max").state, CheckState::Pass, "{}", check(&kept, "max").reason);
}
