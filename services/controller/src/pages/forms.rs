//! Decisions on a page: only those that can be made now, by whoever looks.
use std::sync::Arc;

use axum::{
    Form,
    extract::{FromRequest, State},
    response::Redirect,
};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use tidegate_contracts::Role;
use tidegate_ledger::{GenerationRecord, State as Ledger};

use super::words::{plain, when};
use crate::{
    api::{self, Path, Said},
    caller::{Caller, REASON_BYTES},
    desk::{Answer, Desk},
    error::Refused,
    policy::{self, Gate},
};

/// A form's fields.
#[derive(FromRequest)]
#[from_request(via(Form), rejection(Refused))]
pub(super) struct Fields<T>(pub(super) T);

/// What a button leads to; back to the generation's page afterwards.
pub(super) async fn decide(
    State(desk): State<Arc<Desk>>,
    Path((id, decision)): Path<(String, String)>,
    caller: Caller,
    Fields(said): Fields<Said>,
) -> Answer<Redirect> {
    let response = api::decide(&desk, &caller, &id, &decision, &said).await?;
    let id = response.generation.map(|one| one.id).unwrap_or_default();
    Ok(Redirect::to(&format!("/generations/{id}?done={decision}")))
}

/// What has just been done, in words; nothing that an address could make up.
pub(super) fn done(decision: &str) -> Markup {
    let words = match decision {
        "approve" => "Your approval is on record.",
        "override" => "Your override is on record.",
        "reject" => "Rejected, on record.",
        "withdraw" => "The approval is withdrawn.",
        "promote" => "Promoted: it is the champion now.",
        "rollback" => "Rolled back: it is the champion again.",
        "job" => "The job is requested.",
        _ => return html! {},
    };
    html! { p.done role="status" { (words) } }
}

/// Whose turn it is and what they can do about `one`.
pub(super) fn decisions(
    desk: &Desk,
    caller: &Caller,
    state: &Ledger,
    one: &GenerationRecord,
    now: DateTime<Utc>,
) -> Markup {
    let gate = policy::gate(state, one, &desk.config.policy, now);
    let back_to = way_back(state, one);
    let waivable = match &gate {
        Gate::Overridable { waivable, .. } => Some(waivable),
        _ => None,
    };
    let is_open = gate.is_open_to_decisions() || waivable.is_some();
    let can_withdraw = is_open && !one.approvals_in_force(now).is_empty();
    let has_choice = is_open || back_to.is_some();
    html! {
        (approvals(one, now))
        @if has_choice && !desk.may(caller, Role::Approver) {
            p.dim { "To decide here, sign in with an approver's token." }
        } @else if has_choice {
            @if gate.is_open_to_decisions() { (yes_or_no(desk, state, one, &gate)) }
            @if let Some(waivable) = waivable { (overrides(desk, one, waivable)) }
            @if can_withdraw {
                (folded(desk, one, "withdraw", "Withdraw your approval", "Withdraw"))
            }
            @if let Some(to) = back_to {
                (folded(desk, to, "rollback", &format!("Roll back to {}", to.id.short()), "Roll back"))
            }
        }
    }
}

/// The champion's page offers the champion before it, an earlier champion's page itself.
fn way_back<'a>(state: &'a Ledger, one: &'a GenerationRecord) -> Option<&'a GenerationRecord> {
    if state.champion() == Some(one.id) {
        return state.generation(&state.earlier_champion()?);
    }
    state.champions().contains(&one.id).then_some(one)
}

fn approvals(one: &GenerationRecord, now: DateTime<Utc>) -> Markup {
    html! {
        @if !one.approvals.is_empty() {
            h3 { "Approvals" }
            ul.plain {
                @for given in &one.approvals {
                    li {
                        b { (given.approver) } " " (when(given.given_at, now)) ": " (given.reason) " "
                        @if !given.waives.is_empty() { b { "waives " (given.waives.join(", ")) } " " }
                        span.dim {
                            @if given.withdrawn { "(withdrawn)" }
                            @else if given.expires <= now { "(expired " (when(given.expires, now)) ")" }
                            @else { "(counts until " (given.expires.format("%Y-%m-%d %H:%M UTC")) ")" }
                            @if given.own_key { ", signed with their own key" }
                        }
                    }
                }
            }
        }
    }
}

fn yes_or_no(desk: &Desk, state: &Ledger, one: &GenerationRecord, gate: &Gate) -> Markup {
    let action = format!("/generations/{}", one.id);
    let verdict = one.verdict.as_ref().map(|verdict| verdict.id.to_hex()).unwrap_or_default();
    let asks = matches!(gate, Gate::Asks { .. } | Gate::Staged { .. });
    let asker = state.job(&one.job).map(|job| job.requested_by.as_str());
    let asker = asker.filter(|asker| asks && asker.starts_with("operator:"));
    html! {
        form.decision method="post" action=(format!("{action}/approve")) {
            input type="hidden" name="verdict" value=(verdict);
            (reason(true))
            (name(desk))
            div.buttons {
                @if asks { button.yes type="submit" { "Approve" } }
                @else { button.yes type="submit" disabled { "Approve" } }
                button.no type="submit" formaction=(format!("{action}/reject")) { "Reject" }
            }
            p.dim {
                @if !asks { "It cannot be approved as it stands: see above. " }
                @if let Gate::Staged { .. } = gate { "Approved, it is promoted without what is left of its stages. " }
                @if let Some(asker) = asker { (asker) " asked for this job, so another person approves it. " }
                @if one.kind == tidegate_contracts::JobKind::HotUpdate {
                    "After a rejection its window is set aside: hot updates go on behind it, and the next cold start reads it."
                }
            }
        }
    }
}

/// What waives the checks that block: behind a summary that names them.
fn overrides(desk: &Desk, one: &GenerationRecord, waivable: &[String]) -> Markup {
    let verdict = one.verdict.as_ref().map(|verdict| verdict.id.to_hex()).unwrap_or_default();
    let waives = waivable.join(", ");
    html! {
        details {
            summary { "Override: waive " (waives) }
            form.decision method="post" action=(format!("/generations/{}/override", one.id)) {
                input type="hidden" name="verdict" value=(verdict);
                input type="hidden" name="waives" value=(waives);
                (reason(true))
                (name(desk))
                div.buttons { button.no type="submit" { "Override" } }
                p.dim {
                    (desk.config.policy.approvals.r#override) " people are needed. It stays on record, \
                    and is shown as long as this generation serves."
                }
            }
        }
    }
}

/// What was waived for one that serves.
pub(super) fn overridden(one: &GenerationRecord) -> Markup {
    let by: Vec<&str> = one
        .approvals
        .iter()
        .filter(|given| !given.waives.is_empty() && !given.withdrawn)
        .map(|given| given.approver.as_str())
        .collect();
    html! {
        @if !one.overridden.is_empty() {
            p.refusal role="note" {
                b { "Promoted by override. " } "It was blocked; "
                (by.join(" and ")) " waived " (one.overridden.join(", ")) "."
            }
        }
    }
}

/// A decision that is rarely made: a form behind a summary.
fn folded(
    desk: &Desk,
    one: &GenerationRecord,
    decision: &str,
    summary: &str,
    button: &str,
) -> Markup {
    html! {
        details {
            summary { (summary) }
            form.decision method="post" action=(format!("/generations/{}/{decision}", one.id)) {
                (reason(true))
                (name(desk))
                div.buttons { button.no type="submit" { (button) } }
            }
        }
    }
}

pub(super) fn reason(required: bool) -> Markup {
    html! {
        label.grow { "Reason, on record"
            input name="reason" type="text" required[required] maxlength=(REASON_BYTES / 4) autocomplete="off";
        }
    }
}

/// Asked for only where no token tells it.
pub(super) fn name(desk: &Desk) -> Markup {
    html! {
        @if desk.listen.tokens.is_empty() {
            label { "Your name, taken on trust"
                input name="actor" type="text" required maxlength="60" autocomplete="username";
            }
        }
    }
}

/// A choice among job kinds; those that cannot be asked for now say why.
pub(super) fn kinds(state: &Ledger) -> Markup {
    // A transfer that names its source can always be asked for.
    let all = crate::view::KINDS.map(|kind| {
        let source = kind == tidegate_contracts::JobKind::Transfer;
        (kind, crate::trigger::may_request(state, kind, source).err())
    });
    html! {
        label { "Kind"
            select name="kind" required {
                @for (kind, refusal) in &all {
                    option value=(kind) disabled[refusal.is_some()] { (plain(kind.as_str())) }
                }
            }
        }
        @for refusal in all.iter().filter_map(|(_, refusal)| refusal.as_ref()) {
            p.dim { (refusal) }
        }
    }
}

/// What only a transfer is told.
pub(super) fn transfer() -> Markup {
    html! {
        details {
            summary { "Of a transfer" }
            label { "Domain to learn; all when empty"
                input name="domain" type="text" maxlength="256" autocomplete="off";
            }
            label { "Generation to start from; the champion when empty"
                input name="source" type="text" maxlength="64" autocomplete="off";
            }
        }
    }
}
