//! Where decisions are told, and how a message is signed.
use std::time::Duration;

use reqwest::{Client, redirect, tls::Certificate};
use ring::hmac;
use serde::{Deserialize, Serialize};
use tidegate_contracts::config::Secret;

use crate::ControllerError;

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    /// A candidate waits for operators.
    NeedsApproval,
    /// A candidate was blocked by its verdict.
    Blocked,
    /// A generation became champion.
    Promoted,
    /// A blocked one became champion, by override.
    Overridden,
    /// A champion answers worse than the one before, found while it serves.
    HarmFound,
    /// A candidate answers worse than the champion, found in a stage.
    StageHarmful,
    /// An earlier champion is the champion again.
    RolledBack,
}

impl WebhookEvent {
    /// `needs_approval`, `blocked`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeedsApproval => "needs_approval",
            Self::Blocked => "blocked",
            Self::Promoted => "promoted",
            Self::Overridden => "overridden",
            Self::HarmFound => "harm_found",
            Self::StageHarmful => "stage_harmful",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// Who is told of decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `https://` or `http://`; each message is a POST of JSON.
    pub url: String,
    /// What is told; everything when empty.
    #[serde(default)]
    pub events: Vec<WebhookEvent>,
    /// Signs each message: HMAC-SHA256 of the body in `x-tidegate-signature`. Unsigned when empty.
    #[serde(default)]
    pub secret: Secret,
    /// PEM file of the authority that signed the receiver's certificate, beside those the system
    /// trusts.
    #[serde(default)]
    pub ca: Option<std::path::PathBuf>,
}

fn wrong(reason: String) -> ControllerError {
    ControllerError::config("webhooks", reason)
}

impl WebhookConfig {
    pub(crate) fn validate(&self) -> Result<(), ControllerError> {
        let url = reqwest::Url::parse(&self.url);
        let url = url.map_err(|error| wrong(format!("`{}` is no address: {error}", self.url)))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(format!("`{}` is neither http:// nor https://", self.url)));
        }
        Ok(())
    }

    pub(crate) fn wants(&self, event: WebhookEvent) -> bool {
        self.events.is_empty() || self.events.contains(&event)
    }

    pub(crate) fn build(&self) -> Result<Webhook, ControllerError> {
        // A redirect would carry the message to where nobody said it may go.
        let mut client = Client::builder().timeout(PATIENCE).redirect(redirect::Policy::none());
        if let Some(path) = &self.ca {
            let wrong = |why: String| wrong(format!("ca {}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let all =
                Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
            client = all.into_iter().fold(client, reqwest::ClientBuilder::add_root_certificate);
        }
        let client = client.build().map_err(|error| wrong(error.to_string()))?;
        let secret = self.secret.reveal();
        let key =
            (!secret.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        Ok(Webhook { url: self.url.clone(), client, key })
    }
}

/// One receiver.
pub(crate) struct Webhook {
    url: String,
    client: Client,
    key: Option<hmac::Key>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// Not now; the same again later.
    Later(String),
    /// Never: the receiver does not want this.
    Refused(String),
}

impl Webhook {
    /// Says it once. `id` is the same for every try.
    pub(crate) async fn send(&self, event: WebhookEvent, id: &str, body: Vec<u8>) -> Sent {
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("x-tidegate-event", event.as_str())
            .header("x-tidegate-delivery", id);
        if let Some(key) = &self.key {
            let tag = hmac::sign(key, &body);
            let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            request = request.header("x-tidegate-signature", format!("sha256={digits}"));
        }
        match request.body(body).send().await {
            Ok(response) => outcome(response.status()),
            // Without the address: its path may be a secret.
            Err(error) => Sent::Later(error.without_url().to_string()),
        }
    }
}

fn outcome(status: reqwest::StatusCode) -> Sent {
    match status.as_u16() {
        200..=299 => Sent::Taken,
        408 | 425 | 429 | 500.. => Sent::Later(format!("it answers {status}")),
        _ => Sent::Refused(format!("it answers {status}")),
    }
}
