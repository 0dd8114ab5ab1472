//! Publishes events and labels from JSON lines.
use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt as _, stream::FuturesOrdered};
use serde::Serialize;
use tidegate_contracts::{ContentType, Event, LateLabel, Producer};
use tidegate_curation::PRODUCER;
use tidegate_stream::{Message, Sink, Stream, Topics};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{cli::Global, listen, output::Format};

/// Where the lines come from. A line with `parts` is an event, one with `id` and `label` a label.
#[derive(clap::Args)]
pub(crate) struct ProduceArgs {
    /// A file of JSON lines; standard input when absent or `-`.
    file: Option<PathBuf>,
    /// Send lines as they are, to the events topic: wrong ones then end in the dead-letter topic.
    #[arg(long)]
    raw: bool,
    /// Who says so: a name of 1 to 256 bytes that every record gets. It is what quarantine and the
    /// gate's checks of producers go by.
    #[arg(long, value_parser = producer)]
    producer: Option<Producer>,
    /// At most this many a second.
    #[arg(long)]
    rate: Option<f64>,
}

/// One acknowledged record.
#[derive(Serialize)]
struct Ack {
    id: String,
    topic: String,
    partition: i32,
    offset: i64,
    /// Milliseconds since the epoch.
    acked_ms: i64,
}

/// Records under way at most; beyond it reading waits.
const IN_FLIGHT: usize = 1024;

pub(crate) async fn run(global: &Global, args: &ProduceArgs) -> anyhow::Result<ExitCode> {
    let (config, brokers) = listen::brokers(global)?;
    let stream = Stream::connect(&config.stream, &brokers)?;
    let sink = stream.sink()?;
    let input: Box<dyn tokio::io::AsyncRead + Unpin> = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            Box::new(tokio::fs::File::open(path).await.with_context(|| path.display().to_string())?)
        }
        _ => Box::new(tokio::io::stdin()),
    };
    let mut lines = BufReader::new(input).lines();
    let mut pace = args.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
    let mut pending = FuturesOrdered::new();
    let (mut sent, mut number, mut open) = (0_u64, 0_u64, true);
    while open || !pending.is_empty() {
        tokio::select! {
            line = lines.next_line(), if open && pending.len() < IN_FLIGHT => {
                let Some(line) = line? else { open = false; continue };
                number += 1;
                if line.trim().is_empty() {
                    continue;
                }
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                let message = message(stream.topics(), line, args)
                    .with_context(|| format!("line {number} (nothing of it was sent)"))?;
                pending.push_back(send(&sink, message));
            }
            Some(ack) = pending.next() => {
                let ack: Ack = ack?;
                sent += 1;
                if global.output == Format::Json {
                    println!("{}", serde_json::to_string(&ack)?);
                }
            }
        }
    }
    sink.flush().await;
    eprintln!("{sent} records acknowledged");
    Ok(ExitCode::SUCCESS)
}

async fn send(sink: &Sink, (id, message): (String, Message)) -> anyhow::Result<Ack> {
    let topic = message.topic.clone();
    let (partition, offset) = sink.send(message).await?;
    let acked_ms = Utc::now().timestamp_millis();
    Ok(Ack { id, topic, partition: partition.0, offset: offset.0, acked_ms })
}

fn producer(name: &str) -> Result<Producer, String> {
    Producer::from_header(name.as_bytes())
        .ok_or_else(|| "a name has 1 to 256 bytes and no control characters".to_owned())
}

/// The record of one line. Events and labels are keyed by the event's id, so that a label meets
/// its event in the same partition.
fn message(topics: &Topics, line: String, args: &ProduceArgs) -> anyhow::Result<(String, Message)> {
    let (id, topic) = if args.raw {
        (String::new(), &topics.events)
    } else if serde_json::from_str::<serde_json::Value>(&line)?.get("parts").is_some() {
        let event = Event::decode(ContentType::Json, line.as_bytes(), Utc::now())?;
        (event.id.to_string(), &topics.events)
    } else {
        let label = LateLabel::decode(ContentType::Json, line.as_bytes(), Utc::now())?;
        (label.id.to_string(), &topics.labels)
    };
    let mut headers = vec![(
        "content-type".to_owned(),
        Bytes::from_static(ContentType::Json.as_str().as_bytes()),
    )];
    if let Some(producer) = &args.producer {
        headers.push((PRODUCER.to_owned(), Bytes::from(producer.to_string())));
    }
    let context = tidegate_telemetry::trace_context::inject();
    headers.extend(context.into_iter().map(|(name, value)| (name, Bytes::from(value))));
    let key = (!id.is_empty()).then(|| Bytes::from(id.clone()));
    let message =
        Message { topic: topic.clone(), partition: None, key, headers, value: Bytes::from(line) };
    Ok((id, message))
}
