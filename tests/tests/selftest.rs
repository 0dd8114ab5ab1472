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
fn a_corpus_that_is_not_there_is_named() {
    let out = Command::new(binary())
        .args(["gate", "selftest", "--corpus", "/nowhere"])
        .output()
        .expect("the binary was built");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("/nowhere"), "{said}");
}
