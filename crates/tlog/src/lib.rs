//! What a tamper-evident log is made of: signed notes, a Merkle tree with its proofs, checkpoints with cosignatures of
//! witnesses, and the tiles in which a tree is kept. Pure: no disk, no clock, no randomness.
//!
//! Formats: C2SP `signed-note`, `tlog-checkpoint`, `tlog-cosignature` (version 1) and `tlog-tiles`; hashes and proofs of
//! RFC 6962 and RFC 9162 with SHA-256; Ed25519 (RFC 8032).

mod checkpoint;
mod merkle;
mod note;
mod tile;
mod witness;

pub use checkpoint::{Checkpoint, CheckpointError, Cosignature, log_key};
pub use merkle::{
    EMPTY_ROOT, Hash, ProofError, Subtrees, consistency_proof, inclusion_proof, leaf_hash, node_hash, root,
    verify_consistency, verify_inclusion,
};
pub use note::{KeyError, Note, NoteError, Signature, SigningKey, VerifierKey, is_key_name};
pub use tile::{TILE_WIDTH, TileHashes, TileSource, entry_bundle, entry_path, hash_path, split_bundle};
pub use witness::{AddCheckpoint, Refusal, Seen, cosign};
