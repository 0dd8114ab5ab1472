//! The fold as the control API shows it.
use chrono::{DateTime, Utc};
use tidegate_contracts::{
    JobKind,
    proto::{timestamp, v1},
};
use tidegate_ledger::{
    Entry, GenerationRecord, JobRecord, JobState, ProducerRecord, StageEvidence, StageProgress,
    StageRecord,
};

/// Every kind of job, in the order they are shown.
pub(crate) const KINDS: [JobKind; 3] = [JobKind::HotUpdate, JobKind::ColdStart, JobKind::Transfer];

fn at(time: DateTime<Utc>) -> Option<pbjson_types::Timestamp> {
    Some(timestamp(time))
}

/// `requested`, `running`, `succeeded` or `failed`.
pub(crate) fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Requested => "requested",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
    }
}

/// A job.
pub(crate) fn job(record: &JobRecord) -> v1::Job {
    v1::Job {
        id: record.job.to_string(),
        kind: record.kind.to_string(),
        state: job_state(record.state).to_owned(),
        reason: record.reason.clone(),
        requested_by: record.requested_by.to_string(),
        requested_at: at(record.requested_at),
        started_at: record.started.as_ref().and_then(|(time, ..)| at(*time)),
        finished_at: record.finished_at.and_then(at),
        attempts: record.attempts,
        generation: record.generation.map(|id| id.to_string()).unwrap_or_default(),
        failure: record.failure.clone().unwrap_or_default(),
        domain: record.domain.as_ref().map(ToString::to_string).unwrap_or_default(),
        source: record.source.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// A generation; labels, manifest and search log are the caller's to add.
pub(crate) fn generation(record: &GenerationRecord) -> v1::Generation {
    let approvals = record.approvals.iter().map(|given| v1::Approval {
        approver: given.approver.to_string(),
        reason: given.reason.clone(),
        given_at: at(given.given_at),
        expires_at: at(given.expires),
        withdrawn: given.withdrawn,
        waives: given.waives.clone(),
        own_key: given.own_key,
    });
    v1::Generation {
        id: record.id.to_string(),
        parent: record.parent.map(|id| id.to_string()).unwrap_or_default(),
        job: record.job.to_string(),
        kind: record.kind.to_string(),
        state: record.state.as_str().to_owned(),
        registered_at: at(record.registered_at),
        labels: vec![],
        manifest_json: String::new(),
        approvals: approvals.collect(),
        verdict: record.verdict.as_ref().map(|v| v.id.to_string()).unwrap_or_default(),
        search_json: String::new(),
        overridden: record.overridden.clone(),
        stages: record.stages.iter().map(|one| stage(record, one)).collect(),
    }
}

fn stage(of: &GenerationRecord, record: &StageRecord) -> v1::Stage {
    let end = record.ended.as_ref();
    let mut stage = v1::Stage {
        generation: of.id.to_string(),
        stage: record.stage.to_string(),
        champion: record.champion.to_string(),
        share: record.terms.share,
        started_at: at(record.started_at),
        earliest: at(record.terms.earliest),
        until: at(record.terms.until),
        outcome: end.map(|end| end.outcome.as_str().to_owned()).unwrap_or_default(),
        reason: end.map(|end| end.reason.clone()).unwrap_or_default(),
        ended_at: end.and_then(|end| at(end.at)),
        ..v1::Stage::default()
    };
    if let Some(end) = end {
        seen(&mut stage, &end.evidence);
    }
    stage
}

fn seen(stage: &mut v1::Stage, evidence: &StageEvidence) {
    let StageEvidence {
        requests,
        errors,
        agreed,
        slow,
        labels,
        better,
        worse,
        log_harm,
        log_pass,
        drift,
    } = *evidence;
    (stage.requests, stage.errors, stage.agreed, stage.slow) = (requests, errors, agreed, slow);
    (stage.labels, stage.better, stage.worse) = (labels, better, worse);
    (stage.log_harm, stage.log_pass, stage.drift) = (log_harm, log_pass, drift);
}

/// Adds what a stage that runs has seen.
pub(crate) fn progress(generation: &mut v1::Generation, progress: StageProgress) {
    if let Some(stage) = generation.stages.last_mut() {
        seen(stage, &progress.evidence);
        stage.waits = progress.waits;
    }
}

/// A generation's verdict, without its document.
pub(crate) fn verdict(record: &GenerationRecord) -> Option<v1::Verdict> {
    let verdict = record.verdict.as_ref()?;
    Some(v1::Verdict {
        id: verdict.id.to_string(),
        generation: record.id.to_string(),
        champion: verdict.champion.map(|id| id.to_string()).unwrap_or_default(),
        suite: verdict.suite.clone(),
        outcome: verdict.outcome.as_str().to_owned(),
        reasons: verdict.reasons.clone(),
        issued_at: at(verdict.issued_at),
        document_json: String::new(),
        suite_digest: verdict.digest.map(|id| id.to_string()).unwrap_or_default(),
        waivable: record.waivable().unwrap_or_default(),
    })
}

/// A producer that is set aside, or was.
pub(crate) fn producer(one: &ProducerRecord) -> v1::SetAsideProducer {
    let released = one.released.as_ref();
    v1::SetAsideProducer {
        producer: one.producer.to_string(),
        since: at(one.since),
        by: one.by.to_string(),
        reason: one.reason.clone(),
        released: released.and_then(|(time, ..)| at(*time)),
        released_by: released.map(|(_, by, _)| by.to_string()).unwrap_or_default(),
        released_reason: released.map(|(_, _, reason)| reason.clone()).unwrap_or_default(),
    }
}

/// A line of the ledger.
pub(crate) fn entry(entry: &Entry) -> v1::LedgerEntry {
    v1::LedgerEntry {
        seq: entry.seq,
        hash: entry.hash.to_string(),
        prev: entry.prev.to_string(),
        time: at(entry.time),
        actor: entry.actor.to_string(),
        token: entry.token,
        kind: entry.fact.kind().to_owned(),
        body_json: serde_json::to_string(&entry.fact).expect("a fact has string keys only"),
    }
}
