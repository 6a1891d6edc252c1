use async_trait::async_trait;
use terroir_action::{Access, Context, LiveAction, LiveContext, Registry, Target};
use terroir_aws_model::kms;
use terroir_types::Error;

use super::{USED, asked, check_tokens, find, on_key, present, unsupported};
use crate::KeyService;
use crate::access::Use;
use crate::ciphertext::{self, Header};
use crate::model::EncryptionContext;
use crate::ops::{constraint, material_id};
use crate::reference::{Found, Reference};

pub(super) const ALGORITHM: &str = "SYMMETRIC_DEFAULT";

pub(super) fn register(registry: &mut Registry, service: &KeyService) {
    registry.add_live(Encrypt(service.clone()));
    registry.add_live(Decrypt(service.clone()));
    registry.add_live(ReEncrypt(service.clone()));
}

static NOTHING: EncryptionContext = EncryptionContext::new();

pub(super) fn context(given: &Option<EncryptionContext>) -> &EncryptionContext {
    given.as_ref().unwrap_or(&NOTHING)
}

/// Errors: `InvalidKeyUsageException` for what only other keys can do, `ValidationException`.
fn check_algorithm(asked: Option<&str>, member: &str) -> Result<(), Error> {
    const OTHERS: &[&str] = &["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"];
    match asked {
        None | Some(ALGORITHM) => Ok(()),
        Some(other) if OTHERS.contains(&other) => {
            let message = format!("Algorithm {other} is incompatible with key spec SYMMETRIC_DEFAULT.");
            Err(Error::invalid("InvalidKeyUsageException", message))
        }
        Some(_) => Err(constraint(member, "satisfy enum value set: [SYMMETRIC_DEFAULT]")),
    }
}

/// Errors: `ValidationException`.
fn check_blob(blob: &[u8]) -> Result<(), Error> {
    if blob.is_empty() || blob.len() > ciphertext::MAX_BYTES {
        return Err(constraint("ciphertextBlob", "have length between 1 and 6144"));
    }
    Ok(())
}

/// The key that decrypts a blob: the one that the request names, else the one that the blob does.
fn source(cx: &Context<'_>, key_id: Option<&str>, blob: &[u8]) -> Result<Found, Error> {
    match key_id {
        Some(text) => find(cx.txn, cx.account(), &cx.region.name, text, USED),
        None => {
            check_blob(blob)?;
            let header = Header::read(blob)?;
            Found::look(cx.txn, Reference::Key(header.account, header.key))
        }
    }
}

pub(super) struct Encrypt(KeyService);

#[async_trait]
impl LiveAction for Encrypt {
    type Op = kms::ops::Encrypt;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &kms::EncryptRequest) -> Result<Vec<Target>, Error> {
        let what = Use::Cryptographic(context(&request.encryption_context));
        on_key(cx, "Encrypt", &request.key_id, USED, what).map(|target| vec![target])
    }

    async fn run(&self, cx: LiveContext<'_>, request: kms::EncryptRequest) -> Result<kms::EncryptResponse, Error> {
        check_algorithm(request.encryption_algorithm.as_deref(), "encryptionAlgorithm")?;
        let region = &cx.region.name;
        let txn = cx.store.read().await?;
        check_tokens(&txn, &request.grant_tokens)?;
        let key = find(&txn, cx.caller.account, region, &request.key_id, USED)?.key(region)?;
        let context = context(&request.encryption_context);
        let blob = self.0.encrypt(&txn, &key, context, &request.plaintext, asked(&cx, "Encrypt")).await?;
        Ok(kms::EncryptResponse {
            ciphertext_blob: Some(blob),
            key_id: Some(key.arn(region).to_string()),
            encryption_algorithm: Some(ALGORITHM.to_owned()),
        })
    }
}

/// The key that a blob was encrypted with, if it is the one that the request names.
///
/// Errors: `NotFoundException`, `IncorrectKeyException`, `InvalidCiphertextException`.
fn key_of_blob(
    txn: &terroir_store::Txn,
    cx: &LiveContext<'_>,
    key_id: Option<&str>,
    blob: &[u8],
) -> Result<std::sync::Arc<crate::model::KmsKey>, Error> {
    check_blob(blob)?;
    let region = &cx.region.name;
    let named = key_id.map(|text| find(txn, cx.caller.account, region, text, USED)?.key(region)).transpose()?;
    let header = Header::read(blob)?;
    match named {
        Some(key) if (key.account, key.id) == (header.account, header.key) => Ok(key),
        Some(_) => Err(Error::invalid(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        )),
        None => Found::look(txn, Reference::Key(header.account, header.key))?.key(region),
    }
}

pub(super) struct Decrypt(KeyService);

#[async_trait]
impl LiveAction for Decrypt {
    type Op = kms::ops::Decrypt;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &kms::DecryptRequest) -> Result<Vec<Target>, Error> {
        let blob = present(&request.ciphertext_blob, "ciphertextBlob")?;
        let found = source(cx, request.key_id.as_deref(), blob)?;
        let what = Use::Cryptographic(context(&request.encryption_context));
        super::asker(cx).target(cx.txn, "Decrypt", &found, what).map(|target| vec![target])
    }

    async fn run(&self, cx: LiveContext<'_>, request: kms::DecryptRequest) -> Result<kms::DecryptResponse, Error> {
        if request.recipient.is_some() {
            return unsupported("Recipient");
        }
        check_algorithm(request.encryption_algorithm.as_deref(), "encryptionAlgorithm")?;
        let blob = present(&request.ciphertext_blob, "ciphertextBlob")?;
        let txn = cx.store.read().await?;
        check_tokens(&txn, &request.grant_tokens)?;
        let key = key_of_blob(&txn, &cx, request.key_id.as_deref(), blob)?;
        let opened =
            self.0.decrypt(&txn, &key, context(&request.encryption_context), blob, asked(&cx, "Decrypt")).await?;
        Ok(kms::DecryptResponse {
            key_id: Some(key.arn(&cx.region.name).to_string()),
            key_material_id: Some(material_id(key.id, opened.material)),
            plaintext: Some(opened.text.to_vec()),
            encryption_algorithm: Some(ALGORITHM.to_owned()),
            ..Default::default()
        })
    }
}

pub(super) struct ReEncrypt(KeyService);

#[async_trait]
impl LiveAction for ReEncrypt {
    type Op = kms::ops::ReEncrypt;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &kms::ReEncryptRequest) -> Result<Vec<Target>, Error> {
        let blob = present(&request.ciphertext_blob, "ciphertextBlob")?;
        let source = source(cx, request.source_key_id.as_deref(), blob)?;
        let destination = find(cx.txn, cx.account(), &cx.region.name, &request.destination_key_id, USED)?;
        let same = match (&source.key, &destination.key) {
            (Some(one), Some(other)) => (one.account, one.id) == (other.account, other.id),
            _ => false,
        };
        let (from, to) = (&request.source_encryption_context, &request.destination_encryption_context);
        [("ReEncryptFrom", source, from), ("ReEncryptTo", destination, to)]
            .into_iter()
            .map(|(operation, found, given)| {
                let what = Use::Cryptographic(context(given));
                let target = super::asker(cx).target(cx.txn, operation, &found, what)?;
                Ok(target.key("kms:ReEncryptOnSameKey", same.to_string()))
            })
            .collect()
    }

    async fn run(&self, cx: LiveContext<'_>, request: kms::ReEncryptRequest) -> Result<kms::ReEncryptResponse, Error> {
        check_algorithm(request.source_encryption_algorithm.as_deref(), "sourceEncryptionAlgorithm")?;
        check_algorithm(request.destination_encryption_algorithm.as_deref(), "destinationEncryptionAlgorithm")?;
        let blob = present(&request.ciphertext_blob, "ciphertextBlob")?;
        let region = &cx.region.name;
        let txn = cx.store.read().await?;
        check_tokens(&txn, &request.grant_tokens)?;
        let source = key_of_blob(&txn, &cx, request.source_key_id.as_deref(), blob)?;
        let destination = find(&txn, cx.caller.account, region, &request.destination_key_id, USED)?.key(region)?;
        let by = asked(&cx, "ReEncrypt");
        let opened = self.0.decrypt(&txn, &source, context(&request.source_encryption_context), blob, by).await?;
        let to = context(&request.destination_encryption_context);
        let sealed = self.0.encrypt(&txn, &destination, to, &opened.text, by).await?;
        Ok(kms::ReEncryptResponse {
            ciphertext_blob: Some(sealed),
            source_key_id: Some(source.arn(region).to_string()),
            key_id: Some(destination.arn(region).to_string()),
            source_encryption_algorithm: Some(ALGORITHM.to_owned()),
            destination_encryption_algorithm: Some(ALGORITHM.to_owned()),
            source_key_material_id: Some(material_id(source.id, opened.material)),
            destination_key_material_id: Some(material_id(destination.id, destination.current)),
        })
    }
}
