//! Receivers hear of decisions: signed, in order, until they take them, and over restarts.
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use ring::hmac;
use serde_json::{Value, json};
use tidegate_contracts::{ArtifactHash, JobKind, Outcome, proto::v1};
use tidegate_ledger::Fact;

use crate::house::{House, config};

#[derive(Default)]
struct Heard {
    /// Answers, the last one first; 200 when there are none left.
    answers: Vec<u16>,
    tries: usize,
    /// Event and message of what was taken.
    taken: Vec<(String, Value)>,
}

type Ear = Arc<Mutex<Heard>>;

async fn hear(State(ear): State<Ear>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"between us");
    let tag = text("x-tidegate-signature");
    let tag = tag.strip_prefix("sha256=").unwrap().as_bytes().as_chunks::<2>().0.to_vec();
    let tag: Vec<u8> = tag
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    hmac::verify(&key, &body, &tag).unwrap();
    let message: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(message["entry"], text("x-tidegate-delivery"));
    let mut heard = ear.lock().unwrap();
    heard.tries += 1;
    let answer = heard.answers.pop().unwrap_or(200);
    if answer == 200 {
        heard.taken.push((text("x-tidegate-event"), message));
    }
    StatusCode::from_u16(answer).unwrap()
}

/// A receiver on a socket of its own, and its address.
async fn receiver(answers: &[u16]) -> (Ear, String) {
    let ear = Ear::default();
    ear.lock().unwrap().answers = answers.iter().rev().copied().collect();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?key=abc", socket.local_addr().unwrap());
    let routes = Router::new().route("/hook", post(hear)).with_state(ear.clone());
    tokio::spawn(async move { axum::serve(socket, routes).await });
    (ear, url)
}

async fn until(ear: &Ear, what: &str, holds: impl Fn(&Heard) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds(&ear.lock().unwrap()) {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until it is kept that a receiver has got as far as entry `seq`.
async fn until_kept(house: &House, url: &str, seq: u64) {
    let name = format!("controller/webhook/{}", ArtifactHash::of(url.as_bytes()).short());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let kept = house.ledger.get_state(&name).await.unwrap();
        let kept = kept.map(|seq| std::str::from_utf8(&seq).unwrap().parse::<u64>().unwrap());
        if kept.is_some_and(|kept| kept >= seq) {
            return;
        }
        assert!(Instant::now() < deadline, "not kept in time: {kept:?} of {seq}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn events(ear: &Ear) -> Vec<String> {
    ear.lock().unwrap().taken.iter().map(|(event, _)| event.clone()).collect()
}

#[tokio::test]
async fn every_decision_is_told_in_order_signed_and_once_over_restarts() {
    let (ear, url) = receiver(&[503, 429]).await;
    let (blocks, other) = receiver(&[]).await;
    let house = House::with_broker(config(json!({
        "lease_s": 1,
        "webhooks": [
            {"url": url, "secret": "between us"},
            {"url": other, "secret": "between us", "events": ["blocked"]},
        ],
    })))
    .await;
    // From before there was a receiver: not told.
    house.champion(JobKind::ColdStart).await;
    let running = house.start();
    for url in [&url, &other] {
        until_kept(&house, url, 0).await;
    }
    let first = house.candidate(JobKind::HotUpdate, Outcome::AutoPromote).await;
    house.until("it is promoted", |state| state.champion() == Some(first.id)).await;
    until(&ear, "it is told, at the third try", |heard| heard.taken.len() == 1).await;
    assert_eq!((events(&ear), ear.lock().unwrap().tries), (vec!["promoted".to_owned()], 3));
    house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
    until(&ear, "the block is told", |heard| heard.taken.len() == 2).await;
    let seq = house.entries("VerdictIssued").await.pop().unwrap().seq;
    for url in [&url, &other] {
        until_kept(&house, url, seq).await;
    }
    running.stop().await;

    // Decided while nobody leads; told by the next.
    let mut grpc = house.grpc().await;
    let reason = "complaints".to_owned();
    grpc.rollback(v1::RollbackRequest { reason, ..Default::default() }).await.unwrap();
    let running = house.start();
    until(&ear, "the rollback is told", |heard| heard.taken.len() == 3).await;
    house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    until(&ear, "the question is told", |heard| heard.taken.len() == 4).await;
    assert_eq!(events(&ear), ["promoted", "blocked", "rolled_back", "needs_approval"]);
    assert_eq!(events(&blocks), ["blocked"]);
    let taken = ear.lock().unwrap().taken.clone();
    let (_, message) = &taken[1];
    assert!(message["text"].as_str().unwrap().contains("accuracy fell"), "{message}");
    assert_eq!(message["champion"], first.id.to_hex());
    assert_eq!(taken[2].1["reasons"], json!(["complaints"]));
    running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_away_or_wants_nothing_holds_up_nobody() {
    let (ear, url) = receiver(&[404]).await;
    let house = House::with_broker(config(json!({
        "webhooks": [
            {"url": "http://127.0.0.1:1/", "secret": "between us"},
            {"url": url, "secret": "between us", "events": ["promoted", "overridden"]},
        ],
    })))
    .await;
    let running = house.start();
    until_kept(&house, &url, 0).await;
    for kind in [JobKind::ColdStart, JobKind::HotUpdate] {
        let made = house.candidate(kind, Outcome::AutoPromote).await;
        house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
    }
    // The first was refused, and is left out.
    until(&ear, "the second is told", |heard| heard.taken.len() == 1).await;
    assert_eq!(ear.lock().unwrap().tries, 2);
    running.stop().await;
}

#[tokio::test]
async fn harm_that_is_found_is_told_with_who_served_before() {
    let (ear, url) = receiver(&[]).await;
    let events = ["harm_found", "rolled_back"];
    let house = House::with_broker(config(json!({
        "webhooks": [{"url": url, "secret": "between us", "events": events}],
    })))
    .await;
    let before = house.champion(JobKind::ColdStart).await.id;
    let generation = house.champion(JobKind::HotUpdate).await.id;
    let running = house.start();
    until_kept(&house, &url, 0).await;
    let (labels, reason) = (80, "11 of 80 more are wrong".to_owned());
    let harm = Fact::HarmFound { generation, before, labels, reason, seal: None };
    house.append("evaluator", harm).await;
    until(&ear, "harm and its rollback are told", |heard| heard.taken.len() == 2).await;
    let taken = ear.lock().unwrap().taken.clone();
    for ((event, message), (name, champion)) in
        taken.iter().zip([(events[0], before), (events[1], generation)])
    {
        assert_eq!((event.as_str(), &message["champion"]), (name, &json!(champion.to_hex())));
    }
    assert!(taken[0].1["text"].as_str().unwrap().contains("11 of 80"));
    running.stop().await;
}
