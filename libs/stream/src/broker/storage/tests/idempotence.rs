//! Producers that number their batches.
use super::{
    super::{log::Refused, producers::SequenceError},
    *,
};

fn send(log: &mut Log, sender: Sender, records: usize) -> Result<i64, Refused> {
    let records: Vec<(i64, &[u8])> = (0..records).map(|_| (1, &[7; 300][..])).collect();
    log.append(&batch(&records, sender))
}

fn refused(sent: Result<i64, Refused>) -> SequenceError {
    match sent {
        Err(Refused::Sequence(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_sent_again_is_kept_once_and_answered_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(send(&mut log, (1, 0, 0), 2).unwrap(), 0);
    assert_eq!(send(&mut log, (1, 0, 2), 1).unwrap(), 2);
    assert_eq!(send(&mut log, (2, 0, 0), 1).unwrap(), 3);
    for _ in 0..2 {
        assert_eq!(send(&mut log, (1, 0, 0), 2).unwrap(), 0);
        assert_eq!(send(&mut log, (1, 0, 2), 1).unwrap(), 2);
    }
    assert_eq!(log.end(), 4);
}

#[test]
fn a_gap_or_a_repeat_from_long_ago_is_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for sequence in 0..6 {
        send(&mut log, (1, 0, sequence), 1).unwrap();
    }
    assert_eq!(refused(send(&mut log, (1, 0, 7), 1)), SequenceError::OutOfOrder);
    assert_eq!(refused(send(&mut log, (1, 0, 0), 1)), SequenceError::OutOfOrder);
    assert_eq!(send(&mut log, (1, 0, 1), 1).unwrap(), 1, "five are remembered");
    assert_eq!(send(&mut log, (1, 0, 6), 1).unwrap(), 6);
}

#[test]
fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    send(&mut log, (1, 3, 0), 1).unwrap();
    assert_eq!(refused(send(&mut log, (1, 4, 1), 1)), SequenceError::OutOfOrder);
    assert_eq!(send(&mut log, (1, 4, 0), 1).unwrap(), 1);
    assert_eq!(refused(send(&mut log, (1, 3, 1), 1)), SequenceError::Fenced);
}

#[test]
fn sequences_wrap_to_zero() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    send(&mut log, (1, 0, i32::MAX), 1).unwrap();
    assert_eq!(send(&mut log, (1, 0, 0), 2).unwrap(), 1);
    assert_eq!(send(&mut log, (2, 0, i32::MAX), 2).unwrap(), 3);
    assert_eq!(send(&mut log, (2, 0, 1), 1).unwrap(), 5);
}

#[test]
fn a_repeat_is_known_after_a_restart_and_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for sequence in 0..20 {
        send(&mut log, (1, 0, sequence), 1).unwrap();
    }
    for forced in [false, true] {
        if forced {
            log.unsynced().force().unwrap();
        }
        drop(log);
        log = open(dir.path());
        assert_eq!(send(&mut log, (1, 0, 15), 1).unwrap(), 15);
        assert_eq!(refused(send(&mut log, (1, 0, 21), 1)), SequenceError::OutOfOrder);
    }
    assert_eq!(send(&mut log, (1, 0, 20), 1).unwrap(), 20);
}

#[test]
fn a_batch_that_was_cut_off_is_not_a_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    send(&mut log, (1, 0, 0), 1).unwrap();
    send(&mut log, (1, 0, 1), 1).unwrap();
    drop(log);
    let path = dir.path().join("00000000000000000000.log");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.end(), 1);
    assert_eq!(send(&mut log, (1, 0, 1), 1).unwrap(), 1);
    assert_eq!(log.end(), 2);
}
