//! Server-side encryption: bytes are sealed before the backend stores them.
//!
//! Every object, and every multipart upload, has a random data key of its own; what seals that key is the caller's key
//! (SSE-C), a key of the store ([`keys`], SSE-S3) or one of a key service ([`crate::data_keys`], SSE-KMS). The wrapped data key
//! stands with the object and is bound to its bucket and its key; no other part of the index is sealed. How bytes are
//! sealed under a data key says [`body`]. Sizes, checksums and conditions are those of the plain bytes everywhere; only
//! a backend's own checksums are of what it stores.

pub mod body;
pub mod keys;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::settings::BucketSetting;

pub use body::{DataKey, Sealer, sealed_size};

/// How an object's bytes are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    #[serde(rename = "m")]
    pub method: Method,
    /// The data key, sealed.
    #[serde(rename = "k", with = "crate::settings::bytes_as_binary")]
    pub wrapped: Vec<u8>,
}

/// Whose key seals the data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// The store's.
    #[serde(rename = "s3")]
    S3,
    /// One that the client sends with each request and that is not kept.
    #[serde(rename = "c")]
    Customer,
    #[serde(rename = "kms")]
    Kms(KmsMethod),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsMethod {
    /// ARN of the key.
    #[serde(rename = "a")]
    pub key: String,
    /// What the client gave as the encryption context.
    #[serde(rename = "c", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// Whether the context names the bucket instead of the object.
    #[serde(rename = "b", default)]
    pub bucket_key: bool,
}

/// What a bucket does with objects whose writer says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultEncryption {
    #[serde(rename = "m")]
    pub method: DefaultMethod,
    #[serde(rename = "b", default)]
    pub bucket_key: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultMethod {
    #[serde(rename = "s3")]
    S3,
    /// None: the account's own key for S3.
    #[serde(rename = "kms")]
    Kms(Option<String>),
}

impl BucketSetting for DefaultEncryption {
    const NAME: &'static str = "encryption";
}
