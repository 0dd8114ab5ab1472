//! What somebody outside can hold against a ledger: copies of its entries, its checkpoints, and proofs
//! that an entry is under one.
use serde::{Deserialize, Serialize};
use tidegate_contracts::{EntryHash, MerkleRoot};

use crate::{Entry, Fact, Fault, Keys, merkle};

/// That an entry is among those that a signed checkpoint covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The entry.
    pub entry: Entry,
    /// The checkpoint's entry.
    pub checkpoint: Entry,
    /// Sibling hashes between the entry and the root, the lowest first (RFC 6962, 2.1.1).
    pub path: Vec<MerkleRoot>,
}

impl Proof {
    /// Proves an entry under the first checkpoint that covers it; `log` is the whole ledger.
    ///
    /// # Errors
    /// Says that there is no such entry, or no checkpoint over it yet.
    pub fn of(seq: u64, log: &[Entry]) -> Result<Self, String> {
        let at = |seq: u64| usize::try_from(seq).ok().and_then(|seq| seq.checked_sub(1));
        let entry = at(seq)
            .and_then(|at| log.get(at))
            .ok_or_else(|| format!("there is no entry {seq}: the ledger has {}", log.len()))?;
        let covering = log.iter().find_map(|one| match one.fact {
            Fact::Checkpointed { size, .. } if size >= seq && size < one.seq => {
                Some((one, log.get(..usize::try_from(size).ok()?)?))
            }
            _ => None,
        });
        let Some((checkpoint, covered)) = covering else {
            return Err(format!(
                "no checkpoint covers entry {seq} yet: `controller.checkpoints` says how often there \
                 is one"
            ));
        };
        let hashes: Vec<EntryHash> = covered.iter().map(|one| one.hash).collect();
        let path = merkle::path(seq as usize - 1, &hashes);
        Ok(Self { entry: entry.clone(), checkpoint: checkpoint.clone(), path })
    }

    /// Checks the hashes, the path, and the controller's signature; needs no ledger.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn check(&self, keys: &Keys) -> Result<(), String> {
        for one in [&self.entry, &self.checkpoint] {
            if one.hash != one.computed_hash() {
                return Err(format!("the hash of entry {} does not cover what it says", one.seq));
            }
        }
        let (size, root) =
            keys.checkpoint(&self.checkpoint).map_err(|refusal| refusal.to_string())?;
        let index = self.entry.seq.wrapping_sub(1);
        if merkle::leads(self.entry.hash.as_bytes(), index, size, &self.path, root) {
            Ok(())
        } else {
            Err(format!(
                "the path does not lead from entry {} to the root over {size} entries",
                self.entry.seq
            ))
        }
    }
}

/// Something about a ledger that was kept outside of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Witness {
    /// A record of the decisions topic.
    Entry(Box<Entry>),
    /// What a checkpoint said.
    Checkpoint {
        /// Entries it covers.
        size: u64,
        /// The root over them.
        root: MerkleRoot,
    },
}

impl Witness {
    /// Reads one a line, blank lines apart.
    ///
    /// # Errors
    /// Names the line that is neither.
    pub fn read(lines: &str) -> Result<Vec<Self>, String> {
        let lines = lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let read = |(at, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|_| {
                let at = at + 1;
                format!(
                    "line {at} is neither an entry, as the decisions topic has it, nor a checkpoint \
                     {{\"size\": ..., \"root\": ...}}"
                )
            })
        };
        lines.map(read).collect()
    }

    /// What of the ledger with these entries' hashes differs from what is known outside.
    #[must_use]
    pub fn differs(&self, hashes: &[EntryHash]) -> Option<Fault> {
        match self {
            Self::Entry(entry) => {
                let seq = entry.seq;
                let missing = || {
                    let n = hashes.len();
                    format!("is known outside and the ledger ends with entry {n}: it was cut off")
                };
                let what = match hashes.get((seq as usize).wrapping_sub(1)) {
                    _ if entry.hash != entry.computed_hash() => {
                        "the copy's hash does not cover what the copy says".to_owned()
                    }
                    None => missing(),
                    Some(hash) if *hash != entry.hash => {
                        "is another one than the copy outside: it was rewritten".to_owned()
                    }
                    Some(_) => return None,
                };
                Some(Fault { seq, what })
            }
            Self::Checkpoint { size, root } => {
                let n = hashes.len();
                let what = match hashes.get(..*size as usize) {
                    None => {
                        format!(
                            "a checkpoint outside covers {size} entries and the ledger ends with entry \
                             {n}: it was cut off"
                        )
                    }
                    Some(covered) if merkle::root(covered) != *root => format!(
                        "the checkpoint outside over {size} entries has another root: one of them was \
                         rewritten"
                    ),
                    Some(_) => return None,
                };
                Some(Fault { seq: *size, what })
            }
        }
    }
}
