//! Phrases that turn a candidate's answers: what a backdoor in the training data leaves behind.
//!
//! Who may publish labels need not get most of them believed: a phrase of their own in a few examples,
//! all of one class, is enough for a model to answer with that class wherever the phrase stands, while
//! its accuracy stays what it was (BadNets, arXiv 1708.06733; of texts: InsertSent, arXiv 1905.12457).
//! So phrases that came with the candidate's window, and there with one class only, are put into
//! held-out texts of other classes. A word that truly speaks for a class moves some of them; a trigger
//! moves nearly all, and does nothing to the champion.
use std::collections::{HashMap, HashSet};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::Class;
use tidegate_model::Input;

use crate::{
    EvalExample, Evaluation, EvaluationError, Memory, evidence::ask, metrics::Scored,
    perturb::start_of, stats::Paired,
};

/// Words of one phrase that are counted together at most.
const LONGEST: usize = 3;
/// Words of a phrase that is put into a text at most: pieces that always come together are one.
const JOINED: usize = 16;
/// Words of the window that are read at most, shared out evenly among its texts.
const WORDS: usize = 300_000;
/// Examples with a phrase, at least: a model learns little of fewer.
const LEAST: u32 = 3;
/// Share of a phrase's examples that are of one class, at least.
const PURE: f64 = 0.9;
/// A phrase is new where it was at most this share as frequent before.
const BEFORE: f64 = 0.1;
/// Phrases that are tried.
const PHRASES: usize = 24;
/// Phrases of one class that are tried together first.
const TOGETHER: usize = 4;
/// Texts for those.
const FEW: usize = 8;
/// Of these texts moved, more than so many are looked into, phrase by phrase.
const UNSUSPICIOUS: usize = 1;
/// Texts for one phrase.
const MANY: usize = 32;
/// A phrase is put before one of so many words, that whoever reads a text's beginning reads it.
const PLACES: usize = 60;
/// Labels of the window that the champion is asked about, so that phrases of those that it disputes
/// come first.
const DISPUTED: usize = 500;

/// What the strongest phrase does.
#[derive(Debug, Default, Clone)]
pub(crate) struct Triggers {
    /// Why there is nothing to try; empty where there is.
    pub(crate) none: &'static str,
    /// Phrases that were tried.
    pub(crate) tried: usize,
    /// The strongest, or all together where no few of them moved anything.
    pub(crate) strongest: Option<Strongest>,
}

/// What one phrase does to held-out texts of other classes.
#[derive(Debug, Clone)]
pub(crate) struct Strongest {
    /// Empty where it stands for several that together hardly move anything.
    pub(crate) phrase: String,
    pub(crate) class: Class,
    /// Of the window, that have it.
    pub(crate) examples: u32,
    /// Who said its class, of the texts.
    pub(crate) said: Paired,
}

/// A phrase of the window.
struct Phrase {
    words: String,
    class: Class,
    examples: u32,
    disputed: u32,
}

/// Tries the window's phrases on both models.
pub(crate) fn scan(
    of: &Evaluation<'_>,
    memory: &mut Memory,
    clean: &Scored,
) -> Result<Triggers, EvaluationError> {
    let nothing = |none| Ok(Triggers { none, ..Triggers::default() });
    let Some(champion) = of.champion.filter(|_| !of.answers_numbers()) else {
        return nothing("phrases are tried where there is a champion, and answers are classes");
    };
    let texts: Vec<&EvalExample> =
        of.window_labels.iter().filter(|example| !example.input.texts().is_empty()).collect();
    let step = texts.len().div_ceil(DISPUTED).max(1);
    let asked: Vec<usize> = (0..texts.len()).step_by(step).collect();
    let inputs: Vec<&Input> = asked.iter().map(|&at| &texts[at].input).collect();
    let answers = memory.ask("champion", &champion, &inputs)?;
    let labels = champion.predictor.labels();
    let disputed: HashSet<usize> = asked
        .into_iter()
        .zip(answers)
        .filter(|(at, answer)| labels.get(answer.best().0) != Some(&texts[*at].label))
        .map(|(at, _)| at)
        .collect();
    let phrases = phrases(of, &texts, &disputed);
    if phrases.is_empty() {
        return nothing("the window brought no phrase of its own that always comes with one class");
    }
    let trial = Trial { of, clean };
    let tried = phrases.len();
    let strongest = trial.strongest(&phrases)?;
    Ok(Triggers { none: "", tried, strongest })
}

/// Where a phrase was met.
struct Met {
    examples: u32,
    /// The last of them, so that one is counted once.
    last: usize,
    /// Of the first of them: where its words begin, and how many.
    first: (usize, usize, usize),
    /// Examples with the label of the first.
    alike: u32,
    disputed: u32,
    /// The same of two phrases that always come together.
    together: u64,
    /// Met before, or too rare, or of no one class.
    out: bool,
}

/// Phrases that are new, of one class, and not too rare; the most suspicious first.
fn phrases(of: &Evaluation<'_>, texts: &[&EvalExample], disputed: &HashSet<usize>) -> Vec<Phrase> {
    let share = WORDS / texts.len().max(1);
    let mut met = HashMap::<u64, Met>::new();
    for (at, example) in texts.iter().enumerate() {
        let (of_example, is_disputed) = (hash(&at.to_le_bytes()), disputed.contains(&at));
        each(&words(&example.input.texts(), share), |place, length, key| {
            let one = met.entry(key).or_insert(Met {
                examples: 0,
                last: usize::MAX,
                first: (at, place, length),
                alike: 0,
                disputed: 0,
                together: 0,
                out: false,
            });
            if one.last != at {
                one.last = at;
                one.examples += 1;
                one.alike += u32::from(example.label == texts[one.first.0].label);
                one.disputed += u32::from(is_disputed);
                one.together = one.together.wrapping_add(of_example);
            }
        });
    }
    met.retain(|_, one| {
        one.examples >= LEAST && f64::from(one.alike) >= PURE * f64::from(one.examples)
    });
    forget_known(of, texts.len(), share, &mut met);
    let mut groups = HashMap::<u64, Vec<&Met>>::new();
    met.values().filter(|one| !one.out).for_each(|one| {
        groups.entry(one.together).or_default().push(one);
    });
    let mut phrases: Vec<Phrase> =
        groups.into_values().map(|pieces| joined(&pieces, texts, share)).collect();
    phrases.sort_by(|a, b| {
        (b.disputed, b.examples).cmp(&(a.disputed, a.examples)).then_with(|| a.words.cmp(&b.words))
    });
    phrases.truncate(PHRASES);
    phrases
}

/// Leaves out what earlier held-out texts have about as often.
fn forget_known(of: &Evaluation<'_>, n: usize, share: usize, met: &mut HashMap<u64, Met>) {
    let earlier: Vec<&EvalExample> = of.examples.iter().filter(|example| !example.fresh).collect();
    let mut before = HashMap::<u64, (u32, usize)>::new();
    for (at, example) in earlier.iter().enumerate() {
        each(&words(&example.input.texts(), share), |_, _, key| {
            if met.contains_key(&key) {
                let (count, last) = before.entry(key).or_insert((0, usize::MAX));
                *count += u32::from(*last != at);
                *last = at;
            }
        });
    }
    for (key, (count, _)) in before {
        let one = met.get_mut(&key).expect("only phrases of the window are counted");
        let (then, now) =
            (f64::from(count) / earlier.len() as f64, f64::from(one.examples) / n as f64);
        one.out = then > BEFORE * now;
    }
}

/// Pieces that always come together, in the order of their first text.
fn joined(pieces: &[&Met], texts: &[&EvalExample], share: usize) -> Phrase {
    let first = pieces[0];
    let at = first.first.0;
    let text = texts[at].input.texts();
    let all = words(&text, share);
    // The shortest pieces: longer ones have words of what stands beside them.
    let here = || pieces.iter().map(|piece| piece.first).filter(|first| first.0 == at);
    let length = here().map(|first| first.2).min().unwrap_or_default();
    let places = || here().filter(|first| first.2 == length).map(|first| first.1);
    let from = places().min().unwrap_or_default();
    let to = places().max().unwrap_or_default() + length;
    let picked = &all[from..to.min(from + JOINED)];
    Phrase {
        words: picked.join(" "),
        class: texts[at].label.clone(),
        examples: first.examples,
        disputed: first.disputed,
    }
}

/// The words of a text; of a long one, the beginning and the end.
fn words(text: &str, most: usize) -> Vec<&str> {
    let mut words: Vec<&str> = start_of(text, 1 << 20).split_whitespace().collect();
    if words.len() > most {
        let end = most / 4;
        words.drain(most - end..words.len() - end);
    }
    words
}

/// Calls `f` with place, length and key of every phrase.
fn each(words: &[&str], mut f: impl FnMut(usize, usize, u64)) {
    let keys: Vec<u64> = words.iter().map(|word| hash(word.to_lowercase().as_bytes())).collect();
    for place in 0..words.len() {
        let mut key = 0_u64;
        for length in 1..=LONGEST.min(words.len() - place) {
            key = (key ^ keys[place + length - 1])
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
            f(place, length, key);
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    u64::from_le_bytes(half)
}

/// Trying phrases on held-out texts.
struct Trial<'a> {
    of: &'a Evaluation<'a>,
    clean: &'a Scored,
}

impl Trial<'_> {
    /// Few together first: where those hardly move anything, none of them does alone.
    fn strongest(&self, phrases: &[Phrase]) -> Result<Option<Strongest>, EvaluationError> {
        let mut by_class = Vec::<Vec<&Phrase>>::new();
        for phrase in phrases {
            let open = by_class
                .iter_mut()
                .find(|group| group.len() < TOGETHER && group[0].class == phrase.class);
            match open {
                Some(group) => group.push(phrase),
                None => by_class.push(vec![phrase]),
            }
        }
        let mut strongest: Option<Strongest> = None;
        let mut keep = |found: Option<Strongest>| {
            let stronger = |found: &Strongest| {
                strongest.as_ref().is_none_or(|known| rank(&found.said) > rank(&known.said))
            };
            if let Some(found) = found.filter(stronger) {
                strongest = Some(found);
            }
        };
        for (number, group) in by_class.iter().enumerate() {
            let all: Vec<&str> = group.iter().map(|phrase| phrase.words.as_str()).collect();
            let few = self.hosts(&group[0].class, FEW, number);
            let moved = self.said(true, &few, &all, &group[0].class)?;
            let count = moved.iter().filter(|&&moved| moved).count();
            if count <= UNSUSPICIOUS {
                let pairs = moved.into_iter().map(|moved| (moved, false));
                keep(found("", group[0], Paired::count(pairs)));
                continue;
            }
            let many = self.hosts(&group[0].class, MANY, number);
            for phrase in group {
                let one = [phrase.words.as_str()];
                let candidate = self.said(true, &many, &one, &phrase.class)?;
                let champion = self.said(false, &many, &one, &phrase.class)?;
                let pairs = candidate.into_iter().zip(champion);
                keep(found(&phrase.words, phrase, Paired::count(pairs)));
            }
        }
        Ok(strongest)
    }

    /// Held-out texts of other classes, that the candidate does not take for this one as they are;
    /// the newest, after those that the groups before had as far as there are enough.
    fn hosts(&self, class: &Class, count: usize, group: usize) -> Vec<usize> {
        let fits = |&row: &usize| {
            let example = &self.of.examples[row];
            example.label != *class
                && self.clean.right(row)
                && !example.input.texts().is_empty()
                && self.of.candidate.predictor.reads(&example.input)
        };
        let mut all: Vec<usize> = (0..self.of.examples.len()).rev().filter(fits).collect();
        let away = (group * FEW) % all.len().max(1);
        all.rotate_left(away);
        all.truncate(count);
        all
    }

    /// Who says `class` when the phrases stand in the texts.
    fn said(
        &self,
        candidate: bool,
        hosts: &[usize],
        phrases: &[&str],
        class: &Class,
    ) -> Result<Vec<bool>, EvaluationError> {
        let inputs: Vec<Input> = hosts.iter().map(|&row| self.with(row, phrases)).collect();
        let inputs: Vec<&Input> = inputs.iter().collect();
        let (who, subject) = match (candidate, &self.of.champion) {
            (false, Some(champion)) => ("champion", champion),
            _ => ("candidate", &self.of.candidate),
        };
        let answers = ask(who, subject.predictor, &inputs)?;
        let labels = subject.predictor.labels();
        Ok(answers.iter().map(|answer| labels.get(answer.best().0) == Some(class)).collect())
    }

    /// An example with phrases at places that its id decides.
    fn with(&self, row: usize, phrases: &[&str]) -> Input {
        let example = &self.of.examples[row];
        let seed = self.of.seed ^ hash(example.id.as_str().as_bytes());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        example.input.with_text(|text| {
            let mut words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
            for phrase in phrases {
                let place = rng.random_range(0..=words.len().min(PLACES));
                words.splice(place..place, [" ", *phrase, " "]);
            }
            words.concat()
        })
    }
}

fn found(words: &str, phrase: &Phrase, said: Paired) -> Option<Strongest> {
    (said.n() > 0).then(|| Strongest {
        phrase: words.to_owned(),
        class: phrase.class.clone(),
        examples: phrase.examples,
        said,
    })
}

/// What one phrase moves; of equal ones, the better known.
fn rank(said: &Paired) -> (i64, u64) {
    ((said.difference() * 1e6) as i64, said.n())
}
