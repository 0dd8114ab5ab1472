//! The dashboard in a real browser: who serves, who waits, and a decision by mouse and keyboard.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_ledger::Fact;
use tidegate_tests::{House, Topics, curl, python, until};

const PATIENCE: Duration = Duration::from_secs(60);

async fn browse(steps: Value) -> anyhow::Result<Value> {
    let seen = python("browser.py", &[], &json!({ "steps": steps })).await?;
    assert_eq!(seen["complaints"], json!([]), "nothing is blocked, nothing breaks");
    Ok(seen["said"].clone())
}

fn text(said: &Value, index: usize) -> &str {
    said[index].as_str().unwrap_or_else(|| panic!("text, not {}", said[index]))
}

/// Where screenshots are left for people to look at.
fn picture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A PNG of exactly the page's size, with something on it.
#[track_caller]
fn assert_shows_the_page(path: &Path, size: &Value) {
    let png = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    println!("screenshot: {}, {size}, {} bytes", path.display(), png.len());
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82"));
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!(json!([number(16), number(20)]), *size, "width and height");
    assert!(number(16) >= 600 && number(20) >= 400, "a page: {size}");
    assert!(png.len() > 20_000, "an empty page has few bytes, not {}", png.len());
}

async fn until_served(house: &House, generation: &str) {
    until("the promoted one answers", PATIENCE, async || {
        let answer = house.ask("the tide at the quay").await.ok()?;
        (answer.generation == generation).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_read_approved_and_serves_and_another_is_rejected() -> anyhow::Result<()> {
    let mut topics = Topics::new(77);
    let (mut house, champion, candidate) = House::with_candidate(&mut topics).await?;
    let reason = json!({ "role": "textbox", "name": "Reason" });
    let name = json!({ "role": "textbox", "name": "Your name" });
    let approve = json!({ "role": "button", "name": "Approve" });
    let reject = json!({ "role": "button", "name": "Reject" });
    let page = house.url("/");
    let (before, after) = (picture("approve-before.png"), picture("approve-after.png"));

    let said = browse(json!([
        { "open": page },
        { "read": true },
        // Without a reason the browser itself holds it back.
        { "press": approve, "stays": true },
        { "read": true },
        { "type": reason, "text": "read it, layer by layer" },
        { "type": name, "text": "ana" },
        { "screenshot": before },
        { "press": approve },
        { "read": true },
        { "screenshot": after },
        { "open": page },
        { "read": true },
        { "see": approve },
    ]))
    .await?;
    assert_shows_the_page(&before, &said[2]);
    assert_shows_the_page(&after, &said[4]);
    let (first, held_back, done) = (text(&said, 0), text(&said, 1), text(&said, 3));
    assert!(first.contains("A candidate waits for a decision"), "{first}");
    assert!(first.contains("Serves now") && first.contains(&champion.id[..12]), "{first}");
    assert!(first.contains("Candidate") && first.contains(&candidate.id[..12]), "{first}");
    assert!(first.contains("quality"), "the verdict, layer by layer: {first}");
    assert!(first.contains("Slice by slice") && first.contains("class=kitchen"), "{first}");
    assert!(held_back.contains("A candidate waits"), "still the same page: {held_back}");
    assert!(done.contains("Your approval is on record"), "{done}");
    let after = text(&said, 5);
    assert!(!after.contains("waits for a decision"), "{after}");
    assert_eq!(said[6], false, "there is nothing left to approve");
    until_served(&house, &candidate.id).await;

    let approval = house.facts().await?.into_iter().find_map(|(entry, fact)| match fact {
        Fact::ApprovalGiven { generation, reason, .. } => Some((entry.actor, generation, reason)),
        _ => None,
    });
    let (actor, generation, given) = approval.expect("it is on record");
    assert_eq!(generation.to_string(), candidate.id);
    assert_eq!(given, "read it, layer by layer");
    assert!(actor.contains("ana"), "{actor}");

    house.publish(&topics.labelled(120)).await?;
    let second = house.until_candidate().await;
    let said = browse(json!([
        { "open": page },
        { "type": reason, "text": "not today" },
        { "type": name, "text": "bob" },
        { "press": reject },
        { "open": page },
        { "read": true },
        { "open": house.url("/ledger") },
        { "read": true },
        { "open": house.url(&format!("/generations/{}", second.id)) },
        { "read": true },
    ]))
    .await?;
    let (after, ledger, inside) = (text(&said, 0), text(&said, 1), text(&said, 2));
    for part in ["Inside its job", "blocks.0.attention", "update / weights", "Experts"] {
        assert!(inside.contains(part), "{part} is not in {inside}");
    }
    assert!(after.contains("rejected") && after.contains(&second.id[..12]), "{after}");
    assert!(ledger.contains("CandidateRejected") && ledger.contains("operator:bob"), "{ledger}");
    let said = house.facts().await?.into_iter().find_map(|(_, fact)| match fact {
        Fact::CandidateRejected { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("not today"));
    assert_eq!(house.ask("the tide at the quay").await?.generation, candidate.id);
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_cannot_decide() -> anyhow::Result<()> {
    let (mut house, champion, candidate) = House::with_candidate(&mut Topics::new(78)).await?;
    let form = house.url(&format!("/generations/{}/approve", candidate.id));
    let api = house.url(&format!("/api/v1/generations/{}/approve", candidate.id));
    let page = house.url("/");
    let fields = "reason=because&actor=mallory";
    let body = r#"{"reason":"because","actor":"mallory"}"#;
    let json = "content-type: application/json";
    for foreign in [
        &["--header", "origin: http://evil.example", "--data", fields, &form][..],
        &["--header", "sec-fetch-site: cross-site", "--data", fields, &form],
        &["--header", "origin: null", "--data", fields, &form],
        &["--header", "origin: http://evil.example", "--header", json, "--data", body, &api],
        // A name that was made to point here.
        &["--header", "host: evil.example", "--data", fields, &form],
        &["--header", "host: evil.example", &page],
    ] {
        let answer = curl(foreign)?;
        assert!((400..500).contains(&answer.status), "{foreign:?}: {}", answer.status);
    }
    let overview = house.overview().await?;
    assert_eq!(overview.champion.map(|one| one.id), Some(champion.id));
    assert!(overview.candidate.expect("it waits").approvals.is_empty());
    let headers = curl(&["--head", &page])?.body.to_lowercase();
    assert!(headers.contains("content-security-policy"), "{headers}");
    house.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look_may_not_decide() -> anyhow::Result<()> {
    let tokens = ["viewer", "approver"]
        .map(|role| {
            format!(
                "[[listen.tokens]]\nname = 'the-{role}'\ntoken = '{role}-token'\nrole = '{role}'\n"
            )
        })
        .concat();
    let policy = "[controller.policy.auto_promote]\ncold_start = false\n";
    let mut house = House::small(&format!("{policy}{tokens}")).await?;
    house.publish(&Topics::new(79).labelled(120)).await?;
    let status = ["--token", "viewer-token", "status"];
    let candidate = until("a first candidate waits", PATIENCE, async || {
        let status = house.json(&status).await.ok()?;
        status["candidateVerdict"].as_object()?;
        status["candidate"]["id"].as_str().map(str::to_owned)
    })
    .await;

    let page = house.url("/");
    let token = json!({ "role": "textbox", "name": "Token" });
    let sign_in = json!({ "role": "button", "name": "Sign in" });
    let approve = json!({ "role": "button", "name": "Approve" });
    let said = browse(json!([
        { "open": page },
        { "read": true },
        { "type": token, "text": "guessed" },
        { "press": sign_in },
        { "read": true },
        { "type": token, "text": "viewer-token" },
        { "press": sign_in },
        { "read": true },
        { "see": approve },
    ]))
    .await?;
    let (asked, refused, seen) = (text(&said, 0), text(&said, 1), text(&said, 2));
    assert!(asked.contains("Sign in") && !asked.contains(&candidate[..12]), "{asked}");
    assert!(refused.contains("does not open"), "{refused}");
    assert!(seen.contains(&candidate[..12]) && seen.contains("the-viewer"), "{seen}");
    assert_eq!(said[3], false, "a viewer is offered no decision");

    let said = browse(json!([
        { "open": page },
        { "type": token, "text": "approver-token" },
        { "press": sign_in },
        { "type": { "role": "textbox", "name": "Reason" }, "text": "good enough to begin with" },
        { "press": approve },
        { "read": true },
    ]))
    .await?;
    assert!(text(&said, 0).contains("Your approval is on record"), "{said}");
    let champion = until("it is the champion", PATIENCE, async || {
        let status = house.json(&status).await.ok()?;
        status["champion"]["id"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(champion, candidate);
    let shown = house.json(&["--token", "viewer-token", "generations", "champion"]).await?;
    assert!(shown["approvals"][0]["approver"].to_string().contains("the-approver"), "{shown}");
    house.stop()
}

/// What a suite of a stream with labels that somebody might turn round asks at least.
const BELIEVES: &str = "\
format: 1
name: harbour
version: 1.0.0
about: Short texts about harbours, kitchens and forests.
limits: {perturbed_rows: 10, bootstrap: 200, permutations: 99, latency_ms: 50, throughput_ms: 50}
checks:
  - {id: above-chance, layer: quality, metric: balanced_accuracy, above_chance: 0.05,
     severity: block, min_n: 10}
  - {id: label-agreement, layer: quality, metric: label_agreement_drop, ceil: 0.4,
     severity: block, min_n: 5, min_class: 3}
";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_day_of_flipped_labels_tells_a_stranger_why_it_was_blocked()
-> anyhow::Result<()> {
    let mut house = House::build("")?;
    house.configure_small("")?;
    std::fs::write(house.folder().join("suite.yaml"), BELIEVES)?;
    house.start().await?;
    let mut topics = Topics::new(80);
    // All of it is in the first champion, so that the flipped ones are a window of their own.
    house.publish(&topics.labelled(110)).await?;
    let champion = house.until_champion().await;

    let mut flipped = topics.labelled(160);
    for text in &mut flipped {
        text.label = match text.label {
            "harbour" => "kitchen",
            "kitchen" => "forest",
            _ => "harbour",
        };
    }
    house.publish(&flipped).await?;
    let blocked = until("the flipped day is judged", PATIENCE, async || {
        let all = house.json(&["generations"]).await.ok()?;
        let blocked = all.as_array()?.iter().find(|one| one["state"] == "blocked")?;
        blocked["id"].as_str().map(str::to_owned)
    })
    .await;

    let shot = picture("blocked.png");
    let said = browse(json!([
        { "open": house.url(&format!("/generations/{blocked}")) },
        { "read": true },
        { "see": { "role": "image", "name": "overall: candidate" } },
        { "see": { "role": "button", "name": "Approve" } },
        { "screenshot": shot },
    ]))
    .await?;
    let page = text(&said, 0);
    for words in [
        "This candidate was blocked: no policy and no approval lets it through.",
        "The labels it learnt from are not believable: the champion agrees with",
        "where it used to agree with",
        "What you can do: Nothing has to be done to stay safe: the champion goes on serving",
        "Find out who wrote these labels and correct them at the source.",
        "What got worse",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert_eq!((&said[1], &said[2]), (&json!(true), &json!(false)), "a picture, and no way round");
    assert_shows_the_page(&shot, &said[3]);

    let card = house.run(&["generations", &blocked, "--card"]).await?;
    let card = String::from_utf8(card.stdout)?;
    for words in
        ["# Model card", "not believable", "Short texts about harbours", "| class=forest |"]
    {
        assert!(card.contains(words), "{words} is not in {card}");
    }
    assert_eq!(house.overview().await?.champion.map(|one| one.id), Some(champion.id));
    house.stop()
}
