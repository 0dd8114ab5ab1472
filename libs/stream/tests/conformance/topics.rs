//! Topics: known, unknown, created, refused.
use std::time::Duration;

use rdkafka::{
    admin::{AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication},
    producer::{BaseProducer, FutureProducer, FutureRecord, Producer as _},
    types::RDKafkaErrorCode as Code,
};
use tidegate_contracts::{Offset, Partition};
use tidegate_stream::StreamError;

use crate::{
    client::{admin, fresh, from, plain, stream, until, with_topic, within},
    house::House,
};

pub(crate) async fn an_unknown_topic_is_said_and_not_created(house: &mut dyn House) {
    let (stream, topic) = (stream(house), fresh("unknown"));
    for _ in 0..2 {
        let error = within(stream.watermarks(&topic)).await.unwrap_err();
        assert!(matches!(error, StreamError::UnknownTopic { .. }), "{error}");
        assert!(error.to_string().contains(&topic), "{error}");
        let error = within(stream.tail(&topic, from(0))).await.err().unwrap();
        assert!(matches!(error, StreamError::UnknownTopic { .. }), "{error}");
    }
}

pub(crate) async fn a_topic_is_created_by_writing_to_it(house: &mut dyn House) {
    let (stream, topic) = (stream(house), fresh("written"));
    let producer: FutureProducer = plain(house).create().unwrap();
    let record = FutureRecord::<(), str>::to(&topic).payload("first");
    let written = within(producer.send(record, Duration::from_secs(30))).await.unwrap();
    assert_eq!((written.partition, written.offset), (0, 0));
    let marks = within(stream.watermarks(&topic)).await.unwrap();
    assert_eq!(marks, [(Partition(0), (Offset(0), Offset(1)))].into());
}

pub(crate) async fn topics_are_created_described_grown_and_deleted(house: &mut dyn House) {
    let (stream, topic) = with_topic(house, 2).await;
    // Asked for again it is the same.
    within(stream.ensure_topic(&topic, 2)).await.unwrap();
    assert_eq!(within(stream.watermarks(&topic)).await.unwrap().len(), 2);
    let (admin, options) = (admin(house), AdminOptions::new());

    let asked = ResourceSpecifier::Topic(&topic);
    let configs = within(admin.describe_configs([&asked], &options)).await.unwrap();
    let config = configs.into_iter().next().unwrap().unwrap();
    let value = |name: &str| config.get(name).and_then(|entry| entry.value.clone());
    assert_eq!(value("cleanup.policy").as_deref(), Some("delete"));
    let largest: usize = value("max.message.bytes").unwrap().parse().unwrap();
    assert!(largest > tidegate_stream::MAX_MESSAGE_BYTES);

    let grown = NewPartitions::new(&topic, 5);
    let results = within(admin.create_partitions([&grown], &options)).await.unwrap();
    assert_eq!(results, [Ok(topic.clone())]);
    until("the growth", async || stream.watermarks(&topic).await.unwrap().len() == 5).await;

    let results = within(admin.delete_topics(&[&topic], &options)).await.unwrap();
    assert_eq!(results, [Ok(topic.clone())]);
    let gone =
        async || matches!(stream.watermarks(&topic).await, Err(StreamError::UnknownTopic { .. }));
    until("the deletion", gone).await;
    let results = within(admin.delete_topics(&[&topic], &options)).await.unwrap();
    assert_eq!(results, [Err((topic, Code::UnknownTopicOrPartition))]);
}

pub(crate) async fn what_cannot_be_created_is_refused(house: &mut dyn House) {
    let (_, there) = with_topic(house, 1).await;
    let (admin, options) = (admin(house), AdminOptions::new());
    let one = || TopicReplication::Fixed(1);
    let name = fresh("refused");
    let cases = [
        (NewTopic::new(&there, 1, one()), Code::TopicAlreadyExists),
        (NewTopic::new("no spaces", 1, one()), Code::InvalidTopic),
        (NewTopic::new("..", 1, one()), Code::InvalidTopic),
        (NewTopic::new(&name, 1, TopicReplication::Fixed(3)), Code::InvalidReplicationFactor),
        (NewTopic::new(&name, 1, one()).set("no.such.property", "1"), Code::InvalidConfig),
        (NewTopic::new(&name, 1, one()).set("retention.ms", "soon"), Code::InvalidConfig),
    ];
    for (topic, expected) in cases {
        let results = within(admin.create_topics([&topic], &options)).await.unwrap();
        let refused = results.into_iter().next().unwrap().unwrap_err();
        assert_eq!(refused.1, expected, "{}", refused.0);
    }
    let fewer = NewPartitions::new(&there, 1);
    let results = within(admin.create_partitions([&fewer], &options)).await.unwrap();
    assert_eq!(results, [Err((there, Code::InvalidPartitions))]);
}

/// They are named as what is missing, and not waited for.
pub(crate) async fn transactions_are_refused_at_once(house: &mut dyn House) {
    let producer: BaseProducer =
        plain(house).set("transactional.id", fresh("transaction")).create().unwrap();
    let tried =
        tokio::task::spawn_blocking(move || producer.init_transactions(Duration::from_secs(20)));
    let error = within(tried).await.unwrap().unwrap_err();
    assert_eq!(
        error.rdkafka_error_code(),
        Some(Code::TransactionalIdAuthorizationFailed),
        "{error}"
    );
}
