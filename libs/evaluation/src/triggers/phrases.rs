//! Phrases of texts.
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tidegate_model::Input;

use super::{Kind, Mark, hash};
use crate::perturb::start_of;

/// Words of one phrase that are counted together at most.
const LONGEST: usize = 3;
/// Words of a phrase that is put into a text at most: pieces that always come together are one.
const JOINED: usize = 16;
/// Words of the window that are read at most, shared out evenly among its texts.
const WORDS: usize = 300_000;
/// A phrase is put before one of so many words, that whoever reads a text's beginning reads it.
const PLACES: usize = 60;
/// Letters of a phrase that are quoted at most.
const QUOTED: usize = 80;

/// One to three words after each other.
pub(super) struct Phrases;

/// Words that stand together.
struct Phrase(String);

impl Kind for Phrases {
    /// Where the words begin, and how many.
    type Place = (usize, usize);

    const MOST: usize = usize::MAX;

    fn is_in(&self, input: &Input) -> bool {
        !input.texts().is_empty()
    }

    fn pieces(&self, input: &Input, of: usize, f: &mut dyn FnMut(Self::Place, u64)) {
        let text = input.texts();
        let words = words(&text, WORDS / of.max(1));
        let keys: Vec<u64> =
            words.iter().map(|word| hash(word.to_lowercase().as_bytes())).collect();
        for place in 0..words.len() {
            let mut key = 0_u64;
            for length in 1..=LONGEST.min(words.len() - place) {
                key = (key ^ keys[place + length - 1])
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(29);
                f((place, length), key);
            }
        }
    }

    /// Of the shortest pieces: longer ones have words of what stands beside them.
    fn join(&self, input: &Input, of: usize, places: &[Self::Place]) -> Box<dyn Mark> {
        let text = input.texts();
        let all = words(&text, WORDS / of.max(1));
        let length = places.iter().map(|place| place.1).min().unwrap_or_default();
        let shortest = || places.iter().filter(|place| place.1 == length).map(|place| place.0);
        let from = shortest().min().unwrap_or_default();
        let to = shortest().max().unwrap_or_default() + length;
        Box::new(Phrase(all[from..to.min(from + JOINED)].join(" ")))
    }
}

impl Mark for Phrase {
    fn put(&self, input: &Input, rng: &mut ChaCha8Rng) -> Input {
        input.with_text(|text| {
            let mut words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
            let place = rng.random_range(0..=words.len().min(PLACES));
            words.splice(place..place, [" ", &self.0, " "]);
            words.concat()
        })
    }

    fn words(&self) -> String {
        let phrase: String = self.0.chars().take(QUOTED).collect();
        format!("the phrase `{phrase}`")
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
