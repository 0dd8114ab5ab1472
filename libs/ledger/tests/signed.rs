//! Who must have signed what: what is forged, replayed, bound to something else or not signed at all
//! decides nothing, also when it was written past us.
mod made;

use chrono::{DateTime, TimeDelta, Utc};
use made::{candidate, operator};
use tidegate_contracts::{Actor, ArtifactHash, GenerationId, Outcome};
use tidegate_ledger::{
    ArtifactStore, ArtifactsConfig, Author, Consent, Entry, Envelope, Fact, Holder, KeysConfig,
    Ledger, LedgerConfig, LedgerError, PromotedBy, Stage, StageEvidence, StageOutcome, StageTerms,
    audit, audit_at_rest,
    seal::{self, SigningKey},
};

struct House {
    folder: tempfile::TempDir,
    ledger: Ledger,
    artifacts: ArtifactStore,
    /// Bob's own.
    key: SigningKey,
}

fn bob() -> Author {
    Author::unfenced("operator:bob")
}

impl House {
    async fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let holder = "operator:bob".parse().unwrap();
        seal::make(&keys, &holder).unwrap();
        let key = seal::read_private(&keys.join("operator-bob.key")).unwrap();
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
        let artifacts = ArtifactStore::open(&ArtifactsConfig::default(), folder.path()).unwrap();
        Self { folder, ledger, artifacts, key }
    }

    async fn waiting(&self) -> Consent {
        self.made(Outcome::NeedsApproval, vec![]).await
    }

    /// What bob would sign on a new candidate.
    async fn made(&self, outcome: Outcome, waives: Vec<String>) -> Consent {
        let (generation, verdict) = candidate(&self.ledger, &self.artifacts, outcome).await;
        Consent {
            generation,
            verdict,
            suite: ArtifactHash::of(b"suite"),
            champion: self.ledger.state().await.unwrap().champion(),
            approver: Actor::new("operator:bob"),
            reason: "read it".to_owned(),
            waives,
            expires: Utc::now() + TimeDelta::hours(1),
            nonce: Consent::fresh_nonce(),
        }
    }

    async fn write(&self, author: &Author, fact: Fact) -> Result<Entry, LedgerError> {
        let head = self.ledger.state().await.unwrap().head();
        self.ledger.append(head, author, fact).await
    }

    async fn refused(&self, author: &Author, fact: Fact, words: &str) {
        let kind = fact.kind();
        let error = self.write(author, fact).await.expect_err(words);
        assert!(matches!(error, LedgerError::Refused(_)), "{kind}: {error}");
        assert!(error.to_string().contains(words), "{kind}: {error}");
    }

    /// Counts, when somebody else reads the same log.
    async fn faults(&self) -> Vec<String> {
        let report = audit(&self.ledger, &self.artifacts, |_| ()).await.unwrap();
        report.faults.iter().map(ToString::to_string).collect()
    }
}

fn approval(consent: &Consent, seal: Option<Envelope>) -> Fact {
    Fact::ApprovalGiven {
        generation: consent.generation,
        verdict: consent.verdict,
        reason: consent.reason.clone(),
        expires: consent.expires,
        waives: consent.waives.clone(),
        seal,
    }
}

#[tokio::test]
async fn an_operators_own_signature_counts_and_is_on_record() {
    let house = House::build().await;
    let consent = house.waiting().await;
    let fact = approval(&consent, Some(consent.clone().seal(&house.key)));
    house.write(&bob(), fact).await.unwrap();
    let state = house.ledger.state().await.unwrap();
    assert!(state.generation(&consent.generation).unwrap().approvals[0].own_key);
    let by = PromotedBy::Approval;
    house
        .write(&operator(), Fact::promotion(consent.generation, None, consent.verdict, by))
        .await
        .unwrap();
    assert_eq!(house.faults().await, Vec::<String>::new());
    // Without one the controller signs for whom it has authenticated.
    let consent = house.waiting().await;
    house.write(&bob(), approval(&consent, None)).await.unwrap();
    let state = house.ledger.state().await.unwrap();
    assert!(!state.generation(&consent.generation).unwrap().approvals[0].own_key);
}

#[tokio::test]
async fn a_signature_is_of_a_key_that_is_believed_and_of_whom_it_names() {
    let house = House::build().await;
    let consent = house.waiting().await;
    let stranger = consent.clone().seal(&SigningKey::generate());
    house.refused(&bob(), approval(&consent, Some(stranger)), "which is not in").await;
    // Bob's key under Cem's name, and Bob's yes brought in by Cem.
    let cem = Author::unfenced("operator:cem");
    let named = Consent { approver: Actor::new("operator:cem"), ..consent.clone() };
    let sealed = named.clone().seal(&house.key);
    house.refused(&cem, approval(&named, Some(sealed)), "who may not").await;
    let sealed = consent.clone().seal(&house.key);
    house.refused(&cem, approval(&consent, Some(sealed)), "who may not").await;
    // Any changed bit of what was signed, or of the signature.
    let whole = serde_json::to_value(consent.clone().seal(&house.key)).unwrap();
    for path in ["/payload", "/signatures/0/sig"] {
        let mut other = whole.clone();
        let text = other.pointer(path).unwrap().as_str().unwrap().to_owned();
        let swapped = if text.starts_with('A') { "B" } else { "A" };
        *other.pointer_mut(path).unwrap() = format!("{swapped}{}", &text[1..]).into();
        let envelope = serde_json::from_value(other).unwrap();
        house.refused(&bob(), approval(&consent, Some(envelope)), "forged").await;
    }
    let mut twice = whole.clone();
    twice["signatures"] = vec![whole["signatures"][0].clone(); 2].into();
    let twice = serde_json::from_value(twice).unwrap();
    house.refused(&bob(), approval(&consent, Some(twice)), "one signature").await;
    // An operator's key signs no promotion, not even their own.
    let sealed = consent.clone().seal(&house.key);
    let promoted = Fact::Promoted {
        generation: consent.generation,
        previous: None,
        verdict: consent.verdict,
        by: PromotedBy::Approval,
        seal: Some(sealed.clone()),
    };
    house.write(&bob(), approval(&consent, Some(sealed))).await.unwrap();
    house.refused(&bob(), promoted, "who may not").await;
    assert_eq!(house.ledger.state().await.unwrap().champion(), None);
}

#[tokio::test]
async fn a_signature_holds_for_exactly_what_was_signed() {
    let house = House::build().await;
    let consent = house.waiting().await;
    let others: [fn(Consent) -> Consent; 7] = [
        |c| Consent { generation: GenerationId::of(b"another"), ..c },
        |c| Consent { verdict: ArtifactHash::of(b"another"), ..c },
        |c| Consent { suite: ArtifactHash::of(b"a suite with fewer checks"), ..c },
        |c| Consent { champion: Some(GenerationId::of(b"another")), ..c },
        |c| Consent { reason: "another".to_owned(), ..c },
        |c| Consent { waives: vec!["accuracy".to_owned()], ..c },
        |c| Consent { expires: c.expires + TimeDelta::hours(1), ..c },
    ];
    for other in others {
        let envelope = other(consent.clone()).seal(&house.key);
        house
            .refused(&bob(), approval(&consent, Some(envelope)), "is not this ApprovalGiven")
            .await;
    }
    // And, whole, for one that is past.
    let past = Consent { expires: Utc::now() - TimeDelta::seconds(1), ..consent.clone() };
    let envelope = past.clone().seal(&house.key);
    house.refused(&bob(), approval(&past, Some(envelope)), "expire in the future").await;
}

#[tokio::test]
async fn an_approval_is_used_once() {
    let house = House::build().await;
    let consent = house.waiting().await;
    let envelope = consent.clone().seal(&house.key);
    house.write(&bob(), approval(&consent, Some(envelope.clone()))).await.unwrap();
    let (generation, reason) = (consent.generation, "second thoughts".to_owned());
    house.write(&bob(), Fact::ApprovalWithdrawn { generation, reason }).await.unwrap();
    house.refused(&bob(), approval(&consent, Some(envelope.clone())), "used before").await;
    // On another generation it is not what was signed.
    let next = house.waiting().await;
    let moved = Consent { expires: consent.expires, ..next };
    house.refused(&bob(), approval(&moved, Some(envelope)), "is not this ApprovalGiven").await;
}

#[tokio::test]
async fn what_the_services_signed_holds_at_one_place_of_the_ledger() {
    let house = House::build().await;
    let (first, verdict) = candidate(&house.ledger, &house.artifacts, Outcome::AutoPromote).await;
    let promoted = Fact::promotion(first, None, verdict, PromotedBy::Policy);
    let entry = house.write(&operator(), promoted).await.unwrap();
    let (second, verdict) = candidate(&house.ledger, &house.artifacts, Outcome::AutoPromote).await;
    let Fact::Promoted { seal, .. } = entry.fact else { unreachable!() };
    assert!(seal.is_some(), "it was signed when it was written");
    let again = Fact::Promoted {
        generation: second,
        previous: Some(first),
        verdict,
        by: PromotedBy::Policy,
        seal,
    };
    house.refused(&operator(), again, "is not this Promoted").await;
}

#[tokio::test]
async fn a_stage_is_begun_by_the_controller_and_ended_by_the_evaluator_alone() {
    let house = House::build().await;
    let (first, verdict) = candidate(&house.ledger, &house.artifacts, Outcome::AutoPromote).await;
    let promoted = Fact::promotion(first, None, verdict, PromotedBy::Policy);
    house.write(&operator(), promoted).await.unwrap();
    let (generation, verdict) =
        candidate(&house.ledger, &house.artifacts, Outcome::AutoPromote).await;
    let now = Utc::now();
    let terms = StageTerms {
        share: 0.1,
        earliest: now,
        until: now + TimeDelta::hours(1),
        requests: 1,
        labels: 0,
        margin: 0.02,
        alpha: 0.01,
        errors: 0.02,
        latency: 2.0,
    };
    let (champion, stage) = (first, Stage::Canary);
    let started = Fact::StageStarted { generation, champion, verdict, stage, terms, seal: None };
    let started = house.write(&operator(), started).await.unwrap().fact;
    let ended = |outcome, seal| Fact::StageEnded {
        generation,
        stage,
        outcome,
        evidence: StageEvidence { requests: 1, ..StageEvidence::default() },
        reason: "seen".to_owned(),
        seal,
    };
    let by_controller = ended(StageOutcome::Passed, started.seal().cloned());
    house.refused(&operator(), by_controller, "signed by the controller, who may not").await;
    let harmful = house.write(&operator(), ended(StageOutcome::Harmful, None)).await.unwrap();
    // What the evaluator said of one stage says nothing of the next.
    let (next, verdict) = candidate(&house.ledger, &house.artifacts, Outcome::AutoPromote).await;
    let Fact::StageStarted { terms, .. } = started else { unreachable!() };
    let started =
        Fact::StageStarted { generation: next, champion, verdict, stage, terms, seal: None };
    house.write(&operator(), started).await.unwrap();
    let Fact::StageEnded { outcome, evidence, reason, seal, .. } = harmful.fact else {
        unreachable!()
    };
    let again = Fact::StageEnded { generation: next, stage, outcome, evidence, reason, seal };
    house.refused(&operator(), again, "is not this StageEnded").await;
    assert_eq!(house.faults().await, Vec::<String>::new());
}

/// Writes an entry into the file as one would who can write there and has no key.
fn smuggle(folder: &std::path::Path, fact: &Fact, time: DateTime<Utc>) {
    use redb::{ReadableTable as _, TableDefinition};
    const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
    const HEAD: TableDefinition<'_, (), &[u8]> = TableDefinition::new("head");
    let database = redb::Database::create(folder.join("ledger.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut entries = write.open_table(ENTRIES).unwrap();
        let last: Entry =
            serde_json::from_slice(entries.last().unwrap().unwrap().1.value()).unwrap();
        let body = serde_json::json!({
            "seq": last.seq + 1, "prev": last.hash, "time": time, "actor": "controller", "token": 0,
        });
        // In the order in which the fields are hashed.
        let fields = ["seq", "prev", "time", "actor", "token"]
            .map(|name| format!("\"{name}\":{}", body[name]));
        let fact = serde_json::to_string(fact).unwrap();
        let hashed = format!("{{{},\"fact\":{fact}}}", fields.join(","));
        let hash = blake3::hash(hashed.as_bytes()).to_hex();
        let stored = format!(
            "{{{},{},\"hash\":\"{hash}\",{},{},{},\"fact\":{fact}}}",
            fields[0], fields[1], fields[2], fields[3], fields[4]
        );
        entries.insert(last.seq + 1, stored.as_bytes()).unwrap();
        let head = serde_json::json!({ "seq": last.seq + 1, "hash": hash.as_str() });
        let mut heads = write.open_table(HEAD).unwrap();
        heads.insert((), serde_json::to_vec(&head).unwrap().as_slice()).unwrap();
    }
    write.commit().unwrap();
}

#[tokio::test]
async fn what_is_written_past_the_gate_has_no_effect_and_is_found() {
    let House { folder, ledger, artifacts, .. } = House::build().await;
    let (first, verdict) = candidate(&ledger, &artifacts, Outcome::AutoPromote).await;
    let promoted = Fact::promotion(first, None, verdict, PromotedBy::Policy);
    let signed = {
        let head = ledger.state().await.unwrap().head();
        ledger.append(head, &operator(), promoted).await.unwrap().fact
    };
    let (bad, verdict) = candidate(&ledger, &artifacts, Outcome::NeedsApproval).await;
    drop(ledger);
    let by = PromotedBy::Approval;
    smuggle(folder.path(), &Fact::promotion(bad, Some(first), verdict, by), Utc::now());
    // And one with a true signature, of another place.
    let Fact::Promoted { seal, .. } = signed else { unreachable!() };
    let stolen = Fact::Promoted {
        generation: bad,
        previous: Some(first),
        verdict,
        by: PromotedBy::Policy,
        seal,
    };
    smuggle(folder.path(), &stolen, Utc::now());

    let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await.unwrap();
    let state = ledger.state().await.unwrap();
    assert_eq!(state.champion(), Some(first), "nobody serves what was smuggled in");
    let last = state.head().seq;
    assert!(!state.has_effect(last) && !state.has_effect(last - 1) && state.has_effect(last - 2));
    // Life goes on.
    let (next, verdict) = candidate(&ledger, &artifacts, Outcome::AutoPromote).await;
    let fact = Fact::promotion(next, Some(first), verdict, PromotedBy::Policy);
    let head = ledger.state().await.unwrap().head();
    ledger.append(head, &operator(), fact).await.unwrap();
    assert_eq!(ledger.state().await.unwrap().champion(), Some(next));
    drop(ledger);
    let found = audit_at_rest(&LedgerConfig::default(), folder.path(), |_| ()).await.unwrap();
    let found: Vec<_> = found.faults.iter().map(|fault| (fault.seq, fault.what.clone())).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0 == last - 1 && found[0].1.contains("no approval in force"), "{found:?}");
    assert!(found[1].0 == last, "{found:?}");
}

#[tokio::test]
async fn what_an_older_version_decided_counts_when_that_is_said() {
    let House { folder, ledger, artifacts, .. } = House::build().await;
    let (first, verdict) = candidate(&ledger, &artifacts, Outcome::AutoPromote).await;
    drop(ledger);
    smuggle(folder.path(), &Fact::promotion(first, None, verdict, PromotedBy::Policy), Utc::now());
    let mut config = LedgerConfig::default();
    let opened = Ledger::open(&config, folder.path()).await.unwrap();
    assert_eq!(opened.state().await.unwrap().champion(), None);
    let seq = opened.head().await.unwrap().seq;
    let report = opened.verify().await.unwrap();
    assert!(report.faults[0].what.contains("unsigned_until"), "{:?}", report.faults);
    drop(opened);
    config.keys.unsigned_until = seq;
    let opened = Ledger::open(&config, folder.path()).await.unwrap();
    assert_eq!(opened.state().await.unwrap().champion(), Some(first));
    assert_eq!(opened.verify().await.unwrap().faults, vec![]);
}

#[tokio::test]
async fn an_override_is_two_peoples_and_waives_exactly_what_blocks() {
    let house = House::build().await;
    let waives = vec!["accuracy".to_owned()];
    let consent = house.made(Outcome::Blocked, waives.clone()).await;
    let promotion = |by| Fact::promotion(consent.generation, None, consent.verdict, by);
    for (waives, words) in [
        (vec![], "is blocked"),
        (vec!["latency".to_owned()], "waives exactly: accuracy"),
        (vec!["accuracy".to_owned(), "latency".to_owned()], "waives exactly: accuracy"),
        (vec!["accuracy".to_owned(); 2], "waives exactly: accuracy"),
    ] {
        let other = Consent { waives, ..consent.clone() };
        house.refused(&bob(), approval(&other, None), words).await;
    }
    let late = Consent { expires: Utc::now() + TimeDelta::days(8), ..consent.clone() };
    house.refused(&bob(), approval(&late, None), "within 7 days").await;
    house.refused(&operator(), approval(&consent, None), "another person").await;
    house.write(&bob(), approval(&consent, None)).await.unwrap();
    house.refused(&bob(), approval(&consent, None), "already").await;
    house.refused(&operator(), promotion(PromotedBy::Override), "1 overrides in force").await;
    let cem = Author::unfenced("operator:cem");
    house.write(&cem, approval(&consent, None)).await.unwrap();
    house.refused(&operator(), promotion(PromotedBy::Approval), "is blocked").await;
    let (generation, window) = (consent.generation, made::window(0, 10));
    let aside = Fact::WindowQuarantined { generation, window, reason: "bad".to_owned() };
    house.write(&operator(), aside).await.unwrap();
    house.write(&operator(), promotion(PromotedBy::Override)).await.unwrap();
    let state = house.ledger.state().await.unwrap();
    let one = state.generation(&generation).unwrap();
    assert_eq!((one.overridden.clone(), one.quarantined), (waives, false));
    assert_eq!(house.faults().await, Vec::<String>::new());
}

#[tokio::test]
async fn keys_that_are_missing_or_open_to_all_are_named_at_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("given");
    let config = LedgerConfig {
        keys: KeysConfig { dir: Some(keys.clone()), unsigned_until: 0 },
        ..LedgerConfig::default()
    };
    let open =
        async || Ledger::open(&config, folder.path()).await.map(|_| ()).map_err(|e| e.to_string());
    assert!(open().await.unwrap_err().contains("given"));
    seal::make(&keys, &Holder::Evaluator).unwrap();
    assert!(open().await.unwrap_err().contains("controller.pub"));
    seal::make(&keys, &Holder::Controller).unwrap();
    open().await.unwrap();
    std::fs::write(keys.join("friend.pub"), "x").unwrap();
    assert!(open().await.unwrap_err().contains("whose key is it"));
    std::fs::remove_file(keys.join("friend.pub")).unwrap();
    let private = keys.join("controller.key");
    let mode = |mode| std::fs::set_permissions(&private, std::fs::Permissions::from_mode(mode));
    mode(0o644).unwrap();
    assert!(open().await.unwrap_err().contains("chmod 600"));
    mode(0o600).unwrap();
    // Another's key is believed by nobody.
    std::fs::write(&private, SigningKey::generate().to_pem()).unwrap();
    assert!(open().await.unwrap_err().contains("nobody would believe"));
    // A gateway has no key, believes, and cannot sign.
    std::fs::remove_file(&private).unwrap();
    let ledger = Ledger::open(&config, folder.path()).await.unwrap();
    let missing = ledger.can_sign_for(&Holder::Controller).unwrap_err().to_string();
    assert!(missing.contains("controller.key"), "{missing}");
    ledger.can_sign_for(&Holder::Evaluator).unwrap();
}

#[tokio::test]
async fn an_audit_reads_every_verdict_and_every_file() {
    let house = House::build().await;
    let consent = house.waiting().await;
    let report = audit(&house.ledger, &house.artifacts, |_| ()).await.unwrap();
    assert_eq!((report.faults.len(), report.artifacts), (0, 3), "verdict, manifest, weights");
    let root = house.folder.path().join("artifacts/blake3");
    let mut files = vec![];
    for folder in std::fs::read_dir(root).unwrap() {
        let inside = std::fs::read_dir(folder.unwrap().path()).unwrap();
        files.extend(inside.map(|file| file.unwrap().path()));
    }
    assert_eq!(files.len(), 3);
    for path in files {
        let whole = std::fs::read(&path).unwrap();
        let mut other = whole.clone();
        other[whole.len() / 2] ^= 1;
        std::fs::write(&path, &other).unwrap();
        let faults = house.faults().await;
        assert!(faults.len() == 1 && faults[0].contains("corrupt"), "{faults:?}");
        assert!(faults[0].contains(&consent.generation.short()), "{faults:?}");
        std::fs::remove_file(&path).unwrap();
        assert!(house.faults().await[0].contains("missing"));
        std::fs::write(&path, &whole).unwrap();
    }
    assert_eq!(house.faults().await, Vec::<String>::new());
}
