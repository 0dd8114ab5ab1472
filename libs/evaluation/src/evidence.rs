//! What is judged, and the answers of both models to it.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use tidegate_contracts::{
    ArtifactHash, Class, Domain, EventId, GenerationId, Manifest, Producer, Window,
};
use tidegate_model::{Attack, Attacked, Input, Levels, Means, Model, ModelError, Scores, Spread};
use tidegate_telemetry::energy::{EnergyMeter, EnergyMethod};

use crate::{
    Check, Classes, EvaluationError, FrozenSet, Line, Metric, Numbers, Scored, Suite,
    attacks::{Attacks, Clean, attacked},
    frozen::Asked,
    load::{Latency, Pair, Throughput},
    numbers::covers,
    producers::{self, Producers},
    robust::{Tables, perturbed},
    server::Server,
    triggers::{self, Triggers},
};

/// Labels of the candidate's window that are put to the champion at most, evenly spread.
const AGREEMENT_ROWS: usize = 500;

/// Answers of one generation that are remembered at most.
const REMEMBERED: usize = 50_000;

/// What answers. Judging needs no more of a model.
pub trait Predictor: Sync {
    /// The classes, by output.
    fn labels(&self) -> &[Class];

    /// Scores of each input, in order.
    ///
    /// # Errors
    /// Whatever keeps the model from answering.
    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError>;

    /// What its outputs stand for where it answers with numbers.
    fn levels(&self) -> Option<&Levels> {
        None
    }

    /// Whether it reads any part of this input. Only of such it is asked.
    fn reads(&self, _input: &Input) -> bool {
        true
    }

    /// What its head reads of each input, of length 1, in order; zeros of what it cannot read. Nothing
    /// of one that has no head to show.
    fn embedded(&self, _inputs: &[Input]) -> Option<Result<Vec<Vec<f32>>, ModelError>> {
        None
    }

    /// Answers after an attack on this very model, in order; `classes` are the right ones, by output.
    /// Nothing of one that cannot be attacked.
    fn attacked(
        &self,
        _inputs: &[Input],
        _classes: &[usize],
        _attack: &Attack,
        _means: &Means<'_>,
    ) -> Option<Result<Vec<Attacked>, ModelError>> {
        None
    }
}

impl Predictor for Model {
    fn labels(&self) -> &[Class] {
        Self::labels(self)
    }

    fn levels(&self) -> Option<&Levels> {
        Self::levels(self)
    }

    /// Of an input that cannot be read, every class is as likely.
    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        let answer = |answer| match answer {
            Err(ref error) if ModelError::is_of_input(error) => Ok(no_idea(self)),
            other => other,
        };
        self.predict_each(inputs).into_iter().map(answer).collect()
    }

    fn reads(&self, input: &Input) -> bool {
        Self::reads(self, input)
    }

    fn embedded(&self, inputs: &[Input]) -> Option<Result<Vec<Vec<f32>>, ModelError>> {
        let zeros = || vec![0.0; self.architecture().d_model];
        let one = |input: &Input| match self.embed(std::slice::from_ref(input)) {
            Ok(mut all) => Ok(all.swap_remove(0)),
            Err(error) if error.is_of_input() => Ok(zeros()),
            Err(error) => Err(error),
        };
        Some(match self.embed(inputs) {
            Err(error) if error.is_of_input() => inputs.iter().map(one).collect(),
            other => other,
        })
    }

    fn attacked(
        &self,
        inputs: &[Input],
        classes: &[usize],
        attack: &Attack,
        means: &Means<'_>,
    ) -> Option<Result<Vec<Attacked>, ModelError>> {
        Some(Self::attacked(self, inputs, classes, attack, means))
    }
}

/// An event's identity: its id within its domain, hashed, so that millions fit in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExampleKey([u8; 16]);

impl ExampleKey {
    /// The key of an event.
    #[must_use]
    pub fn new(domain: &Domain, id: &EventId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(domain.as_str().len() as u64).to_le_bytes());
        hasher.update(domain.as_str().as_bytes());
        hasher.update(id.as_str().as_bytes());
        Self(half(&hasher.finalize()))
    }

    /// The key of the event that an example is from.
    #[must_use]
    pub fn of(example: &EvalExample) -> Self {
        Self::new(&example.domain, &example.id)
    }
}

fn half(hash: &blake3::Hash) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes
}

/// One labelled example that judges.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalExample {
    /// The event it is from.
    pub id: EventId,
    /// Where that comes from.
    pub domain: Domain,
    /// What models see.
    pub input: Input,
    /// The class, or the number in decimal notation.
    pub label: Class,
    /// Fairness attributes.
    pub groups: BTreeMap<String, String>,
    /// Who says to have published it.
    pub producer: Option<Producer>,
    /// Of the candidate's own window, not of one before.
    pub fresh: bool,
}

/// Held-out examples that say the same as training-side ones under other ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copies {
    /// The same content, but for case and white space: they do not judge.
    pub same: HashSet<ExampleKey>,
    /// Nearly the same text.
    pub near: Vec<NearCopy>,
}

/// Two texts that are nearly the same.
#[derive(Debug, Clone, PartialEq)]
pub struct NearCopy {
    /// The one that judges.
    pub held_out: EventId,
    /// The one that was trained on.
    pub trained: String,
    /// Estimated share of shingles that both have.
    pub similarity: f64,
}

/// A generation under judgement, or the one it is compared with.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Its name.
    pub id: GenerationId,
    /// What answers for it.
    pub predictor: &'a dyn Predictor,
    /// Where it comes from.
    pub manifest: &'a Manifest,
}

/// Everything that one evaluation takes.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// What is asked.
    pub suite: &'a Suite,
    /// Who is judged.
    pub candidate: Subject<'a>,
    /// Who serves now.
    pub champion: Option<Subject<'a>>,
    /// Who the champion's line of hot updates began with; it may be the champion itself.
    pub anchor: Option<Subject<'a>>,
    /// Held-out labelled examples, the oldest first.
    pub examples: &'a [EvalExample],
    /// Training-side labelled records that the candidate learnt and the champion did not, the
    /// oldest first: the champion is asked about them before they are believed.
    pub window_labels: &'a [EvalExample],
    /// What was trained on, as far as it is remembered.
    pub trained: &'a HashSet<ExampleKey>,
    /// Held-out examples that say what was trained on under another id.
    pub copies: &'a Copies,
    /// What the examples were read from.
    pub window: &'a Window,
    /// The suite's frozen data, in its order.
    pub frozen: &'a [FrozenSet],
    /// The candidates since the anchor.
    pub line: Line,
    /// The grid whose carbon intensity is assumed.
    pub region: &'a str,
    /// How many times the energy of its machines the building takes; 1 or more.
    pub pue: f64,
    /// Of every random choice.
    pub seed: u64,
}

impl Evaluation<'_> {
    /// Whether the candidate answers with numbers.
    pub(crate) fn answers_numbers(&self) -> bool {
        self.candidate.predictor.levels().is_some()
    }

    /// Whether candidate or champion reads it: what one of them reads, the other is held against. Where
    /// numbers are answered, its label must be one.
    pub(crate) fn reads(&self, example: &EvalExample) -> bool {
        let champion = self.champion.map(|champion| champion.predictor);
        let input = &example.input;
        if self.answers_numbers() && example.label.number().is_none() {
            return false;
        }
        self.candidate.predictor.reads(input) || champion.is_some_and(|model| model.reads(input))
    }

    /// The confidence level of a check of this candidate.
    pub(crate) fn level(&self, check: &Check) -> f64 {
        check.level(self.suite, self.line)
    }

    /// Whether champion and anchor answer in the same way, as far as there are any.
    pub(crate) fn is_comparable(&self) -> bool {
        let numbers = self.answers_numbers();
        let mut others = self.champion.iter().chain(&self.anchor);
        others.all(|other| other.predictor.levels().is_some() == numbers)
    }
}

/// Answers to unperturbed inputs, kept from one evaluation to the next: a champion is asked only
/// about what is new. Holds the generations of the latest evaluation.
#[derive(Debug, Default)]
pub struct Memory {
    answers: HashMap<GenerationId, HashMap<[u8; 16], Scores>>,
}

impl Memory {
    pub(crate) fn ask(
        &mut self,
        who: &'static str,
        subject: &Subject<'_>,
        inputs: &[&Input],
    ) -> Result<Vec<Scores>, EvaluationError> {
        let known = self.answers.entry(subject.id).or_default();
        if known.len() > REMEMBERED {
            known.clear();
        }
        let key = |input: &&Input| half(&blake3::hash(&input.canonical()));
        let keys: Vec<_> = inputs.iter().map(key).collect();
        let new: Vec<usize> =
            (0..keys.len()).filter(|&row| !known.contains_key(&keys[row])).collect();
        let asked: Vec<&Input> = new.iter().map(|&row| inputs[row]).collect();
        let answers = ask(who, subject.predictor, &asked)?;
        known.extend(new.iter().map(|&row| keys[row]).zip(answers));
        Ok(keys.iter().map(|key| known[key].clone()).collect())
    }

    fn keep_only(&mut self, generations: &[GenerationId]) {
        self.answers.retain(|id, _| generations.contains(id));
    }
}

pub(crate) fn ask(
    who: &'static str,
    predictor: &dyn Predictor,
    inputs: &[&Input],
) -> Result<Vec<Scores>, EvaluationError> {
    let read: Vec<bool> = inputs.iter().map(|input| predictor.reads(input)).collect();
    let readable = inputs.iter().zip(&read).filter(|(_, read)| **read);
    let asked: Vec<Input> = readable.map(|(input, _)| (*input).clone()).collect();
    if asked.is_empty() {
        return Ok(inputs.iter().map(|_| no_idea(predictor)).collect());
    }
    let answers =
        predictor.predict(&asked).map_err(|source| EvaluationError::Model { who, source })?;
    if answers.len() != asked.len() {
        let (asked, answered) = (asked.len(), answers.len());
        return Err(EvaluationError::BadAnswer(format!(
            "the {who} was asked {asked} and answered {answered}"
        )));
    }
    let mut answers = answers.into_iter();
    let answer = |read: bool| if read { answers.next() } else { None };
    let all = read.into_iter().map(answer);
    Ok(all.map(|answer| answer.unwrap_or_else(|| no_idea(predictor))).collect())
}

/// What who cannot read the input has to say: every class is as likely.
fn no_idea(predictor: &dyn Predictor) -> Scores {
    let classes = predictor.labels().len();
    Scores { probabilities: vec![1.0 / classes as f32; classes] }
}

/// Both models' answers to the same inputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// The example of each row.
    pub(crate) examples: Vec<usize>,
    pub(crate) candidate: Scored,
    pub(crate) champion: Option<Scored>,
    /// Only of inputs as they are.
    pub(crate) anchor: Option<Scored>,
}

/// How the champion agrees with the labels of the candidate's window, class by class: a window
/// with other shares of the classes than before says nothing against its labels.
#[derive(Debug, Default, Clone)]
pub(crate) struct Agreement {
    /// One a class that the champion knows and the window has.
    pub(crate) classes: Vec<ClassAgreement>,
    /// Labels of classes that the champion does not know, which say nothing.
    pub(crate) unknown: u64,
}

/// Agreed and asked, of one class's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassAgreement {
    pub(crate) class: Class,
    /// On held-out examples of earlier windows.
    pub(crate) earlier: (u64, u64),
    /// On the candidate's window.
    pub(crate) window: (u64, u64),
}

impl Agreement {
    /// Labels of the window that were put to the champion.
    pub(crate) fn asked(&self) -> u64 {
        self.classes.iter().map(|class| class.window.1).sum()
    }
}

/// All that checks are judged by.
pub(crate) struct Evidence<'a> {
    pub(crate) of: Evaluation<'a>,
    pub(crate) classes: Classes,
    pub(crate) clean: Table,
    /// What checks ask beside the inputs as they are.
    pub(crate) tables: Tables,
    pub(crate) attacks: Attacks,
    pub(crate) agreement: Agreement,
    pub(crate) triggers: Triggers,
    pub(crate) producers: Producers,
    pub(crate) leaked: u64,
    /// Of frozen data.
    pub(crate) frozen: Option<Asked>,
    pub(crate) latency: Latency,
    pub(crate) throughput: Throughput,
    /// Where a check asks for it.
    pub(crate) server: Option<Server>,
    pub(crate) energy_method: EnergyMethod,
}

impl<'a> Evidence<'a> {
    /// All that there is to see on held-out examples of the stream.
    pub(crate) fn gather(
        of: Evaluation<'a>,
        memory: &mut Memory,
        meter: &EnergyMeter,
    ) -> Result<Self, EvaluationError> {
        let mut one = Self::of_answers(of, memory, meter)?;
        one.agreement = agreement(&of, memory, &one.clean)?;
        if of.suite.asks(Metric::TriggerSuccess) {
            one.triggers = triggers::scan(&of, memory, &one.clean.candidate)?;
        }
        let asks_producers = [Metric::ProducerDispute, Metric::ProducerInfluence];
        if asks_producers.iter().any(|&metric| of.suite.asks(metric)) {
            one.producers = producers::gather(&of, memory)?;
        }
        one.measure(meter)?;
        Ok(one)
    }

    /// Time and energy of answering.
    fn measure(&mut self, meter: &EnergyMeter) -> Result<(), EvaluationError> {
        let of = &self.of;
        let pair = Pair {
            candidate: of.candidate.predictor,
            champion: of.champion.map(|champion| champion.predictor),
        };
        let both_read = |input: &Input| {
            pair.candidate.reads(input) && pair.champion.is_none_or(|model| model.reads(input))
        };
        let newest = newest(of, 64, |example| both_read(&example.input));
        let inputs: Vec<Input> = newest.iter().map(|&row| of.examples[row].input.clone()).collect();
        let limits = of.suite.limits();
        self.latency = Latency::measure(pair, &inputs, Duration::from_millis(limits.latency_ms))?;
        let budget = Duration::from_millis(limits.throughput_ms);
        self.throughput = Throughput::measure(pair, &inputs, meter, budget)?;
        if of.suite.asks_server() {
            let (qps, budget) = (limits.server_qps.into(), Duration::from_millis(limits.server_ms));
            self.server = Server::measure(pair, &inputs, qps, budget, of.seed)?;
        }
        Ok(())
    }

    /// What is answered to the examples, as they are and under what the suite asks.
    pub(crate) fn of_answers(
        of: Evaluation<'a>,
        memory: &mut Memory,
        meter: &EnergyMeter,
    ) -> Result<Self, EvaluationError> {
        if !of.is_comparable() {
            return Err(EvaluationError::OtherKind);
        }
        let mut subjects = vec![of.candidate.id];
        subjects.extend(of.champion.iter().chain(&of.anchor).map(|other| other.id));
        memory.keep_only(&subjects);
        let classes = classes(&of);
        let all: Vec<usize> = (0..of.examples.len()).collect();
        let inputs: Vec<&Input> = of.examples.iter().map(|e| &e.input).collect();
        let scores = memory.ask("candidate", &of.candidate, &inputs)?;
        let champion = match &of.champion {
            None => None,
            Some(champion) => Some(memory.ask("champion", champion, &inputs)?),
        };
        let mut clean = table(&of, &classes, all, &scores, champion.as_deref())?;
        if let Some(anchor) = of.anchor.filter(|_| of.suite.asks_anchor()) {
            let scores = memory.ask("anchor", &anchor, &inputs)?;
            clean.anchor = Some(scored(&of, &classes, anchor.predictor, &clean.examples, &scores)?);
        }
        let spread = Spread::of(inputs.iter().copied());
        let perturbed = perturbed(&of, &classes, &spread)?;
        let answers = Clean { table: &clean, candidate: &scores, champion: champion.as_deref() };
        let attacks = attacked(&of, &classes, &spread, answers)?;
        let tables = Tables::new(&of, &clean, &perturbed, &attacks.tables);
        let held_out = of.examples.iter();
        let leaked = held_out.filter(|e| of.trained.contains(&ExampleKey::of(e))).count();
        Ok(Self {
            of,
            classes,
            clean,
            tables,
            attacks,
            agreement: Agreement::default(),
            triggers: Triggers::default(),
            producers: Producers::default(),
            leaked: leaked as u64,
            frozen: None,
            latency: Latency::default(),
            throughput: Throughput::default(),
            server: None,
            energy_method: meter.method(),
        })
    }
}

/// None where numbers are answered.
pub(crate) fn classes(of: &Evaluation<'_>) -> Classes {
    if of.answers_numbers() {
        return Classes::default();
    }
    let candidate = of.candidate.predictor.labels();
    let others = of.champion.iter().chain(&of.anchor).flat_map(|other| other.predictor.labels());
    Classes::new(candidate.iter().chain(others).chain(of.examples.iter().map(|e| &e.label)))
}

pub(crate) fn table(
    of: &Evaluation<'_>,
    classes: &Classes,
    examples: Vec<usize>,
    candidate: &[Scores],
    champion: Option<&[Scores]>,
) -> Result<Table, EvaluationError> {
    let candidate = scored(of, classes, of.candidate.predictor, &examples, candidate)?;
    let champion = match (of.champion, champion) {
        (Some(subject), Some(scores)) => {
            Some(scored(of, classes, subject.predictor, &examples, scores)?)
        }
        _ => None,
    };
    Ok(Table { examples, candidate, champion, anchor: None })
}

/// What one model said of the examples with these places.
pub(crate) fn scored(
    of: &Evaluation<'_>,
    classes: &Classes,
    predictor: &dyn Predictor,
    examples: &[usize],
    scores: &[Scores],
) -> Result<Scored, EvaluationError> {
    let labels = examples.iter().map(|&row| &of.examples[row].label);
    if let Some(levels) = predictor.levels() {
        let truth = labels.map(number_of).collect();
        let numbers = Numbers::new(levels, predictor.labels().len(), truth, scores)?;
        return Ok(Scored { numbers: Some(numbers), ..Scored::default() });
    }
    let number = |label| classes.number(label).expect("every example's label is numbered");
    Scored::new(classes, predictor.labels(), labels.map(number).collect(), scores)
}

pub(crate) fn number_of(label: &Class) -> f64 {
    label.number().expect("examples without a number were left out")
}

/// The newest examples of those that are `wanted`, each class by its share, in order.
pub(crate) fn newest(
    of: &Evaluation<'_>,
    count: usize,
    wanted: impl Fn(&EvalExample) -> bool,
) -> Vec<usize> {
    let all: Vec<usize> = (0..of.examples.len()).filter(|&row| wanted(&of.examples[row])).collect();
    if all.len() <= count {
        return all;
    }
    let share = count as f64 / all.len() as f64;
    let numbers = of.answers_numbers();
    let mut by_class = BTreeMap::<Option<&Class>, Vec<usize>>::new();
    for row in all {
        let class = (!numbers).then_some(&of.examples[row].label);
        by_class.entry(class).or_default().push(row);
    }
    let take = |rows: Vec<usize>| {
        let quota = (rows.len() as f64 * share).round().max(1.0) as usize;
        rows.into_iter().rev().take(quota).collect::<Vec<_>>()
    };
    let mut rows: Vec<usize> = by_class.into_values().flat_map(take).collect();
    rows.sort_unstable();
    rows
}

/// The champion's agreement with labels of classes that it knows: of earlier windows on the
/// held-out side, of the candidate's window on both sides.
fn agreement(
    of: &Evaluation<'_>,
    memory: &mut Memory,
    clean: &Table,
) -> Result<Agreement, EvaluationError> {
    let (Some(champion), Some(scored)) = (&of.champion, &clean.champion) else {
        return Ok(Agreement::default());
    };
    if champion.predictor.levels().is_some() {
        return agreement_of_numbers(of, memory, champion, scored);
    }
    let labels = champion.predictor.labels();
    let known: HashSet<&Class> = labels.iter().collect();
    let (labelled, unknown): (Vec<_>, Vec<_>) =
        of.window_labels.iter().partition(|example| known.contains(&example.label));
    let step = labelled.len().div_ceil(AGREEMENT_ROWS).max(1);
    let asked: Vec<&EvalExample> = labelled.into_iter().step_by(step).collect();
    let inputs: Vec<&Input> = asked.iter().map(|example| &example.input).collect();
    let answers = memory.ask("champion", champion, &inputs)?;

    let mut unknown = unknown.len() as u64;
    let mut by_class = BTreeMap::<&Class, [(u64, u64); 2]>::new();
    let mut count = |class, fresh: bool, agrees: bool| {
        let (agreed, all) = &mut by_class.entry(class).or_default()[usize::from(fresh)];
        *agreed += u64::from(agrees);
        *all += 1;
    };
    for (example, answer) in asked.into_iter().zip(&answers) {
        count(&example.label, true, labels.get(answer.best().0) == Some(&example.label));
    }
    for (row, example) in of.examples.iter().enumerate() {
        if known.contains(&example.label) {
            count(&example.label, example.fresh, scored.right(row));
        } else {
            unknown += u64::from(example.fresh);
        }
    }
    let of_window = by_class.into_iter().filter(|(_, [_, window])| window.1 > 0);
    let classes = of_window
        .map(|(class, [earlier, window])| ClassAgreement { class: class.clone(), earlier, window })
        .collect();
    Ok(Agreement { classes, unknown })
}

/// Whether numbers lie in the champion's intervals, of all labels alike.
fn agreement_of_numbers(
    of: &Evaluation<'_>,
    memory: &mut Memory,
    champion: &Subject<'_>,
    scored: &Scored,
) -> Result<Agreement, EvaluationError> {
    let levels = champion.predictor.levels().expect("the champion answers with numbers");
    let step = of.window_labels.len().div_ceil(AGREEMENT_ROWS).max(1);
    let asked: Vec<&EvalExample> = of.window_labels.iter().step_by(step).collect();
    let inputs: Vec<&Input> = asked.iter().map(|example| &example.input).collect();
    let answers = memory.ask("champion", champion, &inputs)?;
    let (mut earlier, mut window) = ((0, 0), (0, 0));
    let mut count = |fresh: bool, agrees: bool| {
        let (agreed, all) = if fresh { &mut window } else { &mut earlier };
        *agreed += u64::from(agrees);
        *all += 1;
    };
    for (example, answer) in asked.into_iter().zip(&answers) {
        count(true, covers(levels, &answer.probabilities, number_of(&example.label)));
    }
    let covered = &scored.numbers.as_ref().expect("the champion's answers are numbers").covered;
    of.examples.iter().zip(covered).for_each(|(example, covered)| count(example.fresh, *covered));
    let of_all = ClassAgreement { class: Class::new("numbers"), earlier, window };
    let classes = if window.1 > 0 { vec![of_all] } else { Vec::new() };
    Ok(Agreement { classes, unknown: 0 })
}

/// Hash over what was judged on, in order.
pub(crate) fn digest(examples: &[EvalExample]) -> ArtifactHash {
    let mut hasher = blake3::Hasher::new();
    for example in examples {
        let names = [example.domain.as_str(), example.id.as_str()].map(str::as_bytes);
        let input = example.input.canonical();
        for part in names.into_iter().chain([&*input, example.label.as_str().as_bytes()]) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(&[u8::from(example.fresh)]);
    }
    ArtifactHash::from_bytes(*hasher.finalize().as_bytes())
}
