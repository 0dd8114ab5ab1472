//! What an operator sees, and is offered.
use axum::body::Body;
use serde_json::json;
use tidegate_contracts::{JobKind, Outcome, Role, proto::v1};

use crate::house::{House, config, loopback, token};

const OFFERED: &str = "<button class=\"yes\" type=\"submit\">Approve";
const DISABLED: &str = "<button class=\"yes\" type=\"submit\" disabled>Approve";

#[tokio::test]
async fn an_empty_house_says_what_it_waits_for() {
    let house = House::build(config(json!({}))).await;
    let home = house.http().get("/").await;
    assert_eq!(home.status, 200);
    for words in
        ["Nothing serves yet", "0 of the 500 that ask for the first cold start", "hold still"]
    {
        assert!(home.text.contains(words), "{words}: {}", home.text);
    }
    for path in ["/jobs", "/ledger", "/ledger?check=true", "/ledger?to=9"] {
        assert_eq!(house.http().get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_candidate_stands_beside_the_champion_with_the_reason_and_the_buttons() {
    let house = House::build(config(json!({}))).await;
    let champion = house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let http = house.http();
    let home = http.get("/").await.text;
    for words in [
        "A candidate waits for a decision",
        &champion.id.short(),
        &made.id.short(),
        "the verdict asks for approval: 0 of 1 given",
        "calibration is undecided",
        "90 % interval from -0.0120 to 0.0520, bound 0.04",
        OFFERED,
    ] {
        assert!(home.contains(words), "{words}: {home}");
    }
    // What is being written must not be loaded away.
    assert!(!home.contains("http-equiv"));

    let fields = format!("verdict={}&reason=looks+fine&actor=ana", made.verdict);
    let reply = http.form(&format!("/generations/{}/approve", made.id), &fields).await;
    assert_eq!(reply.status, 303, "{}", reply.text);
    let next = reply.headers["location"].to_str().unwrap();
    let page = http.get(next).await.text;
    assert!(page.contains("Your approval is on record") && page.contains("looks fine"), "{page}");
    assert!(page.contains("champion") && !page.contains(OFFERED), "{page}");
    assert!(page.contains(&format!("Roll back to {}", champion.id.short())));
}

#[tokio::test]
async fn a_verdict_explains_itself_in_words_in_pictures_and_by_examples() {
    let house = House::build(config(json!({}))).await;
    let http = house.http();
    house.champion(JobKind::ColdStart).await;
    let blocked = house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
    let page = http.get(&format!("/generations/{}", blocked.id)).await.text;
    for words in [
        "A hot update (the serving model, taught what was new) was asked about 412 examples",
        "This candidate was blocked: no policy and no approval lets it through.",
        "It answers worse than the champion: 65 of 100 answers are right, and the champion's 96 of",
        "What you can do: ",
        "Slice by slice",
        "class=spam: candidate 60.0 %, champion 96.0 %, the candidate between 61.0 % and 69.0 %",
        "format=&lt;html&gt; | *x*",
        "What got worse",
        "Frozen data",
        "past-q3",
        "7 of 90",
        "not asked: sealed, and opened by a cold_start only",
        "&lt;b&gt;buy&lt;/b&gt; now",
        "(98 % sure)",
        &format!("/generations/{}/card.md", blocked.id),
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("domain=mail"), "one domain is the whole");
    assert!(!page.contains("<b>buy"), "what users wrote is no markup");
    let home = http.get("/").await.text;
    assert!(home.contains("This candidate was blocked"), "{home}");
}

#[tokio::test]
async fn every_generation_has_a_model_card_by_every_door() {
    let house = House::build(config(json!({}))).await;
    let http = house.http();
    let first = house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let said = json!({ "actor": "ana", "reason": "fine\n# <b>really</b> | [x](http://evil)" });
    let approve = format!("/api/v1/generations/{}/approve", made.id);
    assert_eq!(http.post(&approve, &said).await.status, 200);

    let file = http.get(&format!("/generations/{}/card.md", made.id)).await;
    assert_eq!(file.headers["content-type"], "text/markdown; charset=utf-8");
    let card = &file.text;
    for words in [
        &format!("# Model card: generation `{}`", made.id.short()),
        &format!("- Started from: `{}`", first.id.short()),
        "- Stands as: champion",
        "- Answers: 2 classes: ham, spam",
        "\\# \\<b\\>really\\</b\\> \\| \\[x\\](http\\://evil)",
        "- Judged for: Mail, \\*spam\\* or ham.",
        "- Domains judged on: mail (473)",
        "- format: \\<html\\> \\| \\*x\\* (90)",
        "| calibration | ece | overall | 0.021 | 0.034 | -0.0120 to 0.0520 (90 %) | 473 |",
        "- Held-out examples: 412 earlier, 61 fresh",
        "- Window: tidegate.curated",
        "| class=spam | 140 | 96.0 % | 60.0 % | -35.0 % to -27.0 % |",
        "- Training: unknown",
        "- Evaluation: 212 J by `cpu_time_model`",
        "- Undecided: calibration: ",
        "- Too few examples: word-changes: ",
    ] {
        assert!(card.contains(words), "{words}: {card}");
    }
    let sections = card.lines().filter(|line| line.starts_with("## ")).count();
    assert_eq!(sections, 10, "the nine of Mitchell et al., and energy: {card}");

    let json = http.get(&format!("/api/v1/generations/{}/card", made.id)).await.json();
    assert_eq!(json, json!({ "generation": made.id.to_hex(), "markdown": card }));
    let request = v1::GetModelCardRequest { id: "champion".to_owned() };
    let answer = house.grpc().await.get_model_card(request).await.unwrap().into_inner();
    assert_eq!(&answer.markdown, card);

    let unjudged =
        house.trained(JobKind::ColdStart, "controller", crate::house::window(0, 30)).await;
    let card = http.get(&format!("/generations/{}/card.md", unjudged.id)).await.text;
    assert!(card.contains("It has not been judged: nothing is known of its quality."), "{card}");
    assert_eq!(http.get("/generations/0123456789ab/card.md").await.status, 404);
}

#[tokio::test]
async fn nothing_is_offered_that_the_gate_would_not_take() {
    let house = House::build(config(json!({}))).await;
    let http = house.http();
    house.champion(JobKind::ColdStart).await;
    let blocked = house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
    let home = http.get("/").await.text;
    assert!(home.contains("The last candidate was blocked"), "{home}");
    for page in [home, http.get(&format!("/generations/{}", blocked.id)).await.text] {
        assert!(page.contains("there is no way around it"), "{page}");
        assert!(!page.contains("Approve") && !page.contains("Reject"), "{page}");
    }
    // Unjudged: a no is possible, a yes is not.
    house.trained(JobKind::HotUpdate, "controller", crate::house::window(10, 30)).await;
    let home = http.get("/").await.text;
    assert!(home.contains("Nothing is asked of you now") && home.contains("http-equiv"), "{home}");
    let page = http.get("/generations/candidate").await.text;
    assert!(page.contains(DISABLED) && page.contains("Reject"), "{page}");
    let jobs = http.get("/jobs").await.text;
    assert!(!jobs.contains("value=\"hot_update\" disabled"), "{jobs}");
    assert_eq!(http.form("/jobs", "kind=hot_update&reason=now&actor=ana").await.status, 303);
    let jobs = http.get("/jobs?done=job").await.text;
    assert!(jobs.contains("value=\"hot_update\" disabled"), "{jobs}");
    let refused = http.form("/jobs", "kind=hot_update&reason=now&actor=ana").await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("one of a kind"), "{}", refused.text);
}

#[tokio::test]
async fn what_is_refused_is_a_page_that_says_why() {
    let house = House::build(config(json!({}))).await;
    let http = house.http();
    for (path, status, words) in [
        ("/generations/champion", 404, "there is no champion now"),
        ("/generations/xyz", 400, "is no id"),
        ("/ledger?to=many", 400, "Not understood"),
    ] {
        let reply = http.get(path).await;
        assert_eq!(reply.status, status);
        assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/html"));
        assert!(reply.text.contains(words) && reply.text.contains("To the gate"), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_verdict_that_cannot_be_read_does_not_take_the_page_with_it() {
    let house = House::build(config(json!({}))).await;
    let made = house.candidate(JobKind::ColdStart, Outcome::NeedsApproval).await;
    std::fs::write(house.artifact_path(&made.verdict), b"{}").unwrap();
    let http = house.http();
    let home = http.get("/").await;
    assert_eq!(home.status, 200);
    assert!(home.text.contains("corrupt") && home.text.contains("Reject"), "{}", home.text);
    let page = http.get(&format!("/generations/{}", made.id)).await;
    assert!(page.status == 200 && page.text.contains("corrupt"), "{}", page.text);
    let verdict = http.get(&format!("/api/v1/verdicts/{}", made.verdict)).await;
    assert_eq!(verdict.status, 500);
    let overview = http.get("/api/v1/overview").await;
    assert_eq!(overview.status, 200, "{}", overview.text);
}

#[tokio::test]
async fn with_tokens_one_signs_in_and_sees_what_the_role_allows() {
    let mut listen = loopback();
    listen.tokens = vec![token("wall", Role::Viewer), token("ana", Role::Approver)];
    let house = House::guarded(config(json!({})), listen).await;
    house.champion(JobKind::ColdStart).await;
    house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let http = house.http();
    let stranger = http.get("/").await;
    assert_eq!(stranger.status, 401);
    assert!(stranger.text.contains("Sign in") && !stranger.text.contains("Candidate"));
    assert_eq!(http.get("/style.css").await.status, 200);
    let wrong = http.form("/sign-in", "token=guess").await;
    assert!(wrong.status == 401 && !wrong.headers.contains_key("set-cookie"), "{}", wrong.text);

    let home = async |name: &str| {
        let signed = http.form("/sign-in", &format!("token=token+of+{name}")).await;
        let cookie = signed.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap();
        http.call("GET", "/", &[("cookie", cookie)], Body::empty()).await.text
    };
    let wall = home("wall").await;
    assert!(wall.contains("approver&#39;s token") || wall.contains("approver's token"), "{wall}");
    assert!(wall.contains("Sign out") && !wall.contains("Reject"));
    let ana = home("ana").await;
    assert!(ana.contains(OFFERED) && !ana.contains("taken on trust"), "{ana}");
    let out = http.form("/sign-out", "").await;
    assert_eq!(out.status, 401, "only who is signed in signs out");
}
