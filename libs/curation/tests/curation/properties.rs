//! What holds for every stream.
use std::collections::BTreeMap;

use proptest::prelude::*;
use tidegate_contracts::SourcePosition;
use tidegate_curation::{CurationConfig, Emit, Incoming, Pipeline, Raw, Side};

use crate::stream::{at, event, label, raw};

/// Small memories and a short horizon, so that every way out of the pipeline is taken.
fn config() -> CurationConfig {
    let mut config = CurationConfig::default();
    config.exact.capacity = 12;
    config.near.capacity = 8;
    config.join.capacity = 5;
    config.join.horizon_s = 15;
    config
}

#[derive(Debug, Clone)]
enum Step {
    Event { id: u8, text: u8, labelled: bool, jitter: i64 },
    Label { id: u8, jitter: i64 },
    Garbage { bytes: Vec<u8>, is_label: bool, protobuf: bool },
    CaughtUp { events: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..30_u8, 0..25_u8, any::<bool>(), -5..5_i64)
            .prop_map(|(id, text, labelled, jitter)| Step::Event { id, text, labelled, jitter }),
        4 => (0..30_u8, -5..5_i64).prop_map(|(id, jitter)| Step::Label { id, jitter }),
        1 => (prop::collection::vec(any::<u8>(), 0..60), any::<bool>(), any::<bool>())
            .prop_map(|(bytes, is_label, protobuf)| Step::Garbage { bytes, is_label, protobuf }),
        1 => any::<bool>().prop_map(|events| Step::CaughtUp { events }),
    ]
}

enum Input {
    Record(Incoming),
    CaughtUp(Side),
}

fn inputs(steps: &[Step]) -> Vec<Input> {
    let (mut events, mut labels) = (0, 0);
    let mut inputs = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let second = i as i64;
        inputs.push(match step {
            Step::Event { id, text, labelled, jitter } => {
                let words = "the same words again and again in a row until it is long enough";
                let text = format!("{words} {words} {words} {}", text / 2);
                let own = labelled.then_some("own");
                let mut incoming = event(events, &format!("e{id}"), &text, own);
                set_time(&mut incoming, second + jitter);
                events += 1;
                Input::Record(incoming)
            }
            Step::Label { id, jitter } => {
                let mut incoming = label(labels, &format!("e{id}"), "late");
                set_time(&mut incoming, second + jitter);
                labels += 1;
                Input::Record(incoming)
            }
            Step::Garbage { bytes, is_label, protobuf } => {
                let (topic, offset) =
                    if *is_label { ("labels", &mut labels) } else { ("events", &mut events) };
                let mut raw = raw(topic, *offset, second, bytes.clone());
                *offset += 1;
                if *protobuf {
                    raw.headers.push(("content-type".into(), "application/protobuf".into()));
                }
                Input::Record(if *is_label { Incoming::Label(raw) } else { Incoming::Event(raw) })
            }
            Step::CaughtUp { events } => {
                Input::CaughtUp(if *events { Side::Events } else { Side::Labels })
            }
        });
    }
    inputs
}

fn set_time(incoming: &mut Incoming, second: i64) {
    let (Incoming::Event(raw) | Incoming::Label(raw)) = incoming;
    raw.time = at(second);
}

fn feed(pipeline: &mut Pipeline, input: &Input) -> Vec<Emit> {
    match input {
        Input::Record(incoming) => pipeline.apply(incoming.clone()),
        Input::CaughtUp(side) => pipeline.caught_up(*side),
    }
}

fn position(incoming: &Incoming) -> &SourcePosition {
    let (Incoming::Event(raw) | Incoming::Label(raw)) = incoming;
    &raw.position
}

fn count(emit: &Emit, ends: &mut BTreeMap<SourcePosition, u32>) {
    let mut end = |position: &SourcePosition| *ends.entry(position.clone()).or_default() += 1;
    match emit {
        Emit::Curated(record) => {
            end(&record.record.source);
            if let Some(label) = &record.label {
                end(&label.position);
            }
        }
        Emit::Rejected(record) => end(&record.raw.position),
    }
}

fn bring(snapshot: &[u8], past: &[Input]) -> Pipeline {
    let mut restoring = Pipeline::restore(&config(), snapshot).unwrap();
    let supply: Vec<(Side, Raw)> = past
        .iter()
        .filter_map(|input| match input {
            Input::Record(Incoming::Event(raw)) => Some((Side::Events, raw.clone())),
            Input::Record(Incoming::Label(raw)) => Some((Side::Labels, raw.clone())),
            Input::CaughtUp(_) => None,
        })
        .collect();
    for (side, raw) in supply {
        restoring.supply(side, raw);
    }
    let (pipeline, lost) = restoring.finish();
    assert_eq!(lost, []);
    pipeline
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_record_ends_once_or_waits(steps in prop::collection::vec(step(), 0..150)) {
        let mut pipeline = Pipeline::new(&config()).unwrap();
        let mut ends = BTreeMap::new();
        let mut given = 0_usize;
        for input in inputs(&steps) {
            if let Input::Record(incoming) = &input {
                given += 1;
                prop_assert!(!ends.contains_key(position(incoming)));
            }
            for emit in feed(&mut pipeline, &input) {
                count(&emit, &mut ends);
            }
            let waiting = pipeline.waiting();
            prop_assert!(ends.values().all(|&n| n == 1), "{:?}", ends);
            prop_assert_eq!(ends.len() + waiting.events + waiting.labels, given);
            prop_assert!(waiting.events <= 5 && waiting.labels <= 5);
        }
    }

    #[test]
    fn a_restored_pipeline_goes_on_as_if_nothing_had_happened(
        steps in prop::collection::vec(step(), 1..120),
        at in any::<prop::sample::Index>(),
    ) {
        let inputs = inputs(&steps);
        let (past, future) = inputs.split_at(at.index(inputs.len()));
        let mut whole = Pipeline::new(&config()).unwrap();
        for input in past {
            feed(&mut whole, input);
        }
        let mut back = bring(&whole.snapshot(), past);
        for input in future {
            prop_assert_eq!(feed(&mut back, input), feed(&mut whole, input));
        }
        prop_assert_eq!(back.snapshot(), whole.snapshot());
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        header in prop::collection::vec(any::<u8>(), 0..20),
        snapshot in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut pipeline = Pipeline::new(&config()).unwrap();
        for (i, name) in ["content-type", "ce_id", "ce_time", "none"].into_iter().enumerate() {
            let mut raw = raw("events", i as i64, 0, bytes.clone());
            raw.headers.push((name.into(), header.clone().into()));
            pipeline.apply(Incoming::Event(raw.clone()));
            pipeline.apply(Incoming::Label(raw));
        }
        prop_assert!(Pipeline::restore(&config(), &snapshot).is_err());
    }
}
