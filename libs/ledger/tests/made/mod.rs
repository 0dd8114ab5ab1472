//! What a trainer and an evaluator would have made.
use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::Utc;
use tidegate_contracts::{
    ArtifactHash, CheckResult, CheckState, DataEvidence, EnergyEvidence, FileEntry, GenerationId,
    JobId, JobKind, Layer, Manifest, Offset, Outcome, Partition, Severity, SuiteRef, Verdict,
    Window,
};
use tidegate_ledger::{ArtifactStore, Author, Fact, Ledger};

pub(crate) fn operator() -> Author {
    Author::unfenced("operator:ana")
}

pub(crate) fn window(from: i64, to: i64) -> Window {
    Window::new("curated", [(Partition(0), (Offset(from), Offset(to)))].into()).unwrap()
}

/// A candidate that has been trained and judged, with its files and its verdict in the store.
pub(crate) async fn candidate(
    ledger: &Ledger,
    artifacts: &ArtifactStore,
    outcome: Outcome,
) -> (GenerationId, ArtifactHash) {
    let state = ledger.state().await.unwrap();
    let (parent, from) = (state.champion(), state.learnt_up_to());
    let from = from.get(&Partition(0)).map_or(0, |offset| offset.0);
    let job = JobId::generate();
    let kind = if parent.is_some() { JobKind::HotUpdate } else { JobKind::ColdStart };
    let window = window(from, from + 10);
    let generation = stored(artifacts, &job, kind, parent, &window).await;
    let document = verdict(generation, parent, &job, kind, &window, outcome);
    let verdict = artifacts.put(serde_json::to_vec(&document).unwrap().into()).await.unwrap();
    let facts = [
        Fact::job(job.clone(), kind, "test"),
        Fact::JobStarted { job: job.clone(), attempt: 1, window: window.clone(), parent },
        Fact::CandidateRegistered { job, generation, parent, kind, window },
        Fact::verdict(&document, verdict),
    ];
    for fact in facts {
        ledger.decide(&operator(), |_| Ok(Some(fact.clone()))).await.unwrap();
    }
    (generation, verdict)
}

async fn stored(
    artifacts: &ArtifactStore,
    job: &JobId,
    kind: JobKind,
    parent: Option<GenerationId>,
    window: &Window,
) -> GenerationId {
    let bytes = Bytes::from(format!("weights of {job}"));
    let entry = FileEntry { hash: ArtifactHash::of(&bytes), size: bytes.len() as u64 };
    let manifest = Manifest {
        format: 1,
        parent,
        job: job.clone(),
        kind,
        files: [("weights.safetensors".to_owned(), entry)].into(),
        labels: vec![],
        recipe: String::new(),
        window: window.clone(),
        seed: 7,
        code_version: "0".to_owned(),
        created: Utc::now(),
        newest_label: None,
        metrics: BTreeMap::new(),
    };
    let files = [("weights.safetensors".to_owned(), bytes)].into();
    artifacts.put_generation(&manifest, &files).await.unwrap()
}

fn verdict(
    generation: GenerationId,
    champion: Option<GenerationId>,
    job: &JobId,
    kind: JobKind,
    window: &Window,
    outcome: Outcome,
) -> Verdict {
    let digest = ArtifactHash::of(b"suite");
    let state = if outcome == Outcome::Blocked { CheckState::Fail } else { CheckState::Pass };
    Verdict {
        format: 1,
        generation,
        champion,
        job: job.clone(),
        kind,
        suite: SuiteRef { name: "s".into(), version: "1".into(), digest, about: String::new() },
        issued: Utc::now(),
        seed: 0,
        outcome,
        reasons: vec![],
        checks: vec![CheckResult {
            id: "accuracy".into(),
            layer: Layer::Quality,
            metric: "accuracy".into(),
            data: None,
            slice: "overall".into(),
            severity: Severity::Block,
            state,
            candidate: Some(0.9),
            baseline: None,
            interval: None,
            level: 0.9,
            method: "wilson".into(),
            n: 100,
            chance: None,
            rule: "L(accuracy) >= 0.6".into(),
            reason: String::new(),
        }],
        slices: vec![],
        changed: vec![],
        data: DataEvidence { earlier: 0, fresh: 0, digest, window: window.clone(), leaked: 0 },
        energy: EnergyEvidence {
            method: "none".into(),
            joules: None,
            gco2e: None,
            region: String::new(),
        },
        seconds: 0.0,
        environment: BTreeMap::new(),
        frozen: vec![],
        line: None,
        golden: vec![],
    }
}
