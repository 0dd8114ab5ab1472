//! Answers to perturbed inputs, and the worst of many.
use std::collections::BTreeMap;

use tidegate_contracts::ArtifactHash;
use tidegate_model::{Input, Spread};

use crate::{
    Classes, EvalExample, Evaluation, EvaluationError, Perturbation, Scored, Under,
    evidence::{Table, ask, newest, table},
    perturb::seed_of,
    under::has_part,
};

/// Both models answer the same perturbed inputs: of each perturbation that some check asks for.
pub(crate) fn perturbed(
    of: &Evaluation<'_>,
    classes: &Classes,
    spread: &Spread,
) -> Result<Vec<(Perturbation, Table)>, EvaluationError> {
    let digest = of.suite.reference().digest;
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let one = |perturbation: Perturbation| {
        let part = perturbation.kind.part();
        let concerned = |example: &EvalExample| has_part(&example.input, part);
        let rows = rows
            .entry(part)
            .or_insert_with(|| newest(of, of.suite.limits().perturbed_rows, concerned));
        let table = worst_draw(of, classes, (&digest, spread), &perturbation, rows)?;
        Ok((perturbation, table))
    };
    of.suite.perturbations().into_iter().map(one).collect()
}

fn worst_draw(
    of: &Evaluation<'_>,
    classes: &Classes,
    (digest, spread): (&ArtifactHash, &Spread),
    perturbation: &Perturbation,
    rows: &[usize],
) -> Result<Table, EvaluationError> {
    let mut worst: Option<Table> = None;
    for draw in 0..perturbation.draws {
        let change = |&row: &usize| {
            let example = &of.examples[row];
            let seed = seed_of(digest, example.id.as_str(), perturbation, draw);
            perturbation.apply(&example.input, spread, seed)
        };
        let inputs: Vec<Input> = rows.iter().map(change).collect();
        let inputs: Vec<&Input> = inputs.iter().collect();
        let candidate = ask("candidate", of.candidate.predictor, &inputs)?;
        let champion = match of.champion {
            None => None,
            Some(champion) => Some(ask("champion", champion.predictor, &inputs)?),
        };
        let drawn = table(of, classes, rows.to_vec(), &candidate, champion.as_deref())?;
        worst = Some(match worst {
            None => drawn,
            Some(worst) => Table {
                candidate: worst.candidate.worse(&drawn.candidate),
                champion: worst.champion.zip(drawn.champion).map(|(one, other)| one.worse(&other)),
                ..worst
            },
        });
    }
    Ok(worst.unwrap_or_default())
}

/// Every example of one of the tables, with the worst answer to it as it is and in these tables.
pub(crate) fn with_clean(clean: &Table, tables: &[&Table]) -> Table {
    let mut examples: Vec<usize> =
        tables.iter().flat_map(|table| &table.examples).copied().collect();
    examples.sort_unstable();
    examples.dedup();
    let worst = |of: &dyn Fn(&Table) -> Option<&Scored>| -> Option<Scored> {
        let mut worst = of(clean)?.pick(&examples);
        worst.was_right = (0..worst.truth.len()).map(|row| worst.right(row)).collect();
        for table in tables {
            let scored = of(table)?;
            for (row, example) in table.examples.iter().enumerate() {
                let at = examples.binary_search(example).expect("every table's examples are there");
                worst.take_worse(at, scored, row);
            }
        }
        Some(worst)
    };
    Table {
        candidate: worst(&|table| Some(&table.candidate)).unwrap_or_default(),
        champion: worst(&|table| table.champion.as_ref()),
        anchor: None,
        examples,
    }
}

/// How often each example is answered wrongly at the severities of one kind.
pub(crate) fn corrupted(tables: &[&Table]) -> Table {
    let Some(first) = tables.first() else { return Table::default() };
    let errors = |of: &dyn Fn(&Table) -> Option<&Scored>| -> Option<Scored> {
        let mut scored = of(first)?.clone();
        let all: Vec<&Scored> = tables.iter().map(|table| of(table)).collect::<Option<_>>()?;
        let wrong = |row: usize| all.iter().filter(|scored| !scored.right(row)).count();
        let share = |row: usize| wrong(row) as f64 / all.len() as f64;
        scored.errors = (0..scored.truth.len()).map(share).collect();
        Some(scored)
    };
    Table {
        examples: first.examples.clone(),
        candidate: errors(&|table| Some(&table.candidate)).unwrap_or_default(),
        champion: errors(&|table| table.champion.as_ref()),
        anchor: None,
    }
}

/// The table of a check: of the inputs as they are, of those under one thing, or of the worst of both.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    of: Vec<((Option<Under>, bool), Table)>,
}

impl Tables {
    /// `attacked`: tables of attacks that could be made.
    pub(crate) fn new(
        of: &Evaluation<'_>,
        clean: &Table,
        perturbed: &[(Perturbation, Table)],
        attacked: &[(Under, Table)],
    ) -> Self {
        let mut tables = Self::default();
        for check in of.suite.checks() {
            let key = (check.under, check.metric.is_robust());
            if key == (None, false) || tables.get(key.0, key.1).is_some() {
                continue;
            }
            let wanted = key.0.map(|under| under.perturbations());
            let is_wanted = |p: &Perturbation| wanted.as_ref().is_none_or(|all| all.contains(p));
            let mut found: Vec<&Table> =
                perturbed.iter().filter(|(p, _)| is_wanted(p)).map(|(_, table)| table).collect();
            found.extend(attacked.iter().filter(|(under, _)| Some(*under) == key.0).map(|a| &a.1));
            let table = match key {
                (Some(Under::Severities(_)), _) => corrupted(&found),
                (_, true) => with_clean(clean, &found),
                _ => found.first().map(|table| (*table).clone()).unwrap_or_default(),
            };
            tables.of.push((key, table));
        }
        tables
    }

    /// Examples of the largest.
    pub(crate) fn largest(&self) -> usize {
        self.of.iter().map(|(_, table)| table.examples.len()).max().unwrap_or_default()
    }

    pub(crate) fn get(&self, under: Option<Under>, robust: bool) -> Option<&Table> {
        let found = self.of.iter().find(|(key, _)| *key == (under, robust));
        found.map(|(_, table)| table)
    }
}
