//! What each stage does, one claim a test.
use bytes::Bytes;
use tidegate_contracts::{ContentType, Domain, Event, MAX_RECORD_BYTES, Producer, Split};
use tidegate_curation::{CurationConfig, Incoming, LabelKind, Pipeline, Side, StageName, Waiting};

use crate::stream::{at, curated, event, label, pipeline, raw, rejected};

fn headed(mut incoming: Incoming, headers: &[(&str, &str)]) -> Incoming {
    let (Incoming::Event(raw) | Incoming::Label(raw)) = &mut incoming;
    for (name, value) in headers {
        raw.headers.push(((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes())));
    }
    incoming
}

fn bytes(value: impl Into<Bytes>) -> Incoming {
    Incoming::Event(raw("events", 0, 0, value))
}

#[test]
fn what_is_no_event_is_rejected_with_its_bytes_and_the_reason() {
    let huge = vec![b' '; MAX_RECORD_BYTES + 1];
    for (value, code) in [
        (b"".to_vec(), "empty"),
        (b"{\"id\":".to_vec(), "malformed"),
        (b"[1,2]".to_vec(), "malformed"),
        (b"\xff\xfe".to_vec(), "not_utf8"),
        (b"{\"id\":\"a\"}".to_vec(), "invalid_field"),
        (huge, "too_large"),
    ] {
        let result = rejected(pipeline().apply(bytes(value.clone())));
        assert_eq!((result.stage, result.code), (StageName::Validate, code));
        assert!(!result.reason.is_empty());
        assert_eq!(result.raw.value, value);
    }
}

#[test]
fn the_content_type_header_chooses_the_encoding() {
    let json = br#"{"id":"a","parts":[{"text":"hi"}],"label":"x"}"#;
    let wire = Event::decode(ContentType::Json, json, at(0)).unwrap();
    let protobuf = bytes(wire.encode(ContentType::Protobuf));
    let protobuf = headed(protobuf, &[("content-type", "application/protobuf")]);
    let record = curated(pipeline().apply(protobuf)).record;
    assert_eq!(record.event, wire);
    assert_eq!(record.labelled_at, Some(at(0)));
    let unknown = headed(bytes(&json[..]), &[("content-type", "text/csv")]);
    assert_eq!(rejected(pipeline().apply(unknown)).code, "content_type");
}

#[test]
fn cloud_events_headers_fill_in_what_the_value_lacks_and_nothing_else() {
    let headers =
        [("ce_id", "from-header"), ("ce_time", "2001-09-09T01:46:30Z"), ("ce_source", "shop")];
    let bare = headed(bytes(r#"{"parts":[{"text":"hi"}],"label":"x"}"#), &headers);
    let mut pipeline = pipeline();
    let found = curated(pipeline.apply(bare)).record.event;
    assert_eq!((found.id.as_str(), found.domain), ("from-header", Domain::from("shop")));
    assert_eq!(found.time, at(-10));
    assert_eq!(pipeline.counters()[0].amended, 1);

    let full = headed(event(1, "own", "ho", Some("x")), &headers);
    assert_eq!(curated(pipeline.apply(full)).record.event.id.as_str(), "own");

    let wrong =
        headed(bytes(r#"{"parts":[{"text":"hi"}]}"#), &[("ce_id", "a"), ("ce_time", "noon")]);
    let wrong = rejected(pipeline.apply(wrong));
    assert!(wrong.reason.contains("ce_time"), "{}", wrong.reason);
}

#[test]
fn a_record_keeps_who_published_it_and_a_late_label_who_gave_it() {
    let by = |id: &str, label: Option<&str>, headers: &[(&str, &str)]| {
        curated(pipeline().apply(headed(event(0, id, "hi", label), headers))).record.producer
    };
    let ours = ("tidegate-producer", " shop-7 ");
    let named = |name: &str| Some(Producer::new(name));
    assert_eq!(by("a", Some("x"), &[ours, ("ce_source", "/shops")]), named("shop-7"));
    assert_eq!(by("a", Some("x"), &[("ce_source", "/shops")]), named("/shops"));
    assert_eq!(by("a", Some("x"), &[]), None);
    for unfit in ["", "a\nb", &"long".repeat(65)] {
        assert_eq!(by("a", Some("x"), &[("tidegate-producer", unfit)]), None);
    }
    let late = |headers: &[(&str, &str)]| {
        let mut pipeline = pipeline();
        assert!(pipeline.apply(headed(event(0, "a", "hi", None), &[ours])).is_empty());
        curated(pipeline.apply(headed(label(0, "a", "x"), headers))).record.producer
    };
    assert_eq!(late(&[("tidegate-producer", "annotators")]), named("annotators"));
    assert_eq!(late(&[]), named("shop-7"));
}

#[test]
fn an_event_from_the_future_is_rejected_and_one_from_the_past_is_not() {
    let dated = |offset: i64, time: &str| {
        let value = format!(
            r#"{{"id":"{offset}","time":"{time}","parts":[{{"text":"t{offset}"}}],"label":"x"}}"#
        );
        Incoming::Event(raw("events", offset, 0, value))
    };
    let mut pipeline = pipeline();
    // The record is of 2001-09-09T01:46:40Z.
    let result = rejected(pipeline.apply(dated(0, "2001-09-09T02:46:41Z")));
    assert_eq!(result.code, "future_time");
    curated(pipeline.apply(dated(1, "2001-09-09T02:46:40Z")));
    curated(pipeline.apply(dated(2, "1999-01-01T00:00:00Z")));
}

#[test]
fn where_labels_are_numbers_any_other_is_rejected_on_both_topics() {
    let mut config = CurationConfig::default();
    config.validate.labels = LabelKind::Numbers;
    let mut pipeline = Pipeline::new(&config).unwrap();
    curated(pipeline.apply(event(0, "a", "a cheap one", Some("-1.5e2"))));
    for (offset, label) in [(1, "cheap"), (2, "NaN"), (3, "1e999"), (4, "1e31")] {
        let text = format!("number {offset}");
        let wrong = rejected(pipeline.apply(event(offset, &text, &text, Some(label))));
        assert_eq!(wrong.code, "label_no_number");
        assert!(wrong.reason.contains(&format!("`{label}`")), "{}", wrong.reason);
    }
    let late = raw("labels", 0, 0, r#"{"id":"b","label":"dear"}"#);
    assert_eq!(rejected(pipeline.apply(Incoming::Label(late))).code, "label_no_number");
}

#[test]
fn exact_duplicates_are_found_by_id_within_a_domain_and_by_content() {
    let mut pipeline = pipeline();
    curated(pipeline.apply(event(0, "a", "Hello  World", Some("x"))));
    let same_id = rejected(pipeline.apply(event(1, "a", "something else", Some("x"))));
    assert_eq!((same_id.stage, same_id.code), (StageName::Exact, "duplicate_id"));
    let same_text = rejected(pipeline.apply(event(2, "b", "hello world\n", Some("x"))));
    assert_eq!(same_text.code, "duplicate_content");
    assert!(same_text.reason.contains("offset 0"), "{}", same_text.reason);
    let elsewhere =
        raw("events", 3, 3, r#"{"id":"a","domain":"d","parts":[{"text":"new"}],"label":"x"}"#);
    curated(pipeline.apply(Incoming::Event(elsewhere)));
}

#[test]
fn equal_rows_of_features_are_no_duplicates() {
    let mut pipeline = pipeline();
    for offset in 0..3 {
        let value = format!(
            r#"{{"id":"{offset}","label":"x","parts":[{{"features":{{"values":{{"a":{{"number":1}}}}}}}}]}}"#
        );
        curated(pipeline.apply(Incoming::Event(raw("events", offset, offset, value))));
    }
}

/// An event with one part, its bytes as base64.
fn part(offset: i64, kind: &str, base64: &str, text: &str) -> Incoming {
    let text = if text.is_empty() { String::new() } else { format!(r#",{{"text":"{text}"}}"#) };
    let value =
        format!(r#"{{"id":"{offset}","label":"x","parts":[{{"{kind}":"{base64}"}}{text}]}}"#);
    Incoming::Event(raw("events", offset, offset, value))
}

/// Pictures of one pixel: black, and white.
const BLACK: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";
const WHITE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";

#[test]
fn a_part_that_cannot_be_decoded_is_rejected_by_its_name() {
    let mut pipeline = pipeline();
    curated(pipeline.apply(part(0, "image", BLACK, "")));
    for (offset, kind, bytes) in [
        (1, "image", &BLACK[..60]),
        // A WAV of no samples.
        (2, "audio", "UklGRiQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQAAAAA="),
    ] {
        let result = rejected(pipeline.apply(part(offset, kind, bytes, "")));
        assert_eq!((result.stage, result.code), (StageName::Validate, "undecodable_part"));
        assert!(result.reason.contains(&format!("`parts[0].{kind}`")), "{}", result.reason);
    }
    // Its label, whichever comes first, does not wait for it.
    assert_eq!(rejected(pipeline.apply(label(0, "1", "x"))).code, "event_rejected");
    pipeline.apply(label(1, "3", "x"));
    let emits = pipeline.apply(part(3, "image", &BLACK[..60], ""));
    let [event, label] = <[_; 2]>::try_from(emits).unwrap();
    assert_eq!(rejected(vec![event]).code, "undecodable_part");
    assert_eq!(rejected(vec![label]).code, "event_rejected");
}

#[test]
fn so_many_pictures_that_looking_at_them_would_hold_up_the_stream_are_rejected_unseen() {
    let mut pipeline = pipeline();
    let pictures = |count: usize| {
        let parts = vec![format!(r#"{{"image":"{BLACK}"}}"#); count].join(",");
        let value = format!(r#"{{"id":"{count}","label":"x","parts":[{parts}]}}"#);
        Incoming::Event(raw("events", count as i64, count as i64, value))
    };
    curated(pipeline.apply(pictures(16)));
    let result = rejected(pipeline.apply(pictures(17)));
    assert!(result.reason.contains("17 pictures and sounds: at most 16"), "{}", result.reason);
}

#[test]
fn the_same_words_beside_another_picture_are_no_duplicate_and_the_same_picture_is() {
    let mut pipeline = pipeline();
    let text = long_text(0);
    curated(pipeline.apply(part(0, "image", BLACK, &text)));
    curated(pipeline.apply(part(1, "image", WHITE, &text)));
    let again = rejected(pipeline.apply(part(2, "image", BLACK, &text)));
    assert_eq!(again.code, "duplicate_content");
}

fn long_text(changed: usize) -> String {
    let words = (0..100).map(|i| if i < changed { format!("x{i}") } else { format!("w{i}") });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_near_duplicate_is_rejected_and_names_the_earlier_one() {
    let mut pipeline = pipeline();
    curated(pipeline.apply(event(0, "first", &long_text(0), Some("x"))));
    let near = rejected(pipeline.apply(event(1, "second", &long_text(1), Some("x"))));
    assert_eq!((near.stage, near.code), (StageName::Near, "near_duplicate"));
    assert!(near.reason.contains("`first`"), "{}", near.reason);
    curated(pipeline.apply(event(2, "third", &long_text(60), Some("x"))));
}

#[test]
fn short_texts_that_differ_in_a_word_are_not_near_duplicates() {
    let mut pipeline = pipeline();
    curated(pipeline.apply(event(0, "a", "the price of oil rose by two percent today", Some("x"))));
    curated(pipeline.apply(event(1, "b", "the price of gas rose by two percent today", Some("x"))));
}

#[test]
fn the_held_out_share_is_as_configured_and_the_side_hangs_on_the_id_alone() {
    let mut config = CurationConfig::default();
    config.holdout.fraction = 0.3;
    let sides = |mut pipeline: Pipeline, text: &str| -> Vec<Split> {
        let side = |i: i64| {
            let event = event(i, &format!("id-{i}"), &format!("{text} {i}"), Some("x"));
            curated(pipeline.apply(event)).record.split
        };
        (0..4_000).map(side).collect()
    };
    let first = sides(Pipeline::new(&config).unwrap(), "one");
    let held_out = first.iter().filter(|&&s| s == Split::Eval).count();
    // Five standard deviations of a binomial with p = 0.3 are 145.
    assert!((1_200 - 145..=1_200 + 145).contains(&held_out), "{held_out}");
    assert_eq!(first, sides(Pipeline::new(&config).unwrap(), "two"));
    config.holdout.salt = "other".into();
    assert_ne!(first, sides(Pipeline::new(&config).unwrap(), "one"));
}

#[test]
fn no_copy_of_a_held_out_event_gets_into_training() {
    let mut pipeline = pipeline();
    let mut random =
        (0..400).map(|i| (i, format!("{} {i}", long_text(0).replace('w', &format!("v{i}w")))));
    for (i, text) in random.by_ref() {
        let original = curated(pipeline.apply(event(3 * i, &format!("o{i}"), &text, Some("x"))));
        if original.record.split == Split::Train {
            continue;
        }
        let copy = event(3 * i + 1, &format!("c{i}"), &text.to_uppercase(), Some("x"));
        assert_eq!(rejected(pipeline.apply(copy)).code, "duplicate_content");
        let nearly = event(3 * i + 2, &format!("n{i}"), &format!("{text} again"), Some("x"));
        assert_eq!(rejected(pipeline.apply(nearly)).code, "near_duplicate");
    }
}

#[test]
fn an_event_and_its_label_meet_whichever_comes_first() {
    let mut pipeline = pipeline();
    assert_eq!(pipeline.apply(event(0, "a", "one", None)), []);
    assert_eq!(pipeline.waiting(), Waiting { events: 1, labels: 0 });
    let found = curated(pipeline.apply(label(5, "a", "x")));
    assert_eq!(found.record.event.label.unwrap().as_str(), "x");
    assert_eq!(found.record.labelled_at, Some(at(5)));
    assert_eq!(found.record.source.offset.0, 0);
    assert_eq!(found.label.unwrap().position.offset.0, 5);

    assert_eq!(pipeline.apply(label(6, "b", "y")), []);
    let found = curated(pipeline.apply(event(1, "b", "two", None)));
    assert_eq!(found.record.event.label.unwrap().as_str(), "y");
    assert_eq!(found.record.labelled_at, Some(at(6)));
    assert_eq!(pipeline.waiting(), Waiting { events: 0, labels: 0 });
    assert_eq!(pipeline.counters().last().unwrap().amended, 2);
}

#[test]
fn a_second_label_is_rejected_in_every_order() {
    let mut joined = pipeline();
    joined.apply(event(0, "a", "one", None));
    curated(joined.apply(label(0, "a", "x")));
    assert_eq!(rejected(joined.apply(label(1, "a", "y"))).code, "duplicate_label");

    let mut own = pipeline();
    curated(own.apply(event(0, "a", "one", Some("x"))));
    assert_eq!(rejected(own.apply(label(0, "a", "y"))).code, "duplicate_label");

    let mut early = pipeline();
    early.apply(label(0, "a", "x"));
    assert_eq!(rejected(early.apply(label(1, "a", "y"))).code, "duplicate_label");
    let record = curated(early.apply(event(0, "a", "one", None))).record;
    assert_eq!(record.event.label.unwrap().as_str(), "x");

    let mut both = pipeline();
    both.apply(label(0, "a", "y"));
    let emits = both.apply(event(0, "a", "one", Some("x")));
    let [first, second] = <[_; 2]>::try_from(emits).unwrap();
    assert_eq!(curated(vec![first]).record.event.label.unwrap().as_str(), "x");
    assert_eq!(rejected(vec![second]).code, "duplicate_label");
}

#[test]
fn the_label_of_a_rejected_event_is_rejected_at_once_in_either_order() {
    let mut after = pipeline();
    curated(after.apply(event(0, "a", "one", Some("x"))));
    assert_eq!(rejected(after.apply(event(1, "b", "one", None))).code, "duplicate_content");
    assert_eq!(rejected(after.apply(label(0, "b", "x"))).code, "event_rejected");

    let mut before = pipeline();
    curated(before.apply(event(0, "a", "one", Some("x"))));
    before.apply(label(0, "b", "x"));
    let emits = before.apply(event(1, "b", "one", None));
    let [event, label] = <[_; 2]>::try_from(emits).unwrap();
    assert_eq!(rejected(vec![event]).code, "duplicate_content");
    assert_eq!(rejected(vec![label]).code, "event_rejected");
}

#[test]
fn a_repeated_id_does_not_cost_the_first_event_its_label() {
    let mut pipeline = pipeline();
    pipeline.apply(event(0, "a", "one", None));
    assert_eq!(rejected(pipeline.apply(event(1, "a", "two", None))).code, "duplicate_id");
    assert_eq!(curated(pipeline.apply(label(0, "a", "x"))).record.event.text(), "one");
}

fn short_horizon() -> Pipeline {
    let mut config = CurationConfig::default();
    config.join.horizon_s = 100;
    Pipeline::new(&config).unwrap()
}

#[test]
fn an_event_goes_on_without_a_label_when_the_labels_have_passed_the_horizon() {
    let mut pipeline = short_horizon();
    pipeline.apply(event(0, "a", "one", None));
    // Events alone say nothing about labels that may still be unread.
    assert_eq!(pipeline.apply(event(101, "b", "two", None)), []);
    assert!(pipeline.is_held_up_by(Side::Labels));
    let gone = curated(pipeline.caught_up(Side::Labels)).record;
    assert_eq!((gone.event.id.as_str(), gone.event.label, gone.labelled_at), ("a", None, None));
    assert!(!pipeline.is_held_up_by(Side::Labels));
    assert_eq!(rejected(pipeline.apply(label(102, "a", "x"))).code, "label_too_late");
    let gone = curated(pipeline.apply(label(202, "zzz", "x"))).record;
    assert_eq!(gone.event.id.as_str(), "b");
}

#[test]
fn a_label_whose_event_never_comes_is_rejected() {
    let mut pipeline = short_horizon();
    pipeline.apply(label(0, "nobody", "x"));
    assert_eq!(pipeline.caught_up(Side::Events), []);
    let emits = pipeline.apply(event(101, "a", "one", Some("x")));
    let [_, late] = <[_; 2]>::try_from(emits).unwrap();
    let late = rejected(vec![late]);
    assert_eq!(late.code, "label_without_event");
    assert!(late.reason.contains("nobody"), "{}", late.reason);
}

#[test]
fn the_oldest_goes_on_when_there_is_no_room_to_wait() {
    let mut config = CurationConfig::default();
    config.join.capacity = 2;
    let mut pipeline = Pipeline::new(&config).unwrap();
    for i in 0..2 {
        assert_eq!(pipeline.apply(event(i, &format!("e{i}"), &format!("t{i}"), None)), []);
        assert_eq!(pipeline.apply(label(i, &format!("l{i}"), "x")), []);
    }
    let gone = curated(pipeline.apply(event(2, "e2", "t2", None))).record;
    assert_eq!(gone.event.id.as_str(), "e0");
    assert_eq!(rejected(pipeline.apply(label(2, "l2", "x"))).raw.position.offset.0, 0);

    config.join.max_bytes = 2_000;
    let mut pipeline = Pipeline::new(&config).unwrap();
    pipeline.apply(event(0, "a", "small", None));
    let text = "long ".repeat(300);
    assert_eq!(curated(pipeline.apply(event(1, "b", &text, None))).record.event.id.as_str(), "a");
    assert_eq!(pipeline.waiting().events, 1);
}

#[test]
fn stages_are_chosen_and_ordered_by_configuration() {
    use StageName::{Exact, Holdout, Join, Near, Validate};
    let parse = |stages: &str| {
        let config: CurationConfig = toml::from_str(&format!("stages = {stages}")).unwrap();
        Pipeline::new(&config)
    };
    let names = |p: Pipeline| p.counters().iter().map(|c| c.stage).collect::<Vec<_>>();
    let pipeline = parse(r#"["validate", "holdout", "near", "exact", "join"]"#).unwrap();
    assert_eq!(names(pipeline), [Validate, Holdout, Near, Exact, Join]);
    let mut pipeline = parse(r#"["validate", "holdout", "join"]"#).unwrap();
    curated(pipeline.apply(event(0, "a", "one", Some("x"))));
    curated(pipeline.apply(event(1, "a", "one", Some("x"))));
    for wrong in [
        r#"["validate", "join"]"#,
        r#"["holdout", "validate", "join"]"#,
        r#"["validate", "holdout", "join", "near"]"#,
        r#"["validate", "near", "near", "holdout", "join"]"#,
    ] {
        let error = parse(wrong).err().unwrap().to_string();
        assert!(error.starts_with("curation.stages: "), "{error}");
    }
}
