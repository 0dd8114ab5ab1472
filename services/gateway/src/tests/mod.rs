//! Doors and slot over real sockets, with models whose answers can be foreseen.
mod doors;
mod rest;
mod stages;
mod swap;

use std::{
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use tidegate_contracts::{
    Class, GenerationId, ListenConfig,
    proto::{
        inference::{
            InferTensorContents, ModelInferRequest,
            grpc_inference_service_client::GrpcInferenceServiceClient,
            model_infer_request::InferInputTensor,
        },
        v1::predict_client::PredictClient,
    },
};
use tidegate_model::{Input, Levels, Scores};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::RoutesBuilder,
    transport::{Channel, Server, server::TcpIncoming},
};

use crate::{
    GatewayConfig,
    batcher::{Batcher, Forward},
    config::BatchConfig,
    front::Front,
    gateway::doors,
    health::Health,
    publish::{Outgoing, Publisher},
    sight::Sight,
    slot::Served,
};

/// A model whose every answer tells which generation it is; it can be held back.
pub(crate) struct Toy {
    number: u16,
    labels: Vec<Class>,
    /// Where it answers with numbers.
    levels: Option<Levels>,
    /// Whether it fails at everything.
    broken: bool,
    open: Mutex<bool>,
    opened: Condvar,
    /// Texts of each batch.
    pub(crate) batches: Mutex<Vec<Vec<String>>>,
}

impl Toy {
    pub(crate) fn new(number: u16) -> Arc<Self> {
        Self::with(number, true)
    }

    /// Answers nothing until [`Toy::open`].
    pub(crate) fn shut(number: u16) -> Arc<Self> {
        Self::with(number, false)
    }

    fn with(number: u16, open: bool) -> Arc<Self> {
        let labels = [format!("label-{number}"), "other".to_owned()].map(Class::new).into();
        let (open, opened) = (Mutex::new(open), Condvar::new());
        let (levels, batches) = (None, Mutex::default());
        Arc::new(Self { number, labels, levels, broken: false, open, opened, batches })
    }

    /// Answers nothing, at once.
    pub(crate) fn broken(number: u16) -> Arc<Self> {
        let mut toy = Arc::into_inner(Self::new(number)).unwrap();
        toy.broken = true;
        Arc::new(toy)
    }

    /// Says 10 with the probability of its number, and 20 else.
    pub(crate) fn of_numbers(number: u16) -> Arc<Self> {
        let mut toy = Arc::into_inner(Self::new(number)).unwrap();
        toy.labels = ["10", "20"].map(Class::new).into();
        toy.levels = Some(Levels::of(&toy.labels).unwrap());
        Arc::new(toy)
    }

    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub(crate) fn asked(&self) -> usize {
        self.batches.lock().unwrap().len()
    }

    pub(crate) fn id(number: u16) -> GenerationId {
        GenerationId::of(&number.to_le_bytes())
    }

    pub(crate) fn probability(number: u16) -> f32 {
        0.5 + f32::from(number) / 1000.0
    }

    pub(crate) fn served(self: &Arc<Self>, config: &BatchConfig) -> Arc<Served> {
        let batcher = Batcher::start(self.clone(), config, Sight::new());
        Arc::new(Served::new(Self::id(self.number), batcher))
    }
}

impl Forward for Toy {
    fn labels(&self) -> &[Class] {
        &self.labels
    }

    fn levels(&self) -> Option<&Levels> {
        self.levels.as_ref()
    }

    fn forward(&self, inputs: &[Input]) -> Result<Vec<Result<Scores, String>>, String> {
        let texts = inputs.iter().map(|input| input.texts().into_owned()).collect();
        self.batches.lock().unwrap().push(texts);
        if self.broken {
            return Err("broken on purpose".to_owned());
        }
        drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
        assert!(inputs.iter().all(|input| input.texts() != "panic"), "asked to panic");
        let likely = Self::probability(self.number);
        let scores = Scores { probabilities: vec![likely, 1.0 - likely] };
        let answer = |input: &Input| match &*input.texts() {
            "unreadable" => Err("`parts[0].image` cannot be read: on purpose".to_owned()),
            _ => Ok(scores.clone()),
        };
        Ok(inputs.iter().map(answer).collect())
    }

    fn width(&self) -> usize {
        3
    }

    /// Its number, and where the text stands in the batch.
    fn embed(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>, String> {
        let embedding = |at: usize| vec![f32::from(self.number), at as f32, 0.5];
        Ok((0..inputs.len()).map(embedding).collect())
    }
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The doors on a socket, with no keeper behind.
pub(crate) struct House {
    pub(crate) front: Arc<Front>,
    pub(crate) health: Health,
    pub(crate) predictions: tokio::sync::mpsc::Receiver<Outgoing>,
    pub(crate) grpc: SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

pub(crate) fn loopback() -> ListenConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ListenConfig { grpc: any, http: any, tls: None, tokens: vec![] }
}

impl House {
    pub(crate) async fn open(config: GatewayConfig) -> Self {
        Self::guarded(config, loopback()).await
    }

    pub(crate) async fn guarded(config: GatewayConfig, listen: ListenConfig) -> Self {
        let (publisher, predictions) = Publisher::new(&config.predictions);
        let front = Arc::new(Front::new(config, listen, publisher));
        let shutdown = CancellationToken::new();
        tokio::spawn(front.clone().mirror(shutdown.clone()));
        let (health, mut routes) = (Health::new(), RoutesBuilder::default());
        doors(&front, &health, &mut routes);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = socket.local_addr().unwrap();
        let server = tokio::spawn(
            Server::builder().add_routes(routes.routes()).serve_with_incoming_shutdown(
                TcpIncoming::from(socket).with_nodelay(Some(true)),
                shutdown.clone().cancelled_owned(),
            ),
        );
        Self { front, health, predictions, grpc, shutdown, server }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.grpc);
        Channel::from_shared(address).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel().await)
    }

    pub(crate) async fn predictor(&self) -> PredictClient<Channel> {
        PredictClient::new(self.channel().await)
    }

    /// Puts a toy into the slot.
    pub(crate) fn serve(&self, toy: &Arc<Toy>) {
        self.front.slot.install(toy.served(&self.front.config.batch));
    }

    pub(crate) async fn close(self) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
    }
}

/// A request with typed contents.
pub(crate) fn request(texts: &[&str]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "default".into(),
        inputs: vec![InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![texts.len() as i64],
            contents: Some(InferTensorContents {
                bytes_contents: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
                ..InferTensorContents::default()
            }),
            ..InferInputTensor::default()
        }],
        ..ModelInferRequest::default()
    }
}
