//! The SpamAssassin corpus in order of delivery, cut to text as the demo does.
use std::{error::Error, fs, path::Path};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;

const TEXT_CHARS: usize = 4_000;

/// One mail.
pub(crate) struct Mail {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) spam: bool,
    /// By the hash of its id: 15 % of all.
    pub(crate) held_out: bool,
    time: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Stored {
    group: String,
    checksum: Checksum,
    text: String,
}

#[derive(Deserialize)]
struct Checksum {
    value: String,
}

/// Dated mails of 2002 and 2003, in order of delivery, each once.
pub(crate) fn read(folder: &Path) -> Result<Vec<Mail>, Box<dyn Error>> {
    let mut mails = Vec::new();
    for group in ["easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"] {
        let path = folder.join("data").join(group);
        let files = fs::read_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for file in files {
            let path = file?.path();
            if path.extension().is_some_and(|end| end == "json") {
                mails.extend(mail(&serde_json::from_slice(&fs::read(&path)?)?));
            }
        }
    }
    mails.retain(|mail| (2002..=2003).contains(&chrono::Datelike::year(&mail.time)));
    mails.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    mails.dedup_by(|a, b| a.id == b.id);
    Ok(mails)
}

fn mail(stored: &Stored) -> Option<Mail> {
    let (head, body) = stored.text.split_once("\n\n").unwrap_or((&stored.text, ""));
    let unfolded = head.replace("\n ", " ").replace("\n\t", " ");
    let header = |name: &str| {
        unfolded.lines().find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let time = delivered(head).or_else(|| written(&header("Date")?))?;
    let text = format!("{}\n{body}", header("Subject").unwrap_or_default());
    let text: String = without_tags(&text).chars().take(TEXT_CHARS).collect();
    if text.trim().is_empty() {
        return None;
    }
    let id = format!("mail-{}", stored.checksum.value);
    let held_out = blake3::hash(id.as_bytes()).as_bytes()[0] < 38;
    Some(Mail { id, text, spam: stored.group.starts_with("spam"), held_out, time })
}

/// The mbox line: `From someone  Thu Aug 22 12:36:23 2002`.
fn delivered(head: &str) -> Option<DateTime<Utc>> {
    let line = head.lines().next()?.strip_prefix("From ")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let date = words.get(words.len().checked_sub(5)?..)?.join(" ");
    NaiveDateTime::parse_from_str(&date, "%a %b %e %H:%M:%S %Y").ok().map(|t| t.and_utc())
}

fn written(date: &str) -> Option<DateTime<Utc>> {
    let date = date.split(" (").next().unwrap_or(date);
    DateTime::parse_from_rfc2822(date.trim()).ok().map(|time| time.to_utc())
}

fn without_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        plain.push_str(&rest[..open]);
        let like_a_tag = rest[open + 1..]
            .starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
        match rest[open..].find('>') {
            // A real tag is short and starts like one; `a < b` is kept.
            Some(close) if close < 2_000 && like_a_tag => {
                plain.push(' ');
                rest = &rest[open + close + 1..];
            }
            _ => {
                plain.push('<');
                rest = &rest[open + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}
