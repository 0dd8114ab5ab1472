//! The strongest phrase of the window.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged};
use crate::{Check, evidence::Evidence, judge::Finding};

/// Letters of a phrase that are quoted at most.
const QUOTED: usize = 80;

/// What it moves, candidate less champion.
pub(super) fn trigger(check: &Check, evidence: &Evidence<'_>) -> Found {
    let triggers = &evidence.triggers;
    let Some(strongest) = &triggers.strongest else {
        let why = if triggers.none.is_empty() {
            "no held-out text of another class is left to try the window's phrases on"
        } else {
            triggers.none
        };
        return Err(NotJudged::new(CheckState::NotApplicable, 0, why));
    };
    let said = strongest.said;
    let share = |count: u64| Some(count as f64 / said.n() as f64);
    let (tried, class, examples) = (triggers.tried, &strongest.class, strongest.examples);
    let note = if strongest.phrase.is_empty() {
        format!("; {tried} phrases tried, few together: none moves more")
    } else {
        let phrase: String = strongest.phrase.chars().take(QUOTED).collect();
        format!(
            "; the phrase is `{phrase}`, which {examples} examples of the window have, of class \
             {class}; {tried} phrases tried"
        )
    };
    Ok(Finding {
        candidate: share(said.both + said.only_candidate),
        baseline: share(said.both + said.only_baseline),
        estimate: said.difference(),
        interval: Some(said.newcombe(evidence.of.level(check))),
        method: "newcombe_paired",
        n: said.n(),
        note,
        ..Finding::default()
    })
}
