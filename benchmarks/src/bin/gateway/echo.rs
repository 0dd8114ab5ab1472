//! What the transport costs alone, in a process of its own as the gateway is: a bare tonic server
//! that answers every request with one and the same message, and below it a bare TCP socket.
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tidegate_contracts::proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Where it listens.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct At {
    pub(crate) grpc: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

/// The process.
pub(crate) struct Echo {
    child: Child,
    pub(crate) at: At,
}

impl Echo {
    /// Starts it; `answer` is what it will say.
    pub(crate) fn start(answer: &ModelInferResponse, folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("answer.bin");
        std::fs::write(&file, answer.encode_to_vec())?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("echo")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("its standard output is piped")?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let at = serde_json::from_str(&line).context("the echo server did not start")?;
        Ok(Self { child, at })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It holds nothing that would need an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until standard input ends, so that it does not outlive who started it.
pub(crate) fn serve(answer: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(answer)?;
    let answer = ModelInferResponse::decode(&bytes[..])?;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let tcp_at = tcp.local_addr()?;
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            // The client has hung up.
            let _ = stream.and_then(|stream| echo(stream, &bytes));
        }
    });
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", serde_json::to_string(&At { grpc: listener.local_addr()?, tcp: tcp_at })?);
        std::io::stdout().flush()?;
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let served = tonic::transport::Server::builder()
            .add_service(GrpcInferenceServiceServer::new(Fixed(answer)))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::select! {
            served = served => served?,
            ended = ended => {
                ended??;
            }
        }
        Ok(())
    })
}

/// Reads a length and so many bytes, and writes the answer.
fn echo(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::new();
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        request.resize(u32::from_le_bytes(length) as usize, 0);
        stream.read_exact(&mut request)?;
        stream.write_all(answer)?;
    }
}

/// The near end of the bare socket.
pub(crate) struct Socket {
    stream: TcpStream,
    out: Vec<u8>,
    back: Vec<u8>,
}

impl Socket {
    pub(crate) fn connect(at: SocketAddr, answer: &ModelInferResponse) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, out: vec![], back: vec![0; answer.encoded_len()] })
    }

    /// There and back with as many bytes as the request and its answer have.
    pub(crate) fn round_trip(&mut self, request: &ModelInferRequest) -> anyhow::Result<()> {
        let length = request.encoded_len();
        self.out.clear();
        self.out.extend((length as u32).to_le_bytes());
        self.out.resize(4 + length, 0);
        self.stream.write_all(&self.out)?;
        self.stream.read_exact(&mut self.back)?;
        Ok(())
    }
}

struct Fixed(ModelInferResponse);

#[tonic::async_trait]
impl GrpcInferenceService for Fixed {
    async fn model_infer(
        &self,
        _: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        _: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Ok(Response::new(ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn model_metadata(
        &self,
        _: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Err(Status::unimplemented("an echo"))
    }
}
