//! The controller: turns schedule and lag into job requests, verdicts into promotions by policy,
//! and approvals into promotions by hand. It serves the control API (gRPC and HTTP/JSON) and the
//! dashboard.
//!
//! It promises that everything it does is one fenced entry of the ledger, decided on the fold and
//! done once however often it is restarted; that policy, API and dashboard promote through the
//! same check ([`tidegate_ledger::State::check`]); and that only one controller acts at a time. It
//! never trains, evaluates or serves.

mod api;
mod backlog;
mod config;
mod controller;
mod dashboard;
mod grpc;
mod http;
mod mirror;
mod view;

pub use config::{
    Bootstrap, ControllerConfig, ControllerConfigError, LagTrigger, PerKind, Policy, Schedule,
};
pub use controller::Controller;
