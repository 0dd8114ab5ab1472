//! Snapshots.
use tidegate_curation::{CurationConfig, CurationError, Incoming, Pipeline, Side};

use crate::stream::{curated, event, label, pipeline, rejected};

fn busy() -> (Pipeline, Vec<Incoming>) {
    let mut pipeline = pipeline();
    let mut records = Vec::new();
    for i in 0..50 {
        let own = (i % 3 == 0).then_some("x");
        records.push(event(i, &format!("e{i}"), &format!("text {i}"), own));
        records.push(label(i, &format!("e{}", i * 2), "y"));
    }
    for record in &records {
        pipeline.apply(record.clone());
    }
    (pipeline, records)
}

#[test]
fn a_snapshot_brings_back_duplicates_and_what_waits() {
    let (pipeline, records) = busy();
    let snapshot = pipeline.snapshot();
    let mut restoring = Pipeline::restore(&CurationConfig::default(), &snapshot).unwrap();
    assert!(restoring.wanted(Side::Events).is_some() && restoring.wanted(Side::Labels).is_some());
    for record in records {
        match record {
            Incoming::Event(raw) => restoring.supply(Side::Events, raw),
            Incoming::Label(raw) => restoring.supply(Side::Labels, raw),
        }
    }
    let (mut back, lost) = restoring.finish();
    assert_eq!(lost, []);
    assert_eq!(back.waiting(), pipeline.waiting());
    assert_eq!(back.snapshot(), snapshot);
    assert_eq!(rejected(back.apply(event(50, "e1", "new", None))).code, "duplicate_id");
    assert_eq!(rejected(back.apply(label(50, "e0", "y"))).code, "duplicate_label");
    assert_eq!(curated(back.apply(label(51, "e49", "y"))).record.source.offset.0, 49);
}

#[test]
fn records_that_their_topic_no_longer_holds_are_reported_as_lost() {
    let (pipeline, _) = busy();
    let restoring = Pipeline::restore(&CurationConfig::default(), &pipeline.snapshot()).unwrap();
    let (back, lost) = restoring.finish();
    let waiting = pipeline.waiting();
    assert_eq!(lost.len(), waiting.events + waiting.labels);
    assert_eq!(back.waiting().events, 0);
}

#[test]
fn every_damage_to_a_snapshot_is_a_clear_error() {
    let (pipeline, _) = busy();
    let snapshot = pipeline.snapshot();
    let restore = |bytes: &[u8]| Pipeline::restore(&CurationConfig::default(), bytes).err();
    for len in (0..snapshot.len()).step_by(37) {
        assert!(matches!(restore(&snapshot[..len]), Some(CurationError::Damaged(_))), "{len}");
    }
    for at in (0..snapshot.len()).step_by(41) {
        let mut changed = snapshot.clone();
        changed[at] ^= 1;
        let error = restore(&changed).unwrap();
        assert!(matches!(error, CurationError::Damaged(_)), "{at}: {error}");
    }
}

#[test]
fn stages_may_come_go_and_change_between_snapshot_and_restore() {
    let (pipeline, _) = busy();
    let snapshot = pipeline.snapshot();
    let mut config = CurationConfig::default();
    config.near.permutations = 64;
    config.exact.capacity = 10;
    let (back, _) = Pipeline::restore(&config, &snapshot).unwrap().finish();
    assert!(back.snapshot().len() < snapshot.len());
    config.stages.retain(|s| s.as_str() != "exact");
    let (mut back, _) = Pipeline::restore(&config, &snapshot).unwrap().finish();
    curated(back.apply(event(60, "e0", "text 0", Some("x"))));
}

#[test]
fn the_state_is_bounded() {
    let mut config = CurationConfig::default();
    config.exact.capacity = 50;
    config.near.capacity = 50;
    config.join.capacity = 50;
    let mut pipeline = Pipeline::new(&config).unwrap();
    let mut sizes = Vec::new();
    for i in 0..1_000 {
        pipeline.apply(event(i, &format!("e{i:04}"), &format!("some words in text {i:04}"), None));
        pipeline.apply(label(i, &format!("l{i:04}"), "x"));
        sizes.push(pipeline.snapshot().len());
    }
    assert_eq!(sizes[200..].iter().max(), sizes[200..].iter().min());
    assert!(sizes[999] < 50 * (40 + 300 + 17 + 16) + 1_000, "{}", sizes[999]);
}
