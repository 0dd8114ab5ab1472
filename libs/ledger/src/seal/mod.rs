//! Signatures on what decides who serves: in-toto statements in DSSE envelopes, ed25519.
//!
//! [`Keys`] knows whom to believe and signs what this process may sign. `State` compares what was
//! signed with what the entry says. A signature says who said it; that it was said at its place in
//! the chain, and once, is for the statement to say ([`statement::Place`], a nonce).
mod check;
mod envelope;
mod key;
mod keys;
mod statement;

pub use envelope::Envelope;
pub use key::{KeyId, PublicKey, SigningKey};
pub use keys::{Holder, Keys, make, read_private};
pub use statement::Consent;
