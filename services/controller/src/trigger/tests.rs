use tidegate_contracts::{ArtifactHash, GenerationId, JobId, Offset, Outcome, Partition};
use tidegate_ledger::{Author, Fact, Ledger, LedgerConfig, PromotedBy};

use super::*;
use crate::ScheduleConfig;

/// A ledger, counts and a clock that can be set.
struct Desk {
    ledger: Ledger,
    tally: Tally,
    config: ControllerConfig,
    now: DateTime<Utc>,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
        let schedule = ScheduleConfig { hot_update: None, cold_start: None };
        let config = ControllerConfig { schedule, ..ControllerConfig::default() };
        Self { ledger, tally: Tally::default(), config, now: Utc::now(), _folder: folder }
    }

    /// Counts `more` labelled records, published now.
    fn count(&mut self, more: i64) {
        let from = self.tally.total().cast_signed();
        for at in from..from + more {
            self.tally.note(Partition(0), Offset(at), Some(self.now));
        }
    }

    fn later(&mut self, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
    }

    async fn next(&self) -> Option<Request> {
        let state = self.ledger.state().await.unwrap();
        let schedule = Schedule::parse(&self.config.schedule).unwrap();
        let Self { tally, config, now, .. } = self;
        Look { state: &state, tally, config, schedule: &schedule, now: *now }.next()
    }

    async fn asks(&self) -> Option<JobKind> {
        self.next().await.map(|request| request.kind)
    }

    async fn append(&self, fact: Fact) {
        let actor = if fact.kind() == "ApprovalGiven" { "operator:ana" } else { "test" };
        let author = Author::unfenced(actor);
        self.ledger.decide(&author, |_| Ok(Some(fact.clone()))).await.unwrap();
    }

    fn window(&self) -> Window {
        let to = Offset(self.tally.total().cast_signed());
        Window::new("t", [(Partition(0), (Offset(0), to))].into()).unwrap()
    }

    async fn started(&self, kind: JobKind) -> JobId {
        let (job, parent) = (JobId::generate(), self.ledger.state().await.unwrap().champion());
        self.append(Fact::job(job.clone(), kind, "")).await;
        let window = self.window();
        self.append(Fact::JobStarted { job: job.clone(), attempt: 1, window, parent }).await;
        job
    }

    async fn failed(&self, kind: JobKind) {
        let job = self.started(kind).await;
        let reason = "out of luck".to_owned();
        self.append(Fact::JobFailed { job, attempt: 1, reason, retry: false }).await;
    }

    async fn candidate(&self, kind: JobKind) -> GenerationId {
        let job = self.started(kind).await;
        let generation = GenerationId::of(job.as_str().as_bytes());
        let parent = self.ledger.state().await.unwrap().champion();
        let window = self.window();
        self.append(Fact::CandidateRegistered { job, generation, parent, kind, window }).await;
        generation
    }

    async fn judged(&self, kind: JobKind, outcome: Outcome) -> GenerationId {
        let generation = self.candidate(kind).await;
        let champion = self.ledger.state().await.unwrap().champion();
        let verdict = verdict(&generation);
        self.append(Fact::VerdictIssued {
            generation,
            champion,
            verdict,
            suite: "s 1".to_owned(),
            outcome,
            reasons: vec![],
            digest: Some(ArtifactHash::of(b"s")),
            waivable: None,
            queried: vec![],
            line: None,
            seal: None,
        })
        .await;
        generation
    }

    async fn champion(&self) {
        let generation = self.judged(JobKind::ColdStart, Outcome::AutoPromote).await;
        let previous = self.ledger.state().await.unwrap().champion();
        let (verdict, by) = (verdict(&generation), PromotedBy::Policy);
        self.append(Fact::promotion(generation, previous, verdict, by)).await;
    }
}

fn verdict(generation: &GenerationId) -> ArtifactHash {
    ArtifactHash::of(generation.as_bytes())
}

#[tokio::test]
async fn a_first_cold_start_waits_for_enough_and_is_asked_for_once() {
    let mut desk = Desk::new().await;
    desk.count(499);
    assert_eq!(desk.asks().await, None);
    desk.count(1);
    let request = desk.next().await.unwrap();
    assert_eq!((request.kind, request.actor), (JobKind::ColdStart, "controller"));
    assert!(request.reason.contains("500 labelled records"), "{}", request.reason);
    desk.started(JobKind::ColdStart).await;
    assert_eq!(desk.asks().await, None);
}

#[tokio::test]
async fn a_blocked_first_candidate_is_followed_by_another_with_half_as_much_more() {
    let mut desk = Desk::new().await;
    desk.count(500);
    desk.judged(JobKind::ColdStart, Outcome::Blocked).await;
    desk.count(249);
    assert_eq!(desk.asks().await, None);
    desk.count(1);
    assert_eq!(desk.asks().await, Some(JobKind::ColdStart));
}

#[tokio::test]
async fn a_hot_update_is_asked_for_by_what_waits_or_by_how_long() {
    let mut desk = Desk::new().await;
    desk.config.lag_trigger.max_wait_s = Some(60);
    desk.count(500);
    desk.champion().await;
    assert_eq!(desk.asks().await, None);
    desk.count(19);
    desk.later(61);
    assert_eq!(desk.asks().await, None, "under min_records nothing is worth a job");
    desk.count(1);
    let request = desk.next().await.unwrap();
    assert_eq!(request.kind, JobKind::HotUpdate);
    // The oldest is known to within 63 records, on the early side.
    assert!(
        request.reason.contains("20 labelled records wait, the oldest for 61 s"),
        "{}",
        request.reason
    );

    desk.config.lag_trigger.max_wait_s = None;
    assert_eq!(desk.asks().await, None, "by default only the number counts");
    desk.count(180);
    assert_eq!(desk.asks().await, Some(JobKind::HotUpdate));
    // What a candidate has considered does not ask again, whatever becomes of it.
    desk.judged(JobKind::HotUpdate, Outcome::Blocked).await;
    assert_eq!(desk.asks().await, None);
}

#[tokio::test]
async fn a_candidate_under_judgement_or_being_read_is_not_superseded() {
    let mut desk = Desk::new().await;
    desk.count(500);
    desk.champion().await;
    desk.count(200);
    let unjudged = desk.candidate(JobKind::HotUpdate).await;
    desk.count(200);
    assert_eq!(desk.asks().await, None, "{} is not judged yet", unjudged.short());

    let waits = desk.judged(JobKind::HotUpdate, Outcome::NeedsApproval).await;
    desk.count(200);
    assert_eq!(desk.asks().await, None);
    desk.later(301);
    assert_eq!(desk.asks().await, Some(JobKind::HotUpdate), "nobody came in hold_s");
    // Somebody did: it is held for the others.
    desk.config.policy.approvals.hot_update = 2;
    desk.append(Fact::ApprovalGiven {
        generation: waits,
        verdict: verdict(&waits),
        reason: "fine".to_owned(),
        expires: desk.now + TimeDelta::hours(1),
        waives: vec![],
        seal: None,
    })
    .await;
    assert_eq!(desk.asks().await, None);
    desk.later(3_601);
    assert_eq!(desk.asks().await, Some(JobKind::HotUpdate), "the approval has expired");
}

#[tokio::test]
async fn after_failures_the_pauses_double_and_then_more_data_is_waited_for() {
    let mut desk = Desk::new().await;
    desk.count(500);
    desk.champion().await;
    desk.count(200);
    for pause in [30, 60] {
        desk.failed(JobKind::HotUpdate).await;
        desk.now = Utc::now();
        desk.later(pause - 1);
        // Considered is what became a candidate: what a failed job read still waits.
        assert_eq!(desk.asks().await, None, "{pause}");
        desk.later(2);
        assert_eq!(desk.asks().await, Some(JobKind::HotUpdate), "{pause}");
    }
    desk.failed(JobKind::HotUpdate).await;
    desk.now = Utc::now();
    desk.later(86_400);
    assert_eq!(desk.asks().await, None, "three attempts are enough");
    desk.count(349);
    assert_eq!(desk.asks().await, None);
    desk.count(1);
    assert_eq!(desk.asks().await, Some(JobKind::HotUpdate), "with half as much more, again");
}

#[tokio::test]
async fn the_clock_asks_once_a_time_and_only_when_there_is_something_new() {
    let mut desk = Desk::new().await;
    desk.config.schedule.hot_update = Some("0 3 * * *".to_owned());
    desk.count(500);
    desk.champion().await;
    let tomorrow = (desk.now + TimeDelta::days(1)).date_naive();
    desk.now = tomorrow.and_hms_opt(3, 0, 1).unwrap().and_utc();
    assert_eq!(desk.asks().await, None, "nothing has come since");
    desk.count(5);
    let request = desk.next().await.unwrap();
    assert_eq!((request.kind, request.actor), (JobKind::HotUpdate, "cron:hot_update"));
    assert!(request.reason.contains("03:00 UTC"), "{}", request.reason);
    desk.later(3_700);
    assert_eq!(desk.asks().await, None, "a time long past is not made up for");
}

#[tokio::test]
async fn the_clock_may_ask_for_a_cold_start_beside_hot_updates() {
    let mut desk = Desk::new().await;
    desk.config.schedule.cold_start = Some("30 4 * * *".to_owned());
    desk.count(500);
    desk.champion().await;
    let tomorrow = (desk.now + TimeDelta::days(1)).date_naive();
    desk.now = tomorrow.and_hms_opt(4, 30, 0).unwrap().and_utc();
    assert_eq!(desk.asks().await, Some(JobKind::ColdStart));
    desk.started(JobKind::HotUpdate).await;
    assert_eq!(desk.asks().await, Some(JobKind::ColdStart), "one of a kind at a time");
    desk.started(JobKind::ColdStart).await;
    assert_eq!(desk.asks().await, None);
}
