//! A stream that the project has never seen, from a producer it does not know, to a client it does
//! not know. Everything is as it comes out of the box.
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_tests::{House, curl, python, until};

const SUBJECTS: [&str; 5] = ["sports", "cooking", "astronomy", "finance", "gardening"];
const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_nobody_has_seen_is_learnt_served_and_learnt_on() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.start().await?;
    assert!(house.ask("is anybody there?").await.is_err(), "nothing serves before there is data");

    let counts: serde_json::Map<_, _> =
        SUBJECTS.map(|s| (s.to_owned(), json!(180))).into_iter().collect();
    let began = Instant::now();
    let first = publish(&house, 7, "first", &Value::Object(counts)).await?;
    assert_eq!(first["acknowledged"], json!(900 + first["labels_late"].as_u64().unwrap()));
    assert!(
        first["labels_inside"].as_u64() >= Some(400) && first["labels_late"].as_u64() >= Some(400)
    );

    // A cold start follows by itself.
    let champion = until_serves(&house, |labels| labels.len() == SUBJECTS.len()).await;
    println!("cold start: serving {:.1} s after the first event", began.elapsed().as_secs_f64());

    let held_back = first["held_back"].as_array().unwrap();
    let said = ask(&house, held_back).await?;
    for what in ["live", "ready", "model_ready", "version_ready"] {
        assert_eq!(said[what], true, "{what}");
    }
    assert_eq!(said["server"]["name"], "tidegate");
    let model = &said["model"];
    assert_eq!((&model["name"], &model["inputs"][0]["name"]), (&json!("default"), &json!("text")));
    assert_eq!(model["inputs"][0]["datatype"], "BYTES");
    assert!(model["versions"].as_array().unwrap().contains(&json!(champion)), "{model}");
    // Triton's own messages have no place for the classes; over HTTP they are there.
    let metadata = curl(&[&house.url("/v2/models/default")])?.json()["properties"].to_string();
    for subject in SUBJECTS {
        assert!(metadata.contains(subject), "the metadata names the classes: {metadata}");
    }
    for answer in said["answers"].as_array().unwrap() {
        assert_eq!(answer["generation"], json!(champion));
        assert_eq!(answer["classes"], 5);
        assert!((answer["sum"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{answer}");
    }
    assert_eq!(said["pinned"]["generation"], json!(champion), "a version can be asked for by name");
    assert_eq!(said["unknown_version"], "StatusCode.NOT_FOUND");
    let accuracy = right(held_back, &said, |_| true);
    println!("first champion: {accuracy:.3} of {} held-back texts right", held_back.len());
    assert!(accuracy >= 0.6, "chance is 0.2, this is {accuracy}");

    // A sixth class comes up; an update learns it without being asked to.
    let mut counts: serde_json::Map<_, _> =
        SUBJECTS.map(|s| (s.to_owned(), json!(30))).into_iter().collect();
    counts.insert("sailing".into(), json!(180));
    let began = Instant::now();
    let later = publish(&house, 8, "later", &Value::Object(counts)).await?;
    let next = until_serves(&house, |labels| labels.iter().any(|label| label == "sailing")).await;
    println!("sixth class: serving {:.1} s after its first event", began.elapsed().as_secs_f64());
    assert_ne!(next, champion);
    let generation = house.json(&["generations", "champion"]).await?;
    assert_eq!(
        (&generation["kind"], &generation["parent"]),
        (&json!("hot_update"), &json!(champion))
    );

    let held_back = later["held_back"].as_array().unwrap();
    let said = ask(&house, held_back).await?;
    let new = right(held_back, &said, |label| label == "sailing");
    let old = right(held_back, &said, |label| label != "sailing");
    println!("after the update: {new:.3} of the sixth class right, {old:.3} of the others");
    assert!(new >= 0.5, "the sixth class is predicted: {new}");
    assert!(old >= 0.6, "the others are not forgotten: {old}");

    let offered = python("reflection.py", &[], &json!({ "grpc": house.grpc() })).await?;
    for service in [
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
        "tidegate.v1.Control",
        "tidegate.v1.Predict",
    ] {
        assert!(offered["services"].as_array().unwrap().contains(&json!(service)), "{offered}");
    }
    assert!(
        offered["methods"]["inference.GRPCInferenceService"].to_string().contains("ModelInfer")
    );
    assert_eq!(offered["live"], true, "what reflection describes can be called");

    let verified = house.json(&["ledger", "verify"]).await?;
    assert_eq!(verified["ok"], true, "{verified}");
    house.stop()
}

async fn publish(house: &House, seed: u64, prefix: &str, counts: &Value) -> anyhow::Result<Value> {
    let input = json!({
        "kafka": house.endpoints().kafka, "seed": seed, "prefix": prefix,
        "counts": counts, "held_back": 40,
    });
    python("unseen_stream.py", &[], &input).await
}

async fn ask(house: &House, held_back: &[Value]) -> anyhow::Result<Value> {
    let texts: Vec<&Value> = held_back.iter().map(|text| &text["text"]).collect();
    python("triton.py", &[], &json!({ "grpc": house.grpc(), "texts": texts })).await
}

/// Waits until a champion with such classes serves. Where the gate asks for an operator (a busy
/// machine may look slow to it), one says yes; the generation's id.
async fn until_serves(house: &House, wanted: impl Fn(&[String]) -> bool) -> String {
    until("a champion with the classes of the stream serves", PATIENCE, async || {
        let overview = house.overview().await.ok()?;
        house.approve_if_asked(&overview).await;
        let champion = overview.champion.filter(|champion| wanted(&champion.labels))?;
        let answer = house.ask("who serves?").await.ok()?;
        (answer.generation == champion.id).then_some(champion.id)
    })
    .await
}

/// The share of texts with a wanted label that were answered right.
fn right(held_back: &[Value], said: &Value, wanted: impl Fn(&str) -> bool) -> f64 {
    let answers = said["answers"].as_array().unwrap();
    let asked =
        held_back.iter().zip(answers).filter(|(text, _)| wanted(text["label"].as_str().unwrap()));
    let all = asked.clone().count();
    asked.filter(|(text, answer)| text["label"] == answer["label"]).count() as f64 / all as f64
}
