//! Typing errors, small changes of words, and letters that only look alike.
//!
//! Digits, punctuation and spacing are never touched by character perturbations: a changed amount
//! or address may change the meaning.
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::Kind;

/// `text` with each letter, or each word, changed with the probability `strength`.
pub(super) fn change(kind: Kind, strength: f64, text: &str, rng: &mut ChaCha8Rng) -> String {
    let by = Change { kind, strength };
    match kind {
        Kind::DropWord | Kind::SwapWords | Kind::Case | Kind::Words => by.words(text, rng),
        Kind::Homoglyph => by.homoglyphs(text, rng),
        Kind::ZeroWidth => by.zero_widths(text, rng),
        Kind::Whitespace => by.blanks(text, rng),
        _ => by.letters(text, rng),
    }
}

struct Change {
    kind: Kind,
    strength: f64,
}

impl Change {
    /// Letters that look like others become those: of another script, another letter to a model.
    fn homoglyphs(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
        let one = |letter| match LOOK_ALIKE.iter().find(|(latin, _)| *latin == letter) {
            Some((_, other)) if rng.random_bool(self.strength) => *other,
            _ => letter,
        };
        text.chars().map(one).collect()
    }

    /// A mark without width behind letters within words.
    fn zero_widths(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            out.push(letter);
            let within =
                letter.is_alphabetic() && letters.peek().is_some_and(|c| c.is_alphabetic());
            if within && rng.random_bool(self.strength) {
                out.push(ZERO_WIDTH[rng.random_range(0..ZERO_WIDTH.len())]);
            }
        }
        out
    }

    /// Blanks are doubled, become a tab or a line's end, or are left out.
    fn blanks(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for letter in text.chars() {
            match letter {
                ' ' if rng.random_bool(self.strength) => {
                    out.push_str(["  ", "\t", "\n", ""][rng.random_range(0..4)]);
                }
                _ => out.push(letter),
            }
        }
        out
    }

    fn letters(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
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

    fn words(&self, text: &str, rng: &mut ChaCha8Rng) -> String {
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

/// Space, non-joiner and joiner without width.
const ZERO_WIDTH: [char; 3] = ['\u{200b}', '\u{200c}', '\u{200d}'];

/// Latin letters, and Cyrillic ones that look the same in most typefaces.
const LOOK_ALIKE: [(char, char); 24] = [
    ('a', '\u{430}'),
    ('c', '\u{441}'),
    ('e', '\u{435}'),
    ('h', '\u{4bb}'),
    ('i', '\u{456}'),
    ('j', '\u{458}'),
    ('o', '\u{43e}'),
    ('p', '\u{440}'),
    ('s', '\u{455}'),
    ('x', '\u{445}'),
    ('y', '\u{443}'),
    ('A', '\u{410}'),
    ('B', '\u{412}'),
    ('C', '\u{421}'),
    ('E', '\u{415}'),
    ('H', '\u{41d}'),
    ('I', '\u{406}'),
    ('K', '\u{41a}'),
    ('M', '\u{41c}'),
    ('O', '\u{41e}'),
    ('P', '\u{420}'),
    ('S', '\u{405}'),
    ('T', '\u{422}'),
    ('X', '\u{425}'),
];

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
    use rand::SeedableRng as _;

    use super::*;

    const TEXT: &str = "Dear Anna,\n\nthe 3 invoices of May, 1,250.00 in all, are paid. Thank you!";

    fn changed(kind: Kind, strength: f64, text: &str, seed: u64) -> String {
        change(kind, strength, text, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn strength_is_the_share_that_is_changed() {
        let text = "abcdefghij ".repeat(2000);
        let mistyped = changed(Kind::Typo, 0.1, &text, 1);
        let different = text.chars().zip(mistyped.chars()).filter(|(a, b)| a != b).count();
        let share = different as f64 / 20_000.0;
        assert!((share - 0.1).abs() < 0.01, "{share}");
        let left =
            changed(Kind::DropWord, 0.25, &text, 1).split_whitespace().count() as f64 / 2000.0;
        assert!((left - 0.75).abs() < 0.04, "{left}");
        // Of the ten letters six have a look-alike.
        let alike = changed(Kind::Homoglyph, 0.5, &text, 1);
        let share = alike.chars().filter(|c| !c.is_ascii()).count() as f64 / 20_000.0;
        assert!((share - 0.3).abs() < 0.02, "{share}");
    }

    #[test]
    fn digits_and_punctuation_survive_changes_of_letters() {
        let keep = |text: &str| -> String {
            text.chars().filter(|c| !c.is_alphabetic() && !ZERO_WIDTH.contains(c)).collect()
        };
        for kind in [Kind::Characters, Kind::Homoglyph, Kind::ZeroWidth] {
            assert_eq!(keep(&changed(kind, 1.0, TEXT, 3)), keep(TEXT), "{kind:?}");
        }
        let words = |text: &str| text.split_whitespace().collect::<String>();
        let blanks = changed(Kind::Whitespace, 1.0, TEXT, 3);
        assert!(blanks != TEXT && words(&blanks) == words(TEXT));
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
