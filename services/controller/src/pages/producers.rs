//! Producers: who is set aside, and who is proposed to be.
use std::sync::Arc;

use axum::{extract::State, response::Redirect};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use tidegate_contracts::{Producer, Role, Verdict};
use tidegate_ledger::{GenerationRecord, State as Ledger};

use super::{
    forms::{self, Fields},
    words::when,
};
use crate::{
    QuarantineProducers,
    api::{self, OfProducer, Path},
    caller::Caller,
    desk::{Answer, Desk},
    policy,
};

/// What a button leads to.
pub(super) async fn decide(
    State(desk): State<Arc<Desk>>,
    Path(decision): Path<String>,
    caller: Caller,
    Fields(said): Fields<OfProducer>,
) -> Answer<Redirect> {
    api::decide_producer(&desk, &caller, &decision, &said).await?;
    Ok(Redirect::to("/#producers"))
}

/// Those that are set aside now, each with the way back.
pub(super) fn set_aside(
    desk: &Desk,
    caller: &Caller,
    state: &Ledger,
    now: DateTime<Utc>,
) -> Markup {
    let all: Vec<_> = state.producers().iter().filter(|one| one.released.is_none()).collect();
    html! {
        @if !all.is_empty() {
            section id="producers" {
                h2 { "Producers set aside" }
                p.dim { "Nothing is learnt from their records, and none of them judges." }
                ul.plain {
                    @for one in all {
                        li {
                            b { (one.producer) } ", by " (one.by) " " (when(one.since, now)) ": " (one.reason)
                            (form(desk, caller, &one.producer, "release", "Let it count again"))
                        }
                    }
                }
            }
        }
    }
}

/// Those whom the verdict on `one` names.
pub(super) fn proposed(
    desk: &Desk,
    caller: &Caller,
    state: &Ledger,
    one: &GenerationRecord,
    document: &Verdict,
) -> Markup {
    let is_off = desk.config.policy.quarantine_producers == QuarantineProducers::Off;
    let issued = one.verdict.as_ref().filter(|_| !is_off).map(|verdict| verdict.issued_at);
    let accused = issued.map(|at| policy::accused(state, document, at)).unwrap_or_default();
    html! {
        @for (producer, _) in &accused {
            p { "The verdict names producer " b { (producer) } "." }
            (form(desk, caller, producer, "quarantine", &format!("Set {producer} aside")))
        }
    }
}

fn form(desk: &Desk, caller: &Caller, producer: &Producer, decision: &str, button: &str) -> Markup {
    html! {
        @if desk.may(caller, Role::Approver) {
            details {
                summary { (button) }
                form.decision method="post" action=(format!("/producers/{decision}")) {
                    input type="hidden" name="producer" value=(producer);
                    (forms::reason(true))
                    (forms::name(desk))
                    div.buttons { button.no type="submit" { (button) } }
                }
            }
        }
    }
}
