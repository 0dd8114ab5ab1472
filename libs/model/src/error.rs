//! What can be wrong with a model, its files or its input.

/// Why a model could not be built, loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A field of the architecture is out of its range.
    #[error("architecture field `{field}` is {value}: {need}")]
    Architecture {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What would be right.
        need: String,
    },
    /// A file that every generation has is not there.
    #[error("the generation has no file `{0}`")]
    MissingFile(&'static str),
    /// A file is there and cannot be read.
    #[error("file `{file}` cannot be read: {reason}")]
    BadFile {
        /// Its name.
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A file of a pretrained encoder is missing, or is not what is expected.
    #[error("file `{file}` of the encoder: {reason}")]
    Encoder {
        /// Its name.
        file: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The weights lack a tensor of this architecture.
    #[error("tensor `{name}` is missing from the weights")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// The weights have a tensor this architecture does not know.
    #[error("tensor `{name}` in the weights is unknown to this architecture")]
    UnknownTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the architecture says.
    #[error("tensor `{name}` has shape {found:?}: the architecture needs {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// What the architecture says.
        expected: Vec<usize>,
        /// What the file says.
        found: Vec<usize>,
    },
    /// A tensor has another element type than we write.
    #[error("tensor `{name}` is of type {found}: {expected} is needed")]
    Type {
        /// Its name.
        name: String,
        /// What we write.
        expected: &'static str,
        /// What the file says.
        found: String,
    },
    /// A weight is NaN or infinite; such a model answers nothing.
    #[error("tensor `{name}` holds a value that is not finite at index {index}")]
    NotFinite {
        /// Its name.
        name: String,
        /// The first such element.
        index: usize,
    },
    /// The tokenizer makes tokens that the embedding has no row for.
    #[error("the tokenizer has {tokenizer} tokens: the architecture's vocabulary holds {vocab}")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// The tokenizer could not be trained, or failed on a text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A part that no model could read.
    #[error("`{field}` cannot be read: {reason}")]
    BadPart {
        /// Its path in the event, e.g. `parts[0].image`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// None of the parts is of a kind that the model reads.
    #[error("there is nothing to read: the input has {given}, and this model reads {read}")]
    NothingToRead {
        /// Names of the parts that there are.
        given: String,
        /// Names of those that would be read.
        read: String,
    },
    /// A model was asked for what it does not do.
    #[error("this model is of `{found}`: `{needed}` is needed")]
    Task {
        /// What it does.
        found: &'static str,
        /// What was asked for.
        needed: &'static str,
    },
    /// Tokens cannot be chosen so.
    #[error("sampling: `{field}` is {value}: {need}")]
    Sampling {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What would be right.
        need: String,
    },
    /// A device this build or this machine does not have.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// As configured.
        device: String,
        /// Why not, and what to do.
        reason: String,
    },
}

impl ModelError {
    /// Whether the input is to blame, and not the model.
    #[must_use]
    pub fn is_of_input(&self) -> bool {
        matches!(self, Self::BadPart { .. } | Self::NothingToRead { .. })
    }
}
