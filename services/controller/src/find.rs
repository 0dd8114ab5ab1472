//! Which generation somebody means.
use tidegate_ledger::{GenerationRecord, State};

use crate::{desk::Answer, error::Refused};

/// Fewer digits are more likely a mistake than a name.
const MIN_DIGITS: usize = 4;
/// A whole id.
const MAX_DIGITS: usize = 64;
/// Of what was asked for, so much is said back.
const ECHO: usize = 80;

/// By `champion`, `candidate`, its id, or a prefix that only it has.
pub(crate) fn generation<'a>(state: &'a State, id: &str) -> Answer<&'a GenerationRecord> {
    let named = match id {
        "champion" => state.champion().and_then(|id| state.generation(&id)),
        "candidate" => state.candidate(),
        prefix => {
            check_digits(prefix)?;
            return only(state, prefix, |one| one.id.to_hex().starts_with(prefix));
        }
    };
    named.ok_or_else(|| Refused::NotFound(format!("there is no {id} now")))
}

/// The generation that stands under a verdict: by the verdict's id or a prefix of it, or by what
/// names the generation.
pub(crate) fn judged<'a>(state: &'a State, id: &str) -> Answer<&'a GenerationRecord> {
    if matches!(id, "champion" | "candidate") {
        return generation(state, id);
    }
    check_digits(id)?;
    let has = |one: &GenerationRecord| {
        let verdict = one.verdict.as_ref();
        verdict.is_some_and(|verdict| verdict.id.to_hex().starts_with(id))
            || one.id.to_hex().starts_with(id)
    };
    only(state, id, has)
}

/// Refuses what is no id and no prefix of one.
pub(crate) fn check_digits(prefix: &str) -> Answer<()> {
    let digits = prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits && (MIN_DIGITS..=MAX_DIGITS).contains(&prefix.len()) {
        return Ok(());
    }
    let shown: String = prefix.chars().take(ECHO).collect();
    Err(Refused::Invalid(format!(
        "`{shown}` is no id: {MIN_DIGITS} to {MAX_DIGITS} lower-case hexadecimal digits are needed \
         (or `champion` or `candidate` for a generation)"
    )))
}

fn only<'a>(
    state: &'a State,
    prefix: &str,
    fits: impl Fn(&GenerationRecord) -> bool,
) -> Answer<&'a GenerationRecord> {
    let mut fitting = state.generations().iter().rev().filter(|one| fits(one));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Refused::NotFound(format!("nothing has an id that starts with {prefix}"))),
        _ => Err(Refused::Invalid(format!("`{prefix}` is ambiguous: give more digits"))),
    }
}
