//! One client's connection: a request comes, is answered, and then the next is read.
//!
//! One at a time is what Kafka does too: answers come in the order of the requests, and a client
//! that sends more than is taken is slowed down by TCP.
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    ResponseError as Code,
    messages::{ApiKey, RequestHeader, RequestKind, ResponseKind},
    protocol::Decodable as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use super::{
    about,
    node::{Caller, MAX_REQUEST, Node, Reply},
    shape,
};

/// A client that has sent nothing for this long is gone (Kafka's own default).
const IDLE: Duration = Duration::from_secs(600);
/// How long the rest of a request, or the taking of an answer, may stall.
const STALL: Duration = Duration::from_secs(60);
/// Smaller requests need no permit: their number is bounded by that of connections.
const SMALL: usize = 64 << 10;

/// Why a connection ended.
enum End {
    /// The client hung up, or we stop.
    Closed,
    /// The network.
    Io(io::Error),
    /// The client did what it shouldn't.
    Fault(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves a client until it hangs up, misbehaves, or the broker stops.
pub(crate) async fn serve(node: Arc<Node>, mut socket: TcpStream, peer: SocketAddr) {
    let _ = socket.set_nodelay(true);
    let stop = node.stop.clone();
    let end = tokio::select! {
        end = converse(&node, &mut socket, peer) => end,
        () = stop.cancelled() => End::Closed,
    };
    match end {
        End::Closed => tracing::trace!(%peer, "connection closed"),
        End::Io(error) => tracing::debug!(%peer, %error, "connection lost"),
        End::Fault(reason) => tracing::warn!(%peer, "connection closed by the broker: {reason}"),
    }
}

async fn converse(node: &Node, socket: &mut TcpStream, peer: SocketAddr) -> End {
    loop {
        if let Err(end) = exchange(node, socket, peer).await {
            return end;
        }
    }
}

/// One request and its answer.
async fn exchange(node: &Node, socket: &mut TcpStream, peer: SocketAddr) -> Result<(), End> {
    // Held until the answer is sent: the memory of what it was made from is in use so long.
    let (frame, _request_room) = read_frame(node, socket).await?;
    let (header, key, reply) = match decode(frame)? {
        Decoded::Request(header, key, request) => {
            let caller = Caller {
                client: header.client_id.as_deref().unwrap_or_default().to_owned(),
                host: peer.ip().to_string(),
                version: header.request_api_version,
            };
            let reply = node.answer(&caller, request).await;
            (header, key, reply)
        }
        // The client learns from it which versions there are, in the oldest form.
        Decoded::FutureApiVersions(mut header) => {
            header.request_api_version = 0;
            let mut answer = about::api_versions();
            answer.error_code = Code::UnsupportedVersion.code();
            (header, ApiKey::ApiVersions, answer.into())
        }
    };
    let (answer, _room) = match reply {
        Reply::Answer(answer) => (answer, None),
        Reply::Large(answer, room) => (answer, Some(room)),
        Reply::Nothing => return Ok(()),
        Reply::Close(reason) => return Err(End::Fault(reason)),
    };
    let frame = encode(&header, key, &answer).map_err(End::Fault)?;
    drop(answer);
    let sent = timeout(STALL, socket.write_all(&frame)).await;
    Ok(sent.map_err(|_| End::Fault(format!("no answer was taken for {STALL:?}")))??)
}

async fn read_frame(
    node: &Node,
    socket: &mut TcpStream,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), End> {
    let mut len = [0; 4];
    match timeout(IDLE, socket.read_exact(&mut len)).await {
        Err(_) => return Err(End::Closed),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(End::Closed),
        Ok(read) => read?,
    };
    let len = i32::from_be_bytes(len);
    let fits = usize::try_from(len).ok().filter(|len| (8..=MAX_REQUEST).contains(len));
    let Some(len) = fits else {
        return Err(End::Fault(format!(
            "a request of {len} bytes: 8 to {MAX_REQUEST} are taken (is it a Kafka client?)"
        )));
    };
    let room = if len > SMALL {
        let kib = u32::try_from(len.div_ceil(1 << 10)).expect("requests are small");
        let room = node.requests.clone().acquire_many_owned(kib).await;
        Some(room.expect("the semaphore is never closed"))
    } else {
        None
    };
    let mut frame = BytesMut::zeroed(len);
    let read = timeout(STALL, socket.read_exact(&mut frame)).await;
    read.map_err(|_| End::Fault(format!("half a request, and no more for {STALL:?}")))??;
    Ok((frame.freeze(), room))
}

// One at a time, moved once: its size is of no weight beside the request's bytes.
#[allow(clippy::large_enum_variant)]
enum Decoded {
    Request(RequestHeader, ApiKey, RequestKind),
    /// A question for our versions in a version that we do not know.
    FutureApiVersions(RequestHeader),
}

fn decode(mut frame: Bytes) -> Result<Decoded, End> {
    let fault = |reason: String| End::Fault(reason);
    let (number, version) = (frame.slice(..2).get_i16(), frame.slice(2..4).get_i16());
    let key = ApiKey::try_from(number)
        .map_err(|()| fault(format!("request {number} is not part of the protocol")))?;
    let flexible = key.request_header_version(version) >= 2;
    let header = RequestHeader::decode(&mut frame, key.request_header_version(version))
        .map_err(|error| fault(format!("malformed header of {key:?} {version}: {error}")))?;
    let Some(shape) = shape::shape(key, version) else {
        return match key {
            ApiKey::ApiVersions => Ok(Decoded::FutureApiVersions(header)),
            _ => Err(fault(format!("{key:?} in version {version} is not taken"))),
        };
    };
    if !shape::fits(shape, flexible, &frame) {
        return Err(fault(format!("malformed {key:?} {version}: shorter than it says")));
    }
    // Bytes may follow that nobody asked for: librdkafka 2.12 sends three with a question for all
    // topics, and Kafka does not mind.
    RequestKind::decode(key, &mut frame, version)
        .map(|request| Decoded::Request(header, key, request))
        .map_err(|error| fault(format!("malformed {key:?} {version}: {error}")))
}

/// The frame of an answer.
pub(crate) fn encode(
    header: &RequestHeader,
    key: ApiKey,
    answer: &ResponseKind,
) -> Result<BytesMut, String> {
    let version = header.request_api_version;
    let mut frame = BytesMut::with_capacity(size_hint(answer));
    frame.put_i32(0);
    frame.put_i32(header.correlation_id);
    if answer.header_version(version) >= 1 {
        frame.put_u8(0);
    }
    let wrong = |error: &dyn std::fmt::Display| format!("no answer to {key:?} {version}: {error}");
    answer.encode(&mut frame, version).map_err(|error| wrong(&error))?;
    let len = i32::try_from(frame.len() - 4).map_err(|error| wrong(&error))?;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    Ok(frame)
}

/// Nearly the bytes of an answer, so that a large one is not moved about while it is written.
fn size_hint(answer: &ResponseKind) -> usize {
    let ResponseKind::Fetch(fetch) = answer else { return 512 };
    let partitions = fetch.responses.iter().flat_map(|topic| &topic.partitions);
    512 + partitions.map(|p| 128 + p.records.as_ref().map_or(0, Bytes::len)).sum::<usize>()
}
