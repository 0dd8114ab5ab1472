//! A generation whose bytes on the disk are not those that were judged is never served: the gateway
//! says what is wrong, answers with the one before, and takes the right bytes when they are back.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tidegate_contracts::proto::v1;
use tidegate_tests::{House, Topics, curl, until};

const PATIENCE: Duration = Duration::from_secs(60);

async fn approve(house: &House, generation: &str) -> anyhow::Result<()> {
    let args = ["approve", generation, "--actor", "ana", "--reason", "it was good when I read it"];
    house.json(&args).await.map(drop)
}

fn artifact(house: &House, hash: &str) -> PathBuf {
    house.data().join("artifacts/blake3").join(&hash[..2]).join(hash)
}

/// Every file of a generation by name, with its manifest and its verdict.
fn files(house: &House, generation: &v1::Generation) -> Vec<(String, PathBuf)> {
    let manifest: Value = serde_json::from_str(&generation.manifest_json).expect("it is JSON");
    let files = manifest["files"].as_object().expect("a manifest names files");
    let mut all: Vec<_> = files
        .iter()
        .map(|(name, file)| (name.clone(), artifact(house, file["hash"].as_str().unwrap())))
        .collect();
    all.push(("the manifest".into(), artifact(house, &generation.id)));
    all.push(("the verdict".into(), artifact(house, &generation.verdict)));
    all
}

/// A file with other bytes; gets its own back when dropped.
struct Altered {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Altered {
    fn truncated(path: &Path) -> Self {
        Self::with(path, |bytes| bytes.truncate(bytes.len() / 2))
    }

    fn flipped(path: &Path) -> Self {
        Self::with(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        })
    }

    fn with(path: &Path, change: impl Fn(&mut Vec<u8>)) -> Self {
        let bytes = std::fs::read(path).expect("an artifact is there");
        let mut other = bytes.clone();
        change(&mut other);
        std::fs::write(path, other).expect("its folder can be written");
        Self { path: path.to_owned(), bytes }
    }
}

impl Drop for Altered {
    fn drop(&mut self) {
        // Gone with the house's folder, when a test has failed.
        let _ = std::fs::write(&self.path, &self.bytes);
    }
}

/// Why the gateway does not serve the ledger's champion.
fn degraded(house: &House) -> Option<String> {
    let said = curl(&[&house.url("/v2")]).ok()?.json();
    said["degraded"].as_str().map(str::to_owned)
}

async fn until_degraded(house: &House) -> String {
    until("the gateway says what is wrong", PATIENCE, async || degraded(house)).await
}

async fn until_served(house: &House, generation: &str) {
    until(&format!("{generation} answers"), PATIENCE, async || {
        let answer = house.ask("an oak by the brook").await.ok()?;
        (answer.generation == generation && degraded(house).is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_candidate_is_refused_and_the_champion_goes_on() -> anyhow::Result<()> {
    let (mut house, champion, candidate) = House::with_candidate(&mut Topics::new(23)).await?;
    let weights = files(&house, &candidate)
        .into_iter()
        .find(|(name, _)| name.contains("weights"))
        .expect("a generation has weights")
        .1;
    let altered = Altered::flipped(&weights);
    approve(&house, &candidate.id).await?;
    let why = until_degraded(&house).await;
    println!("said: {why}");
    assert!(why.contains(&candidate.id[..12]) && why.contains(&champion.id[..12]), "{why}");
    assert!(why.contains("corrupt"), "{why}");
    for _ in 0..20 {
        assert_eq!(house.ask("an oak by the brook").await?.generation, champion.id);
    }
    assert_eq!(curl(&[&house.url("/v2/health/ready")])?.status, 200);
    assert!(house.log().contains("the ledger's champion is not served"), "{}", house.log());

    drop(altered);
    until_served(&house, &candidate.id).await;
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_newest_whole_champion_answers() -> anyhow::Result<()> {
    let (mut house, before, champion) = House::with_candidate(&mut Topics::new(23)).await?;
    approve(&house, &champion.id).await?;
    until_served(&house, &champion.id).await;
    let champion = house.overview().await?.champion.expect("it serves");

    // What both share under one hash cannot be altered for one of them; and what only learning goes
    // on from is not read to serve.
    let shared: Vec<PathBuf> = files(&house, &before).into_iter().map(|(_, path)| path).collect();
    let learns = ["counts.safetensors", "optimizer.safetensors", "replay.bin", "diagnosis.json"];
    let own = files(&house, &champion)
        .into_iter()
        .filter(|(name, path)| !shared.contains(path) && !learns.contains(&name.as_str()));
    for (number, (name, path)) in own.enumerate() {
        house.stop()?;
        let altered =
            if number % 2 == 0 { Altered::truncated(&path) } else { Altered::flipped(&path) };
        house.start().await?;
        let why = until_degraded(&house).await;
        println!("{name}: {why}");
        let answer = house.ask("an oak by the brook").await?;
        assert_eq!(answer.generation, before.id, "{name}: {why}");
        drop(altered);
        until_served(&house, &champion.id).await;
    }

    // Nobody is whole: it says so, and serves nobody.
    house.kill();
    let altered = [&champion, &before].map(|one| Altered::truncated(&artifact(&house, &one.id)));
    house.start().await?;
    let why = until_degraded(&house).await;
    assert!(why.contains("nobody answers"), "{why}");
    let refused = house.ask("is anybody there?").await.unwrap_err().to_string();
    assert!(refused.contains(&champion.id[..12]), "{refused}");
    assert_eq!(curl(&[&house.url("/v2/health/ready")])?.status, 503);
    assert!(house.process().ended().is_none(), "no crash");
    drop(altered);
    until_served(&house, &champion.id).await;
    assert_eq!(curl(&[&house.url("/v2/health/ready")])?.status, 200);
    house.stop()
}
