//! What somebody outside holds against a ledger, and whom operators set aside: by the command line.
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::{House, until};

const PATIENCE: Duration = Duration::from_secs(60);

async fn with_checkpoints() -> anyhow::Result<House> {
    let mut house = House::of("up", "[controller.checkpoints]\nentries = 3\n", &[])?;
    house.start().await?;
    for round in 0..4 {
        let reason = format!("round {round}: let us see");
        let args = ["jobs", "request", "cold_start", "--actor", "ana", "--reason", &reason];
        until("a job may be asked for", PATIENCE, async || {
            house.run(&args).await.ok()?.status.success().then_some(())
        })
        .await;
    }
    Ok(house)
}

/// Writes a file in the house's folder; its path.
fn file(house: &House, name: &str, text: &str) -> anyhow::Result<String> {
    let path = house.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// The exit code, and all that was said.
async fn said(house: &House, args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = house.run(args).await?;
    let all = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&all).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_proved_and_copies_outside_tell_what_was_changed() -> anyhow::Result<()> {
    let mut house = with_checkpoints().await?;
    let proof = until("a checkpoint covers the first entry", PATIENCE, async || {
        let output = house.run(&["ledger", "prove", "1"]).await.ok()?;
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    })
    .await;
    let (code, why) = said(&house, &["ledger", "prove", "99999"]).await?;
    assert!(code != Some(0) && why.contains("there is no entry 99999"), "{why}");

    // Who checks it needs no service.
    house.stop()?;
    let path = file(&house, "proof.json", &proof.to_string())?;
    let (code, why) = said(&house, &["ledger", "prove", "--check", &path]).await?;
    assert!(code == Some(0) && why.contains("holds"), "{why}");
    for (name, change) in [("entry", "/entry/actor"), ("path", "/path/0")] {
        let mut other = proof.clone();
        let place = other.pointer_mut(change).expect("every proof has one");
        *place = if name == "entry" { json!("eve") } else { proof["checkpoint"]["hash"].clone() };
        let path = file(&house, "other.json", &other.to_string())?;
        let (code, why) = said(&house, &["ledger", "prove", "--check", &path]).await?;
        assert!(code == Some(5) && why.contains("does not hold"), "{name}: {why}");
    }
    let path = file(&house, "none.json", "[]")?;
    let (code, why) = said(&house, &["ledger", "prove", "--check", &path]).await?;
    assert!(code != Some(0) && why.contains("it is no proof"), "{why}");

    // Copies of two entries, and of what a checkpoint said.
    let [size, root] = ["size", "root"].map(|field| proof["checkpoint"]["fact"][field].clone());
    let checkpoint = |size: &Value, root: &Value| json!({ "size": size, "root": root }).to_string();
    let copies = [proof["entry"].to_string(), proof["checkpoint"].to_string()];
    let true_ones = [copies.join("\n"), checkpoint(&size, &root)].join("\n\n");
    let mut rewritten = proof["entry"].clone();
    rewritten["actor"] = json!("eve");
    for (text, code, says) in [
        (true_ones, 0, "holds"),
        (rewritten.to_string(), 5, "the copy's hash does not cover what the copy says"),
        (checkpoint(&size, &proof["entry"]["hash"]), 5, "one of them was rewritten"),
        (checkpoint(&json!(99_999), &root), 5, "it was cut off"),
        ("\n".to_owned(), 1, "there is nothing to compare with"),
        ("{}".to_owned(), 1, "line 1 is neither an entry"),
    ] {
        let path = file(&house, "kept.jsonl", &text)?;
        let (found, why) = said(&house, &["ledger", "verify", "--against", &path]).await?;
        assert!(found == Some(code) && why.contains(says), "{text}: {found:?} {why}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_set_aside_and_released_on_record() -> anyhow::Result<()> {
    let mut house = House::of("up", "", &[])?;
    house.start().await?;
    let of = |what, reason| {
        ["quarantine", what, "shop-7", "--actor", "ana", "--reason", reason, "--output", "json"]
    };
    until("the controller leads", PATIENCE, async || {
        let aside = house.run(&of("producer", "its labels are turned round")).await.ok()?;
        aside.status.success().then_some(())
    })
    .await;
    let (code, why) = said(&house, &of("producer", "again")).await?;
    assert!(code != Some(0) && why.contains("set aside"), "{why}");
    let listed = house.json(&["quarantine", "list"]).await?;
    assert!(listed.to_string().contains("its labels are turned round"), "{listed}");
    house.json(&of("release", "repaired")[..7]).await?;
    let (code, why) = said(&house, &of("release", "again")).await?;
    assert!(code != Some(0) && why.contains("shop-7"), "{why}");
    for bad in ["", "a\nb", &"x".repeat(300)] {
        let args = ["quarantine", "producer", bad, "--reason", "r"];
        let (code, why) = said(&house, &args).await?;
        assert!(code != Some(0) && why.contains("producer"), "{bad}: {why}");
    }
    let kinds: Vec<String> =
        house.facts().await?.into_iter().map(|(_, fact)| fact.kind().to_owned()).collect();
    for kind in ["ProducerQuarantined", "ProducerReleased"] {
        assert_eq!(kinds.iter().filter(|one| *one == kind).count(), 1, "{kinds:?}");
    }
    Ok(())
}
