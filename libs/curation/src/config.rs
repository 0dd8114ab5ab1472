//! Which stages there are, in which order, and their measures.
use serde::{Deserialize, Serialize};

/// Why a pipeline could not be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum CurationError {
    /// A field of the configuration cannot be.
    #[error("curation.{field}: {reason}")]
    Config {
        /// Its path.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The snapshot is not what was written.
    #[error("the curation snapshot is damaged: {0} (rebuild the state by reading from the start)")]
    Damaged(String),
    /// Written by another version of this code.
    #[error("the curation snapshot has format {found}, this code reads {known}")]
    Format {
        /// The snapshot's.
        found: u32,
        /// Ours.
        known: u32,
    },
}

pub(crate) fn wrong(field: &'static str, reason: impl Into<String>) -> CurationError {
    CurationError::Config { field, reason: reason.into() }
}

/// A stage, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// Decodes, validates, and refuses what is dated in the future. Always the first.
    Validate,
    /// Exact duplicates, by id and by content.
    Exact,
    /// Near duplicates, by MinHash.
    Near,
    /// Puts an event on the training or the evaluation side. Never left out.
    Holdout,
    /// Brings late labels and their events together. Always the last.
    Join,
}

impl StageName {
    /// As in configuration, metrics and dead letters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Exact => "exact",
            Self::Near => "near",
            Self::Holdout => "holdout",
            Self::Join => "join",
        }
    }
}

/// The pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurationConfig {
    /// The stages, in order. `validate` comes first and `join` last; `holdout` is between them;
    /// `exact` and `near` may be left out.
    pub stages: Vec<StageName>,
    /// Decode and validate.
    pub validate: ValidateConfig,
    /// Exact duplicates.
    pub exact: ExactConfig,
    /// Near duplicates.
    pub near: NearConfig,
    /// Hold-out of evaluation data.
    pub holdout: HoldoutConfig,
    /// Late labels.
    pub join: JoinConfig,
}

impl Default for CurationConfig {
    fn default() -> Self {
        use StageName::{Exact, Holdout, Join, Near, Validate};
        Self {
            stages: vec![Validate, Exact, Near, Holdout, Join],
            validate: ValidateConfig::default(),
            exact: ExactConfig::default(),
            near: NearConfig::default(),
            holdout: HoldoutConfig::default(),
            join: JoinConfig::default(),
        }
    }
}

/// Decode and validate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateConfig {
    /// How far an event's time may lie after its record's, in seconds: clocks differ a little.
    pub max_future_s: u64,
    /// What labels are: with `numbers`, any other is rejected.
    pub labels: LabelKind,
}

/// What labels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// Names of classes; any text is one.
    #[default]
    Classes,
    /// Numbers in decimal notation, for a model whose `architecture.task` is `regression`.
    Numbers,
}

impl Default for ValidateConfig {
    fn default() -> Self {
        Self { max_future_s: 3_600, labels: LabelKind::Classes }
    }
}

/// Exact duplicates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExactConfig {
    /// How many of the newest events are remembered; 40 bytes of a snapshot each.
    pub capacity: usize,
}

impl Default for ExactConfig {
    fn default() -> Self {
        Self { capacity: 200_000 }
    }
}

/// What a shingle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShingleUnit {
    /// What white space separates. Strict on short texts.
    Words,
    /// Characters: for languages that do not separate words.
    Chars,
}

/// Near duplicates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearConfig {
    /// Jaccard similarity of shingle sets from which on two texts count as the same.
    pub threshold: f64,
    /// Numbers in a signature. The estimate's standard error is `sqrt(J (1 - J) / permutations)`:
    /// 0.027 at `J` = 0.9 and 128.
    pub permutations: usize,
    /// Words or characters.
    pub unit: ShingleUnit,
    /// Units in a shingle. Shorter texts are one shingle.
    pub shingle: usize,
    /// Shingles of a text that are looked at, from its beginning: bounds the work.
    pub max_shingles: usize,
    /// How many of the newest texts are remembered; about 300 bytes of a snapshot each.
    pub capacity: usize,
}

impl Default for NearConfig {
    fn default() -> Self {
        Self {
            threshold: 0.9,
            permutations: 128,
            unit: ShingleUnit::Words,
            shingle: 5,
            max_shingles: 20_000,
            capacity: 20_000,
        }
    }
}

/// Hold-out of evaluation data, by the BLAKE3 hash of salt, domain and id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoldoutConfig {
    /// The share that only judges.
    pub fraction: f64,
    /// Another salt is another split: changing it on a running stream lets evaluation data train.
    pub salt: String,
}

impl Default for HoldoutConfig {
    fn default() -> Self {
        Self { fraction: 0.15, salt: "tidegate".into() }
    }
}

/// Late labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JoinConfig {
    /// How long an event waits for its label, and a label for its event, in seconds of record
    /// time. The topics must keep records longer: after a restart those that wait are read again.
    pub horizon_s: u64,
    /// How many events, and how many labels, may wait; the oldest goes on without.
    pub capacity: usize,
    /// Bytes of waiting events and labels.
    pub max_bytes: usize,
}

impl Default for JoinConfig {
    fn default() -> Self {
        Self { horizon_s: 7 * 24 * 3_600, capacity: 100_000, max_bytes: 512 << 20 }
    }
}

impl NearConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`CurationError::Config`] names the field.
    pub fn validate(&self) -> Result<(), CurationError> {
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            let reason = format!("is {}: above 0 and at most 1 is right", self.threshold);
            return Err(wrong("near.threshold", reason));
        }
        if !(16..=1_024).contains(&self.permutations) {
            let reason = format!("is {}: 16 to 1024 is right", self.permutations);
            return Err(wrong("near.permutations", reason));
        }
        for (field, value) in [
            ("near.shingle", self.shingle),
            ("near.max_shingles", self.max_shingles),
            ("near.capacity", self.capacity),
        ] {
            if value == 0 {
                return Err(wrong(field, "is 0: at least 1 is right"));
            }
        }
        Ok(())
    }
}

impl CurationConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`CurationError::Config`] names the field.
    pub fn validate(&self) -> Result<(), CurationError> {
        use StageName::{Exact, Holdout, Join, Near, Validate};
        let stages = &self.stages;
        for name in [Validate, Exact, Near, Holdout, Join] {
            let times = stages.iter().filter(|&&s| s == name).count();
            let needed = matches!(name, Validate | Holdout | Join);
            if times > 1 || (needed && times == 0) {
                let reason = format!("`{}` is there {times} times, once is right", name.as_str());
                return Err(wrong("stages", reason));
            }
        }
        if stages.first() != Some(&Validate) || stages.last() != Some(&Join) {
            return Err(wrong("stages", "`validate` must be the first and `join` the last"));
        }
        self.near.validate()?;
        if !(0.0..1.0).contains(&self.holdout.fraction) {
            let reason = format!("is {}: from 0 to below 1 is right", self.holdout.fraction);
            return Err(wrong("holdout.fraction", reason));
        }
        for (field, value) in [
            ("exact.capacity", self.exact.capacity),
            ("join.capacity", self.join.capacity),
            ("join.max_bytes", self.join.max_bytes),
        ] {
            if value == 0 {
                return Err(wrong(field, "is 0: at least 1 is right"));
            }
        }
        Ok(())
    }
}
