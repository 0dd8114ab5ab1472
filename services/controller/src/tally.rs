//! Which offsets of the curated topic hold a labelled training record: a bit each, so that any
//! window can be counted, whatever becomes champion or is set aside.
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidegate_contracts::{Curated, Offset, Partition, Split, Window};
use tidegate_stream::Record;

pub(crate) type Marks = BTreeMap<Partition, Offset>;

/// Counts over all partitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    lanes: BTreeMap<Partition, Lane>,
}

/// One partition.
///
/// INVARIANT: `base` is a multiple of 64, and every offset below `next` has been seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Lane {
    next: i64,
    base: i64,
    /// Bits of 64 offsets, and when the first label among them was published (milliseconds).
    words: Vec<(u64, i64)>,
}

impl Lane {
    fn start(at: i64) -> Self {
        Self { next: at, base: at - at.rem_euclid(64), words: vec![] }
    }

    fn set(&mut self, offset: i64, time: i64) {
        let index = usize::try_from((offset - self.base) / 64).unwrap_or_default();
        if self.words.len() <= index {
            self.words.resize(index + 1, (0, i64::MAX));
        }
        let (bits, first) = &mut self.words[index];
        *bits |= 1 << (offset - self.base).rem_euclid(64);
        *first = time.min(*first);
    }

    /// Bits of each word that lie in `from..to`, with the word's time.
    fn within(&self, from: i64, to: i64) -> impl Iterator<Item = (u64, i64)> + '_ {
        let from = from.clamp(self.base, self.next) - self.base;
        let to = to.clamp(self.base, self.next) - self.base;
        let first = usize::try_from(from / 64).unwrap_or_default();
        let words = self.words.iter().enumerate().skip(first);
        words.map_while(move |(index, &(bits, time))| {
            let start = index as i64 * 64;
            if start >= to {
                return None;
            }
            let below = u32::try_from((from - start).clamp(0, 63)).unwrap_or_default();
            let above = u32::try_from((start + 64 - to).clamp(0, 63)).unwrap_or_default();
            Some((bits & (u64::MAX << below) & (u64::MAX >> above), time))
        })
    }
}

impl Tally {
    /// Takes in one record of the curated topic.
    pub(crate) fn take(&mut self, record: &Record) {
        let counts = match Curated::decode(&record.value) {
            Ok(curated) => {
                let labelled = curated.event.label.is_some() && curated.split == Split::Train;
                labelled.then(|| curated.labelled_at.unwrap_or(record.time))
            }
            Err(error) => {
                tracing::warn!(at = %record.position(), %error, "not a curated record; not counted");
                None
            }
        };
        self.note(record.partition, record.offset, counts);
    }

    /// Notes one offset; `labelled` when it holds a labelled training record.
    pub(crate) fn note(&mut self, at: Partition, offset: Offset, labelled: Option<DateTime<Utc>>) {
        let lane = self.lanes.entry(at).or_insert_with(|| Lane::start(offset.0));
        if offset.0 < lane.next {
            return;
        }
        if let Some(time) = labelled {
            lane.set(offset.0, time.timestamp_millis());
        }
        lane.next = offset.0 + 1;
    }

    /// Where to go on reading, by the log's present bounds. What the log no longer agrees with
    /// (it was made anew) is forgotten.
    pub(crate) fn resume(&mut self, log: &BTreeMap<Partition, (Offset, Offset)>) -> Marks {
        self.lanes.retain(|p, lane| log.get(p).is_some_and(|&(_, high)| lane.next <= high.0));
        for (&partition, &(low, _)) in log {
            let lane = self.lanes.entry(partition).or_insert_with(|| Lane::start(low.0));
            // Retention may have taken what was not read yet.
            lane.next = lane.next.max(low.0);
        }
        self.lanes.iter().map(|(&p, lane)| (p, Offset(lane.next))).collect()
    }

    /// All labelled training records.
    pub(crate) fn total(&self) -> u64 {
        self.since(&Marks::new())
    }

    /// Those at or after `marks`; all of a partition it does not name.
    pub(crate) fn since(&self, marks: &Marks) -> u64 {
        self.words_since(marks).map(|(bits, _)| u64::from(bits.count_ones())).sum()
    }

    /// Since when the oldest of them has waited; up to 63 records early.
    pub(crate) fn oldest_since(&self, marks: &Marks) -> Option<DateTime<Utc>> {
        let times = self.words_since(marks).filter(|(bits, _)| *bits != 0).map(|(_, time)| time);
        times.min().and_then(DateTime::from_timestamp_millis)
    }

    fn words_since<'a>(&'a self, marks: &'a Marks) -> impl Iterator<Item = (u64, i64)> + 'a {
        self.lanes.iter().flat_map(move |(partition, lane)| {
            let from = marks.get(partition).map_or(lane.base, |mark| mark.0);
            lane.within(from, i64::MAX)
        })
    }

    /// Those in `window`.
    pub(crate) fn within(&self, window: &Window) -> u64 {
        let ranges = window.ranges().iter();
        let words = ranges.filter_map(|(partition, &(from, to))| {
            self.lanes.get(partition).map(|lane| lane.within(from.0, to.0))
        });
        words.flatten().map(|(bits, _)| u64::from(bits.count_ones())).sum()
    }

    /// Whether at least half as many again as in `window` are there from its start on.
    pub(crate) fn has_outgrown(&self, window: &Window) -> bool {
        let starts: Marks = window.ranges().iter().map(|(&p, &(from, _))| (p, from)).collect();
        let (then, now) = (self.within(window), self.since(&starts));
        now > then && now * 2 >= then * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(seconds, 0)
    }

    fn marks(at: i64) -> Marks {
        [(Partition(0), Offset(at))].into()
    }

    fn window(from: i64, to: i64) -> Window {
        Window::new("t", [(Partition(0), (Offset(from), Offset(to)))].into()).unwrap()
    }

    #[test]
    fn any_window_is_counted_exactly() {
        for start in [0, 5, 64, 1_000] {
            let mut tally = Tally::default();
            let labelled: Vec<i64> = (start..start + 300).filter(|o| o % 3 != 1).collect();
            for offset in start..start + 300 {
                let at = labelled.contains(&offset).then(|| time(offset).unwrap());
                tally.note(Partition(0), Offset(offset), at);
            }
            for (from, to) in [(0, 5), (start, start + 1), (start + 63, start + 65), (70, 2_000)] {
                let expected = labelled.iter().filter(|&&o| (from..to).contains(&o)).count() as u64;
                assert_eq!(tally.within(&window(from, to)), expected, "{start}: {from}..{to}");
            }
            assert_eq!(tally.total(), labelled.len() as u64);
            assert_eq!(tally.since(&marks(start + 299)), u64::from((start + 299) % 3 != 1));
            assert_eq!(tally.since(&marks(start + 300)), 0);
        }
    }

    #[test]
    fn a_record_seen_twice_counts_once_and_the_oldest_wait_is_known() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            for offset in 0..100 {
                tally.note(Partition(0), Offset(offset), time(1_000 + offset));
            }
        }
        assert_eq!(tally.total(), 100);
        assert_eq!(tally.oldest_since(&marks(64)), time(1_064));
        assert_eq!(tally.oldest_since(&marks(100)), None);
        let json = serde_json::to_vec(&tally).unwrap();
        assert_eq!(serde_json::from_slice::<Tally>(&json).unwrap(), tally);
    }

    #[test]
    fn a_window_is_outgrown_by_half_as_many_again() {
        let mut tally = Tally::default();
        for offset in 0..15 {
            assert!(!tally.has_outgrown(&window(0, 10)), "{offset}");
            tally.note(Partition(0), Offset(offset), time(1));
        }
        assert!(tally.has_outgrown(&window(0, 10)));
    }

    #[test]
    fn a_log_that_was_made_anew_is_counted_anew() {
        let mut tally = Tally::default();
        for offset in 0..10 {
            tally.note(Partition(0), Offset(offset), time(1));
        }
        let log = |low, high| [(Partition(0), (Offset(low), Offset(high)))].into();
        assert_eq!(tally.resume(&log(0, 12)), marks(10));
        assert_eq!(tally.total(), 10);
        assert_eq!(tally.resume(&log(0, 4)), marks(0));
        assert_eq!(tally.total(), 0);
    }
}
