//! This cloud as a witness of other operators' logs: what it has seen of each, in a file of its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io;
use std::path::{Path, PathBuf};
use terroir_tlog::{AddCheckpoint, Checkpoint, Refusal, Seen, Signature, SigningKey, VerifierKey, cosign};

use super::entry::sha256_hex;
use super::log::write_whole;
use super::reader::{invalid, read_if_there};

#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the operator '{0}' of this log is not known here")]
    Unknown(String),
}

pub struct WitnessFolder {
    folder: PathBuf,
}

impl WitnessFolder {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, origin: &str) -> PathBuf {
        self.folder.join(&sha256_hex(origin)[..32])
    }

    fn seen(&self, origin: &str) -> io::Result<Seen> {
        let Some(bytes) = read_if_there(&self.path(origin))? else { return Ok(Seen::default()) };
        let text = String::from_utf8_lossy(&bytes);
        let parse = || {
            let (size, root) = text.trim().split_once(' ')?;
            Some(Seen { size: size.parse().ok()?, root: STANDARD.decode(root).ok()?.try_into().ok()? })
        };
        parse().ok_or_else(|| invalid(format!("what was seen of the log {origin} cannot be read")))
    }

    /// Cosigns if the log has grown from what was seen of it, and remembers that first.
    ///
    /// `key_of` gives the key of an operator that is known here.
    ///
    /// # Errors
    /// Any of [`WitnessError`].
    pub fn cosign(
        &self,
        request: &AddCheckpoint,
        key_of: impl Fn(&str) -> Option<VerifierKey>,
        witness: &SigningKey,
        unix_seconds: u64,
    ) -> Result<Signature, WitnessError> {
        let checkpoint = Checkpoint::parse(request.checkpoint.text()).map_err(Refusal::from)?;
        let operator = checkpoint.origin.split('/').next().unwrap_or_default();
        let key = key_of(operator).ok_or_else(|| WitnessError::Unknown(operator.to_owned()))?;
        let before = self.seen(&checkpoint.origin)?;
        let (signature, seen) = cosign(request, &key, before, witness, unix_seconds)?;
        if seen != before {
            let text = format!("{} {}\n", seen.size, STANDARD.encode(seen.root));
            write_whole(&self.path(&checkpoint.origin), text.as_bytes())?;
        }
        Ok(signature)
    }
}
