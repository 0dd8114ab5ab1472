//! Attacks on models that were really trained.
mod common;
#[path = "../../model/tests/model/png.rs"]
mod png;

use std::time::{Duration, Instant};

use common::{cold_start, example, examples, trained};
use tidegate_contracts::{Class, FeatureValue, Part};
use tidegate_learning::{Example, Job, Recipe};
use tidegate_model::{
    Attack, Attacked, Device, Input, Means, Method, Model, Norm, Picture, Space, Spread,
};

/// Of real handwriting; see `data/export.py`.
const DIGITS: &[u8] = include_bytes!("data/digits.bin");
/// Of real tumours; see `data/export.py`.
const TUMOURS: &str = include_str!("data/tumours.csv");

fn labelled(label: &str, at: usize, parts: Vec<Part>) -> Example {
    Example { label: Class::new(label), input: Input { parts }, ..example("spam", at) }
}

fn digits(from: usize, to: usize) -> Vec<Example> {
    let digit = |(at, row): (usize, &[u8])| {
        let pixels: Vec<u8> = row[1..].iter().map(|&level| level * 15).collect();
        labelled(&row[0].to_string(), at, vec![Part::Image(png::png(8, &pixels))])
    };
    DIGITS.chunks_exact(65).enumerate().map(digit).skip(from).take(to - from).collect()
}

fn tumours() -> Vec<Example> {
    let mut lines = TUMOURS.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').skip(1).collect();
    let row = |(at, line): (usize, &str)| {
        let (label, numbers) = line.split_once(',').unwrap();
        let values = numbers.split(',').map(|n| FeatureValue::Number(n.parse().unwrap()));
        let values = names.iter().map(|name| (*name).to_owned()).zip(values).collect();
        labelled(label, at, vec![Part::Features(values)])
    };
    let mut rows: Vec<Example> = lines.enumerate().map(row).collect();
    rows.sort_by_key(|row| row.id.as_str().bytes().rev().collect::<Vec<u8>>());
    rows
}

fn model(job: &Job, learnt: &[Example]) -> Model {
    Model::from_files(&trained(job, learnt).unwrap().files, &Device::Cpu).unwrap()
}

fn with_default_recipe(id: &str) -> Job {
    Job { recipe: Recipe::default(), ..cold_start(id) }
}

/// Examples that a model answers rightly, with the outputs of their classes.
fn right(model: &Model, tested: &[Example]) -> (Vec<Input>, Vec<usize>) {
    let inputs: Vec<Input> = tested.iter().map(|example| example.input.clone()).collect();
    let answers = model.predict(&inputs).unwrap();
    let said = answers.iter().map(|scores| scores.best().0);
    let rows = inputs.into_iter().zip(said).zip(tested);
    rows.filter(|((_, said), example)| model.labels()[*said] == example.label)
        .map(|(row, _)| row)
        .unzip()
}

/// The share that is left right, and what was found.
fn left(model: &Model, rows: &(Vec<Input>, Vec<usize>), attack: Attack) -> (f64, Vec<Attacked>) {
    let (inputs, classes) = rows;
    let seeds: Vec<u64> = (0..inputs.len() as u64).collect();
    let spread = Spread::of(inputs);
    let until = Instant::now() + Duration::from_secs(600);
    let means = Means { seeds: &seeds, spread: &spread, until };
    let found = model.attacked(inputs, classes, &attack, &means).unwrap();
    let right = found.iter().zip(classes).filter(|(found, class)| match found {
        Attacked::Answer { scores, .. } => scores.best().0 == **class,
        other => panic!("{other:?}"),
    });
    let share = right.count() as f64 / inputs.len() as f64;
    println!("{attack}: {:.1} % of {} left", share * 100.0, inputs.len());
    (share, found)
}

fn attack(method: Method, space: Space, eps: f64, steps: u32) -> Attack {
    let restarts = u32::from(matches!(method, Method::PgdLinf | Method::PgdL2));
    Attack { method, space, eps, steps, restarts }
}

#[test]
fn slopes_do_more_harm_to_digits_than_chance_and_keep_to_their_budget() {
    let model = model(&with_default_recipe("digits"), &digits(0, 400));
    let rows = right(&model, &digits(1_300, 1_364));
    let share = |method, eps, steps| left(&model, &rows, attack(method, Space::Pixels, eps, steps));
    let (one, _) = share(Method::Fgsm, 16.0, 1);
    let (many, found) = share(Method::PgdLinf, 16.0, 10);
    let (twice, _) = share(Method::PgdLinf, 32.0, 10);
    let (length, _) = share(Method::PgdL2, 16.0, 10);
    let (black, _) = share(Method::Random(Norm::Linf), 16.0, 200);
    let (all, _) = share(Method::PgdLinf, 255.0, 10);
    assert!(one < 0.9 && many <= one + 0.03 && twice <= many && length < 0.9);
    assert!(many <= black + 0.03, "slopes {many}, black box {black}");
    assert!(all < 0.1, "{all}");
    for (found, before) in found.iter().zip(&rows.0) {
        let (Attacked::Answer { input: Some(input), .. }, [Part::Image(before)]) =
            (found, &before.parts[..])
        else {
            panic!("{found:?}")
        };
        let Part::Image(after) = &input.parts[0] else { panic!("it stays a picture") };
        let side = model.architecture().image.side;
        let before = Picture::read(before).unwrap().resized([side; 2]);
        let after = Picture::read(after).unwrap();
        let pairs = before.rgb().iter().zip(after.rgb());
        assert!(pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap() <= 16);
    }
}

#[test]
fn slopes_do_more_harm_to_tables_than_chance() {
    let rows = tumours();
    let (learnt, tested) = rows.split_at(400);
    let model = model(&with_default_recipe("tables"), learnt);
    let rows = right(&model, &tested[..100]);
    let share =
        |method, eps, steps| left(&model, &rows, attack(method, Space::Numbers, eps, steps)).0;
    let (one, many) = (share(Method::Fgsm, 0.5, 1), share(Method::PgdLinf, 0.5, 10));
    let black = share(Method::Random(Norm::Linf), 0.5, 200);
    assert!(many < 0.9 && many <= one + 0.06 && many <= black + 0.06, "{one} {many} {black}");
}

#[test]
fn two_letters_turn_more_texts_by_slope_than_drawn_and_words_alike() {
    let mut job = cold_start("texts");
    job.recipe.cold_start.epochs = 8;
    let model = model(&job, &examples(&["spam", "ham", "news"], 0, 240));
    let rows = right(&model, &examples(&["spam", "ham", "news"], 1_000, 60));
    let share =
        |method, space, eps, steps| left(&model, &rows, attack(method, space, eps, steps)).0;
    for space in [Space::Characters, Space::Words] {
        let (one, two) =
            (share(Method::Hotflip, space, 1.0, 1), share(Method::Hotflip, space, 2.0, 1));
        let black = share(Method::Random(Norm::Linf), space, 2.0, 20);
        assert!(two <= one && two <= black + 0.05, "{space:?}: {one} {two} {black}");
        assert!(two < 0.9, "{space:?}: {two}");
    }
    let near = share(Method::PgdL2, Space::Embedding, 0.05, 10);
    let far = share(Method::PgdL2, Space::Embedding, 1.0, 10);
    assert!(far <= near, "{near} {far}");
}
