//! A producer is set aside and released by any door, and by the controller itself where policy says so.
use serde_json::json;
use tidegate_contracts::{CheckState, JobKind, Outcome, Producer, Verdict, proto::v1};
use tonic::Code;

use crate::house::{House, config};

fn asked(producer: &str, reason: &str) -> v1::ProducerRequest {
    let (producer, reason) = (producer.to_owned(), reason.to_owned());
    v1::ProducerRequest { producer, actor: "ana".to_owned(), reason }
}

/// A failed check that names a producer.
fn accusing(document: &mut Verdict) {
    let mut check = document.checks[0].clone();
    check.id = "producer-dispute".to_owned();
    check.metric = "producer_dispute".to_owned();
    check.slice = "producer=feed-3".to_owned();
    check.state = CheckState::Fail;
    check.reason = "the champion disputes it".to_owned();
    document.checks.push(check);
}

#[tokio::test]
async fn a_producer_is_set_aside_and_released_by_any_door_and_the_page_shows_it() {
    let house = House::with_broker(config(json!({}))).await;
    let running = house.start();
    let (mut grpc, http) = (house.grpc().await, house.http());
    let refused = grpc.quarantine_producer(asked("feed-3", "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = grpc.quarantine_producer(asked("a\nb", "why")).await.unwrap_err();
    assert!(refused.message().contains("producer: a name"), "{refused}");
    let all = grpc.quarantine_producer(asked("feed-3", "it lies")).await.unwrap().into_inner();
    assert_eq!((all.producers.len(), &*all.producers[0].by), (1, "operator:ana"));
    let again = grpc.quarantine_producer(asked("feed-3", "it lies")).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");

    let page = http.get("/").await.text;
    assert!(page.contains("Producers set aside") && page.contains("feed-3"), "{page}");
    let fields = "producer=feed-3&actor=bo&reason=repaired";
    let reply = http.form("/producers/release", fields).await;
    assert_eq!(reply.status, 303, "{}", reply.text);
    assert!(!http.get("/").await.text.contains("Producers set aside"));
    let listed = http.get("/api/v1/producers").await.text;
    assert!(listed.contains("operator:bo") && listed.contains("repaired"), "{listed}");
    assert_eq!(house.entries("ProducerReleased").await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_page_proposes_whom_a_verdict_names_and_does_nothing_by_itself() {
    let house = House::with_broker(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let running = house.start();
    let made = house.candidate_as(JobKind::HotUpdate, Outcome::NeedsApproval, accusing).await;
    let page = house.http().get(&format!("/generations/{}", made.id)).await.text;
    assert!(page.contains("Set feed-3 aside"), "{page}");
    assert!(house.entries("ProducerQuarantined").await.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn under_auto_the_controller_sets_it_aside_once_and_leaves_a_release_alone() {
    let policy = json!({"policy": {"quarantine_producers": "auto"}});
    let house = House::with_broker(config(policy)).await;
    house.champion(JobKind::ColdStart).await;
    let running = house.start();
    house.candidate_as(JobKind::HotUpdate, Outcome::NeedsApproval, accusing).await;
    let feed = Producer::new("feed-3");
    let aside = |state: &tidegate_ledger::State| {
        state.quarantined_producers(chrono::Utc::now()).contains(&feed)
    };
    let state = house.until("it is set aside", aside).await;
    assert_eq!(state.producers()[0].by.as_str(), "controller");
    assert_eq!(state.producers()[0].reason, "the champion disputes it");
    house.grpc().await.release_producer(asked("feed-3", "it was us")).await.unwrap();
    // Another entry makes the controller look again.
    house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    house.until("the next is promoted", |state| state.promotions() == 2).await;
    assert_eq!(house.entries("ProducerQuarantined").await.len(), 1);
    running.stop().await;
}
