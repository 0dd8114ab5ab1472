//! Why the gateway cannot start, why a request is refused, why a generation is not served.
use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tidegate_contracts::{AccessError, GenerationId};
use tidegate_ledger::ArtifactError;
use tidegate_model::ModelError;
use tidegate_stream::StreamError;
use tonic::{Code, Status, metadata::MetadataValue};

/// Why a gateway cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A configured value cannot work.
    #[error("gateway.{field}: {reason}")]
    Config {
        /// Path of the field.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The producer of predictions could not be made.
    #[error("predictions cannot be published: {0}")]
    Stream(#[from] StreamError),
}

/// Why a request is not answered. Turned into gRPC and HTTP statuses here and nowhere else.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Access(#[from] AccessError),
    #[error("model `{asked}` is not served here: the only one is `{serves}`")]
    UnknownModel { asked: String, serves: String },
    #[error(
        "version `{asked}` of the model is not held: use `champion`, or one of {}",
        if held.is_empty() { "none yet".to_owned() } else { held.join(", ") }
    )]
    UnknownVersion { asked: String, held: Vec<String> },
    #[error("{0}")]
    Invalid(String),
    #[error("the request has over {limit} bytes: split it")]
    TooLarge { limit: usize },
    #[error("no champion serves yet: the first generation is promoted when it has passed the gate")]
    NoChampion,
    #[error("no generation can be served: {0}")]
    Degraded(String),
    #[error(
        "the queue is full: {waiting} texts wait, at most {limit} may (try again in {} ms)",
        retry.as_millis()
    )]
    Full { waiting: usize, limit: usize, retry: Duration },
    #[error("the deadline passed before the model was asked")]
    Expired,
    #[error("the gateway is shutting down: ask another, or again in a few seconds")]
    Stopping,
    #[error("the model failed: {0}")]
    Failed(String),
}

impl Refused {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Access(AccessError::Forbidden { .. }) => Code::PermissionDenied,
            Self::Access(_) => Code::Unauthenticated,
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } => Code::NotFound,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NoChampion | Self::Degraded(_) | Self::Stopping => Code::Unavailable,
            Self::Full { .. } | Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::Expired => Code::DeadlineExceeded,
            Self::Failed(_) => Code::Internal,
        }
    }

    fn http(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => match self.code() {
                Code::PermissionDenied => StatusCode::FORBIDDEN,
                Code::Unauthenticated => StatusCode::UNAUTHORIZED,
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::InvalidArgument => StatusCode::BAD_REQUEST,
                Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
                Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// When it is worth trying again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry, .. } => Some(*retry),
            _ => None,
        }
    }
}

/// Whole seconds, at least one: what `retry-after` can say.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let mut status = Self::new(refused.code(), refused.to_string());
        if let Some(wait) = refused.retry_after() {
            let metadata = status.metadata_mut();
            metadata.insert("retry-after", MetadataValue::from(seconds(wait)));
            // What gRPC clients with a retry policy read.
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
        }
        status
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.to_string() }));
        let mut response = (self.http(), body).into_response();
        if let Some(wait) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response
    }
}

/// Why a generation is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("{what} cannot be read: {source}")]
    Store { what: &'static str, source: ArtifactError },
    #[error("the ledger names no verdict for generation {0}: it passed no gate")]
    NoVerdict(GenerationId),
    #[error("its verdict document cannot be read: {0}")]
    BadVerdict(String),
    #[error("its verdict is about generation {0}")]
    ForeignVerdict(GenerationId),
    #[error("the model cannot be built: {0}")]
    Model(#[from] ModelError),
    #[error("its manifest names classes [{manifest}], its model [{model}]")]
    Labels { manifest: String, model: String },
    #[error(
        "golden input {index} is answered with {found:?}, the evaluator got {expected:?}: they \
         differ by more than {tolerance}"
    )]
    Golden { index: usize, found: Vec<f32>, expected: Vec<f32>, tolerance: f32 },
    #[error("its preparation panicked: {0}")]
    Panicked(String),
}

impl PrepareError {
    /// Whether the same generation may be served later: a file comes back, a device is free again.
    /// Bytes that were verified and are wrong stay wrong.
    pub(crate) fn may_heal(&self) -> bool {
        matches!(
            self,
            Self::Store { .. } | Self::NoVerdict(_) | Self::Model(ModelError::Device { .. })
        )
    }

    /// For the metric.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            Self::Store { .. } => "unreadable",
            Self::Golden { .. } => "golden_mismatch",
            _ => "refused",
        }
    }
}
