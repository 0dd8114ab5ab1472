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
    /// A model answered what cannot be read as probabilities.
    #[error("an answer cannot be used: {0}")]
    BadAnswer(String),
}
