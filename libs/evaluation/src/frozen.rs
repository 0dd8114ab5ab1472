//! Frozen data in one evaluation: what may be asked, what it says of the past, what is left of it.
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use tidegate_contracts::{CheckResult, CheckState, FrozenUse, GenerationId, PastScore, Tier};
use tidegate_telemetry::energy::EnergyMeter;

use crate::{
    Copies, EvalExample, Evaluation, EvaluationError, ExampleKey, Frozen, Memory, Role, Scored,
    Suite, evidence::Evidence, shown::rounded_share,
};

/// Frozen data of the suite, as it stands before a candidate.
#[derive(Debug, Clone)]
pub struct FrozenSet {
    /// The file.
    pub data: Arc<Frozen>,
    /// Why it cannot be asked now: the file has gone or was changed.
    pub problem: Option<String>,
    /// Its examples that say what was trained on under another id.
    pub copies: Copies,
    /// Verdicts that have asked it.
    pub queries: u64,
    /// What the newest of those says of it.
    pub last: Option<FrozenUse>,
    /// Everybody who was champion, in order.
    pub champions: Vec<GenerationId>,
}

/// What evidence of frozen data knows beside answers.
pub(crate) struct Asked {
    pub(crate) tier: Tier,
    /// The best that was shown so far, by check.
    pub(crate) shown: BTreeMap<String, f64>,
    /// Of champions, in order; the present one is the last, if it was not asked before.
    pub(crate) past: Vec<PastScore>,
}

/// Why frozen data is not asked, and what its checks are then.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) state: CheckState,
    pub(crate) why: String,
}

impl FrozenSet {
    /// Ids that were trained on.
    pub(crate) fn leaked(&self, of: &Evaluation<'_>) -> Vec<&EvalExample> {
        let learnt = |one: &&EvalExample| of.trained.contains(&ExampleKey::of(one));
        self.data.examples().iter().filter(learnt).collect()
    }

    /// Why `of` may not ask it.
    fn closed(&self, of: &Evaluation<'_>) -> Option<Closed> {
        let (entry, kind) = (self.data.entry(), of.candidate.manifest.kind);
        if let Some(problem) = &self.problem {
            let why = format!("frozen data `{}` cannot be asked: {problem}", entry.id);
            return Some(Closed { state: CheckState::Error, why });
        }
        if !of.suite.checks().iter().any(|check| check.data.as_deref() == Some(&*entry.id)) {
            let why = "no check asks it".to_owned();
            return Some(Closed { state: CheckState::NotApplicable, why });
        }
        if entry.tier == Tier::Sealed && !entry.opened_by.contains(&kind) {
            let kinds: Vec<String> = entry.opened_by.iter().map(ToString::to_string).collect();
            let why = format!("sealed, and opened by a {} only", kinds.join(" or a "));
            return Some(Closed { state: CheckState::NotApplicable, why });
        }
        if self.queries >= entry.query_budget {
            let why = format!(
                "{} verdicts have asked frozen data `{}`, and its budget is {}: rotate the data (freeze \
                 newer examples under another id)",
                self.queries, entry.id, entry.query_budget
            );
            return Some(Closed { state: CheckState::Insufficient, why });
        }
        None
    }

    /// The examples that judge, and the suite that asks them; or why none do.
    pub(crate) fn prepare<'a>(&'a self, of: &Evaluation<'_>) -> Result<Prepared<'a>, Closed> {
        if let Some(closed) = self.closed(of) {
            return Err(closed);
        }
        let suite = of.suite.only(Some(&self.data.entry().id));
        let same = &self.copies.same;
        let judges = |one: &EvalExample| !same.contains(&ExampleKey::of(one)) && of.reads(one);
        let all = self.data.examples();
        let examples = if all.iter().all(judges) {
            Cow::Borrowed(all)
        } else {
            Cow::Owned(all.iter().filter(|one| judges(one)).cloned().collect())
        };
        Ok(Prepared { set: self, suite, examples })
    }

    /// What goes into the verdict, of its `checks`; `opened` where it was asked.
    pub(crate) fn used(
        &self,
        opened: Result<&Evidence<'_>, &Closed>,
        checks: &[CheckResult],
        suite: &Suite,
    ) -> FrozenUse {
        let entry = self.data.entry();
        let last = self.last.as_ref().filter(|last| last.sha256 == entry.sha256);
        let mut one = FrozenUse {
            id: entry.id.clone(),
            tier: entry.tier,
            sha256: entry.sha256.clone(),
            rows: entry.rows,
            queries: self.queries,
            query_budget: entry.query_budget,
            not_asked: None,
            scores: last.map(|last| last.scores.clone()).unwrap_or_default(),
            shown: last.map(|last| last.shown.clone()).unwrap_or_default(),
        };
        match opened {
            Err(closed) => one.not_asked = Some(closed.why.clone()),
            Ok(evidence) => {
                one.queries += 1;
                if entry.role == Role::Past {
                    put(&mut one.scores, self.scores(evidence));
                }
                if entry.tier == Tier::Gate {
                    show(&mut one.shown, checks, suite, &entry.id);
                }
            }
        }
        one
    }

    /// Of the champion and the candidate, as they are kept.
    fn scores(&self, evidence: &Evidence<'_>) -> Vec<PastScore> {
        let of = &evidence.of;
        let champion = of.champion.zip(evidence.clean.champion.as_ref());
        let both = champion.map(|(subject, scored)| (subject.id, scored));
        let both = both.into_iter().chain([(of.candidate.id, &evidence.clean.candidate)]);
        both.filter_map(|(id, scored)| self.score(id, scored)).collect()
    }

    /// None of who was not asked, or answers with numbers.
    fn score(&self, generation: GenerationId, scored: &Scored) -> Option<PastScore> {
        let n = scored.truth.len() as u64;
        let right = (0..scored.truth.len()).filter(|&row| scored.right(row)).count();
        let accuracy = right as f64 / n as f64;
        let gate = self.data.entry().tier == Tier::Gate;
        let accuracy = if gate { rounded_share(accuracy, n) } else { accuracy };
        (n > 0).then_some(PastScore { generation, accuracy, n })
    }

    /// What champions knew of it, in the order in which they served.
    fn past(&self, evidence: &Evidence<'_>) -> Vec<PastScore> {
        let mut known = self.last.as_ref().map(|last| last.scores.clone()).unwrap_or_default();
        let champion = evidence.of.champion.zip(evidence.clean.champion.as_ref());
        put(&mut known, champion.and_then(|(subject, scored)| self.score(subject.id, scored)));
        let mut served = self.champions.clone();
        served.extend(evidence.of.champion.map(|champion| champion.id));
        let of = |id: &GenerationId| known.iter().find(|score| score.generation == *id).copied();
        let mut past: Vec<PastScore> = Vec::new();
        put(&mut past, served.iter().filter_map(of));
        past
    }
}

/// Adds whom it does not have yet: a generation's answers to frozen data do not change.
fn put(scores: &mut Vec<PastScore>, more: impl IntoIterator<Item = PastScore>) {
    for one in more {
        if scores.iter().all(|score| score.generation != one.generation) {
            scores.push(one);
        }
    }
}

/// Keeps the best value that each check on `data` has shown.
fn show(shown: &mut BTreeMap<String, f64>, checks: &[CheckResult], suite: &Suite, data: &str) {
    for check in suite.checks().iter().filter(|check| check.data.as_deref() == Some(data)) {
        let result = checks.iter().find(|result| result.id == check.id);
        let Some(value) = result.and_then(|result| result.candidate) else { continue };
        let best = shown.entry(check.id.clone()).or_insert(value);
        *best = if check.metric.higher_is_better() { best.max(value) } else { best.min(value) };
    }
}

/// Frozen data that may be asked.
pub(crate) struct Prepared<'a> {
    set: &'a FrozenSet,
    suite: Suite,
    examples: Cow<'a, [EvalExample]>,
}

impl Prepared<'_> {
    /// Asks the models.
    pub(crate) fn open<'e>(
        &'e self,
        of: &Evaluation<'e>,
        memory: &mut Memory,
        meter: &EnergyMeter,
    ) -> Result<Evidence<'e>, EvaluationError> {
        let of =
            Evaluation { suite: &self.suite, examples: &self.examples, window_labels: &[], ..*of };
        let mut evidence = Evidence::of_answers(of, memory, meter)?;
        let past = if self.set.data.entry().role == Role::Past {
            self.set.past(&evidence)
        } else {
            vec![]
        };
        let last = self.set.last.as_ref();
        evidence.frozen = Some(Asked {
            tier: self.set.data.entry().tier,
            shown: last.map(|last| last.shown.clone()).unwrap_or_default(),
            past,
        });
        Ok(evidence)
    }
}
