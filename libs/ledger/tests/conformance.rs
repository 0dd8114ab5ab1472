//! One suite for every store: the embedded file, and a real Redis server.
mod made;

use std::{
    io::Write as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use chrono::Utc;
use futures::StreamExt as _;
use made::{candidate, operator, window};
use tidegate_contracts::{
    ArtifactHash, JobId, JobKind, Offset, Outcome, Partition, config::Secret,
};
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Fact, Fence, GenerationState, Ledger, LedgerConfig,
    LedgerError, PromotedBy, Stage, StageEvidence, StageOutcome, StageTerms, StoreConfig,
    VerifyReport, audit, audit_at_rest,
};

/// A store that can be opened again.
trait Place {
    fn config(&self) -> LedgerConfig;
    fn folder(&self) -> &std::path::Path;
}

struct Embedded(tempfile::TempDir);

impl Place for Embedded {
    fn config(&self) -> LedgerConfig {
        LedgerConfig::default()
    }

    fn folder(&self) -> &std::path::Path {
        self.0.path()
    }
}

/// A `redis-server` of our own, on a free port, in a folder of its own.
struct Redis {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start(appendonly: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", appendonly, "--appendfsync", "always"])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for this test: apt-get install redis-server");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            std::thread::yield_now();
        }
        let version = Command::new("redis-server").arg("--version").output().unwrap();
        // Past the test harness, which keeps what a passing test prints: the log names the version.
        let version = String::from_utf8_lossy(&version.stdout);
        let line = format!("real {}\n", version.trim());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        Self { server, port, folder }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Place for Redis {
    fn config(&self) -> LedgerConfig {
        let url = Secret::new(format!("redis://127.0.0.1:{}/", self.port));
        let store = StoreConfig::Redis { url, prefix: "test".into() };
        LedgerConfig { store, ..LedgerConfig::default() }
    }

    fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

async fn verify_at_rest(place: &impl Place) -> Result<VerifyReport, LedgerError> {
    audit_at_rest(&place.config(), place.folder(), |_| ()).await
}

async fn open(place: &impl Place) -> Ledger {
    Ledger::open(&place.config(), place.folder()).await.unwrap()
}

fn store(place: &impl Place) -> ArtifactStore {
    ArtifactStore::open(&ArtifactsConfig::default(), place.folder()).unwrap()
}

fn request(job: &JobId) -> Fact {
    Fact::job(job.clone(), JobKind::ColdStart, "test")
}

async fn write(ledger: &Ledger, author: &Author, fact: Fact) -> Result<(), LedgerError> {
    ledger.decide(author, |_| Ok(Some(fact.clone()))).await.map(|_| ())
}

async fn holds(place: &impl Place) {
    only_one_of_two_writers_follows_a_head(&open(place).await).await;
    a_watcher_sees_every_entry_in_order(&open(place).await).await;
    nothing_is_promoted_but_through_the_gate(&open(place).await, &store(place)).await;
    nobody_passes_a_stage_but_by_what_it_asks(&open(place).await, &store(place)).await;
    a_lease_has_one_holder_and_fences_the_one_before(&open(place).await).await;
    state_blobs_are_kept_and_fenced(&open(place).await).await;
    let before = open(place).await.head().await.unwrap();
    let reopened = open(place).await;
    assert_eq!(reopened.head().await.unwrap(), before, "what was written is there again");
    let report = audit(&reopened, &store(place), |_| ()).await.unwrap();
    assert_eq!((report.faults, report.entries), (vec![], before.seq));
    // Three verdicts, an approval, two promotions and a rollback; a verdict, two stages and their ends.
    assert_eq!(report.signatures, 7 + 5);
}

async fn only_one_of_two_writers_follows_a_head(ledger: &Ledger) {
    let head = ledger.head().await.unwrap();
    let (a, b) = (request(&JobId::generate()), request(&JobId::generate()));
    ledger.append(head, &operator(), a).await.unwrap();
    let late = ledger.append(head, &operator(), b).await;
    assert!(matches!(late, Err(LedgerError::HeadMoved { .. })), "{late:?}");

    let writers = (0..20).map(|_| {
        let ledger = ledger.clone();
        async move { write(&ledger, &operator(), request(&JobId::generate())).await }
    });
    let results = futures::future::join_all(writers).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(ledger.head().await.unwrap().seq, head.seq + 21);
}

async fn a_watcher_sees_every_entry_in_order(ledger: &Ledger) {
    let from = ledger.head().await.unwrap().seq + 1;
    let mut watch = ledger.watch(from);
    for _ in 0..3 {
        write(ledger, &operator(), request(&JobId::generate())).await.unwrap();
    }
    for seq in from..from + 3 {
        let entry = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap();
        assert_eq!(entry.unwrap().unwrap().seq, seq);
    }
}

async fn nothing_is_promoted_but_through_the_gate(ledger: &Ledger, artifacts: &ArtifactStore) {
    let promote =
        |(generation, verdict), previous, by| Fact::promotion(generation, previous, verdict, by);
    let refused = |result: Result<(), LedgerError>| {
        assert!(matches!(result, Err(LedgerError::Refused(_))), "{result:?}");
    };
    let first = candidate(ledger, artifacts, Outcome::NeedsApproval).await;
    refused(write(ledger, &operator(), promote(first, None, PromotedBy::Policy)).await);
    refused(write(ledger, &operator(), promote(first, None, PromotedBy::Approval)).await);
    let approval = |verdict| Fact::ApprovalGiven {
        generation: first.0,
        verdict,
        reason: "read it".into(),
        expires: Utc::now() + chrono::Duration::hours(1),
        waives: vec![],
        seal: None,
    };
    // Nobody approves what they asked for, and an approval is bound to its verdict.
    refused(write(ledger, &operator(), approval(first.1)).await);
    let bob = Author::unfenced("operator:bob");
    refused(write(ledger, &bob, approval(ArtifactHash::of(b"another"))).await);
    write(ledger, &bob, approval(first.1)).await.unwrap();
    write(ledger, &operator(), promote(first, None, PromotedBy::Approval)).await.unwrap();

    let bad = candidate(ledger, artifacts, Outcome::Blocked).await;
    refused(write(ledger, &operator(), promote(bad, Some(first.0), PromotedBy::Policy)).await);
    let aside = Fact::WindowQuarantined {
        generation: bad.0,
        window: window(10, 20),
        reason: "poison".into(),
    };
    write(ledger, &operator(), aside.clone()).await.unwrap();
    refused(write(ledger, &operator(), aside).await);
    let next = ledger.state().await.unwrap().learnt_up_to();
    assert_eq!(next[&Partition(0)], Offset(20), "the next job starts after what was set aside");

    let good = candidate(ledger, artifacts, Outcome::AutoPromote).await;
    refused(write(ledger, &operator(), promote(good, None, PromotedBy::Policy)).await);
    write(ledger, &operator(), promote(good, Some(first.0), PromotedBy::Policy)).await.unwrap();
    let anchor = ledger.state().await.unwrap().anchor();
    assert_eq!(anchor, Some(first.0), "what the line of updates began with");
    let back = |to, from| Fact::RolledBack { to, from, reason: "worse".into(), seal: None };
    refused(write(ledger, &operator(), back(bad.0, good.0)).await);
    write(ledger, &operator(), back(first.0, good.0)).await.unwrap();
    let state = ledger.state().await.unwrap();
    assert_eq!(state.champion(), Some(first.0));
    assert_eq!(state.generation(&good.0).unwrap().state, GenerationState::RolledBack);
}

async fn nobody_passes_a_stage_but_by_what_it_asks(ledger: &Ledger, artifacts: &ArtifactStore) {
    let champion = ledger.state().await.unwrap().champion().unwrap();
    let one = candidate(ledger, artifacts, Outcome::AutoPromote).await;
    let now = Utc::now();
    let terms = StageTerms {
        share: 0.5,
        earliest: now,
        until: now + chrono::Duration::hours(1),
        requests: 100,
        labels: 10,
        margin: 0.02,
        alpha: 0.01,
        errors: 0.05,
        latency: 2.0,
    };
    let start = |champion, stage, terms: &StageTerms| Fact::StageStarted {
        generation: one.0,
        champion,
        verdict: one.1,
        stage,
        terms: terms.clone(),
        seal: None,
    };
    let end = |stage, outcome, requests| Fact::StageEnded {
        generation: one.0,
        stage,
        outcome,
        evidence: StageEvidence { requests, labels: 10, log_pass: 4.75, ..Default::default() },
        reason: "as it is".into(),
        seal: None,
    };
    let try_to = async |fact: Fact| {
        let written = write(ledger, &Author::unfenced("test"), fact).await;
        written.map_err(|error| error.to_string())
    };
    let refused = async |fact: Fact, why: &str| {
        let said = try_to(fact).await.unwrap_err();
        assert!(said.contains(why), "{said}");
    };
    refused(start(champion, Stage::Shadow, &StageTerms { share: 0.0, ..terms.clone() }), "share")
        .await;
    refused(start(one.0, Stage::Shadow, &terms), "judged against").await;
    refused(end(Stage::Shadow, StageOutcome::Passed, 100), "nothing to end").await;
    try_to(start(champion, Stage::Shadow, &terms)).await.unwrap();
    refused(start(champion, Stage::Canary, &terms), "one candidate is staged at a time").await;
    let promoted = Fact::promotion(one.0, Some(champion), one.1, PromotedBy::Policy);
    refused(promoted.clone(), "has not passed shadow").await;
    refused(end(Stage::Shadow, StageOutcome::Passed, 99), "has not seen").await;
    refused(end(Stage::Canary, StageOutcome::Passed, 100), "not in canary").await;
    try_to(end(Stage::Shadow, StageOutcome::Passed, 100)).await.unwrap();
    refused(start(champion, Stage::Shadow, &terms), "not repeated").await;
    try_to(start(champion, Stage::Canary, &terms)).await.unwrap();
    assert_eq!(ledger.state().await.unwrap().staged().unwrap().1.stage, Stage::Canary);
    let blocked = ledger.state().await.unwrap().blocked();
    try_to(end(Stage::Canary, StageOutcome::Harmful, 1)).await.unwrap();

    let state = ledger.state().await.unwrap();
    let record = state.generation(&one.0).unwrap();
    assert_eq!((record.state, state.staged()), (GenerationState::Blocked, None));
    assert_eq!(state.blocked(), blocked + 1);
    assert_eq!(record.waivable().unwrap(), ["stage.canary"]);
    assert_eq!(record.blocked_by(), ["canary: as it is"]);
    refused(promoted, "is blocked").await;
}

async fn a_lease_has_one_holder_and_fences_the_one_before(ledger: &Ledger) {
    let ttl = Duration::from_secs(30);
    let first = ledger.lease("l", "a", ttl).await.unwrap().unwrap();
    assert!(ledger.lease("l", "b", ttl).await.unwrap().is_none());
    first.renew().await.unwrap();
    let fenced = |token| Author {
        actor: tidegate_contracts::Actor::new("a"),
        fence: Some(Fence::new("l", token)),
    };
    let old = first.token();
    write(ledger, &fenced(old), request(&JobId::generate())).await.unwrap();
    first.release().await;
    let second = ledger.lease("l", "b", ttl).await.unwrap().unwrap();
    assert!(second.token() > old);
    let late = write(ledger, &fenced(old), request(&JobId::generate())).await;
    assert!(matches!(late, Err(LedgerError::Fenced { .. })), "{late:?}");
    second.release().await;
}

async fn state_blobs_are_kept_and_fenced(ledger: &Ledger) {
    assert_eq!(ledger.get_state("nothing").await.unwrap(), None);
    ledger.put_state("blob", 2, b"two").await.unwrap();
    let late = ledger.put_state("blob", 1, b"one").await;
    assert!(matches!(late, Err(LedgerError::Fenced { .. })), "{late:?}");
    let big = vec![7; 3 << 20];
    ledger.put_state("blob", 2, &big).await.unwrap();
    assert_eq!(ledger.get_state("blob").await.unwrap().unwrap(), big);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_holds() {
    let place = Embedded(tempfile::tempdir().unwrap());
    holds(&place).await;
    let ledger = open(&place).await;
    let second = Ledger::open(&place.config(), place.folder()).await;
    assert!(matches!(second, Err(LedgerError::InUse(_))), "{second:?}");
    drop(ledger);
    let at_rest = verify_at_rest(&place).await.unwrap();
    assert_eq!(at_rest.faults, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_redis_holds() {
    holds(&Redis::start("yes")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_would_forget_is_refused() {
    let place = Redis::start("no");
    let opened = Ledger::open(&place.config(), place.folder()).await;
    assert!(matches!(opened, Err(LedgerError::NotDurable)), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_changed_byte_of_any_entry_is_found() {
    let place = Embedded(tempfile::tempdir().unwrap());
    let ledger = open(&place).await;
    candidate(&ledger, &store(&place), Outcome::AutoPromote).await;
    let stored: Vec<Vec<u8>> = ledger
        .read(1, 100)
        .await
        .unwrap()
        .iter()
        .map(|entry| serde_json::to_vec(entry).unwrap())
        .collect();
    drop(ledger);
    let path = place.folder().join("ledger.redb");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = 0;
    for entry in &stored {
        // The newest copy is the one that counts; a transaction may have left older ones behind.
        let starts: Vec<usize> = whole
            .windows(entry.len())
            .enumerate()
            .filter(|(_, w)| w == entry)
            .map(|(i, _)| i)
            .collect();
        assert!(!starts.is_empty(), "the entry stands in the file");
        for offset in (0..entry.len()).step_by(7) {
            let mut bytes = whole.clone();
            for start in &starts {
                bytes[start + offset] ^= 0x20;
            }
            std::fs::write(&path, &bytes).unwrap();
            let report = verify_at_rest(&place).await.unwrap();
            assert!(
                !report.faults.is_empty(),
                "byte {offset} of {}",
                String::from_utf8_lossy(entry)
            );
            flipped += 1;
        }
    }
    assert!(flipped > 100);
    std::fs::write(&path, &whole).unwrap();
    let report = verify_at_rest(&place).await.unwrap();
    assert_eq!(report.faults, vec![], "and the unchanged file verifies again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_ledger_is_an_error_and_no_crash() {
    let place = Embedded(tempfile::tempdir().unwrap());
    drop(open(&place).await);
    let path = place.folder().join("ledger.redb");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 100, 4_096, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let report = verify_at_rest(&place).await;
        let clean = report.as_ref().is_ok_and(|report| report.faults.is_empty());
        // An empty file is a new ledger to redb; it holds nothing, so nothing is wrong with it.
        assert!(!clean || length == 0, "{length}: {report:?}");
    }
    std::fs::write(&path, b"not a database at all, and long enough to look at it twice").unwrap();
    assert!(Ledger::open(&place.config(), place.folder()).await.is_err());
}
