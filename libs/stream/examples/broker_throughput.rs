//! Messages per second through brokers, with one unmodified client: librdkafka.
//!
//! Measures 1 KiB messages, produced without and with idempotence (acks=all) and consumed, against
//! our embedded broker, librdkafka's mock cluster (memory only), and any address that is given
//! (Apache Kafka, another broker). Prints a table and one line of JSON a row.
//!
//! ```text
//! cargo run --release -p tidegate-stream --example broker_throughput -- [--messages N]
//!     [--dir FOLDER] [NAME=HOST:PORT ...]
//! ```
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    mocking::MockCluster,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
    types::RDKafkaErrorCode as Code,
};
use tidegate_stream::{EmbeddedBroker, EmbeddedConfig};

const BYTES: usize = 1024;
/// A run is over after this, however far it got.
const PATIENCE: Duration = Duration::from_secs(300);

type Failure = Box<dyn std::error::Error>;

struct Args {
    messages: usize,
    dir: Option<PathBuf>,
    others: Vec<(String, String)>,
}

fn args() -> Result<Args, Failure> {
    let mut args = Args { messages: 200_000, dir: None, others: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--messages" => args.messages = given.next().ok_or("--messages N")?.parse()?,
            "--dir" => args.dir = Some(given.next().ok_or("--dir FOLDER")?.into()),
            other => {
                let (name, address) = other.split_once('=').ok_or("NAME=HOST:PORT")?;
                args.others.push((name.to_owned(), address.to_owned()));
            }
        }
    }
    Ok(args)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args = args()?;
    println!(
        "{} messages of {BYTES} bytes, one topic, one partition; {}",
        args.messages,
        machine()
    );
    println!("{:<28}{:>14}{:>14}{:>14}", "broker", "produced/s", "idempotent/s", "consumed/s");

    let temporary = tempfile::tempdir()?;
    let dir = args.dir.unwrap_or_else(|| temporary.path().to_owned());
    let config = EmbeddedConfig { listen: "127.0.0.1:0".parse()?, ..EmbeddedConfig::default() };
    let broker = EmbeddedBroker::start(&config, &dir).await?;
    let address = broker.addr().to_string();
    create_topics(&address).await?;
    measure("tidegate embedded", &address, args.messages).await?;
    broker.shutdown().await;

    let mock = MockCluster::new(1)?;
    for topic in topics() {
        mock.create_topic(topic, 1, 1)?;
    }
    measure("librdkafka mock (memory)", &mock.bootstrap_servers(), args.messages).await?;
    drop(mock);

    for (name, address) in &args.others {
        create_topics(address).await?;
        measure(name, address, args.messages).await?;
    }
    Ok(())
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let profile = if cfg!(debug_assertions) { "dev (opt-level 2)" } else { "release" };
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    format!("librdkafka {librdkafka}; {cores} cores; {profile} build")
}

fn topics() -> [&'static str; 2] {
    ["throughput.plain", "throughput.idempotent"]
}

async fn measure(name: &str, address: &str, messages: usize) -> Result<(), Failure> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address);
    let [plain, idempotent] = topics();
    let rates = tokio::task::spawn_blocking(move || -> Result<[f64; 3], String> {
        let run = |result: Result<f64, Failure>| result.map_err(|error| error.to_string());
        Ok([
            run(produce(&client, plain, messages, false))?,
            run(produce(&client, idempotent, messages, true))?,
            run(consume(&client, plain, messages))?,
        ])
    });
    let [produced, sure, consumed] = rates.await??;
    println!("{name:<28}{produced:>14.0}{sure:>14.0}{consumed:>14.0}");
    println!(
        r#"{{"broker":"{name}","messages":{messages},"bytes":{BYTES},"produced_per_s":{produced:.0},"idempotent_per_s":{sure:.0},"consumed_per_s":{consumed:.0}}}"#
    );
    Ok(())
}

async fn create_topics(address: &str) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", address).create()?;
    let new = topics().map(|topic| NewTopic::new(topic, 1, TopicReplication::Fixed(1)));
    for created in admin.create_topics(&new, &AdminOptions::new()).await? {
        match created {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(format!("{topic} was not created: {code}").into()),
        }
    }
    Ok(())
}

/// Messages per second until the broker has acknowledged all of them.
fn produce(
    client: &ClientConfig,
    topic: &str,
    messages: usize,
    idempotent: bool,
) -> Result<f64, Failure> {
    let producer: ThreadedProducer<DefaultProducerContext> = client
        .clone()
        .set("acks", "all")
        .set("enable.idempotence", idempotent.to_string())
        .set("linger.ms", "5")
        .set("message.timeout.ms", "120000")
        .create()?;
    // Connects, and finds the partition, outside of the measure.
    producer.client().fetch_metadata(Some(topic), Duration::from_secs(30))?;
    let payload = payload();
    let start = Instant::now();
    for _ in 0..messages {
        let mut record = BaseRecord::<(), [u8]>::to(topic).payload(&payload).partition(0);
        while let Err((error, same)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(Code::QueueFull) || start.elapsed() > PATIENCE {
                return Err(error.into());
            }
            record = same;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(PATIENCE)?;
    Ok(messages as f64 / start.elapsed().as_secs_f64())
}

/// Messages per second from the first offset on.
fn consume(client: &ClientConfig, topic: &str, messages: usize) -> Result<f64, Failure> {
    let consumer: BaseConsumer = client
        .clone()
        .set("group.id", "throughput")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()?;
    let (first, end) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(30))?;
    // A broker that is asked a second time holds the messages of the first time too.
    let from = (end - messages as i64).max(first);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(from))?;
    consumer.assign(&list)?;
    let start = Instant::now();
    let mut seen = 0;
    while seen < (end - from) as usize {
        if start.elapsed() > PATIENCE {
            return Err(format!("{seen} of {messages} messages came in {PATIENCE:?}").into());
        }
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            if message?.payload_len() != BYTES {
                return Err("a message is not what was sent".into());
            }
            seen += 1;
        }
    }
    Ok(seen as f64 / start.elapsed().as_secs_f64())
}

/// Nothing that a compressing file system could make smaller.
fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..BYTES).map(|_| next()).collect()
}
