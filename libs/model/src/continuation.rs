//! Text by a model of next tokens, a token at a time.
use std::collections::VecDeque;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::{
    Model, ModelError, Task,
    inference::{Known, is_short},
    threads::{alone, in_haste},
};

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Tokens at most.
    pub max_tokens: usize,
    /// What logits are divided by; 0: always the likeliest, of equals the first.
    pub temperature: f64,
    /// Of the likeliest so many; 0: of all.
    pub top_k: usize,
    /// Of the fewest likeliest that have this share of the probability (nucleus sampling, Holtzman
    /// et al. 2019, arXiv 1904.09751); 1: of all.
    pub top_p: f64,
    /// Of every draw: the same seed gives the same text.
    pub seed: u64,
    /// Texts that end it; they are not given out themselves.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { max_tokens: 128, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0, stop: Vec::new() }
    }
}

impl Sampling {
    fn validate(&self) -> Result<(), ModelError> {
        let wrong = |field, value: String, need: &str| {
            Err(ModelError::Sampling { field, value, need: need.to_owned() })
        };
        if self.max_tokens == 0 {
            return wrong("max_tokens", "0".to_owned(), "at least 1 is needed");
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let need = "a finite number of at least 0 is needed";
            return wrong("temperature", self.temperature.to_string(), need);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let need = "a share above 0 and up to 1 is needed";
            return wrong("top_p", self.top_p.to_string(), need);
        }
        if self.stop.iter().any(String::is_empty) {
            return wrong("stop", "an empty text".to_owned(), "it would stop everything");
        }
        Ok(())
    }

    /// A token by its logits; those from `known` on are tokens of no text, but for the last, which
    /// ends one.
    fn choose(&self, logits: &[f32], known: usize, rng: &mut ChaCha8Rng) -> u32 {
        let last = logits.len() - 1;
        let mut open: Vec<(usize, f64)> = (0..known.min(last))
            .chain([last])
            .map(|token| (token, f64::from(logits[token])))
            .collect();
        // Stable: of equals the first.
        open.sort_by(|a, b| b.1.total_cmp(&a.1));
        if self.temperature == 0.0 {
            return open[0].0 as u32;
        }
        if self.top_k > 0 {
            open.truncate(self.top_k);
        }
        let highest = open[0].1;
        for (_, value) in &mut open {
            *value = ((*value - highest) / self.temperature).exp();
        }
        let total: f64 = open.iter().map(|(_, weight)| weight).sum();
        let mut mass = 0.0;
        let mut count = 0;
        for (_, weight) in &open {
            mass += weight;
            count += 1;
            if mass >= self.top_p * total {
                break;
            }
        }
        let mut draw = rng.random_range(0.0..1.0) * mass;
        let drawn = open[..count].iter().find(|(_, weight)| {
            draw -= weight;
            draw < 0.0
        });
        // Rounding may leave a little of the draw behind the last.
        drawn.unwrap_or(&open[count - 1]).0 as u32
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The model says that it is over.
    Text,
    /// One of [`Sampling::stop`] came.
    Stop,
    /// [`Sampling::max_tokens`], or the model's context, is used up.
    Length,
}

/// One token more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its id.
    pub token: u32,
    /// Text that is sure by now; empty while a character is not whole, or a stop may have begun.
    /// All pieces joined are the whole text. Bytes that are no UTF-8 become U+FFFD.
    pub text: String,
}

/// A text that is being written: an iterator over its tokens. Dropping it ends it.
#[derive(Debug)]
pub struct Continuation {
    model: Model,
    sampling: Sampling,
    rng: ChaCha8Rng,
    cache: Known,
    /// Read next.
    next: Vec<u32>,
    /// Tokens chosen.
    count: usize,
    text: Unsure,
    ended: Option<Ended>,
}

impl Model {
    /// Continues `prompt`, of which the end is read where it is longer than the model's context. The
    /// prompt is read with the first token that is asked for.
    ///
    /// # Errors
    /// [`ModelError::Task`] for a model of another task, [`ModelError::Sampling`],
    /// [`ModelError::Tokenizer`].
    pub fn generate(&self, prompt: &str, sampling: Sampling) -> Result<Continuation, ModelError> {
        self.needs(Task::NextToken)?;
        sampling.validate()?;
        let (architecture, tokenizer) = (self.architecture(), self.tokenizer());
        let tokens = tokenizer.encode(prompt)?;
        // Prompt and answer share the context: of a long prompt the end is read, so that there is room
        // for what is asked for, or for half of the context.
        let wanted = sampling.max_tokens.clamp(1, (architecture.context / 2).max(1));
        let room = architecture.context.saturating_sub(wanted);
        let from = tokens.len().saturating_sub(room);
        let mut next = Vec::with_capacity(tokens.len() - from + 1);
        if from == 0 || room == 0 {
            next.push(architecture.end_of_text());
        }
        next.extend(&tokens[from..]);
        Ok(Continuation {
            model: self.clone(),
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            cache: self.cache(),
            next,
            count: 0,
            text: Unsure::new(&sampling.stop),
            ended: None,
            sampling,
        })
    }
}

impl Continuation {
    /// Why it ended; nothing while it goes on.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Tokens so far, one that ended the text included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.count
    }
}

impl Iterator for Continuation {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.ended.is_some() {
            return None;
        }
        let architecture = self.model.architecture();
        let (tokens, cache) = (&self.next, &mut self.cache);
        let logits = if is_short(architecture, tokens.len()) {
            alone(|| self.model.read(tokens, cache))
        } else {
            in_haste(|| self.model.read(tokens, cache))
        };
        let tokenizer = self.model.tokenizer();
        let token = self.sampling.choose(&logits, tokenizer.vocab(), &mut self.rng);
        self.count += 1;
        let mut text = String::new();
        if token == architecture.end_of_text() {
            self.ended = Some(Ended::Text);
        } else if self.text.add(&tokenizer.bytes(token), &mut text) {
            self.ended = Some(Ended::Stop);
            return Some(Piece { token, text });
        } else if self.count == self.sampling.max_tokens
            || self.cache.len() + 1 > architecture.context
        {
            self.ended = Some(Ended::Length);
        }
        if self.ended.is_some() {
            self.text.rest(&mut text);
        }
        self.next = vec![token];
        Some(Piece { token, text })
    }
}

/// Bytes that are no whole character yet, and text that a stop may have begun in.
#[derive(Debug)]
struct Unsure {
    bytes: VecDeque<u8>,
    text: String,
    stop: Vec<String>,
}

impl Unsure {
    fn new(stop: &[String]) -> Self {
        Self { bytes: VecDeque::new(), text: String::new(), stop: stop.to_vec() }
    }

    /// Adds bytes, and gives out what is sure. Whether a stop came; what follows it is dropped.
    fn add(&mut self, bytes: &[u8], out: &mut String) -> bool {
        self.bytes.extend(bytes);
        self.decode(false);
        let found = self.stop.iter().filter_map(|stop| self.text.find(stop.as_str())).min();
        let sure = found.unwrap_or_else(|| self.text.len() - self.begun());
        out.extend(self.text.drain(..sure));
        found.is_some()
    }

    /// Gives out all that is left.
    fn rest(&mut self, out: &mut String) {
        self.decode(true);
        out.push_str(&std::mem::take(&mut self.text));
    }

    /// Moves whole characters from bytes to text; at the end also what will never be one.
    fn decode(&mut self, at_end: bool) {
        let bytes: Vec<u8> = self.bytes.drain(..).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text.push_str(text);
                    return;
                }
                Err(error) => error,
            };
            let (whole, after) = rest.split_at(error.valid_up_to());
            self.text.push_str(&String::from_utf8_lossy(whole));
            let wrong = match error.error_len() {
                Some(wrong) => wrong,
                None if at_end => after.len(),
                None => {
                    self.bytes.extend(after);
                    return;
                }
            };
            self.text.push(char::REPLACEMENT_CHARACTER);
            rest = &after[wrong..];
        }
    }

    /// Bytes at the end of the text that a stop may have begun with.
    fn begun(&self) -> usize {
        let begins = |stop: &String| {
            let longest = (stop.len() - 1).min(self.text.len());
            (1..=longest).rev().find(|&size| {
                let at = self.text.len() - size;
                self.text.is_char_boundary(at) && stop.starts_with(&self.text[at..])
            })
        };
        self.stop.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(stop: &[&str], parts: &[&[u8]]) -> (Vec<String>, bool) {
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut unsure = Unsure::new(&stop);
        let mut found = Vec::new();
        for part in parts {
            let mut out = String::new();
            let stops = unsure.add(part, &mut out);
            found.push(out);
            if stops {
                return (found, true);
            }
        }
        let mut out = String::new();
        unsure.rest(&mut out);
        found.push(out);
        (found, false)
    }

    #[test]
    fn a_character_is_given_out_when_it_is_whole_and_wrong_bytes_are_marked() {
        let crab = "\u{1f980}".as_bytes();
        let (found, _) = pieces(&[], &[b"a", &crab[..1], &crab[1..3], &crab[3..], b"b"]);
        assert_eq!(found, ["a", "", "", "\u{1f980}", "b", ""]);
        let (found, _) = pieces(&[], &[&crab[..2], b"x\xffy", &crab[..3]]);
        assert_eq!(found, ["", "\u{fffd}x\u{fffd}y", "", "\u{fffd}"]);
    }

    #[test]
    fn a_stop_is_found_over_several_pieces_and_what_only_began_as_one_is_given_out() {
        let (found, stopped) = pieces(&["end", "\n\n"], &[b"the ", b"e", b"n", b"d of"]);
        assert_eq!((found.concat().as_str(), stopped), ("the ", true));
        let (found, stopped) = pieces(&["end"], &[b"the e", b"n", b"tire en"]);
        assert_eq!(
            (found.as_slice(), stopped),
            (&["the ", "", "entire ", "en"].map(String::from)[..], false)
        );
        let (found, stopped) = pieces(&["ß!"], &["aß".as_bytes(), b"?", "ß".as_bytes(), b"!b"]);
        assert_eq!((found.concat().as_str(), stopped), ("aß?", true));
    }

    fn drawn(sampling: &Sampling, logits: &[f32], times: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..times).map(|_| sampling.choose(logits, 4, &mut rng)).collect()
    }

    #[test]
    fn tokens_are_drawn_by_their_probability_and_only_of_those_allowed() {
        // Token 4 belongs to no text; token 5 ends one.
        let logits: Vec<f32> = [0.4_f32, 0.3, 0.05, 0.05, 0.9, 0.2].map(f32::ln).to_vec();
        let count = |drawn: &[u32], token: u32| drawn.iter().filter(|&&t| t == token).count();
        let all = drawn(&Sampling::default(), &logits, 10_000);
        for (token, share) in [(0, 0.4), (1, 0.3), (2, 0.05), (3, 0.05), (4, 0.0), (5, 0.2)] {
            let found = count(&all, token) as f64 / 10_000.0;
            assert!((found - share).abs() < 0.02, "{token}: {found}");
        }
        let two = drawn(&Sampling { top_k: 2, ..Sampling::default() }, &logits, 1_000);
        assert!(count(&two, 0) + count(&two, 1) == 1_000 && count(&two, 1) > 300);
        let nucleus = drawn(&Sampling { top_p: 0.75, ..Sampling::default() }, &logits, 1_000);
        assert_eq!(count(&nucleus, 2) + count(&nucleus, 3), 0);
        assert!(count(&nucleus, 5) > 100);
        let greedy = drawn(&Sampling { temperature: 0.0, ..Sampling::default() }, &logits, 10);
        assert_eq!(greedy, [0; 10]);
        let cold = drawn(&Sampling { temperature: 0.01, ..Sampling::default() }, &logits, 100);
        assert_eq!(cold, [0; 100]);
    }
}
