//! Labelled training records on the curated topic, counted as they come.
use std::{collections::BTreeMap, time::Instant};

use tidegate_contracts::{Curated, Offset, Partition, Split};
use tidegate_stream::Record;

/// Where the labelled training records stand, by partition.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    offsets: BTreeMap<Partition, Vec<Offset>>,
    newest: Option<Instant>,
}

impl Backlog {
    /// Takes one record of the curated topic in; others than labelled training records are passed
    /// over, and so is what cannot be read (curation wrote it, so that is logged).
    pub(crate) fn add(&mut self, record: &Record) {
        match Curated::decode(&record.value) {
            Ok(curated) if curated.split == Split::Train && curated.event.label.is_some() => {
                self.offsets.entry(record.partition).or_default().push(record.offset);
                self.newest = Some(Instant::now());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, at = %record.position(), "a curated record cannot be read");
            }
        }
    }

    /// How many lie at or past `from`.
    pub(crate) fn waiting(&self, from: &BTreeMap<Partition, Offset>) -> u64 {
        let after = |(partition, offsets): (&Partition, &Vec<Offset>)| {
            let from = from.get(partition).copied().unwrap_or_default();
            offsets.len() - offsets.partition_point(|&offset| offset < from)
        };
        self.offsets.iter().map(after).sum::<usize>() as u64
    }

    /// How long ago the newest one came.
    pub(crate) fn quiet_for(&self) -> std::time::Duration {
        self.newest.map(|at| at.elapsed()).unwrap_or_default()
    }
}
