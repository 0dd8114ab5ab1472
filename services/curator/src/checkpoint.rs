//! What a lane is rebuilt from.
//!
//! `BLAKE3 of the rest (32) | length of the head u32, little endian | head, JSON | snapshot`.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_contracts::{ArtifactHash, Offset, Partition};

/// By partition of an output topic, an offset that no effect after the checkpoint lies before.
pub(crate) type Ends = BTreeMap<Partition, Offset>;

/// The ends of both output topics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outputs {
    pub(crate) curated: Ends,
    pub(crate) rejected: Ends,
}

impl Outputs {
    /// Moves the ends on to `other`'s where those are further.
    pub(crate) fn advance(&mut self, other: &Self) {
        for (ours, theirs) in
            [(&mut self.curated, &other.curated), (&mut self.rejected, &other.rejected)]
        {
            for (&partition, &end) in theirs {
                let known = ours.entry(partition).or_insert(end);
                *known = end.max(*known);
            }
        }
    }
}

/// Offsets, ends and how far the state goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Offset of the next event.
    pub(crate) events: Offset,
    /// Offset of the next label.
    pub(crate) labels: Offset,
    /// Where the effects of later records begin.
    pub(crate) outputs: Outputs,
}

/// The bytes of a checkpoint.
pub(crate) fn encode(head: &Head, snapshot: &[u8]) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("offsets by partition are JSON");
    let mut rest = Vec::with_capacity(4 + head.len() + snapshot.len());
    rest.extend((head.len() as u32).to_le_bytes());
    rest.extend(head);
    rest.extend(snapshot);
    let mut bytes = ArtifactHash::of(&rest).as_bytes().to_vec();
    bytes.extend(rest);
    bytes
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> anyhow::Result<(Head, &[u8])> {
    let short = || anyhow::anyhow!("it has only {} bytes", bytes.len());
    let (seal, rest) = bytes.split_at_checked(32).ok_or_else(short)?;
    anyhow::ensure!(ArtifactHash::of(rest).as_bytes() == seal, "its hash does not match its bytes");
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let len = u32::from_le_bytes(*len) as usize;
    let (head, snapshot) = rest.split_at_checked(len).ok_or_else(short)?;
    Ok((serde_json::from_slice(head)?, snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_any_changed_byte_is_noticed() {
        let ends = BTreeMap::from([(Partition(0), Offset(7)), (Partition(3), Offset(0))]);
        let outputs = Outputs { curated: ends.clone(), rejected: ends };
        let head = Head { events: Offset(5), labels: Offset(6), outputs };
        let bytes = encode(&head, b"state");
        assert_eq!(decode(&bytes).unwrap(), (head, &b"state"[..]));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "{at}");
            assert!(decode(&bytes[..at]).is_err(), "{at}");
        }
    }
}
