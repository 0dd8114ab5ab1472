//! Reading by offset.
use std::{ops::ControlFlow, time::Duration};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};
use tidegate_contracts::{Offset, Partition, Window};
use tidegate_stream::{Message, StreamError};

use crate::{
    client::{admin, from, number, numbered, plain, take, window, with_topic, within},
    house::House,
};

pub(crate) async fn a_source_starts_at_the_offsets_it_is_given(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 2).await;
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..100))).await.unwrap();
    let other = Message { partition: Some(Partition(1)), ..Message::new(&topic, "7") };
    within(sink.send(other)).await.unwrap();

    // A partition that is not named is read from its beginning.
    let mut source = stream.tail(&topic, from(60)).await.unwrap();
    let records = take(&mut source, 41).await;
    let (first, second): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.partition == Partition(0));
    assert!(first.iter().map(|r| number(r)).eq(60..100));
    assert_eq!(second.iter().map(|r| number(r)).collect::<Vec<_>>(), [7]);
    let position = [(Partition(0), Offset(100)), (Partition(1), Offset(1))];
    assert_eq!(source.position(), position.into());

    // It goes on with what comes later, and a second reader is not disturbed by the first.
    within(sink.send_all(numbered(&topic, 100..101))).await.unwrap();
    assert_eq!(number(&take(&mut source, 1).await[0]), 100);
    let mut again = stream.tail(&topic, from(100)).await.unwrap();
    assert_eq!(number(&take(&mut again, 1).await[0]), 100);
}

pub(crate) async fn a_window_is_read_exactly(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 2).await;
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..50))).await.unwrap();
    let ranges = [
        (Partition(0), (Offset(10), Offset(20))),
        // Nothing is asked of the second partition, which is empty.
        (Partition(1), (Offset(0), Offset(0))),
    ];
    let asked = Window::new(&topic, ranges.into()).unwrap();
    let records = within(stream.read(&asked)).await.unwrap();
    assert!(records.iter().map(number).eq(10..20));
    assert!(within(stream.read(&window(&topic, 50, 50))).await.unwrap().is_empty());

    let mut seen = Vec::new();
    let each = |record| {
        seen.push(number(&record));
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    within(stream.read_each(&window(&topic, 0, 50), each)).await.unwrap();
    assert_eq!(seen, [0, 1, 2]);
}

pub(crate) async fn an_offset_that_is_gone_is_said(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 1).await;
    let sink = stream.sink().unwrap();
    within(sink.send_all(numbered(&topic, 0..30))).await.unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, KafkaOffset::Offset(12)).unwrap();
    admin(house).delete_records(&before, &AdminOptions::new()).await.unwrap();
    let marks = within(stream.watermarks(&topic)).await.unwrap();
    assert_eq!(marks, [(Partition(0), (Offset(12), Offset(30)))].into());

    for asked in [window(&topic, 5, 20), window(&topic, 20, 31)] {
        let error = within(stream.read(&asked)).await.unwrap_err();
        let StreamError::OffsetGone { low, high, .. } = error else { panic!("{error}") };
        assert_eq!((low, high), (Offset(12), Offset(30)));
    }
    for start in [5, 31] {
        let mut source = stream.tail(&topic, from(start)).await.unwrap();
        let error = within(source.next()).await.unwrap_err();
        let StreamError::OffsetGone { from, low, .. } = error else { panic!("{error}") };
        assert_eq!((from, low), (Offset(start), Offset(12)));
        let after = within(source.next()).await.unwrap_err();
        assert!(matches!(after, StreamError::Closed), "{after}");
    }
    let kept = within(stream.read(&window(&topic, 12, 30))).await.unwrap();
    assert!(kept.iter().map(number).eq(12..30));
}

pub(crate) async fn offsets_are_found_by_time(house: &mut dyn House) {
    let (_, topic) = with_topic(house, 1).await;
    let producer: FutureProducer = plain(house).set("linger.ms", "50").create().unwrap();
    let base = 1_600_000_000_000;
    let deliveries: Vec<_> = (0..20)
        .map(|i| {
            let record = FutureRecord::<(), str>::to(&topic).payload("v").timestamp(base + i * 10);
            producer.send_result(record).map_err(|(error, _)| error).unwrap()
        })
        .collect();
    for delivery in deliveries {
        within(delivery).await.unwrap().unwrap();
    }
    let consumer: BaseConsumer = plain(house).set("group.id", "none").create().unwrap();
    let at = |time: i64| {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset(&topic, 0, KafkaOffset::Offset(time)).unwrap();
        let found = consumer.offsets_for_times(asked, Duration::from_secs(10)).unwrap();
        found.elements()[0].offset()
    };
    assert_eq!(at(base - 1), KafkaOffset::Offset(0));
    assert_eq!(at(base), KafkaOffset::Offset(0));
    assert_eq!(at(base + 101), KafkaOffset::Offset(11));
    assert_eq!(at(base + 190), KafkaOffset::Offset(19));
    assert_eq!(at(base + 191), KafkaOffset::End);
}
