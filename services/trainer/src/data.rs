//! Which window a job reads, and what is in it.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use chrono::{DateTime, Utc};
use tidegate_contracts::{Curated, Domain, JobKind, Offset, Partition, Producer, Window};
use tidegate_learning::Example;
use tidegate_stream::{Stream, StreamError};
use tokio_util::sync::CancellationToken;

/// Low and high watermark of each partition.
pub(crate) type Marks = BTreeMap<Partition, (Offset, Offset)>;

/// A cold start and a transfer read what is retained, a hot update what the champion's lineage has
/// not learnt; all at most `max` offsets.
pub(crate) fn choose(
    kind: JobKind,
    topic: &str,
    marks: &Marks,
    learnt: &BTreeMap<Partition, Offset>,
    max: u64,
) -> Window {
    let max = i64::try_from(max / marks.len().max(1) as u64).unwrap_or(i64::MAX).max(1);
    let range = |(&partition, &(low, high)): (&Partition, &(Offset, Offset))| {
        let range = if kind == JobKind::HotUpdate {
            // What retention has taken meanwhile is gone.
            let from = learnt.get(&partition).copied().unwrap_or(low).clamp(low, high);
            (from, Offset(high.0.min(from.0.saturating_add(max))))
        } else {
            (Offset(low.0.max(high.0.saturating_sub(max))), high)
        };
        (partition, range)
    };
    Window::new(topic, marks.iter().map(range).collect())
        .expect("every range ends at or after its start")
}

/// What nobody learns from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aside<'a> {
    pub(crate) windows: &'a [Window],
    pub(crate) producers: &'a BTreeSet<Producer>,
}

/// The labelled training examples of a window.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) examples: Vec<Example>,
    /// When the latest of their labels was published.
    pub(crate) newest_label: Option<DateTime<Utc>>,
    /// Records without a label, or held out; they are no examples.
    pub(crate) others: u64,
    /// Records that are no curated records at all.
    pub(crate) unreadable: u64,
    /// Records of windows that were set aside, which nobody learns from.
    pub(crate) set_aside: u64,
    /// Labelled training records of producers that were set aside.
    pub(crate) of_producers_set_aside: u64,
    /// Examples of each domain that was not asked for.
    pub(crate) elsewhere: BTreeMap<Domain, u64>,
}

impl Data {
    /// Reads exactly `window`, or what is of `domain` in it, without what was set aside: after a
    /// rollback, or at a cold start, a window spans blocked ones again. Gives up between two
    /// records when `cancel` is.
    pub(crate) async fn read(
        stream: &Stream,
        window: &Window,
        domain: Option<&Domain>,
        aside: Aside<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self, StreamError> {
        let mut data = Self::default();
        let each = |record: tidegate_stream::Record| {
            let (partition, offset) = (record.partition, record.offset);
            if aside.windows.iter().any(|window| window.contains(partition, offset)) {
                data.set_aside += 1;
            } else {
                data.add(&record, domain, aside.producers);
            }
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            read = stream.read_each(window, each) => read?,
        }
        Ok(data)
    }

    fn add(
        &mut self,
        record: &tidegate_stream::Record,
        domain: Option<&Domain>,
        without: &BTreeSet<Producer>,
    ) {
        let curated = match Curated::decode(&record.value) {
            Ok(curated) => curated,
            Err(error) => {
                tracing::warn!(at = %record.position(), %error, "not a curated record; left out");
                self.unreadable += 1;
                return;
            }
        };
        match Example::from_curated(&curated) {
            Some(example) if Producer::is_among(example.producer.as_ref(), without) => {
                self.of_producers_set_aside += 1;
            }
            Some(example) if domain.is_some_and(|domain| *domain != example.domain) => {
                *self.elsewhere.entry(example.domain).or_default() += 1;
            }
            Some(example) => {
                self.newest_label = self.newest_label.max(curated.labelled_at);
                self.examples.push(example);
            }
            None => self.others += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        [(0, 10, 100), (1, 0, 40)]
            .map(|(p, low, high)| (Partition(p), (Offset(low), Offset(high))))
            .into()
    }

    fn ranges(kind: JobKind, learnt: &[(i32, i64)], max: u64) -> Vec<(i64, i64)> {
        let learnt = learnt.iter().map(|&(p, o)| (Partition(p), Offset(o))).collect();
        let window = choose(kind, "curated", &marks(), &learnt, max);
        window.ranges().values().map(|(from, to)| (from.0, to.0)).collect()
    }

    #[test]
    fn a_cold_start_reads_all_that_is_retained_or_the_newest_of_it() {
        assert_eq!(ranges(JobKind::ColdStart, &[(0, 50)], 1_000), [(10, 100), (0, 40)]);
        assert_eq!(ranges(JobKind::ColdStart, &[], 20), [(90, 100), (30, 40)]);
    }

    #[test]
    fn a_hot_update_begins_where_the_champion_ended() {
        assert_eq!(ranges(JobKind::HotUpdate, &[(0, 50), (1, 40)], 1_000), [(50, 100), (40, 40)]);
        assert_eq!(ranges(JobKind::HotUpdate, &[(0, 50)], 20), [(50, 60), (0, 10)]);
    }

    #[test]
    fn what_retention_took_is_not_asked_for() {
        assert_eq!(ranges(JobKind::HotUpdate, &[(0, 3), (1, 90)], 1_000), [(10, 100), (40, 40)]);
    }
}
