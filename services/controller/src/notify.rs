//! Tells receivers of decisions, in order, each until it was taken.
//!
//! How far a receiver has got is kept beside the ledger, so that a restart goes on after the last
//! message it took. A crash between the two tells it once more: `x-tidegate-delivery` is the same then.
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, future::join_all};
use serde::Serialize;
use tidegate_contracts::{ArtifactHash, GenerationId, Outcome};
use tidegate_ledger::{Entry, Fact, LedgerError, PromotedBy, StageOutcome, State};
use tokio_util::sync::CancellationToken;

use crate::{
    PolicyConfig, WebhookConfig, WebhookEvent,
    desk::Desk,
    policy,
    webhook::{Sent, Webhook},
};

/// Pauses between tries.
const FASTEST: Duration = Duration::from_millis(500);
const SLOWEST: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells every receiver until `held` is cancelled.
pub(crate) async fn notify(desk: &Desk, token: u64, held: &CancellationToken) {
    let all = desk.config.webhooks.iter().map(|config| Teller { desk, token, config }.run());
    held.run_until_cancelled(join_all(all)).await;
}

/// What a receiver gets.
#[derive(Debug, Serialize)]
struct Message<'a> {
    event: &'static str,
    /// The same for people; also what chat systems show.
    text: String,
    seq: u64,
    entry: String,
    time: DateTime<Utc>,
    actor: &'a str,
    generation: GenerationId,
    champion: Option<GenerationId>,
    verdict: Option<ArtifactHash>,
    reasons: Vec<String>,
}

/// One receiver and the way to it.
struct Teller<'a> {
    desk: &'a Desk,
    token: u64,
    config: &'a WebhookConfig,
}

impl Teller<'_> {
    /// Where it is kept how far this receiver has got.
    fn kept(&self) -> String {
        format!("controller/webhook/{}", ArtifactHash::of(self.config.url.as_bytes()).short())
    }

    async fn run(self) {
        let webhook = match self.config.build() {
            Ok(webhook) => webhook,
            Err(error) => return tracing::error!(%error, "a webhook is not told anything"),
        };
        loop {
            match self.follow(&webhook).await {
                Ok(()) => {}
                // Another leads, and tells them.
                Err(error @ LedgerError::Fenced { .. }) => return tracing::debug!(%error, "stops"),
                Err(error) => tracing::warn!(%error, "webhooks wait for the ledger"),
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    async fn follow(&self, webhook: &Webhook) -> Result<(), LedgerError> {
        let ledger = &self.desk.ledger;
        let kept = ledger.get_state(&self.kept()).await?;
        let kept = kept.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse::<u64>().ok());
        let next = match kept {
            Some(done) => done + 1,
            // A new receiver is not told history.
            None => {
                let head = ledger.head().await?.seq;
                self.keep(head).await?;
                head + 1
            }
        };
        let mut entries = ledger.watch(next);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let state = ledger.state().await?;
            let event = event(&entry.fact, &state, &self.desk.config.policy);
            let Some(event) = event.filter(|event| self.config.wants(*event)) else { continue };
            if state.has_effect(entry.seq) {
                self.tell(webhook, event, &entry, &state).await;
            }
            self.keep(entry.seq).await?;
        }
        Ok(())
    }

    async fn keep(&self, seq: u64) -> Result<(), LedgerError> {
        self.desk.ledger.put_state(&self.kept(), self.token, seq.to_string().as_bytes()).await
    }

    /// Until it is taken or refused.
    async fn tell(&self, webhook: &Webhook, event: WebhookEvent, entry: &Entry, state: &State) {
        let message = message(event, entry, state);
        let body = serde_json::to_vec(&message).expect("a message has string keys only");
        let (seq, mut pause) = (entry.seq, FASTEST);
        loop {
            match webhook.send(event, &entry.hash.to_hex(), body.clone()).await {
                Sent::Taken => return,
                Sent::Refused(why) => {
                    return tracing::error!(
                        seq,
                        why,
                        "a webhook refused a message; it is left out"
                    );
                }
                Sent::Later(why) => {
                    tracing::warn!(seq, why, ?pause, "a webhook is told again later");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SLOWEST);
        }
    }
}

/// Which event an entry is, if any.
fn event(fact: &Fact, state: &State, policy: &PolicyConfig) -> Option<WebhookEvent> {
    match fact {
        Fact::VerdictIssued { outcome: Outcome::Blocked, .. } => Some(WebhookEvent::Blocked),
        Fact::VerdictIssued { generation, .. } => {
            let one = state.generation(generation)?;
            let asks = policy::asks(state, one.kind, one.verdict.as_ref()?, policy);
            asks.map(|_| WebhookEvent::NeedsApproval)
        }
        Fact::Promoted { by: PromotedBy::Override, .. } => Some(WebhookEvent::Overridden),
        Fact::Promoted { .. } => Some(WebhookEvent::Promoted),
        Fact::HarmFound { .. } => Some(WebhookEvent::HarmFound),
        Fact::StageEnded { outcome: StageOutcome::Harmful, .. } => Some(WebhookEvent::StageHarmful),
        Fact::StageEnded { outcome: StageOutcome::Undecided, .. } => {
            Some(WebhookEvent::NeedsApproval)
        }
        Fact::RolledBack { .. } => Some(WebhookEvent::RolledBack),
        _ => None,
    }
}

fn message<'a>(event: WebhookEvent, entry: &'a Entry, state: &State) -> Message<'a> {
    let (generation, champion, said) = match &entry.fact {
        Fact::Promoted { generation, previous, .. } => (*generation, *previous, None),
        Fact::RolledBack { to, from, reason, .. } => (*to, Some(*from), Some(reason.clone())),
        Fact::VerdictIssued { generation, champion, .. } => (*generation, *champion, None),
        Fact::HarmFound { generation, before, reason, .. } => {
            (*generation, Some(*before), Some(reason.clone()))
        }
        Fact::StageEnded { generation, stage, reason, .. } => {
            (*generation, state.champion(), Some(format!("{stage}: {reason}")))
        }
        other => unreachable!("{} is no event", other.kind()),
    };
    let verdict = state.generation(&generation).and_then(|one| one.verdict.as_ref());
    let reasons = verdict.map(|verdict| verdict.reasons.clone()).unwrap_or_default();
    let reasons = said.map_or(reasons, |said| vec![said]);
    let what = match event {
        WebhookEvent::NeedsApproval => "waits for approval",
        WebhookEvent::Blocked => "is blocked by its verdict",
        WebhookEvent::Promoted => "is the champion now",
        WebhookEvent::Overridden => "was blocked, and is the champion now by override",
        WebhookEvent::HarmFound => "does harm while it serves",
        WebhookEvent::StageHarmful => "is blocked by its stage",
        WebhookEvent::RolledBack => "is the champion again, by rollback",
    };
    let why = reasons.first().map(|reason| format!(": {reason}")).unwrap_or_default();
    Message {
        event: event.as_str(),
        text: format!("generation {} {what}{why}", generation.short()),
        seq: entry.seq,
        entry: entry.hash.to_hex(),
        time: entry.time,
        actor: entry.actor.as_str(),
        generation,
        champion,
        verdict: verdict.map(|verdict| verdict.id),
        reasons,
    }
}
