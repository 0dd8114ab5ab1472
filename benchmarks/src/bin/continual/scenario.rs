//! A sequence of tasks out of real texts.
use std::path::Path;

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use tidegate_benchmarks::streams::{self, Names, Text};

/// Share of all texts that settings are chosen on, by the hash of their ids.
const DEVELOPMENT: f64 = 0.2;
/// Share of a task's texts that only judge.
const JUDGING: f64 = 0.3;
/// Periods of the e-mail stream.
const PERIODS: usize = 5;
/// Classes that a task of the lists brings.
const CLASSES: usize = 2;

/// Which texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Those that settings may be chosen on.
    Development,
    /// Those that figures are reported of.
    Reported,
}

/// What is learnt in one go.
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) train: Vec<Text>,
    pub(crate) test: Vec<Text>,
}

/// Tasks in order.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) classes: usize,
    pub(crate) tasks: Vec<Task>,
}

/// All scenarios. `order`: tasks come in another order for each, except where time has its own.
/// `most`: texts of a task at most.
pub(crate) fn all(
    mails: &Path,
    opinions: &Path,
    part: Part,
    order: u64,
    most: usize,
) -> anyhow::Result<Vec<Scenario>> {
    let mut rng = ChaCha8Rng::seed_from_u64(order);
    let kept = |texts: Vec<Text>| -> Vec<Text> {
        let development = |text: &Text| text.draw("development") < DEVELOPMENT;
        texts.into_iter().filter(|t| development(t) == (part == Part::Development)).collect()
    };
    let emails = kept(streams::emails(mails)?);
    let periods = emails.chunks(emails.len().div_ceil(PERIODS));
    let data = periods.zip(1..).map(|(texts, at)| task(format!("period {at}"), texts, most));

    let named = kept(streams::lists(mails, Names::Kept)?);
    let nameless = kept(streams::lists(mails, Names::Cut)?);
    let mut classes = distinct(named.iter().map(|text| text.label));
    classes.shuffle(&mut rng);
    let of_classes = |lists: &[Text]| -> Vec<Task> {
        let of = |chosen: &[&str]| {
            let texts: Vec<Text> =
                lists.iter().filter(|text| chosen.contains(&text.label)).cloned().collect();
            task(chosen.join(", "), &texts, most)
        };
        classes.chunks(CLASSES).map(of).collect()
    };

    let opinions = kept(streams::opinions(opinions)?);
    let mut domains = distinct(opinions.iter().map(|text| text.domain));
    domains.shuffle(&mut rng);
    let of_domain = |domain: &&str| {
        let texts: Vec<Text> =
            opinions.iter().filter(|text| text.domain == *domain).cloned().collect();
        task((*domain).to_owned(), &texts, most)
    };
    Ok(vec![
        Scenario {
            name: "data",
            about: "e-mails of five periods, one after the other: spam or not",
            classes: 2,
            tasks: data.collect(),
        },
        Scenario {
            name: "class",
            about: "two mailing lists more each time, told apart from all before",
            classes: classes.len(),
            tasks: of_classes(&named),
        },
        Scenario {
            name: "class-hard",
            about: "the same without what names a list",
            classes: classes.len(),
            tasks: of_classes(&nameless),
        },
        Scenario {
            name: "domain",
            about: "films, goods, editorials, tweets, in any order: positive or not",
            classes: 2,
            tasks: domains.iter().map(of_domain).collect(),
        },
    ])
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Evenly thinned out to `most`.
fn task(name: String, texts: &[Text], most: usize) -> Task {
    let share = most as f64 / texts.len().max(1) as f64;
    let texts = texts.iter().filter(|text| text.draw("thinned") < share).cloned();
    let (test, train) = texts.partition(|text| text.draw("judging") < JUDGING);
    Task { name, train, test }
}
