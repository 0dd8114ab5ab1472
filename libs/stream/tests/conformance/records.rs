//! What is written is what is read.
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tidegate_contracts::{Offset, Partition};
use tidegate_stream::{MAX_MESSAGE_BYTES, Message, StreamError};

use crate::{
    client::{from, number, numbered, plain, take, window, with_topic, within},
    house::House,
};

pub(crate) async fn a_record_comes_back_as_it_was_sent(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let full = Message::new(&topic, vec![0, 159, 146, 150])
        .key("entity-7")
        .header("content-type", "application/json")
        .header("twice", "1")
        .header("twice", "2")
        .header("empty", "")
        .header("traceparent", trace);
    let before = chrono::Utc::now();
    within(sink.send(full.clone())).await.unwrap();
    within(sink.send(Message::new(&topic, ""))).await.unwrap();

    let records = within(stream.read(&window(&topic, 0, 2))).await.unwrap();
    let record = &records[0];
    assert_eq!((&record.topic, record.partition, record.offset), (&topic, Partition(0), Offset(0)));
    assert_eq!((&record.key, &record.value), (&full.key, &full.value));
    assert_eq!(record.headers, full.headers);
    assert_eq!(record.header("twice"), Some(&b"2"[..]));
    assert!((record.time - before).num_seconds().abs() < 30, "{}", record.time);
    assert_eq!((&records[1].key, &records[1].value), (&None, &Bytes::new()));
}

pub(crate) async fn records_of_a_partition_keep_their_order(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 3).await;
    let sink = stream.sink().unwrap();
    let written = within(sink.send_all(numbered(&topic, 0..5_000))).await.unwrap();
    let expected: Vec<_> = (0..5_000).map(|i| (Partition(0), Offset(i))).collect();
    assert_eq!(written, expected);
    let records = within(stream.read(&window(&topic, 0, 5_000))).await.unwrap();
    assert!(records.iter().map(number).eq(0..5_000));

    // The same key goes to the same partition, and keys are spread.
    let keyed = |i: usize| Message::new(&topic, "v").key(format!("key-{}", i % 20));
    let places = within(sink.send_all((0..200).map(keyed).collect())).await.unwrap();
    let partition = |i: usize| places[i].0;
    assert!((20..200).all(|i| partition(i) == partition(i % 20)));
    assert!((0..3).all(|p| (0..20).any(|i| partition(i) == Partition(p))));
}

pub(crate) async fn the_largest_message_passes_and_a_larger_one_is_refused(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    let mut value = vec![7; MAX_MESSAGE_BYTES];
    value[MAX_MESSAGE_BYTES - 1] = 1;
    let value = Bytes::from(value);
    within(sink.send(Message::new(&topic, "small"))).await.unwrap();
    within(sink.send(Message::new(&topic, value.clone()).header("k", "v"))).await.unwrap();
    within(sink.send(Message::new(&topic, "small"))).await.unwrap();
    let larger = Message::new(&topic, vec![0; MAX_MESSAGE_BYTES + 1]);
    let error = within(sink.send(larger)).await.unwrap_err();
    assert!(matches!(error, StreamError::TooLarge { .. }), "{error}");

    let mut source = stream.tail(&topic, from(0)).await.unwrap();
    let records = take(&mut source, 3).await;
    assert_eq!([records[0].value.len(), records[2].value.len()], [5, 5]);
    assert!(records[1].value == value, "the large value came back changed");
}

pub(crate) async fn compressed_records_come_back(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let mut sent = 0;
    for compression in ["none", "gzip", "snappy", "lz4"] {
        let producer: FutureProducer = plain(house)
            .set("compression.type", compression)
            .set("linger.ms", "20")
            .create()
            .expect("librdkafka has it");
        let values: Vec<String> = (sent..sent + 100).map(|i| i.to_string()).collect();
        let send = |value| {
            let record = FutureRecord::<(), str>::to(&topic).payload(value);
            producer.send_result(record).expect("it is queued")
        };
        let deliveries: Vec<_> = values.iter().map(|value| send(value)).collect();
        for delivery in deliveries {
            within(delivery).await.unwrap().unwrap();
        }
        sent += 100;
    }
    let records = within(stream.read(&window(&topic, 0, sent))).await.unwrap();
    assert!(records.iter().map(number).eq(0..sent as usize));
    // In the middle of a compressed batch too.
    let records = within(stream.read(&window(&topic, 150, 151))).await.unwrap();
    assert_eq!(records.iter().map(number).collect::<Vec<_>>(), [150]);
}

pub(crate) async fn a_record_written_while_a_reader_waits_comes_at_once(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    let mut source = stream.tail(&topic, from(0)).await.unwrap();
    within(sink.send(Message::new(&topic, "0"))).await.unwrap();
    take(&mut source, 1).await;
    let mut times = Vec::new();
    for i in 1..20 {
        let sent = Instant::now();
        within(sink.send(Message::new(&topic, i.to_string()))).await.unwrap();
        take(&mut source, 1).await;
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(200), "half of the records took {median:?} or more");
}

pub(crate) async fn a_reader_that_is_slow_holds_a_bounded_buffer(house: &mut dyn House) {
    const COUNT: usize = 1_500;
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    for batch in 0..15 {
        let messages = numbered(&topic, batch * 100..(batch + 1) * 100);
        let pad = |message: Message| Message { key: Some(vec![0; 128 << 10].into()), ..message };
        within(sink.send_all(messages.into_iter().map(pad).collect())).await.unwrap();
    }
    drop(sink);
    let mut source = stream.tail(&topic, from(0)).await.unwrap();
    assert_eq!(number(&take(&mut source, 1).await[0]), 0);
    let before = memory();
    // All of it would come in this time, and does when it is asked for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = memory().saturating_sub(before) >> 20;
    assert!(grown < 128, "{grown} MiB more are held for a reader that waits");
    let rest = take(&mut source, COUNT - 1).await;
    assert!(rest.iter().map(number).eq(1..COUNT));
}

/// Bytes that this process holds.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number")
        << 10
}
