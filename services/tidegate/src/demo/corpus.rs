//! The demo's stream: real e-mail in order of delivery, cut into days.
use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde::Deserialize;
use serde_json::json;

/// What a learner of this stream is given of a mail, at most.
const TEXT_CHARS: usize = 4_000;

/// One e-mail, as an event and the label that comes later.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    /// A digest of the mail; says nothing of its class.
    pub(crate) id: String,
    /// When it was delivered.
    pub(crate) time: DateTime<Utc>,
    /// Subject and body, without tags.
    pub(crate) text: String,
    /// What the data truly holds: `format`, `origin`, `tld`.
    pub(crate) groups: Vec<(&'static str, String)>,
    /// `spam` or `ham`.
    pub(crate) label: &'static str,
}

impl Mail {
    /// The event as a producer publishes it: without its label.
    pub(crate) fn event_json(&self) -> String {
        let groups: serde_json::Map<_, _> =
            self.groups.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "id": self.id, "time": self.time.to_rfc3339(), "domain": "email",
            "groups": groups, "parts": [{ "text": self.text }],
        })
        .to_string()
    }

    /// Its label, true or flipped.
    pub(crate) fn label_json(&self, flipped: bool) -> String {
        let label = match (self.label, flipped) {
            ("spam", true) => "ham",
            (_, true) => "spam",
            (label, false) => label,
        };
        json!({ "id": self.id, "label": label }).to_string()
    }
}

/// Mails that are published, predicted and learnt together.
#[derive(Debug, Clone)]
pub(crate) struct Day {
    /// The last calendar day in it; quiet days are joined with the one after.
    pub(crate) date: NaiveDate,
    /// In order of delivery.
    pub(crate) mails: Vec<Mail>,
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

/// Reads the corpus: dated mails of 2002 and 2003, in order of delivery.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Vec<Mail>> {
    let mut mails = Vec::new();
    for group in ["easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"] {
        let path = folder.join("data").join(group);
        let files = std::fs::read_dir(&path).with_context(|| {
            format!(
                "{}: give the unpacked corpus with --corpus (`make demo` gets it)",
                path.display()
            )
        })?;
        for file in files {
            let file = file?.path();
            if file.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            let stored: Stored =
                serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?;
            mails.extend(mail(&stored));
        }
    }
    let span = NaiveDate::from_ymd_opt(2002, 1, 1).expect("a date")
        ..NaiveDate::from_ymd_opt(2004, 1, 1).expect("a date");
    mails.retain(|mail| span.contains(&mail.time.date_naive()));
    // The id breaks ties, so that the order is the same on every machine.
    mails.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    mails.dedup_by(|a, b| a.id == b.id);
    Ok(mails)
}

/// Cuts the stream at midnights: the first day has at least `first` mails, later ones `least`.
pub(crate) fn days(mails: Vec<Mail>, first: usize, least: usize) -> Vec<Day> {
    let mut days: Vec<Day> = Vec::new();
    let mut open: Vec<Mail> = Vec::new();
    for mail in mails {
        let date = mail.time.date_naive();
        let wanted = if days.is_empty() { first } else { least };
        if let Some(last) = open.last().map(|last| last.time.date_naive())
            && last != date
            && open.len() >= wanted
        {
            days.push(Day { date: last, mails: std::mem::take(&mut open) });
        }
        open.push(mail);
    }
    match days.last_mut() {
        Some(last) if open.len() < least => last.mails.extend(open),
        _ => days.extend(
            open.last().map(|mail| mail.time.date_naive()).map(|date| Day { date, mails: open }),
        ),
    }
    days
}

fn mail(stored: &Stored) -> Option<Mail> {
    let (head, body) = stored.text.split_once("\n\n").unwrap_or((&stored.text, ""));
    let headers = unfold(head);
    let header = |name: &str| {
        headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    };
    let time = delivered(head).or_else(|| header("Date").and_then(written))?;
    let kind = header("Content-Type").unwrap_or_default().to_ascii_lowercase();
    let html = kind.contains("html") || body.to_ascii_lowercase().contains("<html");
    let list = ["List-Id", "List-Post", "List-Unsubscribe", "Mailing-List", "X-Mailing-List"]
        .iter()
        .any(|name| header(name).is_some());
    let text = format!("{}\n{body}", header("Subject").unwrap_or_default());
    let text: String = without_tags(&text).chars().take(TEXT_CHARS).collect();
    if text.trim().is_empty() {
        return None;
    }
    Some(Mail {
        id: format!("mail-{}", stored.checksum.value),
        time,
        text,
        groups: vec![
            ("format", if html { "html" } else { "plain" }.to_owned()),
            ("origin", if list { "list" } else { "personal" }.to_owned()),
            ("tld", tld(header("From").unwrap_or_default())),
        ],
        label: if stored.group.starts_with("spam") { "spam" } else { "ham" },
    })
}

/// Headers by name; continuation lines are joined.
fn unfold(head: &str) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in head.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    headers
}

/// The mbox line: `From someone  Thu Aug 22 12:36:23 2002`.
fn delivered(head: &str) -> Option<DateTime<Utc>> {
    let line = head.lines().next()?.strip_prefix("From ")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let date = words.get(words.len().checked_sub(5)?..)?.join(" ");
    NaiveDateTime::parse_from_str(&date, "%a %b %e %H:%M:%S %Y").ok().map(|t| t.and_utc())
}

/// The `Date` header; a remark in brackets at its end is dropped.
fn written(date: &str) -> Option<DateTime<Utc>> {
    let date = date.split(" (").next().unwrap_or(date);
    DateTime::parse_from_rfc2822(date.trim()).ok().map(|time| time.to_utc())
}

fn without_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        plain.push_str(&rest[..open]);
        match rest[open..].find('>') {
            // A real tag is short and starts like one; `a < b` is kept.
            Some(close)
                if close < 2_000
                    && rest[open + 1..].starts_with(|c: char| {
                        c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?')
                    }) =>
            {
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

fn tld(from: &str) -> String {
    let end = from.rsplit_once('@').map(|(_, host)| host).unwrap_or_default();
    let host: String =
        end.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
    let tld = host.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match tld.as_str() {
        "com" | "net" | "org" | "edu" | "uk" | "ie" => tld,
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(text: &str) -> Stored {
        Stored {
            group: "spam-1".into(),
            checksum: Checksum { value: "abc".into() },
            text: text.into(),
        }
    }

    #[test]
    fn a_mail_is_its_subject_and_body_without_tags() {
        let text = "From a@b.ie  Thu Aug 22 12:36:23 2002\nSubject: Win\n now\nFrom: x <a@b.ie>\n\
                    Content-Type: text/html\n\n<p>1 < 2 <b>free</b></p>";
        let mail = mail(&stored(text)).unwrap();
        assert_eq!(mail.text, "Win now\n 1 < 2  free  ");
        assert_eq!(mail.time.to_rfc3339(), "2002-08-22T12:36:23+00:00");
        assert_eq!(mail.label, "spam");
        let expected = [("format", "html"), ("origin", "personal"), ("tld", "ie")]
            .map(|(a, b)| (a, b.to_owned()));
        assert_eq!(mail.groups, expected);
        assert!(!mail.event_json().contains("spam"));
        assert!(mail.label_json(true).contains("ham"));
    }

    #[test]
    fn days_are_cut_at_midnight_and_lose_nothing() {
        let one = mail(&stored("From a  Thu Aug 22 12:36:23 2002\nSubject: s\n\nb")).unwrap();
        let mails: Vec<Mail> = (0..100)
            .map(|i| Mail { time: one.time + chrono::Duration::hours(i), ..one.clone() })
            .collect();
        let days = days(mails, 40, 10);
        assert_eq!(days.iter().map(|day| day.mails.len()).sum::<usize>(), 100);
        assert!(days[0].mails.len() >= 40 && days.iter().all(|day| day.mails.len() >= 10));
        for pair in days.windows(2) {
            assert!(pair[0].date < pair[1].mails[0].time.date_naive());
        }
    }
}
