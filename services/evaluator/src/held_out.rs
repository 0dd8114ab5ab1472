//! Held-out examples and training-side ids, read once from the curated topic and kept up to date.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::ControlFlow,
};

use chrono::{DateTime, Utc};
use tidegate_contracts::{Curated, Offset, Partition, Producer, Split, Window};
use tidegate_curation::likeness::{LikeTexts, content};
use tidegate_evaluation::{Copies, EvalExample, ExampleKey, NearCopy};
use tidegate_model::Input;
use tidegate_stream::{Record, Stream, StreamError};

use crate::EvaluatorConfig;

/// Offsets by partition.
pub(crate) type Marks = BTreeMap<Partition, Offset>;

/// Rows are kept beyond `max_rows`, because some may lie in windows that no longer judge.
const SPARE: usize = 2;

#[derive(Debug, Clone)]
struct Row {
    partition: Partition,
    offset: Offset,
    at: DateTime<Utc>,
    /// Hash of what it says, whatever its id.
    content: Option<u128>,
    example: EvalExample,
}

/// What of a training-side record is remembered.
#[derive(Debug, Clone, Copy)]
struct Trained {
    key: ExampleKey,
    content: Option<u128>,
}

/// What the evaluator remembers of the curated topic.
#[derive(Debug, Default)]
pub(crate) struct HeldOut {
    position: Marks,
    rows: VecDeque<Row>,
    trained: HashSet<ExampleKey>,
    /// The newest labels of both sides, for who watches the champion or a stage.
    live: VecDeque<Row>,
    /// Where training-side contents were last.
    contents: HashMap<u128, (Partition, Offset)>,
    order: VecDeque<Trained>,
    /// Of the newest training-side texts.
    like: Option<LikeTexts>,
}

/// What separates earlier examples from fresh ones, and both from those that do not judge.
#[derive(Debug)]
pub(crate) struct Cut<'a> {
    /// The candidate's window.
    pub(crate) window: &'a Window,
    /// Up to where the champion's lineage has learnt; `None` without a champion.
    pub(crate) learnt: Option<&'a Marks>,
    /// Windows of blocked candidates.
    pub(crate) set_aside: &'a [Window],
    /// Producers that are set aside.
    pub(crate) producers: &'a BTreeSet<Producer>,
}

impl Cut<'_> {
    /// Whether a record is fresh (`Some(true)`), of an earlier window, or does not judge.
    fn side(&self, partition: Partition, offset: Offset) -> Option<bool> {
        let inside = self.window.contains(partition, offset);
        let Some(learnt) = self.learnt else { return inside.then_some(true) };
        if self.set_aside.iter().any(|window| window.contains(partition, offset)) {
            return None;
        }
        if offset < learnt.get(&partition).copied().unwrap_or_default() {
            Some(false)
        } else {
            inside.then_some(true)
        }
    }

    /// The part of the candidate's window that the champion has not learnt.
    pub(crate) fn new_to_champion(&self) -> Window {
        let learnt = |p| self.learnt.and_then(|marks| marks.get(p).copied()).unwrap_or_default();
        let ranges = self.window.ranges().iter();
        let clipped = ranges.map(|(p, &(from, to))| (*p, (from.max(learnt(p)).min(to), to)));
        Window::new(self.window.topic(), clipped.collect())
            .expect("a start that is clipped to the end is not behind it")
    }
}

impl HeldOut {
    /// Reads what has come since the last time.
    pub(crate) async fn catch_up(
        &mut self,
        stream: &Stream,
        config: &EvaluatorConfig,
    ) -> Result<(), StreamError> {
        let topic = stream.topics().curated.clone();
        let marks = stream.watermarks(&topic).await?;
        let scan = (config.max_scan / marks.len().max(1) as u64).min(i64::MAX as u64) as i64;
        let start = |partition: Partition, low: Offset, high: Offset| {
            let known = self.position.get(&partition).copied();
            let from = known.unwrap_or(Offset(high.0.saturating_sub(scan)));
            (partition, (from.max(low).min(high), high))
        };
        let ranges = marks.iter().map(|(&partition, &(low, high))| start(partition, low, high));
        let window = Window::new(topic, ranges.collect()).expect("clamped between low and high");
        if !window.is_empty() {
            let ends = window.watermark();
            let near = config.near.capacity as i64 / ends.len().max(1) as i64;
            stream
                .read_each(&window, |record| {
                    // Older ones would be forgotten before they are looked for.
                    let is_near = ends[&record.partition].0 - record.offset.0 <= near;
                    self.add(&record, is_near, config);
                    ControlFlow::Continue(())
                })
                .await?;
        }
        self.position = window.watermark();
        Ok(())
    }

    fn add(&mut self, record: &Record, is_near: bool, config: &EvaluatorConfig) {
        // An interrupted catch-up reads again what it has.
        let next = self.position.get(&record.partition).copied().unwrap_or_default();
        if record.offset < next {
            return;
        }
        self.position.insert(record.partition, Offset(record.offset.0 + 1));
        let Some(curated) = decoded(record) else { return };
        let content = content(&curated.event);
        if curated.split == Split::Train && is_near && curated.event.label.is_some() {
            let like = self.like.get_or_insert_with(|| LikeTexts::new(&config.near));
            like.remember(&curated.event);
        }
        let Some((split, at, example)) = labelled(curated) else { return };
        let key = ExampleKey::new(&example.domain, &example.id);
        let (partition, offset) = (record.partition, record.offset);
        let row = Row { partition, offset, at, content, example };
        self.live.push_back(row.clone());
        if self.live.len() > config.live.max_rows {
            self.live.pop_front();
        }
        if split == Split::Train {
            self.remember(Trained { key, content }, record, config.max_trained_ids);
            return;
        }
        self.rows.push_back(row);
        if self.rows.len() > SPARE * config.max_rows {
            self.rows.pop_front();
        }
    }

    fn remember(&mut self, one: Trained, record: &Record, most: usize) {
        if let Some(content) = one.content {
            self.contents.insert(content, (record.partition, record.offset));
        }
        if self.trained.insert(one.key) {
            self.order.push_back(one);
        }
        while self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.trained.remove(&oldest.key);
            oldest.content.map(|content| self.contents.remove(&content));
        }
    }

    /// Which of these examples say what a training-side record under `cut` says.
    pub(crate) fn copies(&self, cut: &Cut<'_>, examples: &[EvalExample]) -> Copies {
        let judging: HashSet<ExampleKey> = examples.iter().map(ExampleKey::of).collect();
        let copied = self.rows.iter().filter(|row| self.is_learnt(cut, row.content));
        let copied = copied.map(|row| ExampleKey::of(&row.example));
        let same = copied.filter(|key| judging.contains(key)).collect();
        self.with_near(same, examples)
    }

    /// The same of frozen data, whose contents are given in the order of its examples.
    pub(crate) fn copies_of(
        &self,
        cut: &Cut<'_>,
        examples: &[EvalExample],
        contents: &[Option<u128>],
    ) -> Copies {
        let both = examples.iter().zip(contents);
        let copied = both.filter(|(_, content)| self.is_learnt(cut, **content));
        self.with_near(copied.map(|(example, _)| ExampleKey::of(example)).collect(), examples)
    }

    /// Whether a training-side record under `cut` says this.
    fn is_learnt(&self, cut: &Cut<'_>, content: Option<u128>) -> bool {
        let at = content.and_then(|content| self.contents.get(&content));
        at.is_some_and(|&(partition, offset)| cut.side(partition, offset).is_some())
    }

    fn with_near(&self, same: HashSet<ExampleKey>, examples: &[EvalExample]) -> Copies {
        let near = examples.iter().filter(|example| !same.contains(&ExampleKey::of(example)));
        let like = |example: &EvalExample| {
            let (trained, similarity) = self.like.as_ref()?.find(&example.input.parts)?;
            Some(NearCopy { held_out: example.id.clone(), trained, similarity })
        };
        let near = near.filter_map(like).collect();
        Copies { same, near }
    }

    /// The ids that were trained on, as far as they are remembered.
    pub(crate) fn trained(&self) -> &HashSet<ExampleKey> {
        &self.trained
    }

    /// Labelled records from `position` on that lie in no window of `set_aside` and are of none of
    /// `producers`, in order, and where they stand.
    pub(crate) fn live(
        &self,
        position: &Marks,
        set_aside: &[Window],
        producers: &BTreeSet<Producer>,
    ) -> Vec<((Partition, Offset), EvalExample)> {
        let counts = |row: &&Row| {
            !Producer::is_among(row.example.producer.as_ref(), producers)
                && row.offset >= position.get(&row.partition).copied().unwrap_or_default()
                && !set_aside.iter().any(|window| window.contains(row.partition, row.offset))
        };
        let rows = self.live.iter().filter(counts);
        rows.map(|row| ((row.partition, row.offset), row.example.clone())).collect()
    }

    /// The newest examples that judge under `cut`, the oldest first.
    pub(crate) fn examples(&self, cut: &Cut<'_>, max: usize) -> Vec<EvalExample> {
        let mut rows: Vec<(&Row, bool)> = self
            .rows
            .iter()
            .filter(|row| !Producer::is_among(row.example.producer.as_ref(), cut.producers))
            .filter_map(|row| Some((row, cut.side(row.partition, row.offset)?)))
            .collect();
        rows.sort_by_key(|(row, _)| (row.at, row.partition, row.offset));
        let newest = rows.split_off(rows.len().saturating_sub(max));
        let example = |(row, fresh): (&Row, bool)| EvalExample { fresh, ..row.example.clone() };
        newest.into_iter().map(example).collect()
    }
}

/// The newest training-side labels of the part of a window that the champion has not learnt, but
/// for those that were set aside: the candidate did not learn them either.
pub(crate) async fn window_labels(
    stream: &Stream,
    window: &Window,
    set_aside: &[Window],
    without: &BTreeSet<Producer>,
    max: usize,
) -> Result<Vec<EvalExample>, StreamError> {
    let marks = stream.watermarks(window.topic()).await?;
    let clip = |(p, &(from, to)): (&Partition, &(Offset, Offset))| {
        let (low, high) = marks.get(p).copied().unwrap_or_default();
        // What retention has taken cannot be asked about.
        let to = to.min(high);
        (*p, (from.max(low).min(to), to))
    };
    let ranges = window.ranges().iter().map(clip).collect();
    let readable = Window::new(window.topic(), ranges).expect("the start is clipped to the end");
    let mut labels = VecDeque::new();
    if readable.is_empty() {
        return Ok(vec![]);
    }
    stream
        .read_each(&readable, |record| {
            let (partition, offset) = (record.partition, record.offset);
            if set_aside.iter().any(|window| window.contains(partition, offset)) {
                return ControlFlow::Continue(());
            }
            let curated = decoded(&record).filter(|curated| {
                curated.split == Split::Train
                    && !Producer::is_among(curated.producer.as_ref(), without)
            });
            if let Some((_, _, example)) = curated.and_then(labelled) {
                labels.push_back(EvalExample { fresh: true, ..example });
                if labels.len() > max {
                    labels.pop_front();
                }
            }
            ControlFlow::Continue(())
        })
        .await?;
    Ok(labels.into())
}

fn decoded(record: &Record) -> Option<Curated> {
    Curated::decode(&record.value)
        .inspect_err(|error| {
            tracing::warn!(at = %record.position(), %error, "not a curated record; left out");
        })
        .ok()
}

/// A labelled example, which side of the hold-out it is on, and when it was labelled.
fn labelled(curated: Curated) -> Option<(Split, DateTime<Utc>, EvalExample)> {
    let input = Input::from_event(&curated.event);
    let event = curated.event;
    let at = curated.labelled_at.unwrap_or(event.time);
    let label = event.label?;
    let (id, domain, groups) = (event.id, event.domain, event.groups);
    let producer = curated.producer;
    let example = EvalExample { id, domain, input, label, groups, producer, fresh: false };
    Some((curated.split, at, example))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_contracts::{Class, Domain, Event, EventId, Part, SourcePosition};

    use super::*;

    static NOBODY: BTreeSet<Producer> = BTreeSet::new();

    fn window(from: i64, to: i64) -> Window {
        Window::new("c", [(Partition(0), (Offset(from), Offset(to)))].into()).unwrap()
    }

    fn marks(to: i64) -> Marks {
        [(Partition(0), Offset(to))].into()
    }

    fn record(offset: i64, split: Split) -> Record {
        let curated = Curated {
            event: Event {
                id: EventId::new(format!("e-{offset}")),
                time: DateTime::UNIX_EPOCH,
                domain: Domain::new("d"),
                groups: BTreeMap::new(),
                parts: vec![Part::Text(format!("text {offset}"))],
                label: Some(Class::new("a")),
                weight: 1.0,
            },
            split,
            labelled_at: None,
            source: SourcePosition {
                topic: "events".to_owned(),
                partition: Partition(0),
                offset: Offset(offset),
            },
            producer: None,
        };
        Record {
            topic: "c".to_owned(),
            partition: Partition(0),
            offset: Offset(offset),
            time: DateTime::UNIX_EPOCH,
            key: None,
            headers: vec![],
            value: Bytes::from(curated.encode()),
        }
    }

    fn of_100() -> HeldOut {
        let mut held_out = HeldOut::default();
        let config = EvaluatorConfig::default();
        for offset in 0..100 {
            let split = if offset % 5 == 0 { Split::Eval } else { Split::Train };
            held_out.add(&record(offset, split), true, &config);
        }
        held_out
    }

    fn sides(cut: &Cut<'_>) -> (usize, usize) {
        let examples = of_100().examples(cut, 1000);
        let fresh = examples.iter().filter(|example| example.fresh).count();
        (examples.len() - fresh, fresh)
    }

    #[test]
    fn a_hot_update_is_judged_on_earlier_windows_and_its_own_and_on_nothing_after() {
        let (window, learnt) = (window(50, 80), marks(50));
        let cut =
            Cut { window: &window, learnt: Some(&learnt), set_aside: &[], producers: &NOBODY };
        assert_eq!(sides(&cut), (10, 6));
    }

    #[test]
    fn what_was_set_aside_never_judges_again() {
        let (window, learnt, bad) = (window(50, 80), marks(50), [window(30, 50)]);
        let cut =
            Cut { window: &window, learnt: Some(&learnt), set_aside: &bad, producers: &NOBODY };
        assert_eq!(sides(&cut), (6, 6));
    }

    #[test]
    fn who_is_set_aside_does_not_judge() {
        let (window, learnt) = (window(50, 80), marks(50));
        let unknown = [Producer::new(Producer::UNKNOWN)].into();
        let cut =
            Cut { window: &window, learnt: Some(&learnt), set_aside: &[], producers: &unknown };
        assert_eq!(sides(&cut), (0, 0));
    }

    #[test]
    fn without_a_champion_all_of_the_window_is_fresh() {
        let (window, bad) = (window(0, 100), [window(0, 60)]);
        let cut = Cut { window: &window, learnt: None, set_aside: &bad, producers: &NOBODY };
        assert_eq!(sides(&cut), (0, 20));
    }

    #[test]
    fn a_cold_start_beside_a_champion_is_held_against_what_that_has_learnt() {
        let (window, learnt) = (window(0, 100), marks(60));
        let cut =
            Cut { window: &window, learnt: Some(&learnt), set_aside: &[], producers: &NOBODY };
        assert_eq!(sides(&cut), (12, 8));
        assert_eq!(cut.new_to_champion().len(), 40);
    }

    /// Like `record`, saying something of its own.
    fn saying(offset: i64, split: Split, text: &str) -> Record {
        let one = record(offset, split);
        let mut curated = Curated::decode(&one.value).unwrap();
        curated.event.parts = vec![Part::Text(text.to_owned())];
        Record { value: Bytes::from(curated.encode()), ..one }
    }

    #[test]
    fn the_same_text_under_another_id_is_a_copy_and_nearly_the_same_one_is_said() {
        let config = EvaluatorConfig::default();
        let mut held_out = HeldOut::default();
        let words: Vec<String> = (0..80).map(|word| format!("word{word}")).collect();
        let (text, nearly) = (words.join(" "), words[1..].join(" "));
        held_out.add(&saying(0, Split::Train, &text), true, &config);
        held_out.add(
            &saying(1, Split::Eval, &format!("  {}  ", text.to_uppercase())),
            true,
            &config,
        );
        held_out.add(&saying(2, Split::Eval, &nearly), true, &config);
        held_out.add(&saying(3, Split::Eval, "something else altogether"), true, &config);
        let cut = |window| Cut { window, learnt: None, set_aside: &[], producers: &NOBODY };
        let whole = window(0, 4);
        let examples = held_out.examples(&cut(&whole), 10);
        let copies = held_out.copies(&cut(&whole), &examples);
        assert_eq!(copies.same, [ExampleKey::new(&Domain::new("d"), &EventId::new("e-1"))].into());
        let near: Vec<(&str, &str)> =
            copies.near.iter().map(|copy| (copy.held_out.as_str(), &*copy.trained)).collect();
        assert_eq!(near, [("e-2", "e-0")]);
        // What was not learnt is no leak.
        let later = window(1, 4);
        assert!(held_out.copies(&cut(&later), &examples).same.is_empty());
    }

    #[test]
    fn bounds_hold_and_a_record_counts_once() {
        let config =
            EvaluatorConfig { max_rows: 4, max_trained_ids: 10, ..EvaluatorConfig::default() };
        let mut held_out = HeldOut::default();
        for offset in (0..100).chain(50..100) {
            let split = if offset % 2 == 0 { Split::Eval } else { Split::Train };
            held_out.add(&record(offset, split), true, &config);
        }
        assert_eq!((held_out.rows.len(), held_out.trained.len()), (8, 10));
        let window = window(0, 100);
        let cut = Cut { window: &window, learnt: None, set_aside: &[], producers: &NOBODY };
        let examples = held_out.examples(&cut, 4);
        let ids: Vec<&str> = examples.iter().map(|example| example.id.as_str()).collect();
        assert_eq!(ids, ["e-92", "e-94", "e-96", "e-98"]);
    }
}
