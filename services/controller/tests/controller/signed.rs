//! Approvals with the approver's own signature, and those that are somebody's who may not.
use chrono::{TimeDelta, Utc};
use serde_json::json;
use tidegate_contracts::{Actor, ArtifactHash, JobKind, LineEvidence, Outcome, Role, proto::v1};
use tidegate_ledger::{Consent, Envelope, seal::SigningKey};
use tonic::Code;

use crate::house::{House, Made, approval, config, loopback, token, window};

/// What Olga would sign.
async fn consent(house: &House, made: &Made) -> Consent {
    Consent {
        generation: made.id,
        verdict: made.verdict,
        suite: ArtifactHash::of(b"suite"),
        champion: house.state().await.champion(),
        approver: Actor::new("operator:olga"),
        reason: "looked at it".to_owned(),
        waives: vec![],
        expires: Utc::now() + TimeDelta::hours(1),
        nonce: Consent::fresh_nonce(),
    }
}

fn signed(made: &Made, actor: &str, envelope: &Envelope) -> v1::ApproveRequest {
    let envelope = serde_json::to_string(envelope).unwrap();
    v1::ApproveRequest { envelope, ..approval(made, actor) }
}

async fn with_candidate(policy: serde_json::Value) -> (House, Made) {
    let house = House::build(config(json!({ "policy": policy }))).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    (house, made)
}

#[tokio::test]
async fn where_policy_wants_own_keys_nothing_else_counts() {
    let (house, made) = with_candidate(json!({"own_keys": true})).await;
    let (mut grpc, http) = (house.grpc().await, house.http());
    let refused = grpc.approve(approval(&made, "olga")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--key"), "{refused}");
    let path = format!("/generations/{}/approve", made.id);
    let page = http.form(&path, "reason=fine&actor=olga").await;
    assert_eq!(page.status, 409, "{}", page.text);
    assert!(house.entries("ApprovalGiven").await.is_empty());

    let envelope = consent(&house, &made).await.seal(&house.key());
    let said = json!({
        "actor": "olga", "reason": "looked at it",
        "envelope": serde_json::to_string(&envelope).unwrap(),
    });
    let reply = http.post(&format!("/api/v1{path}"), &said).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(house.state().await.champion(), Some(made.id));
    let one = grpc.get_generation(v1::GetGenerationRequest { id: made.id.to_hex() }).await.unwrap();
    assert!(one.into_inner().approvals[0].own_key);
    let page = http.get(&format!("/generations/{}", made.id)).await;
    assert!(page.text.contains("signed with their own key"));
}

#[tokio::test]
async fn forged_replayed_and_foreign_signatures_are_refused() {
    let (house, made) = with_candidate(json!({"approvals": {"hot_update": 2}})).await;
    let mut grpc = house.grpc().await;
    let (right, key) = (consent(&house, &made).await, house.key());
    let sealed = right.clone().seal(&key);
    let other = |change: fn(Consent) -> Consent| change(right.clone()).seal(&key);
    let cases = [
        ("a key nobody knows", "olga", right.clone().seal(&SigningKey::generate()), "not in"),
        ("another's name", "ana", sealed.clone(), "who may not"),
        (
            "another suite",
            "olga",
            other(|c| Consent { suite: ArtifactHash::of(b"x"), ..c }),
            "suite",
        ),
        ("another champion", "olga", other(|c| Consent { champion: None, ..c }), "champion"),
        (
            "another verdict",
            "olga",
            other(|c| Consent { verdict: ArtifactHash::of(b"x"), ..c }),
            "verdict",
        ),
        (
            "longer than policy",
            "olga",
            other(|c| Consent { expires: c.expires + TimeDelta::days(3), ..c }),
            "--expires",
        ),
        (
            "past",
            "olga",
            other(|c| Consent { expires: c.expires - TimeDelta::hours(2), ..c }),
            "in the future",
        ),
    ];
    for (what, actor, envelope, words) in cases {
        let refused = grpc.approve(signed(&made, actor, &envelope)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{what}: {refused}");
        assert!(refused.message().contains(words), "{what}: {refused}");
    }
    let asked = v1::ApproveRequest { envelope: "{}".to_owned(), ..approval(&made, "olga") };
    assert_eq!(grpc.approve(asked).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(house.entries("ApprovalGiven").await.is_empty());

    // Right, taken back, and brought again by whoever kept it.
    grpc.approve(signed(&made, "olga", &sealed)).await.unwrap();
    let withdrawal = v1::WithdrawApprovalRequest {
        generation: made.id.to_hex(),
        actor: "olga".to_owned(),
        reason: "second thoughts".to_owned(),
    };
    grpc.withdraw_approval(withdrawal).await.unwrap();
    let refused = grpc.approve(signed(&made, "olga", &sealed)).await.unwrap_err();
    assert!(refused.message().contains("used before"), "{refused}");
    // And onto the next generation.
    let next = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let refused = grpc.approve(signed(&next, "olga", &sealed)).await.unwrap_err();
    assert!(refused.message().contains("bound to another generation"), "{refused}");
    assert_eq!(house.entries("ApprovalGiven").await.len(), 1);
}

#[tokio::test]
async fn nobody_without_the_role_says_yes_and_nobody_to_themselves() {
    let mut listen = loopback();
    listen.tokens = vec![
        token("olga", Role::Approver),
        token("otto", Role::Operator),
        token("vera", Role::Viewer),
    ];
    let house = House::guarded(config(json!({})), listen).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.trained(JobKind::HotUpdate, "operator:olga", window(10, 20)).await;
    let made = house.judged(made, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    let envelope = consent(&house, &made).await.seal(&house.key());
    for (name, code) in [
        (None, Code::Unauthenticated),
        (Some("vera"), Code::PermissionDenied),
        (Some("otto"), Code::PermissionDenied),
        // She asked for the job.
        (Some("olga"), Code::FailedPrecondition),
    ] {
        let mut asked = tonic::Request::new(signed(&made, "olga", &envelope));
        if let Some(name) = name {
            let bearer = format!("Bearer token of {name}");
            asked.metadata_mut().insert("authorization", bearer.parse().unwrap());
        }
        assert_eq!(grpc.approve(asked).await.unwrap_err().code(), code, "{name:?}");
    }
    assert!(house.entries("ApprovalGiven").await.is_empty());
}

#[tokio::test]
async fn another_suite_than_the_champions_waits_for_approval() {
    for (policy, waits) in [(json!({}), true), (json!({"approve_suite_changes": false}), false)] {
        let house = House::with_broker(config(json!({ "policy": policy }))).await;
        house.champion(JobKind::ColdStart).await;
        let running = house.start();
        let easier = |document: &mut tidegate_contracts::Verdict| {
            document.suite.digest = ArtifactHash::of(b"fewer checks");
            document.suite.version = "1.1.0".to_owned();
        };
        let made = house.candidate_as(JobKind::HotUpdate, Outcome::AutoPromote, easier).await;
        let mut grpc = house.grpc().await;
        if waits {
            let refused = grpc.promote(crate::house::promotion(&made, "ana")).await.unwrap_err();
            let says = ["email 1.1.0", "email 1.0.0", "the suite has changed"];
            assert!(says.iter().all(|word| refused.message().contains(word)), "{refused}");
            grpc.approve(approval(&made, "ana")).await.unwrap();
        }
        house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
        // By the same suite again, policy goes on alone.
        let next = house.candidate_as(JobKind::HotUpdate, Outcome::AutoPromote, easier).await;
        house.until("the next is promoted", |state| state.champion() == Some(next.id)).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_strict_error_budget_waits_for_approval_where_there_is_too_little_evidence() {
    let strict = json!({"error_budget": "strict"});
    for (policy, holds, waits) in
        [(strict.clone(), false, true), (strict, true, false), (json!({}), false, false)]
    {
        let house = House::with_broker(config(json!({ "policy": policy }))).await;
        house.champion(JobKind::ColdStart).await;
        let running = house.start();
        let says = "e-LOND asks for evidence of 131.6, and there is evidence of 41.0".to_owned();
        let evidence = move |document: &mut tidegate_contracts::Verdict| {
            document.line = Some(LineEvidence { holds, says: says.clone() });
        };
        let made = house.candidate_as(JobKind::HotUpdate, Outcome::AutoPromote, evidence).await;
        let mut grpc = house.grpc().await;
        if waits {
            let refused = grpc.promote(crate::house::promotion(&made, "ana")).await.unwrap_err();
            let words = ["error budget", "131.6", "41.0", "1 more needed"];
            assert!(words.iter().all(|word| refused.message().contains(word)), "{refused}");
            grpc.approve(approval(&made, "ana")).await.unwrap();
        }
        house.until("it is promoted", |state| state.champion() == Some(made.id)).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_verification_reads_what_the_ledger_names() {
    let (house, made) = with_candidate(json!({})).await;
    let mut grpc = house.grpc().await;
    let deep = v1::VerifyLedgerRequest { artifacts: true };
    let report = grpc.verify_ledger(deep).await.unwrap().into_inner();
    assert!(report.ok, "{:?}", report.faults);
    assert_eq!(report.signatures, 3, "two verdicts and a promotion");
    let path = house.artifact_path(&made.verdict);
    let document = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, document.replace("undecided", "excellent")).unwrap();
    let report = grpc.verify_ledger(deep).await.unwrap().into_inner();
    assert!(!report.ok && report.faults[0].contains("the verdict on"), "{:?}", report.faults);
    let shallow = house.http().get("/api/v1/ledger/verify").await;
    assert!(shallow.text.contains(r#""ok":true"#), "{}", shallow.text);
    let deep = house.http().get("/api/v1/ledger/verify?artifacts=true").await;
    assert!(deep.text.contains("corrupt"), "{}", deep.text);
}
