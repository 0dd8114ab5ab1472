//! A model of next tokens: what it keeps, what it writes, and how surprised it is.
use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_model::{
    ARCHITECTURE, Adapters, Architecture, Batch, CpuBackend, Device, Ended, Featurizer, Input,
    LABELS, Model, Sampling, Surprise, TOKENIZER, Task, WEIGHTS, Weights,
};

use crate::samples::{architecture, encoder_form, featurizer, files, inputs, load, random};

fn next_token() -> Architecture {
    Architecture { task: Task::NextToken, context: 40, ..architecture() }
}

/// The form of a pretrained encoder, of which nothing is left to chance either.
fn other_form() -> Architecture {
    Architecture { block: encoder_form(), dense_layers: 1, ..next_token() }
}

fn generation(architecture: &Architecture) -> BTreeMap<String, Bytes> {
    let tokenizer = tokenizer(architecture).tokenizer;
    let files: [(&str, Vec<u8>); 4] = [
        (ARCHITECTURE, serde_json::to_vec(architecture).unwrap()),
        (TOKENIZER, tokenizer.to_bytes().unwrap()),
        (WEIGHTS, random(architecture, architecture.vocab, 5)),
        (LABELS, b"[]".to_vec()),
    ];
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect()
}

/// With room for the end of a text.
fn tokenizer(architecture: &Architecture) -> Featurizer {
    let smaller = Architecture { vocab: architecture.vocab - 1, ..architecture.clone() };
    Featurizer { architecture: architecture.clone(), ..featurizer(&smaller) }
}

fn model() -> Model {
    Model::from_files(&generation(&next_token()), &Device::Cpu).unwrap()
}

/// Logits of the last token's successor, without anything kept.
fn anew(weights: &Weights<CpuBackend>, tokens: &[u32]) -> Vec<f32> {
    let logits = weights.network.forward(&Batch::of_tokens([tokens], &Default::default())).logits;
    let [rows, _] = logits.dims();
    logits.narrow(0, rows - 1, 1).into_data().to_vec().unwrap()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

#[test]
fn what_is_kept_gives_what_is_computed_anew_token_by_token() {
    let narrow = Architecture { kv_heads: 1, top_k: 4, ..next_token() };
    for architecture in [next_token(), narrow, other_form()] {
        let bytes = random(&architecture, architecture.vocab, 7);
        let prefix = Adapters { prefix: 3, attention_rank: 2, alpha: 4.0, ..Adapters::default() };
        for adapters in [Adapters::default(), prefix] {
            let (files, device) = ((&bytes[..], None), Default::default());
            let vocab = architecture.vocab;
            let weights = Weights::<CpuBackend>::with_adapters(
                &architecture,
                &adapters,
                vocab,
                files,
                3,
                &device,
            );
            let weights = weights.unwrap();
            let mut cache = weights.network.cache();
            // A prompt at once, a few tokens at once, then one by one.
            let mut text: Vec<u32> = vec![17, 250, 3, 3, 99];
            let mut unread = text.clone();
            for step in 0..30 {
                let kept = weights.network.next(&unread, &mut cache).into_data();
                let kept: Vec<f32> = kept.to_vec().unwrap();
                assert_eq!(cache.len(), text.len());
                let anew = anew(&weights, &text);
                for (at, (kept, anew)) in kept.iter().zip(&anew).enumerate() {
                    assert!((kept - anew).abs() < 1e-5, "{step} {at}: {kept} {anew}");
                }
                assert_eq!(best(&kept), best(&anew), "{step}");
                unread = vec![best(&kept) as u32];
                if step == 2 {
                    unread.extend([5, 6, 7]);
                }
                text.extend(&unread);
                if text.len() > architecture.context {
                    break;
                }
            }
        }
    }
}

#[test]
fn greedy_text_is_the_likeliest_token_each_time() {
    let (model, architecture) = (model(), next_token());
    let weights = load(&architecture, architecture.vocab, &random(&architecture, 300, 5));
    let tokenizer = tokenizer(&architecture).tokenizer;
    let greedy = Sampling { temperature: 0.0, max_tokens: 25, ..Sampling::default() };
    let mut found = model.generate("free tickets", greedy).unwrap();
    let mut text = vec![architecture.end_of_text()];
    text.extend(tokenizer.encode("free tickets").unwrap());
    let mut bytes = Vec::new();
    let mut written = String::new();
    for piece in found.by_ref() {
        let mut logits = anew(&weights, &text);
        // Rows of the vocabulary that no token of the tokenizer has.
        logits[tokenizer.vocab()..299].fill(f32::NEG_INFINITY);
        assert_eq!(piece.token as usize, best(&logits));
        text.push(piece.token);
        bytes.extend(tokenizer.bytes(piece.token));
        written.push_str(&piece.text);
    }
    assert_eq!(written, String::from_utf8_lossy(&bytes));
    assert!(matches!(found.ended(), Some(Ended::Length | Ended::Text)));
    assert_eq!(found.tokens(), text.len() - 1 - tokenizer.encode("free tickets").unwrap().len());
}

fn text(model: &Model, prompt: &str, sampling: &Sampling) -> (String, usize, Ended) {
    let mut found = model.generate(prompt, sampling.clone()).unwrap();
    let text = found.by_ref().map(|piece| piece.text).collect();
    assert_eq!(found.next(), None, "it has ended");
    (text, found.tokens(), found.ended().unwrap())
}

#[test]
fn the_same_seed_writes_the_same_and_bounds_hold() {
    let model = model();
    let sampling = Sampling { seed: 1, max_tokens: 20, ..Sampling::default() };
    let one = text(&model, "minutes", &sampling);
    assert_eq!(text(&model, "minutes", &sampling), one);
    assert_ne!(text(&model, "minutes", &Sampling { seed: 2, ..sampling.clone() }).0, one.0);
    assert!(one.1 <= 20);
    let (_, count, ended) = text(&model, "", &Sampling { max_tokens: 3, ..sampling.clone() });
    assert!(count == 3 && ended == Ended::Length || ended == Ended::Text);
    // The context is 40: one token stands before the text, and the last is not read again.
    let long = Sampling { max_tokens: 1_000, seed: 5, ..Sampling::default() };
    let (_, count, ended) = text(&model, "", &long);
    assert!(count == 40 && ended == Ended::Length || ended == Ended::Text, "{count} {ended:?}");
    let prompt = "free tickets to the opera ".repeat(100);
    let (_, count, ended) = text(&model, &prompt, &long);
    // Of a long prompt the end is read: half of the context is left to write in.
    assert!(
        (20..=21).contains(&count) && ended == Ended::Length || ended == Ended::Text,
        "{count} {ended:?}"
    );
    // A stop that is met at the first letter that comes anyway.
    let first = one.0.chars().nth(1).unwrap().to_string();
    let stop = Sampling { stop: vec![first.clone()], ..sampling };
    let (before, _, ended) = text(&model, "minutes", &stop);
    assert_eq!(ended, Ended::Stop);
    assert!(one.0.starts_with(&format!("{before}{first}")), "{before:?} {:?}", one.0);
}

#[test]
fn who_asks_the_wrong_model_or_for_the_impossible_is_told() {
    let (model, texts) = (model(), inputs());
    let error = model.predict(&texts).unwrap_err().to_string();
    assert!(error.contains("`next_token`") && error.contains("`classification`"), "{error}");
    let classifier = Model::from_files(&files(&architecture()), &Device::Cpu).unwrap();
    assert!(classifier.generate("a", Sampling::default()).is_err());
    assert!(classifier.surprise(&texts).is_err());
    for (sampling, needle) in [
        (Sampling { max_tokens: 0, ..Sampling::default() }, "`max_tokens` is 0"),
        (Sampling { temperature: -0.1, ..Sampling::default() }, "`temperature` is -0.1"),
        (Sampling { temperature: f64::NAN, ..Sampling::default() }, "`temperature` is NaN"),
        (Sampling { top_p: 0.0, ..Sampling::default() }, "`top_p` is 0"),
        (Sampling { top_p: 1.5, ..Sampling::default() }, "`top_p` is 1.5"),
        (Sampling { stop: vec![String::new()], ..Sampling::default() }, "`stop`"),
    ] {
        let error = model.generate("a", sampling).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
    let mut wrong = generation(&next_token());
    wrong.insert(LABELS.to_owned(), Bytes::from_static(br#"["ham"]"#));
    let error = Model::from_files(&wrong, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("labels.json") && error.contains("`ham`"), "{error}");
    // A tokenizer that needs every row leaves none for the end of a text.
    let mut full = generation(&next_token());
    let known = tokenizer(&next_token()).tokenizer.vocab();
    let small = Architecture { vocab: known, ..next_token() };
    full.insert(ARCHITECTURE.to_owned(), serde_json::to_vec(&small).unwrap().into());
    let error = Model::from_files(&full, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains(&format!("holds {}", known - 1)), "{error}");
}

#[test]
fn surprise_is_the_negative_log_likelihood_of_each_token() {
    let (model, architecture) = (model(), next_token());
    let weights = load(&architecture, architecture.vocab, &random(&architecture, 300, 5));
    let featurizer = tokenizer(&architecture);
    let found = model.surprise(&inputs()).unwrap();
    for (input, found) in inputs().iter().zip(&found) {
        let tokens = featurizer.features(input).unwrap().tokens;
        let nats: f64 = (1..tokens.len())
            .map(|at| {
                let logits = anew(&weights, &tokens[..at]);
                let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
                sum.ln() - f64::from(logits[tokens[at] as usize])
            })
            .sum();
        assert!((found.nats - nats).abs() < 1e-3, "{found:?} {nats}");
        assert_eq!(found.tokens, tokens.len() - 1);
        let whole = tokens.ends_with(&[architecture.end_of_text()]);
        let length = input.texts().len();
        assert!(found.bytes <= length && (!whole || found.bytes == length));
        assert!((found.perplexity().ln() - nats / found.tokens as f64).abs() < 1e-4);
    }
    let all: Surprise = found.iter().copied().sum();
    let bits: f64 = found.iter().map(|one| one.bits_per_byte() * one.bytes as f64).sum();
    assert!((all.bits_per_byte() - bits / all.bytes as f64).abs() < 1e-9);
    assert!(model.surprise(&[Input::text("")]).unwrap()[0].tokens == 1);
}
