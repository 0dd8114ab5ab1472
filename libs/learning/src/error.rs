//! Why nothing was learnt.
use std::path::PathBuf;

use tidegate_contracts::{Class, EventId};
use tidegate_model::ModelError;

/// Why a recipe could not be read or a job could not be done.
#[derive(Debug, thiserror::Error)]
pub enum LearningError {
    /// The recipe is no TOML, or has a field we do not know.
    #[error("the recipe cannot be read: {0}")]
    RecipeToml(String),
    /// A field of the recipe is out of its range.
    #[error("recipe field `{field}` is {value}: {need}")]
    Recipe {
        /// Its path.
        field: String,
        /// What it holds.
        value: String,
        /// What would be right.
        need: &'static str,
    },
    /// Nothing to learn from.
    #[error("the window has no labelled training example: wait for labels and ask again")]
    EmptyWindow,
    /// Nothing of the window is of a kind that the network reads.
    #[error(
        "none of the window's {examples} examples can be read; the first is `{id}`: {source} (a \
         cold start learns to read what its window has)"
    )]
    Unread {
        /// How many there are.
        examples: usize,
        /// The first of them.
        id: EventId,
        /// What is wrong with it.
        source: ModelError,
    },
    /// A classifier of one class would say nothing.
    #[error(
        "all {examples} examples are of class `{class}`: a cold start needs at least two classes, \
         and so does a transfer to a new head"
    )]
    OneClass {
        /// The class.
        class: Class,
        /// How many there are.
        examples: usize,
    },
    /// A regressor of one number would say nothing.
    #[error(
        "all {examples} examples have the number {number}: a cold start needs at least two different \
         ones, each in more than one example in 200"
    )]
    OneNumber {
        /// The number.
        number: Class,
        /// How many there are.
        examples: usize,
    },
    /// A regressor learns numbers.
    #[error(
        "none of the {examples} labels is a number in decimal notation, as `architecture.task = \
         \"regression\"` needs: the first is `{label}` of `{id}`"
    )]
    NoNumber {
        /// How many there are.
        examples: usize,
        /// The first of them.
        id: EventId,
        /// Its label.
        label: Class,
    },
    /// A weight that no average can hold.
    #[error("example `{id}` has weight {weight}: a finite number above 0 is needed")]
    Weight {
        /// The example.
        id: EventId,
        /// Its weight.
        weight: f32,
    },
    /// A hot update of nothing.
    #[error("a {0} job starts from a champion, and none was given: order a cold start first")]
    NoChampion(&'static str),
    /// The model's part: architecture, tokenizer, weights, device.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file of the encoder that a cold start begins with is missing, or is another one.
    #[error("encoder file {path}: {reason}")]
    EncoderFile {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file of the champion, or a checkpoint, is not what its name says.
    #[error("file `{file}` cannot be read: {reason}")]
    BadFile {
        /// Its name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Checkpoints cannot be written or listed.
    #[error("checkpoint {path}: {source}")]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The loss is NaN or infinite; what was learnt is worthless.
    #[error("training diverged: the loss of step {step} is {loss}; lower the learning rates")]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f32,
    },
    /// A gradient is NaN or infinite, and scaling the loss is not why.
    #[error(
        "training diverged: the gradient of step {step} is not finite, first in `{layer}`; lower \
         the learning rates"
    )]
    Gradient {
        /// The step.
        step: u64,
        /// The first layer with such a gradient; `wide` is the wide path.
        layer: String,
    },
    /// Alert: the gradient explodes.
    #[error(
        "training explodes: up to step {step} the gradient's norm is {norm:.3e}, for {steps} steps \
         far above its median of {median:.3e}; lower the learning rates, or raise \
         `alerts.exploding`"
    )]
    Exploding {
        /// The step.
        step: u64,
        /// Norm of its gradient.
        norm: f64,
        /// Running median of the norms before.
        median: f64,
        /// For how many steps in a row.
        steps: u64,
    },
    /// Alert: the gradient vanishes.
    #[error(
        "training stands still: up to step {step} no layer's gradient norm is above {norm:.3e}, \
         for {steps} steps; raise the learning rates or their balance, or lower \
         `alerts.vanishing`"
    )]
    Vanishing {
        /// The step.
        step: u64,
        /// The largest norm of its layers.
        norm: f64,
        /// For how many steps in a row.
        steps: u64,
    },
    /// Alert: the router collapsed.
    #[error(
        "the router collapsed: up to step {step}, expert {expert} of layer {layer} gets {:.1} % of \
         the tokens, for {steps} steps; raise `balancing.step`, or `alerts.collapsed`",
        share * 100.0
    )]
    Collapsed {
        /// The step.
        step: u64,
        /// Of the network, from 0.
        layer: usize,
        /// Of the layer, from 0.
        expert: usize,
        /// Of the tokens.
        share: f64,
        /// For how many steps in a row.
        steps: u64,
    },
    /// An architecture search came to nothing.
    #[error("the architecture search found nothing: {0}")]
    Search(String),
    /// Asked to stop. The checkpoint was written; the same call goes on from here.
    #[error("cancelled after step {step}; the next call goes on from its checkpoint")]
    Cancelled {
        /// Steps done.
        step: u64,
    },
}

impl LearningError {
    /// Whether training itself went astray, so that other numbers might do better.
    pub(crate) const fn is_of_training(&self) -> bool {
        matches!(
            self,
            Self::Diverged { .. }
                | Self::Gradient { .. }
                | Self::Exploding { .. }
                | Self::Vanishing { .. }
                | Self::Collapsed { .. }
        )
    }

    /// Whether the same job may succeed at another time: its input and recipe are not to blame.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Checkpoint { .. } | Self::Cancelled { .. })
    }
}
