//! Text to tokens and hashed n-grams.
use std::{collections::HashSet, fmt, sync::Arc};

use rayon::prelude::*;
use tokenizers::{
    ModelWrapper, Tokenizer as Inner,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
    tokenizer::Trainer as _,
};

use crate::{Architecture, Input, ModelError, TOKENIZER};

/// Bytes of text read for each token of the context. Tokens of running text have 3 to 4 bytes; the
/// rest of a text would be tokenised only to be cut off.
const BYTES_A_TOKEN: usize = 8;

/// Bytes of each text that the tokenizer is learnt from.
const TRAINING_BYTES: usize = 8192;

/// A pair must be seen this often to become a token.
const MIN_FREQUENCY: u64 = 2;

/// Byte-level BPE, learnt at cold start: any text has tokens, none is unknown. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

impl Tokenizer {
    /// Learns merges from the first 8 KiB of each of `texts` until there are `vocab` tokens or no
    /// pair is left that was seen twice. The same texts in any order give the same tokenizer.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the trainer fails.
    pub fn train<S: AsRef<str> + Sync>(texts: &[S], vocab: usize) -> Result<Self, ModelError> {
        let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab)
            .min_frequency(MIN_FREQUENCY)
            .initial_alphabet(alphabet)
            .build();
        let byte_level = ByteLevel::new(false, false, true);
        let mut untrained = Inner::new(ModelWrapper::BPE(BPE::default()));
        untrained.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        trainer
            .feed(texts.iter().map(|text| start_of(text.as_ref(), TRAINING_BYTES)), |text| {
                let mut text = tokenizers::PreTokenizedString::from(text);
                tokenizers::PreTokenizer::pre_tokenize(&byte_level, &mut text)?;
                let words = text.get_splits(
                    tokenizers::OffsetReferential::Original,
                    tokenizers::OffsetType::None,
                );
                Ok(words.into_iter().map(|(word, _, _)| word.to_owned()).collect())
            })
            .map_err(failed)?;
        let mut bpe = BPE::default();
        trainer.train(&mut bpe).map_err(failed)?;
        untrained.with_model(ModelWrapper::BPE(bpe));
        Ok(Self(Arc::new(untrained)))
    }

    /// Reads what [`Tokenizer::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when it is not a tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let bad = |reason: tokenizers::Error| ModelError::BadFile {
            file: TOKENIZER,
            reason: reason.to_string(),
        };
        Ok(Self(Arc::new(Inner::from_bytes(bytes).map_err(bad)?)))
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        self.0.to_string(false).map(String::into_bytes).map_err(failed)
    }

    /// The smallest vocabulary that has a row for each token: the highest id and one.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.0.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Tokens of the whole text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.0.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.0.get_vocab_size(true))
    }
}

fn failed(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

/// At most the first `bytes` bytes, cut between characters.
fn start_of(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A text as the network sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// The first `context` tokens of the first `8 * context` bytes.
    pub tokens: Vec<u32>,
    /// Hashed n-grams of the first `text_bytes` bytes: bucket and value; sorted by bucket, each
    /// once, of length 1 (L2) unless empty.
    pub grams: Vec<(u32, f32)>,
}

/// Turns inputs into features. Pure; cheap to clone.
#[derive(Debug, Clone)]
pub struct Featurizer {
    /// Learnt at cold start.
    pub tokenizer: Tokenizer,
    /// Bounds and table sizes.
    pub architecture: Architecture,
}

impl Featurizer {
    /// Features of one text. The work is bounded by `text_bytes`, however long the text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn features(&self, input: &Input) -> Result<Features, ModelError> {
        let a = &self.architecture;
        let text = start_of(&input.text, a.text_bytes);
        let mut tokens = self.tokenizer.encode(start_of(text, a.context * BYTES_A_TOKEN))?;
        tokens.truncate(a.context);
        Ok(Features { tokens, grams: grams(text, a.wide_ngram, a.wide_buckets) })
    }

    /// Features of many texts, on all cores, in the same order.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn features_all(&self, inputs: &[Input]) -> Result<Vec<Features>, ModelError> {
        inputs.par_iter().map(|input| self.features(input)).collect()
    }
}

/// Word n-grams up to `longest`, lower-cased, hashed into `buckets` (a power of two).
///
/// A gram seen c times counts `1 + ln c` (sub-linear), and the whole has length 1, so that a long
/// text has no louder voice than a short one.
fn grams(text: &str, longest: usize, buckets: usize) -> Vec<(u32, f32)> {
    let words: Vec<u64> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(hash_word)
        .collect();
    let mut hits = Vec::with_capacity(words.len() * longest);
    for start in 0..words.len() {
        let mut gram = 0;
        for &word in words[start..].iter().take(longest) {
            gram = mix(gram ^ word);
            hits.push(u32::try_from(gram & (buckets as u64 - 1)).expect("at most 2^28 buckets"));
        }
    }
    hits.sort_unstable();
    let mut grams: Vec<(u32, f32)> = hits
        .chunk_by(|a, b| a == b)
        .map(|same| (same[0], 1.0 + (same.len() as f32).ln()))
        .collect();
    let length = grams.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
    for (_, value) in &mut grams {
        *value /= length;
    }
    grams
}

/// FNV-1a of the lower-cased word: the same on every machine and in every version, since tables
/// that were learnt depend on it.
fn hash_word(word: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for lower in word.chars().flat_map(char::to_lowercase) {
        for byte in lower.encode_utf8(&mut [0; 4]).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The finaliser of SplitMix64: spreads every bit over all, so that the lowest ones are a bucket.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grams_are_sorted_of_length_one_and_blind_to_case() {
        let grams = |text| grams(text, 2, 1 << 18);
        let found = grams("Free tickets, FREE Tickets for you");
        assert_eq!(found, grams("free TICKETS free tickets FOR you"));
        assert!(found.is_sorted_by(|a, b| a.0 < b.0));
        let length: f32 = found.iter().map(|(_, v)| v * v).sum();
        assert!((length - 1.0).abs() < 1e-6);
        // 4 words, and the pairs free-tickets, tickets-free, tickets-for, for-you.
        assert_eq!(found.len(), 8);
        assert_eq!(grams("?! --"), []);
    }

    #[test]
    fn the_order_of_words_matters_to_pairs_only() {
        let (ab, ba) = (grams("a b", 2, 1 << 18), grams("b a", 2, 1 << 18));
        let shared = ab.iter().filter(|gram| ba.contains(gram)).count();
        assert_eq!((ab.len(), shared), (3, 2));
    }

    #[test]
    fn a_tokenizer_learns_the_same_from_the_same_texts_and_reads_back() {
        let texts: Vec<String> = (0..200)
            .map(|i| format!("buy cheap watches {} today, naïve 日本 {i}", i % 7))
            .collect();
        let one = Tokenizer::train(&texts, 400).unwrap();
        let backwards: Vec<&String> = texts.iter().rev().collect();
        for _ in 0..3 {
            let two = Tokenizer::train(&backwards, 400).unwrap();
            assert_eq!(one.to_bytes().unwrap(), two.to_bytes().unwrap());
        }
        let read = Tokenizer::from_bytes(&one.to_bytes().unwrap()).unwrap();
        let text = "cheap \u{0} naïve 日本 \u{1f980} <pad>";
        assert_eq!(read.encode(text).unwrap(), one.encode(text).unwrap());
        assert!(one.encode("cheap watches").unwrap().len() <= 3);
        assert!(one.vocab() <= 400);
        assert!(Tokenizer::from_bytes(b"{}").unwrap_err().to_string().contains("tokenizer.json"));
    }

    #[test]
    fn a_tokenizer_of_nothing_still_reads_every_byte() {
        let none: [&str; 0] = [];
        let tokenizer = Tokenizer::train(&none, 512).unwrap();
        assert_eq!(tokenizer.vocab(), 256);
        assert_eq!(tokenizer.encode("é").unwrap().len(), 2);
    }
}
