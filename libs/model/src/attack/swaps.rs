//! Swaps in real texts: few letters or words, chosen by the slope over the tokens' vectors.
use std::{ops::Range, time::Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Attack, Loss, Means, Method, Space, Stop, margin,
    target::{Change, Found, Target, Victims},
};
use crate::{Features, Input, Model};

/// Letters of a word that has enough of them; the first and the last stay (Pruthi et al. 2019, arXiv
/// 1905.11268).
const LETTERS: usize = 4;
/// Words that are looked at, spread over the text; of these the most promising are changed.
const WORDS: usize = 48;
const PROMISING: usize = 6;
/// Changes of letters that are looked at in each, and changes that the model is asked about.
const CHANGES: usize = 12;
const ASKED: usize = 8;

/// The worst swaps that were found for each target.
pub(super) fn swap(
    victims: &Victims<'_>,
    attack: &Attack,
    means: &Means<'_>,
) -> Result<Vec<Found>, Stop> {
    let one = |target: &Target<'_>| match attack.method {
        Method::Random(_) => at_random(victims.model, target, attack, means.until),
        _ => by_slope(victims.model, target, attack, means.until),
    };
    victims.targets.par_iter().map(one).collect()
}

/// Asks the model about each; the first of those that do the most harm.
fn ask(model: &Model, target: &Target<'_>, inputs: Vec<Input>) -> Result<Option<Found>, Stop> {
    let features = model.featurizer().features_all(&inputs)?;
    let read: Vec<&Features> = features.iter().collect();
    if read.is_empty() {
        return Ok(None);
    }
    let logits = model.logits(&read, None);
    let queries = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
    let rows = logits.chunks_exact(model.labels().len()).zip(inputs);
    let found = rows.map(|(logits, input)| Found {
        logits: logits.to_vec(),
        margin: margin(logits, target.class).1,
        queries: 0,
        change: Change::Text(input),
    });
    let worst = found.min_by(|a, b| a.margin.total_cmp(&b.margin));
    Ok(worst.map(|worst| Found { queries, ..worst }))
}

fn by_slope(
    model: &Model,
    target: &Target<'_>,
    attack: &Attack,
    until: Instant,
) -> Result<Found, Stop> {
    let mut rng = ChaCha8Rng::seed_from_u64(target.seed);
    let mut worst = ask(model, target, vec![target.input.clone()])?.expect("one was asked about");
    for _ in 0..attack.eps as usize {
        let Change::Text(input) = &worst.change else { unreachable!("texts are asked about") };
        if worst.margin <= 0.0 {
            break;
        }
        if Instant::now() > until {
            return Err(Stop::Late);
        }
        let text = input.texts().into_owned();
        let slope = Slope::at(model, target, input)?;
        let words = words(&text, attack.space, model.architecture().text_bytes);
        let left_out: Vec<Edit> = words.iter().map(|word| Edit::left_out(word.clone())).collect();
        let promising = slope.best(input, &text, left_out)?;
        let edits = match attack.space {
            Space::Words => {
                let swapped = words.windows(2).map(|pair| Edit::swapped(&text, pair));
                let swapped = slope.best(input, &text, swapped.collect())?;
                let both = promising.into_iter().take(ASKED / 2);
                both.chain(swapped.into_iter().take(ASKED / 2)).collect()
            }
            _ => {
                let best = promising.into_iter().take(PROMISING);
                let edits = best.flat_map(|edit| letters(&text, &edit.range, &mut rng));
                slope.best(input, &text, edits.collect())?
            }
        };
        let asked = edits.into_iter().take(ASKED).map(|edit| edit.of(input, &text)).collect();
        match ask(model, target, asked)? {
            Some(found) => worst = worst.or(found),
            None => break,
        }
    }
    Ok(worst)
}

/// As many questions, each about as many changes, drawn.
fn at_random(
    model: &Model,
    target: &Target<'_>,
    attack: &Attack,
    until: Instant,
) -> Result<Found, Stop> {
    const AT_ONCE: usize = 16;
    let mut rng = ChaCha8Rng::seed_from_u64(target.seed);
    let mut worst = ask(model, target, vec![target.input.clone()])?.expect("one was asked about");
    let mut left = attack.steps as usize;
    while left > 0 && worst.margin > 0.0 {
        if Instant::now() > until {
            return Err(Stop::Late);
        }
        let count = left.min(AT_ONCE);
        left -= count;
        let mut drawn = || {
            let mut text = target.input.texts().into_owned();
            for _ in 0..attack.eps as usize {
                text = change_one(&text, attack.space, model.architecture().text_bytes, &mut rng);
            }
            target.input.with_text(|_| text)
        };
        let inputs: Vec<Input> = (0..count).map(|_| drawn()).collect();
        if let Some(found) = ask(model, target, inputs)? {
            worst = worst.or(found);
        }
    }
    Ok(worst)
}

fn change_one(text: &str, space: Space, bytes: usize, rng: &mut ChaCha8Rng) -> String {
    let words = words(text, space, bytes);
    if words.is_empty() {
        return text.to_owned();
    }
    let at = rng.random_range(0..words.len());
    let edit = match (space, words.get(at..at + 2)) {
        (Space::Words, Some(pair)) if rng.random_bool(0.5) => Edit::swapped(text, pair),
        (Space::Words, _) => Edit::left_out(words[at].clone()),
        _ => {
            let mut edits = letters(text, &words[at], rng);
            let one = rng.random_range(0..edits.len());
            edits.swap_remove(one)
        }
    };
    edit.apply(text)
}

/// One change of a text: what stands in `range` becomes `new`.
#[derive(Debug, Clone, PartialEq)]
struct Edit {
    range: Range<usize>,
    new: String,
}

impl Edit {
    fn left_out(range: Range<usize>) -> Self {
        Self { range, new: String::new() }
    }

    /// Two words change places; what is between them stays.
    fn swapped(text: &str, pair: &[Range<usize>]) -> Self {
        let [first, second] = [&pair[0], &pair[1]];
        let between = &text[first.end..second.start];
        let new = format!("{}{between}{}", &text[second.clone()], &text[first.clone()]);
        Self { range: first.start..second.end, new }
    }

    fn apply(&self, text: &str) -> String {
        [&text[..self.range.start], &self.new, &text[self.range.end..]].concat()
    }

    fn of(&self, input: &Input, text: &str) -> Input {
        input.with_text(|_| self.apply(text))
    }
}

/// Words that may be changed, in order: runs of letters, for letters long enough ones; at most
/// [`WORDS`], spread over what is read of the text.
fn words(text: &str, space: Space, bytes: usize) -> Vec<Range<usize>> {
    let read = &text[..text.floor_char_boundary(bytes)];
    let least = if space == Space::Words { 1 } else { LETTERS };
    let mut words = Vec::new();
    let mut start = None;
    for (at, letter) in read.char_indices().chain([(read.len(), ' ')]) {
        match (letter.is_alphabetic(), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                if read[from..at].chars().count() >= least {
                    words.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
    let every = words.len().div_ceil(WORDS).max(1);
    words.into_iter().step_by(every).collect()
}

/// Changes of one letter of a word: it becomes another, is left out, or changes places with the next.
fn letters(text: &str, word: &Range<usize>, rng: &mut ChaCha8Rng) -> Vec<Edit> {
    let letters: Vec<(usize, char)> =
        text[word.clone()].char_indices().map(|(at, letter)| (word.start + at, letter)).collect();
    let inner = 1..letters.len() - 1;
    let one = |_| {
        let place = rng.random_range(inner.clone());
        let (at, letter) = letters[place];
        let range = at..at + letter.len_utf8();
        match rng.random_range(0..4) {
            0 => Edit::left_out(range),
            1 if place + 1 < inner.end => {
                let (next, second) = letters[place + 1];
                Edit { range: at..next + second.len_utf8(), new: [second, letter].iter().collect() }
            }
            _ => {
                let other = char::from(b'a' + rng.random_range(0..26_u8));
                let other = if letter.is_uppercase() { other.to_ascii_uppercase() } else { other };
                Edit { range, new: other.to_string() }
            }
        }
    };
    (0..CHANGES).map(one).collect()
}

/// What the loss does near a text, as far as its first order tells.
struct Slope<'a> {
    model: &'a Model,
    features: Features,
    /// Over the logits, `[classes]`, and over the tokens' vectors, `[tokens, d_model]`.
    of_logits: Vec<f32>,
    tokens: Vec<f32>,
    vectors: Vec<f32>,
    wide: Vec<f32>,
}

impl<'a> Slope<'a> {
    fn at(model: &'a Model, target: &Target<'_>, input: &Input) -> Result<Self, Stop> {
        let features = model.featurizer().features(input)?;
        let class = target.class;
        let of_logits = |logits: &[f32]| Loss::CrossEntropy.slope(logits, class);
        let found = model.slopes(&[&features], None, &of_logits);
        let vectors = model.vectors(&features.tokens);
        let wide = model.wide().logits(&[&features]);
        let (of_logits, tokens) = (found.of_logits, found.tokens);
        Ok(Self { model, features, of_logits, tokens, vectors, wide })
    }

    /// The edits, those first that promise the most harm.
    fn best(&self, input: &Input, text: &str, edits: Vec<Edit>) -> Result<Vec<Edit>, Stop> {
        let inputs: Vec<Input> = edits.iter().map(|edit| edit.of(input, text)).collect();
        let features = self.model.featurizer().features_all(&inputs)?;
        let harm = features.iter().map(|features| self.harm(features));
        let mut all: Vec<(f32, Edit)> = harm.zip(edits).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(all.into_iter().map(|(_, edit)| edit).collect())
    }

    /// The wide path's change as it is; the deep path's by the slope where tokens differ.
    fn harm(&self, other: &Features) -> f32 {
        let wide = self.model.wide().logits(&[other]);
        let moved = wide.iter().zip(&self.wide).zip(&self.of_logits);
        let wide: f32 = moved.map(|((new, old), slope)| (new - old) * slope).sum();
        let (old, new) = (&self.features.tokens, &other.tokens);
        let same = |pair: &(&u32, &u32)| pair.0 == pair.1;
        let before = old.iter().zip(new).take_while(same).count();
        let rest = old.len().min(new.len()) - before;
        let after = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(same).count();
        let (gone, come) = (before..old.len() - after, &new[before..new.len() - after]);
        // Where nothing goes, what comes is read beside what stands there.
        let place =
            if gone.is_empty() { before.saturating_sub(1)..before.max(1) } else { gone.clone() };
        let width = self.model.architecture().d_model;
        let row = |all: &[f32], at: usize| all[at * width..(at + 1) * width].to_vec();
        let mut change = vec![0.0_f32; width];
        let mut add = |vector: &[f32], by: f32| {
            change.iter_mut().zip(vector).for_each(|(sum, value)| *sum += by * value);
        };
        gone.for_each(|at| add(&row(&self.vectors, at), -1.0));
        if !come.is_empty() {
            self.model.vectors(come).chunks_exact(width).for_each(|vector| add(vector, 1.0));
        }
        let count = place.len().max(1) as f32;
        let slopes = place.filter_map(|at| self.tokens.get(at * width..(at + 1) * width));
        let along = slopes.map(|slope| slope.iter().zip(&change).map(|(s, c)| s * c).sum::<f32>());
        wide + along.sum::<f32>() / count
    }
}
