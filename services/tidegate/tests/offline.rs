//! What the binary does without a running service.
mod common;

use std::process::Command;

use common::{text, tidegate};

#[test]
fn the_configuration_it_prints_is_one_that_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let shown = tidegate(folder.path(), &["config", "show"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    std::fs::write(folder.path().join("tidegate.toml"), &shown.stdout).unwrap();
    let again = tidegate(folder.path(), &["--config", "tidegate.toml", "config", "show"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(text(&shown.stdout), text(&again.stdout));
}

#[test]
fn a_misspelt_field_is_named_in_a_file_and_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wrong.toml"), "[gateway]\nheldd = 3\n").unwrap();
    let wrong = tidegate(folder.path(), &["--config", "wrong.toml", "config", "show"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("heldd"), "{}", text(&wrong.stderr));

    let show = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["config", "show"]).current_dir(folder.path()).env(name, value);
        command.output().unwrap()
    };
    let wrong = show("TIDEGATE_GATEWAY__HELDD", "3");
    assert!(text(&wrong.stderr).contains("heldd"), "{}", text(&wrong.stderr));
    let right = show("TIDEGATE_GATEWAY__HELD", "3");
    assert!(text(&right.stdout).contains("held = 3"), "{}", text(&right.stdout));
    // Not configuration, though it begins like it.
    assert!(show("TIDEGATE_CACHE", "/nowhere").status.success());
}

#[test]
fn an_open_address_without_tls_and_tokens_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = tidegate(folder.path(), &["--grpc", "0.0.0.0:0", "up"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(text(&open.stderr).contains("TLS"), "{}", text(&open.stderr));
}

#[test]
fn an_operator_without_a_service_is_told_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let status = tidegate(folder.path(), &["status"]);
    assert_eq!(status.status.code(), Some(4), "{}", text(&status.stderr));
    assert!(text(&status.stderr).contains("tidegate up"), "{}", text(&status.stderr));
    let nowhere = tidegate(folder.path(), &["--endpoint", "127.0.0.1:9", "status"]);
    assert_eq!(nowhere.status.code(), Some(4), "{}", text(&nowhere.stderr));
}

#[test]
fn a_suite_says_what_it_can_tell_at_a_sample_size() {
    let folder = tempfile::tempdir().unwrap();
    let check = tidegate(folder.path(), &["suite", "check", "--n", "500", "--output", "json"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    let lines: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(lines.as_array().is_some_and(|lines| lines.len() > 10));
    std::fs::write(folder.path().join("bad.yaml"), "format: 1\nname: x\n").unwrap();
    let bad = tidegate(folder.path(), &["suite", "check", "bad.yaml"]);
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad.stdout));
}

#[test]
fn frozen_data_is_pinned_into_a_suite_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let rows = r#"{"id":"a","parts":[{"text":"hello"}],"label":"ham","groups":{"format":"html"}}
{"id":"b","parts":[{"text":"free"}],"label":"spam"}
"#;
    put("old.jsonl", rows);
    put(
        "suite.yaml",
        "format: 1\nname: s\nversion: '1'\ndata:\n  # Ours.\n  - {id: old, tier: gate, path: \
         old.jsonl}\nchecks:\n  - {id: a, layer: quality, metric: accuracy, data: old, floor: 0.5, \
         severity: block}\n",
    );
    let check = |args: &[&str]| tidegate(folder.path(), &[&["suite", "check"], args].concat());
    let unpinned = check(&["suite.yaml"]);
    assert!(text(&unpinned.stderr).contains("tidegate suite pin"), "{}", text(&unpinned.stderr));
    let shown = tidegate(folder.path(), &["suite", "pin", "suite.yaml", "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown[0]["rows"], &shown[0]["pinned"]), (&2.into(), &false.into()));
    let pinned = tidegate(folder.path(), &["suite", "pin", "suite.yaml", "--write"]);
    assert!(pinned.status.success(), "{}", text(&pinned.stderr));
    let suite = std::fs::read_to_string(folder.path().join("suite.yaml")).unwrap();
    let hash = shown[0]["sha256"].as_str().unwrap();
    assert!(suite.contains(hash) && suite.contains("# Ours."), "{suite}");

    let good = check(&["suite.yaml"]);
    let said = text(&good.stdout);
    assert!(good.status.success(), "{}", text(&good.stderr));
    for needle in
        ["old: overall", "gate", &hash[..12], "format=html 1", "2 examples, 30 are needed"]
    {
        assert!(said.contains(needle), "{needle}: {said}");
    }
    put("old.jsonl", &rows.replace("hello", "hullo"));
    let changed = check(&["suite.yaml"]);
    let error = text(&changed.stderr);
    assert!(error.contains("data `old` (old.jsonl)") && error.contains("sha256"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_suites_folder_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    let row = r#"{"id":"a","parts":[{"text":"hello"}],"label":"ham"}"#;
    std::fs::write(folder.path().join("outside.jsonl"), row).unwrap();
    std::os::unix::fs::symlink("../outside.jsonl", mine.join("old.jsonl")).unwrap();
    std::fs::write(
        mine.join("suite.yaml"),
        "format: 1\nname: s\nversion: '1'\ndata:\n  - {id: old, tier: open, path: old.jsonl}\nchecks: \
         []\n",
    )
    .unwrap();
    let pin = tidegate(folder.path(), &["suite", "pin", "mine/suite.yaml"]);
    assert!(!pin.status.success());
    assert!(text(&pin.stderr).contains("leads out"), "{}", text(&pin.stderr));
}

#[test]
fn every_shell_gets_its_completion_and_wrong_usage_is_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = tidegate(folder.path(), &["completions", shell]);
        assert!(text(&script.stdout).contains("rollback"), "{shell}");
    }
    assert_eq!(tidegate(folder.path(), &["promot"]).status.code(), Some(2));
}
