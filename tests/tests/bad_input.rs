//! What does not belong: on the stream it ends on the dead-letter topic, whole and with a reason;
//! at the gateway it gets the status that says so. The house goes on.
use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tidegate_contracts::{ContentType, Curated, Event, SourcePosition, Window};
use tidegate_stream::{Record, Stream, dead_letter};
use tidegate_tests::{House, Topics, python, until};

/// Where a record is to end.
#[derive(Debug, Clone, Copy)]
enum End {
    Curated,
    /// Stage and code.
    Rejected(&'static str, &'static str),
}

use End::{Curated as Kept, Rejected};

struct Case {
    what: &'static str,
    topic: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    value: Option<Vec<u8>>,
    time: DateTime<Utc>,
    end: End,
}

fn event(what: &'static str, value: impl Into<Vec<u8>>, end: End) -> Case {
    let time = Utc::now() - TimeDelta::minutes(10);
    Case { what, topic: "tidegate.events", headers: vec![], value: Some(value.into()), time, end }
}

fn label(what: &'static str, value: impl Into<Vec<u8>>, end: End) -> Case {
    Case { topic: "tidegate.labels", ..event(what, value, end) }
}

fn with(name: &'static str, value: &'static str, case: Case) -> Case {
    Case { headers: vec![(name, value)], ..case }
}

fn note(id: &str, text: &str) -> Value {
    json!({ "id": id, "parts": [{ "text": text }] })
}

fn labelled(id: &str, text: &str) -> String {
    json!({ "id": id, "parts": [{ "text": text }], "label": "a" }).to_string()
}

const LONG: &str = "one two three four five six seven eight nine ten eleven twelve thirteen \
    fourteen fifteen sixteen seventeen eighteen nineteen twenty and so on until there are words \
    enough for one more or less to make no difference to what a reader would call the same text \
    told twice by somebody who changed next to nothing of it before telling it again to us here";

#[allow(clippy::too_many_lines)] // A table.
fn cases() -> Vec<Case> {
    let malformed = Rejected("validate", "malformed");
    let field = Rejected("validate", "invalid_field");
    let good =
        Event::decode(ContentType::Json, labelled("pb", "protocol buffers").as_bytes(), Utc::now())
            .expect("a good event");
    let protobuf = good.encode(ContentType::Protobuf);
    let with_time = |id: &str, time: DateTime<Utc>| {
        let mut value = note(id, &format!("told at {time}"));
        value["time"] = json!(time.to_rfc3339());
        value["label"] = json!("a");
        value.to_string()
    };
    let now = Utc::now();
    let huge = format!(r#"{{"id":"huge","parts":[{{"text":"{}"}}]}}"#, "x".repeat(9 << 20));
    vec![
        event("no end to its JSON", r#"{"id": "m1", "parts": [{"text": "a"#, malformed),
        event("another document", "[1, 2, 3]", malformed),
        event("a field that is none", r#"{"id":"m2","prats":[{"text":"a"}]}"#, malformed),
        event("a number for a text", r#"{"id":"m3","parts":[{"text":3}]}"#, malformed),
        event("an empty value", "", Rejected("validate", "empty")),
        Case { value: None, ..event("no value at all", "", Rejected("validate", "empty")) },
        event("no parts", r#"{"id":"m4","parts":[]}"#, field),
        event("a part without content", r#"{"id":"m5","parts":[{}]}"#, field),
        event("a blank text", note("m6", " \n ").to_string(), field),
        event("no id", r#"{"parts":[{"text":"a"}]}"#, field),
        event("an id of 300 bytes", note(&"i".repeat(300), "a").to_string(), field),
        event("an id with a line break", note("m\n7", "a").to_string(), field),
        event("a weight of nothing", r#"{"id":"m8","parts":[{"text":"a"}],"weight":0}"#, field),
        event("a picture that is none", r#"{"id":"m9","parts":[{"image":"AAAA"}]}"#, field),
        event("over 8 MiB", huge, Rejected("validate", "too_large")),
        event(
            "not UTF-8",
            b"{\"id\":\"u\",\"parts\":[{\"text\":\"\xff\xfe\"}]}".to_vec(),
            Rejected("validate", "not_utf8"),
        ),
        event("not UTF-8, nor anything", vec![0xc3; 64], Rejected("validate", "not_utf8")),
        with(
            "content-type",
            "text/csv",
            event("a table", "id,text\n1,a", Rejected("validate", "content_type")),
        ),
        with(
            "content-type",
            "application/protobuf",
            event("no protobuf", vec![0x0a, 0xff, 0xff], malformed),
        ),
        with(
            "content-type",
            "application/protobuf",
            event("JSON said to be protobuf", labelled("pj", "x"), malformed),
        ),
        with("content-type", "application/protobuf", event("protobuf", protobuf, Kept)),
        with(
            "content-type",
            "Application/JSON; charset=utf-8",
            event("JSON by another spelling", labelled("js", "spelt in capitals"), Kept),
        ),
        with(
            "ce_id",
            "ce-1",
            event(
                "an id in a CloudEvents header",
                r#"{"parts":[{"text":"cloudy"}],"label":"a"}"#,
                Kept,
            ),
        ),
        event("a good one", labelled("g1", LONG), Kept),
        event("its id again", labelled("g1", "something else"), Rejected("exact", "duplicate_id")),
        event("its text again", labelled("g2", LONG), Rejected("exact", "duplicate_content")),
        event(
            "its text but for a word",
            labelled("g3", &LONG.replace("us here", "us there")),
            Rejected("near", "near_duplicate"),
        ),
        event("later than the next", with_time("o1", now - TimeDelta::hours(1)), Kept),
        event("earlier than the one before", with_time("o2", now - TimeDelta::days(9)), Kept),
        event("from long ago", with_time("o3", DateTime::UNIX_EPOCH), Kept),
        event(
            "of the day after tomorrow",
            with_time("f1", now + TimeDelta::days(2)),
            Rejected("validate", "future_time"),
        ),
        event(
            "of a year that is none",
            r#"{"id":"f2","time":"+300000-01-01T00:00:00Z","parts":[{"text":"a"}]}"#,
            malformed,
        ),
        event("still without its label", note("w1", "its label comes").to_string(), Kept),
        label("the label", r#"{"id":"w1","label":"b"}"#, Kept),
        label("the label again", r#"{"id":"w1","label":"c"}"#, Rejected("join", "duplicate_label")),
        label(
            "a label of nothing known",
            r#"{"id":"nobody","label":"b"}"#,
            Rejected("join", "label_without_event"),
        ),
        label(
            "a label of what was rejected",
            r#"{"id":"g2","label":"b"}"#,
            Rejected("join", "event_rejected"),
        ),
        label("a label without a class", r#"{"id":"w1"}"#, field),
        label("no label at all", "b", malformed),
        Case {
            time: now + TimeDelta::days(400),
            ..event("a record from the future", labelled("r1", "by its own clock"), Kept)
        },
        // The clock of both topics goes on: what waited has waited long enough.
        Case { time: now, ..event("a last event", labelled("z1", "the end of it"), Kept) },
        Case {
            time: now,
            ..label(
                "a last label",
                r#"{"id":"z1","label":"a"}"#,
                Rejected("join", "duplicate_label"),
            )
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_record_is_a_dead_letter_with_its_bytes_its_reason_and_its_place()
-> anyhow::Result<()> {
    let mut house = House::build("[curator.curation.join]\nhorizon_s = 60\n")?;
    house.start().await?;
    let cases = cases();
    let records: Vec<Value> = cases
        .iter()
        .map(|case| {
            let headers: BTreeMap<_, _> =
                [("theirs", "kept")].into_iter().chain(case.headers.iter().copied()).collect();
            json!({
                "topic": case.topic, "key": "entity", "headers": headers,
                "value": case.value.as_deref().map(hex), "time_ms": case.time.timestamp_millis(),
            })
        })
        .collect();
    let input =
        json!({ "kafka": house.endpoints().kafka, "compression": "zstd", "records": records });
    let offsets = python("produce.py", &[], &input).await?["offsets"].clone();

    let stream = house.stream()?;
    let ends = until("each record has come to an end", Duration::from_secs(60), async || {
        let ends = ends(&stream).await.ok()?;
        (ends.len() >= cases.len()).then_some(ends)
    })
    .await;
    for (case, offset) in cases.iter().zip(offsets.as_array().unwrap()) {
        let at = format!("{}[{}]@{}", case.topic, offset[0], offset[1]);
        let found = ends.get(&at).unwrap_or_else(|| panic!("{} ({at}) went nowhere", case.what));
        assert_eq!(found.len(), 1, "{}: {found:?}", case.what);
        match (&found[0], case.end) {
            (Found::Curated, Kept) => {}
            (Found::Rejected(record), Rejected(stage, code)) => {
                is_dead_letter(case, record, stage, code);
            }
            (found, wanted) => panic!("{}: {wanted:?} was right, not {}", case.what, found.words()),
        }
    }

    assert!(house.process().ended().is_none(), "the house goes on");
    assert!(!house.log().contains("panicked"), "{}", house.log());
    let texts = Topics::new(3).labelled(3);
    house.publish(&texts).await?;
    until("good records still pass", Duration::from_secs(20), async || {
        (ends_of(&stream).await.ok()? >= cases.len() + texts.len()).then_some(())
    })
    .await;
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_topic_takes_is_refused_to_its_producer() -> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.start().await?;
    let kafka = house.endpoints().kafka.clone();
    let record = |topic: &str, value: &[u8]| json!({ "topic": topic, "value": hex(value) });
    let good = labelled("after", "the broker goes on");
    let records = [
        record("tidegate.events", &vec![b'x'; 18 << 20]),
        record("no such/topic", b"x"),
        record("tidegate.events", good.as_bytes()),
    ];
    let input = json!({ "kafka": kafka, "records": records });
    let offsets = python("produce.py", &[], &input).await?["offsets"].clone();
    assert_eq!(offsets[0], "MSG_SIZE_TOO_LARGE");
    assert!(offsets[1].is_string(), "{offsets}");
    assert_eq!(offsets[2], json!([0, 0]));
    let stream = house.stream()?;
    until("what comes after it passes", Duration::from_secs(20), async || {
        (ends_of(&stream).await.ok()? == 1).then_some(())
    })
    .await;
    house.stop()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn is_dead_letter(case: &Case, record: &Record, stage: &str, code: &str) {
    let text =
        |name: &str| String::from_utf8_lossy(record.header(name).unwrap_or_default()).into_owned();
    let what = case.what;
    assert_eq!(record.value, case.value.clone().unwrap_or_default(), "{what}: its bytes");
    assert_eq!(record.key.as_deref(), Some(&b"entity"[..]), "{what}: its key");
    assert_eq!(text("theirs"), "kept", "{what}: its headers");
    let reason = text(dead_letter::REASON);
    assert_eq!(
        (text(dead_letter::STAGE), text(dead_letter::CODE)),
        (stage.to_owned(), code.to_owned()),
        "{what}: {reason}"
    );
    assert!(reason.len() > 5, "{what}: `{reason}` tells nobody anything");
}

/// What became of one record.
#[derive(Debug)]
enum Found {
    Curated,
    Rejected(Record),
}

impl Found {
    fn words(&self) -> String {
        match self {
            Self::Curated => "curated".into(),
            Self::Rejected(record) => {
                let text = |name| {
                    String::from_utf8_lossy(record.header(name).unwrap_or_default()).into_owned()
                };
                format!("rejected by {}: {}", text(dead_letter::STAGE), text(dead_letter::REASON))
            }
        }
    }
}

/// By where a record stood, what became of it.
async fn ends(stream: &Stream) -> anyhow::Result<BTreeMap<String, Vec<Found>>> {
    let mut ends: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    let topics = stream.topics();
    for topic in [&topics.curated, &topics.rejected] {
        let marks = stream.watermarks(topic).await?;
        for record in stream.read(&Window::new(topic.as_str(), marks)?).await? {
            let text = |name: &str| {
                String::from_utf8_lossy(record.header(name).unwrap_or_default()).into_owned()
            };
            if topic == &topics.curated {
                let source: SourcePosition = Curated::decode(&record.value)?.source;
                if let Some(label) = record.header("tidegate-label-offset") {
                    let label = String::from_utf8_lossy(label);
                    let at = format!("{}[{}]@{label}", topics.labels, source.partition);
                    ends.entry(at).or_default().push(Found::Curated);
                }
                ends.entry(source.to_string()).or_default().push(Found::Curated);
            } else {
                let at = format!(
                    "{}[{}]@{}",
                    text(dead_letter::SOURCE_TOPIC),
                    text(dead_letter::SOURCE_PARTITION),
                    text(dead_letter::SOURCE_OFFSET)
                );
                ends.entry(at).or_default().push(Found::Rejected(record));
            }
        }
    }
    Ok(ends)
}

async fn ends_of(stream: &Stream) -> anyhow::Result<usize> {
    Ok(ends(stream).await?.len())
}
