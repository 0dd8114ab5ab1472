//! Killed, cut off, damaged, moved: every record has its effect exactly once.
use std::{
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::SourcePosition;
use tidegate_stream::{Message, Stream};
use tokio_util::sync::CancellationToken;

use crate::house::{House, ledger, quick, stream_config, text};

/// A piece of a stream with everything in it: duplicates, near duplicates, late and early labels,
/// labels of nobody, garbage.
fn piece(house: &House, random: &mut ChaCha8Rng, from: usize, n: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    for i in from..from + n {
        let id = format!("id {}", if random.random_bool(0.1) { i / 2 } else { i });
        let text =
            if random.random_bool(0.1) { format!("text {}", i / 2) } else { format!("text {i}") };
        let own = random.random_bool(0.4).then_some("own");
        messages.push(match random.random_range(0..20) {
            0 => Message::new(&house.stream.topics().events, "garbage").key(id.clone()),
            _ => house.event(&id, &text, own),
        });
        let labelled =
            if random.random_bool(0.5) { i } else { random.random_range(0..from + 2 * n) };
        if random.random_bool(0.7) {
            messages.push(house.label(&format!("id {labelled}"), "late"));
        }
    }
    messages
}

/// Waits until nothing but waiting records is left, and checks that nothing was lost or doubled.
async fn settle(house: &House, sent: &[SourcePosition]) {
    let probes: Vec<SourcePosition> = {
        // Behind everything else on each lane: when they are out, everything before them is.
        let probe =
            |i: usize| house.event(&format!("probe {i}"), &format!("probe text {i}"), Some("x"));
        house.send((0..40).map(probe).collect()).await
    };
    let late_labels: Vec<SourcePosition> =
        house.send((0..40).map(|i| house.label(&format!("probe {i}"), "late")).collect()).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let effects = house.effects().await;
        if probes.iter().chain(&late_labels).all(|position| effects.contains_key(position)) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the probes did not come through");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Once more: between reading one output topic and the other, a label may have met its event.
    let effects = house.effects().await;
    let doubled: Vec<_> = effects.iter().filter(|(_, n)| n.len() != 1).collect();
    assert!(doubled.is_empty(), "doubled: {doubled:#?}");
    let known: std::collections::BTreeSet<_> =
        sent.iter().chain(&probes).chain(&late_labels).collect();
    assert!(effects.keys().all(|position| known.contains(position)));
    // What has no effect yet waits in the join: unlabelled events and labels without event.
    let topics = house.stream.topics();
    let events = house.all(&topics.events).await;
    let labels = house.all(&topics.labels).await;
    for record in events.iter().filter(|r| !effects.contains_key(&r.position())) {
        let value: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        assert!(value.get("label").is_none(), "lost: {record:?}");
        // Its label has not come: one that has would be in its curated record.
        let waits = labels.iter().filter(|l| l.key == record.key);
        assert_eq!(waits.filter(|l| !effects.contains_key(&l.position())).count(), 0);
    }
    for record in labels.iter().filter(|r| !effects.contains_key(&r.position())) {
        let same = events.iter().filter(|e| e.key == record.key);
        assert_eq!(
            same.filter(|e| text(e, "content-type").is_none() && e.value != "garbage").count(),
            0,
            "lost: {record:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curator_that_is_killed_anywhere_loses_and_doubles_nothing() {
    for (seed, checkpoint_ms) in [(2, 60_000), (1, 5)] {
        let house = House::build(2).await;
        let ledger = house.ledger().await;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut config = quick();
        config.checkpoint_ms = checkpoint_ms;
        let mut sent = Vec::new();
        for round in 0..5 {
            let curator = house.curate(config.clone(), &ledger);
            let before = house.outputs().await;
            for part in 0..3 {
                let messages = piece(&house, &mut random, 120 * round + 40 * part, 40);
                sent.extend(house.send(messages).await);
            }
            house.until_outputs(before + random.random_range(1..60)).await;
            curator.kill().await;
        }
        let curator = house.curate(config, &ledger);
        settle(&house, &sent).await;
        curator.stop().await;
    }
}

/// Not a test by itself: the process that the next test kills.
#[test]
#[ignore = "is started, and killed, by a_process_that_is_killed_loses_and_doubles_nothing"]
fn the_process_to_be_killed() {
    let Ok(brokers) = std::env::var("CURATOR_TEST_BROKERS") else { return };
    let folder = PathBuf::from(std::env::var("CURATOR_TEST_FOLDER").unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let stream = Stream::connect(&stream_config(1), &brokers).unwrap();
        let ledger = ledger(&folder).await;
        tidegate_curator::run(quick(), stream, ledger, CancellationToken::new()).await.unwrap();
    });
}

/// A process that does not outlive the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn spawn(house: &House) -> Process {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::the_process_to_be_killed", "--ignored", "--nocapture"])
        .env("CURATOR_TEST_BROKERS", house.addr.to_string())
        .env("CURATOR_TEST_FOLDER", house.folder())
        .spawn()
        .unwrap();
    Process(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_loses_and_doubles_nothing() {
    let house = House::build(1).await;
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut sent = Vec::new();
    for round in 0..4 {
        let process = spawn(&house);
        let before = house.outputs().await;
        sent.extend(house.send(piece(&house, &mut random, 200 * round, 200)).await);
        house.until_outputs(before + random.random_range(1..120)).await;
        drop(process);
    }
    let process = spawn(&house);
    settle(&house, &sent).await;
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_is_waited_for() {
    let mut house = House::build(1).await;
    let ledger = house.ledger().await;
    let curator = house.curate(quick(), &ledger);
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut sent = house.send(piece(&house, &mut random, 0, 300)).await;
    house.until_outputs(20).await;
    house.stop_broker().await;
    house.restart_broker().await;
    sent.extend(house.send(piece(&house, &mut random, 300, 100)).await);
    settle(&house, &sent).await;
    curator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_replaced_by_reading_everything_again() {
    let house = House::build(1).await;
    let ledger = house.ledger().await;
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let curator = house.curate(quick(), &ledger);
    let sent = house.send(piece(&house, &mut random, 0, 100)).await;
    house.until_outputs(60).await;
    curator.stop().await;
    let mut bytes = ledger.get_state("curator/0").await.unwrap().unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let lease = ledger.lease("curator/0", "test", Duration::from_secs(9)).await.unwrap().unwrap();
    ledger.put_state("curator/0", lease.token(), &bytes).await.unwrap();
    lease.release().await;
    let curator = house.curate(quick(), &ledger);
    settle(&house, &sent).await;
    curator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_move_between_curators_without_loss_or_doubling() {
    let house = House::build(4).await;
    let ledger = house.ledger().await;
    let mut random = ChaCha8Rng::seed_from_u64(6);
    let first = house.curate(quick(), &ledger);
    let mut sent = house.send(piece(&house, &mut random, 0, 200)).await;
    house.until_outputs(50).await;
    let second = house.curate(quick(), &ledger);
    for i in 1..6 {
        sent.extend(house.send(piece(&house, &mut random, 200 * i, 200)).await);
    }
    house.until_outputs(400).await;
    first.stop().await;
    sent.extend(house.send(piece(&house, &mut random, 1_200, 200)).await);
    settle(&house, &sent).await;
    second.stop().await;
}
