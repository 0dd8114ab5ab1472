//! What an evaluator would have found.
use chrono::Utc;
use tidegate_contracts::{
    ArtifactHash, Changed, CheckResult, CheckState, Class, DataEvidence, Domain, EnergyEvidence,
    EventId, FrozenUse, GramsCo2e, Joules, Layer, ModelAnswer, Outcome, Severity, SliceKind,
    SliceResult, SuiteRef, Tier, Verdict,
};
use tidegate_ledger::{GenerationRecord, State};

/// The document on `one`.
pub(crate) fn document(state: &State, one: &GenerationRecord, outcome: Outcome) -> Verdict {
    let champion = state.champion();
    let reasons = match outcome {
        Outcome::AutoPromote => vec![],
        Outcome::NeedsApproval => vec!["calibration is undecided".to_owned()],
        Outcome::Blocked => vec!["accuracy fell by 31.0 points & <more>".to_owned()],
    };
    Verdict {
        format: 1,
        generation: one.id,
        champion,
        job: one.job.clone(),
        kind: one.kind,
        suite: SuiteRef {
            name: "email".to_owned(),
            version: "1.0.0".to_owned(),
            digest: ArtifactHash::of(b"suite"),
            about: "Mail, *spam* or ham.".to_owned(),
        },
        issued: Utc::now(),
        seed: 7,
        outcome,
        reasons,
        checks: checks(outcome, champion.is_some()),
        slices: slices(champion.is_some()),
        changed: changed(champion.is_some()),
        data: DataEvidence {
            earlier: 412,
            fresh: 61,
            digest: ArtifactHash::of(b"data"),
            window: one.window.clone(),
            leaked: 0,
        },
        energy: EnergyEvidence {
            method: "cpu_time_model".to_owned(),
            joules: Some(Joules(212.0)),
            gco2e: Some(GramsCo2e(0.021)),
            region: "world".to_owned(),
        },
        seconds: 8.4,
        environment: [("cpus".to_owned(), "2".to_owned())].into(),
        frozen: frozen(),
        line: None,
        golden: vec![],
    }
}

fn frozen() -> Vec<FrozenUse> {
    let one = |id: &str, tier, not_asked: Option<&str>| FrozenUse {
        id: id.to_owned(),
        tier,
        sha256: "0f".repeat(32).parse().expect("64 digits"),
        rows: 1_500,
        queries: 7,
        query_budget: 90,
        not_asked: not_asked.map(str::to_owned),
        scores: vec![],
        shown: [].into(),
    };
    vec![
        one("past-q3", Tier::Gate, None),
        one("vault", Tier::Sealed, Some("sealed, and opened by a cold_start only")),
    ]
}

fn checks(outcome: Outcome, against: bool) -> Vec<CheckResult> {
    let check = |id: &str, layer, metric: &str, severity, state, values: [f64; 4], rule: &str| {
        let [champion, candidate, low, high] = values;
        CheckResult {
            chance: None,
            id: id.to_owned(),
            layer,
            metric: metric.to_owned(),
            data: None,
            slice: "overall".to_owned(),
            severity,
            state,
            candidate: Some(candidate),
            baseline: against.then_some(champion),
            interval: Some((low, high)),
            level: 0.9,
            method: "newcombe_paired".to_owned(),
            n: 473,
            rule: rule.to_owned(),
            reason: format!("{metric} overall: the numbers in words"),
        }
    };
    use CheckState::{Fail, Inconclusive, Pass};
    use Layer::{Cost, Efficiency, Fairness, Quality, Retention, Robustness};
    use Severity::{Block, Review, Warn};
    let (accuracy, values) = match outcome {
        Outcome::Blocked => (Fail, [0.962, 0.652, -0.35, -0.27]),
        _ => (Pass, [0.962, 0.966, -0.011, 0.02]),
    };
    let calibration = if outcome == Outcome::NeedsApproval { Inconclusive } else { Pass };
    let worse = "L(candidate - champion) > -0.03";
    let mut all = vec![
        check(
            "accuracy-floor",
            Quality,
            "accuracy",
            Block,
            Pass,
            [0.0, 0.966, 0.94, 0.98],
            "L(accuracy) >= 0.6",
        ),
        check("accuracy", Quality, "accuracy", Block, accuracy, values, worse),
        check(
            "calibration",
            Quality,
            "ece",
            Review,
            calibration,
            [0.021, 0.034, -0.012, 0.052],
            "U(candidate - champion) < 0.04",
        ),
        check(
            "typing-errors",
            Robustness,
            "accuracy",
            Review,
            Pass,
            [0.93, 0.94, -0.03, 0.05],
            "L(candidate - champion) > -0.1",
        ),
        check(
            "gap-origin",
            Fairness,
            "accuracy_gap",
            Review,
            Pass,
            [0.04, 0.03, -0.04, 0.03],
            "U(candidate - champion) < 0.1",
        ),
        check(
            "latency",
            Efficiency,
            "latency_p50_ms",
            Review,
            Pass,
            [2.1, 2.2, 0.98, 1.12],
            "U(candidate / champion) <= 1.5",
        ),
        check(
            "energy",
            Cost,
            "joules_per_1k",
            Warn,
            Pass,
            [11.4, 11.9, 0.9, 1.3],
            "U(candidate / champion) <= 2",
        ),
        check("retention", Retention, "accuracy", Block, accuracy, values, worse),
    ];
    let mut few = all[3].clone();
    (few.id, few.state) = ("word-changes".to_owned(), CheckState::Insufficient);
    (few.interval, few.candidate, few.baseline) = (None, None, None);
    all.insert(4, few);
    all
}

fn slices(against: bool) -> Vec<SliceResult> {
    let of = |kind, slice: &str, n, candidate| SliceResult {
        kind,
        slice: slice.to_owned(),
        n,
        metric: "accuracy".to_owned(),
        candidate,
        champion: against.then_some(0.96),
        interval: Some(if against { (-0.35, -0.27) } else { (0.6, 0.7) }),
        level: 0.9,
        method: "newcombe_paired".to_owned(),
    };
    vec![
        of(SliceKind::All, "overall", 473, 0.652),
        of(SliceKind::Domain, "domain=mail", 473, 0.652),
        of(SliceKind::Class, "class=spam", 140, 0.6),
        of(SliceKind::Group, "format=<html> | *x*", 90, 0.55),
    ]
}

fn changed(against: bool) -> Vec<Changed> {
    let answer = |class: &str, sure| ModelAnswer { answer: Class::new(class), sure: Some(sure) };
    let one = Changed {
        id: EventId::new("m-17"),
        domain: Domain::new("mail"),
        label: Class::new("spam"),
        fresh: true,
        worse: true,
        candidate: answer("ham", 0.98),
        champion: answer("spam", 0.91),
        excerpt: "<b>buy</b> now".to_owned(),
    };
    if against { vec![one] } else { vec![] }
}
