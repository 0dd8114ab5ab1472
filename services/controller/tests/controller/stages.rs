//! What policy does with a candidate that is to be tried first.
use serde_json::json;
use tidegate_contracts::{GenerationId, JobKind, Outcome};
use tidegate_ledger::{Fact, GenerationState, PromotedBy, Stage, StageEvidence, StageOutcome};

use crate::house::{House, Made, approval, config};

fn staged() -> serde_json::Value {
    json!({"policy": {"stages": [
        {"stage": "shadow", "at_least": "0s", "requests": 10},
        {"stage": "canary", "at_least": "0s", "requests": 10, "kinds": ["hot_update"]}
    ]}})
}

/// What the evaluator would say.
async fn end(house: &House, generation: GenerationId, stage: Stage, outcome: StageOutcome) {
    house
        .append(
            "evaluator",
            Fact::StageEnded {
                generation,
                stage,
                outcome,
                evidence: StageEvidence { requests: 10, agreed: 9, ..StageEvidence::default() },
                reason: "as it was seen".to_owned(),
                seal: None,
            },
        )
        .await;
}

async fn until_in(house: &House, made: &Made, stage: Stage) {
    house
        .until(stage.as_str(), |state| {
            state.staged().is_some_and(|(one, running)| one.id == made.id && running.stage == stage)
        })
        .await;
}

#[tokio::test]
async fn policy_promotes_what_has_passed_its_stages_in_order() {
    let house = House::build(config(staged())).await;
    let running = house.start();
    // Nobody to be held against.
    let first = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(first.id)).await;

    let next = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    until_in(&house, &next, Stage::Shadow).await;
    end(&house, next.id, Stage::Shadow, StageOutcome::Passed).await;
    until_in(&house, &next, Stage::Canary).await;
    assert_eq!(house.state().await.champion(), Some(first.id));
    end(&house, next.id, Stage::Canary, StageOutcome::Passed).await;
    house.until("it is promoted", |state| state.champion() == Some(next.id)).await;
    let state = house.state().await;
    let stages = &state.generation(&next.id).unwrap().stages;
    assert!(stages.iter().all(|one| one.ended.is_some()) && stages.len() == 2);

    // A cold start goes through the first alone.
    let other = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    until_in(&house, &other, Stage::Shadow).await;
    end(&house, other.id, Stage::Shadow, StageOutcome::Passed).await;
    house.until("it is promoted", |state| state.champion() == Some(other.id)).await;
    running.stop().await;
    assert!(house.ledger.verify().await.unwrap().faults.is_empty());
}

#[tokio::test]
async fn harm_in_a_stage_blocks_and_sets_the_window_aside() {
    let house = House::build(config(staged())).await;
    let running = house.start();
    let first = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(first.id)).await;
    let bad = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    until_in(&house, &bad, Stage::Shadow).await;
    end(&house, bad.id, Stage::Shadow, StageOutcome::Harmful).await;
    let state = house.until("it is set aside", |state| !state.set_aside().is_empty()).await;
    let one = state.generation(&bad.id).unwrap();
    assert_eq!((one.state, one.quarantined), (GenerationState::Blocked, true));
    let aside = house.entries("WindowQuarantined").await.pop().unwrap();
    let Fact::WindowQuarantined { reason, .. } = aside.fact else { unreachable!() };
    assert_eq!(reason, "blocked: shadow: as it was seen");
    assert_eq!(state.champion(), Some(first.id));
    running.stop().await;
}

#[tokio::test]
async fn operators_decide_about_an_undecided_one_and_may_skip_what_is_left_of_a_stage() {
    let house = House::build(config(staged())).await;
    let running = house.start();
    let first = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(first.id)).await;
    let mut grpc = house.grpc().await;
    let mut before = first.id;
    for is_ended in [true, false] {
        let one = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
        until_in(&house, &one, Stage::Shadow).await;
        if is_ended {
            end(&house, one.id, Stage::Shadow, StageOutcome::Undecided).await;
        }
        assert_eq!(house.state().await.champion(), Some(before));
        let said = grpc.approve(approval(&one, "ana")).await.unwrap().into_inner();
        // By this call, or by the hand that saw the approval first.
        assert!(said.message.contains("champion"), "{}", said.message);
        assert_eq!(said.generation.unwrap().stages[0].stage, "shadow");
        let state = house.state().await;
        assert_eq!((state.champion(), state.staged()), (Some(one.id), None));
        let promoted = house.entries("Promoted").await.pop().unwrap();
        assert!(matches!(promoted.fact, Fact::Promoted { by: PromotedBy::Approval, .. }));
        before = one.id;
    }
    running.stop().await;
}
