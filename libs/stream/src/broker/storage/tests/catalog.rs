//! The catalogue, and the folder as a whole.
use std::collections::BTreeMap;

use super::{
    super::{Committed, Offsets, Storage, TopicError},
    *,
};
use crate::error::StreamError;

fn storage(dir: &Path) -> Result<Storage, StreamError> {
    Storage::open(dir, Box::new(|_| options()), false)
}

fn commit(storage: &Storage, group: &str, offset: i64) {
    let committed = Committed { offset, leader_epoch: 0, metadata: "note".into() };
    let offsets = Offsets::from([("t".into(), BTreeMap::from([(0, committed)]))]);
    storage.commit(group, offsets).unwrap();
}

fn committed(storage: &Storage, group: &str) -> Option<i64> {
    Some(storage.committed(group)?.get("t")?.get(&0)?.offset)
}

#[test]
fn topics_offsets_and_producer_ids_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let before = storage(dir.path()).unwrap();
    let set = BTreeMap::from([("retention.bytes".to_owned(), "5".to_owned())]);
    let id = before.create("t", 2, set.clone()).unwrap().id;
    before.grow("t", 3).unwrap();
    before.create("gone", 1, BTreeMap::new()).unwrap();
    before.delete("gone").unwrap();
    before.partition("t", 1).unwrap().append(&one(b"a")).unwrap();
    before.delete_records("t", 1, 1).unwrap();
    commit(&before, "g", 4);
    commit(&before, "g", 5);
    commit(&before, "forgotten", 6);
    assert!(before.delete_group("forgotten").unwrap());
    let ids = [before.producer_id().unwrap(), before.producer_id().unwrap()];
    let cluster = before.cluster();
    drop(before);

    let after = storage(dir.path()).unwrap();
    let topic = after.topic("t").unwrap();
    assert_eq!((topic.id, topic.partitions.len(), &topic.configs), (id, 3, &set));
    assert!(after.topic("gone").is_none());
    let log = after.partition("t", 1).unwrap();
    assert_eq!(log.bounds(), (1, 1));
    assert_eq!(committed(&after, "g"), Some(5));
    assert_eq!(committed(&after, "forgotten"), None);
    assert!(!ids.contains(&after.producer_id().unwrap()));
    assert_eq!(after.cluster(), cluster);
    assert_eq!(std::fs::read_dir(dir.path().join("topics")).unwrap().count(), 1);
}

#[test]
fn a_folder_is_used_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = storage(dir.path()).unwrap();
    let error = storage(dir.path()).err().unwrap();
    assert!(matches!(error, StreamError::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    storage(dir.path()).unwrap();
}

#[test]
fn a_topic_of_the_same_name_is_another_topic() {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage(dir.path()).unwrap();
    let first = storage.create("t", 1, BTreeMap::new()).unwrap();
    storage.partition("t", 0).unwrap().append(&one(b"a")).unwrap();
    commit(&storage, "g", 1);
    assert!(matches!(storage.create("t", 1, BTreeMap::new()), Err(TopicError::Exists)));
    storage.delete("t").unwrap();
    assert!(matches!(storage.delete("t"), Err(TopicError::Unknown)));
    let second = storage.create("t", 1, BTreeMap::new()).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(storage.partition("t", 0).unwrap().bounds().1, 0);
    assert_eq!(committed(&storage, "g"), None);
}

#[test]
fn partitions_have_a_limit_and_never_become_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage(dir.path()).unwrap();
    assert!(matches!(storage.create("t", 10_000, BTreeMap::new()), Err(TopicError::TooMany)));
    assert!(storage.topic("t").is_none());
    storage.create("t", 2, BTreeMap::new()).unwrap();
    assert!(matches!(storage.grow("t", 2), Err(TopicError::Fewer(2))));
    assert!(matches!(storage.grow("t", 10_000), Err(TopicError::TooMany)));
}

#[test]
fn a_catalogue_cut_at_any_byte_is_its_whole_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.log");
    let whole = storage(dir.path()).unwrap();
    let first = std::fs::metadata(&path).unwrap().len() as usize;
    for offset in 1..=3 {
        commit(&whole, "g", offset);
    }
    drop(whole);
    let bytes = std::fs::read(&path).unwrap();
    let line = (bytes.len() - first) / 3;
    for cut in first..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let cut_off = storage(dir.path()).unwrap();
        let changes = (cut - first) / line;
        assert_eq!(committed(&cut_off, "g").unwrap_or_default(), changes as i64, "cut at {cut}");
        commit(&cut_off, "g", 99);
        drop(cut_off);
        assert_eq!(committed(&storage(dir.path()).unwrap(), "g"), Some(99), "cut at {cut}");
    }
}

#[test]
fn a_catalogue_damaged_in_the_middle_is_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.log");
    let whole = storage(dir.path()).unwrap();
    let first = std::fs::metadata(&path).unwrap().len() as usize;
    commit(&whole, "g", 1);
    commit(&whole, "g", 2);
    drop(whole);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[first + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = storage(dir.path()).err().unwrap().to_string();
    assert!(error.contains(&format!("damaged at byte {first}")), "{error}");
}

#[test]
fn a_long_catalogue_is_rewritten_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.log");
    let before = storage(dir.path()).unwrap();
    let note = "n".repeat(4_000);
    for offset in 1..=5_000 {
        let committed = Committed { offset, leader_epoch: 0, metadata: note.clone() };
        let offsets = Offsets::from([("t".into(), BTreeMap::from([(0, committed)]))]);
        before.commit("g", offsets).unwrap();
    }
    assert_eq!(committed(&before, "g"), Some(5_000));
    assert!(std::fs::metadata(&path).unwrap().len() < 10 << 20);
    drop(before);
    assert_eq!(committed(&storage(dir.path()).unwrap(), "g"), Some(5_000));
}

#[test]
fn a_folder_of_no_topic_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(storage(dir.path()).unwrap());
    let stranger = dir.path().join("topics/stranger");
    std::fs::create_dir(&stranger).unwrap();
    drop(storage(dir.path()).unwrap());
    assert!(stranger.is_dir());
}
