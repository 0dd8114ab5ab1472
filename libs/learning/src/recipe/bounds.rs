//! Checks that name the field.
use crate::LearningError;

pub(super) fn whole(
    field: &str,
    value: usize,
    low: usize,
    high: usize,
) -> Result<(), LearningError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let need = if value < low { "too small: use a larger number" } else { "too large" };
    Err(LearningError::Recipe { field: field.to_owned(), value: value.to_string(), need })
}

pub(super) fn within(
    field: &str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<(), LearningError> {
    // NaN is in no range.
    if range.contains(&value) {
        return Ok(());
    }
    let need = match (*range.start() == 0.0, *range.end() <= 1.0) {
        (true, true) => "a share of 0 to 1 is needed",
        (true, false) => "a finite number of at least 0 is needed, not a huge one",
        _ => "a finite number above 0 is needed, not a huge one",
    };
    Err(LearningError::Recipe { field: field.to_owned(), value: value.to_string(), need })
}

/// A share that is held back: the rest is what is learnt from.
pub(super) fn half(field: &str, value: f64) -> Result<(), LearningError> {
    if (0.0..=0.5).contains(&value) {
        return Ok(());
    }
    let need = "at most half may be held back: a share of 0 to 0.5 is needed";
    Err(LearningError::Recipe { field: field.to_owned(), value: value.to_string(), need })
}
