//! The words everyone shares: generated proto types, ids, units, events, windows, manifests and
//! the loading of configuration. Knows nobody, opens nothing, decides nothing.
//!
//! It promises that a value of one of its types is well formed: an [`Event`] has been validated,
//! a [`Window`] is not inverted, a [`GenerationId`] is the hash of a manifest.
//!
//! ```
//! use chrono::Utc;
//! use tidegate_contracts::{ContentType, Event};
//!
//! let json = br#"{"id": "m-1", "parts": [{"text": "free tickets"}], "label": "spam"}"#;
//! let event = Event::decode(ContentType::Json, json, Utc::now())?;
//! assert_eq!(event.label.as_ref().unwrap().as_str(), "spam");
//! assert_eq!(event.domain.as_str(), "default");
//! # Ok::<(), tidegate_contracts::EventError>(())
//! ```

pub mod config;
mod curated;
mod event;
mod frozen;
mod ids;
mod manifest;
mod net;
pub mod proto;
mod search;
mod units;
mod verdict;
mod window;

pub use curated::Curated;
pub use event::{ContentType, Event, EventError, FeatureValue, LateLabel, MAX_RECORD_BYTES, Part};
pub use frozen::{FrozenUse, LineEvidence, PastScore, Sha256, Tier};
pub use ids::{
    Actor, ArtifactHash, Class, Domain, EntryHash, EventId, GenerationId, IdError, JobId, JobKind,
    MerkleRoot, Producer, Split,
};
pub use manifest::{FileEntry, Manifest};
pub use net::{AccessError, ListenConfig, Role, TlsConfig, TokenConfig};
pub use search::{Candidate, SEARCH, Score, SearchLog};
pub use units::{GramsCo2e, Joules, Millis};
pub use verdict::{
    Changed, CheckResult, CheckState, DataEvidence, EnergyEvidence, Golden, Layer, ModelAnswer,
    NO_LEAK, Outcome, PRODUCER_SLICE, Severity, SliceKind, SliceResult, SuiteRef, Verdict,
};
pub use window::{Offset, Partition, SourcePosition, Window, WindowError};

/// The code that runs: version and, where the build knew it, the commit.
pub const CODE_VERSION: &str = env!("CARGO_PKG_VERSION");
