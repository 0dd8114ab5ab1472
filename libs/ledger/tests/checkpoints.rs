//! Checkpoints: signed roots over the log, proofs under them, and copies that show what was changed.
use chrono::{TimeDelta, Utc};
use tempfile::TempDir;
use tidegate_contracts::{JobId, JobKind, MerkleRoot, Producer};
use tidegate_ledger::{
    Author, Entry, Fact, Ledger, LedgerConfig, LedgerError, Proof, Witness, read_at_rest,
};

async fn open(folder: &TempDir) -> Ledger {
    Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap()
}

async fn jobs(ledger: &Ledger, count: usize) {
    for at in 0..count {
        let fact = Fact::job(JobId::generate(), JobKind::HotUpdate, format!("number {at}"));
        let author = Author::unfenced("operator:ana");
        ledger.decide(&author, |_| Ok(Some(fact.clone()))).await.unwrap();
    }
}

/// What the controller does when it is due.
async fn checkpoint(ledger: &Ledger, entries: u64) -> Option<Entry> {
    let author = Author::unfenced("controller");
    let due = |state: &tidegate_ledger::State| {
        Ok(state.due_checkpoint(entries, TimeDelta::hours(1), Utc::now()))
    };
    ledger.decide(&author, due).await.unwrap()
}

#[tokio::test]
async fn a_checkpoint_is_due_by_entries_or_by_time_and_not_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder).await;
    assert!(checkpoint(&ledger, 5).await.is_none(), "an empty log");
    jobs(&ledger, 4).await;
    assert!(checkpoint(&ledger, 5).await.is_none(), "four of five");
    jobs(&ledger, 1).await;
    assert_eq!(checkpoint(&ledger, 5).await.unwrap().seq, 6);
    let state = ledger.state().await.unwrap();
    let tomorrow = Utc::now() + TimeDelta::days(1);
    assert!(state.due_checkpoint(5, TimeDelta::hours(1), tomorrow).is_none(), "nothing came since");
    jobs(&ledger, 1).await;
    let state = ledger.state().await.unwrap();
    assert!(state.due_checkpoint(5, TimeDelta::hours(1), Utc::now()).is_none());
    assert!(state.due_checkpoint(5, TimeDelta::hours(1), tomorrow).is_some());
    let report = ledger.verify().await.unwrap();
    assert_eq!((report.faults.len(), report.checkpoints), (0, 1));
}

#[tokio::test]
async fn a_checkpoint_over_other_entries_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder).await;
    jobs(&ledger, 3).await;
    for (size, root) in [(3, MerkleRoot::from_bytes([7; 32])), (2, MerkleRoot::from_bytes([0; 32]))]
    {
        let wrong = Fact::Checkpointed { size, root, seal: None };
        let refused = ledger
            .decide(&Author::unfenced("controller"), |_| Ok(Some(wrong.clone())))
            .await
            .unwrap_err();
        assert!(matches!(refused, LedgerError::Refused(_)), "{refused}");
        assert!(refused.to_string().contains("the 3 entries before it have root"), "{refused}");
    }
}

#[tokio::test]
async fn a_proof_holds_without_the_ledger_and_not_when_anything_in_it_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder).await;
    jobs(&ledger, 12).await;
    checkpoint(&ledger, 5).await.unwrap();
    jobs(&ledger, 2).await;
    let log = ledger.read(1, 100).await.unwrap();
    for seq in 1..=12 {
        let proof = Proof::of(seq, &log).unwrap();
        proof.check(ledger.keys()).unwrap();
        let text = serde_json::to_string(&proof).unwrap();
        let again: Proof = serde_json::from_str(&text).unwrap();
        again.check(ledger.keys()).unwrap();
        let mut moved = proof.clone();
        moved.entry = log[(seq as usize) % 12].clone();
        assert!(moved.check(ledger.keys()).unwrap_err().contains("does not lead"));
        let mut altered = proof.clone();
        altered.entry.actor = "operator:eve".into();
        assert!(altered.check(ledger.keys()).unwrap_err().contains("does not cover"));
    }
    assert!(Proof::of(14, &log).unwrap_err().contains("no checkpoint covers entry 14 yet"));
    assert!(Proof::of(0, &log).unwrap_err().contains("there is no entry 0"));
    assert!(Proof::of(99, &log).unwrap_err().contains("the ledger has 15"));
    // Another service's keys do not make it true.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open(&elsewhere).await;
    let why = Proof::of(3, &log).unwrap().check(other.keys()).unwrap_err();
    assert!(why.contains("which is not in"), "{why}");
}

#[tokio::test]
async fn copies_outside_show_a_log_that_was_cut_or_rewritten_by_who_has_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder).await;
    jobs(&ledger, 8).await;
    let made = checkpoint(&ledger, 5).await.unwrap();
    let log = ledger.read(1, 100).await.unwrap();
    let Fact::Checkpointed { size, root, .. } = &made.fact else { unreachable!() };
    let line = |entry: &Entry| serde_json::to_string(entry).unwrap();
    let kept = format!(
        "{}\n\n{}\n{{\"size\": {size}, \"root\": \"{root}\"}}\n",
        line(&log[4]),
        line(&made)
    );
    let witnesses = Witness::read(&kept).unwrap();
    assert_eq!(witnesses.len(), 3);
    let faults = |hashes: &[_]| {
        let found = witnesses.iter().filter_map(|one| one.differs(hashes));
        found.map(|fault| fault.to_string()).collect::<Vec<_>>()
    };
    assert!(faults(&ledger.verify().await.unwrap().hashes).is_empty());
    // The same keys, another past: it verifies, and the copies tell.
    let rewritten = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(rewritten.path()).unwrap();
    for part in std::fs::read_dir(folder.path()).unwrap() {
        let part = part.unwrap();
        if part.path().is_dir() {
            let to = rewritten.path().join(part.file_name());
            std::fs::create_dir_all(&to).unwrap();
            for file in std::fs::read_dir(part.path()).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
    }
    let other = open(&rewritten).await;
    jobs(&other, 9).await;
    let report = other.verify().await.unwrap();
    assert!(report.faults.is_empty());
    let found = faults(&report.hashes);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|fault| fault.contains("rewritten")), "{found:?}");
    let found = faults(&report.hashes[..3]);
    assert!(found.iter().all(|fault| fault.contains("it was cut off")), "{found:?}");
    assert!(Witness::read("{}\nhello").unwrap_err().contains("line 1 is neither"));
}

#[tokio::test]
async fn a_ledger_at_rest_is_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder).await;
    jobs(&ledger, 3).await;
    let log = ledger.read(1, 100).await.unwrap();
    drop(ledger);
    let config = LedgerConfig::default();
    assert_eq!(read_at_rest(&config, folder.path()).await.unwrap(), log);
    let none = tempfile::tempdir().unwrap();
    let error = read_at_rest(&config, none.path()).await.unwrap_err();
    assert!(error.to_string().contains("there is no ledger"), "{error}");
}

#[tokio::test]
async fn a_producer_is_set_aside_once_and_released_once_and_jobs_see_it_as_of_their_start() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder).await;
    let (producer, reason) = (Producer::new("feed-3"), "it lies".to_owned());
    let aside = Fact::ProducerQuarantined { producer: producer.clone(), reason: reason.clone() };
    let back = Fact::ProducerReleased { producer: producer.clone(), reason };
    let author = Author::unfenced("operator:ana");
    let write = async |fact: &Fact| ledger.decide(&author, |_| Ok(Some(fact.clone()))).await;
    let refused = write(&back).await.unwrap_err().to_string();
    assert!(refused.contains("producer feed-3 is not set aside"), "{refused}");
    let before = Utc::now();
    let at = write(&aside).await.unwrap().unwrap().time;
    let refused = write(&aside).await.unwrap_err().to_string();
    assert!(refused.contains("producer feed-3 is set aside already"), "{refused}");
    let until = write(&back).await.unwrap().unwrap().time;
    let state = ledger.state().await.unwrap();
    assert!(state.quarantined_producers(before).is_empty());
    assert!(state.quarantined_producers(at).contains(&producer));
    assert!(!state.quarantined_producers(until).contains(&producer));
    let record = &state.producers()[0];
    assert_eq!((record.by.as_str(), &*record.reason), ("operator:ana", "it lies"));
    assert!(record.released.is_some());
    write(&aside).await.unwrap();
    assert!(ledger.verify().await.unwrap().faults.is_empty());
}
