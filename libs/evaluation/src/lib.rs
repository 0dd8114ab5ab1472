//! Judging a candidate: metrics with intervals, perturbations, load, energy, suites, verdicts.
//!
//! [`evaluate`] is the front door: a [`Suite`], a candidate, perhaps a champion, and held-out
//! examples become a [`Verdict`](tidegate_contracts::Verdict). It promises that silence is never a
//! pass (too little data, a missing group, an unknown energy all have their own state), that
//! candidate and champion answer the same inputs, that the same inputs give the same verdict but
//! for what is timed, and that it never panics or fails: what cannot be measured blocks, and says
//! why. It reads no stream, writes no ledger and promotes nothing.
//!
//! A difference is judged by its interval at the suite's level:
//!
//! | state | a floor on the value | a margin on the difference to the champion |
//! |---|---|---|
//! | pass | lower end at or above the floor | lower end above `-margin` |
//! | fail | upper end below the floor | upper end below 0, and the difference itself below `-margin` |
//! | inconclusive | otherwise | otherwise |
//!
//! So a candidate fails when it is worse beyond doubt and by more than is allowed as far as one
//! can tell; asking that the *whole* interval lies beyond the margin would leave most real losses
//! undecided on a few hundred examples. Either way only a pass promotes.
//!
//! ```
//! use tidegate_evaluation::{Suite, stats::Paired};
//!
//! let suite = Suite::parse(
//!     "{format: 1, name: s, version: '1', checks: [{id: acc, layer: quality, \
//!      metric: accuracy, floor: 0.8, severity: block}]}",
//! )?;
//! assert_eq!(suite.checks().len(), 1);
//! let pair = Paired { both: 80, only_baseline: 12, only_candidate: 5, neither: 3 };
//! assert!(pair.newcombe(0.95).low < -0.15);
//! # Ok::<(), tidegate_evaluation::SuiteError>(())
//! ```

mod attacks;
pub mod bootstrap;
mod check;
pub mod continual;
mod data;
pub mod drift;
mod error;
mod evaluate;
mod evidence;
mod fairness;
mod frozen;
mod judge;
mod kernel;
mod line;
mod lint;
pub mod live;
mod load;
mod metric;
mod metrics;
mod numbers;
mod perturb;
mod producers;
mod robust;
pub mod sequential;
mod server;
mod shown;
mod slices;
pub mod stats;
mod suite;
mod triggers;
mod under;

pub use data::{
    DataDraft, DataEntry, DataError, Frozen, LineProblem, MAX_DATA_BYTES, MAX_DATA_ROWS, Role, pin,
    verify,
};
pub use error::EvaluationError;
pub use evaluate::{Refusal, evaluate};
pub use evidence::{
    Copies, EvalExample, Evaluation, ExampleKey, Memory, NearCopy, Predictor, Subject,
};
pub use fairness::{Groups, Rates};
pub use frozen::FrozenSet;
pub use kernel::{Asked, Bin, reliability};
pub use lint::LintLine;
pub use metric::Metric;
pub use metrics::{Classes, Scored};
pub use numbers::Numbers;
pub use perturb::{Kind, Perturbation, seed_of};
pub use sequential::{EProcess, Harm, Line, Spending};
pub use suite::{
    Baseline, Bound, Check, Limits, MAX_SUITE_BYTES, Margin, Slice, Spend, Suite, SuiteError,
};
pub use under::Under;
