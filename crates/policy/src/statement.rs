//! What an operator says of itself, its sites and its hosts, signed with its key: a C2SP signed note whose text is a
//! line that names the kind and a line of JSON.
//!
//! ```text
//! terroir-site/1
//! {"site":{"id":"eu-local-1a",...},"generation":3,"at":1764000000000}
//!
//! — hoster.example AbCd...
//! ```

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use terroir_tlog::{KeyError, Note, NoteError, SigningKey, VerifierKey};
use terroir_types::{Generation, HostId, Timestamp};

use crate::{Operator, Site};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("this is no statement of the kind {0}")]
    Kind(&'static str),
    #[error("the statement cannot be read: {0}")]
    Json(String),
    #[error("the statement is not signed with the key {0}")]
    NotSigned(String),
    #[error("the statement is about the operator '{about}' and brings the key of '{key}'")]
    ForeignKey { about: String, key: String },
}

pub trait Statement: Serialize + DeserializeOwned {
    /// With its version; the first line.
    const KIND: &'static str;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorStatement {
    pub operator: Operator,
    /// Its own public key, `NAME+ID+KEY`; the name is the operator's id.
    pub key: String,
    /// Rises with every statement about the same.
    pub generation: Generation,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatement {
    pub site: Site,
    pub generation: Generation,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatement {
    pub host: HostId,
    /// Id of its site.
    pub site: String,
    /// One of its site's; `None`: the only one, or not stated.
    pub fire_zone: Option<String>,
    pub generation: Generation,
    pub at: Timestamp,
}

impl Statement for OperatorStatement {
    const KIND: &'static str = "terroir-operator/1";
}

impl Statement for SiteStatement {
    const KIND: &'static str = "terroir-site/1";
}

impl Statement for HostStatement {
    const KIND: &'static str = "terroir-host/1";
}

impl OperatorStatement {
    /// Opens a statement with the key that it brings along; whether to trust that key is for the reader to know.
    ///
    /// # Errors
    /// Any of [`StatementError`].
    pub fn open(note: &str) -> Result<(Self, VerifierKey), StatementError> {
        let key: VerifierKey = peek::<Self>(note)?.key.parse()?;
        let statement: Self = open(note, &key)?;
        if statement.operator.id != key.name() {
            let (about, key) = (statement.operator.id, key.name().to_owned());
            return Err(StatementError::ForeignKey { about, key });
        }
        Ok((statement, key))
    }
}

/// Whether an operator may call itself so: up to 63 of `a-z`, `0-9`, `.` and `-`, as a domain name.
pub fn is_operator_id(id: &str) -> bool {
    let fits = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-');
    (1..=63).contains(&id.len()) && fits && id.as_bytes()[0].is_ascii_alphanumeric()
}

/// # Errors
/// [`StatementError::Json`], [`StatementError::Note`] for what no note can hold.
pub fn sign<S: Statement>(statement: &S, key: &SigningKey) -> Result<String, StatementError> {
    let json = serde_json::to_string(statement).map_err(|error| StatementError::Json(error.to_string()))?;
    Ok(key.sign(&format!("{}\n{json}\n", S::KIND))?.to_string())
}

/// What it says, whoever signed it.
///
/// # Errors
/// [`StatementError::Note`], [`StatementError::Kind`], [`StatementError::Json`].
pub fn peek<S: Statement>(note: &str) -> Result<S, StatementError> {
    read(&Note::parse(note)?)
}

/// # Errors
/// Any of [`StatementError`], [`StatementError::NotSigned`] if `key` did not sign it.
pub fn open<S: Statement>(note: &str, key: &VerifierKey) -> Result<S, StatementError> {
    let note = Note::parse(note)?;
    if !note.is_signed_by(key)? {
        return Err(StatementError::NotSigned(key.to_string()));
    }
    read(&note)
}

fn read<S: Statement>(note: &Note) -> Result<S, StatementError> {
    let json = note.text().strip_prefix(S::KIND).and_then(|rest| rest.strip_prefix('\n'));
    let json = json.ok_or(StatementError::Kind(S::KIND))?;
    serde_json::from_str(json).map_err(|error| StatementError::Json(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(key: &SigningKey, id: &str) -> String {
        let operator = Operator { id: id.to_owned(), ..Operator::default() };
        let statement = OperatorStatement {
            operator,
            key: key.verifier().to_string(),
            generation: 1,
            at: Timestamp::from_millis(1),
        };
        sign(&statement, key).unwrap()
    }

    #[test]
    fn what_was_signed_is_read_and_nothing_else() {
        let key = SigningKey::from_seed("hoster.example", &[1; 32]).unwrap();
        let other = SigningKey::from_seed("hoster.example", &[2; 32]).unwrap();
        let note = statement(&key, "hoster.example");
        let (read, found) = OperatorStatement::open(&note).unwrap();
        assert_eq!((read.operator.id.as_str(), &found), ("hoster.example", key.verifier()));
        assert!(matches!(open::<OperatorStatement>(&note, other.verifier()), Err(StatementError::NotSigned(_))));
        assert_eq!(open::<SiteStatement>(&note, key.verifier()), Err(StatementError::Kind("terroir-site/1")));
        let forged = note.replace("\"generation\":1", "\"generation\":2");
        assert!(matches!(OperatorStatement::open(&forged), Err(StatementError::Note(NoteError::Invalid(_)))));
        let foreign = statement(&key, "somebody.example");
        assert!(matches!(OperatorStatement::open(&foreign), Err(StatementError::ForeignKey { .. })));
    }

    #[test]
    fn operators_are_called_as_domains() {
        for (id, fits) in
            [("local", true), ("a.example", true), ("", false), ("-a", false), ("A", false), ("a b", false)]
        {
            assert_eq!(is_operator_id(id), fits, "{id}");
        }
    }
}
