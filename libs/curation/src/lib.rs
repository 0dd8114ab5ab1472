//! Data engineering on the stream: duplicates, hold-out, late labels.
//!
//! A record passes named stages in order; each keeps, amends or rejects it. It promises that every
//! record ends as exactly one of **curated**, **rejected** or **waiting** (for its other half, in
//! the join), that the same records in the same order give the same results, that no bytes make
//! it panic, and that its state is bounded. It reads no clock and no stream: times are those of
//! the records, and whoever calls it brings them.
//!
//! ```
//! use bytes::Bytes;
//! use chrono::Utc;
//! use tidegate_contracts::{Offset, Partition, SourcePosition};
//! use tidegate_curation::{CurationConfig, Emit, Incoming, Pipeline, Raw};
//!
//! let mut pipeline = Pipeline::new(&CurationConfig::default())?;
//! let raw = |offset| Raw {
//!     position: SourcePosition {
//!         topic: "tidegate.events".into(),
//!         partition: Partition(0),
//!         offset: Offset(offset),
//!     },
//!     time: Utc::now(),
//!     headers: vec![],
//!     key: None,
//!     value: Bytes::from(r#"{"id":"m-1","parts":[{"text":"free tickets"}],"label":"spam"}"#),
//! };
//! let first = pipeline.apply(Incoming::Event(raw(0)));
//! assert!(matches!(&first[..], [Emit::Curated(_)]));
//! let again = pipeline.apply(Incoming::Event(raw(1)));
//! assert!(matches!(&again[..], [Emit::Rejected(r)] if r.code == "duplicate_id"));
//! # Ok::<(), tidegate_curation::CurationError>(())
//! ```
mod config;
mod exact;
mod holdout;
mod join;
pub mod likeness;
mod meter;
mod minhash;
mod near;
mod pipeline;
mod record;
mod restore;
mod snapshot;
mod validate;

pub use config::{
    CurationConfig, CurationError, ExactConfig, HoldoutConfig, JoinConfig, LabelKind, NearConfig,
    ShingleUnit, StageName, ValidateConfig,
};
pub use meter::StageCounters;
pub use minhash::Banding;
pub use pipeline::{Pipeline, Waiting};
pub use record::{CuratedRecord, Emit, Incoming, PRODUCER, Raw, RejectedRecord, Side};
pub use restore::Restoring;
