//! Who can write to Redis does not decide who serves: a promotion that was written past the service is
//! served by no gateway, is named by `tidegate ledger verify`, and stands in nobody's way.
use std::time::Duration;

use tidegate_contracts::EntryHash;
use tidegate_ledger::{Entry, Fact, PromotedBy};
use tidegate_tests::{House, Redis, Topics, until};

const LOG: &str = "tidegate:log";
const PATIENCE: Duration = Duration::from_secs(60);

/// Appends a fact as one would who knows the format and has no key; the entry's number.
fn smuggle(redis: &Redis, fact: &Fact) -> anyhow::Result<u64> {
    let last: Entry = serde_json::from_str(&redis.say(&["LINDEX", LOG, "-1"])?)?;
    let (seq, fact) = (last.seq + 1, serde_json::to_string(fact)?);
    let (prev, time) = (last.hash.to_hex(), chrono::Utc::now().to_rfc3339());
    let time = time.replace("+00:00", "Z");
    let said = |hash: &str| {
        format!(
            r#"{{"seq":{seq},"prev":"{prev}",{hash}"time":"{time}","actor":"controller","token":0,"fact":{fact}}}"#
        )
    };
    let hash = EntryHash::of(said("").as_bytes()).to_hex();
    redis.say(&["RPUSH", LOG, &said(&format!(r#""hash":"{hash}","#))])?;
    let head = format!(r#"{{"seq":{seq},"hash":"{hash}"}}"#);
    redis.say(&["SET", "tidegate:head", &head])?;
    Ok(seq)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_written_straight_to_the_store_is_served_by_nobody() -> anyhow::Result<()> {
    let redis = Redis::start()?;
    let mut house = House::of("up", "", &["--redis", &redis.url()])?;
    house.configure_small("[controller.policy.auto_promote]\nhot_update = false\n")?;
    house.start().await?;
    let mut topics = Topics::new(29);
    house.publish(&topics.labelled(120)).await?;
    let champion = house.until_champion().await;
    house.publish(&topics.labelled(120)).await?;
    let candidate = house.until_candidate().await;
    let verify = async || house.run(&["ledger", "verify", "--output", "json"]).await;
    let clean = verify().await?;
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stdout));

    let (generation, verdict) = (candidate.id.parse()?, candidate.verdict.parse()?);
    let previous = Some(champion.id.parse()?);
    let unsigned = Fact::promotion(generation, previous, verdict, PromotedBy::Policy);
    let first = smuggle(&redis, &unsigned)?;
    // And with the true signature of the true promotion.
    let facts = house.facts().await?;
    let true_one = facts.into_iter().find_map(|(_, fact)| match fact {
        Fact::Promoted { seal, .. } => seal,
        _ => None,
    });
    assert!(true_one.is_some(), "the first promotion is signed");
    let by = PromotedBy::Policy;
    let second =
        smuggle(&redis, &Fact::Promoted { generation, previous, verdict, by, seal: true_one })?;

    until("it is noticed", PATIENCE, async || {
        house.log().contains("has no effect; look who wrote it").then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(house.ask("an oak by the brook").await?.generation, champion.id);
    }
    let overview = house.overview().await?;
    assert_eq!(overview.champion.expect("one serves").id, champion.id);
    let found = verify().await?;
    let said = String::from_utf8_lossy(&found.stdout);
    assert_eq!(found.status.code(), Some(5), "{said}");
    for seq in [first, second] {
        assert!(said.contains(&format!("entry {seq}: may not stand here")), "{said}");
    }

    // Also not by a gateway that starts on it; and what is right goes on.
    house.stop()?;
    house.start().await?;
    until("the champion answers", PATIENCE, async || {
        (house.ask("an oak by the brook").await.ok()?.generation == champion.id).then_some(())
    })
    .await;
    let args = ["approve", &candidate.id, "--actor", "ana", "--reason", "I read the verdict"];
    house.json(&args).await?;
    until("the candidate answers", PATIENCE, async || {
        (house.ask("an oak by the brook").await.ok()?.generation == candidate.id).then_some(())
    })
    .await;
    house.stop()
}
