//! What a prediction is made from.
use std::borrow::Cow;

use tidegate_contracts::{Event, FeatureValue, Golden, Part};

use crate::front_ends;

/// Parts that [`Input::bounded`] keeps at most.
const MOST_PARTS: usize = 16;

/// The parts of one event, in its order. Never its groups or its label.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Input {
    /// Text, images, audio and tabular features.
    pub parts: Vec<Part>,
}

impl Input {
    /// One text: the common case.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { parts: vec![Part::Text(text.into())] }
    }

    /// What a model sees of an event.
    #[must_use]
    pub fn from_event(event: &Event) -> Self {
        Self { parts: event.parts.clone() }
    }

    /// What was asked when a golden answer was recorded.
    #[must_use]
    pub fn from_golden(golden: &Golden) -> Self {
        if golden.parts.is_empty() {
            return Self::text(&*golden.text);
        }
        Self { parts: golden.parts.clone() }
    }

    /// A golden answer to it.
    #[must_use]
    pub fn into_golden(self, probabilities: Vec<f32>) -> Golden {
        if self.is_text() {
            return Golden { text: self.texts().into_owned(), parts: Vec::new(), probabilities };
        }
        Golden { text: String::new(), parts: self.parts, probabilities }
    }

    /// All its text parts, joined by a blank line; empty where there is none.
    #[must_use]
    pub fn texts(&self) -> Cow<'_, str> {
        let mut texts = self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        let first = texts.next().unwrap_or_default();
        match texts.next() {
            None => Cow::Borrowed(first),
            Some(second) => Cow::Owned(
                texts.fold(format!("{first}\n\n{second}"), |all, text| all + "\n\n" + text),
            ),
        }
    }

    /// Whether it has nothing but text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The same with its text replaced by `change` of it, in the place of its first text part. Where
    /// there is no text, none comes.
    #[must_use]
    pub fn with_text(&self, change: impl FnOnce(&str) -> String) -> Self {
        let Some(first) = self.parts.iter().position(|part| matches!(part, Part::Text(_))) else {
            return self.clone();
        };
        let mut text = change(&self.texts());
        let kept = self.parts.iter().enumerate();
        let parts = kept.filter_map(|(at, part)| match part {
            Part::Text(_) => (at == first).then(|| Part::Text(std::mem::take(&mut text))),
            other => Some(other.clone()),
        });
        Self { parts: parts.collect() }
    }

    /// Tabular features of all its parts.
    #[must_use]
    pub fn features(&self) -> usize {
        let of = |part: &Part| if let Part::Features(values) = part { values.len() } else { 0 };
        self.parts.iter().map(of).sum()
    }

    /// Bytes of its parts, about: what it takes in a queue.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Bytes that no other input has, to be hashed: of text alone the text itself.
    #[must_use]
    pub fn canonical(&self) -> Cow<'_, [u8]> {
        if self.is_text() {
            return match self.texts() {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
        }
        // No text begins so.
        let mut all = vec![0xff];
        let put = |all: &mut Vec<u8>, bytes: &[u8]| {
            all.extend((bytes.len() as u64).to_le_bytes());
            all.extend_from_slice(bytes);
        };
        put(&mut all, self.texts().as_bytes());
        for part in self.parts.iter().filter(|part| !matches!(part, Part::Text(_))) {
            put(&mut all, part.name().as_bytes());
            match part {
                Part::Text(_) => {}
                Part::Image(bytes) | Part::Audio(bytes) => put(&mut all, bytes),
                Part::Features(values) => {
                    all.extend((values.len() as u64).to_le_bytes());
                    for (name, value) in values {
                        put(&mut all, name.as_bytes());
                        match value {
                            FeatureValue::Number(number) => {
                                all.push(0);
                                all.extend(number.to_le_bytes());
                            }
                            FeatureValue::Category(category) => {
                                all.push(1);
                                put(&mut all, category.as_bytes());
                            }
                        }
                    }
                }
            }
        }
        Cow::Owned(all)
    }

    /// The same within bounds: its text cut to `text_bytes`, pictures and sounds of more than
    /// `part_bytes` made small enough (a picture by its size, a sound by its rate and length). Parts
    /// that cannot be read or made so small are left out, and so is what comes behind 16 parts.
    #[must_use]
    pub fn bounded(&self, text_bytes: usize, part_bytes: usize) -> Self {
        let cut = |text: &str| text[..text.floor_char_boundary(text_bytes)].to_owned();
        let parts = self.with_text(cut).parts.into_iter().take(MOST_PARTS);
        Self { parts: parts.filter_map(|part| front_ends::bounded(part, part_bytes)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn features(name: &str, value: FeatureValue) -> Part {
        Part::Features(BTreeMap::from([(name.to_owned(), value)]))
    }

    #[test]
    fn a_text_is_changed_in_its_place_and_other_parts_stay() {
        let image = Part::Image(vec![1]);
        let both =
            Input { parts: vec![Part::Text("a".into()), image.clone(), Part::Text("b".into())] };
        assert_eq!(both.texts(), "a\n\nb");
        let changed = both.with_text(|text| text.to_uppercase());
        assert_eq!(changed.parts, [Part::Text("A\n\nB".into()), image.clone()]);
        let none = Input { parts: vec![image] };
        assert_eq!(none.with_text(|_| "text".into()), none);
        assert!(none.texts().is_empty() && !none.is_text() && Input::text("").is_text());
    }

    #[test]
    fn different_inputs_have_different_bytes() {
        assert_eq!(&*Input::text("a").canonical(), b"a");
        let number = |n| features("x", FeatureValue::Number(n));
        let category = |c: &str| features("x", FeatureValue::Category(c.to_owned()));
        let inputs = [
            vec![],
            vec![Part::Text("a".into())],
            vec![Part::Image(vec![7])],
            vec![Part::Audio(vec![7])],
            vec![Part::Text("a".into()), Part::Image(vec![7])],
            vec![Part::Image(vec![7]), Part::Image(vec![])],
            vec![number(1.0)],
            vec![number(2.0)],
            vec![category("1")],
            vec![number(1.0), category("1")],
        ];
        let all: BTreeSet<Vec<u8>> = inputs
            .iter()
            .map(|parts| Input { parts: parts.clone() }.canonical().into_owned())
            .collect();
        assert_eq!(all.len(), inputs.len());
    }
}
