//! Between the gate and the champion: a candidate is tried on live requests, first in the shadow, then on
//! some clients, and is promoted by what both answered.
use std::time::Duration;

use tidegate_ledger::{Fact, Stage, StageOutcome};
use tidegate_tests::{House, Topics, question, until};
use tonic::Request;

const PATIENCE: Duration = Duration::from_secs(120);

const STAGES: &str = "
[[controller.policy.stages]]
stage = \"shadow\"
share = 1.0
at_least = \"0s\"
at_most = \"10min\"
requests = 40
alpha = 0.05
errors = 0.2
latency = 20.0
[[controller.policy.stages]]
stage = \"canary\"
share = 0.5
at_least = \"0s\"
at_most = \"10min\"
requests = 40
labels = 20
margin = 0.4
alpha = 0.05
errors = 0.2
latency = 20.0
";

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_tried_in_the_shadow_and_on_some_clients_before_it_serves()
-> anyhow::Result<()> {
    let house = House::small(STAGES).await?;
    let mut topics = Topics::new(7);
    house.publish(&topics.labelled(120)).await?;
    let champion = house.until_champion().await;
    house.publish(&topics.labelled(120)).await?;

    // Clients ask as they always do, and labels come, until it serves.
    let mut client = house.gateway().await?;
    let mut met = std::collections::BTreeMap::<String, Vec<String>>::new();
    let mut asked = 0;
    let promoted = until("the candidate serves", PATIENCE, async || {
        for number in 0..10 {
            let name = format!("client-{number}");
            let mut request = Request::new(question(&["what is this about?"], ""));
            request.metadata_mut().insert("x-tidegate-client", name.parse().unwrap());
            let answer = client.model_infer(request).await.expect("no request is lost");
            met.entry(name).or_default().push(answer.into_inner().model_version);
        }
        asked += 1;
        let overview = house.overview().await.ok()?;
        house.approve_if_asked(&overview).await;
        if let Some(candidate) = &overview.candidate
            && candidate.stages.last().is_some_and(|one| one.stage == "canary")
            && asked % 20 == 0
        {
            house.publish(&topics.labelled(10)).await.ok()?;
        }
        overview.champion.filter(|one| one.id != champion.id)
    })
    .await;

    let ended = |(_, fact): &(_, Fact)| match fact {
        Fact::StageEnded { generation, stage, outcome, evidence, .. }
            if generation.to_hex() == promoted.id =>
        {
            Some((*stage, *outcome, *evidence))
        }
        _ => None,
    };
    let facts = house.facts().await?;
    let ended: Vec<_> = facts.iter().filter_map(ended).collect();
    let outcomes: Vec<_> = ended.iter().map(|(stage, outcome, _)| (*stage, *outcome)).collect();
    let passed = StageOutcome::Passed;
    assert_eq!(outcomes, [(Stage::Shadow, passed), (Stage::Canary, passed)]);
    assert!(ended.iter().all(|(_, _, seen)| seen.requests >= 40 && seen.errors == 0), "{ended:?}");
    assert!(ended[1].2.labels >= 20, "{ended:?}");

    // Each client met the champion, then the candidate once and for all.
    let mut early = 0;
    for (client, met) in &met {
        let first = met.iter().position(|id| *id == promoted.id).unwrap_or(met.len());
        assert!(met[..first].iter().all(|id| *id == champion.id), "{client}: {met:?}");
        assert!(met[first..].iter().all(|id| *id == promoted.id), "{client}: {met:?}");
        early += usize::from(first < met.len());
    }
    assert!(early > 0, "some were in the canary");

    let listed = house.json(&["stages"]).await?;
    let of_it = listed.as_array().expect("a list");
    let of_it = of_it.iter().filter(|one| one["generation"] == promoted.id.as_str());
    let of_it: Vec<_> = of_it.map(|one| (one["stage"].as_str(), one["outcome"].as_str())).collect();
    assert_eq!(of_it, [(Some("canary"), Some("passed")), (Some("shadow"), Some("passed"))]);
    let verified = house.json(&["ledger", "verify"]).await?;
    assert_eq!(verified["faults"].as_array().map_or(0, Vec::len), 0, "{verified}");
    Ok(())
}
