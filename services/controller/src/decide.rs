//! What operators can do. Every decision is made on the folded ledger and written by
//! compare-and-set, so that two of them at once cannot both be right.
use chrono::{DateTime, TimeDelta, Utc};
use tidegate_contracts::{Actor, Domain, GenerationId, JobId, JobKind, Producer, Role, proto::v1};
use tidegate_ledger::{
    ArtifactError, Author, Consent, Envelope, Fact, GenerationRecord, Refusal, State,
};

use crate::{
    caller::{Caller, check_reason},
    desk::{Answer, Desk},
    error::Refused,
    find, policy, trigger, view,
};

/// Who decides, and why.
pub(crate) struct By {
    pub(crate) actor: Actor,
    pub(crate) reason: String,
}

impl By {
    fn author(&self) -> Author {
        Author { actor: self.actor.clone(), fence: None }
    }
}

/// Parses a job's kind that a caller wrote.
fn kind(text: &str) -> Answer<JobKind> {
    text.parse().map_err(|error: tidegate_contracts::IdError| Refused::Invalid(error.to_string()))
}

/// A job that an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    kind: JobKind,
    domain: Option<Domain>,
    source: Option<GenerationId>,
}

/// An operator's yes to one generation.
#[derive(Debug, Default)]
pub(crate) struct Yes {
    pub(crate) generation: String,
    /// The verdict that was read; the newest when empty.
    pub(crate) verdict: String,
    /// Of an override: what it waives.
    pub(crate) waives: Vec<String>,
    /// Signed with the operator's own key.
    pub(crate) envelope: Option<Envelope>,
}

impl Yes {
    /// An override names what it waives.
    pub(crate) fn waiving(self, waives: Vec<String>) -> Answer<Self> {
        if waives.is_empty() {
            let reason = "waives: name every check that blocks; its verdict lists them as waivable";
            return Err(Refused::Invalid(reason.to_owned()));
        }
        Ok(Self { waives, ..self })
    }
}

/// Reads a signed approval; `None` when there is none.
pub(crate) fn envelope(json: &str) -> Answer<Option<Envelope>> {
    if json.trim().is_empty() {
        return Ok(None);
    }
    let read = serde_json::from_str(json);
    read.map(Some).map_err(|error| Refused::Invalid(format!("envelope: no DSSE envelope: {error}")))
}

const OWN_KEYS: &str = "policy counts only what is signed with the approver's own key: use \
    `tidegate approve --key <file>` (or `override`)";
/// An override counts no longer than this.
const OVERRIDE_TTL: TimeDelta = TimeDelta::days(7);
/// Of the clock of who signs.
const SKEW: TimeDelta = TimeDelta::minutes(1);

/// Bytes of a domain's name that is asked for.
const DOMAIN_BYTES: usize = 256;

fn known<'a>(state: &'a State, id: &GenerationId) -> Result<&'a GenerationRecord, Refusal> {
    state.generation(id).ok_or_else(|| Refusal(format!("no generation {}", id.short())))
}

impl Desk {
    /// Who decides about a generation: an approver with a reason.
    pub(crate) fn by(&self, caller: &Caller, claimed: &str, reason: &str) -> Answer<By> {
        let actor = self.actor(caller, Role::Approver, claimed)?;
        Ok(By { actor, reason: check_reason(reason, true)? })
    }

    /// Who asks for a job: an operator; a reason is welcome.
    pub(crate) fn by_operator(&self, caller: &Caller, claimed: &str, reason: &str) -> Answer<By> {
        let actor = self.actor(caller, Role::Operator, claimed)?;
        Ok(By { actor, reason: check_reason(reason, false)? })
    }

    /// Which generation is meant, fixed before anything is decided about it: `candidate` must not
    /// become another one between the look and the entry.
    async fn meant(&self, id: &str) -> Answer<GenerationId> {
        let state = self.ledger.state().await?;
        Ok(find::generation(&state, id)?.id)
    }

    /// Reads what a caller wrote; empty words are left to the job.
    pub(crate) async fn order(&self, named: &str, domain: &str, source: &str) -> Answer<Order> {
        let (kind, domain, source) = (kind(named)?, domain.trim(), source.trim());
        if kind != JobKind::Transfer && !(domain.is_empty() && source.is_empty()) {
            let reason = format!("a {kind} names no domain and no source: only a transfer does");
            return Err(Refused::Invalid(reason));
        }
        if domain.len() > DOMAIN_BYTES {
            let reason = format!("a domain's name has at most {DOMAIN_BYTES} bytes");
            return Err(Refused::Invalid(reason));
        }
        let source = match source {
            "" => None,
            source => Some(self.source(source).await?),
        };
        let domain = (!domain.is_empty()).then(|| Domain::new(domain));
        Ok(Order { kind, domain, source })
    }

    /// One of this ledger by any of its names, or one of another model by its whole id, if the
    /// artifact store has it.
    async fn source(&self, named: &str) -> Answer<GenerationId> {
        let state = self.ledger.state().await?;
        let unknown = match find::generation(&state, named) {
            Ok(one) => return Ok(one.id),
            Err(error) => error,
        };
        let Ok(id) = named.parse::<GenerationId>() else { return Err(unknown) };
        match self.artifacts.manifest(&id).await {
            Ok(_) => Ok(id),
            Err(error @ ArtifactError::Store(_)) => Err(error.into()),
            Err(error) => Err(Refused::NotFound(format!(
                "generation {} is neither on this ledger nor in its artifact store: {error}",
                id.short()
            ))),
        }
    }

    /// Asks for a job. What was said no to is set aside first, on the same fold: the trainer may
    /// take the request at once, and must not read a declined day into the next window because the
    /// controller that leads was a moment late.
    pub(crate) async fn request_job(&self, order: Order, by: By) -> Answer<v1::RequestJobResponse> {
        let (job, author) = (JobId::generate(), by.author());
        loop {
            let requested = self.ledger.decide(&author, |state| {
                trigger::may_request(state, order.kind, order.source.is_some())?;
                let Order { kind, domain, source } = order.clone();
                let (job, reason) = (job.clone(), by.reason.clone());
                let is_clear = policy::due_quarantine(state).is_none();
                let fact = Fact::JobRequested { job, kind, reason, domain, source };
                Ok(is_clear.then_some(fact))
            });
            if requested.await?.is_some() {
                return Ok(v1::RequestJobResponse { job: job.to_string() });
            }
            let controller = Author::unfenced("controller");
            self.ledger.decide(&controller, |state| Ok(policy::due_quarantine(state))).await?;
        }
    }

    /// Gives an approval under the verdict that was read, or an override of it, and promotes at once
    /// when policy is then satisfied. Once more by the same approver changes nothing.
    pub(crate) async fn approve(&self, yes: Yes, by: By) -> Answer<v1::DecisionResponse> {
        if !yes.verdict.is_empty() {
            find::check_digits(&yes.verdict)?;
        }
        if self.config.policy.own_keys && yes.envelope.is_none() {
            return Err(Refusal(OWN_KEYS.to_owned()).into());
        }
        let generation = self.meant(&yes.generation).await?;
        let mut already = false;
        self.ledger
            .decide(&by.author(), |state| {
                let one = known(state, &generation)?;
                let Some(standing) = &one.verdict else {
                    let name = generation.short();
                    return Err(Refusal(format!("{name} has no verdict to approve under yet")));
                };
                if !standing.id.to_hex().starts_with(&yes.verdict) {
                    let reason = "the verdict has changed since it was read: read it again";
                    return Err(Refusal(reason.to_owned()));
                }
                let now = Utc::now();
                let given = one.approvals_in_force(now);
                already = given.iter().any(|given| given.approver == by.actor);
                if already {
                    return Ok(None);
                }
                Ok(Some(Fact::ApprovalGiven {
                    generation,
                    verdict: standing.id,
                    reason: by.reason.clone(),
                    expires: self.expiry(&yes, now)?,
                    waives: yes.waives.clone(),
                    seal: yes.envelope.clone(),
                }))
            })
            .await?;
        let promoted = self.promote_if_due(&generation).await;
        let word = if yes.waives.is_empty() { "approved" } else { "overridden" };
        let message = match (promoted, already) {
            (true, _) => format!("{word} and promoted: it is the champion now"),
            (false, true) => format!("{} had said yes to it before", by.actor),
            (false, false) => format!("{word}; {}", self.stands(&generation).await?),
        };
        self.response(&generation, message).await
    }

    /// Until when a yes counts: as policy says, or as its giver signed, if that is no longer.
    fn expiry(&self, yes: &Yes, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refusal> {
        let mut ttl =
            TimeDelta::from_std(self.config.policy.approval_ttl).unwrap_or(TimeDelta::MAX);
        if !yes.waives.is_empty() {
            ttl = ttl.min(OVERRIDE_TTL);
        }
        let latest = now.checked_add_signed(ttl).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let Some(envelope) = &yes.envelope else { return Ok(latest) };
        let Some(consent) = Consent::of(envelope) else {
            return Err(Refusal("the envelope holds no approval of ours".to_owned()));
        };
        if consent.expires > latest + SKEW {
            let hours = ttl.num_hours();
            return Err(Refusal(format!(
                "it is signed to count until {}, and policy lets it count for {hours} h: sign it with \
                 `--expires`",
                consent.expires.format("%Y-%m-%d %H:%M UTC")
            )));
        }
        Ok(consent.expires)
    }

    /// Whether this call promoted it. The approval stands whatever happens here: when the store is
    /// away, the controller that leads promotes as soon as it is back.
    async fn promote_if_due(&self, generation: &GenerationId) -> bool {
        let policy = &self.config.policy;
        let due = |state: &State| policy::promote(state, generation, policy, Utc::now()).ok();
        let decided =
            self.ledger.decide(&Author::unfenced("controller"), |state| Ok(due(state))).await;
        match decided {
            Ok(entry) => entry.is_some(),
            Err(error) => {
                tracing::warn!(%error, "approved, and not promoted yet");
                false
            }
        }
    }

    async fn stands(&self, generation: &GenerationId) -> Answer<String> {
        let state = self.ledger.state().await?;
        let one = known(&state, generation)?;
        Ok(policy::gate(&state, one, &self.config.policy, Utc::now()).words())
    }

    /// Sets a producer aside, or lets its records count again.
    pub(crate) async fn set_aside(
        &self,
        producer: &str,
        aside: bool,
        by: By,
    ) -> Answer<v1::ProducersResponse> {
        let Some(producer) = Producer::from_header(producer.as_bytes()) else {
            let reason = "producer: a name as its records have it, 1 to 256 bytes without control \
                          characters";
            return Err(Refused::Invalid(reason.to_owned()));
        };
        let reason = by.reason.clone();
        let fact = if aside {
            Fact::ProducerQuarantined { producer, reason }
        } else {
            Fact::ProducerReleased { producer, reason }
        };
        self.record(&by, fact).await?;
        self.producers().await
    }

    /// Every producer that is set aside or was.
    pub(crate) async fn producers(&self) -> Answer<v1::ProducersResponse> {
        let state = self.ledger.state().await?;
        let producers = state.producers().iter().map(view::producer).collect();
        Ok(v1::ProducersResponse { producers })
    }

    /// Says no. A hot update's window is set aside then ([`policy::due_quarantine`]).
    pub(crate) async fn reject(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let generation = self.meant(id).await?;
        let reason = by.reason.clone();
        self.record(&by, Fact::CandidateRejected { generation, reason }).await?;
        let state = self.ledger.state().await?;
        let message = if known(&state, &generation)?.kind == JobKind::HotUpdate {
            "rejected; its window is set aside, and the next hot update starts after it"
        } else {
            "rejected"
        };
        self.response(&generation, message.to_owned()).await
    }

    /// Takes the caller's own approval back.
    pub(crate) async fn withdraw(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let generation = self.meant(id).await?;
        let reason = by.reason.clone();
        self.record(&by, Fact::ApprovalWithdrawn { generation, reason }).await?;
        self.response(&generation, "the approval is withdrawn".to_owned()).await
    }

    /// Promotes what has passed its gate: by policy, or by the approvals it has.
    pub(crate) async fn promote(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let generation = self.meant(id).await?;
        let policy = &self.config.policy;
        self.ledger
            .decide(&by.author(), |state| {
                policy::promote(state, &generation, policy, Utc::now()).map(Some)
            })
            .await?;
        // The entry has no room for a reason: the gate's evidence is the reason on record.
        let By { actor, reason } = by;
        tracing::info!(%actor, reason, generation = generation.short(), "an operator promoted");
        self.response(&generation, "promoted: it is the champion now".to_owned()).await
    }

    /// Back to an earlier champion, the one before the present when none is named. Needs no gate:
    /// it has passed one.
    pub(crate) async fn rollback(&self, id: &str, by: By) -> Answer<v1::DecisionResponse> {
        let named = if id.is_empty() { None } else { Some(self.meant(id).await?) };
        let mut target = None;
        self.ledger
            .decide(&by.author(), |state| {
                let Some(from) = state.champion() else {
                    return Err(Refusal("there is no champion to roll back from".to_owned()));
                };
                let Some(to) = named.or_else(|| state.earlier_champion()) else {
                    return Err(Refusal("there is no earlier champion to go back to".to_owned()));
                };
                target = Some(to);
                Ok(Some(Fact::RolledBack { to, from, reason: by.reason.clone(), seal: None }))
            })
            .await?;
        let target = target.expect("a rollback that was written has a target");
        self.response(&target, "rolled back: it is the champion again".to_owned()).await
    }

    async fn record(&self, by: &By, fact: Fact) -> Answer<()> {
        self.ledger.decide(&by.author(), |_| Ok(Some(fact.clone()))).await?;
        Ok(())
    }

    async fn response(
        &self,
        generation: &GenerationId,
        message: String,
    ) -> Answer<v1::DecisionResponse> {
        let state = self.ledger.state().await?;
        let generation = Some(self.described(known(&state, generation)?).await);
        Ok(v1::DecisionResponse { generation, message })
    }
}
