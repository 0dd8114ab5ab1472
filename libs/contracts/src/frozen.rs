//! Frozen data of suites: who may see what it says, and what a verdict that asked it tells.
use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{GenerationId, IdError};

/// The SHA-256 of a file, as `sha256sum` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(String);

impl Sha256 {
    /// From a hash computed elsewhere.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(hex::encode(bytes))
    }

    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Sha256 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_hash = text.len() == 64 && text.bytes().all(digit);
        is_hash.then(|| Self(text.to_owned())).ok_or_else(|| IdError::NotAHash(text.to_owned()))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.0
    }
}

/// How much of what frozen data says is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// All of it.
    Open,
    /// Rounded, and only where it is better than what was shown before.
    Gate,
    /// Whether a check passed, and nothing else.
    Sealed,
}

impl Tier {
    /// `open`, `gate` or `sealed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Gate => "gate",
            Self::Sealed => "sealed",
        }
    }
}

/// Share of right answers of one generation on a frozen slice of the past.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastScore {
    /// Whose.
    pub generation: GenerationId,
    /// 0 to 1; of tier `gate` rounded like all that is shown.
    pub accuracy: f64,
    /// Examples it is of.
    pub n: u64,
}

/// One data set of the suite in one verdict. The next verdict goes on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenUse {
    /// Its id in the suite.
    pub id: String,
    /// How much of it is shown.
    pub tier: Tier,
    /// Of its file.
    pub sha256: Sha256,
    /// Examples in it.
    pub rows: u64,
    /// Verdicts that asked it so far, this one included where it did.
    pub queries: u64,
    /// Verdicts that may ask it.
    pub query_budget: u64,
    /// Why this verdict did not ask it; absent where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_asked: Option<String>,
    /// Of slices of the past: everybody who was asked so far, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<PastScore>,
    /// Of tier `gate`: the best that was shown so far, by check.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shown: BTreeMap<String, f64>,
}

impl FrozenUse {
    /// Verdicts that may still ask it.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.query_budget.saturating_sub(self.queries)
    }
}

/// What the error budget of the line of candidates says of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineEvidence {
    /// Whether the evidence that it is no worse than the champion is as strong as its place in the
    /// line asks.
    pub holds: bool,
    /// In words, with the numbers.
    pub says: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sha256_is_64_lower_case_digits() {
        let good = "0f".repeat(32);
        assert_eq!(good.parse::<Sha256>().unwrap().as_str(), good);
        for bad in [String::new(), "0F".repeat(32), "0g".repeat(32), "0f".repeat(31)] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
            assert!(serde_json::from_value::<Sha256>(bad.into()).is_err());
        }
    }
}
