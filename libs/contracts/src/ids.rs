//! Newtypes for everything that has a name, so that the compiler keeps them apart.
use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Hashes are 64 lower-case hexadecimal digits.
    #[error("`{0}` is not a hash: 64 lower-case hexadecimal digits are needed")]
    NotAHash(String),
    /// A word outside a closed list.
    #[error("`{value}` is not a {what}: use one of {allowed}")]
    Unknown {
        /// What was asked for.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would have been right.
        allowed: &'static str,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the name as it is.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }
    };
}

name!(
    /// The producer's id of an event; unique within its domain.
    EventId
);
name!(
    /// A product, a language, a source: the unit of transfer.
    Domain
);
name!(
    /// Who says to have published a record.
    Producer
);

impl Producer {
    /// Stands in verdicts for all records that name nobody.
    pub const UNKNOWN: &str = "unknown";
    /// Bytes of a name, at most.
    pub const MAX_BYTES: usize = 256;

    /// A name as a header gives it; nothing of one that is empty, too long, no UTF-8, or that plays
    /// tricks on a terminal.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(value).ok()?.trim();
        let is_name = (1..=Self::MAX_BYTES).contains(&name.len());
        (is_name && !name.chars().any(char::is_control)).then(|| Self::new(name))
    }

    /// Whether who is named, or nobody, is among these.
    #[must_use]
    pub fn is_among(named: Option<&Self>, these: &BTreeSet<Self>) -> bool {
        let name = named.map_or(Self::UNKNOWN, Self::as_str);
        these.iter().any(|one| one.as_str() == name)
    }
}

/// The largest number that a label may be.
const LARGEST: f64 = 1e30;

name!(
    /// A class of the open label set; where numbers are learnt, one in decimal notation.
    Class
);

impl Class {
    /// The number that it is, where it is one, from -1e30 to 1e30: squares of those can be summed.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        self.0.trim().parse().ok().filter(|number: &f64| number.abs() <= LARGEST)
    }
}

name!(
    /// Who did it: `controller`, `operator:ana`, `cron:daily`, ...
    Actor
);
name!(
    /// One request to train. A UUID v7, so ids sort by time.
    JobId
);

impl JobId {
    /// A new id, later than all before it.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }
}

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The BLAKE3 hash of `bytes`.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// From a hash computed elsewhere.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 digits.
            #[must_use]
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }

            /// The first 12 digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}…)", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 32];
                if text.bytes().any(|b| b.is_ascii_uppercase())
                    || hex::decode_to_slice(text, &mut bytes).is_err()
                {
                    return Err(IdError::NotAHash(text.to_owned()));
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_hex())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash!(
    /// The BLAKE3 hash of an artifact's bytes; its only name.
    ArtifactHash
);
hash!(
    /// The hash of a generation's manifest; its only name.
    GenerationId
);
hash!(
    /// The hash of a ledger entry, which covers the entry before it.
    EntryHash
);
hash!(
    /// A node of a Merkle tree over ledger entries, its root above all. Of SHA-256 (RFC 6962), so it is
    /// only made from bytes.
    MerkleRoot
);

impl EntryHash {
    /// What the first entry follows.
    pub const GENESIS: Self = Self([0; 32]);
}

/// Where the weights start and which window is read. After that there is one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// From nothing (a new architecture), over retained history.
    ColdStart,
    /// From the champion, over what is new since its window.
    HotUpdate,
    /// From another domain's champion.
    Transfer,
}

impl JobKind {
    /// `cold_start`, `hot_update` or `transfer`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ColdStart => "cold_start",
            Self::HotUpdate => "hot_update",
            Self::Transfer => "transfer",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "cold_start" | "cold-start" => Ok(Self::ColdStart),
            "hot_update" | "hot-update" => Ok(Self::HotUpdate),
            "transfer" => Ok(Self::Transfer),
            _ => Err(IdError::Unknown {
                what: "job kind",
                value: text.to_owned(),
                allowed: "cold_start, hot_update, transfer",
            }),
        }
    }
}

/// Which side of the hold-out an event fell on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// May be learnt from.
    Train,
    /// Only judges. Nothing may train on it, ever.
    Eval,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_what_it_wrote() {
        let hash = ArtifactHash::of(b"weights");
        assert_eq!(hash.to_hex().parse(), Ok(hash));
        assert_eq!(
            serde_json::from_str::<ArtifactHash>(&serde_json::to_string(&hash).unwrap()).unwrap(),
            hash
        );
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "abc", &"G".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert!(text.parse::<GenerationId>().is_err(), "{text}");
        }
    }
}
