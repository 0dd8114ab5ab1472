//! Sockets: binding them, TLS, saying where they are, and finding them again.
use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_contracts::ListenConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
};

use crate::{cli::Global, output::NotRunning};

/// Where a running service can be reached; written to `<data-dir>/endpoints.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// Kafka bootstrap servers.
    pub(crate) kafka: String,
    /// gRPC address, when this process serves any.
    pub(crate) grpc: Option<SocketAddr>,
    /// HTTP address, when this process serves any.
    pub(crate) http: Option<SocketAddr>,
    /// Whether both speak TLS.
    pub(crate) tls: bool,
    /// The process that wrote this.
    pub(crate) pid: u32,
}

impl Endpoints {
    fn path(data_dir: &Path) -> std::path::PathBuf {
        data_dir.join("endpoints.json")
    }

    /// Publishes the file atomically.
    pub(crate) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(data_dir);
        let fresh = path.with_extension("json.tmp");
        std::fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, &path).with_context(|| path.display().to_string())
    }

    /// Reads the file of a data directory.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Self> {
        let path = Self::path(data_dir);
        let bytes = std::fs::read(&path).map_err(|error| {
            let path = path.display();
            NotRunning(format!(
                "{path}: {error} (is `tidegate up` running on this data directory?)"
            ))
        })?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }
}

/// Both sockets of a process that serves.
pub(crate) struct Sockets {
    grpc: TcpListener,
    http: TcpListener,
    config: ListenConfig,
}

impl Sockets {
    pub(crate) async fn bind(config: &ListenConfig) -> anyhow::Result<Self> {
        let bind = |addr: SocketAddr, flag: &'static str| async move {
            TcpListener::bind(addr)
                .await
                .with_context(|| format!("cannot listen on {addr} (choose another with --{flag})"))
        };
        Ok(Self {
            grpc: bind(config.grpc, "grpc").await?,
            http: bind(config.http, "http").await?,
            config: config.clone(),
        })
    }

    pub(crate) fn grpc(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.grpc.local_addr()?)
    }

    pub(crate) fn http(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.http.local_addr()?)
    }

    /// Serves until `shutdown`, then lets calls in flight finish.
    pub(crate) async fn serve(
        self,
        grpc: tonic::service::Routes,
        http: axum::Router,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let tls = self.config.tls.as_ref();
        let mut server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)));
        if let Some(tls) = tls {
            let cert = std::fs::read(&tls.cert).context("listen.tls.cert")?;
            let key = std::fs::read(&tls.key).context("listen.tls.key")?;
            let identity = Identity::from_pem(cert, key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
        }
        let incoming = tonic::transport::server::TcpIncoming::from(self.grpc)
            .with_nodelay(Some(true))
            .with_keepalive(Some(std::time::Duration::from_secs(60)));
        let grpc = server
            .add_routes(grpc)
            .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());

        let handle = axum_server::Handle::new();
        let stop = {
            let (handle, shutdown) = (handle.clone(), shutdown.clone());
            tokio::spawn(async move {
                shutdown.cancelled().await;
                handle.graceful_shutdown(Some(std::time::Duration::from_secs(10)));
            })
        };
        let listener = self.http.into_std()?;
        let http = async {
            let service = http.into_make_service();
            match tls {
                None => axum_server::from_tcp(listener)?.handle(handle).serve(service).await,
                Some(tls) => {
                    let _ = rustls::crypto::ring::default_provider().install_default();
                    let config =
                        axum_server::tls_rustls::RustlsConfig::from_pem_file(&tls.cert, &tls.key)
                            .await?;
                    axum_server::from_tcp_rustls(listener, config)?
                        .handle(handle)
                        .serve(service)
                        .await
                }
            }
        };
        let (grpc, http) = tokio::join!(grpc, http);
        stop.abort();
        grpc.context("gRPC server")?;
        http.context("HTTP server")?;
        Ok(())
    }
}

/// Connects to the endpoint that flags or the data directory name.
pub(crate) async fn connect(global: &Global) -> anyhow::Result<Channel> {
    let mut ca = global.ca.clone();
    let at = match &global.endpoint {
        Some(at) if at.contains("://") => at.clone(),
        Some(at) => format!("http://{at}"),
        None => {
            let config = global.load()?;
            let endpoints = Endpoints::read(&config.data_dir)?;
            let grpc = endpoints.grpc.context("this process serves no gRPC")?;
            // A certificate that nobody else signed is its own authority.
            ca = ca.or_else(|| config.listen.tls.map(|tls| tls.cert));
            format!("{}://{grpc}", if endpoints.tls { "https" } else { "http" })
        }
    };
    let mut endpoint = Endpoint::from_shared(at.clone())
        .with_context(|| format!("`{at}` is not an endpoint"))?
        .connect_timeout(std::time::Duration::from_secs(5));
    if at.starts_with("https://") {
        let ca = ca.context(
            "name the authority that signed the service's certificate with --ca \
             (the system's are often in /etc/ssl/certs/ca-certificates.crt)",
        )?;
        let pem = std::fs::read(&ca).with_context(|| ca.display().to_string())?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        endpoint = endpoint.tls_config(tls)?;
    }
    endpoint.connect().await.with_context(|| format!("cannot reach {at}"))
}

/// Reads the Kafka bootstrap servers that flags or the data directory name.
pub(crate) fn brokers(global: &Global) -> anyhow::Result<(Arc<crate::config::Config>, String)> {
    let config = Arc::new(global.load()?);
    let brokers = match &config.stream.brokers {
        Some(brokers) => brokers.clone(),
        None => Endpoints::read(&config.data_dir)?.kafka,
    };
    Ok((config, brokers))
}
