//! The gateway as a whole.
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_contracts::{
    ListenConfig,
    proto::{
        inference::grpc_inference_service_server::GrpcInferenceServiceServer,
        v1::predict_server::PredictServer,
    },
};
use tidegate_ledger::{ArtifactStore, Ledger};
use tidegate_model::Device;
use tidegate_stream::{Sink, Stream};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, service::RoutesBuilder};

use crate::{
    GatewayConfig, GatewayError,
    announce::announce,
    front::Front,
    health::Health,
    keeper::Keeper,
    oip::OpenInference,
    predict::Predictor,
    prepare::Preparer,
    publish::{Outgoing, Publisher, publish},
    rest,
};

/// How long the ledger may take to hear of the last swap at shutdown.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Answers inference requests with the ledger's champion.
///
/// Three parts: [`grpc`](Self::grpc) and [`http`](Self::http) are its doors, to be put on whatever
/// sockets there are; [`run`](Self::run) keeps the slot behind them at the champion. Until the
/// first champion serves, the doors answer `UNAVAILABLE` and health checks say so.
pub struct Gateway {
    front: Arc<Front>,
    ledger: Ledger,
    artifacts: ArtifactStore,
    device: Device,
    health: Health,
    sink: Sink,
    predictions: String,
    outgoing: Mutex<Option<mpsc::Receiver<Outgoing>>>,
}

impl Gateway {
    /// A gateway that serves nothing yet.
    ///
    /// # Errors
    /// [`GatewayError`] for configuration that cannot work.
    pub fn new(
        config: GatewayConfig,
        stream: Stream,
        ledger: Ledger,
        artifacts: ArtifactStore,
        listen: ListenConfig,
        device: Device,
    ) -> Result<Arc<Self>, GatewayError> {
        config.validate()?;
        let (publisher, outgoing) = Publisher::new(&config.predictions);
        Ok(Arc::new(Self {
            front: Arc::new(Front::new(config, listen, publisher)),
            ledger,
            artifacts,
            device,
            health: Health::new(),
            sink: stream.sink()?,
            predictions: stream.topics().predictions.clone(),
            outgoing: Mutex::new(Some(outgoing)),
        }))
    }

    /// Adds `inference.GRPCInferenceService`, `tidegate.v1.Predict` and `grpc.health.v1.Health`.
    pub fn grpc(&self, routes: &mut RoutesBuilder) {
        doors(&self.front, &self.health, routes);
    }

    /// The Open Inference Protocol over HTTP and JSON, under `/v2`.
    pub fn http(&self) -> axum::Router {
        rest::routes(self.front.clone())
    }

    /// Keeps the slot at the ledger's champion until `shutdown`; then says it is not serving,
    /// lets requests in flight finish and predictions reach the stream, and returns. Requests
    /// that an open connection still brings are answered to the end: closing connections is the
    /// server's part.
    ///
    /// # Errors
    /// When it is run twice.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let outgoing = self.outgoing.lock().expect("no code panics with this lock").take();
        let outgoing = outgoing.context("a gateway runs once")?;
        let config = &self.front.config;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (topic, sight) = (self.predictions.clone(), self.front.sight.clone());
        tasks.spawn(publish(self.sink.clone(), topic, outgoing, sight, stop.clone()));
        tasks.spawn(self.front.clone().mirror(stop.clone()));
        let (swaps, announced) = mpsc::unbounded_channel();
        let mut announcing = JoinSet::new();
        announcing.spawn(announce(self.ledger.clone(), config.name.clone(), announced));

        let keeper = Keeper {
            front: self.front.clone(),
            ledger: self.ledger.clone(),
            preparer: Preparer {
                artifacts: self.artifacts.clone(),
                device: self.device,
                batch: config.batch.clone(),
                sight: self.front.sight.clone(),
            },
            health: self.health.clone(),
            swaps,
            refused: None,
            unfit: None,
            retiring: JoinSet::new(),
        };
        let mut retiring = keeper.keep(&shutdown).await;

        self.drain(&mut retiring).await;
        // The keeper is gone, and the sender with it: what is left is to be said quickly.
        let _ = timeout_at(Instant::now() + LAST_WORDS, announcing.join_next()).await;
        announcing.shutdown().await;
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    async fn drain(&self, retiring: &mut JoinSet<()>) {
        self.front.draining.cancel();
        self.health.set(false).await;
        let until = Instant::now() + Duration::from_secs(self.front.config.drain_s);
        self.front.in_flight.close();
        let done = async {
            self.front.in_flight.wait().await;
            while retiring.join_next().await.is_some() {}
        };
        if timeout_at(until, done).await.is_err() {
            let left = self.front.in_flight.len();
            tracing::warn!(left, "some requests were not answered in time at shutdown");
        }
        retiring.shutdown().await;
        self.health.clone().end().await;
    }
}

/// Adds the gRPC services to `routes`.
pub(crate) fn doors(front: &Arc<Front>, health: &Health, routes: &mut RoutesBuilder) {
    let limit = front.config.max_message_bytes;
    routes
        .add_service(
            GrpcInferenceServiceServer::new(OpenInference(front.clone()))
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(
            PredictServer::new(Predictor(front.clone()))
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(health.service());
}
