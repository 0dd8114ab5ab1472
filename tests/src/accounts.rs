//! What became of every record that producers wrote: read from the topics alone, as an auditor
//! would.
use std::collections::BTreeMap;

use anyhow::Context as _;
use tidegate_contracts::{Curated, Offset, Partition, SourcePosition, Window};
use tidegate_ledger::Fact;
use tidegate_stream::{Record, Stream, dead_letter};

/// One effect of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// An event that stands on the curated topic.
    Curated,
    /// A label that stands there with its event.
    Joined,
    /// A record on the dead-letter topic, with its code.
    Rejected(String),
}

/// The effects of every record on the events and the labels topic.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Of records that are there.
    pub records: BTreeMap<SourcePosition, Vec<Account>>,
    /// Keys of those records.
    pub keys: BTreeMap<SourcePosition, String>,
    /// Effects of records that are not.
    pub strangers: BTreeMap<SourcePosition, Vec<Account>>,
}

impl Accounts {
    /// Reads all four topics.
    ///
    /// # Errors
    /// When the broker does not answer, or an output record does not say where it comes from.
    pub async fn read(stream: &Stream) -> anyhow::Result<Self> {
        let topics = stream.topics();
        let mut effects: BTreeMap<SourcePosition, Vec<Account>> = BTreeMap::new();
        for record in whole(stream, &topics.curated).await? {
            let source = Curated::decode(&record.value)?.source;
            if let Some(offset) = record.header("tidegate-label-offset") {
                let label = SourcePosition {
                    topic: topics.labels.clone(),
                    partition: source.partition,
                    offset: Offset(std::str::from_utf8(offset)?.parse()?),
                };
                effects.entry(label).or_default().push(Account::Joined);
            }
            effects.entry(source).or_default().push(Account::Curated);
        }
        for record in whole(stream, &topics.rejected).await? {
            let code = text(&record, dead_letter::CODE)?.to_owned();
            effects.entry(source(&record)?).or_default().push(Account::Rejected(code));
        }
        let mut accounts = Self::default();
        for topic in [&topics.events, &topics.labels] {
            for record in whole(stream, topic).await? {
                let position = record.position();
                let key = record.key.as_deref().unwrap_or_default();
                let found = effects.remove(&position).unwrap_or_default();
                accounts.keys.insert(position.clone(), String::from_utf8_lossy(key).into_owned());
                accounts.records.insert(position, found);
            }
        }
        accounts.strangers = effects;
        Ok(accounts)
    }

    /// Records without an effect: still waiting, or lost.
    #[must_use]
    pub fn open(&self) -> Vec<&SourcePosition> {
        self.with(|effects| effects.is_empty())
    }

    /// Records with more than one effect.
    #[must_use]
    pub fn doubled(&self) -> Vec<&SourcePosition> {
        self.with(|effects| effects.len() > 1)
    }

    fn with(&self, wanted: impl Fn(&[Account]) -> bool) -> Vec<&SourcePosition> {
        self.records.iter().filter(|(_, effects)| wanted(effects)).map(|(at, _)| at).collect()
    }

    /// How many records ended how.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (position, effects) in &self.records {
            let side = position.topic.rsplit('.').next().unwrap_or_default();
            for effect in effects {
                let name = match effect {
                    Account::Curated => "curated",
                    Account::Joined => "joined",
                    Account::Rejected(code) => code,
                };
                *counts.entry(format!("{side} {name}")).or_default() += 1;
            }
        }
        counts
    }
}

/// Follows the line of champions through the ledger: each window begins where the one before ended,
/// or where one that was set aside did. How many promotions there were.
///
/// # Errors
/// When something was learnt twice, or left out.
pub fn learnt_once(facts: &[Fact]) -> anyhow::Result<usize> {
    let mut windows = BTreeMap::new();
    let mut learnt: BTreeMap<Partition, Offset> = BTreeMap::new();
    let mut promotions = 0;
    for fact in facts {
        match fact {
            Fact::CandidateRegistered { generation, window, .. } => {
                let before = windows.insert(*generation, window.clone());
                anyhow::ensure!(before.is_none(), "{generation} is registered twice");
            }
            Fact::WindowQuarantined { window, .. } => learnt.extend(window.watermark()),
            Fact::Promoted { generation, .. } => {
                promotions += 1;
                let window = windows.get(generation).context("promoted, but never registered")?;
                for (&partition, &(from, to)) in window.ranges() {
                    let end = learnt.insert(partition, to).unwrap_or(from);
                    anyhow::ensure!(from == end, "{generation} learnt from {from}, not from {end}");
                }
            }
            _ => {}
        }
    }
    Ok(promotions)
}

/// All records of a topic.
async fn whole(stream: &Stream, topic: &str) -> anyhow::Result<Vec<Record>> {
    let marks = stream.watermarks(topic).await?;
    Ok(stream.read(&Window::new(topic, marks)?).await?)
}

fn text<'a>(record: &'a Record, header: &str) -> anyhow::Result<&'a str> {
    let value = record.header(header).with_context(|| format!("{header} is missing"))?;
    Ok(std::str::from_utf8(value)?)
}

/// Where a dead letter says that it comes from.
fn source(record: &Record) -> anyhow::Result<SourcePosition> {
    Ok(SourcePosition {
        topic: text(record, dead_letter::SOURCE_TOPIC)?.to_owned(),
        partition: Partition(text(record, dead_letter::SOURCE_PARTITION)?.parse()?),
        offset: Offset(text(record, dead_letter::SOURCE_OFFSET)?.parse()?),
    })
}
