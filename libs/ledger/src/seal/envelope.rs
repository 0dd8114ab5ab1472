//! DSSE envelopes: <https://github.com/secure-systems-lab/dsse>, version 1.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{KeyId, PublicKey, SigningKey};

/// What an in-toto statement is wrapped as.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A signed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The statement, in base64.
    payload: String,
    /// [`PAYLOAD_TYPE`].
    #[serde(rename = "payloadType")]
    payload_type: String,
    /// Exactly one.
    signatures: Vec<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: KeyId,
    /// In base64.
    sig: String,
}

/// What is signed: DSSE's pre-authentication encoding, that no payload passes for one of another
/// type.
pub(crate) fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    pub(crate) fn seal(payload: &[u8], key: &SigningKey) -> Self {
        let sig = STANDARD.encode(key.sign(&pae(PAYLOAD_TYPE, payload)));
        Self {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: vec![Signature { keyid: key.public().id(), sig }],
        }
    }

    /// Who is said to have signed; nothing is checked yet.
    pub(crate) fn key(&self) -> Option<&KeyId> {
        match &self.signatures[..] {
            [one] if self.payload_type == PAYLOAD_TYPE => Some(&one.keyid),
            _ => None,
        }
    }

    /// What was signed, if it was by `key`.
    pub(crate) fn opened(&self, key: &PublicKey) -> Option<Vec<u8>> {
        let payload = self.payload()?;
        let sig = STANDARD.decode(&self.signatures.first()?.sig).ok()?;
        key.verifies(&pae(&self.payload_type, &payload), &sig).then_some(payload)
    }

    /// What is in it; nothing is checked.
    pub(crate) fn payload(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.payload).ok()
    }
}
