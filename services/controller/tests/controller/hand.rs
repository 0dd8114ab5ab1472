//! What a controller does by itself, and which of several does it.
use serde_json::json;
use tidegate_contracts::{GenerationId, JobKind, Outcome, Partition, Window};
use tidegate_ledger::{Entry, Fact, JobState, State};

use crate::house::{House, config, labelled, window};

fn requested(state: &State, kind: JobKind) -> bool {
    state.jobs().iter().any(|job| job.kind == kind && job.state == JobState::Requested)
}

/// What is on the decisions topic.
async fn mirrored(house: &House) -> Vec<Entry> {
    let topic = &house.stream.topics().decisions;
    let marks = house.stream.watermarks(topic).await.unwrap();
    let all = Window::new(topic, [(Partition(0), marks[&Partition(0)])].into()).unwrap();
    let records = house.stream.read(&all).await.unwrap();
    records.iter().map(|record| serde_json::from_slice(&record.value).unwrap()).collect()
}

async fn until_mirrored(house: &House) -> Vec<Entry> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let (copy, head) = (mirrored(house).await, house.ledger.head().await.unwrap());
        if copy.last().is_some_and(|last| last.seq == head.seq) {
            return copy;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "not mirrored in time: {} of {}",
            copy.len(),
            head.seq
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_of_two_acts_and_the_other_goes_on_when_it_dies() {
    let house = House::with_broker(config(json!({"lease_s": 1}))).await;
    let promoted = async |kind| {
        let made = house.candidate(kind, Outcome::AutoPromote).await;
        house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
        house.entries("Promoted").await.pop().unwrap().token
    };
    let first = house.start();
    let token = promoted(JobKind::ColdStart).await;
    let second = house.start();
    for _ in 0..3 {
        assert_eq!(promoted(JobKind::HotUpdate).await, token, "the first still leads");
    }
    // Killed: its lease is not given back and has to run out.
    first.task.abort();
    assert!(promoted(JobKind::HotUpdate).await > token, "the second leads now");
    assert_eq!(house.entries("Promoted").await.len(), 5);
    second.stop().await;
}

#[tokio::test]
async fn a_first_cold_start_is_asked_for_when_enough_is_there_and_then_hot_updates() {
    let house = House::with_broker(config(json!({
        "bootstrap": {"min_labelled": 30}, "lag_trigger": {"records": 15}, "lease_s": 1
    })))
    .await;
    let running = house.start();
    house.publish(0, 30).await;
    let mut grpc = house.grpc().await;
    assert_eq!(house.state().await.jobs().len(), 0, "{} are too few", labelled(0, 30));
    house.publish(30, 40).await;
    let state = house.until("a cold start", |state| requested(state, JobKind::ColdStart)).await;
    let reason = &state.jobs()[0].reason;
    assert!(reason.contains("30 needed"), "{reason}");
    assert_eq!(state.jobs()[0].requested_by.as_str(), "controller");
    running.stop().await;

    // The request is taken, and its generation becomes the champion.
    let job = state.jobs()[0].job.clone();
    let failed =
        Fact::JobStarted { job: job.clone(), attempt: 1, window: window(0, 40), parent: None };
    house.append("trainer", failed).await;
    let (reason, retry) = ("killed".to_owned(), false);
    house.append("trainer", Fact::JobFailed { job, attempt: 1, reason, retry }).await;
    let made = house.trained(JobKind::ColdStart, "controller", window(0, 40)).await;
    house.judged(made, Outcome::AutoPromote).await;

    // Restarted, it counts on from where it was, and asks once for what has come since.
    let running = house.start();
    house.until("it is promoted", |state| state.champion().is_some()).await;
    house.publish(40, 60).await;
    let state = house.until("a hot update", |state| requested(state, JobKind::HotUpdate)).await;
    let job = state.jobs().last().unwrap();
    assert!(job.reason.contains("15 are enough"), "{}", job.reason);
    assert_eq!(state.jobs().len(), 3);
    let _ = grpc.get_overview(tidegate_contracts::proto::v1::GetOverviewRequest {}).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_ledger_is_mirrored_in_order_and_each_entry_once_over_restarts() {
    let house = House::with_broker(config(json!({"lease_s": 1}))).await;
    for round in 0..3 {
        let running = house.start();
        let kind = if round == 0 { JobKind::ColdStart } else { JobKind::HotUpdate };
        let made = house.candidate(kind, Outcome::AutoPromote).await;
        house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
        until_mirrored(&house).await;
        if round == 1 {
            running.task.abort();
        } else {
            running.stop().await;
        }
        house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    }
    let running = house.start();
    let copy = until_mirrored(&house).await;
    let all = house.ledger.read(1, 1_000).await.unwrap();
    assert_eq!(copy[..], all[..copy.len()]);
    running.stop().await;

    // Another ledger in the place of the first is not mixed in.
    let other = house.rebuilt().await;
    let running = other.start();
    let made = other.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    other.until("it is promoted", |state| state.champion() == Some(made.id)).await;
    assert_eq!(mirrored(&house).await.len(), copy.len());
    running.stop().await;
}

#[tokio::test]
async fn while_the_broker_is_away_verdicts_are_still_acted_on() {
    let house = House::build(config(json!({}))).await;
    let running = house.start();
    let made = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_champion_found_to_do_harm_is_rolled_back_and_what_it_learnt_set_aside() {
    let house = House::build(config(json!({}))).await;
    let running = house.start();
    let old = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(old.id)).await;
    let new = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(new.id)).await;
    let harm = harm(&new.id, &old.id);
    house.append("evaluator", harm.clone()).await;
    let state = house.until("it is rolled back", |state| state.champion() == Some(old.id)).await;
    assert!(state.generation(&new.id).unwrap().harm.is_some());
    let entry = house.entries("RolledBack").await.pop().unwrap();
    assert_eq!(entry.actor.as_str(), "controller");
    let Fact::RolledBack { reason, .. } = &entry.fact else { unreachable!() };
    assert_eq!(reason, "harm: worse on 80 labels");
    house.until("its window is set aside", |state| state.set_aside().len() == 1).await;
    // Of who does not serve any more, nothing more is said.
    let author = tidegate_ledger::Author::unfenced("evaluator");
    let again = house.ledger.decide(&author, |_| Ok(Some(harm.clone()))).await.unwrap_err();
    assert!(again.to_string().contains("are not these"), "{again}");
    running.stop().await;
}

#[tokio::test]
async fn where_policy_leaves_harm_to_operators_it_is_only_on_record() {
    let house = House::build(config(json!({"policy": {"rollback_on_harm": false}}))).await;
    let running = house.start();
    let old = house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(old.id)).await;
    let new = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(new.id)).await;
    house.append("evaluator", harm(&new.id, &old.id)).await;
    // The controller has taken a later step, and still left it alone.
    let next = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(next.id)).await;
    assert!(house.entries("RolledBack").await.is_empty());
    running.stop().await;
}

fn harm(champion: &GenerationId, before: &GenerationId) -> Fact {
    Fact::HarmFound {
        generation: *champion,
        before: *before,
        labels: 80,
        reason: "worse on 80 labels".to_owned(),
        seal: None,
    }
}
