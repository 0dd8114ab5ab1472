//! From everything to a verdict.
use std::{borrow::Cow, collections::BTreeMap, time::Instant};

use chrono::Utc;
use tidegate_contracts::{
    ArtifactHash, CODE_VERSION, CheckResult, CheckState, DataEvidence, EnergyEvidence, FrozenUse,
    GenerationId, Golden, JobId, JobKind, LineEvidence, NO_LEAK, Outcome, Part, Severity, SuiteRef,
    Verdict, Window,
};
use tidegate_model::Input;
use tidegate_telemetry::energy::{Energy, EnergyMeter, carbon_at, grid_intensity};

use crate::{
    Check, EvalExample, Evaluation, EvaluationError, ExampleKey, FrozenSet, Memory, NearCopy,
    check::{self, Judged},
    evidence::{Evidence, digest},
    judge::effect,
    line,
    slices::Picture,
    stats::{benjamini_hochberg, holm, nearest_rank, wilson},
    suite::{COPIES, NEAR_COPIES},
};

/// Inputs with answers that a gateway repeats before it serves.
const GOLDEN: usize = 16;
const GOLDEN_BYTES: usize = 2 << 10;
/// Of a picture or a sound.
const GOLDEN_PART_BYTES: usize = 16 << 10;

/// Share of the held-out examples that may be copies before a person is asked.
const MOST_COPIES: f64 = 0.1;
/// Near copies, and leaked ids of one data set, that a reason names at most.
const SHOWN: usize = 5;

/// Judges a candidate. Never fails: what cannot be measured blocks, and says why. `memory` spares
/// the models what they have answered before; an empty one changes nothing but the time.
#[must_use]
pub fn evaluate(of: &Evaluation<'_>, memory: &mut Memory) -> Verdict {
    let (given, own) = (of.examples.len(), not_learnt(of));
    let of = &Evaluation { examples: &own, ..*of };
    let copied = given - own.len();
    let (examples, window_labels) = (read_by_any(of), read_by_champion(of));
    let unread = of.examples.len() - examples.len();
    let of = &Evaluation { examples: &examples, window_labels: &window_labels, ..*of };
    let began = Instant::now();
    let meter = EnergyMeter::detect();
    let stretch = meter.start();
    let examined = examine(of, [copied, given], memory, &meter);
    let Examined { checks, picture, golden, mut environment, frozen, line } = match examined {
        Ok(examined) => examined,
        Err(error) => {
            let refusal = Refusal::of(of, error.to_string());
            return Verdict { seconds: began.elapsed().as_secs_f64(), ..refusal.verdict() };
        }
    };
    if unread > 0 {
        let said = format!(
            "{unread} held-out examples have no part that a model here reads, or no number"
        );
        environment.insert("sample.unread".to_owned(), said);
    }
    let outcome = conclude(&checks);
    let fresh = of.examples.iter().filter(|example| example.fresh).count() as u64;
    Verdict {
        format: 1,
        generation: of.candidate.id,
        champion: of.champion.map(|champion| champion.id),
        job: of.candidate.manifest.job.clone(),
        kind: of.candidate.manifest.kind,
        suite: of.suite.reference(),
        issued: Utc::now(),
        seed: of.seed,
        outcome,
        reasons: reasons(&checks, outcome),
        data: DataEvidence {
            earlier: of.examples.len() as u64 - fresh,
            fresh,
            digest: digest(of.examples),
            window: of.window.clone(),
            leaked: leaked(&checks),
        },
        frozen,
        line,
        checks,
        slices: picture.slices,
        changed: picture.changed,
        energy: energy(stretch.stop(), of.region, of.pue),
        seconds: began.elapsed().as_secs_f64(),
        environment,
        golden,
    }
}

/// Held-out examples that can be asked.
fn read_by_any<'a>(of: &Evaluation<'a>) -> Cow<'a, [EvalExample]> {
    only(of.examples, |example| of.reads(example))
}

/// Held-out examples but for those that say what was learnt under another id: they tell nothing of a
/// candidate. Some of them come by chance, short texts above all, and nobody is to be blocked for that.
/// What was learnt under its own id stays: that is a leak, and [`no_leak`] looks for it here.
fn not_learnt<'a>(of: &Evaluation<'a>) -> Cow<'a, [EvalExample]> {
    only(of.examples, |example| {
        let key = ExampleKey::of(example);
        of.trained.contains(&key) || !of.copies.same.contains(&key)
    })
}

/// Labels that the champion can be asked about.
fn read_by_champion<'a>(of: &Evaluation<'a>) -> Cow<'a, [EvalExample]> {
    let Some(champion) = of.champion else { return Cow::Borrowed(of.window_labels) };
    let numbers = champion.predictor.levels().is_some();
    only(of.window_labels, |example| {
        champion.predictor.reads(&example.input) && (!numbers || example.label.number().is_some())
    })
}

fn only(examples: &[EvalExample], reads: impl Fn(&EvalExample) -> bool) -> Cow<'_, [EvalExample]> {
    if examples.iter().all(&reads) {
        return Cow::Borrowed(examples);
    }
    Cow::Owned(examples.iter().filter(|example| reads(example)).cloned().collect())
}

/// What a verdict says of what was asked.
struct Examined {
    checks: Vec<CheckResult>,
    picture: Picture,
    golden: Vec<Golden>,
    environment: BTreeMap<String, String>,
    frozen: Vec<FrozenUse>,
    line: Option<LineEvidence>,
}

fn examine(
    of: &Evaluation<'_>,
    [copied, given]: [usize; 2],
    memory: &mut Memory,
    meter: &EnergyMeter,
) -> Result<Examined, EvaluationError> {
    let stream = of.suite.of_stream();
    let evidence = Evidence::gather(Evaluation { suite: &stream, ..*of }, memory, meter)?;
    let prepared: Vec<_> = of.frozen.iter().map(|set| set.prepare(of)).collect();
    let mut opened = Vec::new();
    for one in &prepared {
        opened.push(match one {
            Ok(one) => Ok(one.open(of, memory, meter)?),
            Err(closed) => Err(closed),
        });
    }
    let judge = |check: &Check| {
        let Some(id) = &check.data else { return check::run(check, &evidence) };
        let at = of.frozen.iter().position(|set| set.data.entry().id == *id);
        match at.map(|at| &opened[at]) {
            Some(Ok(evidence)) => check::run(check, evidence),
            Some(Err(closed)) => check::closed(check, of, closed.state, &closed.why),
            None => check::closed(check, of, CheckState::Error, "its frozen data was not read"),
        }
    };
    let mut checks = by_chance(of.suite.checks().iter().map(judge).collect());
    let frozen = of.frozen.iter().zip(&opened);
    let frozen = frozen
        .map(|(set, one)| set.used(one.as_ref().map_err(|closed| *closed), &checks, of.suite));
    let frozen = frozen.collect();
    checks.push(no_leak(&evidence));
    checks.push(copies(&evidence, copied as u64, given as u64));
    checks.push(near_copies(&evidence));
    let mut facts = environment(&evidence);
    if let Some(anchor) = of.anchor.filter(|_| of.suite.asks_anchor()) {
        facts.insert("anchor".to_owned(), anchor.id.to_hex());
    }
    let picture = Picture::of(&evidence);
    if let Some(left_out) = picture.left_out() {
        facts.insert("sample.slices".to_owned(), left_out);
    }
    let line = line::evidence_of(&evidence);
    Ok(Examined { checks, picture, golden: golden(of)?, environment: facts, frozen, line })
}

/// Says of what failed how probable that would be by chance, so many checks being made at once
/// (Holm; and Benjamini and Hochberg, for lists that may hold a share of chance). It sorts and explains
/// what failed and decides nothing: a promotion needs every check, so none of them has to be stricter
/// for there being others.
fn by_chance(judged: Vec<Judged>) -> Vec<CheckResult> {
    let known: Vec<f64> = judged.iter().filter_map(|one| one.chance).collect();
    let mut adjusted = holm(&known).into_iter().zip(benjamini_hochberg(&known));
    let say = |Judged { mut result, chance }: Judged| {
        let adjusted = chance.and_then(|_| adjusted.next());
        if let (CheckState::Fail, Some((holm, hochberg))) = (result.state, adjusted) {
            let all = known.len();
            result.reason += &format!("; among {all} checks: Holm p {holm:.3}, BH q {hochberg:.3}");
            result.chance = Some(holm);
        }
        result
    };
    judged.into_iter().map(say).collect()
}

/// Asked of every candidate, whatever the suite says: an evaluation on what was learnt is none. Frozen
/// data that is not asked is looked at too: it may be asked tomorrow.
fn no_leak(evidence: &Evidence<'_>) -> CheckResult {
    let of = &evidence.of;
    let mut frozen = String::new();
    let mut leaked = evidence.leaked;
    for set in of.frozen {
        let learnt = set.leaked(of);
        leaked += learnt.len() as u64;
        if !learnt.is_empty() {
            let ids: Vec<&str> = learnt.iter().take(SHOWN).map(|one| one.id.as_str()).collect();
            let (entry, count) = (set.data.entry(), learnt.len());
            frozen += &format!("; {count} of {} of frozen data `{}` ", entry.rows, entry.id);
            frozen += &format!("({})", ids.join(", "));
        }
    }
    let state = if leaked == 0 { CheckState::Pass } else { CheckState::Fail };
    CheckResult {
        id: NO_LEAK.to_owned(),
        layer: tidegate_contracts::Layer::Quality,
        metric: "leaked_ids".to_owned(),
        data: None,
        slice: "all".to_owned(),
        severity: Severity::Block,
        state,
        candidate: Some(leaked as f64),
        baseline: None,
        interval: None,
        level: 1.0,
        method: "exact".to_owned(),
        n: of.examples.len() as u64,
        chance: None,
        rule: "leaked_ids = 0".to_owned(),
        reason: format!(
            "{} of {} held-out ids were trained on (of {} remembered): none may be{frozen}",
            evidence.leaked,
            of.examples.len(),
            of.trained.len()
        ),
    }
}

/// Examples that were left out because they were learnt under another id: where they are many, somebody
/// publishes again what is held out, or the stream says the same things over and over. Of held-out
/// examples and of each frozen data set; the worst is judged.
fn copies(evidence: &Evidence<'_>, copied: u64, given: u64) -> CheckResult {
    let of_frozen = |set: &FrozenSet| {
        let name = format!("examples of frozen data `{}`", set.data.entry().id);
        (name, set.copies.same.len() as u64, set.data.entry().rows)
    };
    let all = evidence.of.frozen.iter().map(of_frozen);
    let share = |(_, copied, given): &(String, u64, u64)| *copied as f64 / (*given).max(1) as f64;
    let (name, copied, given) = std::iter::once(("held-out examples".to_owned(), copied, given))
        .chain(all)
        .max_by(|one, other| share(one).total_cmp(&share(other)).then_with(|| other.0.cmp(&one.0)))
        .expect("there are always the held-out examples of the stream");
    let share = copied as f64 / given.max(1) as f64;
    CheckResult {
        id: COPIES.to_owned(),
        severity: Severity::Review,
        metric: "copied_share".to_owned(),
        state: if share <= MOST_COPIES { CheckState::Pass } else { CheckState::Fail },
        candidate: Some(share),
        n: given,
        rule: format!("copied_share <= {MOST_COPIES}"),
        reason: format!(
            "{copied} of {given} {name} say what was trained on under another id; they do not judge, and \
             at most {:.0} % may be so",
            100.0 * MOST_COPIES
        ),
        ..no_leak(evidence)
    }
}

/// Texts that say nearly what was trained on are said, for a person to look at: templates and
/// replies are alike without any leak, so this decides nothing.
fn near_copies(evidence: &Evidence<'_>) -> CheckResult {
    let of = &evidence.of;
    let frozen = of.frozen.iter().map(|set| &set.copies.near);
    let near: Vec<&NearCopy> = std::iter::once(&of.copies.near).chain(frozen).flatten().collect();
    let rows = of.frozen.iter().map(|set| set.data.entry().rows).sum::<u64>();
    let n = of.examples.len() as u64 + rows;
    let pair = |copy: &&NearCopy| {
        format!("{} is like {} ({:.2})", copy.held_out, copy.trained, copy.similarity)
    };
    let shown: Vec<String> = near.iter().take(SHOWN).map(pair).collect();
    let (interval, state) = if near.is_empty() {
        (None, CheckState::Pass)
    } else {
        (Some(wilson(near.len() as u64, n, evidence.of.suite.level()).pair()), CheckState::Fail)
    };
    CheckResult {
        id: NEAR_COPIES.to_owned(),
        severity: Severity::Warn,
        metric: "near_copies".to_owned(),
        state,
        candidate: Some(near.len() as f64 / n.max(1) as f64),
        interval,
        method: "minhash".to_owned(),
        rule: "near_copies = 0".to_owned(),
        reason: format!(
            "{} of {n} held-out texts are nearly ones that were trained on{}{}",
            near.len(),
            if shown.is_empty() { "" } else { ": " },
            shown.join(", ")
        ),
        ..no_leak(evidence)
    }
}

fn leaked(checks: &[CheckResult]) -> u64 {
    let found = checks.iter().rfind(|check| check.id == NO_LEAK);
    found.and_then(|check| check.candidate).unwrap_or_default() as u64
}

/// The worst effect of any check. A suite none of whose blocking checks passed has judged nothing.
fn conclude(checks: &[CheckResult]) -> Outcome {
    let worst = checks
        .iter()
        .map(|check| effect(check.severity, check.state))
        .max_by_key(|outcome| gravity(*outcome))
        .unwrap_or(Outcome::NeedsApproval);
    let judged = checks.iter().any(|check| {
        check.id != NO_LEAK && check.severity == Severity::Block && check.state == CheckState::Pass
    });
    if worst == Outcome::AutoPromote && !judged { Outcome::NeedsApproval } else { worst }
}

const fn gravity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::AutoPromote => 0,
        Outcome::NeedsApproval => 1,
        Outcome::Blocked => 2,
    }
}

/// In words, the worst first, of equals the surest.
fn reasons(checks: &[CheckResult], outcome: Outcome) -> Vec<String> {
    let mut open: Vec<&CheckResult> = checks
        .iter()
        .filter(|check| !matches!(check.state, CheckState::Pass | CheckState::NotApplicable))
        .collect();
    let weight = |check: &CheckResult| {
        let failed = matches!(check.state, CheckState::Fail | CheckState::Error);
        (gravity(effect(check.severity, check.state)), failed)
    };
    open.sort_by(|a, b| {
        let surest = |check: &CheckResult| check.chance.unwrap_or(1.0);
        weight(b).cmp(&weight(a)).then(surest(a).total_cmp(&surest(b)))
    });
    let say = |check: &&CheckResult| {
        let said_only = effect(check.severity, check.state) == Outcome::AutoPromote;
        let prefix = if said_only { "for information: " } else { "" };
        format!("{prefix}{}", check.reason)
    };
    let mut reasons: Vec<String> = open.iter().map(say).collect();
    let passed = checks.iter().filter(|check| check.state == CheckState::Pass).count();
    match outcome {
        Outcome::AutoPromote => {
            reasons.insert(0, format!("every required check passed ({passed} checks passed)"));
        }
        Outcome::NeedsApproval if reasons.iter().all(|r| r.starts_with("for information")) => {
            reasons.insert(0, "no blocking check could judge this candidate".to_owned());
        }
        _ => {}
    }
    reasons
}

/// Short inputs spread over the examples, with the candidate's answers to exactly these bytes.
fn golden(of: &Evaluation<'_>) -> Result<Vec<Golden>, EvaluationError> {
    let step = of.examples.len().div_ceil(GOLDEN).max(1);
    // What a bound leaves nothing of, or that the candidate does not read, it cannot repeat.
    let blank = |part: &Part| matches!(part, Part::Text(text) if text.trim().is_empty());
    let readable = |input: &Input| {
        !input.parts.is_empty()
            && !input.parts.iter().any(blank)
            && of.candidate.predictor.reads(input)
    };
    let inputs: Vec<Input> = of
        .examples
        .iter()
        .step_by(step)
        .map(|example| example.input.bounded(GOLDEN_BYTES, GOLDEN_PART_BYTES))
        .filter(readable)
        .collect();
    if inputs.is_empty() {
        return Ok(vec![]);
    }
    let model = |source| EvaluationError::Model { who: "candidate", source };
    let answers = of.candidate.predictor.predict(&inputs).map_err(model)?;
    let pairs = inputs.into_iter().zip(answers);
    Ok(pairs.map(|(input, answer)| input.into_golden(answer.probabilities)).collect())
}

fn energy(used: Energy, region: &str, pue: f64) -> EnergyEvidence {
    let emitted = |joules| grid_intensity(region).map(|grid| carbon_at(joules, pue, grid));
    EnergyEvidence {
        method: used.method.as_str().to_owned(),
        joules: used.joules,
        gco2e: used.joules.and_then(emitted),
        region: region.to_owned(),
    }
}

/// The machine, the code, and what was capped or left out.
fn environment(evidence: &Evidence<'_>) -> BTreeMap<String, String> {
    let mut facts = machine();
    let mut say = |name: &str, value: String| {
        facts.insert(name.to_owned(), value);
    };
    let all = evidence.of.examples.len();
    let perturbed = evidence.tables.largest();
    say("sample.perturbed", format!("{perturbed} of {all}: the newest, each class by its share"));
    for (attack, said) in &evidence.attacks.facts {
        say(attack, said.clone());
    }
    let asked = evidence.agreement.asked();
    say("sample.label_agreement", format!("{asked} labels of classes the champion knows"));
    say("sample.label_agreement_unknown", evidence.agreement.unknown.to_string());
    say("sample.trained_ids", evidence.of.trained.len().to_string());
    say("pue", evidence.of.pue.to_string());
    say("error_budget", line::error_budget(&evidence.of));
    if let Some(server) = &evidence.server {
        say("server.lag_p99_ms", format!("{:.3}", server.lag_p99_ms()));
        say("server.queries", server.candidate.latencies_ms.len().to_string());
    }
    for (who, samples) in
        [("candidate", &evidence.latency.candidate), ("champion", &evidence.latency.champion)]
    {
        let mut sorted: Vec<f64> = samples.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            if let Some(ms) = nearest_rank(&sorted, q) {
                say(&format!("latency_ms.{who}.{name}"), format!("{ms:.3}"));
            }
        }
    }
    facts
}

fn machine() -> BTreeMap<String, String> {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let facts = [
        ("code", CODE_VERSION.to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("cpus", cpus.to_string()),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A candidate that could not be judged at all: its files are missing or altered, or a model does
/// not answer.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who.
    pub generation: GenerationId,
    /// Who served.
    pub champion: Option<GenerationId>,
    /// The job that made it.
    pub job: JobId,
    /// The kind of that job.
    pub kind: JobKind,
    /// The suite that would have judged.
    pub suite: SuiteRef,
    /// The candidate's window.
    pub window: Window,
    /// The grid that would have been assumed.
    pub region: String,
    /// Of the evaluation.
    pub seed: u64,
    /// Why, in words.
    pub reason: String,
}

impl Refusal {
    fn of(of: &Evaluation<'_>, reason: String) -> Self {
        Self {
            generation: of.candidate.id,
            champion: of.champion.map(|champion| champion.id),
            job: of.candidate.manifest.job.clone(),
            kind: of.candidate.manifest.kind,
            suite: of.suite.reference(),
            window: of.window.clone(),
            region: of.region.to_owned(),
            seed: of.seed,
            reason,
        }
    }

    /// The verdict: blocked, for this reason.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        Verdict {
            format: 1,
            generation: self.generation,
            champion: self.champion,
            job: self.job,
            kind: self.kind,
            suite: self.suite,
            issued: Utc::now(),
            seed: self.seed,
            outcome: Outcome::Blocked,
            reasons: vec![format!("the candidate could not be judged: {}", self.reason)],
            checks: vec![],
            slices: vec![],
            changed: vec![],
            data: DataEvidence {
                earlier: 0,
                fresh: 0,
                digest: ArtifactHash::of(b""),
                window: self.window,
                leaked: 0,
            },
            energy: EnergyEvidence {
                method: "none".to_owned(),
                joules: None,
                gco2e: None,
                region: self.region,
            },
            seconds: 0.0,
            environment: machine(),
            frozen: vec![],
            line: None,
            golden: vec![],
        }
    }
}
