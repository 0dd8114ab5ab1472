//! Reading, restarting, retention, deletion.
use proptest::prelude::*;

use super::{super::log::Refused, *};

#[test]
fn a_batch_is_kept_as_it_came_but_for_offset_and_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&one(b"before")).unwrap();
    let sent = bytes_of(&[(5, b"a"), (6, b"b")], (9, 3, 40));
    assert_eq!(log.append(&Batch::check(sent.clone().into()).unwrap()).unwrap(), 1);
    let kept = log.stretch(2).unwrap().unwrap().read(2, 10_000, true).unwrap();
    assert_eq!(kept[..8], 1_i64.to_be_bytes());
    assert_eq!(kept[8..12], sent[8..12]);
    assert_eq!(kept[12..16], 0_i32.to_be_bytes());
    assert_eq!(kept[16..], sent[16..]);
}

#[test]
fn a_batch_over_the_limit_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert!(matches!(log.append(&one(&[0; 10_001])), Err(Refused::TooLarge)));
    assert_eq!(log.end(), 0);
    assert_eq!(log.append(&one(b"next")).unwrap(), 0);
}

#[test]
fn offsets_outside_the_log_are_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&one(b"a")).unwrap();
    assert!(log.stretch(-1).is_err());
    assert!(log.stretch(0).unwrap().is_some());
    assert!(log.stretch(1).unwrap().is_none(), "the end is waited at");
    assert!(log.stretch(2).is_err());
}

#[test]
fn a_batch_larger_than_asked_for_comes_alone_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&one(&[1; 500])).unwrap();
    log.append(&one(&[2; 100])).unwrap();
    let read = |least| log.stretch(0).unwrap().unwrap().read(0, 10, least).unwrap();
    assert!(read(false).is_empty());
    let whole = read(true);
    assert_eq!(BatchHeader::parse(&whole).unwrap().len, whole.len());
}

#[test]
fn retention_drops_the_oldest_segments_and_no_offset_is_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions { retention_bytes: 3_000, ..options() };
    let mut log = Log::open(dir.path(), small, 0).unwrap();
    for i in 0..100 {
        assert_eq!(log.append(&one(&[i; 200])).unwrap(), i64::from(i));
    }
    let start = log.start();
    assert!(start > 0 && start < 100, "{start}");
    assert!(log.stretch(start - 1).is_err());
    assert_eq!(batches(&log, start, 500).len() as i64, 100 - start);
    let on_disk: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= 4_000, "{on_disk}");
    drop(log);
    let mut log = Log::open(dir.path(), small, 0).unwrap();
    assert_eq!((log.start(), log.end()), (start, 100));
    assert_eq!(log.append(&one(b"next")).unwrap(), 100);
}

#[test]
fn retention_by_time_keeps_a_segment_until_its_newest_record_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let an_hour = LogOptions { retention_ms: Some(3_600_000), ..options() };
    let mut log = Log::open(dir.path(), an_hour, 0).unwrap();
    for time in [1_000, 2_000, 3_000] {
        log.append(&batch(&[(time, &[0; 900])], NOBODY)).unwrap();
    }
    log.retain_time(3_601_500);
    assert_eq!(log.start(), 1);
    log.retain_time(i64::MAX);
    assert_eq!((log.start(), log.end()), (2, 3), "the newest segment stays");
}

#[test]
fn deleted_records_stay_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for i in 0..20 {
        log.append(&one(&[i; 200])).unwrap();
    }
    log.trim(9);
    assert_eq!(log.start(), 9);
    assert!(log.stretch(8).is_err());
    drop(log);
    let mut log = Log::open(dir.path(), options(), 9).unwrap();
    assert_eq!((log.start(), log.end()), (9, 20));
    log.trim(20);
    assert_eq!((log.start(), log.end()), (20, 20));
    assert!(log.stretch(20).unwrap().is_none());
    assert_eq!(log.append(&one(b"next")).unwrap(), 20);
}

#[test]
fn deletion_holds_when_the_log_itself_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), options(), 50).unwrap();
    assert_eq!((log.start(), log.end()), (50, 50));
    assert_eq!(log.append(&one(b"a")).unwrap(), 50);
    drop(log);
    let log = Log::open(dir.path(), options(), 70).unwrap();
    assert_eq!((log.start(), log.end()), (70, 70));
}

#[test]
fn the_first_record_since_a_time_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for i in 0..50 {
        let time = 1_000 + 100 * i;
        log.append(&batch(&[(time, &[0; 50]), (time + 50, &[1; 50])], NOBODY)).unwrap();
    }
    for (since, offset, time) in [(0, 0, 1_000), (1_001, 1, 1_050), (3_000, 40, 3_000)] {
        let found = log.since(since).unwrap().since(since).unwrap();
        assert_eq!(found, Some((offset, time)), "since {since}");
    }
    assert!(log.since(5_951).is_none());
    assert_eq!(log.max_timestamp(), 5_950);
}

#[test]
fn a_sealed_segment_is_not_read_again_and_a_lost_seal_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for i in 0..30 {
        log.append(&one(&[i; 200])).unwrap();
    }
    let before = batches(&log, 0, 700);
    log.unsynced().force().unwrap();
    drop(log);
    let seals = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|p| p.extension().is_some_and(|e| e == "sealed")).collect::<Vec<_>>()
    };
    assert!(seals().len() > 5);
    assert_eq!(batches(&open(dir.path()), 0, 700), before);
    std::fs::remove_file(&seals()[0]).unwrap();
    std::fs::write(&seals()[1], "not a seal").unwrap();
    assert_eq!(batches(&open(dir.path()), 0, 700), before);
}

#[test]
fn a_segment_that_is_dropped_before_it_is_sealed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions { retention_bytes: 1_500, ..options() };
    let mut log = Log::open(dir.path(), small, 0).unwrap();
    for i in 0..50 {
        log.append(&one(&[i; 400])).unwrap();
    }
    log.unsynced().force().unwrap();
    std::fs::write(dir.path().join("00000000000000000000.sealed"), "stray").unwrap();
    drop(log);
    drop(Log::open(dir.path(), small, 0).unwrap());
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let (segments, sidecars): (Vec<_>, Vec<_>) =
        names.partition(|path| path.extension().is_some_and(|e| e == "log"));
    assert!(sidecars.iter().all(|sidecar| segments.contains(&sidecar.with_extension("log"))));
    assert_eq!(sidecars.len() + 1, segments.len());
}

#[derive(Debug, Clone)]
enum Act {
    Append(Vec<usize>),
    Force,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => prop::collection::vec(0_usize..400, 1..4).prop_map(Act::Append),
        1 => Just(Act::Force),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, every offset leads to the batch that holds it.
    #[test]
    fn what_was_appended_is_read_from_any_offset(
        acts in prop::collection::vec(act(), 1..60),
        max in 1_usize..3_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        let mut written = Vec::new();
        for act in acts {
            match act {
                Act::Append(sizes) => {
                    let values: Vec<Vec<u8>> = sizes.iter().map(|&n| vec![n as u8; n]).collect();
                    let records: Vec<(i64, &[u8])> = values.iter().map(|v| (9, &v[..])).collect();
                    let end = log.end();
                    prop_assert_eq!(log.append(&batch(&records, NOBODY)).unwrap(), end);
                    let body = bytes_of(&records, NOBODY).split_off(HEADER);
                    written.push((end, Bytes::from(body)));
                }
                Act::Force => log.unsynced().force().unwrap(),
                Act::Restart => {
                    drop(log);
                    log = open(dir.path());
                }
            }
        }
        for from in 0..=log.end() {
            let first = written.partition_point(|(base, _)| *base <= from).saturating_sub(1);
            let expected = if from == log.end() { &[][..] } else { &written[first..] };
            prop_assert_eq!(&batches(&log, from, max)[..], expected);
        }
    }
}
