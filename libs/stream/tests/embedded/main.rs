//! What only our own broker promises: its folder, its address, its limits, its patience with
//! clients that are broken or hostile.
mod folder;
mod limits;
mod wire;

use std::path::Path;

use tidegate_stream::{EmbeddedBroker, EmbeddedConfig, Message, Stream, StreamConfig};

fn config() -> EmbeddedConfig {
    EmbeddedConfig { listen: "127.0.0.1:0".parse().unwrap(), ..EmbeddedConfig::default() }
}

async fn start(dir: &Path) -> EmbeddedBroker {
    EmbeddedBroker::start(&config(), dir).await.unwrap()
}

fn stream(broker: &EmbeddedBroker) -> Stream {
    Stream::connect(&StreamConfig::default(), &broker.addr().to_string()).unwrap()
}

/// Whether it still does its work.
async fn works(broker: &EmbeddedBroker) {
    let stream = stream(broker);
    let topic = format!("works-{}", uuid::Uuid::new_v4());
    stream.ensure_topic(&topic, 1).await.unwrap();
    stream.sink().unwrap().send(Message::new(&topic, "v")).await.unwrap();
}
