//! Frozen data of a suite: files beside it that judge whatever the stream brings.
//!
//! A file is JSON Lines of events in the JSON mapping of `tidegate/v1/event.proto`, each with its
//! label, plain or gzip. The suite's text has the SHA-256 of each, so that the suite's own digest
//! covers them.
use std::{collections::BTreeSet, io::Read as _, path::Path};

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tidegate_contracts::{ContentType, Event, EventError, JobKind, Sha256, Tier};
use tidegate_model::Input;

use crate::{EvalExample, ExampleKey, SuiteError};

/// The largest file of frozen data that is read, in bytes.
pub const MAX_DATA_BYTES: usize = 64 << 20;
/// The same once it is unpacked.
const MAX_UNPACKED: u64 = 256 << 20;
/// Examples of one file at most.
pub const MAX_DATA_ROWS: usize = 100_000;
/// Files of one suite at most.
pub(crate) const MAX_SETS: usize = 32;
/// Verdicts that may ask one file where its entry says nothing: a quarter of daily candidates.
const QUERY_BUDGET: u64 = 90;

/// What frozen data is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It judges like held-out examples of the stream.
    #[default]
    Judge,
    /// It is a slice of the past: what champions knew of it is kept.
    Past,
}

/// One entry of `data:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEntry {
    /// Unique in the suite; what checks name.
    pub id: String,
    /// Who sees what it says.
    pub tier: Tier,
    /// What it is for.
    pub role: Role,
    /// Of the file, from the suite's folder on, with `/`.
    pub path: String,
    /// Of the file as it lies there.
    pub sha256: Sha256,
    /// Examples in it.
    pub rows: u64,
    /// Verdicts that may ask it.
    pub query_budget: u64,
    /// Of tier `sealed`: the kinds of job whose candidates may ask it.
    pub opened_by: Vec<JobKind>,
}

/// The same as it is written; hash and rows may still be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataDraft {
    /// See [`DataEntry::id`].
    pub id: String,
    /// See [`DataEntry::tier`].
    pub tier: Tier,
    /// See [`DataEntry::role`].
    #[serde(default)]
    pub role: Role,
    /// See [`DataEntry::path`].
    pub path: String,
    /// See [`DataEntry::sha256`].
    pub sha256: Option<Sha256>,
    /// See [`DataEntry::rows`].
    pub rows: Option<u64>,
    /// See [`DataEntry::query_budget`].
    pub query_budget: Option<u64>,
    /// See [`DataEntry::opened_by`].
    pub opened_by: Option<Vec<JobKind>>,
}

impl DataDraft {
    /// Everything but hash and rows.
    pub(crate) fn check(&self) -> Result<(), SuiteError> {
        let wrong = |reason: String| Err(SuiteError::Data { id: self.id.clone(), reason });
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.id.is_empty() || self.id.len() > 64 || !self.id.chars().all(plain) {
            return wrong("an id has 1 to 64 letters, digits, `-`, `_` or `.`".to_owned());
        }
        let path = &self.path;
        let beneath = |part: &str| !part.is_empty() && part != "." && part != "..";
        if path.contains(['\\', ':']) || !path.split('/').all(beneath) {
            return wrong(format!(
                "path `{path}`: files lie in the suite's folder or below, so neither a path from the \
                 root nor `..`"
            ));
        }
        if !is_plain(path) && !is_packed(path) {
            return wrong(format!("path `{path}`: use a .jsonl or .jsonl.gz file"));
        }
        if self.tier == Tier::Sealed && self.role == Role::Past {
            return wrong(
                "a slice of the past keeps scores, and `sealed` shows none: use tier open or gate"
                    .to_owned(),
            );
        }
        if self.opened_by.is_some() && self.tier != Tier::Sealed {
            return wrong("`opened_by` belongs to tier sealed".to_owned());
        }
        if self.opened_by.as_ref().is_some_and(Vec::is_empty) {
            return wrong("`opened_by` is empty: nothing would ever ask it".to_owned());
        }
        if self.query_budget == Some(0) {
            return wrong("query_budget is 0: nothing would ever ask it".to_owned());
        }
        Ok(())
    }

    pub(crate) fn pinned(self) -> Result<DataEntry, SuiteError> {
        self.check()?;
        let (Some(sha256), Some(rows)) = (self.sha256, self.rows) else {
            let reason = "sha256 and rows are needed: `tidegate suite pin` says them".to_owned();
            return Err(SuiteError::Data { id: self.id, reason });
        };
        Ok(DataEntry {
            id: self.id,
            tier: self.tier,
            role: self.role,
            path: self.path,
            sha256,
            rows,
            query_budget: self.query_budget.unwrap_or(QUERY_BUDGET),
            opened_by: self.opened_by.unwrap_or_else(|| vec![JobKind::ColdStart]),
        })
    }
}

fn is_plain(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "jsonl")
}

fn is_packed(path: &str) -> bool {
    path.strip_suffix(".gz").is_some_and(is_plain)
}

/// Why a file of frozen data does not judge.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Over [`MAX_DATA_BYTES`], packed, or what it unpacks to is too large.
    #[error("it has more than {most} bytes{}: no more are read", if *unpacked { " unpacked" } else { "" })]
    TooLarge {
        /// The bound.
        most: u64,
        /// Whether it is of what it unpacks to.
        unpacked: bool,
    },
    /// Other bytes than the suite names.
    #[error(
        "its sha256 is {found}, and the suite says {expected}: somebody has changed it; frozen data is \
         replaced under another id"
    )]
    Hash {
        /// What the suite says.
        expected: Sha256,
        /// What it is.
        found: Sha256,
    },
    /// More or fewer examples than the suite says.
    #[error("it has {found} rows, and the suite says {expected}")]
    Rows {
        /// What the suite says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// Not gzip, or not to its end.
    #[error("it cannot be unpacked: {0}")]
    Packed(std::io::Error),
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// One line of it.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
}

/// Why a line is no example.
#[derive(Debug, thiserror::Error)]
pub enum LineProblem {
    /// No event.
    #[error("{0}")]
    Event(#[from] EventError),
    /// Nothing to hold an answer against.
    #[error("event `{0}` has no label: frozen data judges, so each row needs one")]
    Unlabelled(String),
    /// The same id in the same domain.
    #[error("event `{0}` is there twice")]
    Twice(String),
    /// More rows than are read.
    #[error("at most {MAX_DATA_ROWS} rows are read")]
    TooMany,
}

/// A file of frozen data that is what its suite says it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Frozen {
    entry: DataEntry,
    events: Vec<Event>,
    examples: Vec<EvalExample>,
}

impl Frozen {
    /// Reads and verifies the bytes of a file.
    ///
    /// # Errors
    /// [`DataError`] says what is not as the suite says, and where.
    pub fn parse(entry: &DataEntry, bytes: &[u8]) -> Result<Self, DataError> {
        verify(entry, bytes)?;
        let events = events(&entry.path, bytes)?;
        let found = events.len() as u64;
        if found != entry.rows {
            return Err(DataError::Rows { expected: entry.rows, found });
        }
        let examples = events.iter().filter_map(example).collect();
        Ok(Self { entry: entry.clone(), events, examples })
    }

    /// What the suite says of it.
    #[must_use]
    pub const fn entry(&self) -> &DataEntry {
        &self.entry
    }

    /// Its rows as they are.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Its rows as examples, in the same order.
    #[must_use]
    pub fn examples(&self) -> &[EvalExample] {
        &self.examples
    }

    /// How many examples have a value of a group attribute.
    #[must_use]
    pub fn in_group(&self, name: &str, value: &str) -> u64 {
        let inside = |one: &&EvalExample| one.groups.get(name).is_some_and(|found| found == value);
        self.examples.iter().filter(inside).count() as u64
    }
}

/// Whether bytes are still those that a suite names.
///
/// # Errors
/// [`DataError::TooLarge`] and [`DataError::Hash`].
pub fn verify(entry: &DataEntry, bytes: &[u8]) -> Result<(), DataError> {
    if bytes.len() > MAX_DATA_BYTES {
        return Err(DataError::TooLarge { most: MAX_DATA_BYTES as u64, unpacked: false });
    }
    let found = sha256(bytes);
    if found == entry.sha256 {
        return Ok(());
    }
    Err(DataError::Hash { expected: entry.sha256.clone(), found })
}

/// The hash and the number of rows that an entry of this file needs.
///
/// # Errors
/// [`DataError`] where it is no frozen data.
pub fn pin(path: &str, bytes: &[u8]) -> Result<(Sha256, u64), DataError> {
    if bytes.len() > MAX_DATA_BYTES {
        return Err(DataError::TooLarge { most: MAX_DATA_BYTES as u64, unpacked: false });
    }
    Ok((sha256(bytes), events(path, bytes)?.len() as u64))
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from_bytes(&sha2::Sha256::digest(bytes).into())
}

fn events(path: &str, bytes: &[u8]) -> Result<Vec<Event>, DataError> {
    let unpacked;
    let bytes = if is_packed(path) {
        unpacked = unpack(bytes)?;
        &unpacked
    } else {
        bytes
    };
    let text = std::str::from_utf8(bytes).map_err(|_| DataError::NotUtf8)?;
    let mut seen = BTreeSet::new();
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |problem| DataError::Line { line: number + 1, problem };
        if number >= MAX_DATA_ROWS {
            return Err(wrong(LineProblem::TooMany));
        }
        let event = Event::decode(ContentType::Json, line.as_bytes(), DateTime::UNIX_EPOCH)
            .map_err(|error| wrong(error.into()))?;
        if event.label.is_none() {
            return Err(wrong(LineProblem::Unlabelled(event.id.to_string())));
        }
        if !seen.insert(ExampleKey::new(&event.domain, &event.id)) {
            return Err(wrong(LineProblem::Twice(event.id.to_string())));
        }
        events.push(event);
    }
    Ok(events)
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, DataError> {
    let mut unpacked = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(bytes).take(MAX_UNPACKED + 1);
    reader.read_to_end(&mut unpacked).map_err(DataError::Packed)?;
    if unpacked.len() as u64 > MAX_UNPACKED {
        return Err(DataError::TooLarge { most: MAX_UNPACKED, unpacked: true });
    }
    Ok(unpacked)
}

/// None of an event without a label.
fn example(event: &Event) -> Option<EvalExample> {
    Some(EvalExample {
        id: event.id.clone(),
        domain: event.domain.clone(),
        input: Input::from_event(event),
        label: event.label.clone()?,
        groups: event.groups.clone(),
        fresh: false,
        producer: None,
    })
}
