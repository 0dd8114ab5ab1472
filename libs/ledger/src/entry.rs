//! Typed entries and the chain that makes them tamper-evident.
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidegate_contracts::{
    Actor, ArtifactHash, Domain, EntryHash, GenerationId, JobId, JobKind, LineEvidence, MerkleRoot,
    Millis, Outcome, Producer, Sha256, Verdict, Window,
};

use crate::{Envelope, Stage, StageEvidence, StageOutcome, StageTerms};

/// Reasons of a verdict that go into the ledger; the document has all.
const REASONS: usize = 8;

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Fact {
    /// Somebody wants a job; the trainer takes it.
    JobRequested {
        /// The job.
        job: JobId,
        /// Its kind.
        kind: JobKind,
        /// Why.
        reason: String,
        /// The domain that a transfer learns; all there are when it is absent. Left out of the
        /// entry then, so that entries from before there was one keep their hash.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<Domain>,
        /// The generation that a transfer starts from, this ledger's or one of another model in the
        /// same store; the champion when it is absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<GenerationId>,
    },
    /// Attempt 1 fixes window and parent; later attempts repeat them.
    JobStarted {
        /// The job.
        job: JobId,
        /// 1, 2, ...
        attempt: u32,
        /// What it learns from.
        window: Window,
        /// What it starts from.
        parent: Option<GenerationId>,
    },
    /// The job can be resumed from here.
    CheckpointWritten {
        /// The job.
        job: JobId,
        /// Steps done.
        step: u64,
        /// Hash of the checkpoint.
        digest: ArtifactHash,
    },
    /// The job made a generation.
    CandidateRegistered {
        /// The job.
        job: JobId,
        /// What it made.
        generation: GenerationId,
        /// What it started from.
        parent: Option<GenerationId>,
        /// The job's kind.
        kind: JobKind,
        /// What it learnt from.
        window: Window,
    },
    /// An attempt ended without a generation.
    JobFailed {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// Why.
        reason: String,
        /// Whether another attempt follows.
        retry: bool,
    },
    /// The evaluator judged a candidate.
    VerdictIssued {
        /// Who was judged.
        generation: GenerationId,
        /// Against whom.
        champion: Option<GenerationId>,
        /// Hash of the verdict document.
        verdict: ArtifactHash,
        /// By which suite.
        suite: String,
        /// The conclusion.
        outcome: Outcome,
        /// Why, the worst first.
        reasons: Vec<String>,
        /// Hash of the suite's text. Absent, as all that follows, in entries from before signatures.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<ArtifactHash>,
        /// Of a blocked one, the checks that an override must waive; absent where nobody may.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waivable: Option<Vec<String>>,
        /// Frozen data of the suite that was asked.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        queried: Vec<Sha256>,
        /// What the error budget of the line of candidates says of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<LineEvidence>,
        /// The evaluator's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// A blocked candidate's window is set aside: the next job starts after it.
    WindowQuarantined {
        /// The candidate.
        generation: GenerationId,
        /// Its window.
        window: Window,
        /// Why.
        reason: String,
    },
    /// An operator says yes to one generation under one verdict.
    ApprovalGiven {
        /// The generation.
        generation: GenerationId,
        /// The verdict that was read.
        verdict: ArtifactHash,
        /// Why.
        reason: String,
        /// Until when it counts.
        expires: DateTime<Utc>,
        /// Of an override: the checks that are waived.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waives: Vec<String>,
        /// The approver's signature, or the controller's on their behalf.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// The same operator takes it back.
    ApprovalWithdrawn {
        /// The generation.
        generation: GenerationId,
        /// Why.
        reason: String,
    },
    /// An operator says no.
    CandidateRejected {
        /// The generation.
        generation: GenerationId,
        /// Why.
        reason: String,
    },
    /// A generation is the champion now.
    Promoted {
        /// The new champion.
        generation: GenerationId,
        /// The one before.
        previous: Option<GenerationId>,
        /// The verdict it passed by.
        verdict: ArtifactHash,
        /// By policy alone, by approval, or by override.
        by: PromotedBy,
        /// The controller's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// An earlier champion is the champion again.
    RolledBack {
        /// The champion now.
        to: GenerationId,
        /// The champion before.
        from: GenerationId,
        /// Why.
        reason: String,
        /// The controller's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// The champion answers labels that came after its promotion worse than the one before it did,
    /// beyond doubt.
    HarmFound {
        /// The champion.
        generation: GenerationId,
        /// The one before it.
        before: GenerationId,
        /// Labels that both were compared on.
        labels: u64,
        /// In words.
        reason: String,
        /// The evaluator's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// A candidate that passed the gate is tried on live requests before it may be promoted.
    StageStarted {
        /// The candidate.
        generation: GenerationId,
        /// Beside whom.
        champion: GenerationId,
        /// The verdict it passed by.
        verdict: ArtifactHash,
        /// How.
        stage: Stage,
        /// What it must show, and until when.
        terms: StageTerms,
        /// The controller's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// Nobody learns from a producer's records from now on, and none of them judges.
    ProducerQuarantined {
        /// Who it says it is.
        producer: Producer,
        /// Why.
        reason: String,
    },
    /// A producer's records count again.
    ProducerReleased {
        /// Who it says it is.
        producer: Producer,
        /// Why.
        reason: String,
    },
    /// The controller vouches for all entries before this one.
    Checkpointed {
        /// How many they are.
        size: u64,
        /// The root of the Merkle tree over their hashes (RFC 6962).
        root: MerkleRoot,
        /// The controller's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// The evaluator has seen enough of it, or its time is over.
    StageEnded {
        /// The candidate.
        generation: GenerationId,
        /// Which stage.
        stage: Stage,
        /// The conclusion.
        outcome: StageOutcome,
        /// What it rests on.
        evidence: StageEvidence,
        /// In words.
        reason: String,
        /// The evaluator's signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Envelope>,
    },
    /// A gateway serves it now.
    Swapped {
        /// Which gateway.
        gateway: String,
        /// What it serves.
        generation: GenerationId,
        /// From the promotion being seen to the swap: fetch, verify, build, warm.
        prepare: Millis,
    },
}

impl Fact {
    /// A job over all domains, that starts where its kind does.
    pub fn job(job: JobId, kind: JobKind, reason: impl Into<String>) -> Self {
        Self::JobRequested { job, kind, reason: reason.into(), domain: None, source: None }
    }

    /// The evaluator's verdict, kept as `id`; signed when it is written.
    #[must_use]
    pub fn verdict(document: &Verdict, id: ArtifactHash) -> Self {
        let suite = &document.suite;
        let asked = document.frozen.iter().filter(|one| one.not_asked.is_none());
        Self::VerdictIssued {
            generation: document.generation,
            champion: document.champion,
            verdict: id,
            suite: format!("{} {}", suite.name, suite.version),
            outcome: document.outcome,
            reasons: document.reasons.iter().take(REASONS).cloned().collect(),
            digest: Some(suite.digest),
            waivable: document.waivable(),
            queried: asked.map(|one| one.sha256.clone()).collect(),
            line: document.line.clone(),
            seal: None,
        }
    }

    /// A promotion of what stands under `verdict`; signed when it is written.
    #[must_use]
    pub const fn promotion(
        generation: GenerationId,
        previous: Option<GenerationId>,
        verdict: ArtifactHash,
        by: PromotedBy,
    ) -> Self {
        Self::Promoted { generation, previous, verdict, by, seal: None }
    }

    /// The entry's type, e.g. `Promoted`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::JobRequested { .. } => "JobRequested",
            Self::JobStarted { .. } => "JobStarted",
            Self::CheckpointWritten { .. } => "CheckpointWritten",
            Self::CandidateRegistered { .. } => "CandidateRegistered",
            Self::JobFailed { .. } => "JobFailed",
            Self::VerdictIssued { .. } => "VerdictIssued",
            Self::WindowQuarantined { .. } => "WindowQuarantined",
            Self::ApprovalGiven { .. } => "ApprovalGiven",
            Self::ApprovalWithdrawn { .. } => "ApprovalWithdrawn",
            Self::CandidateRejected { .. } => "CandidateRejected",
            Self::Promoted { .. } => "Promoted",
            Self::RolledBack { .. } => "RolledBack",
            Self::HarmFound { .. } => "HarmFound",
            Self::StageStarted { .. } => "StageStarted",
            Self::StageEnded { .. } => "StageEnded",
            Self::ProducerQuarantined { .. } => "ProducerQuarantined",
            Self::ProducerReleased { .. } => "ProducerReleased",
            Self::Checkpointed { .. } => "Checkpointed",
            Self::Swapped { .. } => "Swapped",
        }
    }
}

/// What a promotion rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotedBy {
    /// Every blocking check passed, and policy lets such candidates through.
    Policy,
    /// Operators said yes.
    Approval,
    /// Two operators waived the checks that blocked it.
    Override,
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 1, 2, 3, ... without gaps.
    pub seq: u64,
    /// The hash of the entry before; [`EntryHash::GENESIS`] for the first.
    pub prev: EntryHash,
    /// BLAKE3 over the canonical JSON of all other fields.
    pub hash: EntryHash,
    /// When it was written.
    pub time: DateTime<Utc>,
    /// Who wrote it.
    pub actor: Actor,
    /// The fencing token it was written under; 0 for an actor that needs no lease.
    pub token: u64,
    /// What happened.
    pub fact: Fact,
}

/// The fields the hash covers, in the order they are hashed.
#[derive(Serialize)]
struct Hashed<'a> {
    seq: u64,
    prev: &'a EntryHash,
    time: &'a DateTime<Utc>,
    actor: &'a Actor,
    token: u64,
    fact: &'a Fact,
}

impl Entry {
    /// The entry that follows `head`.
    pub(crate) fn after(head: Head, author: &Author, fact: Fact, time: DateTime<Utc>) -> Self {
        let mut entry = Self {
            seq: head.seq + 1,
            prev: head.hash,
            hash: EntryHash::GENESIS,
            time,
            actor: author.actor.clone(),
            token: author.fence.as_ref().map_or(0, |fence| fence.token),
            fact,
        };
        entry.hash = entry.computed_hash();
        entry
    }

    /// What the hash must be.
    pub(crate) fn computed_hash(&self) -> EntryHash {
        let Self { seq, prev, time, actor, token, fact, .. } = self;
        let hashed = Hashed { seq: *seq, prev, time, actor, token: *token, fact };
        let bytes = serde_json::to_vec(&hashed).expect("an entry has string keys only");
        EntryHash::of(&bytes)
    }

    /// The stored bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an entry has string keys only")
    }

    /// This entry as the end of the log.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Entries so far.
    pub seq: u64,
    /// The hash of the last one.
    pub hash: EntryHash,
}

impl Head {
    /// Of an empty log.
    pub const EMPTY: Self = Self { seq: 0, hash: EntryHash::GENESIS };
}

/// Who writes, and by what right where there must be only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// On record.
    pub actor: Actor,
    /// The lease the writer holds; the store refuses a token older than the newest.
    pub fence: Option<Fence>,
}

impl Author {
    /// An author who needs no lease.
    pub fn unfenced(actor: impl Into<String>) -> Self {
        Self { actor: Actor::new(actor), fence: None }
    }
}

/// A lease's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The lease's name.
    pub lease: String,
    /// Its token.
    pub token: u64,
}

impl Fence {
    /// The right that the lease `lease` gives under `token`.
    pub fn new(lease: impl Into<String>, token: u64) -> Self {
        Self { lease: lease.into(), token }
    }
}

/// One thing wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where; 0 when it concerns the log as a whole.
    pub seq: u64,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {}: {}", self.seq, self.what)
    }
}

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Entries read.
    pub entries: u64,
    /// Signatures checked.
    pub signatures: u64,
    /// Verdict documents, manifests and files of generations read and hashed.
    pub artifacts: u64,
    /// Checkpoints whose root was computed again.
    pub checkpoints: u64,
    /// The entries, to hold against copies.
    #[serde(skip)]
    pub hashes: Vec<EntryHash>,
    /// All that is wrong; empty when the ledger holds.
    pub faults: Vec<Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the version wrote it that knew neither domain nor source; the hash is of another
    /// implementation of BLAKE3.
    const OLD: &str = r#"{"seq":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"e313ff51182f1eb614c4076abb786efcd5f77800831da489617bc0061e8b6197","time":"2026-11-24T03:00:00Z","actor":"operator:ana","token":0,"fact":{"type":"JobRequested","job":"0193a1b2-0000-7000-8000-000000000001","kind":"transfer","reason":"a new shop"}}"#;

    #[test]
    fn an_entry_from_before_requests_named_a_domain_keeps_its_bytes_and_its_hash() {
        let entry: Entry = serde_json::from_str(OLD).unwrap();
        assert_eq!(entry.computed_hash(), entry.hash);
        assert_eq!(entry.to_bytes(), OLD.as_bytes());
        let job = JobId::new("0193a1b2-0000-7000-8000-000000000001");
        assert_eq!(entry.fact, Fact::job(job, JobKind::Transfer, "a new shop"));
    }

    #[test]
    fn a_domain_and_a_source_are_covered_by_the_hash() {
        let old: Entry = serde_json::from_str(OLD).unwrap();
        let mut named = old.clone();
        let Fact::JobRequested { domain, source, .. } = &mut named.fact else { unreachable!() };
        *domain = Some(Domain::new("shop"));
        *source = Some(GenerationId::of(b"another model's"));
        assert_ne!(named.computed_hash(), old.hash);
        let again: Entry = serde_json::from_slice(&named.to_bytes()).unwrap();
        assert_eq!(again, named);
    }

    #[test]
    fn a_verdict_from_before_frozen_data_keeps_its_bytes_and_one_that_asked_some_says_so() {
        let hash = ArtifactHash::of(b"x").to_hex();
        let old = serde_json::json!({
            "type": "VerdictIssued", "generation": hash, "champion": null, "verdict": hash,
            "suite": "s 1", "outcome": "blocked", "reasons": ["r"], "digest": hash,
        });
        let mut fact: Fact = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(serde_json::to_value(&fact).unwrap(), old);
        let Fact::VerdictIssued { queried, .. } = &mut fact else { unreachable!() };
        queried.push("0f".repeat(32).parse().unwrap());
        let again: Fact = serde_json::from_value(serde_json::to_value(&fact).unwrap()).unwrap();
        assert_eq!(again, fact);
        assert_ne!(serde_json::to_value(&fact).unwrap(), old);
    }
}
