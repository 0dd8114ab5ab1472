//! Its data and its address.
use std::time::{Duration, Instant};

use tidegate_contracts::{Offset, Partition};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, StreamError};

use super::{config, start, stream, works};

#[tokio::test]
async fn two_brokers_cannot_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path()).await;
    let error = EmbeddedBroker::start(&config(), dir.path()).await.err().unwrap();
    assert!(matches!(&error, StreamError::InUse(path) if path == dir.path()), "{error}");
    // A broker that is dropped has let go of it.
    drop(first);
    let second = start(dir.path()).await;
    works(&second).await;
    second.shutdown().await;
    start(dir.path()).await.shutdown().await;
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9092"] {
        let config = EmbeddedConfig { listen: open.parse().unwrap(), ..config() };
        let error = EmbeddedBroker::start(&config, dir.path()).await.err().unwrap();
        assert!(matches!(error, StreamError::Exposed(_)), "{error}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_said() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = start(dir.path()).await;
    let taken = EmbeddedConfig { listen: broker.addr(), ..config() };
    let error = EmbeddedBroker::start(&taken, other.path()).await.err().unwrap();
    assert!(error.to_string().contains(&broker.addr().to_string()), "{error}");
    // The folder was not kept from the next.
    works(&start(other.path()).await).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let error = EmbeddedBroker::start(&config(), &file).await.err().unwrap();
    assert!(matches!(error, StreamError::Storage { .. }), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
}

#[tokio::test]
async fn retention_keeps_the_newest_records_and_their_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let small = EmbeddedConfig { segment_bytes: 100_000, retention_bytes: 300_000, ..config() };
    let broker = EmbeddedBroker::start(&small, dir.path()).await.unwrap();
    let topic = "t".to_owned();
    let marks = async |broker: &EmbeddedBroker| {
        stream(broker).watermarks(&topic).await.unwrap()[&Partition(0)]
    };
    stream(&broker).ensure_topic(&topic, 1).await.unwrap();
    let sink = stream(&broker).sink().unwrap();
    for _ in 0..100 {
        sink.send(Message::new(&topic, vec![1; 10_000])).await.unwrap();
    }
    let (low, high) = marks(&broker).await;
    assert_eq!(high, Offset(100));
    assert!((Offset(60)..Offset(80)).contains(&low), "{low}");
    let mut source = stream(&broker).tail(&topic, [(Partition(0), low)].into()).await.unwrap();
    assert_eq!(source.next().await.unwrap().offset, low);
    broker.shutdown().await;
    let broker = EmbeddedBroker::start(&small, dir.path()).await.unwrap();
    assert_eq!(marks(&broker).await, (low, high));
}

#[tokio::test]
async fn a_start_with_much_data_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { segment_bytes: 32 << 20, ..config() };
    let broker = EmbeddedBroker::start(&config, dir.path()).await.unwrap();
    stream(&broker).ensure_topic("t", 1).await.unwrap();
    let sink = stream(&broker).sink().unwrap();
    for _ in 0..25 {
        let messages = (0..10_000).map(|_| Message::new("t", vec![7; 1_000])).collect();
        sink.send_all(messages).await.unwrap();
    }
    broker.shutdown().await;
    let since = Instant::now();
    let broker = EmbeddedBroker::start(&config, dir.path()).await.unwrap();
    let took = since.elapsed();
    println!("250 MB were open again after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let marks = stream(&broker).watermarks("t").await.unwrap();
    assert_eq!(marks[&Partition(0)], (Offset(0), Offset(250_000)));
}

#[tokio::test]
async fn every_write_can_be_forced_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let careful = EmbeddedConfig { fsync_ms: 0, ..config() };
    let broker = EmbeddedBroker::start(&careful, dir.path()).await.unwrap();
    works(&broker).await;
}
