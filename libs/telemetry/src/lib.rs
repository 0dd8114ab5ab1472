//! Sight: structured logs, traces (OpenTelemetry), metrics (Prometheus), energy and carbon.
//!
//! It promises that measuring never stops the work: an exporter that cannot be reached, a meter
//! that is not there, is said once and then left alone. It never invents a number: energy that
//! cannot be known is `None`, and every figure carries the method that found it.
//!
//! ```
//! use tidegate_telemetry::metrics;
//!
//! let records = metrics::counter("tidegate_doc_records_total", "Records seen.", &["stage"]);
//! records.with_label_values(&["decode"]).inc();
//! assert!(metrics::render().contains("tidegate_doc_records_total{stage=\"decode\"} 1"));
//! ```

pub mod energy;
pub mod metrics;
pub mod trace_context;
mod tracing_setup;

pub use tracing_setup::{Guard, LogFormat, TelemetryConfig, TelemetryError, init};
