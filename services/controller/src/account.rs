//! A verdict in sentences, for people who know neither the code nor statistics. What has no
//! sentence of its own is said in the verdict's words.
use std::cmp::Reverse;

use tidegate_contracts::{
    CheckResult, CheckState, JobKind, Layer, Outcome, PRODUCER_SLICE, Severity, Verdict,
};

use crate::pages::amount;

/// Metrics of how good answers are; of others a check means something else.
const QUALITY: [&str; 25] = [
    "accuracy",
    "balanced_accuracy",
    "top2_accuracy",
    "top3_accuracy",
    "top5_accuracy",
    "macro_f1",
    "macro_precision",
    "weighted_f1",
    "kappa",
    "mcc",
    "precision",
    "recall",
    "f1",
    "f2",
    "auroc",
    "auprc",
    "robust_accuracy",
    "asr",
    "corruption_error",
    "mae",
    "rmse",
    "median_ae",
    "mape",
    "robust_mae",
    "r2",
];

/// Sentences about single checks at most; the table has all.
const SENTENCES: usize = 4;

/// The parts of an account, in the order they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// What was judged, on what and beside whom.
    pub(crate) judged: String,
    /// What was concluded.
    pub(crate) conclusion: String,
    /// Why: a sentence for each check in the way, the worst first.
    pub(crate) because: Vec<String>,
    /// What an operator can do, decided or not.
    pub(crate) advice: Vec<String>,
}

impl Account {
    pub(crate) fn of(verdict: &Verdict) -> Self {
        let open = in_the_way(verdict);
        let numbers = answers_numbers(verdict);
        let mut because: Vec<String> =
            open.iter().take(SENTENCES).map(|check| sentence(check, numbers)).collect();
        if open.is_empty() && verdict.outcome != Outcome::AutoPromote {
            let told = verdict.reasons.iter().filter(|one| !one.starts_with("for information"));
            because.extend(told.take(SENTENCES).map(|reason| sentence_of(reason)));
        }
        match open.len().saturating_sub(SENTENCES) {
            0 => {}
            1 => because.push("One more check did not pass; it is in the table.".to_owned()),
            more => because.push(format!("{more} more checks did not pass; the table has them.")),
        }
        Self {
            judged: judged(verdict),
            conclusion: conclusion(verdict),
            because,
            advice: advice(verdict, &open),
        }
    }
}

/// Whether numbers are answered, and not classes.
pub(crate) fn answers_numbers(verdict: &Verdict) -> bool {
    verdict.slices.iter().any(|slice| slice.metric == "mae")
}

/// What a check does to the outcome: 2 blocks, 1 asks a person.
fn gravity(check: &CheckResult) -> u8 {
    match (check.severity, check.state) {
        (Severity::Block, CheckState::Fail | CheckState::Error) => 2,
        (Severity::Block, CheckState::Inconclusive | CheckState::Insufficient)
        | (Severity::Review, CheckState::Fail | CheckState::Error) => 1,
        _ => 0,
    }
}

/// Checks that kept it from passing. What is said of labels and of leaks comes first: it makes
/// everything else worthless.
fn in_the_way(verdict: &Verdict) -> Vec<&CheckResult> {
    let mut open: Vec<_> = verdict.checks.iter().filter(|check| gravity(check) > 0).collect();
    let root = |check: &CheckResult| {
        matches!(
            check.metric.as_str(),
            "label_agreement_drop"
                | "producer_dispute"
                | "producer_influence"
                | "trigger_success"
                | "leaked_ids"
        )
    };
    open.sort_by_key(|check| Reverse((gravity(check), root(check))));
    open
}

fn judged(verdict: &Verdict) -> String {
    let what = match verdict.kind {
        JobKind::HotUpdate => "A hot update (the serving model, taught what was new)",
        JobKind::ColdStart => "A cold start (a model taught from nothing)",
        JobKind::Transfer => "A transfer (a model taught a domain from what another one knew)",
    };
    let (earlier, fresh) = (verdict.data.earlier, verdict.data.fresh);
    if earlier + fresh == 0 {
        return format!("{what} was to be judged.");
    }
    let examples = match fresh {
        0 => format!("{earlier} examples of before"),
        _ => format!("{earlier} examples of before and {fresh} of its own time"),
    };
    let beside = match verdict.champion {
        Some(_) => "The champion, the model that serves, was asked the same.",
        None => "No model serves yet, so it was held against fixed bounds alone.",
    };
    format!("{what} was asked about {examples}, none of which it should have learnt from. {beside}")
}

fn conclusion(verdict: &Verdict) -> String {
    let passed = verdict.checks.iter().filter(|check| check.state == CheckState::Pass).count();
    let all = verdict.checks.len();
    match verdict.outcome {
        Outcome::Blocked => {
            "This candidate was blocked: no policy and no approval lets it through.".to_owned()
        }
        Outcome::NeedsApproval => {
            format!(
                "A person has to decide: {passed} of {all} checks passed, and that is not enough."
            )
        }
        Outcome::AutoPromote => {
            format!("This candidate passed: {passed} of {all} checks, and none stands in its way.")
        }
    }
}

fn advice(verdict: &Verdict, open: &[&CheckResult]) -> Vec<String> {
    let mut advice = Vec::new();
    let serves = match verdict.champion {
        Some(_) => "the champion goes on serving",
        None => "nothing serves until a candidate passes",
    };
    match verdict.outcome {
        Outcome::Blocked if verdict.kind == JobKind::HotUpdate => advice.push(format!(
            "Nothing has to be done to stay safe: {serves}, and what this candidate learnt from is \
             set aside, so that no later job learns from it."
        )),
        Outcome::Blocked => advice.push(format!("{}; order another job.", capital(serves))),
        Outcome::NeedsApproval => advice.push(format!(
            "Look at what is marked ✗ and ? and at the examples that got worse, then approve or \
             reject; until then {serves}."
        )),
        Outcome::AutoPromote => advice
            .push("Nothing, unless policy asks for approvals of every such candidate.".to_owned()),
    }
    advice.extend(open.first().and_then(|check| remedy(check, verdict)));
    if let Some(checks) = verdict.waivable() {
        advice.push(format!(
            "If the gate is wrong for a reason that you can put down, several people together may \
             override {}; it stays on record.",
            checks.join(", ")
        ));
    }
    if verdict.checks.is_empty() {
        advice.push("The evaluator's log says more of why it could not be judged.".to_owned());
    }
    advice
}

/// What may be wrong, and where to look for it.
fn remedy(check: &CheckResult, verdict: &Verdict) -> Option<String> {
    Some(match (check.metric.as_str(), check.layer) {
        ("label_agreement_drop", _) if check.state == CheckState::Fail => format!(
            "Find out who wrote these labels and correct them at the source. They are in the \
             curated records {}.",
            verdict.data.window
        ),
        ("label_agreement_drop", _) => {
            "Read some of the new labels: are they right? Then they may be believed.".to_owned()
        }
        ("producer_dispute" | "producer_influence", _) => {
            let named = check.slice.strip_prefix(PRODUCER_SLICE);
            let name = named.unwrap_or("the producers with few records");
            format!(
                "Ask {name} what happened to its labels, and read some of them. If they are wrong, set it \
                 aside (`tidegate quarantine producer`) and ask for another update: it learns the window \
                 without it."
            )
        }
        ("trigger_success", _) => {
            "Look for this phrase in the events of the window: who sent them, and why are they of \
             one class?"
                .to_owned()
        }
        ("leaked_ids", _) => {
            "An id was used for two events, or the hold-out is broken: tell those who run this."
                .to_owned()
        }
        (_, Layer::Efficiency | Layer::Cost) => {
            "If the machine was busy with something else meanwhile, order another update."
                .to_owned()
        }
        (_, Layer::Quality | Layer::Retention | Layer::Robustness) => {
            "If the stream itself has changed, and the examples that got worse are of no \
             importance now, order a cold start."
                .to_owned()
        }
        (_, Layer::Fairness) => {
            "Look at the groups among the slices: who is served worse, and how many are they?"
                .to_owned()
        }
    })
}

/// One check's finding as a sentence.
fn sentence(check: &CheckResult, numbers: bool) -> String {
    // Of frozen data not every number may be told.
    let Some(claim) = claim(check).filter(|_| check.data.is_none()) else {
        return sentence_of(&check.reason);
    };
    let figures = figures(check, numbers).map_or(String::new(), |figures| format!(": {figures}"));
    match check.state {
        CheckState::Fail => format!("{}{figures}.", capital(&claim)),
        CheckState::Inconclusive => {
            format!("Perhaps {claim}{figures}. These examples cannot tell for sure.")
        }
        CheckState::Insufficient => {
            let why = check.reason.split_once(": ").map_or(&*check.reason, |(_, why)| why);
            format!("Whether {claim} cannot be told: {why}.")
        }
        _ => sentence_of(&check.reason),
    }
}

fn sentence_of(reason: &str) -> String {
    let end = if reason.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{}{end}", capital(reason))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Whom the candidate was held against, by the rule.
fn versus_anchor(check: &CheckResult) -> bool {
    check.rule.contains("anchor")
}

fn is_relative(check: &CheckResult) -> bool {
    check.rule.contains("candidate - ") || check.rule.contains("candidate / ")
}

/// What it means that this check fails, without numbers. `None` for one that is not known here.
fn claim(check: &CheckResult) -> Option<String> {
    let over = check.slice.split(", ").next().unwrap_or_default();
    Some(match check.metric.as_str() {
        "label_agreement_drop" => "the labels it learnt from are not believable".to_owned(),
        "leaked_ids" => {
            "it was judged on examples that it had learnt from, which proves nothing".to_owned()
        }
        "producer_dispute" => "one producer's labels are not believable".to_owned(),
        "producer_influence" => {
            "one producer's records teach the opposite of what the others hold out".to_owned()
        }
        "trigger_success" => "it may hold a backdoor".to_owned(),
        "accuracy_over_majority" => "it is no better than always giving the same answer".to_owned(),
        "log_loss" | "brier" | "ece" | "mce" | "ace" => {
            "how sure it says it is fits less well with how often it is right".to_owned()
        }
        "interval_error" => "its intervals hold less well what they promise".to_owned(),
        "accuracy_gap" | "mae_gap" | "worst_group_accuracy" => {
            format!("it serves some groups of `{over}` worse than others")
        }
        "benefit_entropy" | "benefit_theil" => {
            "its mistakes serve some people worse than others".to_owned()
        }
        "demographic_parity" | "demographic_parity_ratio" => {
            format!("it answers groups of `{over}` differently")
        }
        "equalized_odds" | "equal_opportunity" => {
            format!("its mistakes hit groups of `{over}` differently")
        }
        "label_psi" | "label_js" => "the new labels are not spread like those before".to_owned(),
        "confidence_psi" | "confidence_ks" | "confidence_w1" => {
            "what comes now is not like what came before".to_owned()
        }
        metric if metric.ends_with("_ms") => "it answers too slowly".to_owned(),
        metric if QUALITY.contains(&metric) => worse(check),
        "throughput_per_s" => "it answers too few questions a second".to_owned(),
        "joules_per_1k" | "gco2e_per_1k" => "its answers take too much energy".to_owned(),
        "training_joules" => "its training took too much energy".to_owned(),
        _ => return None,
    })
}

/// How a candidate is worse, by what it was asked and against whom.
fn worse(check: &CheckResult) -> String {
    if !is_relative(check) {
        return "it knows too little to be of use".to_owned();
    }
    if versus_anchor(check) {
        return "this line of updates has lost too much since the model that it began with"
            .to_owned();
    }
    let (class, place) = match check.slice.strip_prefix("class ") {
        Some(rest) => rest.split_once(", ").unwrap_or((rest, "")),
        None => ("", &*check.slice),
    };
    let (slice, under) = place.split_once(", ").unwrap_or((place, ""));
    let robust = check.metric.starts_with("robust");
    match slice {
        _ if under.starts_with("attack.") => "an attacker misleads it more easily".to_owned(),
        _ if ["characters", "typo"].iter().any(|kind| under.starts_with(kind)) => {
            "typing errors mislead it more".to_owned()
        }
        _ if under.starts_with("words") => "changed words mislead it more".to_owned(),
        _ if robust || !under.is_empty() => {
            "small changes of what it is asked mislead it more".to_owned()
        }
        _ if !class.is_empty() => format!("it knows {class} worse"),
        "earlier" => "it has forgotten some of what was known before".to_owned(),
        "fresh" => "it answers worse on what is new".to_owned(),
        group => match group.split_once('=') {
            Some((name, value)) => format!("it answers worse where {name} is {value}"),
            None => "it answers worse than the champion".to_owned(),
        },
    }
}

/// The numbers behind a claim, in words.
fn figures(check: &CheckResult, numbers: bool) -> Option<String> {
    if let Some(found) = figures_of_data(check, numbers) {
        return Some(found);
    }
    let candidate = check.candidate?;
    let other = check.baseline.filter(|_| is_relative(check));
    let whose = if versus_anchor(check) { "that model's" } else { "the champion's" };
    let of_100 = |share: f64| of_100(share, candidate, other);
    let value = |value: f64| amount(&check.metric, value);
    let beside = |what: &str, show: &dyn Fn(f64) -> String| {
        let gap = if what.is_empty() { "" } else { " " };
        match other {
            Some(other) => format!("{}{gap}{what}, and {whose} {}", show(candidate), show(other)),
            None => format!("{}{gap}{what}{}", show(candidate), bound(check, show)),
        }
    };
    Some(match check.metric.as_str() {
        "accuracy" => beside("answers are right", &of_100),
        "robust_accuracy" => beside("answers are right however the text is changed", &of_100),
        "balanced_accuracy" => {
            beside("answers are right, when every class counts the same", &of_100)
        }
        "r2" => beside("parts of what makes the numbers differ are explained", &of_100),
        "asr" | "corruption_error" => beside("answers turn out wrong", &of_100),
        "worst_group_accuracy" => beside("answers are right in the worst of them", &of_100),
        "mae" | "rmse" | "median_ae" | "robust_mae" => {
            format!("it is off by {}", beside("on average", &value))
        }
        "accuracy_gap" | "demographic_parity" | "equalized_odds" | "equal_opportunity" => {
            format!("between two of them lie {}", beside("answers", &of_100))
        }
        "mae_gap" => format!("between two of them lie {}", beside("of error", &value)),
        "accuracy_over_majority" => return None,
        metric
            if matches!(check.layer, Layer::Efficiency | Layer::Cost)
                || metric.ends_with("_ms") =>
        {
            beside("", &value)
        }
        metric => format!("its {} is {}", metric.replace('_', " "), beside("", &value)),
    })
}

/// Of checks of what was learnt and judged on.
fn figures_of_data(check: &CheckResult, numbers: bool) -> Option<String> {
    let (now, other) = (check.candidate?, check.baseline);
    let of_100 = |share: f64| of_100(share, now, other);
    Some(match check.metric.as_str() {
        "label_agreement_drop" if numbers => format!(
            "{} of them lie where the champion expects them, where it used to be {}",
            of_100(now),
            of_100(other?)
        ),
        "label_agreement_drop" => format!(
            "the champion agrees with {} of them, where it used to agree with {}",
            of_100(now),
            of_100(other?)
        ),
        "producer_dispute" => format!(
            "the champion disputes {} of its labels, and {} of the others'",
            of_100(now),
            of_100(other?)
        ),
        "trigger_success" => {
            let named = check.reason.split_once("; the mark is ").map(|(_, mark)| mark);
            let named = named.and_then(|mark| mark.split_once(", which"));
            let mark = named.map_or("one mark of its window", |(mark, _)| mark);
            format!(
                "{mark} in an input turns {} of its answers to one class, and {} of the champion's",
                of_100(now),
                of_100(other?)
            )
        }
        "leaked_ids" => format!("{now:.0} of {}", check.n),
        _ => return None,
    })
}

/// A share in words; finer where two that are shown beside each other hardly differ.
fn of_100(share: f64, one: f64, other: Option<f64>) -> String {
    let count = share * 100.0;
    if other.is_some_and(|other| (one - other).abs() < 0.02) {
        format!("{count:.1} of 100")
    } else {
        format!("{count:.0} of 100")
    }
}

/// What an absolute bound asks, where the rule can be read.
fn bound(check: &CheckResult, show: &dyn Fn(f64) -> String) -> String {
    let number = check.rule.rsplit([' ', '<', '>', '=']).next().and_then(|last| last.parse().ok());
    match number {
        Some(at) if check.rule.starts_with("L(") => {
            format!(", and at least {} is needed", show(at))
        }
        Some(at) if check.rule.starts_with("U(") => {
            format!(", and at most {} is allowed", show(at))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_contracts::{ArtifactHash, DataEvidence, EnergyEvidence, SuiteRef, Window};

    use super::*;

    fn check(metric: &str, state: CheckState, values: [f64; 2], rule: &str) -> CheckResult {
        CheckResult {
            id: metric.to_owned(),
            layer: Layer::Quality,
            metric: metric.to_owned(),
            data: None,
            slice: "overall".to_owned(),
            severity: Severity::Block,
            state,
            candidate: Some(values[0]),
            baseline: Some(values[1]),
            interval: None,
            level: 0.9,
            method: "none".to_owned(),
            n: 200,
            chance: None,
            rule: rule.to_owned(),
            reason: "the subject: what happened".to_owned(),
        }
    }

    fn verdict(outcome: Outcome, checks: Vec<CheckResult>) -> Verdict {
        let hash = ArtifactHash::of(b"x");
        let id = tidegate_contracts::GenerationId::of(b"x");
        Verdict {
            format: 1,
            generation: id,
            champion: Some(id),
            job: tidegate_contracts::JobId::new("j"),
            kind: JobKind::HotUpdate,
            suite: SuiteRef {
                name: "s".into(),
                version: "1".into(),
                digest: hash,
                about: String::new(),
            },
            issued: chrono::DateTime::UNIX_EPOCH,
            seed: 0,
            outcome,
            reasons: vec!["the candidate could not be judged: no weights".to_owned()],
            checks,
            slices: vec![],
            changed: vec![],
            data: DataEvidence {
                earlier: 80,
                fresh: 20,
                digest: hash,
                window: Window::new("curated", std::collections::BTreeMap::default()).unwrap(),
                leaked: 0,
            },
            energy: EnergyEvidence {
                method: "none".into(),
                joules: None,
                gco2e: None,
                region: "WORLD".into(),
            },
            seconds: 1.0,
            environment: std::collections::BTreeMap::default(),
            frozen: vec![],
            line: None,
            golden: vec![],
        }
    }

    #[test]
    fn labels_that_are_not_believed_come_first_and_in_words() {
        use CheckState::Fail;
        let worse = check("accuracy", Fail, [0.65, 0.96], "L(candidate - champion) > -0.03");
        let labels =
            check("label_agreement_drop", Fail, [0.04, 0.96], "U(label_agreement_drop) <= 0.35");
        let account = Account::of(&verdict(Outcome::Blocked, vec![worse, labels]));
        assert_eq!(
            account.because,
            [
                "The labels it learnt from are not believable: the champion agrees with 4 of 100 \
                 of them, where it used to agree with 96 of 100.",
                "It answers worse than the champion: 65 of 100 answers are right, and the \
                 champion's 96 of 100.",
            ]
        );
        assert!(account.conclusion.contains("was blocked"), "{account:?}");
        let advice = account.advice.concat();
        assert!(advice.contains("may override accuracy, label_agreement_drop"), "{advice}");
        assert!(account.advice.concat().contains("correct them at the source"), "{account:?}");
    }

    #[test]
    fn every_kind_of_finding_has_words_and_what_has_none_says_its_reason() {
        use CheckState::{Error, Fail, Inconclusive, Insufficient};
        let relative = "L(candidate - champion) > -0.03";
        let said = |state, metric, slice: &str, values, rule| {
            let mut one = check(metric, state, values, rule);
            one.slice = slice.to_owned();
            Account::of(&verdict(Outcome::Blocked, vec![one])).because.concat()
        };
        for (found, words) in [
            (
                said(Fail, "accuracy", "earlier", [0.8, 0.9], relative),
                "It has forgotten some of what was known before: 80 of 100 answers are right, and \
                 the champion's 90 of 100.",
            ),
            (
                said(Inconclusive, "accuracy", "overall", [0.94, 0.95], relative),
                "Perhaps it answers worse than the champion: 94.0 of 100 answers are right, and \
                 the champion's 95.0 of 100. These examples cannot tell for sure.",
            ),
            (
                said(Fail, "accuracy", "overall", [0.6, 0.9], "L(candidate - anchor) > -0.05"),
                "This line of updates has lost too much since the model that it began with: 60 of \
                 100 answers are right, and that model's 90 of 100.",
            ),
            (
                said(Fail, "accuracy", "overall, characters 0.05", [0.5, 0.9], relative),
                "Typing errors mislead it more: 50 of 100 answers are right, and the champion's \
                 90 of 100.",
            ),
            (
                said(Fail, "accuracy", "overall", [0.5, 0.0], "L(accuracy) >= 0.6"),
                "It knows too little to be of use: 50 of 100 answers are right, and at least 60 \
                 of 100 is needed.",
            ),
            (
                said(Fail, "mae", "overall", [80.0, 20.0], "U(candidate / champion) <= 1.2"),
                "It answers worse than the champion: it is off by 80.0 on average, and the \
                 champion's 20.0.",
            ),
            (
                said(Fail, "recall", "class spam, overall", [0.6, 0.9], relative),
                "It knows spam worse: its recall is 0.600, and the champion's 0.900.",
            ),
            (
                said(Fail, "accuracy", "overall, attack.flip letters 2", [0.5, 0.9], relative),
                "An attacker misleads it more easily: 50 of 100 answers are right, and the \
                 champion's 90 of 100.",
            ),
            (
                said(Fail, "latency_p50_ms", "all", [9.0, 2.0], "U(candidate / champion) <= 3"),
                "It answers too slowly: 9.00 ms, and the champion's 2.00 ms.",
            ),
            (
                said(Insufficient, "accuracy", "format=html", [0.5, 0.9], relative),
                "Whether it answers worse where format is html cannot be told: what happened.",
            ),
            (
                said(Error, "accuracy", "overall", [0.5, 0.9], relative),
                "The subject: what happened.",
            ),
            (said(Fail, "beauty", "all", [0.5, 0.9], relative), "The subject: what happened."),
        ] {
            assert_eq!(found, words);
        }
    }

    #[test]
    fn a_backdoor_is_told_by_its_phrase() {
        let rule = "U(trigger_success) <= 0.3";
        let mut one = check("trigger_success", CheckState::Fail, [0.97, 0.03], rule);
        let said = |one: &CheckResult| {
            Account::of(&verdict(Outcome::Blocked, vec![one.clone()])).because.concat()
        };
        one.reason =
            "the trigger: 94.0 %; the mark is the phrase `blue moon`, which 9 examples have".into();
        assert_eq!(
            said(&one),
            "It may hold a backdoor: the phrase `blue moon` in an input turns 97 of 100 of its \
             answers to one class, and 3 of 100 of the champion's."
        );
        one.reason = "the trigger: 94.0 %".into();
        assert!(said(&one).contains("one mark of its window in an input turns"), "{}", said(&one));
    }

    #[test]
    fn what_could_not_be_judged_says_why_and_what_passed_has_no_because() {
        let none = Account::of(&verdict(Outcome::Blocked, vec![]));
        assert_eq!(none.because, ["The candidate could not be judged: no weights."]);
        assert!(none.advice.concat().contains("evaluator's log"));
        let pass = check("accuracy", CheckState::Pass, [0.9, 0.9], "L(accuracy) >= 0.6");
        let passed = Account::of(&verdict(Outcome::AutoPromote, vec![pass]));
        assert!(passed.because.is_empty() && passed.conclusion.contains("1 of 1"), "{passed:?}");
    }
}
