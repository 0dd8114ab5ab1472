//! Training: a [`Recipe`], a starting point and a window of examples become a generation's files.
//!
//! [`train()`] is the whole crate; [`plan()`] says beforehand what it will take. It promises that on
//! the CPU the same [`Job`] and examples give the same bytes, also when it was cancelled or killed
//! at any step and called again with the same [`CheckpointDir`]; that a window it cannot learn from,
//! and training that goes astray, is a clear error; and that classes never seen before are appended
//! behind the champion's. It never reads a stream, never writes a ledger and never decides what to
//! train: the trainer does.
//!
//! ```
//! use tidegate_learning::Recipe;
//!
//! let recipe = Recipe::from_toml("[hot_update]\nepochs = 2")?;
//! assert_eq!(recipe.hot_update.epochs, 2);
//! let error = Recipe::from_toml("[hot_update]\nbatch = 0").unwrap_err();
//! assert!(error.to_string().contains("`hot_update.batch`"));
//! # Ok::<(), tidegate_learning::LearningError>(())
//! ```
mod checkpoint;
mod clock;
mod counting;
mod diagnosis;
mod error;
mod example;
mod fisher;
mod held_back;
mod job;
mod lesson;
mod levels;
mod loss;
mod named;
mod optimizer;
mod plan;
mod recipe;
mod replay;
mod sampler;
mod search;
mod session;
mod successor;
mod teacher;
mod tether;
mod writer;

pub use checkpoint::CheckpointDir;
pub use diagnosis::{Diagnosis, Drops, Experts, History, Layer};
pub use error::LearningError;
pub use example::Example;
pub use job::{
    ExpertsProgress, Job, LayerProgress, NoObserver, Observer, Progress, StartingPoint, Trained,
    manifest, plan, train,
};
pub use plan::{
    Energy, Finding, Memory, Parameters, PeakMemory, Plan, Probe, Time, TrainedShare, Work,
};
pub use recipe::{
    Alerts, BalanceBy, Balancing, Checkpoints, Counting, Course, Der, Distillation, EncoderFiles,
    Ewc, Expansion, L2ToStart, Method, NewLabels, Precision, Recipe, Regression, Rehearsal, Search,
    Space, Train, Transfer, Watching,
};
pub use replay::{REPLAY, Replay};
pub use search::{SearchPlan, SearchProgress};
pub use tidegate_model::Compute;

/// File of a generation: the state of the deep path's optimiser.
pub const OPTIMIZER: &str = "optimizer.safetensors";

/// File of a generation: how much each weight of the deep path mattered. Only with `ewc.weight`.
pub const FISHER: &str = "fisher.safetensors";

/// File of a generation: what its training showed of its inside; a [`Diagnosis`].
pub const DIAGNOSIS: &str = "diagnosis.json";

/// File of a generation that a transfer made: what it kept of its source, and what was known of the
/// new domain before and after.
pub const TRANSFER: &str = "transfer.json";

pub(crate) use tidegate_model::Learns as Trains;
