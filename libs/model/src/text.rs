//! Inputs to features: text to tokens and hashed n-grams, other parts by their front-ends.
use std::{borrow::Borrow, collections::HashSet, fmt, sync::Arc};

use rayon::prelude::*;
use tidegate_contracts::Part;
use tokenizers::{
    ModelWrapper, Tokenizer as Inner, TruncationParams,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
    tokenizer::{PostProcessor as _, Trainer as _},
};

use crate::{Architecture, Input, ModelError, Rows, Scales, TOKENIZER, Task, front_ends};

/// Bytes of text read for each token of the context. Tokens of running text have 3 to 4 bytes; the
/// rest of a text would be tokenised only to be cut off.
const BYTES_A_TOKEN: usize = 8;

/// Bytes of each text that the tokenizer is learnt from.
const TRAINING_BYTES: usize = 8192;

/// A pair must be seen this often to become a token.
const MIN_FREQUENCY: u64 = 2;

/// Byte-level BPE, learnt at cold start: any text has tokens, none is unknown; or that of a
/// pretrained encoder. Cheap to clone.
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

    /// The same with at most `context` tokens of a text, those included that mark its ends, and no
    /// padding: of a pretrained encoder, whose own file says something else.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for a context without room for a token of the text.
    pub(crate) fn bounded(&self, context: usize) -> Result<Self, ModelError> {
        let mut inner = Inner::clone(&self.0);
        let ends = inner.get_post_processor().map_or(0, |post| post.added_tokens(false));
        if context <= ends {
            let need = format!("must be above {ends}: so many tokens mark a text's ends");
            let value = context.to_string();
            return Err(ModelError::Architecture { field: "context", value, need });
        }
        let bound = TruncationParams { max_length: context, ..TruncationParams::default() };
        inner.with_truncation(Some(bound)).map_err(failed)?.with_padding(None);
        Ok(Self(Arc::new(inner)))
    }

    /// Tokens of the text, with those that mark its ends where it has any. One that was learnt at
    /// cold start has none and reads the whole text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.0.encode_fast(text, true).map_err(failed)?.get_ids().to_vec())
    }
}

impl Tokenizer {
    /// The bytes of text that a token of a byte-level tokenizer stands for; none of one it does not
    /// know.
    #[must_use]
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        let letters = self.0.id_to_token(token).unwrap_or_default();
        letters.chars().filter_map(byte).collect()
    }
}

/// The byte that a letter of the byte-level alphabet stands for: printable ones of Latin-1 for
/// themselves, those from U+0100 on for the others, in order.
fn byte(letter: char) -> Option<u8> {
    let at = u32::from(letter);
    let byte = match at {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => at,
        0x100..=0x120 => at - 0x100,
        0x121..=0x142 => at - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
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

/// An input as the network sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// The first `context` tokens of the first `8 * context` bytes of the text. Where next tokens
    /// are learnt, behind [`Architecture::end_of_text`], and before it where the text was read to
    /// its end.
    pub tokens: Vec<u32>,
    /// What the wide path sees, bucket and value; sorted by bucket, each once: hashed n-grams of the
    /// first `text_bytes` bytes, of length 1 (L2) unless there are none, and of each other part what
    /// is linear evidence: features, directions in a picture, levels of a sound; of about length 1.
    pub grams: Vec<(u32, f32)>,
    /// What the text's n-grams, each counting `1 + ln` of how often it is there, were divided by to
    /// be of length 1; 0 without any.
    pub gram_norm: f32,
    /// Rows of the parts beside text, behind it in the sequence; none that is empty.
    pub parts: Vec<Rows>,
}

impl Features {
    /// Tokens of the whole sequence; an input of nothing counts as one.
    #[must_use]
    pub fn rows(&self) -> usize {
        (self.tokens.len() + self.parts.iter().map(Rows::len).sum::<usize>()).max(1)
    }

    /// What they take in memory, without themselves.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(Rows::bytes).sum();
        size_of_val(&self.tokens[..]) + size_of_val(&self.grams[..]) + parts
    }
}

/// Turns inputs into features. Pure; cheap to clone.
#[derive(Debug, Clone)]
pub struct Featurizer {
    /// Learnt at cold start.
    pub tokenizer: Tokenizer,
    /// Bounds and table sizes.
    pub architecture: Architecture,
    /// How numbers are spread.
    pub scales: Arc<Scales>,
}

impl Featurizer {
    /// Without scales: numbers count by their order of size.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, architecture: Architecture) -> Self {
        Self { tokenizer, architecture, scales: Arc::default() }
    }

    /// Features of one input. The work is bounded by the architecture, however large the parts.
    /// Parts that the architecture does not read are passed over.
    ///
    /// # Errors
    /// [`ModelError::NothingToRead`] when it reads none of them; [`ModelError::BadPart`] for one
    /// that cannot be decoded; [`ModelError::Tokenizer`].
    pub fn features(&self, input: &Input) -> Result<Features, ModelError> {
        let a = &self.architecture;
        if !self.reads(input) {
            return Err(self.nothing_to_read(input));
        }
        let whole = input.texts();
        let text = start_of(&whole, a.text_bytes);
        let read = start_of(text, a.context * BYTES_A_TOKEN);
        let mut tokens = self.tokenizer.encode(read)?;
        if a.task == Task::NextToken {
            // A text of which nothing is read ends at once.
            if read.len() == whole.len() || tokens.is_empty() {
                tokens.push(a.end_of_text());
            }
            tokens.truncate(a.context);
            tokens.insert(0, a.end_of_text());
            return Ok(Features { tokens, ..Features::default() });
        }
        tokens.truncate(a.context);
        let (mut grams, gram_norm) = grams(text, a.wide_ngram, a.wide_buckets);
        let mut parts = Vec::new();
        if !a.modalities.is_empty() {
            let (rows, seen) = front_ends::read(input, a, &self.scales)?;
            parts = rows;
            grams.extend(seen.into_iter().map(|(key, value)| (bucket(key, a.wide_buckets), value)));
            merge(&mut grams);
        }
        Ok(Features { tokens, grams, gram_norm, parts })
    }

    /// Whether the architecture reads any of its parts.
    #[must_use]
    pub fn reads(&self, input: &Input) -> bool {
        self.architecture.reads_any(&input.parts)
    }

    fn nothing_to_read(&self, input: &Input) -> ModelError {
        let given: Vec<&str> = input.parts.iter().map(Part::name).collect();
        let given = if given.is_empty() { "no part".to_owned() } else { given.join(", ") };
        ModelError::NothingToRead { given, read: self.architecture.reads().join(", ") }
    }

    /// About how long an input is, in bytes of text: what takes longer is longer.
    #[must_use]
    pub fn length(&self, input: &Input) -> usize {
        input.texts().len() + front_ends::length(input, &self.architecture)
    }

    /// Features of many inputs, on all cores, in the same order.
    ///
    /// # Errors
    /// As [`Featurizer::features`], for the first that fails.
    pub fn features_all<I: Borrow<Input> + Sync>(
        &self,
        inputs: &[I],
    ) -> Result<Vec<Features>, ModelError> {
        inputs.par_iter().map(|input| self.features(input.borrow())).collect()
    }

    /// The same, each with its own error.
    #[must_use]
    pub fn features_each<I: Borrow<Input> + Sync>(
        &self,
        inputs: &[I],
    ) -> Vec<Result<Features, ModelError>> {
        inputs.par_iter().map(|input| self.features(input.borrow())).collect()
    }
}

/// Sorts by bucket, and adds up what shares one.
fn merge(grams: &mut Vec<(u32, f32)>) {
    grams.sort_by_key(|&(bucket, _)| bucket);
    grams.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
}

pub(crate) fn bucket(hash: u64, buckets: usize) -> u32 {
    u32::try_from(hash & (buckets as u64 - 1)).expect("at most 2^28 buckets")
}

/// Word n-grams up to `longest`, lower-cased, hashed into `buckets` (a power of two).
///
/// A gram seen c times counts `1 + ln c` (sub-linear), and the whole has length 1, so that a long
/// text has no louder voice than a short one. Also returns the length that it had.
fn grams(text: &str, longest: usize, buckets: usize) -> (Vec<(u32, f32)>, f32) {
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
            hits.push(bucket(gram, buckets));
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
    (grams, length)
}

/// Of the lower-cased word.
fn hash_word(word: &str) -> u64 {
    let mut utf8 = [0; 4];
    let mut hash = FNV_START;
    for lower in word.chars().flat_map(char::to_lowercase) {
        hash = lower.encode_utf8(&mut utf8).bytes().fold(hash, fnv_step);
    }
    hash
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

const fn fnv_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3)
}

/// FNV-1a: the same on every machine and in every version, since tables that were learnt depend on
/// it.
pub(crate) fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(FNV_START, fnv_step)
}

/// The finaliser of SplitMix64: spreads every bit over all, so that the lowest ones are a bucket.
pub(crate) fn mix(x: u64) -> u64 {
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
        let grams = |text| grams(text, 2, 1 << 18).0;
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
        let ((ab, _), (ba, _)) = (grams("a b", 2, 1 << 18), grams("b a", 2, 1 << 18));
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
        let tokens = one.encode(text).unwrap();
        assert_eq!(read.encode(text).unwrap(), tokens);
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| one.bytes(token)).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        let all: HashSet<Vec<u8>> = (0..256).map(|token| one.bytes(token)).collect();
        assert!(all.len() == 256 && all.iter().all(|bytes| bytes.len() == 1));
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
