//! What comes from where it should not, or is not what it should be.
use axum::body::Body;
use serde_json::json;
use tidegate_contracts::{JobKind, Outcome, Role, proto::v1};
use tonic::Code;

use crate::house::{House, approval, config, loopback, token};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[tokio::test]
async fn another_sites_page_decides_nothing_and_reads_nothing() {
    let allowed = json!({"allowed_hosts": ["tidegate.example.org"]});
    let house = House::build(config(allowed)).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let http = house.http();
    let path = format!("/generations/{}/approve", made.id);
    let body = "reason=x&actor=ana";

    let foreign: [&[(&str, &str)]; 5] = [
        &[FORM, ("sec-fetch-site", "cross-site")],
        &[FORM, ("sec-fetch-site", "same-site")],
        &[FORM, ("origin", "http://evil.example")],
        &[FORM, ("origin", "null")],
        &[FORM, ("host", "evil.example:8080"), ("sec-fetch-site", "same-origin")],
    ];
    for headers in foreign {
        let reply = http.call("POST", &path, headers, body).await;
        assert_eq!(reply.status, 403, "{headers:?}: {}", reply.text);
    }
    assert!(house.entries("ApprovalGiven").await.is_empty());
    // A name that was rebound to this machine may not even read.
    for host in ["evil.example:8080", "evil.example", "localhost.evil.example:8080", "[::1", "a b"]
    {
        for path in ["/", "/api/v1/overview", "/style.css"] {
            let reply = http.call("GET", path, &[("host", host)], Body::empty()).await;
            assert_eq!(reply.status, 403, "{host} {path}");
        }
    }
    for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "tidegate.example.org"]
    {
        let reply = http.call("GET", "/api/v1/overview", &[("host", host)], Body::empty()).await;
        assert_eq!(reply.status, 200, "{host}: {}", reply.text);
    }
    let ours = [FORM, ("origin", "http://127.0.0.1:8080")];
    assert_eq!(http.call("POST", &path, &ours, body).await.status, 303);
}

#[tokio::test]
async fn a_page_may_load_nothing_and_be_framed_by_nobody() {
    let house = House::build(config(json!({}))).await;
    let http = house.http();
    for path in ["/", "/jobs", "/ledger", "/api/v1/overview", "/generations/nothing"] {
        let reply = http.get(path).await;
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        assert_eq!(reply.headers["cache-control"], "no-store");
        assert!(!reply.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_reason() {
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let http = house.http();
    let json = [("content-type", "application/json")];
    let approve = format!("/api/v1/generations/{}/approve", made.id);
    let huge = format!(r#"{{"reason": "{}"}}"#, "x".repeat(70_000));
    let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(2_001));
    let cases: [(&str, &str, u16, &str); 12] = [
        (&approve, "{", 400, "JSON"),
        (&approve, "5", 400, "JSON"),
        (&approve, r#"{"reason": 5}"#, 400, "reason"),
        (&approve, r#"{"reason": "x", "force": true}"#, 400, "force"),
        (&approve, "{}", 400, "reason: is needed"),
        (&approve, r#"{"reason": " \n "}"#, 400, "reason: is needed"),
        (&approve, r#"{"reason": "\u001b[2J"}"#, 400, "control characters"),
        (&approve, &long, 400, "2000 bytes"),
        (&approve, &huge, 413, "65536 bytes"),
        (&approve, r#"{"reason": "x", "actor": "a\u0000b"}"#, 400, "actor"),
        (&approve, r#"{"reason": "x", "actor": "\u202eana"}"#, 400, "actor"),
        (&approve, r#"{"reason": "x", "verdict": "zz"}"#, 400, "hexadecimal"),
    ];
    for (path, body, status, words) in cases {
        let reply = http.call("POST", path, &json, body.to_owned()).await;
        assert_eq!(reply.status, status, "{body:.40}: {}", reply.text);
        assert!(reply.error().contains(words), "{body:.40}: {}", reply.error());
    }
    let reply = http.call("POST", &approve, &[], "{}").await;
    assert_eq!(reply.status, 400, "without a content type: {}", reply.text);
    for (path, status) in [
        ("/api/v1/generations/abc", 400),
        ("/api/v1/generations/..%2F..%2Fetc%2Fpasswd", 400),
        ("/api/v1/generations/ABCDEF", 400),
        ("/api/v1/generations/%F0%9F%8C%8A%F0%9F%8C%8A", 400),
        ("/api/v1/generations/%FF%FE", 400),
        ("/api/v1/generations/0123456789abcdef", 404),
        ("/api/v1/verdicts/0123456789abcdef", 404),
        ("/api/v1/jobs?limit=many", 400),
        ("/api/v1/entries?from=-1", 400),
        ("/api/v1/jobs?limits=1", 400),
        ("/api/v1/nothing", 404),
        ("/api/v2/overview", 404),
    ] {
        let reply = http.get(path).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text);
        assert!(!reply.error().is_empty());
    }
    let reply =
        http.post(&format!("/api/v1/generations/{}/crown", made.id), &json!({"reason": "x"})).await;
    assert_eq!(reply.status, 404);
    assert!(house.entries("ApprovalGiven").await.is_empty());
}

#[tokio::test]
async fn a_huge_message_and_a_wrong_one_are_refused_over_grpc_too() {
    let house = House::build(config(json!({}))).await;
    let made = house.candidate(JobKind::ColdStart, Outcome::NeedsApproval).await;
    let mut grpc = house.grpc().await;
    let huge = v1::ApproveRequest { reason: "x".repeat(70_000), ..approval(&made, "ana") };
    assert_eq!(grpc.approve(huge).await.unwrap_err().code(), Code::OutOfRange);
    for (reason, actor) in [("", "ana"), ("ok", "a\u{1b}[31m"), ("a\u{7}", "ana"), ("ok", "a\nb")] {
        let asked = v1::ApproveRequest { reason: reason.to_owned(), ..approval(&made, actor) };
        let refused = grpc.approve(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{reason:?} {actor:?}");
    }
    let wrong = v1::ApproveRequest { generation: "candidat".to_owned(), ..approval(&made, "ana") };
    let refused = grpc.approve(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("`candidat` is no id"), "{refused}");
    let limit = u32::MAX;
    let all = grpc.list_jobs(v1::ListJobsRequest { limit }).await.unwrap().into_inner();
    assert_eq!(all.jobs.len(), 1);
    let past = v1::ListEntriesRequest { from: u64::MAX, limit };
    assert!(grpc.list_entries(past).await.unwrap().into_inner().entries.is_empty());
}

#[tokio::test]
async fn nobody_signs_as_a_service() {
    let house = House::build(config(json!({}))).await;
    house.champion(JobKind::ColdStart).await;
    let http = house.http();
    let wish = json!({"kind": "hot_update", "actor": "controller"});
    assert_eq!(http.post("/api/v1/jobs", &wish).await.status, 201);
    let state = house.state().await;
    assert_eq!(state.jobs().last().unwrap().requested_by.as_str(), "operator:controller");
}

#[tokio::test]
async fn markup_in_what_people_write_stays_text() {
    let policy = json!({"policy": {"approvals": {"hot_update": 2}}});
    let house = House::build(config(policy)).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let http = house.http();
    let said = json!({"reason": "<script>alert(1)</script>\"'&", "actor": "ana"});
    let path = format!("/api/v1/generations/{}/approve", made.id);
    assert_eq!(http.post(&path, &said).await.status, 200);
    let page = format!("/generations/{}", made.id);
    for path in ["/", &page, "/ledger", "/generations/%3Cscript%3E", "/?done=%3Cscript%3E"] {
        let reply = http.get(path).await;
        assert!(!reply.text.contains("<script"), "{path}");
    }
    assert!(http.get(&page).await.text.contains("&lt;script&gt;alert(1)"));
}

#[tokio::test]
async fn behind_tokens_a_cookie_of_another_sites_page_is_of_no_use() {
    let mut listen = loopback();
    listen.tokens = vec![token("ana", Role::Approver)];
    let house = House::guarded(config(json!({})), listen).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let http = house.http();
    let signed = http.form("/sign-in", "token=token+of+ana").await;
    assert_eq!(signed.status, 303, "{}", signed.text);
    let cookie = signed.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let path = format!("/generations/{}/approve", made.id);
    let cross = [FORM, ("cookie", cookie), ("sec-fetch-site", "cross-site")];
    assert_eq!(http.call("POST", &path, &cross, "reason=x").await.status, 403);
    let cross = [FORM, ("sec-fetch-site", "cross-site")];
    let reply = http.call("POST", "/sign-in", &cross, "token=token+of+ana").await;
    assert_eq!(reply.status, 403, "nobody is signed in by another site");
    // Any name will do there: what a rebound name lacks is the cookie.
    let named = [("host", "gate.example.org"), ("cookie", cookie)];
    assert_eq!(http.call("GET", "/", &named, Body::empty()).await.status, 200);
    let ours = [FORM, ("cookie", cookie), ("sec-fetch-site", "same-origin")];
    assert_eq!(http.call("POST", &path, &ours, "reason=x").await.status, 303);
    let given = house.entries("ApprovalGiven").await;
    assert_eq!(given[0].actor.as_str(), "operator:ana");
}
