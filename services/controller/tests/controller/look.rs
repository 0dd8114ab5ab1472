use serde_json::json;
use tidegate_contracts::{JobId, JobKind, Outcome};
use tidegate_ledger::Fact;
use crate::house::{House, config, window, loopback, token};
use tidegate_contracts::Role;

#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn look() {
    let policy = json!({"policy": {"approvals": {"hot_update": 2}}, "schedule": {"hot_update": "0 3 * * *", "cold_start": "0 4 1 1,4,7,10 *"}});
    for (port, scene) in [(18081, 0), (18082, 1), (18083, 2), (18084, 3), (18085, 4), (18086, 5)] {
        let mut listen = loopback();
        if scene == 5 { listen.tokens = vec![token("ana", Role::Approver)]; }
        let house = if scene == 5 { House::guarded(config(policy.clone()), listen).await } else { House::with_broker(config(policy.clone())).await };
        let http = house.http();
        let controller = house.controller();
        let pages = controller.http();
        tokio::spawn(async move { controller.run(tokio_util::sync::CancellationToken::new()).await });
        if scene != 0 {
            house.champion(JobKind::ColdStart).await;
            house.champion(JobKind::HotUpdate).await;
            house.candidate(JobKind::HotUpdate, Outcome::Blocked).await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            house.champion(JobKind::HotUpdate).await;
            let r = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
            http.post(&format!("/api/v1/generations/{}/reject", r.id), &json!({"reason":"labels look odd","actor":"cem"})).await;
            house.champion(JobKind::HotUpdate).await;
            house.champion(JobKind::HotUpdate).await;
            http.post("/api/v1/rollback", &json!({"reason":"slow for long mails","actor":"ana"})).await;
            let s = house.append("operator:ana", Fact::JobRequested{job: JobId::generate(), kind: JobKind::Transfer, reason: "from the mailing lists".into()}).await;
            let Fact::JobRequested{job,..} = s.fact else {panic!()};
            house.append("trainer", Fact::JobStarted{job: job.clone(), attempt: 1, window: window(0,10), parent: None}).await;
            house.append("trainer", Fact::JobFailed{job, attempt: 1, reason: "the window holds one class only: at least 2 are needed to learn to tell them apart".into(), retry: false}).await;
        }
        match scene {
            1 | 5 => {
                let c = house.candidate(JobKind::HotUpdate, Outcome::NeedsApproval).await;
                http.post(&format!("/api/v1/generations/{}/approve", c.id), &json!({"reason":"calibration is fine by eye","actor":"ana"})).await;
            }
            2 => { house.candidate(JobKind::HotUpdate, Outcome::Blocked).await; }
            3 => {
                let job = JobId::generate();
                house.append("controller", Fact::JobRequested{job: job.clone(), kind: JobKind::HotUpdate, reason: "214 labelled records wait (200 are enough)".into()}).await;
                let parent = house.state().await.champion();
                house.append("trainer", Fact::JobStarted{job: job.clone(), attempt: 1, window: window(50,80), parent}).await;
                let history: Vec<(u64,f64)> = (1..100).map(|i| (i*3, 0.9/(1.0+i as f64*0.08)+0.03*((i*37%17) as f64/17.0))).collect();
                let p = json!({"job": job, "step": 300, "steps": 480, "loss": 0.131, "examples_per_s": 412.0, "expert_load_max_share": 0.21, "history": history});
                house.ledger.put_state(&format!("progress/{job}"), 1, p.to_string().as_bytes()).await.unwrap();
            }
            4 => { house.trained(JobKind::HotUpdate, "controller", window(50, 90)).await; }
            _ => {}
        }
        if scene != 5 { house.publish(0, 143).await; }
        let socket = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        tokio::spawn(async move { axum::serve(socket, pages).await });
        std::mem::forget(house);
    }
    std::future::pending::<()>().await;
}
