//! A receipt checked offline, with nothing but the operators' public keys.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use terroir_policy::{Operator, OperatorStatement, Site, SiteStatement, open};
use terroir_tlog::{Checkpoint, Cosignature, Note, VerifierKey, leaf_hash, verify_consistency, verify_inclusion};
use terroir_types::Timestamp;

use super::entry::sha256_hex;
use super::file::{FORMAT, Receipt, decode};
use super::{Assurance, Entry, Event, Where};

/// Whom the reader trusts, and what it knows.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Public keys of the region's operators.
    pub operators: Vec<VerifierKey>,
    /// How many of them must have signed or cosigned the checkpoint; `None`: more than half.
    pub quorum: Option<usize>,
    /// A checkpoint that was seen before: the log must go on from there.
    pub known: Option<Note>,
}

impl Trust {
    pub fn quorum(&self) -> usize {
        self.quorum.unwrap_or(self.operators.len() / 2 + 1)
    }

    fn key(&self, operator: &str) -> Option<&VerifierKey> {
        self.operators.iter().find(|key| key.name() == operator)
    }
}

/// What is wrong with a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("this is no receipt: {0}")]
    Malformed(String),
    #[error("there is no public key of the operator '{0}' among those given")]
    UnknownOperator(String),
    #[error("the checkpoint is not what its log signed: {0}")]
    Checkpoint(String),
    #[error("{signed} of {given} operators signed the checkpoint, and {wanted} must have")]
    Quorum { signed: usize, given: usize, wanted: usize },
    #[error("the entry {0} is not in the log that was signed for")]
    NotInLog(u64),
    #[error("the entry {0} is about something else")]
    Foreign(u64),
    #[error("the entries do not follow from each other: {0}")]
    Gap(String),
    #[error("the statement about {0} that an entry refers to is missing or was not signed by its operator")]
    Statement(String),
    #[error("the log does not go on from the checkpoint that is known: it was forked or rewritten")]
    Forked,
    #[error("the receipt does not show how the log goes on from the checkpoint that is known")]
    NoConsistency,
}

/// One stay of the resource, with what its operator had signed about the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Residence {
    pub place: Where,
    pub operator: Operator,
    pub site: Site,
    pub from: Timestamp,
    /// None: to the checkpoint, at least.
    pub until: Option<(Timestamp, Event)>,
    pub assurance: Assurance,
}

/// What a receipt that is whole says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub resource: String,
    pub kind: String,
    pub account: String,
    pub residences: Vec<Residence>,
    /// The log, and how many entries it had.
    pub origin: String,
    pub size: u64,
    /// Ids of the operators that signed or cosigned the checkpoint.
    pub signed_by: Vec<String>,
}

/// # Errors
/// The first [`Fault`].
pub fn verify(text: &str, trust: &Trust) -> Result<Report, Fault> {
    let receipt: Receipt = serde_json::from_str(text).map_err(|error| Fault::Malformed(error.to_string()))?;
    if receipt.format != FORMAT {
        return Err(Fault::Malformed(format!("its format is '{}', not {FORMAT}", receipt.format)));
    }
    let note = Note::parse(&receipt.checkpoint).map_err(|error| Fault::Checkpoint(error.to_string()))?;
    let (checkpoint, signed_by) = check_checkpoint(&note, trust)?;
    if let Some(known) = &trust.known {
        check_known(&receipt, &checkpoint, known, trust)?;
    }
    let entries = check_entries(&receipt, &checkpoint)?;
    let residences = residences(&receipt, &entries, trust)?;
    let first = entries.first().ok_or_else(|| Fault::Malformed("it has no entries".to_owned()))?;
    Ok(Report {
        resource: receipt.resource.clone(),
        kind: first.kind.clone(),
        account: first.account.to_string(),
        residences,
        origin: checkpoint.origin,
        size: checkpoint.size,
        signed_by,
    })
}

fn log_operator(origin: &str) -> &str {
    origin.split('/').next().unwrap_or_default()
}

fn check_checkpoint(note: &Note, trust: &Trust) -> Result<(Checkpoint, Vec<String>), Fault> {
    let wrong = |error: &dyn fmt::Display| Fault::Checkpoint(error.to_string());
    let said = Checkpoint::parse(note.text()).map_err(|error| wrong(&error))?;
    let operator = log_operator(&said.origin);
    let key = trust.key(operator).ok_or_else(|| Fault::UnknownOperator(operator.to_owned()))?;
    let checkpoint = Checkpoint::verify(note, key).map_err(|error| wrong(&error))?;
    let mut signed_by = vec![operator.to_owned()];
    for witness in trust.operators.iter().filter(|key| key.name() != operator) {
        if Cosignature::of(note, witness).map_err(|error| wrong(&error))?.is_some() {
            signed_by.push(witness.name().to_owned());
        }
    }
    let (signed, given, wanted) = (signed_by.len(), trust.operators.len(), trust.quorum());
    if signed < wanted {
        return Err(Fault::Quorum { signed, given, wanted });
    }
    Ok((checkpoint, signed_by))
}

fn check_known(receipt: &Receipt, checkpoint: &Checkpoint, known: &Note, trust: &Trust) -> Result<(), Fault> {
    let said = Checkpoint::parse(known.text()).map_err(|error| Fault::Checkpoint(error.to_string()))?;
    let operator = log_operator(&said.origin);
    let key = trust.key(operator).ok_or_else(|| Fault::UnknownOperator(operator.to_owned()))?;
    let before = Checkpoint::verify(known, key).map_err(|error| Fault::Checkpoint(error.to_string()))?;
    if before.origin != checkpoint.origin || before.size > checkpoint.size {
        return Err(Fault::Forked);
    }
    let proof = match &receipt.consistency {
        Some(shown) if shown.from == before.size => decode(&shown.proof).ok_or(Fault::Forked)?,
        _ if before.size == checkpoint.size || before.size == 0 => Vec::new(),
        _ => return Err(Fault::NoConsistency),
    };
    verify_consistency(before.size, &before.root, checkpoint.size, &checkpoint.root, &proof).map_err(|_| Fault::Forked)
}

fn check_entries(receipt: &Receipt, checkpoint: &Checkpoint) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::with_capacity(receipt.entries.len());
    let mut last = None;
    for proven in &receipt.entries {
        let index = proven.index;
        if last.is_some_and(|last| last >= index) {
            return Err(Fault::Gap("they are not in the log's order".to_owned()));
        }
        last = Some(index);
        let proof = decode(&proven.proof).ok_or(Fault::NotInLog(index))?;
        let leaf = leaf_hash(proven.entry.as_bytes());
        verify_inclusion(&leaf, index, checkpoint.size, &proof, &checkpoint.root)
            .map_err(|_| Fault::NotInLog(index))?;
        let entry: Entry = serde_json::from_str(&proven.entry).map_err(|error| Fault::Malformed(error.to_string()))?;
        if entry.resource != receipt.resource {
            return Err(Fault::Foreign(index));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Statements by their SHA-256.
type Statements<'a> = BTreeMap<String, &'a str>;

fn residences(receipt: &Receipt, entries: &[Entry], trust: &Trust) -> Result<Vec<Residence>, Fault> {
    let statements: Statements<'_> = receipt.statements.iter().map(|note| (sha256_hex(note), note.as_str())).collect();
    let mut residences: Vec<Residence> = Vec::new();
    let gap = |text: &str| Err(Fault::Gap(text.to_owned()));
    for entry in entries {
        let current = residences.last_mut().filter(|residence| residence.until.is_none());
        let of_first = entries.first().is_some_and(|first| first.account == entry.account && first.kind == entry.kind);
        if !of_first {
            return gap("they are about different things of one name");
        }
        let same = |a: &Where, b: &Where| a.operator == b.operator && a.site == b.site && a.host == b.host;
        match (entry.event, current, &entry.from) {
            (Event::Placed, None, None) if entries.first() == Some(entry) => {}
            (Event::Placed, ..) => return gap("it was placed twice"),
            (Event::Moved, Some(current), Some(from)) if same(&current.place, from) => {
                current.until = Some((entry.at, entry.event));
            }
            (Event::Moved, ..) => return gap("it moved from where it was not"),
            (Event::Erased | Event::Lost, Some(current), None) if same(&current.place, &entry.place) => {
                current.until = Some((entry.at, entry.event));
                continue;
            }
            (Event::Erased | Event::Lost, ..) => return gap("it ended where it was not"),
        }
        residences.push(residence(entry, &statements, trust)?);
    }
    Ok(residences)
}

fn residence(entry: &Entry, statements: &Statements<'_>, trust: &Trust) -> Result<Residence, Fault> {
    let place = &entry.place;
    let key = trust.key(&place.operator).ok_or_else(|| Fault::UnknownOperator(place.operator.clone()))?;
    let missing = |what: &str| Fault::Statement(what.to_owned());
    let find = |hash: &str, what: &str| statements.get(hash).copied().ok_or_else(|| missing(what));
    let note = find(&place.operator_statement, &place.operator)?;
    let operator: OperatorStatement = open(note, key).map_err(|_| missing(&place.operator))?;
    let note = find(&place.site_statement, &place.site)?;
    let site: SiteStatement = open(note, key).map_err(|_| missing(&place.site))?;
    if operator.operator.id != place.operator || site.site.id != place.site || site.site.operator != place.operator {
        return Err(missing(&place.site));
    }
    Ok(Residence {
        place: place.clone(),
        operator: operator.operator,
        site: site.site,
        from: entry.at,
        until: None,
        assurance: entry.assurance,
    })
}
