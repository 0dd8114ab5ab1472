//! Swaps while clients ask.
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tidegate_contracts::proto::inference::ModelInferRequest;

use super::{House, Toy, request, until};
use crate::{GatewayConfig, slot::retire};

const SWAPS: u16 = 200;
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_answer_is_of_one_generation_and_none_fails_while_200_are_swapped() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(0));
    let expected: HashMap<String, u16> = (0..=SWAPS).map(|n| (Toy::id(n).to_hex(), n)).collect();
    let (expected, done) = (Arc::new(expected), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicU64::new(0));

    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = house.client().await;
        let (expected, done, answered) = (expected.clone(), done.clone(), answered.clone());
        clients.spawn(async move {
            let texts = vec!["some text"; 1 + number % 3];
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let answer = client.model_infer(request(&texts)).await.unwrap().into_inner();
                let number = expected[&answer.model_version];
                let contents: Vec<_> =
                    answer.outputs.iter().map(|output| output.contents.as_ref().unwrap()).collect();
                let label = format!("label-{number}").into_bytes();
                assert_eq!(contents[0].bytes_contents, vec![label; texts.len()]);
                let likely = Toy::probability(number);
                let row = [likely, 1.0 - likely];
                assert_eq!(contents[1].fp32_contents, row.repeat(texts.len()));
                assert_eq!(contents[2].bytes_contents[0], answer.model_version.as_bytes());
                seen.insert(number);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            seen.len()
        });
    }
    let mut retiring = tokio::task::JoinSet::new();
    for number in 1..=SWAPS {
        // Some requests between any two swaps.
        let enough = answered.load(Ordering::Relaxed) + 3;
        until("clients are answered", || answered.load(Ordering::Relaxed) >= enough).await;
        let served = Toy::new(number).served(&house.front.config.batch);
        for old in house.front.slot.install(served) {
            retiring.spawn(retire(old));
        }
    }
    done.store(true, Ordering::Relaxed);
    let generations = clients.join_all().await;
    assert!(generations.iter().all(|&seen| seen > 10), "{generations:?}");
    // Every generation that lost its place is gone, threads and all.
    assert_eq!(retiring.join_all().await.len(), usize::from(SWAPS) - 1);
    let held = [SWAPS, SWAPS - 1].map(|n| Toy::id(n).to_hex());
    assert_eq!(house.front.slot.versions(), held);
    house.close().await;
}

#[tokio::test]
async fn a_request_that_was_accepted_is_answered_by_its_generation_however_many_follow() {
    let house = House::open(GatewayConfig::default()).await;
    let first = Toy::shut(1);
    house.serve(&first);
    let mut client = house.client().await;
    let waiting = tokio::spawn(async move { client.model_infer(request(&["a"])).await });
    until("the first model is asked", || first.asked() == 1).await;

    let mut retired = Vec::new();
    for number in 2..5 {
        let served = Toy::new(number).served(&house.front.config.batch);
        retired.extend(house.front.slot.install(served));
    }
    assert_eq!(retired.iter().map(|old| old.id).collect::<Vec<_>>(), [1, 2].map(Toy::id));
    let old = retire(retired.remove(0));
    tokio::pin!(old);
    assert!(futures::poll!(&mut old).is_pending(), "a request still needs it");

    first.open();
    let answer = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.model_version, Toy::id(1).to_hex());
    old.await;
    house.close().await;
}

#[tokio::test]
async fn a_version_that_is_held_answers_and_the_next_one_does_not() {
    let house = House::open(GatewayConfig::default()).await;
    for number in 1..=3 {
        house.serve(&Toy::new(number));
    }
    let mut client = house.client().await;
    let mut ask = async |version: String| {
        let asked =
            client.model_infer(ModelInferRequest { model_version: version, ..request(&["a"]) });
        asked.await.map(|answer| answer.into_inner().model_version)
    };
    for (version, number) in [("".into(), 3), ("champion".into(), 3), (Toy::id(2).to_hex(), 2)] {
        assert_eq!(ask(version).await.unwrap(), Toy::id(number).to_hex());
    }
    for gone in [Toy::id(1).to_hex(), "candidate".into(), "7".into()] {
        let status = ask(gone.clone()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert!(status.message().contains(&gone) && status.message().contains("champion"));
    }
    house.close().await;
}
