//! What becomes of good and bad records.
use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_contracts::{ContentType, Event, MAX_RECORD_BYTES, Split};
use tidegate_curator::CuratorConfig;
use tidegate_stream::Message;

use crate::house::{House, quick, source, text};

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_arrives_whole_on_the_dead_letter_topic_with_the_reason() {
    let house = House::build(1).await;
    let ledger = house.ledger().await;
    let curator = house.curate(quick(), &ledger);
    let events = &house.stream.topics().events;
    let long = (0..80).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
    let bad: Vec<(&str, Message)> = vec![
        ("malformed", Message::new(events, "{\"id\": \"x\", ")),
        ("empty", Message::new(events, "")),
        ("too_large", Message::new(events, vec![b'{'; MAX_RECORD_BYTES + 1])),
        ("not_utf8", Message::new(events, b"{\"id\": \"\xff\xfe\"}".to_vec())),
        ("invalid_field", Message::new(events, r#"{"id":"","parts":[{"text":"t"}]}"#)),
        ("content_type", house.event("c", "csv", Some("x")).header("content-type", "text/csv")),
        (
            "malformed",
            house.event("p", "json", None).header("content-type", "application/protobuf"),
        ),
        ("duplicate_id", house.event("good", "another text", Some("x"))),
        ("duplicate_content", house.event("copy", "A  GOOD text", Some("x"))),
        ("near_duplicate", house.event("near", &format!("{long} more"), Some("x"))),
        (
            "future_time",
            Message::new(
                events,
                r#"{"id":"f","time":"2999-01-01T00:00:00Z","parts":[{"text":"later"}]}"#,
            ),
        ),
        ("malformed", Message::new(&house.stream.topics().labels, "spam")),
    ];
    house
        .send(vec![
            house.event("good", "a good text", Some("x")),
            house.event("long", &long, Some("x")),
        ])
        .await;
    house.until_outputs(2).await;
    let mut sent = BTreeMap::new();
    for (i, (code, message)) in bad.into_iter().enumerate() {
        let key = Bytes::from(format!("key {i}"));
        let message = message.key(key).header("theirs", format!("{i}"));
        let position = house.send(vec![message.clone()]).await.remove(0);
        sent.insert(position, (code, message));
    }
    house.until_outputs(2 + sent.len() as i64).await;
    for record in house.rejected().await {
        let (code, message) = sent.remove(&source(&record)).expect("it was sent, and comes once");
        assert_eq!(text(&record, "tidegate-code"), Some(code));
        assert_eq!(record.value, message.value, "{code}");
        assert_eq!(record.key, message.key);
        assert_eq!(record.header("theirs"), message.headers.last().map(|(_, v)| v.as_ref()));
        assert!(!text(&record, "tidegate-reason").unwrap().is_empty());
        assert!(text(&record, "tidegate-stage").is_some());
    }
    assert!(sent.is_empty(), "{sent:?}");
    curator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_protobuf_and_old_events_pass_and_keep_key_and_trace() {
    let house = House::build(1).await;
    let ledger = house.ledger().await;
    let curator = house.curate(quick(), &ledger);
    let events = house.stream.topics().events.clone();
    let json = br#"{"id":"a","time":"2002-08-22T12:36:23Z","domain":"mail","groups":{"tld":"org"},
        "parts":[{"text":"newer"}],"label":"ham","weight":2}"#;
    let first = Event::decode(ContentType::Json, json, chrono::Utc::now()).unwrap();
    let mut second = first.clone();
    second.id = "b".into();
    second.time -= chrono::TimeDelta::days(3_000);
    second.parts = vec![tidegate_contracts::Part::Text("older, and out of order".into())];
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    house
        .send(vec![
            Message::new(&events, &json[..]).key("k").header("traceparent", trace),
            Message::new(&events, second.encode(ContentType::Protobuf))
                .key("k")
                .header("content-type", "application/protobuf"),
        ])
        .await;
    house.until_outputs(2).await;
    let curated = house.curated().await;
    assert_eq!(curated.iter().map(|c| &c.event).collect::<Vec<_>>(), [&first, &second]);
    assert!(curated.iter().all(|c| c.labelled_at.is_some()));
    let record = &house.all(&house.stream.topics().curated).await[0];
    assert_eq!(record.key, Some(Bytes::from_static(b"k")));
    assert_eq!(text(record, "traceparent"), Some(trace));
    assert_eq!(text(record, "content-type"), Some("application/protobuf"));
    curator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_labels_meet_their_events_on_every_lane() {
    let house = House::build(3).await;
    let ledger = house.ledger().await;
    let curator = house.curate(quick(), &ledger);
    let ids: Vec<String> = (0..60).map(|i| format!("id {i}")).collect();
    let (early, late) = ids.split_at(30);
    house.send(early.iter().map(|id| house.label(id, "early")).collect()).await;
    house.send(ids.iter().map(|id| house.event(id, &format!("about {id}"), None)).collect()).await;
    house.send(late.iter().map(|id| house.label(id, "late")).collect()).await;
    house.until_outputs(60).await;
    let curated = house.curated().await;
    assert_eq!(curated.len(), 60);
    for record in &curated {
        let class =
            if early.iter().any(|id| id == record.event.id.as_str()) { "early" } else { "late" };
        assert_eq!(record.event.label.as_ref().unwrap().as_str(), class);
        assert!(record.labelled_at.is_some());
    }
    assert!(curated.iter().any(|record| record.split == Split::Eval));
    let effects = house.effects().await;
    assert_eq!(effects.len(), 120);
    assert!(effects.values().all(|e| e.len() == 1));
    curator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_of_nobody_is_rejected_and_an_unlabelled_event_goes_on_after_the_horizon() {
    let house = House::build(1).await;
    let ledger = house.ledger().await;
    let mut config: CuratorConfig = quick();
    config.curation.join.horizon_s = 0;
    let curator = house.curate(config, &ledger);
    house.send(vec![house.event("unlabelled", "nobody knows", None)]).await;
    house.send(vec![house.label("nobody", "x")]).await;
    // Their horizon is over once anything later has been published; the labels stay silent.
    let mut sent = 0;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        house
            .send(vec![house.event(&format!("e{sent}"), &format!("text {sent}"), Some("x"))])
            .await;
        sent += 1;
        house.until_outputs(sent).await;
        if house.outputs().await == sent + 2 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{} of {}", house.outputs().await, sent + 2);
    }
    let rejected = house.rejected().await;
    assert_eq!(text(&rejected[0], "tidegate-code"), Some("label_without_event"));
    let curated = house.curated().await;
    let unlabelled = curated.iter().find(|c| c.event.id.as_str() == "unlabelled").unwrap();
    assert_eq!((&unlabelled.event.label, unlabelled.labelled_at), (&None, None));
    curator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_whose_partitions_do_not_go_together_are_refused() {
    let house = House::build(1).await;
    let other = tidegate_stream::StreamConfig {
        topic_prefix: "odd".into(),
        ..crate::house::stream_config(1)
    };
    let stream = tidegate_stream::Stream::connect(&other, &house.addr.to_string()).unwrap();
    stream.ensure_topic("odd.events", 3).await.unwrap();
    stream.ensure_topics().await.unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let run = tidegate_curator::run(quick(), stream, house.ledger().await, shutdown);
    let error = run.await.unwrap_err().to_string();
    assert!(error.contains("odd.events has 3 partitions and odd.labels has 1"), "{error}");
}
