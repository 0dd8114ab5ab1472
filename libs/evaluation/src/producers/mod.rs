//! Whose records of the window are not to be believed.
//!
//! Labels and events come from many producers, and who is hacked or careless is one of them: its share
//! of a window may be too small for the whole to look wrong. So the window is also looked at producer by
//! producer: how many of its labels the champion disputes ([`disputes`]), and what its records do to the
//! champion's head on held-out examples that others labelled ([`influences`]). A producer is who a record
//! says it is from; records that say nothing are of one, `unknown`.
mod disputes;
mod influence;

use std::collections::BTreeMap;

use tidegate_contracts::{Class, Producer};
use tidegate_model::Input;

pub(crate) use self::{
    disputes::{Disputes, disputes},
    influence::{Influence, influences},
};
use crate::{EvalExample, Evaluation, EvaluationError, Memory, Metric, evidence::newest};

/// Labels of the window that are put to the champion at most, evenly spread.
const ROWS: usize = 1_000;
/// Those of them whose influence is asked.
const PROBED: usize = 600;
/// Held-out examples that it is measured on, the newest.
const HELD_OUT: usize = 400;
/// Producers that are looked at alone, those with most records.
const ALONE: usize = 12;

/// What is known of the window, record by record.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    /// Why there is nothing to compare; empty where there is.
    pub(crate) none: &'static str,
    names: Vec<String>,
    rows: Vec<Row>,
    /// What the influence is found with; its window's points are every `step`-th of the rows.
    probe: Option<Probe>,
}

/// A label of the window that the champion was asked about.
#[derive(Debug, Clone, Copy)]
struct Row {
    producer: usize,
    /// By the champion's outputs.
    class: usize,
    disputed: bool,
}

#[derive(Debug)]
struct Probe {
    window: Vec<Point>,
    held_out: Vec<Point>,
}

/// An example as a head reads it.
#[derive(Debug)]
struct Point {
    /// `usize::MAX` for one that the window does not have.
    producer: usize,
    class: usize,
    /// `[d_model]`, of length 1.
    embedding: Vec<f32>,
    /// The champion's log-probabilities, `[classes]`.
    said: Vec<f32>,
}

/// Producers that have enough records to be judged, and what they are called.
#[derive(Debug)]
pub(crate) struct Grouped {
    /// `None` stands for all that have too few, together.
    pub(crate) names: Vec<Option<String>>,
    /// The group of each producer.
    of: Vec<usize>,
}

impl Grouped {
    /// A verdict's name for one of them.
    pub(crate) fn words(&self, group: usize) -> String {
        match &self.names[group] {
            Some(name) => format!("producer {name}"),
            None => "the producers with few records, together".to_owned(),
        }
    }
}

impl Producers {
    /// Groups of the producers of `members`, each with `min_n` of them at least.
    fn grouped(&self, members: impl Iterator<Item = usize>, min_n: u64) -> Grouped {
        let mut counts = vec![0_u64; self.names.len()];
        members.for_each(|producer| counts[producer] += 1);
        let mut order: Vec<usize> = (0..counts.len()).collect();
        order.sort_by_key(|&producer| (std::cmp::Reverse(counts[producer]), producer));
        let alone = order.iter().take_while(|&&producer| counts[producer] >= min_n.max(1));
        let alone: Vec<usize> = alone.take(ALONE).copied().collect();
        let mut of = vec![alone.len(); counts.len()];
        alone.iter().enumerate().for_each(|(group, &producer)| of[producer] = group);
        let mut names: Vec<_> = alone.iter().map(|&one| Some(self.names[one].clone())).collect();
        if alone.len() < counts.len() {
            names.push(None);
        }
        Grouped { names, of }
    }
}

/// Puts the window to the champion.
pub(crate) fn gather(
    of: &Evaluation<'_>,
    memory: &mut Memory,
) -> Result<Producers, EvaluationError> {
    let nothing = |none| Ok(Producers { none, ..Producers::default() });
    let Some(champion) = of.champion.filter(|_| !of.answers_numbers()) else {
        return nothing(
            "producers are compared where there is a champion, and answers are classes",
        );
    };
    let outputs = champion.predictor.labels().iter().enumerate();
    let classes: BTreeMap<&Class, usize> = outputs.map(|(at, class)| (class, at)).collect();
    let known: Vec<&EvalExample> =
        of.window_labels.iter().filter(|one| classes.contains_key(&one.label)).collect();
    let asked = spread(known, ROWS);
    let mut names: Vec<String> = asked.iter().map(|one| name(one)).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() < 2 {
        return nothing("all labels of the window are of one producer, as far as they say");
    }
    let number = |one: &EvalExample| names.binary_search(&name(one)).unwrap_or(usize::MAX);
    let inputs: Vec<&Input> = asked.iter().map(|one| &one.input).collect();
    let answers = memory.ask("champion", &champion, &inputs)?;
    let row = |(one, answer): (&&EvalExample, &tidegate_model::Scores)| {
        let class = classes[&one.label];
        Row { producer: number(one), class, disputed: answer.best().0 != class }
    };
    let rows = asked.iter().zip(&answers).map(row).collect();
    let probe = if of.suite.asks(Metric::ProducerInfluence) {
        let held_out = newest(of, HELD_OUT, |one| {
            classes.contains_key(&one.label) && champion.predictor.reads(&one.input)
        });
        let held_out: Vec<&EvalExample> = held_out.iter().map(|&row| &of.examples[row]).collect();
        let mut points =
            |examples: &[&EvalExample]| -> Result<Option<Vec<Point>>, EvaluationError> {
                let inputs: Vec<&Input> = examples.iter().map(|one| &one.input).collect();
                let answers = memory.ask("champion", &champion, &inputs)?;
                let owned: Vec<Input> = inputs.into_iter().cloned().collect();
                let Some(embedded) = champion.predictor.embedded(&owned) else { return Ok(None) };
                let embedded = embedded
                    .map_err(|source| EvaluationError::Model { who: "champion", source })?;
                let point = |((one, answer), embedding): ((&&EvalExample, &_), _)| {
                    Point::new(number(one), classes[&one.label], embedding, answer)
                };
                Ok(Some(examples.iter().zip(&answers).zip(embedded).map(point).collect()))
            };
        let window = points(&spread(asked, PROBED))?;
        let held_out = points(&held_out)?;
        window.zip(held_out).map(|(window, held_out)| Probe { window, held_out })
    } else {
        None
    };
    Ok(Producers { none: "", names, rows, probe })
}

fn name(example: &EvalExample) -> String {
    example.producer.as_ref().map_or(Producer::UNKNOWN, Producer::as_str).to_owned()
}

/// At most so many, evenly spread.
fn spread<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let step = all.len().div_ceil(most).max(1);
    all.into_iter().step_by(step).collect()
}
