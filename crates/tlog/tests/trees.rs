//! The tree against a naive one that follows RFC 6962 to the letter, against the vectors of its reference
//! implementation, and against whoever changes something.

use proptest::prelude::*;
use std::convert::Infallible;
use terroir_tlog::*;

/// MTH, PATH and SUBPROOF of RFC 6962, 2.1, over leaf hashes.
mod naive {
    use super::{EMPTY_ROOT, Hash, node_hash};

    fn k(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }

    pub fn mth(d: &[Hash]) -> Hash {
        match d {
            [] => EMPTY_ROOT,
            [one] => *one,
            _ => node_hash(&mth(&d[..k(d.len())]), &mth(&d[k(d.len())..])),
        }
    }

    pub fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
        if d.len() <= 1 {
            return Vec::new();
        }
        let k = k(d.len());
        let (mut inner, other) =
            if m < k { (path(m, &d[..k]), mth(&d[k..])) } else { (path(m - k, &d[k..]), mth(&d[..k])) };
        inner.push(other);
        inner
    }

    pub fn subproof(m: usize, d: &[Hash], whole: bool) -> Vec<Hash> {
        if m == d.len() {
            return if whole { Vec::new() } else { vec![mth(d)] };
        }
        let k = k(d.len());
        let (mut inner, other) = if m <= k {
            (subproof(m, &d[..k], whole), mth(&d[k..]))
        } else {
            (subproof(m - k, &d[k..], false), mth(&d[..k]))
        };
        inner.push(other);
        inner
    }
}

/// Tiles in memory.
struct Memory(Vec<Hash>);

impl TileSource for Memory {
    type Error = Infallible;

    fn tile(&self, level: u8, index: u64, width: u64) -> Result<Vec<Hash>, Infallible> {
        let span = 1_usize << (8 * usize::from(level));
        let first = usize::try_from(index * TILE_WIDTH).unwrap();
        let hashes = (first..first + usize::try_from(width).unwrap()).map(|n| naive::mth(&self.0[n * span..][..span]));
        Ok(hashes.collect())
    }
}

fn leaves(n: usize) -> Vec<Hash> {
    (0..n).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn tree(leaves: &[Hash]) -> TileHashes<Memory> {
    TileHashes(Memory(leaves.to_vec()))
}

/// Leaves and roots of the reference implementation of certificate transparency.
#[test]
fn the_known_roots_come_out() {
    let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves: Vec<Hash> = inputs.iter().map(|input| leaf_hash(&hex::decode(input).unwrap())).collect();
    assert_eq!(root(&tree(&[]), 0).unwrap(), EMPTY_ROOT);
    for (n, expected) in (1..).zip(roots) {
        assert_eq!(hex::encode(root(&tree(&leaves), n).unwrap()), expected, "{n} leaves");
    }
}

#[test]
fn every_proof_of_small_trees_is_the_naive_one_and_verifies() {
    let leaves = leaves(70);
    for size in 1..=leaves.len() {
        let (tree, part) = (tree(&leaves[..size]), &leaves[..size]);
        let top = root(&tree, size as u64).unwrap();
        assert_eq!(top, naive::mth(part));
        for index in 0..size {
            let proof = inclusion_proof(&tree, index as u64, size as u64).unwrap();
            assert_eq!(proof, naive::path(index, part));
            assert_eq!(verify_inclusion(&leaves[index], index as u64, size as u64, &proof, &top), Ok(()));
            let old = index + 1;
            let proof = consistency_proof(&tree, old as u64, size as u64).unwrap();
            assert_eq!(proof, naive::subproof(old, part, true));
            let old_top = naive::mth(&leaves[..old]);
            assert_eq!(verify_consistency(old as u64, &old_top, size as u64, &top, &proof), Ok(()));
        }
    }
}

fn flip(hash: &mut Hash, bit: usize) {
    hash[bit / 8 % 32] ^= 1 << (bit % 8);
}

proptest! {
    #[test]
    fn whoever_changes_something_is_caught(size in 2_usize..700, at in 0_usize..700, old in 1_usize..700, bit: u8, spot: u8) {
        let (index, old) = (at % size, 1 + old % (size - 1));
        let leaves = leaves(size);
        let tree = tree(&leaves);
        let top = naive::mth(&leaves);
        prop_assert_eq!(root(&tree, size as u64).unwrap(), top);
        let proof = inclusion_proof(&tree, index as u64, size as u64).unwrap();
        prop_assert_eq!(&proof, &naive::path(index, &leaves));
        let fits = |leaf: &Hash, index: usize, proof: &[Hash], top: &Hash| {
            verify_inclusion(leaf, index as u64, size as u64, proof, top).is_ok()
        };
        prop_assert!(fits(&leaves[index], index, &proof, &top));
        let mut leaf = leaves[index];
        flip(&mut leaf, bit.into());
        prop_assert!(!fits(&leaf, index, &proof, &top));
        prop_assert!(!fits(&leaves[index], (index + 1) % size, &proof, &top));
        prop_assert!(!fits(&leaves[index], index, &proof[1..], &top));
        prop_assert!(!fits(&leaves[index], index, &[&proof[..], &[top]].concat(), &top));
        let mut changed = proof.clone();
        flip(&mut changed[usize::from(spot) % proof.len()], bit.into());
        prop_assert!(!fits(&leaves[index], index, &changed, &top));

        let old_top = naive::mth(&leaves[..old]);
        let proof = consistency_proof(&tree, old as u64, size as u64).unwrap();
        let follows = |old_top: &Hash, top: &Hash, proof: &[Hash]| {
            verify_consistency(old as u64, old_top, size as u64, top, proof).is_ok()
        };
        prop_assert!(follows(&old_top, &top, &proof));
        // A leaf of the old part that was rewritten: no honest or stretched proof leads from the one to the other.
        let mut rewritten = leaves.clone();
        flip(&mut rewritten[at % old], bit.into());
        let forged = self::tree(&rewritten);
        let forged_top = naive::mth(&rewritten);
        prop_assert!(!follows(&old_top, &forged_top, &consistency_proof(&forged, old as u64, size as u64).unwrap()));
        prop_assert!(!follows(&old_top, &forged_top, &proof));
        prop_assert!(!follows(&old_top, &top, &[&proof[..], &[top]].concat()));
    }
}

#[test]
fn a_witness_cosigns_growth_and_nothing_else() {
    let operator = SigningKey::from_seed("a.example", &[1; 32]).unwrap();
    let witness = SigningKey::from_seed("b.example", &[2; 32]).unwrap();
    let log = operator.named("a.example/receipts").unwrap();
    let leaves = leaves(20);
    let ask = |leaves: &[Hash], old: u64, size: u64| {
        let tree = tree(leaves);
        let checkpoint =
            Checkpoint { origin: "a.example/receipts".into(), size, root: root(&tree, size).unwrap() }.sign(&log);
        let proof = if old == 0 || old >= size { Vec::new() } else { consistency_proof(&tree, old, size).unwrap() };
        let request = AddCheckpoint { old_size: old, proof, checkpoint: checkpoint.unwrap() };
        assert_eq!(AddCheckpoint::parse(&request.to_string()), Some(request.clone()));
        request
    };
    let cosign = |request: &AddCheckpoint, seen| cosign(request, operator.verifier(), seen, &witness, 1_700_000_000);
    let (_, seen) = cosign(&ask(&leaves, 0, 5), Seen::default()).unwrap();
    let (_, same) = cosign(&ask(&leaves, 5, 5), seen).unwrap();
    assert_eq!(same, seen);
    let request = ask(&leaves, 5, 20);
    let (signature, grown) = cosign(&request, seen).unwrap();
    let mut note = request.checkpoint;
    note.add(signature);
    assert!(Cosignature::of(&note, witness.verifier()).unwrap().is_some());

    let mut rewritten = leaves.clone();
    rewritten[3] = leaf_hash(b"something else");
    assert_eq!(cosign(&ask(&rewritten, 5, 20), seen).err(), Some(Refusal::Forked), "its own key does not help");
    assert_eq!(cosign(&ask(&rewritten, 20, 20), grown).err(), Some(Refusal::Forked), "two logs of one size");
    assert_eq!(cosign(&ask(&leaves, 5, 10), grown).err(), Some(Refusal::Shrunk { seen: 20, now: 10 }));
    assert_eq!(cosign(&ask(&leaves, 0, 20), seen).err(), Some(Refusal::OtherSize { seen: 5, claimed: 0 }));
    let foreign = AddCheckpoint {
        checkpoint: Checkpoint { origin: "a.example/receipts".into(), size: 20, root: [0; 32] }
            .sign(&witness.named("a.example/receipts").unwrap())
            .unwrap(),
        ..ask(&leaves, 5, 20)
    };
    assert!(matches!(cosign(&foreign, seen), Err(Refusal::Checkpoint(_))));
}
