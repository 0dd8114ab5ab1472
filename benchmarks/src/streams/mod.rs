//! Real labelled texts in order: what the learning benchmarks run on.
mod lists;
mod opinions;

use std::path::Path;

use chrono::NaiveDate;
use tidegate_contracts::{Class, Domain, EventId};
use tidegate_learning::Example;
use tidegate_model::Input;

use crate::corpus::{self, Mail};

pub use self::{
    lists::{Names, lists},
    opinions::opinions,
};

/// Texts of the first batch, and least texts of every other one: the demo's defaults.
const FIRST: usize = 250;
const LEAST: usize = 150;

/// One labelled text.
#[derive(Debug, Clone)]
pub struct Text {
    /// Says nothing of its class.
    pub id: String,
    /// Where it comes from.
    pub domain: &'static str,
    /// What a learner is given.
    pub text: String,
    /// Its class.
    pub label: &'static str,
    /// When it came, where that is known.
    pub date: Option<NaiveDate>,
}

impl Text {
    /// As a job learns from it.
    #[must_use]
    pub fn example(&self) -> Example {
        Example {
            id: EventId::new(self.id.clone()),
            input: self.input(),
            label: Class::new(self.label),
            weight: 1.0,
            domain: Domain::new(self.domain),
            groups: std::collections::BTreeMap::new(),
            producer: None,
        }
    }

    /// As a model is asked about it.
    #[must_use]
    pub fn input(&self) -> Input {
        Input::text(&*self.text)
    }

    /// A number from 0 to 1 by the hash of its id and `purpose`: splits that never change.
    #[must_use]
    pub fn draw(&self, purpose: &str) -> f64 {
        let hash = blake3::hash(format!("{purpose} {}", self.id).as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }
}

/// Texts in the order and the batches in which labels arrive.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// In order.
    pub batches: Vec<Vec<Text>>,
}

/// Every stream there is.
///
/// # Errors
/// When a folder is not what `setup/data.sh` and `setup/opinions.sh` unpacked; names the file.
pub fn all(mails: &Path, reviews: &Path) -> anyhow::Result<Vec<Stream>> {
    Ok(vec![
        Stream {
            name: "e-mails",
            about: "is a mail spam; by time, in days",
            batches: days(emails(mails)?),
        },
        Stream {
            name: "lists",
            about: "which of 8 mailing lists is a mail from, without what names it; by time, in days",
            batches: days(lists(mails, Names::Cut)?),
        },
        Stream {
            name: "opinions",
            about: "is a sentence positive; films, then goods, then editorials, then tweets",
            batches: opinions(reviews)?.chunks(FIRST).map(<[Text]>::to_vec).collect(),
        },
    ])
}

/// Mails in order of delivery; is it spam?
///
/// # Errors
/// When the folder is not the unpacked corpus; names the file.
pub fn emails(folder: &Path) -> anyhow::Result<Vec<Text>> {
    Ok(corpus::mails(folder)?.into_iter().map(of_mail).collect())
}

fn of_mail(mail: Mail) -> Text {
    let Mail { id, time, text, label, .. } = mail;
    Text { id, domain: "email", text, label, date: Some(time.date_naive()) }
}

/// Cut at midnights; quiet days are joined with the next.
fn days(texts: Vec<Text>) -> Vec<Vec<Text>> {
    let mut days: Vec<Vec<Text>> = Vec::new();
    let mut open: Vec<Text> = Vec::new();
    for text in texts {
        let wanted = if days.is_empty() { FIRST } else { LEAST };
        if open.last().is_some_and(|last| last.date != text.date) && open.len() >= wanted {
            days.push(std::mem::take(&mut open));
        }
        open.push(text);
    }
    match days.last_mut() {
        Some(last) if open.len() < LEAST => last.extend(open),
        _ => days.push(open),
    }
    days
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(at: usize, day: u32) -> Text {
        let date = NaiveDate::from_ymd_opt(2002, 8, day);
        Text { id: format!("t{at}"), domain: "test", text: String::new(), label: "a", date }
    }

    #[test]
    fn a_day_is_never_cut_and_a_quiet_one_joins_the_next() {
        let texts: Vec<Text> = (0..900).map(|at| text(at, 1 + at as u32 / 100)).collect();
        let days = days(texts);
        assert_eq!(days.iter().map(Vec::len).collect::<Vec<_>>(), [300, 200, 200, 200]);
    }

    #[test]
    fn a_split_by_id_is_of_its_share_and_another_for_each_purpose() {
        let texts: Vec<Text> = (0..2_000).map(|at| text(at, 1)).collect();
        let chosen = |purpose: &str| -> Vec<bool> {
            texts.iter().map(|text| text.draw(purpose) < 0.2).collect()
        };
        let count = chosen("one").iter().filter(|&&chosen| chosen).count();
        assert!((320..480).contains(&count), "{count}");
        assert_ne!(chosen("one"), chosen("two"));
    }
}
