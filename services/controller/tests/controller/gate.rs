//! What it takes to become champion, by every door.
use serde_json::json;
use tidegate_contracts::{JobKind, Outcome, Partition, proto::v1};
use tidegate_ledger::{Fact, GenerationState, PromotedBy};
use tonic::Code;

use crate::house::{House, approval, config, promotion, window};

#[tokio::test]
async fn a_blocked_candidate_is_promoted_by_no_door() {
    let house = House::with_broker(config(json!({}))).await;
    let champion = house.champion(JobKind::ColdStart).await;
    let blocked = house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
    let running = house.start();
    let (mut grpc, http) = (house.grpc().await, house.http());

    let refused = grpc.approve(approval(&blocked, "ana")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = grpc.promote(promotion(&blocked, "ana")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("no way around it"), "{refused}");
    let said = json!({"reason": "I know better", "actor": "ana"});
    for decision in ["approve", "promote", "rollback"] {
        let reply =
            http.post(&format!("/api/v1/generations/{}/{decision}", blocked.id), &said).await;
        assert_eq!(reply.status, 409, "{decision}: {}", reply.text);
        let fields = format!("reason=I+know+better&actor=ana&verdict={}", blocked.verdict);
        let reply = http.form(&format!("/generations/{}/{decision}", blocked.id), &fields).await;
        assert_eq!(reply.status, 409, "{decision}: {}", reply.text);
        assert!(reply.text.contains("Not done"), "{}", reply.text);
    }
    let aside = |state: &tidegate_ledger::State| state.generation(&blocked.id).unwrap().quarantined;
    let state = house.until("its window is set aside", aside).await;
    assert_eq!(state.champion(), Some(champion.id));
    assert_eq!(house.entries("Promoted").await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn policy_promotes_what_passed_and_only_once() {
    let house = House::with_broker(config(json!({}))).await;
    let (first, second) = (house.start(), house.start());
    for kind in [JobKind::ColdStart, JobKind::HotUpdate, JobKind::HotUpdate] {
        let made = house.candidate(kind, Outcome::AutoPromote).await;
        house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
    }
    let promotions = house.entries("Promoted").await;
    assert_eq!(promotions.len(), 3);
    for entry in &promotions {
        assert!(matches!(entry.fact, Fact::Promoted { by: PromotedBy::Policy, .. }));
        assert!(entry.token > 0, "a promotion by policy is fenced");
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_approval_promotes_at_once() {
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    let refused = grpc.promote(promotion(&made, "ana")).await.unwrap_err();
    assert!(refused.message().contains("0 of 1 given"), "{refused}");

    let answer = grpc.approve(approval(&made, "ana")).await.unwrap().into_inner();
    assert!(answer.message.contains("promoted"), "{}", answer.message);
    let generation = answer.generation.unwrap();
    assert_eq!((generation.state.as_str(), generation.approvals.len()), ("champion", 1));
    assert_eq!(generation.approvals[0].approver, "operator:ana");
    assert_eq!(house.state().await.champion(), Some(made.id));
    let promoted = house.entries("Promoted").await.pop().unwrap();
    assert!(matches!(promoted.fact, Fact::Promoted { by: PromotedBy::Approval, .. }));

    // A second click, a retried call: nothing more happens.
    let again = grpc.approve(approval(&made, "ana")).await.unwrap().into_inner();
    assert!(again.message.contains("before"), "{}", again.message);
    assert_eq!(house.entries("ApprovalGiven").await.len(), 1);
}

#[tokio::test]
async fn where_policy_does_not_promote_a_favourable_verdict_waits_for_approval() {
    let config = config(json!({"policy": {"auto_promote": {"cold_start": false}}}));
    let house = House::with_broker(config).await;
    let running = house.start();
    let made = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    let mut grpc = house.grpc().await;
    let refused = grpc.promote(promotion(&made, "ana")).await.unwrap_err();
    assert!(refused.message().contains("approval of every cold_start"), "{refused}");
    assert_eq!(house.state().await.champion(), None);
    grpc.approve(approval(&made, "ana")).await.unwrap();
    assert_eq!(house.state().await.champion(), Some(made.id));
    running.stop().await;
}

#[tokio::test]
async fn two_approvals_are_two_people_and_neither_asked_for_the_job() {
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.trained(JobKind::Transfer, "operator:bo", window(0, 20)).await;
    let made = house.judged(made, Outcome::AutoPromote).await;
    let mut grpc = house.grpc().await;

    let refused = grpc.approve(approval(&made, "bo")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("another person"), "{refused}");
    let answer = grpc.approve(approval(&made, "ana")).await.unwrap().into_inner();
    assert!(answer.message.contains("1 of 2 given"), "{}", answer.message);
    // The same name in its long form is the same person.
    grpc.approve(approval(&made, "operator:ana")).await.unwrap();
    let refused = grpc.promote(promotion(&made, "ana")).await.unwrap_err();
    assert!(refused.message().contains("1 more needed"), "{refused}");
    let answer = grpc.approve(approval(&made, "cem")).await.unwrap().into_inner();
    assert_eq!(answer.generation.unwrap().state, "champion");
}

#[tokio::test]
async fn an_approval_of_another_verdict_is_refused() {
    let house = House::build(config(json!({}))).await;
    let first = house.candidate(JobKind::ColdStart, Outcome::NeedsApproval).await;
    let made = house.candidate(JobKind::ColdStart, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    let old = v1::ApproveRequest { verdict: first.verdict.to_hex(), ..approval(&made, "ana") };
    let refused = grpc.approve(old).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("read it again"), "{refused}");
    // And so is one of a generation that a newer one has superseded.
    let refused = grpc.approve(approval(&first, "ana")).await.unwrap_err();
    assert!(refused.message().contains("superseded"), "{refused}");
    assert!(house.entries("ApprovalGiven").await.is_empty());
}

#[tokio::test]
async fn a_verdict_against_a_former_champion_is_stale() {
    let house = House::build(config(json!({}))).await;
    let first = house.champion(JobKind::ColdStart).await;
    house.champion(JobKind::HotUpdate).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    let reason = "latency".to_owned();
    let back = v1::RollbackRequest { reason, ..v1::RollbackRequest::default() };
    let answer = grpc.rollback(back).await.unwrap().into_inner();
    assert_eq!(answer.generation.unwrap().id, first.id.to_hex());

    let refused = grpc.approve(approval(&made, "ana")).await.unwrap_err();
    assert!(refused.message().contains("another champion"), "{refused}");
    let refused = grpc.promote(promotion(&made, "ana")).await.unwrap_err();
    assert!(refused.message().contains("stale"), "{refused}");
    assert_eq!(house.state().await.champion(), Some(first.id));
}

#[tokio::test]
async fn a_withdrawn_approval_does_not_count_and_only_the_giver_withdraws() {
    let policy = json!({"policy": {"approvals": {"hot_update": 2}}});
    let house = House::build(config(policy)).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    let withdraw = |actor: &str| v1::WithdrawApprovalRequest {
        generation: "candidate".to_owned(),
        actor: actor.to_owned(),
        reason: "second thoughts".to_owned(),
    };
    grpc.approve(approval(&made, "ana")).await.unwrap();
    let refused = grpc.withdraw_approval(withdraw("bo")).await.unwrap_err();
    assert!(refused.message().contains("no approval to withdraw"), "{refused}");
    let answer = grpc.withdraw_approval(withdraw("ana")).await.unwrap().into_inner();
    assert!(answer.generation.unwrap().approvals[0].withdrawn);
    grpc.approve(approval(&made, "bo")).await.unwrap();
    assert_ne!(house.state().await.champion(), Some(made.id));
    // Who has thought again may say yes again.
    grpc.approve(approval(&made, "ana")).await.unwrap();
    assert_eq!(house.state().await.champion(), Some(made.id));
}

#[tokio::test]
async fn an_expired_approval_does_not_count() {
    let policy = json!({"policy": {"approvals": {"hot_update": 2}, "approval_ttl": "50ms"}});
    let house = House::build(config(policy)).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    grpc.approve(approval(&made, "ana")).await.unwrap();
    house
        .until("it expires", |state| {
            let one = state.generation(&made.id).unwrap();
            one.approvals_in_force(chrono::Utc::now()).is_empty()
        })
        .await;
    let answer = grpc.approve(approval(&made, "bo")).await.unwrap().into_inner();
    assert!(answer.message.contains("1 of 2 given"), "{}", answer.message);
    assert_ne!(house.state().await.champion(), Some(made.id));
}

#[tokio::test]
async fn rollback_goes_to_the_champion_before_and_never_to_one_that_was_left() {
    let house = House::build(config(json!({}))).await;
    let mut grpc = house.grpc().await;
    let back = |generation: &str| v1::RollbackRequest {
        generation: generation.to_owned(),
        actor: "ana".to_owned(),
        reason: "complaints".to_owned(),
    };
    let refused = grpc.rollback(back("")).await.unwrap_err();
    assert!(refused.message().contains("no champion"), "{refused}");
    let first = house.champion(JobKind::ColdStart).await;
    let refused = grpc.rollback(back("")).await.unwrap_err();
    assert!(refused.message().contains("no earlier champion"), "{refused}");
    let second = house.champion(JobKind::HotUpdate).await;
    let third = house.champion(JobKind::HotUpdate).await;

    let answer = grpc.rollback(back("")).await.unwrap().into_inner().generation.unwrap();
    assert_eq!((answer.id, answer.state.as_str()), (second.id.to_hex(), "champion"));
    let answer = grpc.rollback(back("")).await.unwrap().into_inner().generation.unwrap();
    assert_eq!(answer.id, first.id.to_hex());
    assert!(grpc.rollback(back("")).await.is_err(), "none is before the first");
    // By name, an operator may go wherever a gate has been passed.
    let answer = grpc.rollback(back(&third.id.to_hex())).await.unwrap().into_inner();
    assert_eq!(answer.generation.unwrap().state, "champion");
    let never = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let refused = grpc.rollback(back(&never.id.to_hex())).await.unwrap_err();
    assert!(refused.message().contains("not an earlier champion"), "{refused}");
}

#[tokio::test]
async fn a_rejected_day_is_set_aside_and_history_is_not() {
    let policy = json!({"policy": {"auto_promote": {"cold_start": false}}});
    let house = House::with_broker(config(policy)).await;
    house.champion(JobKind::ColdStart).await;
    let running = house.start();
    let mut grpc = house.grpc().await;
    let reject = |generation: String| v1::RejectRequest {
        generation,
        actor: "ana".to_owned(),
        reason: "labels look odd".to_owned(),
    };
    // A cold start learnt from all of history: no day of it is to be lost by the no.
    let again = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    grpc.reject(reject(again.id.to_hex())).await.unwrap();
    let before = house.state().await.learnt_up_to();

    let day = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let answer = grpc.reject(reject("candidate".to_owned())).await.unwrap().into_inner();
    assert!(answer.message.contains("set aside"), "{}", answer.message);
    let aside = |state: &tidegate_ledger::State| state.generation(&day.id).unwrap().quarantined;
    let state = house.until("its window is set aside", aside).await;
    assert!(!state.generation(&again.id).unwrap().quarantined);
    // The next hot update starts behind the rejected day, so it is not learnt with the next.
    assert_eq!(state.learnt_up_to()[&Partition(0)].0, before[&Partition(0)].0 + 10);
    assert_eq!(state.generation(&day.id).unwrap().state, GenerationState::Rejected);
    let refused = grpc.approve(approval(&day, "bo")).await.unwrap_err();
    assert!(refused.message().contains("rejected"), "{refused}");
    running.stop().await;
}

#[tokio::test]
async fn a_declined_day_is_set_aside_before_the_next_job_is_asked_for() {
    // No hand acts here: the request itself sees to it.
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let blocked = house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
    let mut grpc = house.grpc().await;
    let wish = |kind: JobKind| v1::RequestJobRequest {
        kind: kind.to_string(),
        actor: "ana".to_owned(),
        ..Default::default()
    };
    grpc.request_job(wish(JobKind::HotUpdate)).await.unwrap();
    let last = house.ledger.read(house.state().await.head().seq - 1, 2).await.unwrap();
    let kinds: Vec<_> = last.iter().map(|entry| entry.fact.kind()).collect();
    assert_eq!(kinds, ["WindowQuarantined", "JobRequested"]);
    assert_eq!(last[0].actor.as_str(), "controller");
    assert!(house.state().await.generation(&blocked.id).unwrap().quarantined);
    // What is refused changes nothing.
    let length = house.state().await.head().seq;
    grpc.request_job(wish(JobKind::HotUpdate)).await.unwrap_err();
    assert_eq!(house.state().await.head().seq, length);
}
