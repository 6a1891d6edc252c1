use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use terroir_tlog::Hash;

/// The form of the file, and the version of the form.
pub const FORMAT: &str = "terroir-receipt/1";

/// A proof file: everything that was logged about a resource, and what shows that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub format: String,
    pub resource: String,
    /// The log's signed note with the cosignatures of its witnesses.
    pub checkpoint: String,
    pub entries: Vec<ProvenEntry>,
    /// What the operators had signed about themselves and their sites, as the entries refer to it.
    pub statements: Vec<String>,
    /// That the log goes on from an earlier checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenEntry {
    /// Number in the log, from 0.
    pub index: u64,
    /// The entry's JSON exactly as it stands in the log.
    pub entry: String,
    /// Hashes of RFC 6962's audit path in Base64, from the leaf's sibling upwards.
    pub proof: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// Entries of the earlier checkpoint.
    pub from: u64,
    pub proof: Vec<String>,
}

pub(super) fn encode(proof: &[Hash]) -> Vec<String> {
    proof.iter().map(|hash| STANDARD.encode(hash)).collect()
}

/// None if one of them is no hash.
pub(super) fn decode(proof: &[String]) -> Option<Vec<Hash>> {
    proof.iter().map(|hash| STANDARD.decode(hash).ok()?.try_into().ok()).collect()
}
