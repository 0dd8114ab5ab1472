//! Runs services in this process: all of them (`up`), or one.
use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use tidegate_contracts::proto;
use tidegate_controller::Controller;
use tidegate_gateway::Gateway;
use tidegate_ledger::{ArtifactStore, Ledger, StoreConfig};
use tidegate_stream::{EmbeddedBroker, Stream};
use tidegate_telemetry::{energy::EnergyMeter, metrics};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::{
    cli::Global,
    config::Config,
    listen::{Endpoints, Sockets},
};

/// Which services run here.
#[derive(Clone, Copy, Default)]
pub(crate) struct Services {
    curator: bool,
    trainer: bool,
    evaluator: bool,
    controller: bool,
    gateway: bool,
}

impl Services {
    const NONE: Self = Self {
        curator: false,
        trainer: false,
        evaluator: false,
        controller: false,
        gateway: false,
    };
    pub(crate) const ALL: Self =
        Self { curator: true, trainer: true, evaluator: true, controller: true, gateway: true };
    pub(crate) const CURATOR: Self = Self { curator: true, ..Self::NONE };
    pub(crate) const TRAINER: Self = Self { trainer: true, ..Self::NONE };
    pub(crate) const EVALUATOR: Self = Self { evaluator: true, ..Self::NONE };
    pub(crate) const CONTROLLER: Self = Self { controller: true, ..Self::NONE };
    pub(crate) const GATEWAY: Self = Self { gateway: true, ..Self::NONE };

    fn all(self) -> bool {
        self.curator && self.trainer && self.evaluator && self.controller && self.gateway
    }

    fn serves(self) -> bool {
        self.controller || self.gateway
    }
}

/// Runs until SIGINT or SIGTERM, or until a service cannot go on.
pub(crate) async fn run(global: &Global, services: Services) -> anyhow::Result<ExitCode> {
    let config = global.load()?;
    if services.curator && services.trainer {
        config.check_labels()?;
    }
    let _telemetry = tidegate_telemetry::init(&config.telemetry)?;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("data directory {}", config.data_dir.display()))?;

    anyhow::ensure!(
        services.all() || config.stream.brokers.is_some(),
        "a service that runs alone meets the others on Kafka: set `stream.brokers` (or --kafka); \
         `tidegate up` runs all of them with the embedded broker"
    );
    anyhow::ensure!(
        services.all()
            || config.ledger.keys.dir.is_some()
            || config.ledger.store == StoreConfig::Embedded,
        "a service that runs alone believes only keys it was given: set `ledger.keys.dir` to a folder \
         with evaluator.pub and controller.pub, and the .key of the service itself (`tidegate keys \
         make` makes them)"
    );
    let sockets = if services.serves() { Some(Sockets::bind(&config.listen).await?) } else { None };
    let broker = match config.stream.brokers {
        Some(_) => None,
        None => Some(
            EmbeddedBroker::start(&config.stream.embedded, &config.data_dir.join("broker"))
                .await
                .context("embedded broker")?,
        ),
    };
    let brokers = match (&broker, &config.stream.brokers) {
        (Some(broker), _) => broker.addr().to_string(),
        (None, Some(brokers)) => brokers.clone(),
        (None, None) => unreachable!("without brokers the embedded one was started"),
    };
    let endpoints = Endpoints {
        kafka: brokers.clone(),
        grpc: sockets.as_ref().map(Sockets::grpc).transpose()?,
        http: sockets.as_ref().map(Sockets::http).transpose()?,
        tls: config.listen.tls.is_some(),
        pid: std::process::id(),
    };

    let shutdown = CancellationToken::new();
    let result = {
        let running = Running::start(&config, services, &brokers, sockets, &shutdown).await;
        match running {
            Ok(running) => {
                endpoints.write(&config.data_dir)?;
                announce(&endpoints, &config);
                running.until_done(&shutdown).await
            }
            Err(error) => Err(error),
        }
    };
    if let Some(broker) = broker {
        broker.shutdown().await;
    }
    result.map(|()| ExitCode::SUCCESS)
}

fn announce(endpoints: &Endpoints, config: &Config) {
    let scheme = if endpoints.tls { "https" } else { "http" };
    tracing::info!(
        kafka = endpoints.kafka,
        grpc = endpoints.grpc.map(|at| at.to_string()),
        http = endpoints.http.map(|at| format!("{scheme}://{at}/")),
        data_dir = %config.data_dir.display(),
        version = tidegate_contracts::CODE_VERSION,
        "tidegate is up"
    );
}

/// The tasks of this process; each is owned and awaited here.
struct Running(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Running {
    async fn start(
        config: &Config,
        services: Services,
        brokers: &str,
        sockets: Option<Sockets>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let stream = Stream::connect(&config.stream, brokers).context("stream")?;
        let ledger = Ledger::open(&config.ledger, &config.data_dir).await.context("ledger")?;
        let artifacts = ArtifactStore::open(&config.ledger.artifacts, &config.data_dir)
            .context("artifact store")?;
        stream.ensure_topics().await.context("topics")?;

        let mut tasks = JoinSet::new();
        let mut routes = RoutesBuilder::default();
        let mut pages = Router::new();
        if services.gateway {
            let gateway = Gateway::new(
                config.gateway.clone(),
                stream.clone(),
                ledger.clone(),
                artifacts.clone(),
                config.listen.clone(),
                config.device,
            )?;
            gateway.grpc(&mut routes);
            pages = pages.merge(gateway.http());
            let shutdown = shutdown.clone();
            tasks.spawn(async move { ("gateway", gateway.run(shutdown).await) });
        }
        if services.controller {
            let controller = Controller::new(
                config.controller.clone(),
                stream.clone(),
                ledger.clone(),
                artifacts.clone(),
                config.listen.clone(),
            )?;
            controller.grpc(&mut routes);
            pages = pages.merge(controller.http());
            let shutdown = shutdown.clone();
            tasks.spawn(async move { ("controller", controller.run(shutdown).await) });
        }
        if let Some(sockets) = sockets {
            let pages = pages.merge(sight_pages());
            let described = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            routes.add_service(described().build_v1()?);
            routes.add_service(described().build_v1alpha()?);
            let shutdown = shutdown.clone();
            let routes = routes.routes();
            tasks.spawn(async move { ("servers", sockets.serve(routes, pages, shutdown).await) });
        }
        if services.curator {
            let (config, stream, ledger, shutdown) =
                (config.curator.clone(), stream.clone(), ledger.clone(), shutdown.clone());
            tasks.spawn(async move {
                ("curator", tidegate_curator::run(config, stream, ledger, shutdown).await)
            });
        }
        if services.trainer {
            let job = Box::pin(tidegate_trainer::run(
                config.trainer.clone(),
                stream.clone(),
                ledger.clone(),
                artifacts.clone(),
                config.data_dir.clone(),
                config.device,
                shutdown.clone(),
            ));
            tasks.spawn(async move { ("trainer", job.await) });
        }
        if services.evaluator {
            let job = tidegate_evaluator::run(
                config.evaluator.clone(),
                stream,
                ledger,
                artifacts,
                config.device,
                shutdown.clone(),
            );
            tasks.spawn(async move { ("evaluator", job.await) });
        }
        Ok(Self(tasks))
    }

    /// Waits for a signal or the first failure, then stops everything and waits for it.
    async fn until_done(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut result = Ok(());
        tokio::select! {
            () = signal() => tracing::info!("stopping: letting what is in flight finish"),
            Some(ended) = self.0.join_next() => result = outcome(ended),
        }
        shutdown.cancel();
        let rest = async {
            let mut first = Ok(());
            while let Some(ended) = self.0.join_next().await {
                let ended = outcome(ended);
                if first.is_ok() {
                    first = ended;
                }
            }
            first
        };
        match tokio::time::timeout(Duration::from_secs(30), rest).await {
            Ok(rest) => result.and(rest),
            Err(_) => {
                tracing::warn!("some services did not stop within 30 s and were ended");
                result
            }
        }
    }
}

fn outcome(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Result<()> {
    match ended {
        Ok((name, result)) => result.with_context(|| format!("the {name} cannot go on")),
        Err(error) => Err(anyhow::anyhow!("a service panicked: {error}")),
    }
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("signals can be listened for");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

/// `/healthz` and `/metrics`, without a token: they say nothing of events, and what restarts or
/// scrapes a service should need no secret. Energy since the start of this process is read at each
/// scrape.
fn sight_pages() -> Router {
    let meter: &'static EnergyMeter = Box::leak(Box::new(EnergyMeter::detect()));
    let last = tokio::sync::Mutex::new(meter.start());
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(render))
        .with_state(Arc::new(Scrape { meter, last }))
}

struct Scrape {
    /// Leaked on purpose: the meter lives as long as the process and the measurement borrows it.
    meter: &'static EnergyMeter,
    last: tokio::sync::Mutex<tidegate_telemetry::energy::Measurement<'static>>,
}

async fn render(State(scrape): State<Arc<Scrape>>) -> impl IntoResponse {
    let stretch = {
        let mut last = scrape.last.lock().await;
        std::mem::replace(&mut *last, scrape.meter.start())
    };
    let energy = stretch.stop();
    if let Some(joules) = energy.joules {
        let name = "tidegate_energy_joules";
        let help = "Energy used since the start of this process, by the method that found it.";
        metrics::gauge(name, help, &["method"])
            .with_label_values(&[energy.method.as_str()])
            .add(joules.0);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render())
}
