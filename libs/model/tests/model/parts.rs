//! Parts beside text in one sequence: independence, gradients, errors.
use std::collections::BTreeMap;

use burn::{
    backend::{Autodiff, Flex},
    module::{Module as _, ModuleVisitor, Param},
    tensor::{Tensor, TensorData, backend::AutodiffBackend},
};
use tidegate_contracts::{FeatureValue, Part};
use tidegate_model::{
    ARCHITECTURE, Architecture, Batch, Device, FEATURE_SCALES, Features, ImageShape, Input,
    Modality, Model, ModelError, Scales, WEIGHTS, Weights, check_part,
};

use crate::samples::{architecture, encoder_form, featurizer, files, random, read, write};

type Train = Autodiff<Flex>;

fn all_parts() -> Architecture {
    Architecture {
        modalities: Modality::ALL.into(),
        image: ImageShape { side: 4, patch: 2, limit: 1 },
        ..architecture()
    }
}

fn png(seed: u8) -> Part {
    let pixels: Vec<u8> = (0..16).map(|at| seed.wrapping_mul(31).wrapping_add(at * 9)).collect();
    Part::Image(crate::png::png(4, &pixels))
}

fn wav(hertz: f64) -> Part {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for at in 0..1_600 {
        let turn = std::f64::consts::TAU * hertz * f64::from(at) / 8_000.0;
        writer.write_sample((turn.sin() * 9_000.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    Part::Audio(bytes.into_inner())
}

fn table(number: f64, category: &str) -> Part {
    Part::Features(BTreeMap::from([
        ("size".to_owned(), FeatureValue::Number(number)),
        ("colour".to_owned(), FeatureValue::Category(category.to_owned())),
    ]))
}

/// Every kind alone, and together in different orders.
fn inputs() -> Vec<Input> {
    let text = || Part::Text("minutes of the meeting".to_owned());
    [
        vec![text()],
        vec![png(1)],
        vec![wav(440.0)],
        vec![table(3.5, "red")],
        vec![text(), png(2), wav(900.0), table(-1.0, "blue")],
        vec![table(7.0, "red"), png(3), text()],
        vec![Part::Text(String::new())],
    ]
    .map(|parts| Input { parts })
    .into()
}

/// Of the usual form, and of that of an encoder, whose positions are learned.
fn forms(a: Architecture) -> [Architecture; 2] {
    let encoder = Architecture { block: encoder_form(), dense_layers: 1, ..a.clone() };
    [a, encoder]
}

fn model() -> Model {
    model_of(&all_parts())
}

fn model_of(architecture: &Architecture) -> Model {
    let mut files = files(architecture);
    files.insert(FEATURE_SCALES.to_owned(), Scales::default().to_bytes().into());
    Model::from_files(&files, &Device::Cpu).unwrap()
}

#[test]
fn an_answer_does_not_depend_on_what_else_is_in_the_batch() {
    for architecture in forms(all_parts()) {
        answers_are_independent(&model_of(&architecture));
    }
}

fn answers_are_independent(model: &Model) {
    let inputs = inputs();
    let together = model.predict(&inputs).unwrap();
    for (at, (input, scores)) in inputs.iter().zip(&together).enumerate() {
        let alone = model.predict(std::slice::from_ref(input)).unwrap();
        for (a, b) in alone[0].probabilities.iter().zip(&scores.probabilities) {
            assert!((a - b).abs() < 1e-5, "{at}");
        }
    }
    let mut distinct: Vec<_> = together.iter().map(|s| format!("{s:?}")).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), inputs.len(), "every part says something");
}

#[test]
fn texts_are_answered_to_the_bit_as_by_a_network_that_reads_nothing_else() {
    for (text, all) in forms(architecture()).into_iter().zip(forms(all_parts())) {
        texts_are_answered_as_by(&text, &all);
    }
}

fn texts_are_answered_as_by(text: &Architecture, all: &Architecture) {
    let mut tensors = read(&random(all, 3, 5));
    let of_parts = tensors.keys().filter(|name| name.starts_with("front_ends")).count();
    tensors.retain(|name, _| !name.starts_with("front_ends"));
    let mut plain = files(text);
    // Not a tensor more, nor less.
    plain.insert(WEIGHTS.to_owned(), write(&tensors).into());
    let plain = Model::from_files(&plain, &Device::Cpu).unwrap();
    assert_eq!(of_parts, 8);
    let inputs = crate::samples::inputs();
    let (with, without) = (model_of(all), plain);
    let (with, without) = (with.predict(&inputs).unwrap(), without.predict(&inputs).unwrap());
    assert_eq!(with, without);
}

#[test]
fn an_architecture_of_before_reads_text_alone() {
    let mut json = serde_json::to_value(architecture()).unwrap();
    for field in ["modalities", "image", "audio", "features"] {
        json.as_object_mut().unwrap().remove(field).unwrap();
    }
    let read: Architecture = serde_json::from_value(json).unwrap();
    assert!(read.modalities.is_empty() && read.reads() == ["text"]);
    let files = files(&architecture());
    assert!(!files.contains_key(FEATURE_SCALES));
    let model = Model::from_files(&files, &Device::Cpu).unwrap();
    let error = model.predict(&inputs()[1..2]).unwrap_err();
    assert!(matches!(error, ModelError::NothingToRead { .. }), "{error}");
    // Beside a text the picture is passed over.
    let both = Input { parts: vec![Part::Text("x".into()), png(1)] };
    let scores = model.predict(&[both, Input::text("x")]).unwrap();
    assert_eq!(scores[0], scores[1]);
}

/// Sum of the logits times a fixed pattern: every output counts differently.
fn weighed(weights: &Weights<Train>, features: &[&Features]) -> Tensor<Train, 1> {
    let device = Default::default();
    let logits = weights.network.forward(&Batch::new(features, &device)).logits;
    let shape = logits.dims();
    let pattern: Vec<f32> = (0..shape[0] * shape[1]).map(|at| (at as f32 * 0.9).sin()).collect();
    (logits * Tensor::from_data(TensorData::new(pattern, shape), &device)).sum()
}

/// Gradients by name.
struct Found<'a> {
    path: Vec<String>,
    gradients: &'a <Train as AutodiffBackend>::Gradients,
    of: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor<Train> for Found<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Train, D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.of.insert(self.path.join("."), gradient.into_data().into_vec().unwrap());
        }
    }
}

#[test]
fn gradients_of_the_front_ends_are_those_of_finite_differences() {
    // Every expert is asked, so that no step changes who is.
    let a = Architecture { top_k: 5, ..all_parts() };
    let bytes = random(&a, 3, 5);
    let device = Default::default();
    let weights = Weights::<Train>::from_safetensors(&a, 3, &bytes, &device).unwrap();
    let featurizer = featurizer(&a);
    let features = featurizer.features_all(&inputs()).unwrap();
    let features: Vec<&Features> = features.iter().collect();
    let gradients = weighed(&weights, &features).backward();
    let mut found = Found { path: Vec::new(), gradients: &gradients, of: BTreeMap::new() };
    weights.network.visit(&mut found);
    let found = found.of;
    let names: Vec<&String> = found.keys().filter(|n| n.starts_with("front_ends")).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    let (names, step) = (names.into_iter().cloned().collect::<Vec<_>>(), 1e-2_f32);
    for name in names {
        let gradient = &found[&name];
        // The entries that matter most: others drown in rounding.
        let mut order: Vec<usize> = (0..gradient.len()).collect();
        order.sort_by(|&a, &b| gradient[b].abs().total_cmp(&gradient[a].abs()));
        for &at in &order[..4] {
            let moved = |by: f32| {
                let mut tensors = read(&bytes);
                tensors.get_mut(&name).unwrap().1[at] += by;
                let bytes = write(&tensors);
                let weights = Weights::<Train>::from_safetensors(&a, 3, &bytes, &device).unwrap();
                let value = weighed(&weights, &features).into_data().to_vec::<f32>().unwrap();
                f64::from(value[0])
            };
            let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            let found = f64::from(gradient[at]);
            assert!(
                (found - numeric).abs() < 0.03 * numeric.abs().max(0.05),
                "{name}[{at}]: {found}, {numeric}"
            );
        }
    }
}

#[test]
fn a_part_that_cannot_be_read_is_named_and_leaves_the_others_their_answers() {
    let model = model();
    let broken = [
        (Part::Image(b"\x89PNG\r\n\x1a\n".to_vec()), "`parts[1].image`"),
        (Part::Audio(b"RIFF\0\0\0\0WAVE".to_vec()), "`parts[1].audio`"),
        (table(f64::NAN, "red"), "feature `size` is NaN"),
        (Part::Features(BTreeMap::new()), "no features"),
        (
            Part::Features(
                (0..10_000).map(|at| (at.to_string(), FeatureValue::Number(0.0))).collect(),
            ),
            "10000 features",
        ),
    ];
    for (part, needle) in broken {
        let error = check_part(1, &part).unwrap_err().to_string();
        assert!(error.contains("`parts[1].") && error.contains(needle), "{error}");
        let bad = Input { parts: vec![Part::Text("x".into()), part] };
        let answers = model.predict_each(&[Input::text("a"), bad.clone(), Input::text("b")]);
        assert!(answers[0].is_ok() && answers[2].is_ok());
        assert_eq!(answers[1].as_ref().unwrap_err().to_string(), error);
        assert_eq!(model.predict(&[bad]).unwrap_err().to_string(), error);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_name() {
    let refused = |change: fn(&mut Architecture)| {
        let mut a = all_parts();
        change(&mut a);
        a.validate().unwrap_err().to_string()
    };
    assert!(refused(|a| a.image.patch = 3).contains("`image.side` is 4"));
    assert!(refused(|a| a.image.side = 0).contains("`modalities` is image"));
    assert!(refused(|a| a.audio.mels = 24).contains("`audio.mels` is 24"));
    assert!(refused(|a| a.audio.seconds = 601).contains("`audio.seconds`"));
    assert!(refused(|a| a.features.rows = 100).contains("`features.rows` is 100"));
    assert!(refused(|a| a.features.tokens = 0).contains("`modalities` is features"));
    let mut files = files(&all_parts());
    let error = Model::from_files(&files, &Device::Cpu).unwrap_err().to_string();
    assert_eq!(error, format!("the generation has no file `{FEATURE_SCALES}`"));
    files.insert(FEATURE_SCALES.to_owned(), Scales::default().to_bytes().into());
    let narrow = Architecture { image: ImageShape { side: 8, ..all_parts().image }, ..all_parts() };
    files.insert(ARCHITECTURE.to_owned(), serde_json::to_vec(&narrow).unwrap().into());
    let error = Model::from_files(&files, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("`front_ends.image.position` has shape [4, 16]"), "{error}");
    assert!(files.contains_key(WEIGHTS));
}
