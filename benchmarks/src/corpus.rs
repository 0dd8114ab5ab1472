//! The demo's stream, read by the demo's own code: what is measured is what the demo runs on.
use std::path::Path;

use chrono::{DateTime, Utc};

#[path = "../../services/tidegate/src/demo/corpus.rs"]
#[allow(dead_code, reason = "the demo also cuts days and publishes flipped labels")]
mod demo;

/// One e-mail of the SpamAssassin corpus: subject and body without tags, the first 4,000
/// characters.
#[derive(Debug, Clone)]
pub struct Mail {
    /// A digest of the mail; says nothing of its class.
    pub id: String,
    /// When it was delivered.
    pub time: DateTime<Utc>,
    /// What a learner is given.
    pub text: String,
    /// `spam` or `ham`.
    pub label: &'static str,
    /// As a producer publishes it, without its label.
    pub event: String,
}

impl From<demo::Mail> for Mail {
    fn from(mail: demo::Mail) -> Self {
        let event = mail.event_json();
        let demo::Mail { id, time, text, label, .. } = mail;
        Self { id, time, text, label, event }
    }
}

/// Dated mails of 2002 and 2003, in order of delivery.
///
/// # Errors
/// When the folder is not the unpacked corpus; names the file.
pub fn mails(folder: &Path) -> anyhow::Result<Vec<Mail>> {
    Ok(demo::read(folder)?.into_iter().map(Mail::from).collect())
}
