//! Everything is bounded.
use std::time::Duration;

use tidegate_stream::{EmbeddedBroker, EmbeddedConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{config, start, works};

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_and_the_next_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let few = EmbeddedConfig { max_connections: 3, ..config() };
    let broker = EmbeddedBroker::start(&few, dir.path()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(broker.addr()).await.unwrap());
    }
    // Accepted in order: the fourth is the one too many.
    let mut fourth = TcpStream::connect(broker.addr()).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), fourth.read(&mut [0; 1])).await;
    assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
    drop(held);
    works(&broker).await;
}

#[tokio::test]
async fn large_requests_that_never_come_keep_nobody_out_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    // More than there is room for, all of them announced and then abandoned.
    for _ in 0..20 {
        let mut socket = TcpStream::connect(broker.addr()).await.unwrap();
        socket.write_all(&(31_i32 << 20).to_be_bytes()).await.unwrap();
        socket.write_all(&[0; 100]).await.unwrap();
        drop(socket);
    }
    works(&broker).await;
}
