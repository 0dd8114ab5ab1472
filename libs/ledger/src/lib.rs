//! The record of what happened: one append-only, hash-chained log of typed entries, the fold that
//! makes it state, leases with fencing tokens, and the store of everything named by its hash.
//!
//! It promises that an acknowledged append survives a `kill -9`, that two writers never both
//! follow the same head, that no generation becomes champion but by an entry that passed every
//! invariant of the gate ([`State::check`]), and that bytes read from the artifact store are the
//! bytes that were written. It never decides: services do, through [`Ledger::decide`].
//!
//! What decides who serves is signed ([`seal`]): an entry that may not stand where it stands, by
//! whoever it was written, has no effect on the state that anybody folds.
//!
//! A hash chain shows that somebody changed the past; it does not stop one who can rewrite the
//! whole log, and signatures do not stop one who holds the keys too. The copy on the decisions topic
//! is what helps then, and so does any checkpoint that somebody kept ([`Witness`]).
//!
//! ```
//! use tidegate_contracts::{JobId, JobKind};
//! use tidegate_ledger::{Author, Fact, Ledger, LedgerConfig};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let folder = tempfile::tempdir().unwrap();
//! let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await?;
//! let (job, kind) = (JobId::generate(), JobKind::ColdStart);
//! let request = Fact::job(job.clone(), kind, "first");
//! ledger.decide(&Author::unfenced("operator:ana"), |_| Ok(Some(request.clone()))).await?;
//! assert_eq!(ledger.state().await?.next_job().unwrap().job, job);
//! assert!(ledger.verify().await?.faults.is_empty());
//! # Ok::<(), tidegate_ledger::LedgerError>(())
//! # }).unwrap();
//! ```

mod artifacts;
mod audit;
mod config;
mod entry;
mod error;
mod folder;
mod gate;
mod ledger;
mod merkle;
mod proof;
pub mod seal;
mod stage;
mod state;
mod store;
mod store_redb;
mod store_redis;
mod verify;

pub use artifacts::{ArtifactStore, Verified};
pub use audit::{Progress, audit, audit_at_rest};
pub use config::{ArtifactsConfig, KeysConfig, LedgerConfig, StoreConfig};
pub use entry::{Author, Entry, Fact, Fault, Fence, Head, PromotedBy, VerifyReport};
pub use error::{ArtifactError, LedgerError};
pub use folder::{MANIFEST, write_folder};
pub use gate::OVERRIDERS;
pub use ledger::{Lease, Ledger};
pub use proof::{Proof, Witness};
pub use seal::{Consent, Envelope, Holder, Keys};
pub use stage::{
    STAGE_PROGRESS, Stage, StageEnd, StageEvidence, StageOutcome, StageProgress, StageRecord,
    StageTerms,
};
pub use state::{
    ApprovalRecord, GenerationRecord, GenerationState, JobRecord, JobState, ProducerRecord,
    Refusal, State, VerdictRecord,
};
pub use verify::read_at_rest;
