//! One check, from evidence to result.
use tidegate_contracts::{CheckResult, CheckState, Manifest};
use tidegate_telemetry::energy::{EnergyMethod, grid_intensity};

use crate::{
    Baseline, Bound, Check, Groups, Metric, Slice, Under,
    bootstrap::{Bootstrapped, Resampling, bootstrap},
    evidence::{ClassAgreement, Evidence, Table},
    judge::{Finding, Limit, judge, not_judged, rule, words},
    load::{Latency, Throughput},
    metric::{Answers, Family},
    stats::{Interval, Paired, mean_of_proportions, stratified_difference, wilson},
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

/// Judges one check.
pub(crate) fn run(check: &Check, evidence: &Evidence<'_>) -> CheckResult {
    let level = check.level(evidence.of.suite);
    let relative = check.bound.is_relative();
    let asks = relative || check.metric == Metric::LabelAgreementDrop;
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
    let mut result = CheckResult {
        id: check.id.clone(),
        layer: check.layer,
        metric: check.metric.as_str().to_owned(),
        slice: check.place(),
        severity: check.severity,
        state: CheckState::Error,
        candidate: None,
        baseline: None,
        interval: None,
        level,
        method: "none".to_owned(),
        n: 0,
        rule: rule(check, Limit::new(check, 0, 2)),
        reason: String::new(),
    };
    match found {
        Err(not) => {
            (result.state, result.n, result.candidate) = (not.state, not.n, not.candidate);
            result.reason = not_judged(check, &not.why);
        }
        Ok(found) => conclude(check, evidence, &found, &mut result),
    }
    result
}

fn conclude(check: &Check, evidence: &Evidence<'_>, found: &Finding, result: &mut CheckResult) {
    let classes = class_count(check, evidence);
    let limit = Limit::new(check, found.n, classes);
    let point = Interval::new(found.estimate, found.estimate);
    let mut state = judge(check.metric, limit, found.estimate, found.interval.unwrap_or(point));
    let mut note = String::new();
    if state == CheckState::Fail && check.metric.family() == Family::Gap {
        // The largest of many differences: noise alone must not be able to make it.
        if let Some(chance) = gap_chance(check, evidence).filter(|&chance| chance >= GAP_CHANCE) {
            state = CheckState::Inconclusive;
            note =
                format!("; groups shuffled at random reach it {:.0} % of the time", chance * 1e2);
        }
    }
    result.state = state;
    result.candidate = found.candidate;
    result.baseline = found.baseline;
    result.interval = found.interval.map(Interval::pair);
    result.method = found.method.to_owned();
    result.n = found.n;
    result.rule = rule(check, limit);
    result.reason = words(check, limit, found, state, result.level) + &note;
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
        Family::Quality if check.bound.is_relative() => versus(check, evidence),
        Family::Quality => alone(check, evidence),
        Family::Gap => gap(check, evidence),
        Family::Agreement => agreement(check, evidence),
        Family::Latency => latency(check, evidence),
        Family::Throughput => throughput(check, evidence, Throughput::rate),
        Family::Energy => energy(check, evidence),
        Family::Training => training(check, evidence),
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
        level: check.level(evidence.of.suite),
        seed: evidence.of.seed ^ u64::from_le_bytes(bytes),
    }
}

fn table<'e>(check: &Check, evidence: &'e Evidence<'_>) -> &'e Table {
    let found = evidence.tables.get(check.under, check.metric.is_robust());
    found.unwrap_or(&evidence.clean)
}

/// Rows of the table that lie in the check's slice.
fn rows(check: &Check, evidence: &Evidence<'_>) -> Vec<usize> {
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

/// One model against an absolute bound.
fn alone(check: &Check, evidence: &Evidence<'_>) -> Found {
    let (rows, scored) = (rows(check, evidence), &table(check, evidence).candidate);
    let n = enough(check, &rows)?;
    let level = check.level(evidence.of.suite);
    let (value, interval, method) = match check.metric {
        Metric::Accuracy | Metric::RobustAccuracy => {
            let (right, all) = scored.successes(&rows);
            (right as f64 / all as f64, wilson(right, all, level), "wilson")
        }
        Metric::Asr => {
            let (broken, all) = scored.broken(&rows);
            if all < check.min_n {
                return Err(NotJudged::few(all, check.min_n));
            }
            (broken as f64 / all as f64, wilson(broken, all, level), "wilson")
        }
        Metric::BalancedAccuracy => {
            let recalls = scored.recalls(&rows);
            if matches!(check.bound, Bound::AboveChance(_)) && recalls.len() < 2 {
                let why = "all examples are of one class, so nothing is above chance";
                return Err(NotJudged::new(CheckState::Insufficient, n, why));
            }
            let mean = mean_of_proportions(&recalls, level);
            let (value, interval) = mean.expect("only classes with examples are counted");
            (value, interval, "wilson_mover")
        }
        Metric::AccuracyOverMajority => {
            let pair = scored.over_majority(&rows);
            (pair.difference(), pair.newcombe(level), "newcombe_paired")
        }
        metric => {
            let found = bootstrap(rows.len(), resampling(check, evidence), |picked| {
                let picked: Vec<usize> = picked.iter().map(|&at| rows[at]).collect();
                scored.value(metric, &picked)
            });
            let found = of_bootstrap(found, n)?;
            (found.estimate, found.interval, found.method)
        }
    };
    let interval = Some(interval);
    Ok(Finding { candidate: Some(value), baseline: None, estimate: value, interval, method, n })
}

/// Both models on the same examples.
fn versus(check: &Check, evidence: &Evidence<'_>) -> Found {
    let (rows, table) = (rows(check, evidence), table(check, evidence));
    let n = enough(check, &rows)?;
    let candidate = &table.candidate;
    let baseline = match check.versus {
        Baseline::Champion => &table.champion,
        Baseline::Anchor => &table.anchor,
    };
    let baseline = baseline.as_ref().expect("a relative check runs with a baseline only");
    let metric = check.metric;
    let is_ratio = matches!(check.bound, Bound::Ratio(_));
    let (estimate, interval, method) = match metric {
        Metric::Accuracy | Metric::RobustAccuracy => {
            let pairs = rows.iter().map(|&row| (candidate.right(row), baseline.right(row)));
            let pair = Paired::count(pairs);
            let level = check.level(evidence.of.suite);
            (pair.difference(), pair.newcombe(level), "newcombe_paired")
        }
        metric => {
            let found = bootstrap(rows.len(), resampling(check, evidence), |picked| {
                let picked: Vec<usize> = picked.iter().map(|&at| rows[at]).collect();
                let (one, other) =
                    (candidate.value(metric, &picked)?, baseline.value(metric, &picked)?);
                Some(if is_ratio { times(one, other) } else { one - other })
            });
            let found = of_bootstrap(found, n)?;
            (found.estimate, found.interval, found.method)
        }
    };
    Ok(Finding {
        candidate: candidate.value(metric, &rows),
        baseline: baseline.value(metric, &rows),
        estimate,
        interval: Some(interval),
        method,
        n,
    })
}

/// Of errors: two that are 0 are alike.
fn times(one: f64, other: f64) -> f64 {
    if one == other { 1.0 } else { one / other }
}

fn groups(check: &Check, evidence: &Evidence<'_>) -> Groups {
    let over = check.over.as_deref().unwrap_or_default();
    let table = table(check, evidence);
    let value = |row: usize| evidence.of.examples[table.examples[row]].groups.get(over).cloned();
    Groups::new(&rows(check, evidence), value, &table.candidate, check.min_n, check.min_class)
}

fn gap(check: &Check, evidence: &Evidence<'_>) -> Found {
    let (groups, table) = (groups(check, evidence), table(check, evidence));
    let n = groups.n();
    let metric = check.metric;
    let undefined = || {
        let large = groups.names.len();
        let small: Vec<String> =
            groups.small.iter().take(8).map(|(name, n)| format!("{name} has {n}")).collect();
        let why = format!(
            "{large} groups are large enough (at least {} examples each): two are needed{}{}",
            check.min_n,
            if small.is_empty() { "" } else { "; " },
            small.join(", ")
        );
        NotJudged::new(CheckState::Insufficient, n, why)
    };
    let how = resampling(check, evidence);
    let candidate = groups.gap(metric, &table.candidate).ok_or_else(undefined)?;
    let baseline = table.champion.as_ref().and_then(|scored| groups.gap(metric, scored));
    let found = match (&table.champion, check.bound.is_relative()) {
        (Some(champion), true) => groups.change(metric, &table.candidate, champion, how),
        _ => groups.interval(metric, &table.candidate, how),
    };
    let Bootstrapped { estimate, interval, method } = found.ok_or_else(undefined)?;
    let interval = Some(interval);
    Ok(Finding { candidate: Some(candidate), baseline, estimate, interval, method, n })
}

fn gap_chance(check: &Check, evidence: &Evidence<'_>) -> Option<f64> {
    let permutations = evidence.of.suite.limits().permutations;
    let candidate = &table(check, evidence).candidate;
    groups(check, evidence).chance(check.metric, candidate, permutations, evidence.of.seed)
}

/// The champion's agreement with labels of earlier windows less that with the new window's, by
/// class, each class weighted by its share of the window.
fn agreement(check: &Check, evidence: &Evidence<'_>) -> Found {
    let agreement = &evidence.agreement;
    if agreement.classes.is_empty() {
        let unknown = agreement.unknown;
        let why =
            format!("the window has no labels of classes the champion knows ({unknown} of others)");
        return Err(NotJudged::new(CheckState::NotApplicable, 0, why));
    }
    let (judged, rare): (Vec<&ClassAgreement>, Vec<&ClassAgreement>) =
        agreement.classes.iter().partition(|class| class.earlier.1 >= check.min_class);
    let n: u64 = judged.iter().map(|class| class.window.1).sum();
    // Classes that the champion was hardly seen on must not be most of what is believed.
    if n * 2 < agreement.asked() {
        let name = |class: &&ClassAgreement| format!("{} has {}", class.class, class.earlier.1);
        let names: Vec<String> = rare.iter().take(8).map(name).collect();
        let why = format!(
            "most labels of the window are of classes with fewer than {} earlier held-out \
             examples, so what the champion says of them is no measure ({})",
            check.min_class,
            names.join(", ")
        );
        return Err(NotJudged::new(CheckState::Insufficient, n, why));
    }
    if n < check.min_n {
        return Err(NotJudged::few(n, check.min_n));
    }
    let share = |(right, all): (u64, u64)| right as f64 / all as f64;
    let weighted = |of: fn(&ClassAgreement) -> (u64, u64)| {
        judged.iter().map(|c| share(of(c)) * c.window.1 as f64).sum::<f64>() / n as f64
    };
    let strata: Vec<_> = judged.iter().map(|c| (c.earlier, c.window, c.window.1 as f64)).collect();
    let (estimate, interval) = stratified_difference(&strata, check.level(evidence.of.suite))
        .expect("every class that is judged has labels in the window");
    Ok(Finding {
        candidate: Some(weighted(|class| class.window)),
        baseline: Some(weighted(|class| class.earlier)),
        estimate,
        interval: Some(interval),
        method: "newcombe_stratified",
        n,
    })
}

fn latency(check: &Check, evidence: &Evidence<'_>) -> Found {
    let measured = &evidence.latency;
    let n = measured.n();
    if n < check.min_n {
        return Err(NotJudged::few(n, check.min_n));
    }
    let level = check.level(evidence.of.suite);
    let q = check.metric.quantile().expect("a latency metric has a quantile");
    let of = |samples: &[[f64; 2]]| Latency::quantile(samples, q, level);
    let few = || NotJudged::new(CheckState::Insufficient, n, "the sample is too small to tell");
    let (value, interval) = of(&measured.candidate).ok_or_else(few)?;
    let baseline = of(&measured.champion).map(|(value, _)| value);
    if !check.bound.is_relative() {
        let interval = Some(interval).filter(|i| i.high.is_finite()).ok_or_else(few)?;
        return Ok(Finding {
            candidate: Some(value),
            baseline,
            estimate: value,
            interval: Some(interval),
            method: "order_statistics",
            n,
        });
    }
    let found = of_bootstrap(measured.ratio(q, resampling(check, evidence)), n)?;
    Ok(ratio(value, baseline, found, n))
}

fn ratio(candidate: f64, baseline: Option<f64>, found: Bootstrapped, n: u64) -> Finding {
    Finding {
        candidate: Some(candidate),
        baseline,
        estimate: found.estimate,
        interval: Some(found.interval),
        method: found.method,
        n,
    }
}

fn throughput(
    check: &Check,
    evidence: &Evidence<'_>,
    of: fn(&[crate::load::Block], &[usize]) -> Option<f64>,
) -> Found {
    let measured = &evidence.throughput;
    let (n, all) = (measured.rounds(), measured.all_rounds());
    let relative = check.bound.is_relative();
    let value = of(&measured.candidate, &all).ok_or_else(|| {
        let why = "nothing could be measured: no examples, no time, or below what the meter tells";
        NotJudged::new(CheckState::Inconclusive, n, why)
    })?;
    let baseline = if measured.champion.is_empty() { None } else { of(&measured.champion, &all) };
    let found = measured.figure(of, relative, resampling(check, evidence));
    Ok(ratio(value, baseline, of_bootstrap(found, n)?, n))
}

/// Joules or carbon of a thousand predictions; unknown is never nothing.
fn energy(check: &Check, evidence: &Evidence<'_>) -> Found {
    let unknown = |why: String| NotJudged::new(CheckState::Inconclusive, 0, why);
    if evidence.energy_method == EnergyMethod::None {
        return Err(unknown("this machine has no meter and no model of its energy".to_owned()));
    }
    let mut found = throughput(check, evidence, Throughput::joules_per_1k)?;
    if check.metric == Metric::Gco2ePer1k {
        let region = evidence.of.region;
        let grid = grid_intensity(region)
            .ok_or_else(|| unknown(format!("no carbon intensity is known for `{region}`")))?;
        let grams = |joules: f64| joules / 3.6e6 * grid;
        found.candidate = found.candidate.map(grams);
        found.baseline = found.baseline.map(grams);
        if !check.bound.is_relative() {
            found.estimate = grams(found.estimate);
            found.interval = found.interval.map(|i| Interval::new(grams(i.low), grams(i.high)));
        }
    }
    Ok(found)
}

/// Joules of a training job and how they were found, from its manifest.
fn trained(manifest: &Manifest) -> Option<(f64, &str)> {
    let of = |name: &str| manifest.metrics.get(name).copied().filter(|&joules| joules > 0.0);
    // The architecture's search is a part of what a cold start took.
    let joules = of("energy_joules")? + of("search.joules").unwrap_or_default();
    let prefix = "energy_method.";
    let method = manifest.metrics.keys().find_map(|name| name.strip_prefix(prefix))?;
    (method != EnergyMethod::None.as_str()).then_some((joules, method))
}

fn training(check: &Check, evidence: &Evidence<'_>) -> Found {
    let unknown = |why: &str| NotJudged::new(CheckState::Inconclusive, 0, why);
    let (joules, method) = trained(evidence.of.candidate.manifest)
        .ok_or_else(|| unknown("the training job does not know its energy"))?;
    let champion = evidence.of.champion.and_then(|champion| trained(champion.manifest));
    let mut found = Finding {
        candidate: Some(joules),
        baseline: champion.map(|(joules, _)| joules),
        estimate: joules,
        interval: None,
        method: "reported",
        n: 1,
    };
    if check.bound.is_relative() {
        let (base, other) = champion
            .ok_or_else(|| unknown("the champion's training job does not know its energy"))?;
        if other != method {
            let why = "energy was found by different methods, which are never compared";
            return Err(unknown(why));
        }
        found.estimate = joules / base;
    }
    Ok(found)
}
