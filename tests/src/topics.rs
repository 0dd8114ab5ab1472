//! A stream of short texts on a few topics, made by seed. Never the same sentence twice.
use serde_json::json;

use crate::Chance;

/// A text with its class.
#[derive(Debug, Clone)]
pub struct Text {
    /// The event's id.
    pub id: String,
    /// What it says.
    pub text: String,
    /// Its class.
    pub label: &'static str,
}

impl Text {
    /// The event as JSON, without its label.
    #[must_use]
    pub fn event(&self) -> String {
        json!({ "id": self.id, "parts": [{ "text": self.text }] }).to_string()
    }

    /// The event as JSON, with its label.
    #[must_use]
    pub fn labelled_event(&self) -> String {
        let Self { id, text, label } = self;
        json!({ "id": id, "parts": [{ "text": text }], "label": label }).to_string()
    }

    /// Its label as JSON, for the labels topic.
    #[must_use]
    pub fn late_label(&self) -> String {
        json!({ "id": self.id, "label": self.label }).to_string()
    }
}

const WORDS: [(&str, [&str; 16]); 3] = [
    (
        "harbour",
        [
            "quay",
            "anchor",
            "tide",
            "mooring",
            "pilot",
            "cargo",
            "crane",
            "vessel",
            "buoy",
            "hull",
            "berth",
            "lighthouse",
            "tug",
            "deck",
            "knot",
            "harbour",
        ],
    ),
    (
        "kitchen",
        [
            "butter", "oven", "dough", "pepper", "simmer", "ladle", "onion", "roast", "recipe",
            "flour", "basil", "skillet", "broth", "garlic", "yeast", "plate",
        ],
    ),
    (
        "forest",
        [
            "moss", "oak", "deer", "fern", "trail", "pine", "owl", "bark", "clearing", "brook",
            "mushroom", "badger", "canopy", "thicket", "acorn", "lichen",
        ],
    ),
];

const OTHERS: [&str; 32] = [
    "the", "a", "we", "saw", "near", "again", "under", "old", "new", "with", "and", "then",
    "there", "before", "morning", "evening", "quiet", "large", "small", "they", "went", "found",
    "took", "after", "over", "its", "some", "other", "first", "last", "never", "always",
];

/// Where texts come from.
#[derive(Debug, Clone)]
pub struct Topics {
    seed: u64,
    chance: Chance,
    made: usize,
}

impl Topics {
    /// The stream of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, chance: Chance::new(seed), made: 0 }
    }

    /// The next `n` texts, of all classes in turn.
    pub fn labelled(&mut self, n: usize) -> Vec<Text> {
        (0..n).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Text {
        let (label, words) = WORDS[self.made % WORDS.len()];
        let chance = &mut self.chance;
        let words = (0..14 + chance.below(6)).map(|_| {
            *if chance.share() < 0.4 { chance.pick(&words) } else { chance.pick(&OTHERS) }
        });
        let text = words.collect::<Vec<_>>().join(" ");
        self.made += 1;
        Text { id: format!("t{}-{}", self.seed, self.made), text, label }
    }
}
