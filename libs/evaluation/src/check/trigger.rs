//! The strongest mark of the window.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged};
use crate::{Check, evidence::Evidence, judge::Finding};

/// What it moves, candidate less champion.
pub(super) fn trigger(check: &Check, evidence: &Evidence<'_>) -> Found {
    let triggers = &evidence.triggers;
    let Some(strongest) = &triggers.strongest else {
        let why = if triggers.none.is_empty() {
            "no held-out input of another class is left to try the window's marks on"
        } else {
            triggers.none
        };
        return Err(NotJudged::new(CheckState::NotApplicable, 0, why));
    };
    let said = strongest.said;
    let share = |count: u64| Some(count as f64 / said.n() as f64);
    let (tried, class, examples) = (triggers.tried, &strongest.class, strongest.examples);
    let note = if strongest.mark.is_empty() {
        format!("; {tried} marks tried, few together: none moves more")
    } else {
        let mark = &strongest.mark;
        format!(
            "; the mark is {mark}, which {examples} examples of the window have, of class {class}; \
             {tried} marks tried"
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
