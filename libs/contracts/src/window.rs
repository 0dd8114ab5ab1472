//! Offset ranges: what a job learns from, and where a source stands.
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The number of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Partition(pub i32);

/// As a number or as its digits: JSON has only text for keys, and serde hands keys of a map inside
/// a tagged enum on as text.
impl<'de> Deserialize<'de> for Partition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl serde::de::Visitor<'_> for Number {
            type Value = Partition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a partition")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Partition, E> {
                i32::try_from(number).map(Partition).map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Partition, E> {
                i32::try_from(number).map(Partition).map_err(E::custom)
            }

            fn visit_str<E: serde::de::Error>(self, digits: &str) -> Result<Partition, E> {
                digits.parse().map(Partition).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A position in a partition: the offset of the next record to read.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where one record stands: the identity of every effect it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourcePosition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The record's offset.
    pub offset: Offset,
}

impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

/// A set of half-open offset ranges on one topic.
///
/// INVARIANT: `from <= to` in every range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ranges", into = "Ranges")]
pub struct Window {
    topic: String,
    ranges: BTreeMap<Partition, (Offset, Offset)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ranges {
    topic: String,
    ranges: BTreeMap<Partition, (Offset, Offset)>,
}

impl TryFrom<Ranges> for Window {
    type Error = WindowError;
    fn try_from(raw: Ranges) -> Result<Self, WindowError> {
        Self::new(raw.topic, raw.ranges)
    }
}

impl From<Window> for Ranges {
    fn from(window: Window) -> Self {
        Self { topic: window.topic, ranges: window.ranges }
    }
}

/// Why offset ranges make no window.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowError {
    /// A range that ends before it starts.
    #[error(
        "window of {topic}[{partition}] is inverted: it ends at {to}, before it starts at {from}"
    )]
    Inverted {
        /// The topic.
        topic: String,
        /// The partition.
        partition: Partition,
        /// Where it starts.
        from: Offset,
        /// Where it ends.
        to: Offset,
    },
}

impl Window {
    /// The ranges `from..to` by partition.
    ///
    /// # Errors
    /// [`WindowError::Inverted`] when a range ends before it starts.
    pub fn new(
        topic: impl Into<String>,
        ranges: BTreeMap<Partition, (Offset, Offset)>,
    ) -> Result<Self, WindowError> {
        let topic = topic.into();
        for (&partition, &(from, to)) in &ranges {
            if to < from {
                return Err(WindowError::Inverted { topic, partition, from, to });
            }
        }
        Ok(Self { topic, ranges })
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The ranges, by partition.
    #[must_use]
    pub fn ranges(&self) -> &BTreeMap<Partition, (Offset, Offset)> {
        &self.ranges
    }

    /// Whether it holds the record at `offset` of `partition`.
    #[must_use]
    pub fn contains(&self, partition: Partition, offset: Offset) -> bool {
        self.ranges.get(&partition).is_some_and(|&(from, to)| from <= offset && offset < to)
    }

    /// The watermark: the offsets up to which everything is included.
    #[must_use]
    pub fn watermark(&self) -> BTreeMap<Partition, Offset> {
        self.ranges.iter().map(|(&p, &(_, to))| (p, to)).collect()
    }

    /// How many offsets it spans. Compaction and transactions may leave fewer records.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.values().map(|(from, to)| (to.0 - from.0) as u64).sum()
    }

    /// Whether it spans nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What lies between this window's watermark and `end`: the next job's window.
    /// Partitions that are new start at 0; none goes backwards.
    #[must_use]
    pub fn next(&self, end: &BTreeMap<Partition, Offset>) -> Self {
        let mark = self.watermark();
        let ranges = end
            .iter()
            .map(|(&p, &to)| {
                let from = mark.get(&p).copied().unwrap_or_default();
                (p, (from, to.max(from)))
            })
            .collect();
        Self { topic: self.topic.clone(), ranges }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.topic)?;
        for (partition, (from, to)) in &self.ranges {
            write!(f, " [{partition}] {from}..{to}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(ranges: &[(i32, i64, i64)]) -> Result<Window, WindowError> {
        Window::new(
            "t",
            ranges.iter().map(|&(p, a, b)| (Partition(p), (Offset(a), Offset(b)))).collect(),
        )
    }

    #[test]
    fn a_window_follows_the_one_before_without_gap_or_overlap() {
        let first = window(&[(0, 0, 10), (1, 3, 7)]).unwrap();
        let end = [(0, 15), (1, 7), (2, 4)].map(|(p, o)| (Partition(p), Offset(o)));
        let next = first.next(&end.into_iter().collect());
        assert_eq!(next, window(&[(0, 10, 15), (1, 7, 7), (2, 0, 4)]).unwrap());
        assert_eq!(next.len(), 9);
    }

    #[test]
    fn an_inverted_window_cannot_be_made_or_read() {
        assert!(window(&[(0, 5, 4)]).is_err());
        let json = r#"{"topic":"t","ranges":{"0":[5,4]}}"#;
        let error = serde_json::from_str::<Window>(json).unwrap_err().to_string();
        assert!(error.contains("inverted"), "{error}");
    }
}
