//! Generations, newest first, with the line of champions beside them.
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use tidegate_ledger::{GenerationRecord, GenerationState, State};

use super::{
    stages,
    words::{badge, link, plain, when},
};

/// Generations shown at once.
pub(super) const SHOWN: usize = 30;

/// One row, and how the line of champions runs through it.
struct Row<'a> {
    one: &'a GenerationRecord,
    on_line: bool,
    /// The line comes from the row above, and goes on to the row below.
    up: bool,
    down: bool,
}

/// Newest first. The line ends below what started from nothing; what was rolled back from has left
/// it, and branches off like what was never promoted.
fn rows(state: &State) -> Vec<Row<'_>> {
    let (mut up, mut rows) = (false, vec![]);
    for one in state.generations().iter().rev() {
        let left = one.state == GenerationState::RolledBack;
        let on_line = state.champions().contains(&one.id) && !left;
        let down = if on_line { one.parent.is_some() } else { up || one.parent.is_some() };
        rows.push(Row { one, on_line, up, down });
        up = down;
    }
    rows
}

/// The newest generations.
pub(super) fn view(state: &State, all: bool, now: DateTime<Utc>) -> Markup {
    let rows = rows(state);
    let shown = if all { rows.len() } else { SHOWN };
    html! {
        @if rows.is_empty() {
            p.dim { "Nothing yet. A first cold start is asked for when enough labelled records have come." }
        } @else {
            ol.history reversed start=(rows.len()) { @for row in rows.iter().take(shown) { (item(row, now)) } }
            @if rows.len() > shown {
                p { a href="/?all=true#history" { "All " (rows.len()) " generations" } }
            }
        }
    }
}

fn item(row: &Row<'_>, now: DateTime<Utc>) -> Markup {
    let one = row.one;
    let why = one.blocked_by().into_iter().next();
    let lane = if row.on_line { "main" } else { "side" };
    let up = if row.up { "up" } else { "" };
    let down = if row.down { "down" } else { "" };
    let branch = if !row.on_line && one.parent.is_some() { "branch" } else { "" };
    html! {
        li class={ (lane) " " (up) " " (down) " " (branch) } {
            span.rail aria-hidden="true" { i {} }
            div {
                (link(&one.id)) " " (badge(one.state.as_str())) " "
                span.dim {
                    (plain(one.kind.as_str())) " from "
                    @match &one.parent { Some(parent) => (link(parent)), None => "nothing" }
                    ", " (when(one.registered_at, now))
                    @if let Some(at) = one.promoted_at { " · promoted " (when(at, now)) }
                    (stages::gist(one))
                    @if one.quarantined { " · window set aside" }
                }
                @if let Some(why) = why { p.why { (why) } }
            }
        }
    }
}
