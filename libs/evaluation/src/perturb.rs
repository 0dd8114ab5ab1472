//! Perturbations that leave the label as it is: typing errors and small changes of words.
//!
//! Digits, punctuation and spacing are never touched by character perturbations: a changed amount
//! or address may change the meaning. Seeds come from [`seed_of`], so that candidate and champion
//! see the very same inputs.
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tidegate_contracts::ArtifactHash;

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A letter becomes its neighbour on a qwerty keyboard.
    Typo,
    /// Two neighbouring letters change places.
    SwapLetters,
    /// A letter is left out.
    DeleteLetter,
    /// A letter is typed twice, or with its neighbour.
    InsertLetter,
    /// One of the four above, drawn for each place.
    Characters,
    /// A word is left out.
    DropWord,
    /// Two neighbouring words change places.
    SwapWords,
    /// A word is written in capitals, or in small letters.
    Case,
    /// One of the three above, drawn for each word.
    Words,
}

impl Kind {
    /// The name in suites and verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Typo => "typo",
            Self::SwapLetters => "swap_letters",
            Self::DeleteLetter => "delete_letter",
            Self::InsertLetter => "insert_letter",
            Self::Characters => "characters",
            Self::DropWord => "drop_word",
            Self::SwapWords => "swap_words",
            Self::Case => "case",
            Self::Words => "words",
        }
    }

    const fn of_words(self) -> bool {
        matches!(self, Self::DropWord | Self::SwapWords | Self::Case | Self::Words)
    }
}

/// A kind at a strength.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perturbation {
    /// What is changed.
    pub kind: Kind,
    /// The probability with which each letter, or each word, is changed.
    pub strength: f64,
}

impl Perturbation {
    /// `characters at 5 %`.
    #[must_use]
    pub fn words(&self) -> String {
        let what = match self.kind {
            Kind::Characters => "typing errors in",
            Kind::Words => "word changes at",
            other => return format!("{} at {:.0} %", other.as_str(), self.strength * 100.0),
        };
        let unit = if self.kind.of_words() { "words" } else { "letters" };
        format!("{what} {:.0} % of {unit}", self.strength * 100.0)
    }

    /// `text` perturbed; the same seed gives the same text.
    #[must_use]
    pub fn apply(&self, text: &str, seed: u64) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        if self.kind.of_words() {
            self.change_words(text, &mut rng)
        } else {
            self.change_letters(text, &mut rng)
        }
    }

    fn change_letters(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            if !letter.is_alphabetic() || !rng.random_bool(self.strength) {
                out.push(letter);
                continue;
            }
            let kind = match self.kind {
                Kind::Characters => {
                    [Kind::Typo, Kind::SwapLetters, Kind::DeleteLetter, Kind::InsertLetter]
                        [rng.random_range(0..4)]
                }
                other => other,
            };
            match (kind, letters.peek().copied()) {
                (Kind::SwapLetters, Some(next)) if next.is_alphabetic() => {
                    letters.next();
                    out.extend([next, letter]);
                }
                (Kind::DeleteLetter, _) => {}
                (Kind::InsertLetter, _) => {
                    let again = if rng.random_bool(0.5) { letter } else { neighbour(letter, rng) };
                    out.extend([letter, again]);
                }
                _ => out.push(neighbour(letter, rng)),
            }
        }
        out
    }

    fn change_words(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
        // Spacing stays with the word before it, so that an unchanged text stays itself.
        let mut words: Vec<String> =
            text.split_inclusive(char::is_whitespace).map(ToOwned::to_owned).collect();
        let mut out = String::with_capacity(text.len());
        for at in 0..words.len() {
            if words[at].trim().is_empty() || !rng.random_bool(self.strength) {
                out.push_str(&words[at]);
                continue;
            }
            let kind = match self.kind {
                Kind::Words => {
                    [Kind::DropWord, Kind::SwapWords, Kind::Case][rng.random_range(0..3)]
                }
                other => other,
            };
            match kind {
                Kind::DropWord => {}
                Kind::SwapWords if at + 1 < words.len() => {
                    words.swap(at, at + 1);
                    out.push_str(&words[at]);
                }
                Kind::Case if words[at].chars().any(char::is_lowercase) => {
                    out.push_str(&words[at].to_uppercase());
                }
                Kind::Case => out.push_str(&words[at].to_lowercase()),
                _ => out.push_str(&words[at]),
            }
        }
        out
    }
}

/// The seed of one perturbed example: a function of the suite, the example and the perturbation,
/// and of nothing else.
#[must_use]
pub fn seed_of(suite: &ArtifactHash, example: &str, perturbation: &Perturbation) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(suite.as_bytes());
    hasher.update(perturbation.kind.as_str().as_bytes());
    hasher.update(&perturbation.strength.to_le_bytes());
    hasher.update(example.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

const ROWS: [&str; 3] = ["qwertyuiop", "asdfghjkl", "zxcvbnm"];

/// A letter beside `letter` on a qwerty keyboard, in the same case; another script's letters are
/// typed twice elsewhere and stay themselves here.
fn neighbour(letter: char, rng: &mut ChaCha8Rng) -> char {
    let low = letter.to_ascii_lowercase();
    for (index, row) in ROWS.iter().enumerate() {
        let Some(at) = row.find(low) else { continue };
        let mut near: Vec<u8> = Vec::with_capacity(6);
        for side in [at.wrapping_sub(1), at + 1] {
            near.extend(row.as_bytes().get(side));
        }
        for other in [index.wrapping_sub(1), index + 1] {
            // A row lies half a key to the right of the row above it.
            let shifted = if other < index { [at, at + 1] } else { [at.wrapping_sub(1), at] };
            let row = ROWS.get(other).map_or(&[][..], |row| row.as_bytes());
            near.extend(shifted.iter().filter_map(|&place| row.get(place)));
        }
        let chosen = char::from(near[rng.random_range(0..near.len())]);
        return if letter.is_ascii_uppercase() { chosen.to_ascii_uppercase() } else { chosen };
    }
    letter
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Dear Anna,\n\nthe 3 invoices of May, 1,250.00 in all, are paid. Thank you!";

    #[test]
    fn the_same_seed_gives_the_same_text_and_another_another() {
        for kind in [Kind::Characters, Kind::Words] {
            let perturbation = Perturbation { kind, strength: 0.3 };
            assert_eq!(perturbation.apply(TEXT, 7), perturbation.apply(TEXT, 7));
            assert_ne!(perturbation.apply(TEXT, 7), perturbation.apply(TEXT, 8));
        }
        let suite = ArtifactHash::of(b"suite");
        let weak = Perturbation { kind: Kind::Words, strength: 0.1 };
        let strong = Perturbation { kind: Kind::Words, strength: 0.2 };
        assert_ne!(seed_of(&suite, "a", &weak), seed_of(&suite, "a", &strong));
        assert_ne!(seed_of(&suite, "a", &weak), seed_of(&suite, "b", &weak));
    }

    #[test]
    fn strength_is_the_share_that_is_changed() {
        let text = "abcdefghij ".repeat(2000);
        let typo = Perturbation { kind: Kind::Typo, strength: 0.1 };
        let mistyped = typo.apply(&text, 1);
        let changed = text.chars().zip(mistyped.chars()).filter(|(a, b)| a != b).count();
        let share = changed as f64 / 20_000.0;
        assert!((share - 0.1).abs() < 0.01, "{share}");
        let drop = Perturbation { kind: Kind::DropWord, strength: 0.25 };
        let left = drop.apply(&text, 1).split_whitespace().count() as f64 / 2000.0;
        assert!((left - 0.75).abs() < 0.04, "{left}");
    }

    #[test]
    fn digits_and_punctuation_survive_typing_errors() {
        let hard = Perturbation { kind: Kind::Characters, strength: 1.0 };
        let keep = |text: &str| -> String { text.chars().filter(|c| !c.is_alphabetic()).collect() };
        assert_eq!(keep(&hard.apply(TEXT, 3)), keep(TEXT));
    }

    #[test]
    fn a_neighbour_is_near_and_keeps_its_case() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..50 {
            assert!("qwsxz".contains(neighbour('a', &mut rng)));
            assert!("OLMJIKUN".contains(neighbour('K', &mut rng)));
        }
        assert_eq!(neighbour('ж', &mut rng), 'ж');
    }
}
