//! Bytes on the wire, written by hand.
use std::{io, time::Duration};

use bytes::{Buf as _, BufMut as _, BytesMut};
use proptest::prelude::*;
use tidegate_contracts::{Offset, Partition};
use tidegate_stream::{EmbeddedBroker, Message};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{start, stream, works};

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;

/// A client that sends what it is told.
struct Raw(TcpStream);

impl Raw {
    async fn connect(broker: &EmbeddedBroker) -> Self {
        Self(TcpStream::connect(broker.addr()).await.unwrap())
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let mut frame = (request.len() as i32).to_be_bytes().to_vec();
        frame.extend_from_slice(request);
        self.0.write_all(&frame).await
    }

    /// The next answer; an error when the connection was closed.
    async fn answer(&mut self) -> io::Result<BytesMut> {
        let read = async {
            let len = self.0.read_i32().await?;
            let mut frame = BytesMut::zeroed(len as usize);
            self.0.read_exact(&mut frame).await?;
            Ok(frame)
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("it answers or hangs up")
    }
}

/// A request with the header of versions that are not flexible.
fn request(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    request.put_i16(key);
    request.put_i16(version);
    request.put_i32(77);
    request.put_i16(3);
    request.put_slice(b"raw");
    request.put_slice(body);
    request
}

async fn is_closed_after(broker: &EmbeddedBroker, bytes: &[u8]) -> bool {
    let mut client = Raw::connect(broker).await;
    client.send(bytes).await.unwrap();
    client.answer().await.is_err()
}

#[tokio::test]
async fn a_malformed_request_ends_its_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    // Topics: more than there is memory for.
    let greedy = request(METADATA, 1, &i32::MAX.to_be_bytes());
    let half = request(METADATA, 1, &[0, 0, 0, 1, 0, 9, b't']);
    let unknown = request(999, 0, &[]);
    let future = request(METADATA, 99, &[0, 0, 0, 0]);
    let old = request(PRODUCE, 2, &[]);
    for bad in [greedy, half, unknown, future, old, vec![0; 8], vec![255; 40]] {
        assert!(is_closed_after(&broker, &bad).await, "{bad:?}");
    }
    // More than was announced is not minded: clients do it.
    let longer = request(METADATA, 1, &[0, 0, 0, 0, 9]);
    assert!(!is_closed_after(&broker, &longer).await);
    // Not even a frame.
    for start in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4], &[0, 0, 0, 0]] {
        let mut client = Raw::connect(&broker).await;
        client.0.write_all(start).await.unwrap();
        assert!(client.answer().await.is_err());
    }
    works(&broker).await;
}

#[tokio::test]
async fn a_client_from_the_future_learns_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut client = Raw::connect(&broker).await;
    let mut flexible = request(API_VERSIONS, 99, &[]);
    flexible.put_u8(0);
    client.send(&flexible).await.unwrap();
    let mut answer = client.answer().await.unwrap();
    assert_eq!(answer.get_i32(), 77);
    assert_eq!(answer.get_i16(), 35, "unsupported version");
    assert!(answer.get_i32() > 20, "the versions there are, in the oldest form");
    // The same connection goes on.
    client.send(&request(API_VERSIONS, 0, &[])).await.unwrap();
    let mut answer = client.answer().await.unwrap();
    assert_eq!((answer.get_i32(), answer.get_i16()), (77, 0));
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let mut client = Raw::connect(&broker).await;
    for correlation in 0..50_i32 {
        let mut ask = request(API_VERSIONS, 0, &[]);
        ask[4..8].copy_from_slice(&correlation.to_be_bytes());
        client.send(&ask).await.unwrap();
    }
    for correlation in 0..50 {
        assert_eq!(client.answer().await.unwrap().get_i32(), correlation);
    }
}

/// Records that the log holds, taken from it as bytes, make a second log.
#[tokio::test]
async fn a_batch_that_is_damaged_on_the_way_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let stream = stream(&broker);
    stream.ensure_topic("t", 1).await.unwrap();
    stream.sink().unwrap().send(Message::new("t", "value")).await.unwrap();
    let folder = std::fs::read_dir(dir.path().join("topics")).unwrap().next().unwrap().unwrap();
    let mut batch = std::fs::read(folder.path().join("0/00000000000000000000.log")).unwrap();
    // Not a producer that numbers its batches: this one would be a repeat.
    batch[43..57].fill(255);
    let crc = crc32c::crc32c(&batch[21..]).to_be_bytes();
    batch[17..21].copy_from_slice(&crc);

    let produce = |acks: i16, batch: &[u8]| {
        let mut body = Vec::new();
        body.put_i16(-1);
        body.put_i16(acks);
        body.put_i32(1_000);
        body.put_i32(1);
        body.put_i16(1);
        body.put_slice(b"t");
        body.put_i32(1);
        body.put_i32(0);
        body.put_i32(batch.len() as i32);
        body.put_slice(batch);
        request(PRODUCE, 3, &body)
    };
    // Correlation, one topic, its name, one partition, its number; then the error.
    let error = |answer: BytesMut| (&answer[4 + 4 + 3 + 4 + 4..]).get_i16();
    let mut client = Raw::connect(&broker).await;
    client.send(&produce(-1, &batch)).await.unwrap();
    assert_eq!(error(client.answer().await.unwrap()), 0);
    let mut damaged = batch.clone();
    *damaged.last_mut().unwrap() ^= 1;
    client.send(&produce(-1, &damaged)).await.unwrap();
    assert_eq!(error(client.answer().await.unwrap()), 2, "corrupt message");
    client.send(&produce(5, &batch)).await.unwrap();
    assert_eq!(error(client.answer().await.unwrap()), 21, "invalid required acks");
    // Without acks: no answer to what is good, the end of the connection for what is not.
    client.send(&produce(0, &batch)).await.unwrap();
    client.send(&request(API_VERSIONS, 0, &[])).await.unwrap();
    assert_eq!(client.answer().await.unwrap().get_i32(), 77);
    client.send(&produce(0, &damaged)).await.unwrap();
    assert!(client.answer().await.is_err());
    let marks = stream.watermarks("t").await.unwrap();
    assert_eq!(marks[&Partition(0)], (Offset(0), Offset(3)));
}

#[test]
fn no_bytes_bring_the_broker_down() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let broker = runtime.block_on(start(dir.path()));
    let bodies =
        prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, 1, 2, 127, 255]), 0..60);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    });
    runner
        .run(&(0_i16..70, 0_i16..14, bodies), |(key, version, body)| {
            runtime.block_on(async {
                let mut client = Raw::connect(&broker).await;
                client.send(&request(key, version, &body)).await.unwrap();
                // Whatever it makes of them (a long poll may take its time).
                let _ = tokio::time::timeout(Duration::from_millis(20), client.answer()).await;
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(works(&broker));
}
