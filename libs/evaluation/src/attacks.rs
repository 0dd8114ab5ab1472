//! Attacks on both models, each by itself, and whether what they found is to be believed.
//!
//! A model whose slopes say nothing looks robust and is not. So each attack is held against what must
//! be true of an honest one (Athalye et al. 2018, arXiv 1802.00420; Carlini et al. 2019, arXiv
//! 1902.06705): a change without bound leaves next to nothing right; many steps do no less harm than
//! one; a larger budget does no less than a smaller; and a black box that asks 200 times does no
//! more than the slopes.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tidegate_contracts::{ArtifactHash, CheckState};
use tidegate_model::{Attack, Attacked, Input, Means, Method, ModelError, Scores, Space, Spread};

use crate::{
    Classes, EvalExample, Evaluation, EvaluationError, Predictor, Subject, Under,
    evidence::{Table, newest, scored},
    perturb::hashed,
    stats::{Paired, wilson},
    under::{QUERIES, has_part},
};

/// Of what was right, this share at most may be left by an attack without bound.
const LEFT: f64 = 0.1;

/// Why an attack cannot be judged by.
#[derive(Debug, Clone)]
pub(crate) struct NoAttack {
    pub(crate) state: CheckState,
    pub(crate) why: String,
}

impl From<(CheckState, String)> for NoAttack {
    fn from((state, why): (CheckState, String)) -> Self {
        Self { state, why }
    }
}

/// What attacks found.
#[derive(Debug, Default)]
pub(crate) struct Attacks {
    /// On those rows that were attacked.
    pub(crate) tables: Vec<(Under, Table)>,
    pub(crate) not: Vec<(Attack, NoAttack)>,
    /// For the verdict: what each control counted.
    pub(crate) facts: BTreeMap<String, String>,
}

impl Attacks {
    pub(crate) fn problem(&self, attack: &Attack) -> Option<&NoAttack> {
        self.not.iter().find(|(one, _)| one == attack).map(|(_, not)| not)
    }
}

/// Both models' answers to all examples as they are.
#[derive(Clone, Copy)]
pub(crate) struct Clean<'a> {
    pub(crate) table: &'a Table,
    pub(crate) candidate: &'a [Scores],
    pub(crate) champion: Option<&'a [Scores]>,
}

/// Makes every attack that the suite asks for.
pub(crate) fn attacked(
    of: &Evaluation<'_>,
    classes: &Classes,
    spread: &Spread,
    clean: Clean<'_>,
) -> Result<Attacks, EvaluationError> {
    let limits = of.suite.limits();
    let until = Instant::now() + Duration::from_millis(limits.attack_ms);
    let mut attacks = Attacks::default();
    for attack in of.suite.attacks() {
        let part = attack.space.part();
        let candidate = of.candidate.predictor;
        let concerned = |example: &EvalExample| {
            has_part(&example.input, part) && candidate.reads(&example.input)
        };
        let rows = newest(of, limits.attack_rows, concerned);
        let digest = of.suite.reference().digest;
        let field = Field { of, classes, spread, clean, rows, digest, until };
        match field.attack(&attack, &mut attacks.facts)? {
            Ok(table) => attacks.tables.push((Under::Attacked(attack), table)),
            Err(not) => attacks.not.push((attack, not)),
        }
    }
    Ok(attacks)
}

/// One attack's examples.
struct Field<'a> {
    of: &'a Evaluation<'a>,
    classes: &'a Classes,
    spread: &'a Spread,
    clean: Clean<'a>,
    rows: Vec<usize>,
    digest: ArtifactHash,
    until: Instant,
}

/// One model's answers under one attack, by row.
struct Answers {
    scores: Vec<Scores>,
    /// Right as it is, and under the attack.
    right: Vec<(bool, bool)>,
    queries: u64,
    /// Rows that the attack could change.
    changed: usize,
}

impl Answers {
    fn left(&self) -> (u64, u64) {
        let was = self.right.iter().filter(|(was, _)| *was).count();
        (self.right.iter().filter(|(_, is)| *is).count() as u64, was as u64)
    }

    /// This attack's right rows beside another's.
    fn beside(&self, other: &Self) -> Paired {
        Paired::count(self.right.iter().zip(&other.right).map(|(one, other)| (one.1, other.1)))
    }
}

type Made<T> = Result<Result<T, NoAttack>, EvaluationError>;

/// The same for who only goes on with what was made.
macro_rules! made {
    ($found:expr) => {
        match $found? {
            Ok(made) => made,
            Err(not) => return Ok(Err(not)),
        }
    };
}

impl Field<'_> {
    fn attack(&self, attack: &Attack, facts: &mut BTreeMap<String, String>) -> Made<Table> {
        if self.of.answers_numbers() {
            let why = "attacks are of classes, and these answers are numbers".to_owned();
            return Ok(Err((CheckState::NotApplicable, why).into()));
        }
        if self.rows.is_empty() {
            let (all, part) = (self.of.examples.len(), attack.space.part());
            let why = format!("none of {all} held-out examples has a part `{part}` that is read");
            return Ok(Err((CheckState::NotApplicable, why).into()));
        }
        let candidate = made!(self.answers("candidate", &self.of.candidate, attack));
        if candidate.changed == 0 && candidate.left().1 > 0 {
            let why = format!("the candidate reads no part `{}`", attack.space.part());
            return Ok(Err((CheckState::NotApplicable, why).into()));
        }
        let champion = match &self.of.champion {
            None => None,
            Some(champion) => Some(made!(self.answers("champion", champion, attack))),
        };
        let of = |subject: &Subject<'_>, answers: &Answers| {
            scored(self.of, self.classes, subject.predictor, &self.rows, &answers.scores)
        };
        let table = Table {
            examples: self.rows.clone(),
            candidate: of(&self.of.candidate, &candidate)?,
            champion: match (&self.of.champion, &champion) {
                (Some(subject), Some(answers)) => Some(of(subject, answers)?),
                _ => None,
            },
            anchor: None,
        };
        let (left, was) = candidate.left();
        let asked = candidate.queries / was.max(1);
        let mut said = format!(
            "candidate {left} of {was} right ones left ({} examples, {asked} questions each)",
            self.rows.len()
        );
        if let Some((left, was)) = champion.as_ref().map(Answers::left) {
            said += &format!("; champion {left} of {was}");
        }
        let trusted = self.controls(attack, &candidate, &mut said);
        facts.insert(attack.to_string(), said);
        made!(trusted);
        Ok(Ok(table))
    }

    /// What an honest attack cannot fail. `said` gets what each counted.
    fn controls(&self, attack: &Attack, found: &Answers, said: &mut String) -> Made<()> {
        let ask = |control: Attack| self.answers("candidate", &self.of.candidate, &control);
        let level = self.of.suite.level();
        let mut broken: Vec<String> = Vec::new();
        // The stronger attack must not leave more right than the weaker.
        let beyond = |weaker: &Answers, stronger: &Answers, words: &str| {
            let (more, less) = (stronger.left().0, weaker.left().0);
            let surely = stronger.beside(weaker).newcombe(level).low > 0.0;
            surely.then(|| format!("{words} ({more} left, and {less})"))
        };
        if matches!(attack.method, Method::Fgsm | Method::PgdLinf | Method::PgdL2) {
            if attack.method == Method::PgdLinf {
                let one = made!(ask(Attack { method: Method::Fgsm, restarts: 0, ..*attack }));
                *said += &format!("; FGSM {}", one.left().0);
                broken.extend(beyond(&one, found, "many steps do less harm than one"));
            }
            let half = made!(ask(Attack { eps: attack.eps / 2.0, ..*attack }));
            let twice = made!(ask(Attack { eps: attack.eps * 2.0, ..*attack }));
            *said += &format!("; half of eps {}, twice {}", half.left().0, twice.left().0);
            broken.extend(beyond(&half, found, "the budget does less harm than half of it"));
            broken.extend(beyond(found, &twice, "twice the budget does less harm"));
            let all = made!(ask(Attack { eps: without_bound(attack.space), ..*attack }));
            let (left, was) = all.left();
            *said += &format!("; without bound {left}");
            if wilson(left, was, level).low > LEFT {
                broken.push(format!("{left} of {was} stay right whatever is changed"));
            }
        }
        if !matches!(attack.method, Method::Random(_)) {
            let method = Method::Random(attack.method.norm());
            let black = made!(ask(Attack { method, steps: QUERIES, restarts: 0, ..*attack }));
            *said += &format!("; black box {}", black.left().0);
            broken.extend(beyond(&black, found, "a black box does more harm than the slopes"));
        }
        if broken.is_empty() {
            return Ok(Ok(()));
        }
        let why = format!("robustness untrusted: {}", broken.join("; "));
        Ok(Err((CheckState::Inconclusive, why).into()))
    }

    /// Of those that are right as they are; who is wrong already stays so.
    fn answers(&self, who: &'static str, subject: &Subject<'_>, attack: &Attack) -> Made<Answers> {
        let (clean, scores) = match who {
            "champion" => (self.clean.table.champion.as_ref(), self.clean.champion),
            _ => (Some(&self.clean.table.candidate), Some(self.clean.candidate)),
        };
        let (clean, scores) = clean.zip(scores).expect("who is attacked has answered");
        let predictor = subject.predictor;
        let output = |row: usize| {
            let label = &self.of.examples[row].label;
            predictor.labels().iter().position(|one| one == label)
        };
        let mut answers = Answers {
            scores: self.rows.iter().map(|&row| scores[row].clone()).collect(),
            right: self.rows.iter().map(|&row| (clean.right(row), clean.right(row))).collect(),
            queries: 0,
            changed: 0,
        };
        let asked: Vec<(usize, usize)> = (0..self.rows.len())
            .filter(|&at| answers.right[at].0)
            .filter_map(|at| Some((at, output(self.rows[at])?)))
            .collect();
        let found = self.ask(predictor, &asked, attack);
        let found = match found {
            None => {
                let why = format!("the {who} has no slopes that could be attacked");
                return Ok(Err((CheckState::NotApplicable, why).into()));
            }
            Some(found) => found.map_err(|source| EvaluationError::Model { who, source })?,
        };
        for ((at, class), found) in asked.into_iter().zip(found) {
            match found {
                Attacked::Answer { scores, queries, .. } => {
                    answers.right[at].1 = scores.best().0 == class;
                    answers.scores[at] = scores;
                    answers.queries += u64::from(queries);
                    answers.changed += 1;
                }
                Attacked::Nothing => {}
                Attacked::Unfinished => {
                    let limit = self.of.suite.limits().attack_ms;
                    let why = format!("not finished within limits.attack_ms ({limit} ms)");
                    return Ok(Err((CheckState::Inconclusive, why).into()));
                }
            }
        }
        Ok(Ok(answers))
    }

    fn ask(
        &self,
        predictor: &dyn Predictor,
        asked: &[(usize, usize)],
        attack: &Attack,
    ) -> Option<Result<Vec<Attacked>, ModelError>> {
        let example = |at: usize| &self.of.examples[self.rows[at]];
        let inputs: Vec<Input> = asked.iter().map(|&(at, _)| example(at).input.clone()).collect();
        let classes: Vec<usize> = asked.iter().map(|&(_, class)| class).collect();
        // The budget is no part of it: what differs between two budgets is the budget alone.
        let name = [attack.method.as_str(), attack.space.as_str()].concat();
        let parts: [&[u8]; 2] = [self.digest.as_bytes(), name.as_bytes()];
        let seed = |&(at, _): &(usize, usize)| hashed(&parts, example(at).id.as_str(), 0);
        let seeds: Vec<u64> = asked.iter().map(seed).collect();
        let means = Means { seeds: &seeds, spread: self.spread, until: self.until };
        predictor.attacked(&inputs, &classes, attack, &means)
    }
}

/// A budget that leaves nothing of what was there.
const fn without_bound(space: Space) -> f64 {
    match space {
        Space::Pixels => 255.0,
        Space::Waveform => 3.0,
        _ => 10.0,
    }
}
