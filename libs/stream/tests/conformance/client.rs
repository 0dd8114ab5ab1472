//! What scenarios have in common: a runtime, names, deadlines.
use std::{
    collections::BTreeMap,
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{ClientConfig, admin::AdminClient, client::DefaultClientContext};
use tidegate_contracts::{Offset, Partition, Window};
use tidegate_stream::{GroupEvent, GroupSource, Message, Record, Source, Stream, StreamConfig};

use crate::house::House;

/// No step takes this long, unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A name that no other scenario has.
pub(crate) fn fresh(stem: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{stem}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn stream(house: &dyn House) -> Stream {
    Stream::connect(&StreamConfig::default(), house.address()).expect("the defaults are good")
}

/// A stream and a new topic.
pub(crate) async fn with_topic(house: &dyn House, partitions: i32) -> (Stream, String) {
    let (stream, topic) = (stream(house), fresh("topic"));
    within(stream.ensure_topic(&topic, partitions)).await.expect("it is created");
    (stream, topic)
}

/// Plain librdkafka.
pub(crate) fn plain(house: &dyn House) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", house.address());
    config
}

pub(crate) fn admin(house: &dyn House) -> AdminClient<DefaultClientContext> {
    plain(house).create().expect("a client")
}

/// The result, or a panic that says where the scenario hung.
#[track_caller]
pub(crate) fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        let Ok(output) = tokio::time::timeout(PATIENCE, future).await else {
            panic!("{place} took more than {PATIENCE:?}");
        };
        output
    }
}

/// Waits until `true`.
pub(crate) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !is().await {
        assert!(since.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `count` messages for partition 0, numbered.
pub(crate) fn numbered(topic: &str, numbers: std::ops::Range<usize>) -> Vec<Message> {
    let message = |i: usize| Message {
        partition: Some(Partition(0)),
        ..Message::new(topic, i.to_string().into_bytes())
    };
    numbers.map(message).collect()
}

pub(crate) fn number(record: &Record) -> usize {
    std::str::from_utf8(&record.value).ok().and_then(|v| v.parse().ok()).expect("a number")
}

/// Partition 0 from an offset on.
pub(crate) fn from(offset: i64) -> BTreeMap<Partition, Offset> {
    [(Partition(0), Offset(offset))].into()
}

/// A window of partition 0.
pub(crate) fn window(topic: &str, from: i64, to: i64) -> Window {
    let range = (Offset(from), Offset(to));
    Window::new(topic, [(Partition(0), range)].into()).expect("it is not inverted")
}

#[track_caller]
pub(crate) fn take(source: &mut Source, count: usize) -> impl Future<Output = Vec<Record>> {
    within(async move {
        let mut records = Vec::with_capacity(count);
        while records.len() < count {
            records.push(source.next().await.expect("there is more"));
        }
        records
    })
}

/// The next record of a group, whatever is assigned before it.
#[track_caller]
pub(crate) fn next_record(source: &mut GroupSource) -> impl Future<Output = Record> {
    within(async move {
        loop {
            if let GroupEvent::Record(record) = source.next().await.expect("the group lives") {
                return record;
            }
        }
    })
}
