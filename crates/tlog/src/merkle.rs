//! The Merkle tree of RFC 6962 with SHA-256, its inclusion and consistency proofs.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// Root of the tree without leaves: the hash of nothing.
pub const EMPTY_ROOT: Hash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// The proof does not lead to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not lead to the root of the tree")]
pub struct ProofError;

pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Where hashes of whole subtrees come from.
pub trait Subtrees {
    type Error;

    /// Hash over the leaves `index << level .. (index + 1) << level`, all of which there are.
    fn subtree(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The largest power of two that is smaller than `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

fn hash_of<S: Subtrees>(tree: &S, low: u64, high: u64) -> Result<Hash, S::Error> {
    let n = high - low;
    if n.is_power_of_two() && low.is_multiple_of(n) {
        // At most 63.
        let level = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
        return tree.subtree(level, low >> level);
    }
    let middle = low + split(n);
    Ok(node_hash(&hash_of(tree, low, middle)?, &hash_of(tree, middle, high)?))
}

/// Root of the first `size` leaves.
pub fn root<S: Subtrees>(tree: &S, size: u64) -> Result<Hash, S::Error> {
    if size == 0 { Ok(EMPTY_ROOT) } else { hash_of(tree, 0, size) }
}

/// That leaf `index` is one of the first `size`, from the leaf's sibling upwards. `index` is smaller than `size`.
pub fn inclusion_proof<S: Subtrees>(tree: &S, index: u64, size: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut low, mut high) = (0, size);
    let mut siblings = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            siblings.push(hash_of(tree, middle, high)?);
            high = middle;
        } else {
            siblings.push(hash_of(tree, low, middle)?);
            low = middle;
        }
    }
    siblings.reverse();
    Ok(siblings)
}

/// That the first `old` leaves are the beginning of the first `new`; `old` is between 1 and `new`.
pub fn consistency_proof<S: Subtrees>(tree: &S, old: u64, new: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut low, mut high) = (0, new);
    let mut is_whole = true;
    let mut hashes = Vec::new();
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            hashes.push(hash_of(tree, middle, high)?);
            high = middle;
        } else {
            hashes.push(hash_of(tree, low, middle)?);
            low = middle;
            is_whole = false;
        }
    }
    if !is_whole {
        hashes.push(hash_of(tree, low, high)?);
    }
    hashes.reverse();
    Ok(hashes)
}

/// RFC 9162, 2.1.3.2.
///
/// # Errors
/// [`ProofError`].
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError);
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == *root { Ok(()) } else { Err(ProofError) }
}

/// RFC 9162, 2.1.4.2. From the empty tree every tree follows, with an empty proof.
///
/// # Errors
/// [`ProofError`].
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    let ensure = |is_so: bool| if is_so { Ok(()) } else { Err(ProofError) };
    if old == 0 {
        return ensure(*old_root == EMPTY_ROOT && proof.is_empty());
    }
    if old >= new {
        return ensure(old == new && old_root == new_root && proof.is_empty());
    }
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let mut hashes = proof.iter();
    // A whole subtree proves itself.
    let first = if old.is_power_of_two() { old_root } else { hashes.next().ok_or(ProofError)? };
    let (mut from_old, mut from_new) = (*first, *first);
    for sibling in hashes {
        ensure(last != 0)?;
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    ensure(last == 0 && from_old == *old_root && from_new == *new_root)
}
