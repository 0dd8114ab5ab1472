//! Why an evaluation could not be done.
use tidegate_model::ModelError;

/// Why an evaluation could not be done. It always becomes a verdict that blocks.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A model refused an input.
    #[error("the {who} could not answer: {source}")]
    Model {
        /// `candidate` or `champion`.
        who: &'static str,
        /// What it said.
        source: ModelError,
    },
    /// Candidate and champion cannot be held against each other.
    #[error(
        "one of candidate and champion answers with numbers, the other with classes: a model of the \
         other kind begins with a data directory, and so with a ledger, of its own"
    )]
    OtherKind,
    /// A model answered what cannot be read as probabilities.
    #[error("an answer cannot be used: {0}")]
    BadAnswer(String),
}
