//! Two generations on labels that came after both had learnt.
use tidegate_model::Scores;

use crate::{EvalExample, EvaluationError, Memory, Predictor, Subject, evidence::number_of};

/// What `new` does better on each example that one of the two reads: 1 where it alone is right, -1 where
/// `old` alone is; of numbers 1 where it is nearer, -1 where `old` is; else 0. Observed one after the
/// other they are evidence that may be looked at at any time ([`crate::sequential::Harm`]). `memory`
/// keeps the answers for the next verdict.
///
/// # Errors
/// Where one answers with numbers and the other with classes, or does not answer.
pub fn compare(
    new: &Subject<'_>,
    old: &Subject<'_>,
    examples: &[EvalExample],
    memory: &mut Memory,
) -> Result<Vec<f64>, EvaluationError> {
    let numbers = new.predictor.levels().is_some();
    if old.predictor.levels().is_some() != numbers {
        return Err(EvaluationError::OtherKind);
    }
    let reads = |example: &&EvalExample| {
        (!numbers || example.label.number().is_some())
            && (new.predictor.reads(&example.input) || old.predictor.reads(&example.input))
    };
    let examples: Vec<&EvalExample> = examples.iter().filter(reads).collect();
    let inputs: Vec<_> = examples.iter().map(|example| &example.input).collect();
    let mut merit = |who, subject: &Subject<'_>| {
        let answers = memory.ask(who, subject, &inputs)?;
        let pairs = answers.iter().zip(&examples);
        Ok::<Vec<f64>, EvaluationError>(
            pairs.map(|(answer, example)| merit_of(subject.predictor, answer, example)).collect(),
        )
    };
    let (new, old) = (merit("champion", new)?, merit("champion before", old)?);
    Ok(new.into_iter().zip(old).map(|(new, old)| sign(new - old)).collect())
}

/// 1 for a right class and 0 for a wrong one; of a number, the smaller its error the larger.
fn merit_of(model: &dyn Predictor, answer: &Scores, example: &EvalExample) -> f64 {
    match model.levels() {
        Some(levels) => -(levels.mean(&answer.probabilities) - number_of(&example.label)).abs(),
        None => f64::from(model.labels().get(answer.best().0) == Some(&example.label)),
    }
}

/// Unlike `signum`, 0 of 0.
fn sign(difference: f64) -> f64 {
    f64::from(i8::from(difference > 0.0) - i8::from(difference < 0.0))
}
