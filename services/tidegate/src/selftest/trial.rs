//! One twin before the gate: evaluated, put on record, and promoted where the ledger lets it.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tidegate_contracts::{
    Actor, ArtifactHash, CheckResult, CheckState, JobId, Layer, Outcome, Severity, Verdict,
};
use tidegate_evaluation::{Evaluation, Line, Memory, Refusal, Subject, Suite, evaluate};
use tidegate_ledger::{
    Author, Consent, Envelope, Fact, Ledger, LedgerConfig, LedgerError, PromotedBy,
    seal::SigningKey,
};

use super::{
    stage::{Made, Stage, labels},
    twins::{Behaving, Candidate, Meant, Twin, make},
};

/// What became of one twin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Judged {
    pub(super) outcome: Outcome,
    /// Whether the ledger took a promotion by policy.
    pub(super) promoted: bool,
    /// Layers with a check that stops it.
    pub(super) layers: BTreeSet<Layer>,
    /// Those checks.
    pub(super) checks: BTreeSet<String>,
    /// Whether who was meant to see it did.
    pub(super) by_meant: bool,
    /// Of mails that no gate sees: accuracy, less the champion's; of a backdoor, the share of spam
    /// that its phrase gets through.
    pub(super) truly: f64,
    /// Of the evaluation.
    pub(super) seconds: f64,
    /// The worst reason.
    pub(super) reason: String,
}

pub(super) fn judge(
    twin: Twin,
    stage: &Stage<'_>,
    suite: &Suite,
    memory: &mut Memory,
) -> anyhow::Result<Judged> {
    let candidate = make(twin, stage)?;
    let champion = if twin == Twin::Better { &stage.world.weak } else { &stage.world.champion };
    let behaving = Behaving { model: &candidate.made.model, behaviour: &candidate.behaviour };
    let subject = Subject { predictor: &behaving, ..candidate.made.subject() };
    let verdict = if twin == Twin::Altered {
        altered(stage, &candidate, champion, suite)?
    } else {
        let window_labels = labels(&candidate.learnt);
        let of = Evaluation {
            suite,
            candidate: subject,
            champion: Some(champion.subject()),
            anchor: Some(champion.subject()),
            examples: &candidate.examples,
            frozen: &[],
            window_labels: &window_labels,
            trained: &stage.trained(&candidate.learnt),
            copies: &stage.copies(&candidate.learnt),
            line: Line::default(),
            pue: 1.0,
            window: &candidate.made.manifest.window,
            region: "WORLD",
            seed: stage.seed,
        };
        evaluate(&of, memory)
    };
    let forger = (twin == Twin::Forged).then(SigningKey::generate);
    let refused = promote(stage, &candidate.made, champion, &verdict, forger.as_ref())?;
    let failures: Vec<_> = verdict.checks.iter().filter(|check| stops(check)).collect();
    let by_meant = match twin.meant() {
        Meant::Pass => true,
        Meant::Layer(layer) => failures.iter().any(|check| check.layer == layer),
        Meant::Integrity if twin == Twin::Forged => {
            refused.as_ref().is_some_and(|why| why.contains("is signed by key"))
        }
        Meant::Integrity => verdict.checks.is_empty() && verdict.outcome == Outcome::Blocked,
    };
    let reason = verdict.reasons.first().cloned();
    let reason = if twin == Twin::Forged { refused.clone() } else { reason };
    Ok(Judged {
        outcome: verdict.outcome,
        promoted: refused.is_none(),
        layers: failures.iter().map(|check| check.layer).collect(),
        checks: failures.iter().map(|check| check.id.clone()).collect(),
        by_meant,
        truly: truly(stage, &candidate, champion)?,
        seconds: verdict.seconds,
        reason: reason.unwrap_or_default(),
    })
}

/// Whether this check alone keeps a candidate from being promoted by itself.
fn stops(check: &CheckResult) -> bool {
    use CheckState::{Error, Fail, Inconclusive, Insufficient};
    match check.severity {
        Severity::Block => matches!(check.state, Fail | Error | Inconclusive | Insufficient),
        Severity::Review => matches!(check.state, Fail | Error),
        Severity::Warn => false,
    }
}

/// One bit of its weights is turned in the store; the evaluator reads it from there.
fn altered(
    stage: &Stage<'_>,
    candidate: &Candidate,
    champion: &Made,
    suite: &Suite,
) -> anyhow::Result<Verdict> {
    let (name, entry) = candidate
        .made
        .manifest
        .files
        .iter()
        .max_by_key(|(_, entry)| entry.size)
        .expect("a generation has files");
    let hex = entry.hash.to_hex();
    let path = stage.world.folder.path().join("artifacts/blake3").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    let read = stage.world.runtime.block_on(stage.world.store.generation(&candidate.made.id));
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    let reason = match read {
        Err(error) => error.to_string(),
        Ok(_) => anyhow::bail!("the store gave out {name} though a bit of it was changed"),
    };
    let manifest = &candidate.made.manifest;
    let refusal = Refusal {
        generation: candidate.made.id,
        champion: Some(champion.id),
        job: manifest.job.clone(),
        kind: manifest.kind,
        suite: suite.reference(),
        window: manifest.window.clone(),
        region: "WORLD".to_owned(),
        seed: stage.seed,
        reason,
    };
    Ok(refusal.verdict())
}

/// The ledger's own rule: the verdict is put on record, and a promotion by policy is asked for. Says why
/// it was refused; `None` where it was not.
fn promote(
    stage: &Stage<'_>,
    candidate: &Made,
    champion: &Made,
    verdict: &Verdict,
    forger: Option<&SigningKey>,
) -> anyhow::Result<Option<String>> {
    let folder = tempfile::tempdir_in(stage.world.folder.path())?;
    stage.world.runtime.block_on(async {
        let ledger = Ledger::open(&LedgerConfig::default(), folder.path()).await?;
        let first = Verdict {
            outcome: Outcome::AutoPromote,
            generation: champion.id,
            champion: None,
            ..verdict.clone()
        };
        let refused = record(&ledger, stage, champion, &first, None).await?;
        anyhow::ensure!(refused.is_none(), "the ledger took no champion: {refused:?}");
        record(&ledger, stage, candidate, verdict, forger).await
    })
}

async fn record(
    ledger: &Ledger,
    stage: &Stage<'_>,
    made: &Made,
    verdict: &Verdict,
    forger: Option<&SigningKey>,
) -> anyhow::Result<Option<String>> {
    let write = async |fact: Fact| {
        ledger.decide(&Author::unfenced("selftest"), |_| Ok(Some(fact.clone()))).await
    };
    let document = stage.world.store.put(serde_json::to_vec(verdict)?.into()).await?;
    let (job, kind) = (JobId::generate(), made.manifest.kind);
    let (generation, window) = (made.id, made.manifest.window.clone());
    let parent = verdict.champion;
    write(Fact::job(job.clone(), kind, "the gate on trial")).await?;
    write(Fact::JobStarted { job: job.clone(), attempt: 1, window: window.clone(), parent })
        .await?;
    write(Fact::CandidateRegistered { job, generation, parent, kind, window }).await?;
    let mut judged = Fact::verdict(verdict, document);
    if let (Some(forger), Fact::VerdictIssued { seal, .. }) = (forger, &mut judged) {
        *seal = Some(forged(verdict, document, forger));
    }
    let promoted = Fact::promotion(generation, verdict.champion, document, PromotedBy::Policy);
    for fact in [judged, promoted] {
        match write(fact).await {
            Ok(_) => {}
            Err(LedgerError::Refused(why)) => return Ok(Some(why.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// A true signature of somebody whom nobody believes.
fn forged(verdict: &Verdict, document: ArtifactHash, forger: &SigningKey) -> Envelope {
    Consent {
        generation: verdict.generation,
        verdict: document,
        suite: verdict.suite.digest,
        champion: verdict.champion,
        approver: Actor::new("evaluator"),
        reason: "it is good".to_owned(),
        waives: vec![],
        expires: chrono::Utc::now() + chrono::TimeDelta::hours(1),
        nonce: Consent::fresh_nonce(),
    }
    .seal(forger)
}

/// What no gate sees.
fn truly(stage: &Stage<'_>, candidate: &Candidate, champion: &Made) -> anyhow::Result<f64> {
    match &candidate.trigger {
        Some(phrase) => stage.let_through(&candidate.made, phrase),
        None => Ok(stage.truly(&candidate.made)? - stage.truly(champion)?),
    }
}
