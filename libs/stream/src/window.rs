//! Reading exactly a window.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use tidegate_contracts::{Offset, Partition, Window};

use crate::{
    client::Stream,
    error::StreamError,
    record::Record,
    source::{Source, Step},
};

/// Calls `each` with every record of `window`, in order within a partition.
pub(crate) async fn read_each(
    stream: &Stream,
    window: &Window,
    mut each: impl FnMut(Record) -> ControlFlow<()>,
) -> Result<(), StreamError> {
    let ranges: BTreeMap<Partition, (Offset, Offset)> =
        window.ranges().iter().filter(|(_, (from, to))| from < to).map(|(p, r)| (*p, *r)).collect();
    if ranges.is_empty() {
        return Ok(());
    }
    let topic = window.topic();
    check(stream, topic, &ranges).await?;
    let starts = ranges.iter().map(|(&p, &(from, _))| (p, from)).collect();
    let mut source = Source::open(stream, topic, starts, true)?;
    // The log holds `to` already, so that its end comes after the window's in any case: also when
    // compaction or transactions left no record just before `to`.
    let mut open: BTreeSet<Partition> = ranges.keys().copied().collect();
    while !open.is_empty() {
        match source.step().await? {
            Step::Eof(partition) => {
                // Unless the log was cut meanwhile, by a power cut of the broker's machine.
                let range = ranges[&partition];
                check(stream, topic, &[(partition, range)].into()).await?;
                open.remove(&partition);
            }
            Step::Record(record) => {
                let partition = record.partition;
                let (_, to) = ranges[&partition];
                if record.offset.0 + 1 >= to.0 && open.remove(&partition) {
                    source.done_with(partition);
                }
                if record.offset < to && each(record).is_break() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Whether the log holds all of these ranges.
async fn check(
    stream: &Stream,
    topic: &str,
    ranges: &BTreeMap<Partition, (Offset, Offset)>,
) -> Result<(), StreamError> {
    let marks = stream.watermarks(topic).await?;
    for (&partition, &(from, to)) in ranges {
        let (low, high) = marks.get(&partition).copied().unwrap_or_default();
        if from < low || to > high {
            let topic = topic.to_owned();
            return Err(StreamError::OffsetGone { topic, partition, from, to, low, high });
        }
    }
    Ok(())
}
