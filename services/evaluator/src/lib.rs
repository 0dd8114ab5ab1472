//! The evaluator: measures a candidate against the champion and issues a verdict.
//!
//! Many may run; the lease `evaluator` lets one work. It follows the ledger for candidates without
//! a verdict, judges them in order of registration, keeps the whole verdict document in the
//! artifact store and writes its hash into the ledger. It promotes nothing and trains nothing.
//!
//! | what happens | what follows |
//! |---|---|
//! | ledger, stream or store away | a log line, a wait, the same again |
//! | a file of the candidate missing or altered, a model that cannot be built or does not answer | a verdict that blocks, with this reason |
//! | a file of the suite's frozen data gone or changed | checks on it are errors: a verdict that blocks where they block |
//! | shutdown, lease lost | what was measured is dropped; the next holder judges anew |
//!
//! Held-out examples are those that curation set aside; of these, what lies in a blocked
//! candidate's window never judges again: labels that are not believed must not be held against
//! anybody.
mod config;
pub mod frozen;
mod held_out;
mod judging;
mod live;
mod service;
mod stages;
mod tried;

pub use config::{EvaluatorConfig, LiveConfig};
pub use service::run;
