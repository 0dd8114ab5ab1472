//! One check, from evidence to result.
mod agreement;
mod drift;
mod groups;
mod load;
mod producer;
mod quality;
mod retention;
mod trigger;

use tidegate_contracts::{CheckResult, CheckState, PRODUCER_SLICE};

use crate::{
    Baseline, Bound, Check, Evaluation, Slice, Under,
    bootstrap::{Bootstrapped, Resampling},
    evidence::{Evidence, Table},
    judge::{Finding, Limit, chance, judge, not_judged, rule, words},
    load::Throughput,
    metric::{Answers, Family},
    shown::{self, Shown},
    stats::Interval,
};

/// A permutation test must be at least this sure that a gap is no chance.
const GAP_CHANCE: f64 = 0.05;

/// Why there is no number.
struct NotJudged {
    state: CheckState,
    n: u64,
    why: String,
    candidate: Option<f64>,
}

impl NotJudged {
    fn new(state: CheckState, n: u64, why: impl Into<String>) -> Self {
        Self { state, n, why: why.into(), candidate: None }
    }

    fn few(n: u64, need: u64) -> Self {
        let why = format!("{n} examples are too few: at least {need} are needed");
        Self::new(CheckState::Insufficient, n, why)
    }
}

type Found = Result<Finding, NotJudged>;

/// What a check found, and how probable a value so far beyond its bound would be if the candidate
/// kept to it.
pub(crate) struct Judged {
    pub(crate) result: CheckResult,
    pub(crate) chance: Option<f64>,
}

/// Judges one check.
pub(crate) fn run(check: &Check, evidence: &Evidence<'_>) -> Judged {
    let level = evidence.of.level(check);
    let relative = check.bound.is_relative();
    let asks = relative || check.metric.asks_champion();
    let baseline = match check.versus {
        Baseline::Champion => evidence.of.champion,
        Baseline::Anchor => evidence.of.anchor,
    };
    let found = if asks && baseline.is_none() {
        let why = format!("there is no {} to compare with", check.versus.as_str());
        Err(NotJudged::new(CheckState::NotApplicable, 0, why))
    } else {
        find(check, evidence)
    };
    let mut result = blank(check, level);
    let chance = match found {
        Err(not) => {
            (result.state, result.n, result.candidate) = (not.state, not.n, not.candidate);
            result.reason = not_judged(check, &not.why);
            None
        }
        Ok(found) => conclude(check, evidence, &found, &mut result),
    };
    Judged { result, chance }
}

/// A check on frozen data that is not asked.
pub(crate) fn closed(check: &Check, of: &Evaluation<'_>, state: CheckState, why: &str) -> Judged {
    let reason = not_judged(check, why);
    Judged { result: CheckResult { state, reason, ..blank(check, of.level(check)) }, chance: None }
}

fn blank(check: &Check, level: f64) -> CheckResult {
    CheckResult {
        id: check.id.clone(),
        layer: check.layer,
        metric: check.metric.as_str().to_owned(),
        data: check.data.clone(),
        slice: check.place(),
        severity: check.severity,
        state: CheckState::Error,
        candidate: None,
        baseline: None,
        interval: None,
        level,
        method: "none".to_owned(),
        n: 0,
        chance: None,
        rule: rule(check, Limit::new(check, 0, 2)),
        reason: String::new(),
    }
}

fn conclude(
    check: &Check,
    evidence: &Evidence<'_>,
    found: &Finding,
    result: &mut CheckResult,
) -> Option<f64> {
    let classes = class_count(check, evidence);
    let limit = Limit::new(check, found.n, classes);
    let point = Interval::new(found.estimate, found.estimate);
    let mut state = judge(check.metric, limit, found.estimate, found.interval.unwrap_or(point));
    let mut note = found.note.clone();
    if state == CheckState::Fail && check.metric.family() == Family::Gap {
        // The largest of many differences: noise alone must not be able to make it.
        let chance = groups::gap_chance(check, evidence);
        if let Some(chance) = chance.filter(|&chance| chance >= GAP_CHANCE) {
            state = CheckState::Inconclusive;
            note =
                format!("; groups shuffled at random reach it {:.0} % of the time", chance * 1e2);
        }
    }
    if let (CheckState::Fail, Some(chance)) = (state, found.chance.filter(|&c| c >= GAP_CHANCE)) {
        state = CheckState::Inconclusive;
        note +=
            &format!("; producers shuffled at random reach it {:.0} % of the time", chance * 1e2);
    }
    if let (CheckState::Fail, Some(name)) = (state, &found.producer) {
        result.slice = format!("{PRODUCER_SLICE}{name}");
    }
    result.state = state;
    result.method = found.method.to_owned();
    result.n = found.n;
    result.rule = rule(check, limit);
    let frozen = evidence.frozen.as_ref();
    let (tier, best) = (frozen.map(|f| f.tier), frozen.and_then(|f| f.shown.get(&check.id)));
    match Shown::new(tier, check, found, result.level, best.copied()) {
        Shown::Whole => {
            show(check, limit, found, result);
            result.reason += &note;
            return chance(check.metric, limit, found, result.level);
        }
        Shown::Rounded(found) => {
            show(check, limit, &found, result);
            result.reason += &found.note;
        }
        Shown::Same(best) => {
            (result.candidate, result.reason) = (Some(best), shown::same(check, best));
        }
        Shown::Nothing => result.reason = shown::sealed(check, state),
    }
    None
}

fn show(check: &Check, limit: Limit, found: &Finding, result: &mut CheckResult) {
    result.candidate = found.candidate;
    result.baseline = found.baseline;
    result.interval = found.interval.map(Interval::pair);
    result.reason = words(check, limit, found, result.state, result.level);
}

fn find(check: &Check, evidence: &Evidence<'_>) -> Found {
    let numbers = evidence.of.answers_numbers();
    let other = match check.metric.answers() {
        Answers::Classes => numbers.then_some("classes, and these answers are numbers"),
        Answers::Numbers => (!numbers).then_some("numbers, and these answers are classes"),
        Answers::Any => None,
    };
    if let Some(other) = other {
        let why = format!("this metric is of {other}");
        return Err(NotJudged::new(CheckState::NotApplicable, 0, why));
    }
    if let Some(Under::Attacked(attack)) = &check.under
        && let Some(not) = evidence.attacks.problem(attack)
    {
        return Err(NotJudged::new(not.state, 0, not.why.clone()));
    }
    let perturbs = check.under.is_some() || check.metric.is_robust();
    let all = evidence.of.examples.len();
    let asked = perturbs && all > 0 && !evidence.of.suite.perturbations().is_empty();
    if asked && table(check, evidence).examples.is_empty() {
        let part = part_in_words(check, evidence);
        let why = format!("none of {all} held-out examples has {part} that could be perturbed");
        return Err(NotJudged::new(CheckState::NotApplicable, 0, why));
    }
    match check.metric.family() {
        Family::Quality if check.bound.is_relative() => quality::versus(check, evidence),
        Family::Quality => quality::alone(check, evidence),
        Family::Gap => groups::gap(check, evidence),
        Family::Retention => retention::retention(check, evidence),
        Family::Drift => drift::drift(check, evidence),
        Family::Agreement => agreement::agreement(check, evidence),
        Family::Trigger => trigger::trigger(check, evidence),
        Family::Producer => producer::producer(check, evidence),
        Family::Latency => load::latency(check, evidence),
        Family::Server => load::server(check, evidence),
        Family::Throughput => load::throughput(check, evidence, Throughput::rate),
        Family::Energy => load::energy(check, evidence),
        Family::Training => load::training(check, evidence),
    }
}

/// What the check's perturbation is of, or all of the suite's together are.
fn part_in_words(check: &Check, evidence: &Evidence<'_>) -> &'static str {
    let all = evidence.of.suite.perturbations();
    let first = all.first().map(|one| one.kind.part());
    let same = first.filter(|part| all.iter().all(|one| one.kind.part() == *part));
    match check.under.map(|under| under.part()).or(same) {
        Some("text") => "a text",
        Some("image") => "a picture",
        Some("audio") => "a sound",
        Some(_) => "features",
        None => "a part",
    }
}

/// Resampling for one check: the same check sees the same resamples whatever else the suite asks.
fn resampling<'a>(check: &Check, evidence: &Evidence<'_>) -> Resampling<'a> {
    let hash = blake3::hash(check.id.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    Resampling {
        strata: &[],
        count: evidence.of.suite.limits().bootstrap,
        level: evidence.of.level(check),
        seed: evidence.of.seed ^ u64::from_le_bytes(bytes),
    }
}

fn table<'e>(check: &Check, evidence: &'e Evidence<'_>) -> &'e Table {
    let found = evidence.tables.get(check.under, check.metric.is_robust());
    found.unwrap_or(&evidence.clean)
}

/// Rows of the table that lie in the check's slice.
pub(crate) fn rows(check: &Check, evidence: &Evidence<'_>) -> Vec<usize> {
    let examples = evidence.of.examples;
    let inside = |&row: &usize| {
        let example = &examples[table(check, evidence).examples[row]];
        match &check.slice {
            Slice::Overall => true,
            Slice::Earlier => !example.fresh,
            Slice::Fresh => example.fresh,
            Slice::Group(name, value) => example.groups.get(name) == Some(value),
        }
    };
    (0..table(check, evidence).examples.len()).filter(inside).collect()
}

fn enough(check: &Check, rows: &[usize]) -> Result<u64, NotJudged> {
    let n = rows.len() as u64;
    if n < check.min_n { Err(NotJudged::few(n, check.min_n)) } else { Ok(n) }
}

fn class_count(check: &Check, evidence: &Evidence<'_>) -> usize {
    if matches!(check.bound, Bound::AboveChance(_)) {
        table(check, evidence).candidate.recalls(&rows(check, evidence)).len()
    } else {
        2
    }
}

fn of_bootstrap(found: Option<Bootstrapped>, n: u64) -> Result<Bootstrapped, NotJudged> {
    found.ok_or_else(|| {
        let why = "the metric is undefined on these examples, or on many resamples of them";
        NotJudged::new(CheckState::Insufficient, n, why)
    })
}
