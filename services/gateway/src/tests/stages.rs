//! A candidate that is tried beside the champion.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;
use tidegate_contracts::proto::{
    inference::{ModelInferRequest, ModelInferResponse},
    v1,
};
use tidegate_ledger::Stage;
use tonic::Request;

use super::{House, Toy, request, until};
use crate::{GatewayConfig, staging::Staged};

/// The champion is toy 1.
fn stage(house: &House, toy: &Arc<Toy>, stage: Stage, share: f64) {
    let served = toy.served(&house.front.config.batch);
    let until = Instant::now() + Duration::from_secs(60);
    house.front.slot.stage(Staged { served, champion: Toy::id(1), stage, share, until });
}

async fn told(house: &mut House) -> v1::Prediction {
    let wait = tokio::time::timeout(Duration::from_secs(10), house.predictions.recv());
    let message = wait.await.expect("told in time").unwrap().message("p");
    v1::Prediction::decode(message.value).unwrap()
}

fn by(client: &str, texts: &[&str]) -> Request<ModelInferRequest> {
    let mut request = Request::new(request(texts));
    request.metadata_mut().insert("x-tidegate-client", client.parse().unwrap());
    request
}

fn labels(answer: &ModelInferResponse) -> Vec<String> {
    let contents = answer.outputs[0].contents.as_ref().unwrap();
    let labels = contents.bytes_contents.iter().cloned();
    labels.map(|label| String::from_utf8(label).unwrap()).collect()
}

#[tokio::test]
async fn a_shadow_answers_nobody_and_delays_nobody_and_is_told_beside_the_champion() {
    let mut config = GatewayConfig::default();
    config.predictions.share = 0.0;
    let mut house = House::open(config).await;
    house.serve(&Toy::new(1));
    let candidate = Toy::shut(2);
    stage(&house, &candidate, Stage::Shadow, 1.0);
    let mut client = house.client().await;
    for _ in 0..5 {
        let answer = client.model_infer(request(&["a", "b"])).await.unwrap().into_inner();
        assert_eq!(answer.model_version, Toy::id(1).to_hex());
        assert_eq!(labels(&answer), ["label-1", "label-1"]);
    }
    // All are answered, and the candidate still thinks about the first.
    candidate.open();
    for _ in 0..5 * 2 {
        let told = told(&mut house).await;
        assert_eq!((told.generation, told.label), (Toy::id(1).to_hex(), "label-1".to_owned()));
        let staged = told.staged.unwrap();
        assert_eq!((staged.stage.as_str(), staged.label.as_str()), ("shadow", "label-2"));
        assert_eq!((&staged.candidate, &staged.other), (&Toy::id(2).to_hex(), &staged.candidate));
        assert!(staged.error.is_empty() && staged.other_ms > 0.0 && staged.answered_ms > 0.0);
    }
    // It can be asked by name; who names a version takes no part.
    for (version, number) in [("candidate", 2), ("champion", 1)] {
        let asked = ModelInferRequest { model_version: version.into(), ..request(&["a"]) };
        let answer = client.model_infer(asked).await.unwrap().into_inner();
        assert_eq!(answer.model_version, Toy::id(number).to_hex());
    }
    house.close().await;
}

#[tokio::test]
async fn a_client_meets_the_same_generation_as_long_as_a_canary_lasts() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(1));
    stage(&house, &Toy::new(2), Stage::Canary, 0.5);
    let mut client = house.client().await;
    let mut met = BTreeMap::new();
    for round in 0..3 {
        for number in 0..40 {
            let name = format!("client-{number}");
            let answer = client.model_infer(by(&name, &["a", "b"])).await.unwrap().into_inner();
            let answered =
                [1, 2].into_iter().find(|&n| answer.model_version == Toy::id(n).to_hex());
            let answered = answered.unwrap();
            assert_eq!(labels(&answer), vec![format!("label-{answered}"); 2], "never mixed");
            assert_eq!(*met.entry(name).or_insert(answered), answered, "round {round}");
        }
    }
    let canaries = met.values().filter(|&&answered| answered == 2).count();
    assert!((8..=32).contains(&canaries), "{canaries} of 40 at a share of a half");
    house.close().await;
}

#[tokio::test]
async fn where_the_candidate_fails_the_champion_answers_and_the_failure_is_told() {
    let mut house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(1));
    stage(&house, &Toy::broken(2), Stage::Canary, 1.0);
    let mut client = house.client().await;
    for _ in 0..5 {
        let answer = client.model_infer(by("somebody", &["a"])).await.unwrap().into_inner();
        assert_eq!(answer.model_version, Toy::id(1).to_hex());
        let told = told(&mut house).await;
        let staged = told.staged.unwrap();
        assert_eq!((told.generation, staged.other), (Toy::id(1).to_hex(), Toy::id(2).to_hex()));
        assert!(staged.error.contains("broken on purpose"), "{}", staged.error);
    }
    house.close().await;
}

#[tokio::test]
async fn a_candidate_that_hangs_keeps_nobody_from_the_champions_answer() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(1));
    let candidate = Toy::shut(2);
    stage(&house, &candidate, Stage::Canary, 1.0);
    let mut asked = by("somebody", &["a"]);
    asked.set_timeout(Duration::from_secs(2));
    let answer = house.client().await.model_infer(asked).await.unwrap().into_inner();
    assert_eq!(answer.model_version, Toy::id(1).to_hex());
    candidate.open();
    house.close().await;
}

#[tokio::test]
async fn a_stage_takes_the_place_of_the_oldest_and_is_promoted_without_being_built_again() {
    let house = House::open(GatewayConfig::default()).await;
    house.serve(&Toy::new(0));
    house.serve(&Toy::new(1));
    let candidate = Toy::new(2);
    stage(&house, &candidate, Stage::Canary, 1.0);
    let name = |number| Toy::id(number).to_hex();
    assert_eq!(house.front.slot.versions(), [name(1), name(2)], "held: 2");
    let served = house.front.slot.held(&name(2)).unwrap();
    house.front.slot.install(served.clone());
    assert_eq!(house.front.slot.versions(), [name(2), name(1)]);
    // It is held against a champion that serves no more: nobody is in the stage.
    let answer = house.client().await.model_infer(by("c", &["a"])).await.unwrap().into_inner();
    assert_eq!(answer.model_version, name(2));
    let unstaged = house.front.slot.unstage().unwrap();
    assert!(Arc::ptr_eq(&unstaged, &served));
    until("the candidate was asked once", || candidate.asked() == 1).await;
    house.close().await;
}
