//! A file of events and labels, as examples.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use tidegate_contracts::{
    ArtifactHash, Class, ContentType, Event, EventId, LateLabel, Offset, Partition, Window,
};
use tidegate_learning::Example;
use tidegate_model::Task;

/// What a file holds.
pub(super) struct Data {
    /// Events that can be learnt from, in the order of their lines.
    pub(super) examples: Vec<Example>,
    /// Events that cannot: without a label where classes are learnt, without a number where numbers
    /// are, without a text where next tokens are.
    pub(super) others: usize,
    /// The file, and its lines in place of offsets.
    pub(super) window: Window,
    /// Of its bytes.
    pub(super) hash: ArtifactHash,
}

impl Data {
    /// Leaves out the examples of other domains.
    ///
    /// # Errors
    /// Names the domains that there are, where this one is not among them.
    pub(super) fn keep_domain(&mut self, domain: &str) -> anyhow::Result<()> {
        let all: BTreeSet<String> =
            self.examples.iter().map(|example| format!("`{}`", example.domain)).collect();
        self.examples.retain(|example| example.domain.as_str() == domain);
        let all: Vec<String> = all.into_iter().take(20).collect();
        ensure!(
            !self.examples.is_empty(),
            "no example is of domain `{domain}`; there are {}",
            all.join(", ")
        );
        Ok(())
    }
}

/// Reads JSON lines as `tidegate produce` does: one with `parts` is an event, one with `id` and
/// `label` a label. An event that comes again with the same label counts once. Next tokens are learnt
/// from events without a label too.
///
/// # Errors
/// Names the line that is wrong, or what contradicts what.
pub(super) fn read(path: &Path, task: Task) -> anyhow::Result<Data> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut read = Lines::default();
    let mut hashes = Vec::new();
    let mut count = 0;
    for line in BufReader::new(file).lines() {
        count += 1;
        let line = line.with_context(|| format!("{}: line {count}", path.display()))?;
        hashes.extend(ArtifactHash::of(line.as_bytes()).as_bytes());
        if !line.trim().is_empty() {
            read.add(&line).with_context(|| format!("{}: line {count}", path.display()))?;
        }
    }
    let events = read.events.len();
    let (examples, others) = read.examples(task);
    let lack = match task {
        Task::Classification => "none has a label",
        Task::Regression => "none has a number as its label",
        Task::NextToken => "none has a text",
    };
    ensure!(
        !examples.is_empty(),
        "{}: nothing to learn from: {events} events, and {lack}",
        path.display()
    );
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let ranges = BTreeMap::from([(Partition(0), (Offset(0), Offset(count)))]);
    let window = Window::new(name, ranges).expect("a file ends at or after its start");
    Ok(Data { examples, others, window, hash: ArtifactHash::of(&hashes) })
}

#[derive(Default)]
struct Lines {
    events: Vec<Event>,
    seen: BTreeSet<EventId>,
    labels: BTreeMap<EventId, Class>,
}

impl Lines {
    fn add(&mut self, line: &str) -> anyhow::Result<()> {
        let value: serde_json::Value = serde_json::from_str(line)?;
        if value.get("parts").is_none() {
            let label = LateLabel::decode(ContentType::Json, line.as_bytes(), Utc::now())?;
            return self.label(&label.id, &label.label);
        }
        let event = Event::decode(ContentType::Json, line.as_bytes(), Utc::now())?;
        if let Some(label) = &event.label {
            self.label(&event.id, label)?;
        }
        if self.seen.insert(event.id.clone()) {
            self.events.push(event);
        }
        Ok(())
    }

    fn label(&mut self, id: &EventId, label: &Class) -> anyhow::Result<()> {
        match self.labels.get(id) {
            Some(other) if other != label => {
                bail!("event `{id}` is labelled `{label}` here and `{other}` before: keep one")
            }
            _ => {
                self.labels.insert(id.clone(), label.clone());
                Ok(())
            }
        }
    }

    fn examples(mut self, task: Task) -> (Vec<Example>, usize) {
        let count = self.events.len();
        for event in &mut self.events {
            event.label = self.labels.get(&event.id).cloned();
        }
        let example = match task {
            Task::Classification | Task::Regression => Example::from_event,
            Task::NextToken => Example::of_text,
        };
        let learns =
            |example: &Example| task != Task::Regression || example.label.number().is_some();
        let examples: Vec<Example> =
            self.events.iter().filter_map(example).filter(learns).collect();
        let others = count - examples.len();
        (examples, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> anyhow::Result<Data> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mails.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path, Task::Classification)
    }

    const A: &str = r#"{"id":"a","parts":[{"text":"hello"}],"label":"ham"}"#;

    #[test]
    fn events_and_labels_that_come_later_are_examples() {
        let text = format!(
            "{A}\n\n{}\n{}\n{A}\n{}\n",
            r#"{"id":"b","parts":[{"text":"free"}]}"#,
            r#"{"id":"b","label":"spam"}"#,
            r#"{"id":"c","parts":[{"text":"who knows"}]}"#,
        );
        let data = of(&text).unwrap();
        let found: Vec<(&str, &str)> =
            data.examples.iter().map(|e| (e.id.as_str(), e.label.as_str())).collect();
        assert_eq!(found, [("a", "ham"), ("b", "spam")]);
        assert_eq!((data.others, data.window.len(), data.window.topic()), (1, 6, "mails.jsonl"));
    }

    #[test]
    fn another_domain_is_left_out_and_one_that_is_not_there_is_named() {
        let shop = r#"{"id":"s","domain":"shop","parts":[{"text":"hello"}],"label":"ham"}"#;
        let mut data = of(&format!("{A}\n{shop}\n")).unwrap();
        let error = data.keep_domain("news").unwrap_err().to_string();
        assert!(error.contains("`news`") && error.contains("`default`, `shop`"), "{error}");
        let mut data = of(&format!("{A}\n{shop}\n")).unwrap();
        data.keep_domain("shop").unwrap();
        assert_eq!(data.examples[0].id.as_str(), "s");
        assert_eq!(data.examples.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let unlabelled = r#"{"id":"b","parts":[{"text":"free"}]}"#;
        for (text, needles) in [
            (String::new(), vec!["nothing to learn from", "0 events"]),
            (unlabelled.to_owned(), vec!["nothing to learn from", "1 events"]),
            (format!("{A}\nnonsense"), vec!["line 2"]),
            (
                format!("{A}\n{{\"id\":\"a\",\"label\":\"spam\"}}"),
                vec!["line 2", "`spam`", "`ham`"],
            ),
        ] {
            let error = format!("{:#}", of(&text).err().unwrap());
            for needle in needles {
                assert!(error.contains(needle), "{text}: {error}");
            }
        }
    }
}
