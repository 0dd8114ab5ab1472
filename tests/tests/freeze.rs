//! Held-out examples of a service that runs are frozen beside a suite, verified, and judge from then on.
use std::{path::Path, time::Duration};

use serde_json::Value;
use tidegate_tests::{House, Topics, until};

const PATIENCE: Duration = Duration::from_secs(120);

const SUITE: &str = "# Ours.\nformat: 1\nname: ours\nversion: 1.0.0\nchecks:\n  - {id: floor, layer: quality, \
                     metric: accuracy, floor: 0.0, severity: block, min_n: 5}\n";
const ASKS: &str = "  - {id: kept, layer: retention, metric: forgetting_max, data: q1, ceil: 0.9, \
                    severity: block, min_n: 5}\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_out_is_frozen_beside_a_suite_and_judges_from_then_on() -> anyhow::Result<()>
{
    let mut house = House::small("").await?;
    house.publish(&Topics::new(1).labelled(300)).await?;
    house.until_champion().await;
    let suite = house.folder().join("ours.yaml");
    std::fs::write(&suite, SUITE)?;
    let path = suite.to_string_lossy().into_owned();
    let freeze = ["suite", "freeze", "--suite", &path, "--id", "q1", "--tier", "open", "--past"];
    let frozen = house.json(&freeze).await?;
    let rows = frozen["rows"].as_u64().unwrap();
    assert!(rows > 10, "{frozen}");
    let again = house.run(&freeze).await?;
    assert!(!again.status.success() && said(&again.stderr).contains("`q1` is there already"));

    // The suite's text is as it was but for the entry, which says what the file is.
    let text = std::fs::read_to_string(&suite)?;
    assert!(text.starts_with("# Ours.\n") && text.contains("role: past"), "{text}");
    let pinned = house.json(&["suite", "pin", &path]).await?;
    assert_eq!((&pinned[0]["pinned"], &pinned[0]["rows"]), (&true.into(), &rows.into()));
    std::fs::write(&suite, text + ASKS)?;
    let checks = house.json(&["suite", "check", &path, "--n", "77"]).await?;
    assert_eq!((checks[0]["n"].as_u64(), checks[1]["n"].as_u64()), (Some(77), Some(rows)));

    // In force, it is asked of the next candidate, and the verdict counts it.
    house.stop()?;
    let config = std::fs::read_to_string(house.folder().join("tidegate.toml"))?;
    let config = config.replace("suite.yaml", "ours.yaml");
    house.configure(&(config + "\n[controller.policy]\napprove_suite_changes = false\n"))?;
    house.start().await?;
    house.publish(&Topics::new(2).labelled(300)).await?;
    let (id, document) = until("a champion that was asked", PATIENCE, async || {
        let id = house.overview().await.ok()?.champion?.verdict;
        let verdict = house.json(&["verdicts", &id]).await.ok()?;
        let document: Value = serde_json::from_str(verdict["documentJson"].as_str()?).ok()?;
        document.get("frozen").is_some().then_some((id, document))
    })
    .await;
    let used = &document["frozen"][0];
    assert_eq!((&used["id"], &used["rows"]), (&"q1".into(), &rows.into()), "{used}");
    assert!(used["queries"].as_u64() >= Some(1) && used["query_budget"] == 90, "{used}");
    assert!(used["scores"].as_array().is_some_and(|scores| scores.len() >= 2), "{used}");
    let table = said(&house.run(&["verdicts", &id]).await?.stdout);
    assert!(table.contains("of 90 queries"), "{table}");

    // Changed, it is refused with its name.
    change(&house.folder().join("data/q1.jsonl"))?;
    let refused = house.run(&["suite", "check", &path]).await?;
    let error = said(&refused.stderr);
    assert!(
        !refused.status.success() && error.contains("`q1`") && error.contains("sha256"),
        "{error}"
    );
    Ok(())
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn change(file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    Ok(std::fs::write(file, text.replacen("\"label\"", "\"label\" ", 1))?)
}
