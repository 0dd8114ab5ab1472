//! A blocked candidate is promoted by two people who say what they waive, and by nobody else.
use serde_json::json;
use tidegate_contracts::{JobKind, Outcome, Partition, Verdict, proto::v1};
use tidegate_ledger::{Fact, PromotedBy};
use tonic::Code;

use crate::house::{House, Made, config, window};

fn asked(made: &Made, actor: &str, waives: &[&str]) -> v1::OverrideRequest {
    v1::OverrideRequest {
        generation: made.id.to_hex(),
        verdict: made.verdict.to_hex(),
        actor: actor.to_owned(),
        reason: "the new labels are right".to_owned(),
        waives: waives.iter().map(|name| (*name).to_owned()).collect(),
        envelope: String::new(),
    }
}

/// What blocks a candidate of the house.
const BLOCK: [&str; 2] = ["accuracy", "retention"];

#[tokio::test]
async fn two_people_override_by_any_door_and_it_shows_while_it_serves() {
    let house = House::with_broker(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let running = house.start();
    let made = house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
    let aside = |state: &tidegate_ledger::State| state.generation(&made.id).unwrap().quarantined;
    house.until("its window is set aside", aside).await;
    let (mut grpc, http) = (house.grpc().await, house.http());
    let page = http.get(&format!("/generations/{}", made.id)).await;
    assert!(page.text.contains("Override: waive accuracy, retention"), "{}", page.text);

    let answer = grpc.r#override(asked(&made, "ana", &BLOCK)).await.unwrap().into_inner();
    assert!(
        answer.message.contains("1 have") && answer.message.contains("2 people"),
        "{}",
        answer.message
    );
    // Once more by the same person is the same yes.
    grpc.r#override(asked(&made, "operator:ana", &BLOCK)).await.unwrap();
    assert_eq!(house.entries("ApprovalGiven").await.len(), 1);
    let fields =
        format!("reason=agreed&actor=bo&waives=accuracy%2C+retention&verdict={}", made.verdict);
    let reply = http.form(&format!("/generations/{}/override", made.id), &fields).await;
    assert_eq!(reply.status, 303, "{}", reply.text);

    let state = house.state().await;
    assert_eq!(state.champion(), Some(made.id));
    let promoted = house.entries("Promoted").await.pop().unwrap();
    assert!(matches!(promoted.fact, Fact::Promoted { by: PromotedBy::Override, .. }));
    // What it learnt serves: the window is kept from nobody any more.
    assert!(!state.generation(&made.id).unwrap().quarantined && state.set_aside().is_empty());
    assert_eq!(state.learnt_up_to()[&Partition(0)].0, 20);
    for path in ["/", &format!("/generations/{}", made.id)] {
        let page = http.get(path).await.text;
        assert!(page.contains("Promoted by override."), "{path}");
        assert!(
            page.contains("operator:ana and operator:bo") && page.contains("accuracy, retention")
        );
    }
    let one = grpc.get_generation(v1::GetGenerationRequest { id: "champion".to_owned() }).await;
    assert_eq!(one.unwrap().into_inner().overridden, BLOCK);
    // The next champion is not stained by it.
    let next = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    house.until("the next is promoted", |state| state.champion() == Some(next.id)).await;
    assert!(!http.get("/").await.text.contains("Promoted by override."));
    running.stop().await;
}

#[tokio::test]
async fn an_override_waives_what_blocks_no_more_and_no_less() {
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.trained(JobKind::HotUpdate, "operator:olga", window(10, 20)).await;
    let made = house.judged(made, Outcome::Blocked).await;
    let mut grpc = house.grpc().await;
    let cases: [(&str, &[&str], Code, &str); 5] = [
        ("ana", &[], Code::InvalidArgument, "name every check"),
        ("ana", &["accuracy"], Code::FailedPrecondition, "exactly: accuracy, retention"),
        ("ana", &["accuracy", "retention", "no-leak"], Code::FailedPrecondition, "exactly"),
        ("ana", &["accuracy", "accuracy"], Code::FailedPrecondition, "exactly"),
        ("olga", &BLOCK, Code::FailedPrecondition, "another person"),
    ];
    for (actor, waives, code, words) in cases {
        let refused = grpc.r#override(asked(&made, actor, waives)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    // What is not blocked is approved, not overridden.
    let open = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let refused = grpc.r#override(asked(&open, "ana", &["calibration"])).await.unwrap_err();
    assert!(refused.message().contains("only what is blocked"), "{refused}");
    assert!(house.entries("ApprovalGiven").await.is_empty());
}

#[tokio::test]
async fn a_leak_a_refusal_and_what_was_not_measured_are_never_overridden() {
    use tidegate_contracts::CheckState::{Error, Fail};
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let sacred: [fn(&mut Verdict); 4] = [
        |document| document.data.leaked = 1,
        |document| document.checks.clear(),
        |document| document.checks[1].state = Error,
        |document| {
            document.checks[0].id = "no-leak".to_owned();
            document.checks[0].state = Fail;
        },
    ];
    let (mut grpc, http) = (house.grpc().await, house.http());
    for change in sacred {
        let made = house.candidate_as(JobKind::HotUpdate, Outcome::Blocked, change).await;
        let refused = grpc.r#override(asked(&made, "ana", &BLOCK)).await.unwrap_err();
        assert!(refused.message().contains("never waived"), "{refused}");
        let page = http.get(&format!("/generations/{}", made.id)).await;
        assert!(!page.text.contains("Override:"));
        let verdict =
            grpc.get_verdict(v1::GetVerdictRequest { id: made.id.to_hex() }).await.unwrap();
        assert!(verdict.into_inner().waivable.is_empty());
    }
}
