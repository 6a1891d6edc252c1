use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use terroir_policy::{KeyCustody, Policy};
use terroir_store::Txn;
use terroir_types::{AccountId, Error, HostId, Timestamp};

use super::STREAM;

/// Of the JSON of one entry: two octets tell its length in a bundle.
pub const MAX_ENTRY_BYTES: usize = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Placed,
    Moved,
    /// Its host, or the store, said that it is gone.
    Erased,
    /// It was given up with a host that was declared lost. Nobody saw it go.
    Lost,
}

/// What the stay of the bytes is protected by, as far as this log can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Assurance {
    #[serde(rename = "at rest")]
    AtRest,
    #[serde(rename = "at rest, customer key")]
    AtRestCustomerKey,
}

impl Assurance {
    /// For people to read.
    pub const fn words(self) -> &'static str {
        match self {
            Self::AtRest => "at rest",
            Self::AtRestCustomerKey => "at rest, customer key",
        }
    }
}

/// A place, and by their SHA-256 the statements that its operator had signed about it then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Where {
    /// Id of the operator; empty if nobody had signed for the place.
    pub operator: String,
    pub site: String,
    /// None: the operator's store, not one of its hosts.
    pub host: Option<HostId>,
    pub operator_statement: String,
    pub site_statement: String,
}

/// One line of the log. Its JSON, as it stands there, is a leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of this form.
    pub version: u32,
    pub at: Timestamp,
    pub event: Event,
    pub resource: String,
    /// EC2's name of the type, for example `volume`.
    pub kind: String,
    pub account: AccountId,
    pub place: Where,
    /// Where it was before it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Where>,
    pub assurance: Assurance,
    pub key_custody: KeyCustody,
    /// SHA-256 of the policy's JSON that was in force; empty where none was looked at.
    pub policy: String,
    /// Keeps a neighbour's hash from telling what it is of. A secret of the account makes it.
    pub salt: String,
}

/// Where something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay<'a> {
    pub host: Option<HostId>,
    /// Id of the site.
    pub site: &'a str,
}

/// What happened, as a domain crate knows it.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    pub account: AccountId,
    pub resource: &'a str,
    pub kind: &'a str,
    pub event: Event,
    pub stay: Stay<'a>,
    pub from: Option<Stay<'a>>,
    /// Digest of the policy that was asked before it was placed, see [`policy_digest`]; empty: none was.
    pub policy: &'a str,
}

pub(crate) fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// SHA-256 of the policy's JSON, in hexadecimal.
pub fn policy_digest(policy: &Policy) -> String {
    sha256_hex(&policy.to_json())
}

/// Writes what happened into the log, with the commit of this transaction.
///
/// The commit fails with `Unavailable` when the outbox is full because nobody drains it.
pub fn note(txn: &mut Txn, facts: &[Fact<'_>], now: Timestamp) -> Result<(), Error> {
    if facts.is_empty() {
        return Ok(());
    }
    let mut places = Places::default();
    let mut lines = Vec::with_capacity(facts.len());
    for fact in facts {
        let mut entry = Entry {
            version: 1,
            at: now,
            event: fact.event,
            resource: fact.resource.to_owned(),
            kind: fact.kind.to_owned(),
            account: fact.account,
            place: places.find(txn, fact.stay)?,
            from: fact.from.map(|from| places.find(txn, from)).transpose()?,
            assurance: Assurance::AtRest,
            key_custody: KeyCustody::Operator,
            policy: fact.policy.to_owned(),
            salt: String::new(),
        };
        let unsalted = serde_json::to_string(&entry).map_err(Error::internal)?;
        entry.salt = txn.name_mac(Some(fact.account), "receipt", &unsalted);
        lines.push(serde_json::to_string(&entry).map_err(Error::internal)?);
    }
    // One row for all of them: a launch of a hundred instances has many.
    txn.outbox(STREAM, serde_json::to_vec(&lines).map_err(Error::internal)?);
    Ok(())
}

/// Sites that were looked up; the last one is mostly the next one.
#[derive(Default)]
struct Places(Option<(String, Where)>);

impl Places {
    fn find(&mut self, txn: &Txn, stay: Stay<'_>) -> Result<Where, Error> {
        let known = self.0.as_ref().filter(|(site, _)| site == stay.site).map(|(_, place)| place.clone());
        let place = match known {
            Some(place) => place,
            None => {
                let found = crate::ops::zone_place(txn, stay.site)?;
                let place = found.map_or_else(
                    || Where { site: stay.site.to_owned(), ..Where::default() },
                    |(operator, site)| Where {
                        operator: operator.operator.id.clone(),
                        site: site.site.id.clone(),
                        host: None,
                        operator_statement: sha256_hex(&operator.signed),
                        site_statement: sha256_hex(&site.signed),
                    },
                );
                self.0 = Some((stay.site.to_owned(), place.clone()));
                place
            }
        };
        Ok(Where { host: stay.host, ..place })
    }
}
