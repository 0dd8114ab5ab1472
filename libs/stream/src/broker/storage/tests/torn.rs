//! Writes that were cut short, and bytes that were damaged.
use proptest::prelude::*;

use super::{super::segment::Segment, *};

const VALUES: [&[u8]; 4] = [b"one", b"", &[3; 300], b"four"];

/// A log of one segment, and where each of its batches ends.
fn written(dir: &Path) -> (Vec<u8>, Vec<usize>) {
    let mut log = open(dir);
    let mut ends = Vec::new();
    for value in VALUES {
        log.append(&one(value)).unwrap();
        ends.push(std::fs::metadata(Segment::file(dir, 0)).unwrap().len() as usize);
    }
    (std::fs::read(Segment::file(dir, 0)).unwrap(), ends)
}

/// What a start makes of a segment file of these bytes.
fn recovered(bytes: &[u8]) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(Segment::file(dir.path(), 0), bytes).unwrap();
    let log = open(dir.path());
    (dir, log)
}

#[test]
fn a_log_cut_at_any_byte_is_its_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = written(dir.path());
    for cut in 0..=bytes.len() {
        let (dir, mut log) = recovered(&bytes[..cut]);
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        assert_eq!(log.end(), whole as i64, "cut at {cut}");
        assert_eq!(batches(&log, 0, 10_000).len(), whole);
        // It goes on there, and the next start finds all of it.
        assert_eq!(log.append(&one(b"next")).unwrap(), whole as i64);
        drop(log);
        assert_eq!(open(dir.path()).end(), whole as i64 + 1, "cut at {cut}");
    }
}

#[test]
fn zeros_at_the_end_are_no_records() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, _) = written(dir.path());
    let len = bytes.len();
    bytes.resize(len + 5_000, 0);
    let (dir, log) = recovered(&bytes);
    assert_eq!(log.end(), 4);
    assert_eq!(std::fs::metadata(Segment::file(dir.path(), 0)).unwrap().len() as usize, len);
}

#[test]
fn a_batch_from_before_does_not_follow_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = written(dir.path());
    // Bytes of an older life of the file, whole, but not what comes next.
    let mut twice = bytes.clone();
    twice.extend_from_slice(&bytes[..ends[0]]);
    assert_eq!(recovered(&twice).1.end(), 4);
}

proptest! {
    #[test]
    fn a_damaged_byte_cuts_the_log_before_it(at in 0_usize..600, flip in 1_u8..=255) {
        let dir = tempfile::tempdir().unwrap();
        let (mut bytes, ends) = written(dir.path());
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let batch = ends.iter().filter(|&&end| end <= at).count();
        let start = if batch == 0 { 0 } else { ends[batch - 1] };
        let (_dir, log) = recovered(&bytes);
        // The leader epoch is the broker's own, in no crc, and always 0.
        let whole = (12..16).contains(&(at - start));
        prop_assert_eq!(log.end(), if whole { 4 } else { batch as i64 });
    }

    #[test]
    fn any_bytes_can_be_opened(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_dir, mut log) = recovered(&bytes);
        let end = log.end();
        prop_assert_eq!(log.append(&one(b"next")).unwrap(), end);
    }

    #[test]
    fn any_bytes_from_a_producer_are_a_batch_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if bytes.len() > 16 {
            bytes[16] = 2;
        }
        prop_assert!(Batch::check(bytes.into()).is_err());
    }
}

#[test]
fn a_batch_that_contradicts_itself_is_refused() {
    use super::super::batch::Malformed;
    let check = |bytes: Vec<u8>| Batch::check(bytes.into()).map(|_| ());
    let sealed = |mut bytes: Vec<u8>| {
        let crc = crc32c::crc32c(&bytes[21..]).to_be_bytes();
        bytes[17..21].copy_from_slice(&crc);
        bytes
    };
    let good = bytes_of(&[(1, b"a"), (2, b"b")], NOBODY);
    assert_eq!(check(good.clone()), Ok(()));
    assert_eq!(check(good[..good.len() - 1].to_vec()), Err(Malformed::Corrupt));
    assert_eq!(check(Vec::new()), Err(Malformed::Corrupt));
    let two = [good.clone(), good.clone()].concat();
    assert!(matches!(check(two), Err(Malformed::Invalid(_))));
    let mut old = good.clone();
    old[16] = 1;
    assert_eq!(check(old), Err(Malformed::Format));
    let mut count = good.clone();
    count[60] = 3;
    assert!(matches!(check(sealed(count)), Err(Malformed::Invalid(_))));
    let mut transactional = good;
    transactional[22] |= 0x10;
    assert_eq!(check(sealed(transactional)), Err(Malformed::Transactional));
}
