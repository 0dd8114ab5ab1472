//! Who must have signed what, and whether they did.
use chrono::{DateTime, Utc};
use tidegate_contracts::{Actor, MerkleRoot};

use super::{
    Envelope, Holder, Keys,
    statement::{Place, Statement},
};
use crate::{Consent, Entry, Fact, LedgerError, Refusal, State};

impl Fact {
    /// Who signs it when no envelope comes with it; `None` for what needs no signature.
    fn signer(&self) -> Option<Holder> {
        match self {
            Self::VerdictIssued { .. } | Self::HarmFound { .. } | Self::StageEnded { .. } => {
                Some(Holder::Evaluator)
            }
            Self::ApprovalGiven { .. }
            | Self::Promoted { .. }
            | Self::RolledBack { .. }
            | Self::StageStarted { .. }
            | Self::Checkpointed { .. } => Some(Holder::Controller),
            _ => None,
        }
    }

    /// The signature that it stands by.
    #[must_use]
    pub fn seal(&self) -> Option<&Envelope> {
        match self {
            Self::VerdictIssued { seal, .. }
            | Self::ApprovalGiven { seal, .. }
            | Self::Promoted { seal, .. }
            | Self::HarmFound { seal, .. }
            | Self::StageStarted { seal, .. }
            | Self::StageEnded { seal, .. }
            | Self::Checkpointed { seal, .. }
            | Self::RolledBack { seal, .. } => seal.as_ref(),
            _ => None,
        }
    }

    fn seal_mut(&mut self) -> Option<&mut Option<Envelope>> {
        match self {
            Self::VerdictIssued { seal, .. }
            | Self::ApprovalGiven { seal, .. }
            | Self::Promoted { seal, .. }
            | Self::HarmFound { seal, .. }
            | Self::StageStarted { seal, .. }
            | Self::StageEnded { seal, .. }
            | Self::Checkpointed { seal, .. }
            | Self::RolledBack { seal, .. } => Some(seal),
            _ => None,
        }
    }
}

impl Keys {
    /// Signs what needs a signature and has none.
    pub(crate) fn seal(
        &self,
        mut fact: Fact,
        actor: &Actor,
        state: &State,
        now: DateTime<Utc>,
    ) -> Result<Fact, LedgerError> {
        let Some(holder) = fact.signer().filter(|_| fact.seal().is_none()) else { return Ok(fact) };
        let place = Place::after(state.head(), now);
        // Without a statement it may not stand, which the check says in its words.
        if let Some(statement) = Statement::of(&fact, actor, state, place) {
            let envelope = statement.seal(self.signer(&holder)?);
            if let Some(seal) = fact.seal_mut() {
                *seal = Some(envelope);
            }
        }
        Ok(fact)
    }

    /// Who signed an envelope, and what it says.
    fn opened(&self, envelope: &Envelope) -> Result<(&Holder, Statement), Refusal> {
        let Some(id) = envelope.key() else {
            return Err(Refusal("one signature on an in-toto statement is needed".to_owned()));
        };
        let Some((holder, key)) = self.find(id) else {
            let (id, dir) = (id.short(), self.dir().display());
            return Err(Refusal(format!("it is signed by key {id}, which is not in {dir}")));
        };
        let forged = || Refusal(format!("its signature is not the {holder}'s: it is forged"));
        let payload = envelope.opened(key).ok_or_else(forged)?;
        let unreadable = || Refusal(format!("what the {holder} signed is no statement of ours"));
        Ok((holder, Statement::parse(&payload).ok_or_else(unreadable)?))
    }

    /// What a checkpoint's entry covers, if the controller signed it there; no ledger is needed.
    pub(crate) fn checkpoint(&self, entry: &Entry) -> Result<(u64, MerkleRoot), Refusal> {
        let Fact::Checkpointed { size, root, seal: Some(seal) } = &entry.fact else {
            return Err(Refusal(format!("entry {} is no signed checkpoint", entry.seq)));
        };
        let (holder, said) = self.opened(seal)?;
        if *holder != Holder::Controller {
            return Err(Refusal(format!("the checkpoint is signed by the {holder}, who may not")));
        }
        if said != Statement::checkpoint(*size, *root, Place::of(entry)) {
            return Err(Refusal("what the controller signed is not this checkpoint".to_owned()));
        }
        Ok((*size, *root))
    }

    /// Whether an approval was signed by its giver and not on their behalf.
    pub(crate) fn is_own(&self, envelope: &Envelope) -> bool {
        let holder = envelope.key().and_then(|id| self.find(id));
        holder.is_some_and(|(holder, _)| matches!(holder, Holder::Operator(_)))
    }
}

impl State {
    /// Whether `fact` is signed as it must be.
    pub(crate) fn check_seal(
        &self,
        fact: &Fact,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        let Some(signer) = fact.signer() else { return Ok(()) };
        let kind = fact.kind();
        let Some(envelope) = fact.seal() else {
            if self.head().seq < self.keys().unsigned_until {
                return Ok(());
            }
            return Err(Refusal(format!(
                "{kind} is not signed (what an older version decided counts when \
                 `ledger.keys.unsigned_until` says up to which entry)"
            )));
        };
        let (holder, said) = self.keys().opened(envelope)?;
        let of_giver = |holder: &Holder| {
            matches!(holder, Holder::Operator(of) if of == actor)
                && matches!(fact, Fact::ApprovalGiven { .. })
        };
        if *holder != signer && !of_giver(holder) {
            return Err(Refusal(format!(
                "{kind} by {actor} is signed by the {holder}, who may not"
            )));
        }
        let place = Place::after(self.head(), now);
        if Statement::of(fact, actor, self, place) != Some(said) {
            return Err(Refusal(format!(
                "what the {holder} signed is not this {kind}: it is bound to another generation, \
                 verdict, suite, champion, person or place in the ledger"
            )));
        }
        match Consent::of(envelope) {
            Some(consent) if self.has_seen(&consent.nonce) => {
                Err(Refusal("this approval was used before: sign a new one".to_owned()))
            }
            _ => Ok(()),
        }
    }
}
