//! Why the controller cannot start, and why a request is refused.
use axum::{
    Json,
    extract::rejection::{FormRejection, JsonRejection, PathRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tidegate_contracts::AccessError;
use tidegate_ledger::{ArtifactError, LedgerError, Refusal};
use tonic::{Code, Status};

use crate::guard;

/// Why a controller cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A configured value cannot work.
    #[error("controller.{field} {reason}")]
    Config {
        /// Path of the field.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl ControllerError {
    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { field, reason: reason.into() }
    }
}

/// Why a request is not done. Turned into gRPC and HTTP statuses here and nowhere else.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0}")]
    Access(#[from] AccessError),
    #[error("{0}")]
    Foreign(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the request has over {limit} bytes: nothing that is asked here is that long")]
    TooLarge { limit: usize },
    /// The ledger or the gate says no.
    #[error("{0}")]
    Gate(#[from] Refusal),
    #[error("{0}")]
    Away(String),
    #[error("{0}")]
    Broken(String),
}

impl Refused {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Access(AccessError::Forbidden { .. }) | Self::Foreign(_) => {
                Code::PermissionDenied
            }
            Self::Access(_) => Code::Unauthenticated,
            Self::NotFound(_) => Code::NotFound,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::Gate(_) => Code::FailedPrecondition,
            Self::Away(_) => Code::Unavailable,
            Self::Broken(_) => Code::Internal,
        }
    }

    pub(crate) fn http(&self) -> StatusCode {
        match self.code() {
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<LedgerError> for Refused {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Refused(refusal) => Self::Gate(refusal),
            LedgerError::Store(_) => Self::Away(error.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<ArtifactError> for Refused {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Missing(_) => Self::NotFound(error.to_string()),
            ArtifactError::Store(_) => Self::Away(error.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// What axum could not read.
fn unreadable(status: StatusCode, reason: String) -> Refused {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Refused::TooLarge { limit: guard::MAX_REQUEST_BYTES };
    }
    Refused::Invalid(reason)
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        unreadable(rejection.status(), rejection.body_text())
    }
}

impl From<FormRejection> for Refused {
    fn from(rejection: FormRejection) -> Self {
        unreadable(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        unreadable(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        unreadable(rejection.status(), rejection.body_text())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        Self::new(refused.code(), refused.to_string())
    }
}

/// Why, beside the JSON that says so to programs: people get a page instead.
#[derive(Debug, Clone)]
pub(crate) struct Reason(pub(crate) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (reason, code) = (self.to_string(), format!("{:?}", self.code()));
        let body = serde_json::json!({ "error": reason, "code": code });
        let mut response = (self.http(), Json(body)).into_response();
        response.extensions_mut().insert(Reason(reason));
        response
    }
}
