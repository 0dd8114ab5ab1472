//! What is signed: in-toto statements (<https://in-toto.io/Statement/v1>) with predicates of ours.
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidegate_contracts::{
    Actor, ArtifactHash, EntryHash, GenerationId, LineEvidence, MerkleRoot, Outcome, Sha256,
};

use super::{Envelope, SigningKey};
use crate::{Entry, Fact, Head, PromotedBy, Stage, StageEvidence, StageOutcome, StageTerms, State};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What is said of which things.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(flatten)]
    predicate: Predicate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Subject {
    name: String,
    /// By algorithm: ours is `blake3`.
    digest: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "predicateType", content = "predicate")]
enum Predicate {
    #[serde(rename = "https://tidegate.dev/verdict/v1")]
    Verdict {
        champion: Option<GenerationId>,
        verdict: ArtifactHash,
        suite: String,
        digest: ArtifactHash,
        outcome: Outcome,
        reasons: Vec<String>,
        waivable: Option<Vec<String>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        queried: Vec<Sha256>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<LineEvidence>,
        place: Place,
    },
    #[serde(rename = "https://tidegate.dev/approval/v1")]
    Approval(Consent),
    #[serde(rename = "https://tidegate.dev/promotion/v1")]
    Promotion {
        previous: Option<GenerationId>,
        verdict: ArtifactHash,
        by: PromotedBy,
        place: Place,
    },
    #[serde(rename = "https://tidegate.dev/harm/v1")]
    Harm { before: GenerationId, labels: u64, reason: String, place: Place },
    #[serde(rename = "https://tidegate.dev/stage-start/v1")]
    StageStart {
        champion: GenerationId,
        verdict: ArtifactHash,
        stage: Stage,
        terms: StageTerms,
        place: Place,
    },
    #[serde(rename = "https://tidegate.dev/stage-end/v1")]
    StageEnd {
        stage: Stage,
        outcome: StageOutcome,
        evidence: StageEvidence,
        reason: String,
        place: Place,
    },
    #[serde(rename = "https://tidegate.dev/checkpoint/v1")]
    Checkpoint { size: u64, place: Place },
    #[serde(rename = "https://tidegate.dev/rollback/v1")]
    Rollback { from: GenerationId, reason: String, place: Place },
}

/// Where in the ledger it is said, and with that after what: the signature covers all entries
/// before, and cannot be used anywhere else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    seq: u64,
    prev: EntryHash,
    time: DateTime<Utc>,
}

impl Place {
    /// Where an entry stands.
    pub(crate) fn of(entry: &Entry) -> Self {
        Self { seq: entry.seq, prev: entry.prev, time: entry.time }
    }

    pub(crate) fn after(head: Head, time: DateTime<Utc>) -> Self {
        Self { seq: head.seq + 1, prev: head.hash, time }
    }
}

/// An approval, and all it is bound to. An operator signs it before it has a place in the ledger,
/// so a nonce makes it one that counts once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    /// Who may serve.
    pub generation: GenerationId,
    /// The verdict that was read.
    pub verdict: ArtifactHash,
    /// The suite that it is by.
    pub suite: ArtifactHash,
    /// Who serves, and was judged against.
    pub champion: Option<GenerationId>,
    /// Who says yes, `operator:ana`.
    pub approver: Actor,
    /// Why.
    pub reason: String,
    /// The checks that are waived; none for a plain approval.
    pub waives: Vec<String>,
    /// Until when it counts.
    pub expires: DateTime<Utc>,
    /// Never used before.
    pub nonce: String,
}

impl Consent {
    /// Signs it with an operator's own key.
    #[must_use]
    pub fn seal(self, key: &SigningKey) -> Envelope {
        Statement::consent(self).seal(key)
    }

    /// A nonce for one.
    #[must_use]
    pub fn fresh_nonce() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// What an envelope is said to consent to; nothing is checked.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Option<Self> {
        match Statement::parse(&envelope.payload()?)?.predicate {
            Predicate::Approval(consent) => Some(consent),
            _ => None,
        }
    }
}

fn subject(what: &str, digest: String) -> Subject {
    Subject { name: what.to_owned(), digest: [("blake3".to_owned(), digest)].into() }
}

impl Statement {
    fn new(subject: Vec<Subject>, predicate: Predicate) -> Self {
        Self { kind: STATEMENT.to_owned(), subject, predicate }
    }

    fn consent(consent: Consent) -> Self {
        let subjects = vec![
            subject("generation", consent.generation.to_hex()),
            subject("verdict", consent.verdict.to_hex()),
        ];
        Self::new(subjects, Predicate::Approval(consent))
    }

    /// A root is SHA-256, whatever else is named here is not.
    pub(crate) fn checkpoint(size: u64, root: MerkleRoot, place: Place) -> Self {
        let digest = [("sha256".to_owned(), root.to_hex())].into();
        let subjects = vec![Subject { name: "ledger".to_owned(), digest }];
        Self::new(subjects, Predicate::Checkpoint { size, place })
    }

    /// What must have been signed that `fact` may stand at `place`; `None` for what needs no
    /// signature. Of an approval, the nonce is taken from its envelope, or made.
    pub(crate) fn of(fact: &Fact, actor: &Actor, state: &State, place: Place) -> Option<Self> {
        match fact {
            Fact::VerdictIssued {
                generation,
                champion,
                verdict,
                suite,
                outcome,
                reasons,
                digest,
                waivable,
                queried,
                line,
                seal: _,
            } => {
                let subjects = vec![
                    subject("generation", generation.to_hex()),
                    subject("verdict", verdict.to_hex()),
                ];
                let predicate = Predicate::Verdict {
                    champion: *champion,
                    verdict: *verdict,
                    suite: suite.clone(),
                    // A verdict from before signatures has none, and gets no statement.
                    digest: (*digest)?,
                    outcome: *outcome,
                    reasons: reasons.clone(),
                    waivable: waivable.clone(),
                    queried: queried.clone(),
                    line: line.clone(),
                    place,
                };
                Some(Self::new(subjects, predicate))
            }
            Fact::ApprovalGiven { generation, verdict, reason, expires, waives, seal } => {
                let given = seal.as_ref().and_then(Consent::of);
                let judged = state.generation(generation)?.verdict.as_ref()?;
                Some(Self::consent(Consent {
                    generation: *generation,
                    verdict: *verdict,
                    suite: judged.digest?,
                    champion: state.champion(),
                    approver: actor.clone(),
                    reason: reason.clone(),
                    waives: waives.clone(),
                    expires: *expires,
                    nonce: given.map_or_else(Consent::fresh_nonce, |given| given.nonce),
                }))
            }
            Fact::Promoted { generation, previous, verdict, by, seal: _ } => {
                let subjects = vec![
                    subject("generation", generation.to_hex()),
                    subject("verdict", verdict.to_hex()),
                ];
                let (previous, verdict, by) = (*previous, *verdict, *by);
                Some(Self::new(subjects, Predicate::Promotion { previous, verdict, by, place }))
            }
            Fact::HarmFound { generation, before, labels, reason, seal: _ } => {
                let subjects = vec![subject("generation", generation.to_hex())];
                let (before, labels, reason) = (*before, *labels, reason.clone());
                Some(Self::new(subjects, Predicate::Harm { before, labels, reason, place }))
            }
            Fact::StageStarted { generation, champion, verdict, stage, terms, seal: _ } => {
                let subjects = vec![
                    subject("generation", generation.to_hex()),
                    subject("verdict", verdict.to_hex()),
                ];
                let (champion, verdict, stage, terms) =
                    (*champion, *verdict, *stage, terms.clone());
                let predicate = Predicate::StageStart { champion, verdict, stage, terms, place };
                Some(Self::new(subjects, predicate))
            }
            Fact::StageEnded { generation, stage, outcome, evidence, reason, seal: _ } => {
                let subjects = vec![subject("generation", generation.to_hex())];
                let (stage, outcome, evidence, reason) =
                    (*stage, *outcome, *evidence, reason.clone());
                let predicate = Predicate::StageEnd { stage, outcome, evidence, reason, place };
                Some(Self::new(subjects, predicate))
            }
            Fact::Checkpointed { size, root, seal: _ } => {
                Some(Self::checkpoint(*size, *root, place))
            }
            Fact::RolledBack { to, from, reason, seal: _ } => {
                let subjects = vec![subject("generation", to.to_hex())];
                let (from, reason) = (*from, reason.clone());
                Some(Self::new(subjects, Predicate::Rollback { from, reason, place }))
            }
            _ => None,
        }
    }

    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    pub(crate) fn seal(&self, key: &SigningKey) -> Envelope {
        let payload = serde_json::to_vec(self).expect("a statement has string keys only");
        Envelope::seal(&payload, key)
    }
}
