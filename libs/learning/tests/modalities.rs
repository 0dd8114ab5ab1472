//! Parts beside text are learnt from, by both paths, from nothing.
mod common;
#[path = "../../model/tests/model/png.rs"]
mod png;

use std::{collections::BTreeMap, io::Cursor};

use common::{accuracy, cold_start, example, hot_update, published, trained};
use tidegate_contracts::{Class, FeatureValue, Part};
use tidegate_learning::{Example, Job, LearningError, REPLAY, Recipe};
use tidegate_model::{ARCHITECTURE, Architecture, FEATURE_SCALES, Input, Modality};

/// Of real handwriting; see `data/export.py`.
const DIGITS: &[u8] = include_bytes!("data/digits.bin");
/// Of real tumours; see `data/export.py`.
const TUMOURS: &str = include_str!("data/tumours.csv");

fn labelled(label: &str, at: usize, parts: Vec<Part>) -> Example {
    Example { label: Class::new(label), input: Input { parts }, ..example("spam", at) }
}

fn picture(width: usize, pixels: &[u8]) -> Part {
    Part::Image(png::png(width, pixels))
}

/// Digits `from..to` of the file, as pictures.
fn digits(from: usize, to: usize) -> Vec<Example> {
    let digit = |(at, row): (usize, &[u8])| {
        let pixels: Vec<u8> = row[1..].iter().map(|&level| level * 15).collect();
        labelled(&row[0].to_string(), at, vec![picture(8, &pixels)])
    };
    DIGITS.chunks_exact(65).enumerate().map(digit).skip(from).take(to - from).collect()
}

/// Rows of the table, mixed.
fn tumours() -> Vec<Example> {
    let mut lines = TUMOURS.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').skip(1).collect();
    let row = |(at, line): (usize, &str)| {
        let (label, numbers) = line.split_once(',').unwrap();
        let value = |n: &str| FeatureValue::Number(n.parse().unwrap());
        let values = numbers.split(',').map(value);
        let values = names.iter().map(|name| (*name).to_owned()).zip(values).collect();
        labelled(label, at, vec![Part::Features(values)])
    };
    let mut rows: Vec<Example> = lines.enumerate().map(row).collect();
    rows.sort_by_key(|row| {
        row.id
            .as_str()
            .bytes()
            .fold(7_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
    });
    rows
}

/// A tone that rises, falls or stays, from a pitch and for a time of its own, in noise.
fn tones(from: usize, count: usize) -> Vec<Example> {
    let tone = |at: usize| {
        let noise = |salt: usize| {
            let mixed = (at * 31 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize);
            (mixed >> 40) as f64 / (1 << 24) as f64
        };
        let kind = at % 3;
        let start = 500.0 + 1_500.0 * noise(1);
        let end = [start * 2.0, start / 2.0, start][kind];
        let count = (4_000.0 + 4_000.0 * noise(2)) as usize;
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        let mut turn = 0.0_f64;
        for sample in 0..count {
            let hertz = start + (end - start) * sample as f64 / count as f64;
            turn += std::f64::consts::TAU * hertz / 16_000.0;
            let value = 0.5 * turn.sin() + 0.05 * (noise(sample + 9) - 0.5);
            writer.write_sample((value * 20_000.0) as i16).unwrap();
        }
        writer.finalize().unwrap();
        labelled(["rises", "falls", "stays"][kind], at, vec![Part::Audio(bytes.into_inner())])
    };
    (from..from + count).map(tone).collect()
}

fn with_default_recipe(id: &str) -> Job {
    Job { recipe: Recipe::default(), ..cold_start(id) }
}

fn architecture(files: &BTreeMap<String, bytes::Bytes>) -> Architecture {
    serde_json::from_slice(&files[ARCHITECTURE]).unwrap()
}

#[test]
fn digits_in_pictures_are_learnt_from_nothing_and_updates_go_on() {
    let job = with_default_recipe("digits");
    let first = trained(&job, &digits(0, 500)).unwrap();
    assert_eq!(architecture(&first.files).modalities, [Modality::Image].into());
    let tested = digits(1_300, 1_797);
    let before = accuracy(&first.files, &tested);
    assert!(before > 0.9, "{before}");

    let mut update = hot_update("more", published(&job, &first));
    update.recipe = Recipe::default();
    let second = trained(&update, &digits(500, 1_000)).unwrap();
    let after = accuracy(&second.files, &tested);
    println!("digits: {before:.3} right after 500, {after:.3} after 500 more");
    assert!(after > 0.93 && after >= before - 0.01, "{before}, {after}");
    assert!(second.files[REPLAY].starts_with(b"TGREPLY3"));
}

#[test]
fn the_network_alone_reads_pictures() {
    let mut job = with_default_recipe("deep");
    job.recipe.architecture.image = tidegate_model::ImageShape { side: 8, patch: 2, limit: 1 };
    let course = &mut job.recipe.cold_start;
    (course.deep_rate, course.wide_rate, course.wide_loss, course.epochs) = (3e-3, 0.0, 0.0, 12);
    let files = trained(&job, &digits(0, 800)).unwrap().files;
    let right = accuracy(&files, &digits(1_300, 1_797));
    println!("digits, the network alone: {right:.3} right after 800");
    assert!(right > 0.7, "{right}");
}

#[test]
fn tables_are_learnt_from_nothing_by_each_path() {
    let rows = tumours();
    let (learnt, tested) = rows.split_at(400);
    let files = trained(&with_default_recipe("both"), learnt).unwrap().files;
    assert_eq!(architecture(&files).modalities, [Modality::Features].into());
    assert!(files.contains_key(FEATURE_SCALES));
    let right = accuracy(&files, tested);
    println!("tumours: {right:.3} right by both paths");
    assert!(right > 0.92, "{right}");
    for (deep_rate, wide_rate) in [(2e-3, 0.0), (0.0, 1.0)] {
        let mut job = with_default_recipe("one");
        let course = &mut job.recipe.cold_start;
        (course.deep_rate, course.wide_rate, course.epochs) = (deep_rate, wide_rate, 6);
        let right = accuracy(&trained(&job, learnt).unwrap().files, tested);
        println!("tumours: {right:.3} right, deep {deep_rate}, wide {wide_rate}");
        assert!(right > 0.9, "deep {deep_rate}, wide {wide_rate}: {right}");
    }
}

#[test]
fn sounds_are_learnt_from_nothing() {
    let mut job = with_default_recipe("tones");
    job.recipe.architecture.audio.seconds = 1;
    let files = trained(&job, &tones(0, 300)).unwrap().files;
    assert_eq!(architecture(&files).modalities, [Modality::Audio].into());
    let right = accuracy(&files, &tones(1_000, 90));
    println!("tones: {right:.3} right after 300");
    assert!(right > 0.8, "{right}");
}

/// The text says half of the class, a feature the other half.
fn two_halves(from: usize, count: usize) -> Vec<Example> {
    let one = |at: usize| {
        let (word, size) = (["meeting", "winner"][at % 2], (at / 2 % 2) as f64);
        // Says nothing of either half.
        let spread = (at / 4 * 7 % 10) as f64 / 20.0;
        let values = BTreeMap::from([("size".to_owned(), FeatureValue::Number(size + spread))]);
        let text = Part::Text(format!("{word} number {}", at % 9));
        labelled(&format!("{word}-{size}"), at, vec![text, Part::Features(values)])
    };
    (from..from + count).map(one).collect()
}

#[test]
fn the_parts_of_one_event_are_read_together() {
    let mut job = cold_start("halves");
    job.recipe.cold_start.epochs = 8;
    let files = trained(&job, &two_halves(0, 200)).unwrap().files;
    let tested = two_halves(1_001, 100);
    let right = accuracy(&files, &tested);
    assert!(right > 0.95, "{right}");
    // One half alone leaves the other to chance.
    for keep in ["text", "features"] {
        let half: Vec<Example> = tested
            .iter()
            .map(|example| {
                let mut example = example.clone();
                example.input.parts.retain(|part| part.name() == keep);
                example
            })
            .collect();
        let right = accuracy(&files, &half);
        assert!((0.3..0.75).contains(&right), "{keep}: {right}");
    }
}

#[test]
fn what_cannot_be_read_is_left_out_and_nothing_else_is() {
    let mut window = digits(0, 60);
    let Part::Image(png) = &mut window[7].input.parts[0] else { panic!("a digit is a picture") };
    png.truncate(40);
    let job = cold_start("broken");
    let learnt = trained(&job, &window).unwrap();
    assert_eq!(learnt.metrics["unread_examples"], 1.0);
    assert_eq!(learnt.metrics["window_examples"], 59.0);

    // A champion of texts learns what has a text, and says why it learns nothing else.
    let champion =
        published(&job, &trained(&job, &common::examples(&["spam", "ham"], 0, 60)).unwrap());
    let mut mixed = common::examples(&["spam", "ham"], 60, 10);
    mixed.extend(digits(0, 5));
    let update = hot_update("hot", champion);
    assert_eq!(trained(&update, &mixed).unwrap().metrics["unread_examples"], 5.0);
    let error = trained(&update, &digits(0, 5)).unwrap_err();
    assert!(matches!(error, LearningError::Unread { examples: 5, .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("the input has image, and this model reads text"), "{said}");
}

#[test]
fn a_kind_of_part_is_read_when_enough_of_the_window_has_it_and_the_recipe_gives_it_a_size() {
    let mut window = common::examples(&["spam", "ham"], 0, 300);
    window[3].input.parts.push(picture(2, &[1, 2, 3, 4]));
    let reads = |job: &Job, window: &[Example]| {
        architecture(&trained(job, window).unwrap().files).modalities
    };
    let mut job = cold_start("few");
    job.recipe.cold_start.epochs = 1;
    assert!(reads(&job, &window).is_empty(), "one in 300 is too few");
    for example in &mut window[4..10] {
        example.input.parts.push(picture(2, &[1, 2, 3, 4]));
    }
    assert_eq!(reads(&job, &window), [Modality::Image].into());
    job.recipe.architecture.image.side = 0;
    assert!(reads(&job, &window).is_empty(), "the recipe wants none");
}

#[test]
fn the_same_job_gives_the_same_bytes_with_every_kind_of_part() {
    let mut window = two_halves(0, 20);
    for (example, digit) in window.iter_mut().zip(digits(0, 20)) {
        example.input.parts.extend(digit.input.parts);
    }
    for (example, tone) in window.iter_mut().zip(tones(0, 10)) {
        example.input.parts.extend(tone.input.parts);
    }
    let job = cold_start("same");
    let (one, two) = (trained(&job, &window).unwrap(), trained(&job, &window).unwrap());
    assert_eq!(architecture(&one.files).modalities, Modality::ALL.into());
    assert_eq!(one.files, two.files);
}
