//! Inference.
use std::time::Instant;

use bytes::Bytes;
use chrono::Utc;
use tidegate_contracts::{ContentType, Event};
use tidegate_model::{
    ARCHITECTURE, Architecture, Device, Input, LABELS, Model, Scores, TOKENIZER, WEIGHTS,
};

use crate::samples::{architecture, files, inputs};

fn model() -> Model {
    Model::from_files(&files(&architecture()), &Device::Cpu).unwrap()
}

/// Enough for several chunks, of mixed lengths.
fn many() -> Vec<Input> {
    (0..9)
        .flat_map(|i| {
            inputs().into_iter().map(move |input| Input::text(format!("{} {i}", input.texts())))
        })
        .collect()
}

fn refused(change: impl FnOnce(&mut std::collections::BTreeMap<String, Bytes>)) -> String {
    let mut files = files(&architecture());
    change(&mut files);
    Model::from_files(&files, &Device::Cpu).unwrap_err().to_string()
}

#[test]
fn an_answer_does_not_depend_on_who_else_asks() {
    let (model, inputs) = (model(), many());
    let together = model.predict(&inputs).unwrap();
    assert_eq!(together.len(), inputs.len());
    for (input, together) in inputs.iter().zip(&together) {
        let alone = model.predict(std::slice::from_ref(input)).unwrap().remove(0);
        let sum: f32 = together.probabilities.iter().sum();
        assert!((sum - 1.0).abs() < 1e-6);
        for (a, b) in alone.probabilities.iter().zip(&together.probabilities) {
            assert!((a - b).abs() < 1e-5, "{input:?}: {a}, {b}");
        }
    }
    let answers: Vec<usize> = together.iter().map(|scores| scores.best().0).collect();
    assert!(answers.iter().any(|answer| answer != &answers[0]), "the answers differ");
}

#[test]
fn eight_threads_get_what_one_gets() {
    let (model, inputs) = (model(), many());
    let expected = model.predict(&inputs).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (model, inputs, expected) = (model.clone(), &inputs, &expected);
            scope.spawn(move || {
                for _ in 0..10 {
                    assert_eq!(&model.predict(inputs).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn any_text_is_answered_and_a_huge_one_costs_no_more() {
    let model = model();
    assert_eq!(model.predict(&[]).unwrap(), Vec::<Scores>::new());
    let long = "spam and eggs ".repeat(80_000);
    let one_word = "a".repeat(1 << 20);
    let wide = "日".repeat(400_000);
    let texts = ["", " ", "\u{0}", "a", &long, &one_word, &wide];
    let inputs: Vec<Input> = texts.iter().map(|t| Input::text(*t)).collect();
    let started = Instant::now();
    for scores in model.predict(&inputs).unwrap() {
        assert!(scores.probabilities.iter().all(|p| p.is_finite()));
    }
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    // What is past the bound changes nothing.
    let cut = |text: &str| text[..8192 - 8192 % 14].to_owned();
    let same = [Input::text(&*long), Input::text(cut(&long) + "spam")];
    let answers = model.predict(&same).unwrap();
    for (a, b) in answers[0].probabilities.iter().zip(&answers[1].probabilities) {
        assert!((a - b).abs() < 1e-3);
    }
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    for name in [ARCHITECTURE, TOKENIZER, WEIGHTS, LABELS] {
        let error = refused(|files| drop(files.remove(name)));
        assert_eq!(error, format!("the generation has no file `{name}`"));
        let error = refused(|files| drop(files.insert(name.to_owned(), Bytes::from("}{"))));
        assert!(error.contains(name), "{error}");
    }
    let change = |field: &str, value: serde_json::Value| {
        refused(|files| {
            let mut json: serde_json::Value = serde_json::from_slice(&files[ARCHITECTURE]).unwrap();
            json[field] = value;
            files.insert(ARCHITECTURE.to_owned(), json.to_string().into());
        })
    };
    assert!(change("colour", "red".into()).contains("colour"));
    assert!(change("heads", 3.into()).contains("`d_model` is 16: must be a multiple of 2 * heads"));
    assert!(change("kv_heads", 3.into()).contains("`kv_heads`"));
    assert!(change("top_k", 6.into()).contains("`top_k` is 6: must be 1 to 5"));
    assert!(change("wide_buckets", 100.into()).contains("`wide_buckets` is 100: must be a power"));
    assert!(change("layers", 3.into()).contains("`blocks.2.attention_norm.gain` is missing"));
    assert!(change("experts", 4.into()).contains("`blocks.0.mixture.router` has shape [16, 5]"));
    assert!(change("vocab", 256.into()).contains("vocabulary holds 256"));

    let labels = |labels: &'static str| {
        refused(|files| drop(files.insert(LABELS.to_owned(), Bytes::from(labels))))
    };
    assert!(labels("[]").contains("there are no labels"));
    assert!(labels(r#"["a", "b", "a"]"#).contains("label `a` is there twice"));
    assert!(labels(r#"["a", "b"]"#).contains("`head.weight` has shape [16, 3]"));
}

#[test]
fn an_event_without_a_part_that_is_read_is_refused_by_what_it_has() {
    let decode =
        |json: &str| Event::decode(ContentType::Json, json.as_bytes(), Utc::now()).unwrap();
    let text = decode(r#"{"id": "e1", "parts": [{"text": "a"}, {"text": "b"}]}"#);
    assert_eq!(Input::from_event(&text).texts(), "a\n\nb");
    let table =
        decode(r#"{"id": "e2", "parts": [{"features": {"values": {"x": {"number": 1}}}}]}"#);
    let error = model().predict(&[Input::from_event(&table)]).unwrap_err().to_string();
    assert!(error.contains("the input has features, and this model reads text"), "{error}");
}

#[test]
fn a_device_is_written_as_in_config() {
    let device = |text: &str| serde_json::from_value::<Device>(text.into());
    assert_eq!(device("cpu").unwrap(), Device::Cpu);
    assert_eq!(device("cuda:1").unwrap(), Device::Cuda(1));
    assert_eq!(Device::Cuda(1).to_string(), "cuda:1");
    assert!(device("gpu").unwrap_err().to_string().contains("use `cpu` or `cuda:<index>`"));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_how_to_get_it() {
    let error = Model::from_files(&files(&architecture()), &Device::Cuda(0)).unwrap_err();
    assert!(error.to_string().contains("--features cuda"), "{error}");
}

#[test]
fn parameters_are_counted_once_and_idle_experts_are_not_active() {
    let (total, active) = model().parameters();
    let a: Architecture = architecture();
    let attention = 2 * 16 * 16 + 2 * 16 * 8;
    let mixture = 16 * 5 + 5 + 3 * 16 * 6 * (5 + 2);
    let deep = 300 * 16 + 2 * (2 * 16 + attention + mixture) + 16 + 16 * 3 + 3;
    assert_eq!(total, deep + a.wide_buckets * 3);
    assert_eq!(active, deep - 2 * 3 * (3 * 16 * 6) - 299 * 16 + 3);
}
