//! Training from a file: the plan, the run, and what came of the plan.
mod common;

use std::{fmt::Write as _, process::Output};

use common::{text, tidegate};
use serde_json::Value;

const RECIPE: &str = "[architecture]\nd_model = 16\nlayers = 1\nheads = 2\nkv_heads = 1\n\
    context = 16\nvocab = 300\nexperts = 4\nexpert_width = 16\nwide_buckets = 4096\n\
    [cold_start]\nepochs = 3\nbatch = 8\n[hot_update]\nbatch = 8\n\
    [balancing]\ncapacity_factor = 1.25\nbalance_loss = 0.01\nz_loss = 0.001\n\
    [method]\ntrain = \"adapters\"\n[method.adapters]\nattention_rank = 2\n";

/// Mails of two classes, numbered from `from`.
fn mails(from: usize, count: usize) -> String {
    let mut lines = String::new();
    for at in from..from + count {
        let (word, label) =
            if at.is_multiple_of(2) { ("prize", "spam") } else { ("meeting", "ham") };
        let event = format!(
            r#"{{"id":"{at}","parts":[{{"text":"{word} about item {}"}}],"label":"{label}","groups":{{"region":"eu"}}}}"#,
            at * 7 % 13
        );
        writeln!(lines, "{event}").unwrap();
    }
    lines
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
    std::fs::write(folder.path().join("first.jsonl"), mails(0, 60)).unwrap();
    std::fs::write(folder.path().join("second.jsonl"), mails(60, 40)).unwrap();
    folder
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const TRAIN: &[&str] = &["train", "--recipe", "recipe.toml", "--output", "json", "--data"];

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let folder = folder();
    let plan = json(&tidegate(folder.path(), &[TRAIN, &["first.jsonl", "--dry-run"]].concat()));
    assert_eq!(plan["work"]["steps"], 24);
    assert_eq!(plan["method"], "full", "a cold start learns everything");
    assert!(plan["parameters"]["active"].as_u64() < plan["parameters"]["total"].as_u64());
    assert!(plan["methods"].as_array().unwrap().len() >= 6);
    assert!(plan["time"]["seconds"].as_f64().unwrap() > 0.0);
    assert!(plan["memory"]["total"].as_u64().unwrap() > 0);
    let table = tidegate(
        folder.path(),
        &["train", "--data", "first.jsonl", "--recipe", "recipe.toml", "--dry-run"],
    );
    let table = text(&table.stdout);
    for line in
        ["trained share", "active per token", "memory", "energy", "LoRA of rank 2", "prefix"]
    {
        assert!(table.contains(line), "{line} is not in {table}");
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 3, "recipe and data");
}

#[test]
fn a_run_leaves_a_generation_that_the_next_one_starts_from() {
    let folder = folder();
    let first = json(&tidegate(folder.path(), &[TRAIN, &["first.jsonl", "--out", "one"]].concat()));
    let found = |report: &Value, what: &str| -> Value {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["what"] == what).unwrap().clone()
    };
    assert_eq!(found(&first, "steps")["off"], 0.0);
    assert_eq!(found(&first, "tokens")["off"], 0.0);
    assert!(found(&first, "seconds")["found"].as_f64().unwrap() > 0.0);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let manifest: Value = serde_json::from_slice(&read("one/manifest.json")).unwrap();
    assert_eq!(manifest["metrics"]["planned.steps"], 24.0);
    assert!(manifest["metrics"]["drop_rate.region=eu"].is_number());
    assert!(manifest["files"]["plan.json"].is_object());
    assert!(!folder.path().join("one/checkpoints").exists());
    let report = text(&read("one/report.html"));
    for part in ["blocks.0.attention", "gradient norm of head", "load of the experts", "drop rate"]
    {
        assert!(report.contains(part), "{part} is not in {report}");
    }

    let update = [TRAIN, &["second.jsonl", "--champion", "one", "--out", "two"]].concat();
    let second = json(&tidegate(folder.path(), &update));
    assert_eq!(second["plan"]["kind"], "hot_update");
    assert_eq!(second["plan"]["method"], "LoRA of rank 2 on attention, the head");
    let manifest: Value = serde_json::from_slice(&read("two/manifest.json")).unwrap();
    assert_eq!(manifest["parent"], first["generation"]);
    assert_eq!(read("two/weights.safetensors"), read("one/weights.safetensors"));
    assert!(folder.path().join("two/adapters.safetensors").exists());

    let again = tidegate(folder.path(), &update);
    assert!(!again.status.success());
    assert!(text(&again.stderr).contains("holds a generation already"), "{}", text(&again.stderr));
    let mut weights = read("one/weights.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(folder.path().join("one/weights.safetensors"), weights).unwrap();
    let broken = [TRAIN, &["second.jsonl", "--champion", "one", "--out", "three"]].concat();
    let broken = text(&tidegate(folder.path(), &broken).stderr);
    assert!(broken.contains("weights.safetensors") && broken.contains("corrupt"), "{broken}");
}

#[test]
fn wrong_input_is_named_and_nothing_is_trained() {
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("wrong.toml", "[balancing]\ncapacity = 1.0\n");
    write("empty.jsonl", "");
    write("one.jsonl", &mails(0, 9).replace("ham", "spam"));
    let mut torn = mails(0, 9);
    torn.push_str("{\"id\":\"3\",\"label\":\"spam\"}\n");
    write("torn.jsonl", &torn);
    for (args, needles) in [
        (vec!["--recipe", "wrong.toml", "--data", "first.jsonl"], vec!["wrong.toml", "capacity"]),
        (vec!["--data", "empty.jsonl"], vec!["empty.jsonl", "nothing to learn from"]),
        (vec!["--data", "one.jsonl"], vec!["class `spam`", "two classes"]),
        (vec!["--data", "torn.jsonl"], vec!["line 10", "`3`", "`spam`", "`ham`"]),
        (vec!["--data", "none.jsonl"], vec!["none.jsonl"]),
        (vec!["--data", "first.jsonl", "--kind", "hot_update"], vec!["champion"]),
        (vec!["--data", "first.jsonl", "--champion", "nowhere"], vec!["nowhere"]),
    ] {
        for dry in [true, false] {
            let mut all = vec!["train", "--out", "made"];
            all.extend(&args);
            all.extend(dry.then_some("--dry-run"));
            let found = tidegate(folder.path(), &all);
            assert_eq!(found.status.code(), Some(1), "{args:?}");
            for needle in &needles {
                let error = text(&found.stderr);
                assert!(error.contains(needle), "{args:?}: {error}");
            }
            assert!(!folder.path().join("made/manifest.json").exists());
        }
    }
    let usage = tidegate(folder.path(), &["train", "--dry-run"]);
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
}

#[test]
fn a_writer_learns_from_texts_without_labels_writes_and_is_judged() {
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let unlabelled = |from, count| {
        let labelled = mails(from, count);
        labelled.replace(",\"label\":\"spam\"", "").replace(",\"label\":\"ham\"", "")
    };
    write("texts.jsonl", &unlabelled(0, 60));
    write("others.jsonl", &unlabelled(1_000, 20));
    let recipe = RECIPE
        .replace("vocab = 300", "vocab = 400\ntask = \"next_token\"")
        .replace("epochs = 3", "epochs = 30\ndeep_rate = 0.01");
    write("writer.toml", &recipe);
    let train = ["train", "--recipe", "writer.toml", "--output", "json", "--data", "texts.jsonl"];
    let report = json(&tidegate(folder.path(), &[&train[..], &["--out", "writer"]].concat()));
    assert_eq!(report["plan"]["work"]["classes"], 400);
    let generate = ["generate", "--generation", "writer", "--output", "json"];
    let ask = ["prize about", "--temperature", "0", "--max-tokens", "9"];
    let found = json(&tidegate(folder.path(), &[&generate[..], &ask].concat()));
    assert!(found["text"].as_str().unwrap().starts_with(" item"), "{found}");
    assert!(found["tokens"].as_u64().unwrap() <= 9);
    let seen = tidegate(
        folder.path(),
        &["generate", "--generation", "writer", "prize about", "--temperature", "0"],
    );
    assert!(text(&seen.stdout).starts_with(" item"), "{}", text(&seen.stdout));
    let judged =
        json(&tidegate(folder.path(), &[&generate[..], &["--judge", "others.jsonl"]].concat()));
    assert_eq!(judged["texts"], 20);
    assert!(judged["bits_per_byte"].as_f64().unwrap() < 3.0, "{judged}");

    let second = ["--champion", "writer", "--out", "second"];
    let second = json(&tidegate(folder.path(), &[&train[..], &second].concat()));
    assert_eq!(second["plan"]["kind"], "hot_update");
    json(&tidegate(folder.path(), &[TRAIN, &["first.jsonl", "--out", "classifier"]].concat()));
    let wrong = tidegate(folder.path(), &["generate", "--generation", "classifier", "a"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("`next_token` is needed"), "{}", text(&wrong.stderr));
}
