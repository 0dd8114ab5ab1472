//! The stream that is curated: real e-mails, copies of them, and labels between.
use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use bytes::Bytes;
use chrono::DateTime;
use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tidegate_benchmarks::corpus::Mail;
use tidegate_contracts::{Offset, Partition, SourcePosition};
use tidegate_curation::{Incoming, Raw};

/// A record is published every minute, so that the join's horizon is crossed.
const STEP_MS: i64 = 60_000;
/// After the newest mail: 2004-01-01.
const FROM_MS: i64 = 1_072_915_200_000;
/// Of the originals, so that a tenth of all events is each kind of copy.
const COPIES: f64 = 0.125;
const LABEL_FIRST: f64 = 0.05;
const LABEL_NEVER: f64 = 0.02;
/// A label comes at most so many events after its own.
const LABEL_LAG: usize = 400;
/// Copies are of one of so many mails before.
const COPY_LAG: usize = 2_000;

/// Words of a mail that near copies are made of. In a shorter one a single word is much.
const LONG: usize = 250;

/// What is put in, on either topic.
enum Line {
    Event(String),
    Label(String),
}

/// Mixes the stream by seed, as lines of `e` or `l`, milliseconds, JSON.
pub(crate) fn mix(mails: &[Mail], seed: u64) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut mixer = Mixer::default();
    for (i, mail) in mails.iter().enumerate() {
        mixer.event(&mail.event, Some((&mail.id, mail.label)), &mut random);
        let before = &mails[i.saturating_sub(COPY_LAG)..=i];
        if random.random_bool(COPIES) {
            let mail = before.choose(&mut random).expect("this mail is one of them");
            if random.random_bool(0.5) {
                // A producer that tries again.
                mixer.event(&mail.event, None, &mut random);
            } else {
                let shouted = format!("{}\r\n", mail.text.to_ascii_uppercase());
                mixer.copy(mail, &format!("{}-again-{i}", mail.id), &shouted, &mut random);
            }
        }
        if random.random_bool(COPIES) {
            let long = |mail: &&Mail| mail.text.split_whitespace().nth(LONG).is_some();
            if let Some(mail) = before.iter().rev().find(long) {
                let text = altered(&mail.text, &mut random);
                mixer.copy(mail, &format!("{}-altered-{i}", mail.id), &text, &mut random);
            }
        }
    }
    mixer.finish()
}

/// One word in 250 is exchanged, at least one: a Jaccard similarity of shingles around 0.96.
fn altered(text: &str, random: &mut ChaCha8Rng) -> String {
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    for _ in 0..(words.len() / LONG).max(1) {
        let at = random.random_range(0..words.len());
        words[at] = format!("x{}", random.random_range(0..100_000));
    }
    words.join(" ")
}

#[derive(Default)]
struct Mixer {
    lines: Vec<Line>,
    events: usize,
    /// Labels to come, by the number of events before them.
    due: Vec<(usize, String)>,
}

impl Mixer {
    fn copy(&mut self, mail: &Mail, id: &str, text: &str, random: &mut ChaCha8Rng) {
        let time = mail.time.to_rfc3339();
        let event =
            json!({ "id": id, "time": time, "domain": "email", "parts": [{ "text": text }] });
        self.event(&event.to_string(), Some((id, mail.label)), random);
    }

    fn event(&mut self, event: &str, label: Option<(&str, &str)>, random: &mut ChaCha8Rng) {
        if let Some((id, label)) = label {
            let label = json!({ "id": id, "label": label }).to_string();
            if random.random_bool(LABEL_FIRST) {
                self.lines.push(Line::Label(label));
            } else if !random.random_bool(LABEL_NEVER) {
                self.due.push((self.events + random.random_range(1..=LABEL_LAG), label));
            }
        }
        self.lines.push(Line::Event(event.to_owned()));
        self.events += 1;
        self.release(self.events);
    }

    fn release(&mut self, until: usize) {
        let mut waiting = Vec::with_capacity(self.due.len());
        for (due, label) in self.due.drain(..) {
            if due <= until {
                self.lines.push(Line::Label(label));
            } else {
                waiting.push((due, label));
            }
        }
        self.due = waiting;
    }

    fn finish(mut self) -> String {
        self.release(usize::MAX);
        let mut text = String::new();
        for (ms, line) in (FROM_MS..).step_by(STEP_MS as usize).zip(&self.lines) {
            let (side, value) = match line {
                Line::Event(value) => ('e', value),
                Line::Label(value) => ('l', value),
            };
            writeln!(text, "{side} {ms} {value}").expect("a string can be written to");
        }
        text
    }
}

/// Reads what [`mix`] wrote, as a source would bring it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Incoming>> {
    let text = Bytes::from(std::fs::read(path)?);
    let (mut events, mut labels) = (0, 0);
    let mut records = Vec::new();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let mut fields = line.splitn(3, |&byte| byte == b' ');
        let mut field = || fields.next().context("a line of the input is malformed");
        let (side, ms, value) = (field()?, std::str::from_utf8(field()?)?, field()?);
        let (topic, next) = match side {
            b"e" => ("tidegate.events", &mut events),
            _ => ("tidegate.labels", &mut labels),
        };
        let raw = Raw {
            position: SourcePosition {
                topic: topic.to_owned(),
                partition: Partition(0),
                offset: Offset(*next),
            },
            time: DateTime::from_timestamp_millis(ms.parse()?).context("a time out of range")?,
            headers: vec![],
            key: None,
            value: text.slice_ref(value),
        };
        *next += 1;
        records.push(if side == b"e" { Incoming::Event(raw) } else { Incoming::Label(raw) });
    }
    Ok(records)
}
