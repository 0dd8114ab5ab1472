//! The controller: schedule, queue, policy, approvals, promotion; the control API and the dashboard.
//!
//! It promises that no generation becomes champion but through one function (the gate's choke
//! point, whoever asks: policy, an approval, the CLI, the dashboard), that nothing is done twice
//! after a crash (every step is decided on the folded ledger, and written by compare-and-set), and
//! that of many controllers one acts. It never trains, never judges, and has no way around a
//! verdict but what two people waive.
//!
//! ```no_run
//! # async fn example(
//! #     stream: tidegate_stream::Stream,
//! #     ledger: tidegate_ledger::Ledger,
//! #     artifacts: tidegate_ledger::ArtifactStore,
//! #     listen: tidegate_contracts::ListenConfig,
//! # ) -> anyhow::Result<()> {
//! use tidegate_controller::{Controller, ControllerConfig};
//!
//! let config = ControllerConfig::default();
//! let controller = Controller::new(config, stream, ledger, artifacts, listen)?;
//! let mut routes = tonic::service::RoutesBuilder::default();
//! controller.grpc(&mut routes);
//! let pages: axum::Router = controller.http();
//! # let _ = pages;
//! controller.run(tokio_util::sync::CancellationToken::new()).await
//! # }
//! ```

mod account;
mod api;
mod caller;
mod card;
mod config;
mod controller;
mod decide;
mod desk;
mod error;
mod find;
mod grpc;
mod guard;
mod lag;
mod lead;
mod mirror;
mod notify;
mod pages;
mod policy;
mod schedule;
mod stages;
mod tally;
mod trigger;
mod view;
mod webhook;

pub use config::{
    Approvals, AutoPromote, BootstrapConfig, CheckpointConfig, ControllerConfig, ErrorBudget,
    LagTriggerConfig, PolicyConfig, QuarantineProducers, ScheduleConfig,
};
pub use controller::Controller;
pub use error::ControllerError;
pub use pages::job_report;
pub use stages::StageConfig;
pub use webhook::{WebhookConfig, WebhookEvent};
