//! Slopes against finite differences, and budgets.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::{SafeTensors, tensor::TensorView};
use tidegate_contracts::{FeatureValue, Part};

use super::{target::Victims, *};
use crate::{
    ARCHITECTURE, Architecture, CpuBackend, Device, FEATURE_SCALES, ImageShape, LABELS, Modality,
    Picture, Scales, Sound, TOKENIZER, Tokenizer, WEIGHTS, Weights,
};

/// No weight is at its start, where the head is 0; `wide` is how large those of the wide path are.
fn model(wide: f32) -> Model {
    let architecture = Architecture {
        d_model: 16,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        context: 12,
        vocab: 300,
        experts: 2,
        top_k: 2,
        shared_experts: 1,
        expert_width: 8,
        wide_buckets: 1 << 10,
        modalities: Modality::ALL.into(),
        image: ImageShape { side: 8, patch: 4, limit: 1 },
        ..Architecture::default()
    };
    let fresh = Weights::<CpuBackend>::init(&architecture, 3, 1, &Default::default());
    let bytes = fresh.to_safetensors().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>, safetensors::Dtype)> =
        SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let moved = view.data().chunks_exact(4).flat_map(|word| {
                    let value = f32::from_le_bytes(word.try_into().unwrap());
                    let by = match name.as_str() {
                        "wide.rows" => wide,
                        "wide.squares" => 0.0,
                        _ => 0.3,
                    };
                    (value + by * rng.random_range(-1.0..1.0_f32)).to_le_bytes()
                });
                let moved = moved.collect();
                (name, view.shape().to_vec(), moved, view.dtype())
            })
            .collect();
    let views = tensors.iter().map(|(name, shape, bytes, kind)| {
        (name.as_str(), TensorView::new(*kind, shape.clone(), bytes).unwrap())
    });
    let weights = safetensors::serialize(views, None).unwrap();
    let tables: Vec<BTreeMap<String, FeatureValue>> = inputs()
        .into_iter()
        .flat_map(|input| input.parts)
        .filter_map(|part| if let Part::Features(values) = part { Some(values) } else { None })
        .collect();
    let tokenizer = Tokenizer::train(&["minutes of the meeting", "free tickets"], 300).unwrap();
    let files: [(&str, Vec<u8>); 5] = [
        (ARCHITECTURE, serde_json::to_vec(&architecture).unwrap()),
        (TOKENIZER, tokenizer.to_bytes().unwrap()),
        (WEIGHTS, weights),
        (LABELS, br#"["ham","spam","other"]"#.to_vec()),
        (FEATURE_SCALES, Scales::default().learn(&tables).to_bytes()),
    ];
    let files: BTreeMap<String, Bytes> =
        files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect();
    Model::from_files(&files, &Device::Cpu).unwrap()
}

/// Every kind of part in each.
fn inputs() -> Vec<Input> {
    let one = |at: u32| {
        let wave = |place: u32| (f64::from(place * (at % 7 + 2)) * 0.37).sin();
        let picture = (0..192).map(|place| (128.0 + 90.0 * wave(place)) as u8).collect();
        let samples = (0..3_200).map(|place| 0.3 * wave(place) as f32).collect();
        let values = [("a", wave(at)), ("b", 40.0 * wave(at + 9)), ("c", f64::from(at))];
        let values = values.map(|(name, value)| (name.to_owned(), FeatureValue::Number(value)));
        Input {
            parts: vec![
                Part::Text(format!("minutes of the meeting number {at}, free tickets")),
                Part::Image(Picture::of_rgb([8, 8], picture).to_png()),
                Part::Audio(Sound { samples, rate: 16_000 }.to_wav()),
                Part::Features(values.into()),
            ],
        }
    };
    (0..40).map(one).collect()
}

fn attack(method: Method, space: Space, eps: f64) -> Attack {
    Attack { method, space, eps, steps: 5, restarts: 1 }
}

fn with_means<T>(inputs: &[Input], work: impl FnOnce(&Means<'_>) -> T) -> T {
    let seeds: Vec<u64> = (0..inputs.len() as u64).collect();
    let spread = Spread::of(inputs);
    let until = Instant::now() + Duration::from_secs(600);
    work(&Means { seeds: &seeds, spread: &spread, until })
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Of each coordinate, moved by `reach` to both sides: what the margin loses.
fn differences(victims: &Victims<'_>, at: &[usize], reach: f64) -> Vec<f64> {
    let margin = |coordinate: usize, by: f64| {
        let mut points = victims.points();
        points[0].at[coordinate] += by;
        f64::from(victims.scored(points, 1).unwrap()[0].margin)
    };
    let one = |&at: &usize| (margin(at, -reach) - margin(at, reach)) / (2.0 * reach);
    at.iter().map(one).collect()
}

#[test]
fn slopes_are_those_that_finite_differences_find_through_both_paths() {
    let all = inputs();
    for (space, reach, wanted) in
        [(Space::Embedding, 0.02, 0.99), (Space::Pixels, 3.0, 0.7), (Space::Numbers, 0.1, 0.9)]
    {
        for wide in [0.0, 3.0] {
            let model = model(wide);
            for place in [0, 3, 8] {
                let inputs = &all[place..=place];
                let class = model.predict(inputs).unwrap()[0].best().0;
                let attack = attack(Method::PgdLinf, space, 0.1);
                with_means(&all, |means| {
                    let classes = [class];
                    let victims =
                        Victims::open(&model, inputs, &classes, &[0], &attack, means).unwrap();
                    let slopes = &victims.slopes(&victims.points(), Loss::Margin).unwrap()[0];
                    let every = slopes.len().div_ceil(100);
                    let at: Vec<usize> = (0..slopes.len()).step_by(every).collect();
                    let found: Vec<f64> = at.iter().map(|&at| slopes[at]).collect();
                    let numeric = differences(&victims, &at, reach);
                    let alike = correlation(&found, &numeric);
                    println!("{space:?} wide {wide} input {place}: {alike:.3}");
                    assert!(alike > wanted, "{space:?} wide {wide} input {place}: {alike}");
                });
            }
        }
    }
}

#[test]
fn what_is_found_is_within_its_budget_and_is_what_the_model_answers_to() {
    let (model, all) = (model(1.0), inputs());
    let inputs = &all[..6];
    let answers = model.predict(inputs).unwrap();
    let classes: Vec<usize> = answers.iter().map(|scores| scores.best().0).collect();
    let run = |attack: Attack| {
        with_means(&all, |means| {
            let means = Means { seeds: &means.seeds[..6], ..*means };
            let found = model.attacked(inputs, &classes, &attack, &means).unwrap();
            assert_eq!(found, model.attacked(inputs, &classes, &attack, &means).unwrap());
            found
        })
    };
    let spread = Spread::of(&all);
    for method in [Method::Fgsm, Method::PgdLinf, Method::PgdL2, Method::Random(Norm::Linf)] {
        for (space, eps) in [(Space::Pixels, 4.0), (Space::Numbers, 0.2), (Space::Waveform, 0.05)] {
            let (found, mut changed) = (run(attack(method, space, eps)), 0);
            for ((found, before), class) in found.iter().zip(inputs).zip(&classes) {
                let Attacked::Answer { scores, input: Some(input), queries } = found else {
                    panic!("{method:?} {space:?}: {found:?}")
                };
                let again = model.predict(std::slice::from_ref(input)).unwrap();
                assert!(*queries > 0 && again[0].best().0 == scores.best().0);
                // Over the likeliest other class: with three of them the class itself may gain.
                let lead = |scores: &Scores| {
                    let p = &scores.probabilities;
                    let others = (0..p.len()).filter(|other| other != class).map(|other| p[other]);
                    p[*class].ln() - others.fold(0.0, f32::max).ln()
                };
                let clean = &model.predict(std::slice::from_ref(before)).unwrap()[0];
                let (less, more) = (lead(scores), lead(clean));
                assert!(less <= more + 1e-4, "{method:?} {space:?}: {less} {more}");
                let moved = moved(before, input, space, &spread);
                let mean = moved.iter().map(|by| by * by).sum::<f64>() / moved.len() as f64;
                let far = match method.norm() {
                    Norm::Linf => moved.iter().fold(0.0_f64, |most, by| most.max(by.abs())),
                    Norm::L2 => mean.sqrt(),
                };
                // Bytes are rounded, samples are f32.
                let slack = if space == Space::Pixels { 0.5 } else { 1e-3 };
                assert!(far <= eps + slack, "{method:?} {space:?}: {far}");
                changed += usize::from(mean > 0.0);
            }
            assert!(changed >= 4, "{method:?} {space:?}: {changed} of 6 were changed");
        }
    }
}

/// Of each coordinate, in the unit of the space.
fn moved(before: &Input, after: &Input, space: Space, spread: &Spread) -> Vec<f64> {
    let mut moved = Vec::new();
    for (before, after) in before.parts.iter().zip(&after.parts) {
        match (before, after) {
            (Part::Image(a), Part::Image(b)) if space == Space::Pixels => {
                let [a, b] = [a, b].map(|bytes| Picture::read(bytes).unwrap());
                let pairs = a.rgb().iter().zip(b.rgb());
                moved.extend(pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
            }
            (Part::Audio(a), Part::Audio(b)) if space == Space::Waveform => {
                let [a, b] = [a, b].map(|bytes| Sound::read(bytes, 9).unwrap().samples);
                let square = a.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>();
                let unit = (square / a.len() as f64).sqrt();
                moved.extend(a.iter().zip(&b).map(|(a, b)| f64::from(a - b) / unit));
            }
            (Part::Features(a), Part::Features(b)) if space == Space::Numbers => {
                for (name, value) in a {
                    let (FeatureValue::Number(a), FeatureValue::Number(b)) = (value, &b[name])
                    else {
                        panic!("numbers stay numbers")
                    };
                    let seen = spread.number(name).unwrap();
                    assert!((seen.low - 1e-9..=seen.high + 1e-9).contains(b));
                    moved.push((a - b) / seen.deviation);
                }
            }
            (before, after) => assert_eq!(before, after),
        }
    }
    moved
}

#[test]
fn swaps_keep_to_their_number_and_leave_digits_and_punctuation_alone() {
    let (model, all) = (model(1.0), inputs());
    let classes: Vec<usize> =
        model.predict(&all).unwrap().iter().map(|scores| scores.best().0).collect();
    let keep = |text: &str| -> String { text.chars().filter(|c| !c.is_alphabetic()).collect() };
    for method in [Method::Hotflip, Method::Random(Norm::Linf)] {
        for space in [Space::Characters, Space::Words] {
            let attack = attack(method, space, 2.0);
            let found =
                with_means(&all, |means| model.attacked(&all, &classes, &attack, means).unwrap());
            for (found, before) in found.iter().zip(&all) {
                let Attacked::Answer { input: Some(input), .. } = found else {
                    panic!("{found:?}")
                };
                let (old, new) = (before.texts(), input.texts());
                assert_eq!(keep(&old), keep(&new));
                assert_eq!(before.parts[1..], input.parts[1..]);
                let count = |text: &str| text.chars().filter(|c| c.is_alphabetic()).count();
                if space == Space::Characters {
                    assert!(count(&old) - count(&new) <= 2);
                    // The first and the last letter of a word stay.
                    assert!(new.starts_with('m') && new.ends_with('s'));
                }
            }
        }
    }
}

#[test]
fn time_that_is_over_leaves_an_attack_unfinished_and_what_is_not_there_is_not_changed() {
    let (model, all) = (model(1.0), inputs());
    let text = vec![Input::text("minutes of the meeting")];
    let seeds = vec![0; 40];
    let spread = Spread::of(&all);
    let means = Means { seeds: &seeds, spread: &spread, until: Instant::now() };
    let pixels = attack(Method::PgdLinf, Space::Pixels, 4.0);
    let found = model.attacked(&all, &[0; 40], &pixels, &means).unwrap();
    let answered = |one: &&Attacked| matches!(one, Attacked::Answer { .. });
    assert!(found.iter().filter(answered).count() < 40 && found.contains(&Attacked::Unfinished));
    let means = Means { seeds: &seeds[..1], ..means };
    let found = model.attacked(&text, &[0], &pixels, &means).unwrap();
    assert_eq!(found, [Attacked::Nothing]);
}
