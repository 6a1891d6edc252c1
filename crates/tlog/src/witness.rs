//! What a witness does: it remembers the last checkpoint of each log, and cosigns a new one only if the log has grown
//! from there. The request is that of C2SP `tlog-witness`, `add-checkpoint`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError, Cosignature};
use crate::merkle::{EMPTY_ROOT, Hash, verify_consistency};
use crate::note::{Note, Signature, SigningKey, VerifierKey};

/// More hashes than any proof has.
const MAX_PROOF: usize = 63;

/// `old SIZE`, the consistency proof, an empty line, and the checkpoint. [`fmt::Display`] writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// What the log believes that the witness saw last.
    pub old_size: u64,
    pub proof: Vec<Hash>,
    pub checkpoint: Note,
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        for hash in &self.proof {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl AddCheckpoint {
    /// `None` if the text is no such request.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old_size = lines.next()?.strip_prefix("old ")?.parse().ok()?;
        let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
        let proof = lines.map(hash).collect::<Option<Vec<Hash>>>()?;
        let checkpoint = Note::parse(checkpoint).ok()?;
        (proof.len() <= MAX_PROOF).then_some(Self { old_size, proof, checkpoint })
    }
}

/// What a witness knows of a log. It must be durable before the cosignature leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub size: u64,
    pub root: Hash,
}

impl Default for Seen {
    fn default() -> Self {
        Self { size: 0, root: EMPTY_ROOT }
    }
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log should ask again with a proof from there.
    #[error("the witness saw the log at {seen} entries last, not at {claimed}")]
    OtherSize { seen: u64, claimed: u64 },
    #[error("the log has shrunk: {seen} entries were seen, and now there are {now}")]
    Shrunk { seen: u64, now: u64 },
    #[error("the log does not go on from what was seen of it: it was forked or rewritten")]
    Forked,
}

/// The cosignature, and what the witness has seen from now on.
///
/// # Errors
/// [`Refusal`].
pub fn cosign(
    request: &AddCheckpoint,
    operator: &VerifierKey,
    seen: Seen,
    witness: &SigningKey,
    unix_seconds: u64,
) -> Result<(Signature, Seen), Refusal> {
    let checkpoint = Checkpoint::verify(&request.checkpoint, operator)?;
    if checkpoint.size < seen.size {
        return Err(Refusal::Shrunk { seen: seen.size, now: checkpoint.size });
    }
    if request.old_size != seen.size {
        return Err(Refusal::OtherSize { seen: seen.size, claimed: request.old_size });
    }
    verify_consistency(seen.size, &seen.root, checkpoint.size, &checkpoint.root, &request.proof)
        .map_err(|_| Refusal::Forked)?;
    let signature = Cosignature::give(&request.checkpoint, witness, unix_seconds);
    Ok((signature, Seen { size: checkpoint.size, root: checkpoint.root }))
}
