//! The gate on trial, in its short form: each bad twin once.
use std::process::Command;

use serde_json::{Value, json};
use tidegate_tests::{binary, cache};

#[test]
fn every_bad_twin_is_stopped_by_the_layer_that_is_meant_for_it() {
    let corpus = cache().join("data/spam-assassin");
    let out = Command::new(binary())
        .args(["gate", "selftest", "--runs", "1", "--seed", "7", "--output", "json", "--corpus"])
        .arg(corpus)
        .output()
        .expect("the binary was built");
    let said = String::from_utf8_lossy(&out.stderr);
    let report: Value = serde_json::from_slice(&out.stdout).expect(&said);
    assert_eq!(report["broken"], json!([]), "{report:#}");
    assert!(out.status.success(), "{said}");
    let twins = report["twins"].as_array().unwrap();
    assert!(twins.len() >= 12, "{report:#}");
    for twin in twins {
        let is_bad = twin["meant"] != "nobody";
        let (caught, promoted, blocked) = (&twin["caught"], &twin["promoted"], &twin["blocked"]);
        if is_bad {
            assert_eq!((caught, promoted), (&json!(1), &json!(0)), "{twin:#}");
        } else {
            assert_eq!(blocked, &json!(0), "{twin:#}");
        }
    }
}

#[test]
fn a_trial_that_was_kept_is_not_tried_again_and_another_is_not_mixed_in() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("trial.jsonl");
    let run = |seed: &str| {
        let trial = ["gate", "selftest", "--runs", "1", "--twins", "altered", "--output", "json"];
        let corpus = cache().join("data/spam-assassin");
        let mut command = Command::new(binary());
        command.args(trial).args(["--seed", seed, "--corpus"]).arg(corpus);
        command.arg("--keep").arg(&kept).output().expect("the binary was built")
    };
    let first = run("3");
    assert!(first.status.success());
    let before = std::fs::read_to_string(&kept).unwrap();
    // As if it had been killed while it wrote another run.
    std::fs::write(&kept, format!("{before}{{\"altered\":")).unwrap();
    let again = run("3");
    let report: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(report["twins"][0]["caught"], json!(1), "{report:#}");
    assert_eq!(report, serde_json::from_slice::<Value>(&first.stdout).unwrap());
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), before);
    std::fs::write(&kept, "a letter, without an end").unwrap();
    let said = run("3").stderr;
    assert!(String::from_utf8_lossy(&said).contains("is no file that a trial keeps"));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "a letter, without an end");
    std::fs::write(&kept, before).unwrap();
    let other = run("4");
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(!other.status.success() && said.contains("runs of another trial"), "{said}");
}

#[test]
fn a_corpus_that_is_not_there_is_named() {
    let out = Command::new(binary())
        .args(["gate", "selftest", "--corpus", "/nowhere"])
        .output()
        .expect("the binary was built");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("/nowhere"), "{said}");
}
