//! The gateway: the Open Inference Protocol over an atomically swapped champion.
//!
//! A request loads one pointer, queues before that generation's model, and is answered by it: its
//! generation id and its output always agree. A promotion in the ledger makes the gateway fetch
//! the generation, verify every byte, build it, compare its answers with the evaluator's, warm it,
//! and only then store the pointer; the old one is dropped after its last request, elsewhere.
//!
//! It promises that no request fails because of a swap; that nothing is served which was not
//! verified; that it goes on serving what it has while the ledger, the artifacts or the stream are
//! away; that queues are bounded and a full one is said. It never decides who the champion is.
//!
//! ```no_run
//! # async fn example(
//! #     stream: tidegate_stream::Stream,
//! #     ledger: tidegate_ledger::Ledger,
//! #     artifacts: tidegate_ledger::ArtifactStore,
//! #     listen: tidegate_contracts::ListenConfig,
//! # ) -> anyhow::Result<()> {
//! use tidegate_gateway::{Gateway, GatewayConfig};
//! use tidegate_model::Device;
//!
//! let config = GatewayConfig::default();
//! let gateway = Gateway::new(config, stream, ledger, artifacts, listen.clone(), Device::Cpu)?;
//! let mut routes = tonic::service::RoutesBuilder::default();
//! gateway.grpc(&mut routes);
//! let shutdown = tokio_util::sync::CancellationToken::new();
//! let serving = tonic::transport::Server::builder()
//!     .add_routes(routes.routes())
//!     .serve_with_shutdown(listen.grpc, shutdown.clone().cancelled_owned());
//! let (served, kept) = tokio::join!(serving, gateway.run(shutdown));
//! # served?; kept
//! # }
//! ```

mod announce;
mod batcher;
mod config;
mod error;
mod front;
mod gateway;
mod grpc;
mod health;
mod inputs;
mod keeper;
mod oip;
mod predict;
mod prepare;
mod publish;
mod rest;
mod sight;
mod slot;
mod staging;
mod tensors;

#[cfg(test)]
mod tests;

pub use config::{BatchConfig, GatewayConfig, PredictionsConfig};
pub use error::GatewayError;
pub use gateway::Gateway;
