//! The picture that goes with the checks: both models slice by slice, and the examples on which
//! they differ most. It decides nothing.
use std::{cmp::Reverse, collections::BTreeMap};

use statrs::distribution::{ContinuousCDF as _, StudentsT};
use tidegate_contracts::{Changed, Class, ModelAnswer, Part, SliceKind, SliceResult};
use tidegate_model::Input;

use crate::{
    EvalExample, Metric, Scored,
    evidence::{Evidence, classes},
    perturb::start_of,
    stats::{Interval, Paired, wilson},
};

/// Slices that a verdict has at most.
const SLICES: usize = 40;
/// Two attributes together make a slice only of as many examples.
const TOGETHER: usize = 30;
/// Attributes of one example that are looked at together, the first by name.
const ATTRIBUTES: usize = 8;
/// Examples that got worse, and better, at most.
const WORSE: usize = 12;
const BETTER: usize = 6;
/// Characters of an excerpt.
const EXCERPT: usize = 160;

/// What a verdict shows beside its checks.
pub(crate) struct Picture {
    pub(crate) slices: Vec<SliceResult>,
    pub(crate) changed: Vec<Changed>,
    /// All slices that there were.
    all: usize,
}

impl Picture {
    pub(crate) fn of(evidence: &Evidence<'_>) -> Self {
        let mut parts: Vec<_> = parts(evidence).into_iter().collect();
        // The whole and its ages first, then by size; equal ones by name, as they are.
        parts.sort_by_key(|((kind, _), rows)| {
            let ordinary = !matches!(kind, SliceKind::All | SliceKind::Age);
            (ordinary, Reverse(if ordinary { rows.len() } else { 0 }))
        });
        let all = parts.len();
        let slice = |((kind, name), rows): ((SliceKind, String), Vec<usize>)| {
            result(evidence, kind, name, &rows)
        };
        let slices = parts.into_iter().take(SLICES).map(slice).collect();
        Self { slices, changed: changed(evidence), all }
    }

    /// What the bound left out, in words.
    pub(crate) fn left_out(&self) -> Option<String> {
        let shown = self.slices.len();
        (shown < self.all).then(|| format!("{shown} of {}: the largest", self.all))
    }
}

type Parts = BTreeMap<(SliceKind, String), Vec<usize>>;

/// Rows of every slice that is not empty.
fn parts(evidence: &Evidence<'_>) -> Parts {
    let numbers = evidence.of.answers_numbers();
    let mut parts = Parts::new();
    for (row, &at) in evidence.clean.examples.iter().enumerate() {
        let example = &evidence.of.examples[at];
        let age = if example.fresh { "fresh" } else { "earlier" };
        let mut put = |kind, name: String| parts.entry((kind, name)).or_default().push(row);
        put(SliceKind::All, "overall".to_owned());
        put(SliceKind::Age, age.to_owned());
        put(SliceKind::Domain, format!("domain={}", example.domain));
        if !numbers {
            put(SliceKind::Class, format!("class={}", example.label));
        }
        for (name, value) in &example.groups {
            put(SliceKind::Group, format!("{name}={value}"));
        }
        let few: Vec<_> = example.groups.iter().take(ATTRIBUTES).collect();
        for (i, (name, value)) in few.iter().enumerate() {
            for (other, with) in &few[i + 1..] {
                put(SliceKind::Groups, format!("{name}={value}, {other}={with}"));
            }
        }
    }
    parts.retain(|(kind, _), rows| *kind != SliceKind::Groups || rows.len() >= TOGETHER);
    parts
}

fn result(evidence: &Evidence<'_>, kind: SliceKind, slice: String, rows: &[usize]) -> SliceResult {
    let (candidate, champion) = (&evidence.clean.candidate, evidence.clean.champion.as_ref());
    let level = evidence.of.suite.level();
    let metric = if candidate.numbers.is_some() { Metric::Mae } else { Metric::Accuracy };
    let (interval, method) = match (metric, champion) {
        (Metric::Mae, None) => {
            let errors = rows.iter().map(|&row| error(candidate, row));
            (of_mean(&errors.collect::<Vec<_>>(), level), "t")
        }
        (Metric::Mae, Some(champion)) => {
            let more = rows.iter().map(|&row| error(candidate, row) - error(champion, row));
            (of_mean(&more.collect::<Vec<_>>(), level), "paired_t")
        }
        (_, None) => {
            let right = rows.iter().filter(|&&row| candidate.right(row)).count() as u64;
            (Some(wilson(right, rows.len() as u64, level)), "wilson")
        }
        (_, Some(champion)) => {
            let pairs = rows.iter().map(|&row| (candidate.right(row), champion.right(row)));
            (Some(Paired::count(pairs).newcombe(level)), "newcombe_paired")
        }
    };
    let value = |scored: &Scored| scored.value(metric, rows).expect("a slice is never empty");
    SliceResult {
        kind,
        slice,
        n: rows.len() as u64,
        metric: metric.as_str().to_owned(),
        candidate: value(candidate),
        champion: champion.map(value),
        interval: interval.map(Interval::pair),
        level,
        method: method.to_owned(),
    }
}

fn error(scored: &Scored, row: usize) -> f64 {
    scored.numbers.as_ref().map_or(f64::NAN, |numbers| numbers.error(row))
}

/// Student's interval of a mean. `None` of fewer than two values.
fn of_mean(values: &[f64], level: f64) -> Option<Interval> {
    let n = values.len() as f64;
    let student = StudentsT::new(0.0, 1.0, n - 1.0).ok().filter(|_| n >= 2.0)?;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let reach = student.inverse_cdf(0.5 + level / 2.0) * (variance / n).sqrt();
    Some(Interval::new(mean - reach, mean + reach))
}

/// Examples on which only one of both is right, those that the candidate is wrong about first, the
/// surest mistakes before others. Of numbers, those with the largest difference of errors.
fn changed(evidence: &Evidence<'_>) -> Vec<Changed> {
    let candidate = &evidence.clean.candidate;
    let Some(champion) = &evidence.clean.champion else { return vec![] };
    // How much worse one is than the other; 0 and less: it is not.
    let loss = |one: &Scored, other: &Scored, row: usize| {
        if one.numbers.is_some() {
            error(one, row) - error(other, row)
        } else if !one.right(row) && other.right(row) {
            one.confidence[row]
        } else {
            0.0
        }
    };
    let names = classes(&evidence.of);
    let names = names.names();
    let worst = |one: &Scored, other: &Scored, worse: bool, most: usize| -> Vec<Changed> {
        let losses = (0..evidence.clean.examples.len()).map(|row| (row, loss(one, other, row)));
        let mut rows: Vec<_> = losses.filter(|(_, loss)| *loss > 0.0).collect();
        rows.sort_by(|(row, loss), (next, less)| less.total_cmp(loss).then(row.cmp(next)));
        let show = |(row, _)| {
            let example = &evidence.of.examples[evidence.clean.examples[row]];
            let [candidate, champion] = [candidate, champion].map(|of| answer(of, &names, row));
            shown(example, candidate, champion, worse)
        };
        rows.into_iter().take(most).map(show).collect()
    };
    let mut changed = worst(candidate, champion, true, WORSE);
    changed.extend(worst(champion, candidate, false, BETTER));
    changed
}

fn shown(
    example: &EvalExample,
    candidate: ModelAnswer,
    champion: ModelAnswer,
    worse: bool,
) -> Changed {
    Changed {
        id: example.id.clone(),
        domain: example.domain.clone(),
        label: example.label.clone(),
        fresh: example.fresh,
        worse,
        candidate,
        champion,
        excerpt: excerpt(&example.input),
    }
}

fn answer(scored: &Scored, names: &[&Class], row: usize) -> ModelAnswer {
    match &scored.numbers {
        Some(numbers) => {
            let text = format!("{:.4}", numbers.said[row]);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            ModelAnswer { answer: Class::new(text), sure: None }
        }
        None => ModelAnswer {
            answer: names[scored.said[row]].clone(),
            sure: Some(scored.confidence[row]),
        },
    }
}

/// The beginning of an input in one line; what is no text is named.
fn excerpt(input: &Input) -> String {
    let other = |part: &Part| match part {
        Part::Text(_) => None,
        Part::Image(_) => Some("picture".to_owned()),
        Part::Audio(_) => Some("sound".to_owned()),
        Part::Features(values) => Some(format!("table of {}", values.len())),
    };
    let others: Vec<String> = input.parts.iter().filter_map(other).collect();
    let texts = input.texts();
    // A character has at most four bytes, and one more tells that there is more.
    let start = start_of(&texts, 8 * EXCERPT);
    let mut words: Vec<&str> = start.split_whitespace().collect();
    let named = format!("[{}]", others.join(", "));
    if !others.is_empty() {
        words.insert(0, &named);
    }
    let line = words.join(" ");
    match line.char_indices().nth(EXCERPT - 1) {
        Some((cut, last)) if cut + last.len_utf8() < line.len() => format!("{}…", &line[..cut]),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_and_names_what_is_no_text() {
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(excerpt(&Input::text("a\n\n b\tc")), "a b c");
        let long = excerpt(&Input::text("ü".repeat(1_000)));
        assert_eq!(long.chars().count(), EXCERPT);
        assert!(long.ends_with('…'));
        let just = "x".repeat(EXCERPT);
        assert_eq!(excerpt(&Input::text(just.clone())), just);
        let parts = vec![Part::Image(vec![1]), text("a fox"), Part::Features(BTreeMap::new())];
        assert_eq!(excerpt(&Input { parts }), "[picture, table of 0] a fox");
    }

    #[test]
    fn the_interval_of_a_mean_is_students() {
        // By hand: 3.75 and 2.353363 (Student's 0.95 quantile, 3 degrees of freedom) times 1.547848.
        let interval = of_mean(&[1.0, 2.0, 4.0, 8.0], 0.9).unwrap();
        assert!((interval.low - 0.107_352).abs() < 1e-4, "{interval:?}");
        assert!((interval.high - 7.392_648).abs() < 1e-4, "{interval:?}");
        assert_eq!(of_mean(&[1.0], 0.9), None);
    }
}
