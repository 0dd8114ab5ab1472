//! What operators can ask for, behind gRPC and HTTP alike.
use std::sync::Arc;

use chrono::{Duration, Utc};
use tidegate_contracts::{AccessError, Actor, GenerationId, JobId, JobKind, Role, proto::v1};
use tidegate_ledger::{ArtifactError, Author, Fact, GenerationRecord, LedgerError, Refusal, State};

use crate::{Controller, view};

/// Why a request is not granted; each maps to one gRPC code and one HTTP status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    /// The gate, or the state of things, says no.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Refused(refusal) => Self::Refused(refusal.to_string()),
            LedgerError::Store(_) => Self::Unavailable(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        Self::Internal(error.to_string())
    }
}

type Answer<T> = Result<T, ApiError>;

/// A decision with its reason, by whom the token says or, without tokens, by whom it says.
pub(crate) struct By {
    pub(crate) actor: Actor,
    pub(crate) reason: String,
}

const REASON_BYTES: usize = 2_000;

impl Controller {
    /// Who asks, if they may.
    pub(crate) fn caller(
        &self,
        authorization: Option<&str>,
        needs: Role,
        claimed: &str,
    ) -> Answer<Actor> {
        let name = match self.listen.authorize(authorization, needs)? {
            Some(held) => held,
            None if claimed.is_empty() => "local",
            None => claimed,
        };
        if name.len() > 128 || name.chars().any(char::is_control) {
            return Err(ApiError::Invalid(
                "actor: at most 128 bytes, no control characters".into(),
            ));
        }
        // Services write under their own names; nobody else may.
        Ok(Actor::new(format!("operator:{}", name.trim_start_matches("operator:"))))
    }

    pub(crate) fn by(
        &self,
        authorization: Option<&str>,
        claimed: &str,
        reason: &str,
    ) -> Answer<By> {
        let actor = self.caller(authorization, Role::Approver, claimed)?;
        let reason = reason.trim();
        if reason.is_empty() || reason.len() > REASON_BYTES {
            return Err(ApiError::Invalid(format!(
                "reason: 1 to {REASON_BYTES} bytes are needed; it goes on record"
            )));
        }
        Ok(By { actor, reason: reason.to_owned() })
    }

    pub(crate) async fn overview(&self) -> Answer<v1::Overview> {
        let state = self.ledger.state().await?;
        let champion = state.champion().and_then(|id| state.generation(&id).cloned());
        let candidate = state.candidate().cloned();
        let mut candidate_verdict = candidate.as_ref().and_then(view::verdict);
        if let (Some(view), Some(one)) = (&mut candidate_verdict, &candidate) {
            view.document_json = self.document_json(one).await;
        }
        let active = state.jobs().iter().filter(|job| job.finished_at.is_none());
        Ok(v1::Overview {
            champion: self.described(champion.as_ref()).await,
            candidate: self.described(candidate.as_ref()).await,
            candidate_verdict,
            active_jobs: active.map(view::job).collect(),
            ledger_length: state.head().seq,
            ledger_head: state.head().hash.to_string(),
            promotions: state.promotions(),
            blocked: state.blocked(),
            lag_records: self.lag(&state),
            version: tidegate_contracts::CODE_VERSION.to_owned(),
        })
    }

    /// A generation with its manifest, as far as it can be read.
    async fn described(&self, record: Option<&GenerationRecord>) -> Option<v1::Generation> {
        let record = record?;
        let mut view = view::generation(record);
        match self.artifacts.manifest(&record.id).await {
            Ok(manifest) => {
                view.labels = manifest.labels.iter().map(ToString::to_string).collect();
                view.manifest_json = String::from_utf8_lossy(&manifest.to_bytes()).into_owned();
            }
            Err(error) => tracing::warn!(%error, "a manifest cannot be shown"),
        }
        Some(view)
    }

    async fn document_json(&self, one: &GenerationRecord) -> String {
        let document = self.verdict_document(one).await;
        document.ok().and_then(|doc| serde_json::to_string(&doc).ok()).unwrap_or_default()
    }

    pub(crate) async fn jobs(&self, limit: u32) -> Answer<v1::ListJobsResponse> {
        let state = self.ledger.state().await?;
        let jobs = state.jobs().iter().rev().take(page(limit)).map(view::job).collect();
        Ok(v1::ListJobsResponse { jobs })
    }

    pub(crate) async fn generations(&self, limit: u32) -> Answer<v1::ListGenerationsResponse> {
        let state = self.ledger.state().await?;
        let mut generations = Vec::new();
        for record in state.generations().iter().rev().take(page(limit)) {
            generations.extend(self.described(Some(record)).await);
        }
        Ok(v1::ListGenerationsResponse { generations })
    }

    pub(crate) async fn generation(&self, id: &str) -> Answer<v1::Generation> {
        let state = self.ledger.state().await?;
        let record = find(&state, id)?;
        Ok(self.described(Some(record)).await.expect("a record was given"))
    }

    pub(crate) async fn verdicts(&self, limit: u32) -> Answer<v1::ListVerdictsResponse> {
        let state = self.ledger.state().await?;
        let newest = state.generations().iter().rev();
        let verdicts = newest.filter_map(view::verdict).take(page(limit)).collect();
        Ok(v1::ListVerdictsResponse { verdicts })
    }

    pub(crate) async fn verdict(&self, id: &str) -> Answer<v1::Verdict> {
        let state = self.ledger.state().await?;
        let record = judged(&state, id)?;
        let mut view = view::verdict(record).expect("only judged generations are found");
        let document = self.verdict_document(record).await;
        let document = document.map_err(|error| ApiError::Internal(format!("{error:#}")))?;
        view.document_json =
            serde_json::to_string(&document).map_err(|e| ApiError::Internal(e.to_string()))?;
        Ok(view)
    }

    pub(crate) async fn request_job(
        &self,
        kind: JobKind,
        actor: Actor,
        reason: &str,
    ) -> Answer<v1::RequestJobResponse> {
        let reason = reason.trim();
        if reason.len() > REASON_BYTES {
            return Err(ApiError::Invalid(format!("reason: at most {REASON_BYTES} bytes")));
        }
        let job = JobId::generate();
        let author = Author { actor, fence: None };
        self.ledger
            .decide(&author, |state| {
                if kind != JobKind::ColdStart && state.champion().is_none() {
                    let why = format!("there is no champion to start a {kind} from");
                    return Err(Refusal(why));
                }
                let (job, reason) = (job.clone(), reason.to_owned());
                Ok(Some(Fact::JobRequested { job, kind, reason }))
            })
            .await?;
        Ok(v1::RequestJobResponse { job: job.to_string() })
    }

    /// Gives an approval, and promotes at once when policy is then satisfied.
    pub(crate) async fn approve(
        &self,
        id: &str,
        verdict: &str,
        by: By,
    ) -> Answer<v1::DecisionResponse> {
        let author = Author { actor: by.actor, fence: None };
        let ttl = Duration::seconds(self.config.policy.approval_ttl_s.min(1 << 31) as i64);
        let (mut generation, mut already) = (None, false);
        self.ledger
            .decide(&author, |state| {
                let one = found(state, id)?;
                let standing = one.verdict.as_ref().map(|v| v.id);
                let standing = standing.ok_or_else(|| {
                    Refusal(format!("{} has no verdict to approve under yet", one.id.short()))
                })?;
                if !verdict.is_empty() && !standing.to_string().starts_with(verdict) {
                    return Err(Refusal("the verdict has changed since it was read".into()));
                }
                generation = Some(one.id);
                let given = one.approvals_in_force(Utc::now());
                already = given.iter().any(|given| given.approver == author.actor);
                Ok((!already).then(|| Fact::ApprovalGiven {
                    generation: one.id,
                    verdict: standing,
                    reason: by.reason.clone(),
                    expires: Utc::now() + ttl,
                }))
            })
            .await?;
        let generation = generation.expect("decided on a generation that was found");
        let promoted = self.promote_if_due(&generation).await?;
        let state = self.ledger.state().await?;
        let one = state.generation(&generation).expect("it was approved just now");
        let missing = (self.config.policy.approvals.of(one.kind) as usize)
            .saturating_sub(one.approvals_in_force(Utc::now()).len());
        let message = match (promoted, already) {
            (true, _) => "approved, and promoted".to_owned(),
            (false, true) => "you had approved it before".to_owned(),
            (false, false) => format!("approved; {missing} more approvals are needed"),
        };
        self.response(&generation, message).await
    }

    /// `true` when the generation was promoted by this call.
    async fn promote_if_due(&self, id: &GenerationId) -> Answer<bool> {
        let author = Author::unfenced("controller");
        let entry = self
            .ledger
            .decide(&author, |state| {
                let one = state.candidate().filter(|one| one.id == *id);
                Ok(one.and_then(|one| self.promotion(state, one, Utc::now())))
            })
            .await?;
        Ok(entry.is_some())
    }

    pub(crate) async fn reject(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let reason = by.reason.clone();
        self.record(id, by.actor, "rejected; its window is set aside", |generation| {
            Fact::CandidateRejected { generation, reason: reason.clone() }
        })
        .await
    }

    pub(crate) async fn withdraw(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let reason = by.reason.clone();
        self.record(id, by.actor, "approval withdrawn", |generation| Fact::ApprovalWithdrawn {
            generation,
            reason: reason.clone(),
        })
        .await
    }

    async fn record(
        &self,
        id: &str,
        actor: Actor,
        message: &str,
        fact: impl Fn(GenerationId) -> Fact + Send + Sync,
    ) -> Answer<v1::DecisionResponse> {
        let author = Author { actor, fence: None };
        let mut generation = None;
        self.ledger
            .decide(&author, |state| {
                let one = found(state, id)?;
                generation = Some(one.id);
                Ok(Some(fact(one.id)))
            })
            .await?;
        let generation = generation.expect("decided on a generation that was found");
        self.response(&generation, message.to_owned()).await
    }

    /// Promotes what has passed its gate: by policy, or by the approvals it has.
    pub(crate) async fn promote(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let author = Author { actor: by.actor, fence: None };
        let mut generation = None;
        self.ledger
            .decide(&author, |state| {
                let one = found(state, id)?;
                generation = Some(one.id);
                self.promotion(state, one, Utc::now()).map(Some).ok_or_else(|| {
                    let stands = one.verdict.as_ref().map_or("unjudged", |v| v.outcome.as_str());
                    let need = self.config.policy.approvals.of(one.kind);
                    Refusal(format!(
                        "{} has not passed its gate: it is {} ({stands}), with {} of {need} approvals",
                        one.id.short(),
                        one.state.as_str(),
                        one.approvals_in_force(Utc::now()).len()
                    ))
                })
            })
            .await?;
        let generation = generation.expect("decided on a generation that was found");
        self.response(&generation, "promoted".to_owned()).await
    }

    /// Back to an earlier champion; needs no gate, only a reason.
    pub(crate) async fn rollback(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let author = Author { actor: by.actor, fence: None };
        let mut target = None;
        self.ledger
            .decide(&author, |state| {
                let Some(from) = state.champion() else {
                    return Err(Refusal("there is no champion to roll back from".into()));
                };
                let to = if id.is_empty() {
                    let earlier = state.champions().iter().rev().find(|one| **one != from);
                    *earlier.ok_or_else(|| Refusal("there is no earlier champion".into()))?
                } else {
                    found(state, id)?.id
                };
                target = Some(to);
                Ok(Some(Fact::RolledBack { to, from, reason: by.reason.clone() }))
            })
            .await?;
        let target = target.expect("decided on a generation that was found");
        self.response(&target, "rolled back".to_owned()).await
    }

    async fn response(&self, id: &GenerationId, message: String) -> Answer<v1::DecisionResponse> {
        let state = self.ledger.state().await?;
        let generation = self.described(state.generation(id)).await;
        Ok(v1::DecisionResponse { generation, message })
    }

    pub(crate) async fn entries(&self, from: u64, limit: u32) -> Answer<v1::ListEntriesResponse> {
        let entries = self.ledger.read(from.max(1), page(limit)).await?;
        Ok(v1::ListEntriesResponse { entries: entries.iter().map(view::entry).collect() })
    }

    pub(crate) async fn verify_ledger(&self) -> Answer<v1::VerifyLedgerResponse> {
        let report = self.ledger.verify().await?;
        Ok(v1::VerifyLedgerResponse {
            ok: report.faults.is_empty(),
            entries: report.entries,
            faults: report.faults.iter().map(ToString::to_string).collect(),
        })
    }
}

/// At most 1,000 rows; 100 when nothing was asked.
fn page(limit: u32) -> usize {
    if limit == 0 { 100 } else { limit.min(1_000) as usize }
}

/// A generation by `champion`, `candidate`, its id, or a prefix that only it has.
pub(crate) fn find<'a>(state: &'a State, id: &str) -> Answer<&'a GenerationRecord> {
    let named = match id {
        "champion" => state.champion().and_then(|id| state.generation(&id)),
        "candidate" => state.candidate(),
        prefix => return by_prefix(state, prefix, |one| Some(one.id.to_string())),
    };
    named.ok_or_else(|| ApiError::NotFound(format!("there is no {id} now")))
}

fn found<'a>(state: &'a State, id: &str) -> Result<&'a GenerationRecord, Refusal> {
    find(state, id).map_err(|error| Refusal(error.to_string()))
}

fn judged<'a>(state: &'a State, id: &str) -> Answer<&'a GenerationRecord> {
    by_prefix(state, id, |one| one.verdict.as_ref().map(|verdict| verdict.id.to_string()))
}

fn by_prefix<'a>(
    state: &'a State,
    prefix: &str,
    name: impl Fn(&GenerationRecord) -> Option<String>,
) -> Answer<&'a GenerationRecord> {
    if prefix.len() < 4 {
        return Err(ApiError::Invalid(format!("`{prefix}` is too short: at least 4 digits")));
    }
    let all = state.generations().iter().rev();
    let mut matching = all.filter(|one| name(one).is_some_and(|name| name.starts_with(prefix)));
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(ApiError::NotFound(format!("nothing has an id that starts with {prefix}")))
        }
        _ => Err(ApiError::Invalid(format!("`{prefix}` is ambiguous: give more digits"))),
    }
}

/// Parses a job kind that a caller wrote.
pub(crate) fn kind(text: &str) -> Answer<JobKind> {
    text.parse().map_err(|error: tidegate_contracts::IdError| ApiError::Invalid(error.to_string()))
}

/// Shared by every handler.
pub(crate) type Shared = Arc<Controller>;
