//! ed25519 keys (RFC 8032), in the PEM forms that openssl reads and writes (RFC 8410).
use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

/// PKCS #8 of a private key, without its last 32 bytes, which are the key.
const PRIVATE: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// X.509's SubjectPublicKeyInfo, in the same way.
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Names a key: the SHA-256 hash of the public one, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.chars().take(12).collect()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What signatures are checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(hex::encode(digest::digest(&digest::SHA256, &self.0)))
    }

    /// Whether the key's holder signed `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }

    /// As `openssl pkey -pubout` writes it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        to_pem("PUBLIC KEY", &[&PUBLIC[..], &self.0].concat())
    }

    /// # Errors
    /// Says what was expected.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        from_pem("PUBLIC KEY", text, &PUBLIC).map(Self)
    }
}

/// What signs. Never printed.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public().id()).finish()
    }
}

impl SigningKey {
    /// A new one, by the system's source of randomness.
    ///
    /// # Panics
    /// When the system has none.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).expect("the operating system gives random bytes");
        Self::from_seed(seed)
    }

    fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
        Self { seed, pair }
    }

    /// The half that others may have.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(bytes.try_into().expect("a public key has 32 bytes"))
    }

    /// 64 bytes; the same for the same message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// As `openssl genpkey -algorithm ed25519` writes it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        to_pem("PRIVATE KEY", &[&PRIVATE[..], &self.seed].concat())
    }

    /// # Errors
    /// Says what was expected.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        from_pem("PRIVATE KEY", text, &PRIVATE).map(Self::from_seed)
    }
}

fn to_pem(what: &str, der: &[u8]) -> String {
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(der))
}

fn from_pem(what: &str, text: &str, prefix: &[u8]) -> Result<[u8; 32], String> {
    let (begin, end) = (format!("-----BEGIN {what}-----"), format!("-----END {what}-----"));
    let body = text.trim().strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end));
    let digits: Option<String> = body.map(|body| body.split_whitespace().collect());
    let der = digits.and_then(|digits| STANDARD.decode(digits).ok());
    let key = der.as_deref().and_then(|der| der.strip_prefix(prefix));
    key.and_then(|key| key.try_into().ok()).ok_or_else(|| {
        format!("no ed25519 {} in PEM: it must begin with `{begin}`", what.to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Envelope, envelope::pae};

    /// Of another implementation: see `libs/evaluation/tests/oracle`.
    const ORACLE: &str = include_str!("../../../evaluation/tests/oracle/metric_oracle.json");

    #[test]
    fn keys_padding_and_signatures_are_the_oracles_to_the_byte() {
        let oracle: serde_json::Value = serde_json::from_str(ORACLE).unwrap();
        let cases = oracle["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == "decision_record_crypto").unwrap();
        let input = |name: &str| case["inputs"][name].as_str().unwrap();
        let expected = |name: &str| case["expected"][name].as_str().unwrap();

        let seed = hex::decode(input("seed_hex")).unwrap().try_into().unwrap();
        let key = SigningKey::from_seed(seed);
        assert_eq!(hex::encode(key.public().0), expected("public_key_hex"));
        assert_eq!(key.public().id().0, expected("keyid_sha256_of_raw_pk"));
        let payload = input("payload_utf8").as_bytes();
        assert_eq!(hex::encode(pae(input("payload_type"), payload)), expected("pae_hex"));

        let envelope = serde_json::to_value(Envelope::seal(payload, &key)).unwrap();
        assert_eq!(envelope["payloadType"], input("payload_type"));
        assert_eq!(envelope["payload"], expected("payload_b64"));
        assert_eq!(envelope["signatures"][0]["sig"], expected("dsse_sig_b64"));
        assert_eq!(envelope["signatures"][0]["keyid"], expected("keyid_sha256_of_raw_pk"));
    }

    #[test]
    fn a_key_survives_its_file_and_what_is_none_is_refused() {
        let key = SigningKey::generate();
        let again = SigningKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        let public = key.public();
        assert_eq!(PublicKey::from_pem(&public.to_pem()).unwrap(), public);
        assert!(public.verifies(b"yes", &again.sign(b"yes")));
        assert!(!public.verifies(b"no", &again.sign(b"yes")));
        assert!(!format!("{key:?}").contains(&hex::encode(key.seed)));
        let wrong = key.to_pem().replace("PRIVATE", "RSA PRIVATE");
        for text in ["", "abc", &public.to_pem(), &wrong, &key.to_pem()[..60]] {
            assert!(SigningKey::from_pem(text).unwrap_err().contains("BEGIN PRIVATE KEY"));
        }
    }

    /// Written by `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` (3.0.19).
    #[test]
    fn openssls_files_are_read() {
        let key = SigningKey::from_pem(OPENSSL_PRIVATE).unwrap();
        assert_eq!(key.public(), PublicKey::from_pem(OPENSSL_PUBLIC).unwrap());
        assert_eq!(
            (key.to_pem(), key.public().to_pem()),
            (OPENSSL_PRIVATE.into(), OPENSSL_PUBLIC.into())
        );
    }

    const OPENSSL_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIDcDzcTwPZm1zWh+7fg/V2K3PhaDBpWPJRopIaXn8msn\n-----END PRIVATE KEY-----\n";
    const OPENSSL_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA9hLGbPwapmBWPkrvAUAnY1LcY5rfUfKIc8Z1DHC1Vjs=\n-----END PUBLIC KEY-----\n";
}
