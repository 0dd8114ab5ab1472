//! Kafka: sources that hold their own offsets, group consumption, an idempotent sink, dead
//! letters, and a small durable broker for when there is no other.
//!
//! It promises that a source reads exactly what it was told to (explicit offsets, never silently
//! moved), that nothing is acknowledged before the broker has it, that buffers are bounded
//! (partitions are paused, not records dropped), and that a broker that goes away is waited for
//! with a log line. It never commits an offset by itself.
//!
//! ```
//! use bytes::Bytes;
//! use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, Stream, StreamConfig};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let config = EmbeddedConfig { listen: "127.0.0.1:0".parse()?, ..EmbeddedConfig::default() };
//! let broker = EmbeddedBroker::start(&config, dir.path()).await?;
//! let stream = Stream::connect(&StreamConfig::default(), &broker.addr().to_string())?;
//! stream.ensure_topics().await?;
//!
//! let events = &stream.topics().events;
//! let sink = stream.sink()?;
//! let (partition, offset) = sink.send(Message::new(events, Bytes::from("hello"))).await?;
//! let mut source = stream.tail(events, [(partition, offset)].into()).await?;
//! assert_eq!(source.next().await?.value, "hello");
//! # drop(source);
//! broker.shutdown().await;
//! # Ok(()) }
//! ```

mod broker;
mod client;
mod config;
mod error;
mod group;
mod poller;
mod pump;
mod record;
mod sink;
mod source;
mod window;

pub use broker::EmbeddedBroker;
pub use client::Stream;
pub use config::{EmbeddedConfig, MAX_MESSAGE_BYTES, StreamConfig, Topics};
pub use error::StreamError;
pub use group::{GroupEvent, GroupSource};
pub use record::{Headers, Message, Record, dead_letter, rejected};
pub use sink::Sink;
pub use source::Source;
