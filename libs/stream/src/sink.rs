//! Writing: an idempotent producer that waits for the broker rather than fail.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::RwLock;
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _, future_producer::DeliveryFuture},
};
use tidegate_contracts::{Offset, Partition};
use tidegate_telemetry::trace_context;

use crate::{
    client::{Patience, Stream},
    config::MAX_MESSAGE_BYTES,
    error::{StreamError, heals},
    pump::LogContext,
    record::Message,
};

type Producer = FutureProducer<LogContext>;

/// Writes messages. Each is in the log once it is acknowledged, and once only: the producer is
/// idempotent. Cheap to clone; clones share one producer and its order.
///
/// The one exception to *once only*: when the producer itself dies (the broker lost its state, or
/// was replaced), messages in flight are sent again by a new one, which is said in the log. Readers
/// who must not count twice go by the source position or id that records carry.
#[derive(Clone)]
pub struct Sink(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    brokers: String,
    producer: RwLock<Producer>,
}

impl Sink {
    pub(crate) fn open(stream: &Stream) -> Result<Self, StreamError> {
        let mut config = stream.client_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "2")
            .set("queue.buffering.max.kbytes", "65536")
            // What Kafka's own clients use: events and labels of one key meet in one partition.
            .set("partitioner", "murmur2_random");
        let producer = RwLock::new(create(&config)?);
        let brokers = stream.brokers().to_owned();
        Ok(Self(Arc::new(Inner { config, brokers, producer })))
    }

    /// Writes one message and waits until the broker has it, also while the broker is away.
    ///
    /// # Errors
    /// [`StreamError::TooLarge`], [`StreamError::UnknownTopic`], or [`StreamError::Kafka`] for
    /// what waiting does not heal; the message is not in the log then.
    pub async fn send(&self, message: Message) -> Result<(Partition, Offset), StreamError> {
        let written = self.send_all(vec![message]).await?;
        Ok(written[0])
    }

    /// Writes many and waits for all of them. They are in the log in the order given, partition by
    /// partition.
    ///
    /// # Errors
    /// As [`Sink::send`], for the first that failed; the others may be in the log.
    pub async fn send_all(
        &self,
        messages: Vec<Message>,
    ) -> Result<Vec<(Partition, Offset)>, StreamError> {
        for message in &messages {
            check_size(message)?;
        }
        let mut patience = Patience::new("write".to_owned());
        let mut written: Vec<Option<(Partition, Offset)>> = vec![None; messages.len()];
        loop {
            let open: Vec<usize> = (0..messages.len()).filter(|&i| written[i].is_none()).collect();
            if open.is_empty() {
                patience.rewarded();
                return Ok(written.into_iter().flatten().collect());
            }
            let producer = self.0.producer.read().clone();
            let mut last = None;
            let mut deliveries = Vec::with_capacity(open.len());
            for &i in &open {
                deliveries.push((i, enqueue(&producer, &messages[i]).await));
            }
            for (i, delivery) in deliveries {
                match outcome(delivery).await {
                    Ok(place) => {
                        crate::client::count("written", &messages[i].topic);
                        written[i] = Some(place);
                    }
                    Err(error) => last = Some((i, error)),
                }
            }
            if let Some((i, error)) = last {
                self.consequence(&producer, &messages[i], &error)?;
                patience.wait(&error).await;
            }
        }
    }

    /// Ok when the message can be tried again.
    fn consequence(
        &self,
        producer: &Producer,
        message: &Message,
        error: &KafkaError,
    ) -> Result<(), StreamError> {
        if let Some((code, reason)) = producer.client().fatal_error() {
            tracing::warn!(%code, "kafka producer died, a new one takes over: {reason}");
            let fresh = create(&self.0.config)?;
            let mut current = self.0.producer.write();
            // Another sender may have replaced it already.
            if current.client().fatal_error().is_some() {
                *current = fresh;
            }
            return Ok(());
        }
        let topic = message.topic.clone();
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                Err(StreamError::UnknownTopic { topic, brokers: self.0.brokers.clone() })
            }
            Some(Code::MessageSizeTooLarge) => {
                let size = size(message);
                Err(StreamError::TooLarge { topic, size, limit: MAX_MESSAGE_BYTES })
            }
            _ if heals(error) => Ok(()),
            _ => Err(StreamError::kafka(format!("write to {topic}"), error.clone())),
        }
    }

    /// Waits until everything that was given to [`Sink::send`] so far is acknowledged.
    pub async fn flush(&self) {
        let producer = self.0.producer.read().clone();
        let mut patience = Patience::new("flush".to_owned());
        loop {
            let producer = producer.clone();
            let flush =
                tokio::task::spawn_blocking(move || producer.flush(Duration::from_millis(500)));
            match flush.await.expect("flushing does not panic") {
                Ok(()) => return,
                Err(error) => patience.wait(&error).await,
            }
        }
    }
}

fn create(config: &ClientConfig) -> Result<Producer, StreamError> {
    config.create_with_context(LogContext).map_err(|error| StreamError::Config(error.to_string()))
}

fn size(message: &Message) -> usize {
    message.value.len() + message.key.as_ref().map_or(0, Bytes::len)
}

fn check_size(message: &Message) -> Result<(), StreamError> {
    let size = size(message);
    if size > MAX_MESSAGE_BYTES {
        let topic = message.topic.clone();
        return Err(StreamError::TooLarge { topic, size, limit: MAX_MESSAGE_BYTES });
    }
    Ok(())
}

fn headers(message: &Message) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 2);
    for (name, value) in &message.headers {
        headers = headers.insert(Header { key: name, value: Some(value.as_ref()) });
    }
    if !message.headers.iter().any(|(name, _)| name == "traceparent") {
        for (name, value) in trace_context::inject() {
            headers = headers.insert(Header { key: &name, value: Some(value.as_bytes()) });
        }
    }
    headers
}

/// Hands a message to the producer; waits while its queue is full.
async fn enqueue(producer: &Producer, message: &Message) -> Result<DeliveryFuture, KafkaError> {
    let mut record = FutureRecord::<[u8], [u8]>::to(&message.topic)
        .payload(&message.value)
        .headers(headers(message));
    record.partition = message.partition.map(|p| p.0);
    record.key = message.key.as_deref();
    loop {
        match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(Code::QueueFull), same)) => {
                record = same;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

async fn outcome(
    delivery: Result<DeliveryFuture, KafkaError>,
) -> Result<(Partition, Offset), KafkaError> {
    match delivery?.await {
        Ok(Ok(delivery)) => Ok((Partition(delivery.partition), Offset(delivery.offset))),
        Ok(Err((error, _))) => Err(error),
        // The producer was dropped under way: it had died and was replaced.
        Err(_) => Err(KafkaError::MessageProduction(Code::Retry)),
    }
}
