//! gRPC and its HTTP twin: the same answers, for whom they are meant.
use futures::StreamExt as _;
use serde_json::{Value, json};
use tidegate_contracts::{JobKind, Outcome, Role, proto::v1};
use tonic::{Code, Request};

use crate::{
    house::{House, approval, client, config, loopback, token},
    http::Reply,
};

#[tokio::test]
async fn both_doors_answer_alike() {
    let house = House::build(config(json!({}))).await;
    let champion = house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let (mut grpc, http) = (house.grpc().await, house.http());
    let same = |wire: Value, reply: Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(wire, reply.json());
    };

    let overview = grpc.get_overview(v1::GetOverviewRequest {}).await.unwrap().into_inner();
    assert_eq!(overview.champion.as_ref().unwrap().id, champion.id.to_hex());
    assert_eq!(overview.champion.as_ref().unwrap().labels, ["ham", "spam"]);
    let document = &overview.candidate_verdict.as_ref().unwrap().document_json;
    let document: tidegate_contracts::Verdict = serde_json::from_str(document).unwrap();
    assert_eq!(document.generation, made.id);
    assert_eq!((overview.promotions, overview.ledger_length), (1, 9));
    same(serde_json::to_value(&overview).unwrap(), http.get("/api/v1/overview").await);

    let limit = 1;
    let jobs = grpc.list_jobs(v1::ListJobsRequest { limit }).await.unwrap().into_inner();
    assert_eq!((jobs.jobs.len(), jobs.jobs[0].id.as_str()), (1, made.job.as_str()));
    same(serde_json::to_value(&jobs).unwrap(), http.get("/api/v1/jobs?limit=1").await);
    let all = grpc.list_generations(v1::ListGenerationsRequest { limit: 0 }).await.unwrap();
    let all = all.into_inner();
    assert_eq!(all.generations.len(), 2);
    assert_eq!(all.generations[0].id, made.id.to_hex(), "newest first");
    same(serde_json::to_value(&all).unwrap(), http.get("/api/v1/generations").await);
    let verdicts = grpc.list_verdicts(v1::ListVerdictsRequest { limit: 0 }).await.unwrap();
    let verdicts = serde_json::to_value(verdicts.into_inner()).unwrap();
    same(verdicts, http.get("/api/v1/verdicts").await);

    // By id, by prefix, by name; a verdict also by what it is about.
    for id in [made.id.to_hex(), made.id.short(), "candidate".to_owned()] {
        let get = v1::GetGenerationRequest { id: id.clone() };
        let one = grpc.get_generation(get).await.unwrap().into_inner();
        assert_eq!((one.state.as_str(), one.verdict), ("needs_approval", made.verdict.to_hex()));
        assert!(one.manifest_json.contains("weights.safetensors"));
        assert_eq!(http.get(&format!("/api/v1/generations/{id}")).await.json()["id"], one.id);
    }
    for id in [made.verdict.to_hex(), made.verdict.short(), made.id.short(), "candidate".to_owned()]
    {
        let get = v1::GetVerdictRequest { id: id.clone() };
        let one = grpc.get_verdict(get).await.unwrap().into_inner();
        assert_eq!(
            (one.id.as_str(), one.outcome.as_str()),
            (made.verdict.to_hex().as_str(), "needs_approval")
        );
        assert!(one.document_json.contains("checks"));
        same(
            serde_json::to_value(&one).unwrap(),
            http.get(&format!("/api/v1/verdicts/{id}")).await,
        );
    }

    let list = v1::ListEntriesRequest { from: 3, limit: 4 };
    let entries = grpc.list_entries(list).await.unwrap().into_inner();
    let seqs: Vec<u64> = entries.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [3, 4, 5, 6]);
    same(serde_json::to_value(&entries).unwrap(), http.get("/api/v1/entries?from=3&limit=4").await);
    let report = grpc.verify_ledger(v1::VerifyLedgerRequest::default()).await.unwrap().into_inner();
    assert!(report.ok && report.entries == 9, "{report:?}");
    same(serde_json::to_value(&report).unwrap(), http.get("/api/v1/ledger/verify").await);
}

#[tokio::test]
async fn every_decision_has_its_twin() {
    let policy = json!({"policy": {"approvals": {"hot_update": 2}}});
    let house = House::build(config(policy)).await;
    let http = house.http();
    let first = house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let path = |decision: &str| format!("/api/v1/generations/{}/{decision}", made.id);
    let said = |actor: &str| json!({"actor": actor, "reason": "as told", "verdict": made.verdict});

    let reply = http.post(&path("approve"), &said("ana")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json()["generation"]["state"], "needs_approval");
    assert_eq!(http.post(&path("withdraw"), &said("ana")).await.status, 200);
    let reply = http.post(&path("promote"), &said("ana")).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (409, &json!("FailedPrecondition")));
    for actor in ["ana", "bo"] {
        assert_eq!(http.post(&path("approve"), &said(actor)).await.status, 200);
    }
    assert_eq!(house.state().await.champion(), Some(made.id));
    let reply = http.post("/api/v1/rollback", &json!({"reason": "slow"})).await;
    assert_eq!(reply.json()["generation"]["id"], json!(first.id));
    let next = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let reply = http
        .post("/api/v1/generations/candidate/reject", &json!({"reason": "odd", "actor": "ana"}))
        .await;
    assert_eq!(
        (&reply.json()["generation"]["id"], &reply.json()["generation"]["state"]),
        (&json!(next.id), &json!("rejected"))
    );

    let wish = json!({"kind": "hot-update", "reason": "now", "actor": "ana"});
    let reply = http.post("/api/v1/jobs", &wish).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let job = house.state().await.jobs().last().unwrap().clone();
    assert_eq!(
        (json!(job.job), job.requested_by.as_str()),
        (reply.json()["job"].clone(), "operator:ana")
    );
    let reply = http.post("/api/v1/jobs", &wish).await;
    assert_eq!(reply.status, 409);
    assert!(reply.error().contains("one of a kind"), "{}", reply.error());
}

#[tokio::test]
async fn a_hot_update_needs_a_champion() {
    let house = House::build(config(json!({}))).await;
    let mut grpc = house.grpc().await;
    let wish = |kind: &str| v1::RequestJobRequest { kind: kind.to_owned(), ..Default::default() };
    let refused = grpc.request_job(wish("hot_update")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("ask for a cold_start"), "{refused}");
    let refused = grpc.request_job(wish("warm_up")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    grpc.request_job(wish("cold_start")).await.unwrap();
}

#[tokio::test]
async fn only_a_transfer_names_a_domain_and_a_source() {
    let house = House::build(config(json!({}))).await;
    let mut grpc = house.grpc().await;
    let wish = |kind: &str, domain: &str, source: &str| v1::RequestJobRequest {
        kind: kind.to_owned(),
        actor: "ana".to_owned(),
        domain: domain.to_owned(),
        source: source.to_owned(),
        ..Default::default()
    };
    let refused = grpc.request_job(wish("cold_start", "shop", "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("only a transfer"), "{refused}");
    let refused = grpc.request_job(wish("transfer", "shop", "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("name another model's generation"), "{refused}");
    let refused = grpc.request_job(wish("transfer", "shop", &"ab".repeat(32))).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let long = "x".repeat(257);
    let refused = grpc.request_job(wish("transfer", &long, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // Of another model: its generation is in the store, and not on this ledger.
    let other = house.another_models_generation().await;
    let job = grpc.request_job(wish("transfer", "shop", &other.to_hex())).await.unwrap();
    let record = house.state().await.jobs().last().unwrap().clone();
    assert_eq!(record.job.as_str(), job.into_inner().job);
    assert_eq!(record.domain.unwrap().as_str(), "shop");
    assert_eq!(record.source, Some(other));
    let listed = grpc.list_jobs(v1::ListJobsRequest { limit: 1 }).await.unwrap().into_inner();
    assert_eq!((&listed.jobs[0].domain[..], &listed.jobs[0].source), ("shop", &other.to_hex()));
    let page = house.http().get("/jobs").await.text;
    assert!(page.contains("of shop") && page.contains(&other.short()), "{page}");
}

#[tokio::test]
async fn how_an_architecture_was_found_is_shown_with_the_generation() {
    let house = House::build(config(json!({}))).await;
    let champion = house.champion(JobKind::ColdStart).await;
    let mut grpc = house.grpc().await;
    let get = |id: String| v1::GetGenerationRequest { id };
    let one = grpc.get_generation(get(champion.id.to_hex())).await.unwrap().into_inner();
    let log: tidegate_contracts::SearchLog = serde_json::from_str(&one.search_json).unwrap();
    assert_eq!((log.winner, log.candidates.len()), (Some(1), 2));
    let page = house.http().get(&format!("/generations/{}", champion.id)).await.text;
    for part in ["Architecture search", "layers 3", "0.8125", "It won", "is behind"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let update = house.champion(JobKind::HotUpdate).await;
    let one = grpc.get_generation(get(update.id.to_hex())).await.unwrap().into_inner();
    assert_eq!(one.search_json, "");
}

#[tokio::test]
async fn a_watcher_gets_what_was_and_what_comes_and_is_told_of_the_shutdown() {
    let house = House::with_broker(config(json!({}))).await;
    let controller = std::sync::Arc::new(house.controller());
    let mut routes = tonic::service::RoutesBuilder::default();
    controller.grpc(&mut routes);
    let mut grpc = client(routes).await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = {
        let (controller, shutdown) = (controller.clone(), shutdown.clone());
        tokio::spawn(async move { controller.run(shutdown).await })
    };
    let sse = axum::http::Request::get("/api/v1/entries/watch").header("last-event-id", "3");
    let sse = sse.body(axum::body::Body::empty()).unwrap();
    let sse = tower::ServiceExt::oneshot(controller.http(), sse).await.unwrap();
    assert_eq!(sse.headers()["content-type"], "text/event-stream");
    let mut sse = sse.into_body().into_data_stream();

    let watch = v1::WatchEntriesRequest { from: 2 };
    let mut entries = grpc.watch_entries(watch).await.unwrap().into_inner();
    house.candidate(JobKind::ColdStart, Outcome::AutoPromote).await;
    for seq in 2..=5 {
        let entry = entries.next().await.unwrap().unwrap();
        assert_eq!(entry.seq, seq);
    }
    let event = String::from_utf8(sse.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(event.contains("id: 4") && event.contains("VerdictIssued"), "{event}");
    shutdown.cancel();
    let last = loop {
        match entries.next().await.unwrap() {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(last.code(), Code::Unavailable);
    while sse.next().await.is_some() {}
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_token_allows_what_its_role_says_and_names_who_decided() {
    let mut listen = loopback();
    listen.tokens = vec![
        token("dashboards", Role::Viewer),
        token("cron", Role::Operator),
        token("ana", Role::Approver),
    ];
    let house = House::guarded(config(json!({})), listen).await;
    house.champion(JobKind::ColdStart).await;
    let made = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    let (mut grpc, http) = (house.grpc().await, house.http());
    fn with<T>(message: T, who: &str) -> Request<T> {
        let mut request = Request::new(message);
        let value = format!("Bearer token of {who}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }
    let overview = v1::GetOverviewRequest {};
    assert_eq!(grpc.get_overview(overview).await.unwrap_err().code(), Code::Unauthenticated);
    let refused = grpc.get_overview(with(overview, "nobody")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    grpc.get_overview(with(overview, "dashboards")).await.unwrap();
    let wish = v1::RequestJobRequest { kind: "hot_update".into(), ..Default::default() };
    let refused = grpc.request_job(with(wish.clone(), "dashboards")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    grpc.request_job(with(wish, "cron")).await.unwrap();
    let refused = grpc.approve(with(approval(&made, ""), "cron")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("Approver is needed"), "{refused}");

    assert_eq!(http.get("/api/v1/overview").await.status, 401);
    let bearer = |who: &str| format!("Bearer token of {who}");
    let cron = bearer("cron");
    let json = ("content-type", "application/json");
    let path = format!("/api/v1/generations/{}/approve", made.id);
    let body = r#"{"reason": "fine", "actor": "somebody else"}"#;
    let reply = http.call("POST", &path, &[json, ("authorization", &cron)], body).await;
    assert_eq!(reply.status, 403);
    let ana = bearer("ana");
    let reply = http.call("POST", &path, &[json, ("authorization", &ana)], body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let one = reply.json()["generation"].clone();
    assert_eq!(
        (&one["state"], &one["approvals"][0]["approver"]),
        (&json!("champion"), &json!("operator:ana"))
    );
}
