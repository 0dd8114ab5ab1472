//! `grpc.health.v1`: whether to send requests here.
use tidegate_contracts::proto::{
    inference::grpc_inference_service_server::SERVICE_NAME as INFERENCE,
    v1::predict_server::SERVICE_NAME as PREDICT,
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

/// The whole server, and the services that need a champion.
const SERVICES: [&str; 3] = ["", INFERENCE, PREDICT];

/// What is told to health checks; not serving until told otherwise.
#[derive(Clone)]
pub(crate) struct Health(HealthReporter);

impl Health {
    pub(crate) fn new() -> Self {
        let health = Self(HealthReporter::new());
        // Nobody else has it yet, so nothing is waited for.
        futures::executor::block_on(health.set(false));
        health
    }

    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.0.clone()))
    }

    pub(crate) async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    /// Ends the streams of those who watch: the server cannot stop before them.
    pub(crate) async fn end(mut self) {
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
    }
}
