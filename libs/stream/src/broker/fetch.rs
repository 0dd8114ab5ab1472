//! Reading: what is there at once, or as soon as enough of it is.
use std::time::Duration;

use bytes::Bytes;
use futures::future::{FutureExt as _, select_all};
use kafka_protocol::{
    ResponseError as Code,
    messages::{
        FetchRequest, FetchResponse, TopicName,
        fetch_request::FetchPartition,
        fetch_response::{FetchableTopicResponse, PartitionData},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use uuid::Uuid;

use super::{
    node::{Caller, LEADER_EPOCH, Node, Reply},
    storage::Partition,
};

/// Bytes of one answer, one batch more at most.
const MAX_ANSWER: usize = 16 << 20;
/// A long poll is no longer than this.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What was found at one look.
struct Found {
    topics: Vec<FetchableTopicResponse>,
    bytes: usize,
    /// Some partition has an error, which should not wait.
    failed: bool,
}

impl Node {
    pub(crate) async fn fetch(&self, caller: &Caller, request: FetchRequest) -> Reply {
        // Sessions are not kept: 0 in the answer tells the client to name all partitions always.
        if request.session_id != 0 || request.session_epoch > 0 {
            let answer = FetchResponse::default();
            return answer.with_error_code(Code::FetchSessionIdNotFound.code()).into();
        }
        let wait = Duration::from_millis(request.max_wait_ms.try_into().unwrap_or(0));
        let until = Instant::now() + wait.min(MAX_WAIT);
        let least = usize::try_from(request.min_bytes).unwrap_or(0);
        loop {
            // Before the look, so that nothing that comes after it is missed.
            let watches = self.watches(caller, &request);
            let mut room = self.room(&request).await;
            let found = self.look(caller, &request);
            if found.bytes >= least || found.failed || Instant::now() >= until {
                // Mostly far less was found than was allowed: the rest is given back.
                let spare = room.num_permits().saturating_sub(found.bytes.div_ceil(1 << 10));
                drop(room.split(spare));
                let answer = FetchResponse::default().with_responses(found.topics);
                return Reply::Large(answer.into(), room);
            }
            drop((found, room));
            tokio::select! {
                () = any_change(watches) => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Waits until the memory that the answer may need is free.
    async fn room(&self, request: &FetchRequest) -> OwnedSemaphorePermit {
        let max = usize::try_from(request.max_bytes).unwrap_or(0).min(MAX_ANSWER);
        let kib = u32::try_from(max.div_ceil(1 << 10)).expect("answers are small");
        self.fetches.clone().acquire_many_owned(kib).await.expect("the semaphore is never closed")
    }

    fn watches(&self, caller: &Caller, request: &FetchRequest) -> Vec<watch::Receiver<i64>> {
        let mut watches = Vec::new();
        for topic in &request.topics {
            for asked in &topic.partitions {
                let name = (&topic.topic, topic.topic_id);
                watches.extend(self.find(caller, name, asked.partition).ok().map(|p| p.watch()));
            }
        }
        watches
    }

    /// Everything that is there, as far as the limits go.
    fn look(&self, caller: &Caller, request: &FetchRequest) -> Found {
        let mut left = usize::try_from(request.max_bytes).unwrap_or(0).min(MAX_ANSWER);
        let mut found = Found { topics: Vec::new(), bytes: 0, failed: false };
        for topic in &request.topics {
            let name = (&topic.topic, topic.topic_id);
            let partitions = topic.partitions.iter().map(|asked| {
                let max = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(left);
                let partition = self.find(caller, name, asked.partition);
                let read = partition.and_then(|p| read(&p, asked, max, found.bytes == 0));
                let answer = PartitionData::default().with_partition_index(asked.partition);
                let answer = answer.with_preferred_read_replica((-1).into());
                match read {
                    Ok(read) => {
                        found.bytes += read.records.len();
                        left = left.saturating_sub(read.records.len());
                        answer
                            .with_high_watermark(read.end)
                            .with_last_stable_offset(read.end)
                            .with_log_start_offset(read.start)
                            .with_records(Some(read.records))
                    }
                    Err(code) => {
                        found.failed = true;
                        answer
                            .with_error_code(code.code())
                            .with_high_watermark(-1)
                            .with_last_stable_offset(-1)
                            .with_log_start_offset(-1)
                            .with_records(Some(Bytes::new()))
                    }
                }
            });
            let partitions = partitions.collect();
            let answer = FetchableTopicResponse::default().with_topic(topic.topic.clone());
            found.topics.push(answer.with_topic_id(topic.topic_id).with_partitions(partitions));
        }
        found
    }

    fn find(
        &self,
        caller: &Caller,
        (name, id): (&TopicName, Uuid),
        partition: i32,
    ) -> Result<std::sync::Arc<Partition>, Code> {
        let by_id = caller.version >= 13;
        let topic = if by_id { self.storage.topic_by_id(id) } else { self.storage.topic(name) };
        let unknown = if by_id { Code::UnknownTopicId } else { Code::UnknownTopicOrPartition };
        let topic = topic.ok_or(unknown)?;
        let number = usize::try_from(partition).ok();
        let partition = number.and_then(|number| topic.partitions.get(number));
        partition.cloned().ok_or(Code::UnknownTopicOrPartition)
    }
}

/// Records, and the first and last offset there are.
struct Read {
    records: Bytes,
    start: i64,
    end: i64,
}

fn read(
    partition: &Partition,
    asked: &FetchPartition,
    max: usize,
    at_least_one: bool,
) -> Result<Read, Code> {
    if asked.current_leader_epoch > LEADER_EPOCH {
        return Err(Code::UnknownLeaderEpoch);
    }
    let (stretch, start, end) = {
        let log = partition.log();
        let stretch = log.stretch(asked.fetch_offset).map_err(|_| Code::OffsetOutOfRange)?;
        (stretch, log.start(), log.end())
    };
    let records = match stretch {
        Some(stretch) if max > 0 || at_least_one => {
            stretch.read(asked.fetch_offset, max, at_least_one).map_err(|error| {
                // Retention dropped the segment in between.
                if error.kind() == std::io::ErrorKind::NotFound {
                    return Code::OffsetOutOfRange;
                }
                tracing::error!(%error, offset = asked.fetch_offset, "a segment cannot be read");
                Code::KafkaStorageError
            })?
        }
        _ => Bytes::new(),
    };
    Ok(Read { records, start, end })
}

/// Ends when any of the logs has changed.
async fn any_change(watches: Vec<watch::Receiver<i64>>) {
    let changes = watches.into_iter().map(|mut watch| {
        async move {
            // A log that is gone has changed for the last time.
            let _ = watch.changed().await;
        }
        .boxed()
    });
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return std::future::pending().await;
    }
    select_all(changes).await;
}
