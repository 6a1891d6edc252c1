//! C2SP `tlog-checkpoint` and `tlog-cosignature`, version 1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::Hash;
use crate::note::{ED25519_COSIGNATURE, KeyError, Note, NoteError, Signature, SigningKey, VerifierKey};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("this is no checkpoint")]
    Malformed,
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("the checkpoint is not signed by its log {0}")]
    NotSigned(String),
}

/// What a log says of itself: so many entries, with this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name: that of its operator and, after a `/`, of the log.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

/// The key of the log `origin`: that of its operator under the log's name.
///
/// # Errors
/// [`KeyError::Name`].
pub fn log_key(operator: &VerifierKey, origin: &str) -> Result<VerifierKey, KeyError> {
    VerifierKey::new(origin, *operator.public_key())
}

impl Checkpoint {
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Extension lines are passed over: they are signed, and say nothing that is asked here.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Malformed)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Malformed);
        };
        let number = size.parse::<u64>().map_err(|_| CheckpointError::Malformed)?;
        let root =
            STANDARD.decode(root).ok().and_then(|root| root.try_into().ok()).ok_or(CheckpointError::Malformed)?;
        if origin.is_empty() || number.to_string() != size || lines.any(str::is_empty) {
            return Err(CheckpointError::Malformed);
        }
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }

    /// `log`: the log's own key, which is called as the log.
    ///
    /// # Errors
    /// [`CheckpointError::Note`] for an origin that no note can hold.
    pub fn sign(&self, log: &SigningKey) -> Result<Note, CheckpointError> {
        Ok(log.sign(&self.text())?)
    }

    /// The checkpoint of a note that its log has signed.
    ///
    /// # Errors
    /// Any of [`CheckpointError`].
    pub fn verify(note: &Note, operator: &VerifierKey) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse(note.text())?;
        let log = log_key(operator, &checkpoint.origin).map_err(|_| CheckpointError::Malformed)?;
        match note.is_signed_by(&log)? {
            true => Ok(checkpoint),
            false => Err(CheckpointError::NotSigned(checkpoint.origin)),
        }
    }
}

/// A witness's word that it saw the log grow to this checkpoint and never shrink or change.
pub struct Cosignature {
    /// When it was given, seconds since 1970.
    pub unix_seconds: u64,
}

impl Cosignature {
    fn message(text: &str, unix_seconds: u64) -> Vec<u8> {
        format!("cosignature/v1\ntime {unix_seconds}\n{text}").into_bytes()
    }

    pub fn give(checkpoint: &Note, witness: &SigningKey, unix_seconds: u64) -> Signature {
        let mut bytes = unix_seconds.to_be_bytes().to_vec();
        bytes.extend(witness.sign_raw(&Self::message(checkpoint.text(), unix_seconds)));
        let verifier = witness.verifier();
        Signature { name: verifier.name().to_owned(), key_id: verifier.id(ED25519_COSIGNATURE), bytes }
    }

    /// The cosignature of `witness`; `None` if it gave none.
    ///
    /// # Errors
    /// [`NoteError::Invalid`] for one that says it is of this witness and is not.
    pub fn of(checkpoint: &Note, witness: &VerifierKey) -> Result<Option<Self>, NoteError> {
        let Some(found) = checkpoint.by(witness.name(), witness.id(ED25519_COSIGNATURE))? else { return Ok(None) };
        let invalid = || NoteError::Invalid(witness.name().to_owned());
        let (time, signature) = found.bytes.split_first_chunk::<8>().ok_or_else(invalid)?;
        let unix_seconds = u64::from_be_bytes(*time);
        match witness.verifies(&Self::message(checkpoint.text(), unix_seconds), signature) {
            true => Ok(Some(Self { unix_seconds })),
            false => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_read_strictly() {
        let good = Checkpoint { origin: "a.example/log".into(), size: 7, root: [9; 32] };
        assert_eq!(Checkpoint::parse(&good.text()), Ok(good.clone()));
        assert_eq!(Checkpoint::parse(&format!("{}extension\n", good.text())), Ok(good.clone()));
        let text = good.text();
        for bad in [
            String::new(),
            text.trim_end().to_owned(),
            text.replace("\n7\n", "\n07\n"),
            text.replace("\n7\n", "\n+7\n"),
            text.replace("a.example/log", ""),
            format!("{text}\n"),
            text.replace("CQ", ""),
        ] {
            assert_eq!(Checkpoint::parse(&bad), Err(CheckpointError::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn signatures_of_log_and_witness_are_told_apart() {
        let operator = SigningKey::from_seed("a.example", &[1; 32]).unwrap();
        let witness = SigningKey::from_seed("b.example", &[2; 32]).unwrap();
        let log = operator.named("a.example/log").unwrap();
        let checkpoint = Checkpoint { origin: "a.example/log".into(), size: 7, root: [9; 32] };
        let mut note = checkpoint.sign(&log).unwrap();
        assert!(Cosignature::of(&note, witness.verifier()).unwrap().is_none());
        note.add(Cosignature::give(&note, &witness, 1_700_000_000));
        let read = Note::parse(&note.to_string()).unwrap();
        assert_eq!(Checkpoint::verify(&read, operator.verifier()), Ok(checkpoint));
        assert_eq!(Cosignature::of(&read, witness.verifier()).unwrap().unwrap().unix_seconds, 1_700_000_000);
        assert!(Checkpoint::verify(&read, witness.verifier()).is_err());
        // A note signature is no cosignature, nor the other way round.
        let mut wrong = read.clone();
        wrong.add(witness.sign(read.text()).unwrap().signatures()[0].clone());
        assert!(!witness.sign(read.text()).unwrap().signatures()[0].key_id.eq(&witness.verifier().id(4)));
        let mut late = Note::parse(&note.to_string()).unwrap();
        late.add(Cosignature::give(&note, &witness, 1_800_000_000));
        assert_eq!(Cosignature::of(&late, witness.verifier()).err(), Some(NoteError::Twice("b.example".into())));
    }
}
