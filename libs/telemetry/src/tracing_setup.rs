//! Logs to standard error, and spans by OTLP where an endpoint is configured.
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and where traces go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// `tracing` filter directives, e.g. `info,tidegate_stream=debug`. `RUST_LOG` wins.
    pub log: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// OTLP/gRPC endpoint for traces, e.g. `http://127.0.0.1:4317`. None: no traces leave.
    pub otlp_endpoint: Option<String>,
    /// The service's name in traces.
    pub service_name: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".into(),
            format: LogFormat::Text,
            otlp_endpoint: None,
            service_name: "tidegate".into(),
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("telemetry.log: `{0}` is not a log filter ({1}); try `info`")]
    Filter(String, String),
    /// The endpoint does not parse.
    #[error("telemetry.otlp_endpoint: {0}")]
    Endpoint(String),
    /// Called twice in one process.
    #[error("telemetry is already set up in this process")]
    Twice,
}

/// Flushes what is still to be exported when dropped. Keep it to the end of `main`.
#[derive(Debug)]
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // The collector may be gone by now; there is nobody left to tell.
            let _ = provider.shutdown();
        }
    }
}

/// Installs the process-wide subscriber. Needs a tokio runtime when an endpoint is set.
///
/// # Errors
/// [`TelemetryError`] names the field.
pub fn init(config: &TelemetryConfig) -> Result<Guard, TelemetryError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| config.log.clone());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| TelemetryError::Filter(directives, error.to_string()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_target(true).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let provider = config.otlp_endpoint.as_deref().map(|at| provider(at, config)).transpose()?;
    let spans = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("tidegate")));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Guard(provider))
}

fn provider(endpoint: &str, config: &TelemetryConfig) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| TelemetryError::Endpoint(error.to_string()))?;
    let resource = Resource::builder().with_service_name(config.service_name.clone()).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
