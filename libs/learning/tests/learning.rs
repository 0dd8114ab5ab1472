//! What training promises.
mod common;

use common::{accuracy, cold_start, example, examples, hot_update, published, trained};
use tidegate_contracts::Class;
use tidegate_learning::{LearningError, REPLAY, Recipe, Replay, StartingPoint};
use tidegate_model::{Device, Input, LABELS, Model, WEIGHTS};

const BOTH: &[&str] = &["spam", "ham"];

#[test]
fn a_cold_start_learns_and_a_hot_update_learns_more() {
    let job = cold_start("cold");
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    assert!(accuracy(&first.files, &examples(BOTH, 1_000, 60)) > 0.95);

    let update = hot_update("hot", published(&job, &first));
    let second = trained(&update, &examples(BOTH, 60, 40)).unwrap();
    assert!(accuracy(&second.files, &examples(BOTH, 1_000, 60)) > 0.95);
    assert_eq!(Replay::from_bytes(&second.files[REPLAY]).unwrap().len(), 100);
    for name in ["loss", "steps", "examples", "tokens", "seconds", "energy_joules"] {
        assert!(second.metrics[name] >= 0.0, "{name}");
    }
    let share = second.metrics["expert_load_max_share"];
    assert!((0.25..=1.0).contains(&share), "{share}");
}

#[test]
fn each_path_learns_alone() {
    for (deep_rate, wide_rate) in [(5e-3, 0.0), (0.0, 1.0)] {
        let mut job = cold_start("alone");
        let course = &mut job.recipe.cold_start;
        (course.deep_rate, course.wide_rate, course.epochs) = (deep_rate, wide_rate, 12);
        let trained = trained(&job, &examples(BOTH, 0, 60)).unwrap();
        let right = accuracy(&trained.files, &examples(BOTH, 1_000, 60));
        assert!(right > 0.9, "deep {deep_rate}, wide {wide_rate}: {right}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let mut job = cold_start("same");
    let window = examples(BOTH, 0, 60);
    let (one, two) = (trained(&job, &window).unwrap(), trained(&job, &window).unwrap());
    assert_eq!(one.files, two.files);
    job.seed += 1;
    assert_ne!(one.files[WEIGHTS], trained(&job, &window).unwrap().files[WEIGHTS]);
}

#[test]
fn a_class_never_seen_is_appended_and_learnt_and_the_old_ones_are_kept() {
    let job = cold_start("cold");
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let mut update = hot_update("hot", published(&job, &first));
    update.recipe.hot_update.epochs = 6;
    let second = trained(&update, &examples(&["news"], 0, 30)).unwrap();
    let names: Vec<&str> = second.labels.iter().map(Class::as_str).collect();
    assert_eq!(names, ["ham", "spam", "news"]);
    assert_eq!(second.files[LABELS], r#"["ham","spam","news"]"#);
    assert!(accuracy(&second.files, &examples(&["news"], 1_000, 30)) > 0.9);
    // A window of one class does not make the others forgotten: they are rehearsed.
    assert!(accuracy(&second.files, &examples(BOTH, 1_000, 60)) > 0.9);
}

#[test]
fn rehearsal_is_what_keeps_the_old_classes() {
    let job = cold_start("cold");
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let champion = published(&job, &first);
    // Ham's words now come as spam only: without ham beside them, all of ham is forgotten.
    let turned: Vec<_> = (0..40)
        .map(|at| tidegate_learning::Example { label: "spam".into(), ..example("spam", at) })
        .collect();
    let ham = examples(&["ham"], 1_000, 60);
    let loss = |share: f64| {
        let mut update = hot_update("hot", champion.clone());
        update.recipe.rehearsal.share = share;
        update.recipe.hot_update.epochs = 20;
        let files = trained(&update, &turned).unwrap().files;
        let model = Model::from_files(&files, &Device::Cpu).unwrap();
        let inputs: Vec<Input> = ham.iter().map(|e| e.input.clone()).collect();
        let index = model.labels().iter().position(|l| l.as_str() == "ham").unwrap();
        let scores = model.predict(&inputs).unwrap();
        -scores.iter().map(|s| s.probabilities[index].ln()).sum::<f32>()
    };
    assert!(loss(0.5) < loss(0.0));
}

#[test]
fn an_empty_window_says_so() {
    let error = trained(&cold_start("none"), &[]).unwrap_err();
    assert!(matches!(error, LearningError::EmptyWindow), "{error}");
    assert!(!error.is_retryable());
}

#[test]
fn a_cold_start_on_one_class_says_which() {
    let error = trained(&cold_start("one"), &examples(&["ham"], 0, 10)).unwrap_err();
    assert!(error.to_string().contains("all 10 examples are of class `ham`"), "{error}");
}

#[test]
fn a_weight_that_is_no_number_above_0_names_its_example() {
    for weight in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let mut window = examples(BOTH, 0, 10);
        window[3].weight = weight;
        let error = trained(&cold_start("weight"), &window).unwrap_err().to_string();
        assert!(error.contains("`ham-3`"), "{error}");
    }
}

#[test]
fn texts_of_one_byte_and_of_a_megabyte_are_learnt_from() {
    let mut window = examples(BOTH, 0, 12);
    window[0].input = Input::text("x");
    window[1].input = Input::text("ü winner ".repeat(1 << 17));
    window[2].input = Input::text("\u{0}");
    let trained = trained(&cold_start("sizes"), &window).unwrap();
    let replay = &trained.files[REPLAY];
    assert!(replay.len() < 12 * 5_000, "texts are bounded: {}", replay.len());
}

#[test]
fn contradictory_labels_make_the_model_unsure() {
    let mut window = Vec::new();
    for at in 0..40 {
        let mut one = example("spam", 0);
        one.id = format!("twice-{at}").as_str().into();
        one.label = BOTH[at % 2].into();
        window.push(one);
    }
    let trained = trained(&cold_start("twice"), &window).unwrap();
    let model = Model::from_files(&trained.files, &Device::Cpu).unwrap();
    let scores = model.predict(&[example("spam", 0).input]).unwrap();
    assert!((scores[0].probabilities[0] - 0.5).abs() < 0.25, "{scores:?}");
}

#[test]
fn a_hot_update_without_a_champion_says_what_to_do() {
    let mut job = cold_start("none");
    job.kind = tidegate_contracts::JobKind::HotUpdate;
    assert!(matches!(job.start, StartingPoint::Scratch));
    let error = trained(&job, &examples(BOTH, 0, 10)).unwrap_err().to_string();
    assert!(error.contains("order a cold start"), "{error}");
}

#[test]
fn a_champion_whose_files_cannot_be_read_is_refused_by_name() {
    let job = cold_start("cold");
    let first = trained(&job, &examples(BOTH, 0, 24)).unwrap();
    for (name, needle) in [
        (WEIGHTS, "weights"),
        (LABELS, "labels.json"),
        (REPLAY, REPLAY),
        ("tokenizer.json", "tokenizer"),
    ] {
        let mut broken = first.clone();
        broken.files.insert(name.to_owned(), b"not what it should be".as_slice().into());
        let update = hot_update("hot", published(&job, &broken));
        let error = trained(&update, &examples(BOTH, 60, 10)).unwrap_err();
        assert!(error.to_string().contains(needle), "{name}: {error}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn steps_and_examples_keep_to_their_bounds() {
    let mut job = cold_start("bounds");
    job.recipe.cold_start.max_steps = 3;
    job.recipe.cold_start.max_examples = 16;
    let trained = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    assert!((trained.metrics["steps"] - 3.0).abs() < f64::EPSILON);
    assert!((trained.metrics["window_examples"] - 16.0).abs() < f64::EPSILON);
}

#[test]
fn a_recipe_with_an_unknown_field_is_refused() {
    let error = Recipe::from_toml("[hot_update]\nlearning_rate = 1.0").unwrap_err();
    assert!(error.to_string().contains("learning_rate"), "{error}");
}

#[test]
fn a_batch_of_one_class_and_a_window_of_one_example_are_learnt_from() {
    let job = cold_start("cold");
    let first = trained(&job, &examples(BOTH, 0, 60)).unwrap();
    let mut update = hot_update("hot", published(&job, &first));
    update.recipe.rehearsal.share = 0.0;
    let one = trained(&update, &examples(&["ham"], 60, 1)).unwrap();
    assert!((one.metrics["window_examples"] - 1.0).abs() < f64::EPSILON);
    let same = trained(&update, &examples(&["ham"], 60, 8)).unwrap();
    assert!(accuracy(&same.files, &examples(&["ham"], 1_000, 30)) > 0.9);
}
