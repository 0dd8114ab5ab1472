//! Merkle trees as Certificate Transparency has them (RFC 6962, section 2.1): SHA-256, a leaf is hashed
//! behind a 0 byte and a node behind a 1, so that neither passes for the other.
use ring::digest::{Context, SHA256};
use tidegate_contracts::{EntryHash, MerkleRoot};

type Hash = [u8; 32];

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn leaf(data: &[u8]) -> Hash {
    hash(&[&[0], data])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[1], left, right])
}

/// A tree that only grows, of which the roots of its whole subtrees are kept: one for each bit of its
/// size.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tree {
    size: u64,
    /// The largest first.
    peaks: Vec<Hash>,
}

impl Tree {
    pub(crate) fn push(&mut self, data: &[u8]) {
        let mut new = leaf(data);
        let mut size = self.size;
        while size & 1 == 1 {
            let left = self.peaks.pop().expect("one peak for each bit of the size");
            new = node(&left, &new);
            size >>= 1;
        }
        self.peaks.push(new);
        self.size += 1;
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The hash of nothing for an empty tree.
    pub(crate) fn root(&self) -> MerkleRoot {
        let right_first = self.peaks.iter().rev().copied();
        let root = right_first.reduce(|right, left| node(&left, &right));
        MerkleRoot::from_bytes(root.unwrap_or_else(|| hash(&[])))
    }
}

/// The siblings between a leaf and the root of all `leaves`, the lowest first (RFC 6962, 2.1.1).
///
/// # Panics
/// When there is no such leaf.
pub(crate) fn path(index: usize, leaves: &[EntryHash]) -> Vec<MerkleRoot> {
    assert!(index < leaves.len(), "leaf {index} of {}", leaves.len());
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut below, beside) = if index < left.len() {
        (path(index, left), right)
    } else {
        (path(index - left.len(), right), left)
    };
    below.push(root(beside));
    below
}

/// The root over entries in order.
pub(crate) fn root(leaves: &[EntryHash]) -> MerkleRoot {
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(leaf.as_bytes()));
    tree.root()
}

/// Whether `path` leads from this leaf to the root of a tree of `size` (RFC 9162, 2.1.3.2).
pub(crate) fn leads(
    data: &[u8],
    index: u64,
    size: u64,
    path: &[MerkleRoot],
    root: MerkleRoot,
) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut found) = (index, size - 1, leaf(data));
    for beside in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            found = node(beside.as_bytes(), &found);
            // A right edge that is alone has no sibling on these levels.
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            found = node(&found, beside.as_bytes());
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && found == *root.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves and roots of the test data of Certificate Transparency's own implementations.
    const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let mut tree = Tree::default();
        assert_eq!(tree.root().to_hex(), ROOTS[0]);
        for (leaf, root) in LEAVES.iter().zip(&ROOTS[1..]) {
            tree.push(&hex::decode(leaf).unwrap());
            assert_eq!(tree.root().to_hex(), *root);
        }
    }

    #[test]
    fn a_path_leads_from_its_leaf_to_its_root_and_from_nowhere_to_anywhere_else() {
        let leaves: Vec<EntryHash> = (0..40_u8).map(|at| EntryHash::of(&[at])).collect();
        for size in 1..=leaves.len() {
            let root = root(&leaves[..size]);
            for at in 0..size {
                let path = path(at, &leaves[..size]);
                let leads = |data: usize, at: usize, size: usize, path: &[MerkleRoot]| {
                    leads(leaves[data].as_bytes(), at as u64, size as u64, path, root)
                };
                assert!(leads(at, at, size, &path));
                assert!(!leads((at + 1) % 40, at, size, &path));
                assert!(!leads(at, at + size, size, &path));
                let longer = [path.clone(), vec![root]].concat();
                assert!(!leads(at, at, size, &longer));
                assert!(size == 1 || !leads(at, at, size, &path[1..]));
            }
        }
    }
}
