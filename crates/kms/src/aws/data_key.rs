use async_trait::async_trait;
use terroir_action::{Access, Context, LiveAction, LiveContext, Registry, Target};
use terroir_aws_model::kms;
use terroir_types::Error;
use zeroize::Zeroizing;

use super::cipher::context;
use super::{USED, asked, check_tokens, find, on_key, unsupported};
use crate::KeyService;
use crate::access::Use;
use crate::model::EncryptionContext;
use crate::ops::{constraint, material_id};

pub(super) fn register(registry: &mut Registry, service: &KeyService) {
    registry.add_live(GenerateDataKey(service.clone()));
    registry.add_live(GenerateDataKeyWithoutPlaintext(service.clone()));
    registry.add_live(GenerateRandom(service.clone()));
}

const BYTES: std::ops::RangeInclusive<i32> = 1..=1024;

/// Errors: `ValidationException`.
fn count(asked: Option<i32>) -> Result<usize, Error> {
    let count = asked.filter(|count| BYTES.contains(count)).and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| constraint("numberOfBytes", "have value between 1 and 1024"))
}

/// Bytes of a data key. Errors: `ValidationException`.
fn length(spec: Option<&str>, bytes: Option<i32>) -> Result<usize, Error> {
    match (spec, bytes) {
        (Some("AES_256"), None) => Ok(32),
        (Some("AES_128"), None) => Ok(16),
        (Some(_), None) => Err(constraint("keySpec", "satisfy enum value set: [AES_256, AES_128]")),
        (None, Some(bytes)) => count(Some(bytes)),
        (None, None) | (Some(_), Some(_)) => {
            Err(Error::invalid("ValidationException", "Please specify either number of bytes or key spec."))
        }
    }
}

fn random(service: &KeyService, length: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    service.ids().fill(&mut bytes);
    bytes
}

/// A data key with and without its cover.
struct Made {
    plaintext: Zeroizing<Vec<u8>>,
    blob: Vec<u8>,
    arn: String,
    material: String,
}

async fn make(
    service: &KeyService,
    cx: &LiveContext<'_>,
    key_id: &str,
    context: &EncryptionContext,
    tokens: &[String],
    length: usize,
    operation: &'static str,
) -> Result<Made, Error> {
    let region = &cx.region.name;
    let txn = cx.store.read().await?;
    check_tokens(&txn, tokens)?;
    let key = find(&txn, cx.caller.account, region, key_id, USED)?.key(region)?;
    let plaintext = random(service, length);
    let blob = service.encrypt(&txn, &key, context, &plaintext, asked(cx, operation)).await?;
    Ok(Made { plaintext, blob, arn: key.arn(region).to_string(), material: material_id(key.id, key.current) })
}

pub(super) struct GenerateDataKey(KeyService);

#[async_trait]
impl LiveAction for GenerateDataKey {
    type Op = kms::ops::GenerateDataKey;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &kms::GenerateDataKeyRequest) -> Result<Vec<Target>, Error> {
        let what = Use::Cryptographic(context(&request.encryption_context));
        on_key(cx, "GenerateDataKey", &request.key_id, USED, what).map(|target| vec![target])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        r: kms::GenerateDataKeyRequest,
    ) -> Result<kms::GenerateDataKeyResponse, Error> {
        if r.recipient.is_some() {
            return unsupported("Recipient");
        }
        let length = length(r.key_spec.as_deref(), r.number_of_bytes)?;
        let (context, tokens) = (context(&r.encryption_context), &r.grant_tokens);
        let made = make(&self.0, &cx, &r.key_id, context, tokens, length, "GenerateDataKey").await?;
        Ok(kms::GenerateDataKeyResponse {
            ciphertext_blob: Some(made.blob),
            plaintext: Some(made.plaintext.to_vec()),
            key_id: Some(made.arn),
            key_material_id: Some(made.material),
            ..Default::default()
        })
    }
}

pub(super) struct GenerateDataKeyWithoutPlaintext(KeyService);

#[async_trait]
impl LiveAction for GenerateDataKeyWithoutPlaintext {
    type Op = kms::ops::GenerateDataKeyWithoutPlaintext;
    const ACCESS: Access = Access::Read;

    fn targets(
        &self,
        cx: &Context<'_>,
        request: &kms::GenerateDataKeyWithoutPlaintextRequest,
    ) -> Result<Vec<Target>, Error> {
        let what = Use::Cryptographic(context(&request.encryption_context));
        on_key(cx, "GenerateDataKeyWithoutPlaintext", &request.key_id, USED, what).map(|target| vec![target])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        r: kms::GenerateDataKeyWithoutPlaintextRequest,
    ) -> Result<kms::GenerateDataKeyWithoutPlaintextResponse, Error> {
        let length = length(r.key_spec.as_deref(), r.number_of_bytes)?;
        let (context, tokens) = (context(&r.encryption_context), &r.grant_tokens);
        let operation = "GenerateDataKeyWithoutPlaintext";
        let made = make(&self.0, &cx, &r.key_id, context, tokens, length, operation).await?;
        Ok(kms::GenerateDataKeyWithoutPlaintextResponse {
            ciphertext_blob: Some(made.blob),
            key_id: Some(made.arn),
            key_material_id: Some(made.material),
        })
    }
}

pub(super) struct GenerateRandom(KeyService);

#[async_trait]
impl LiveAction for GenerateRandom {
    type Op = kms::ops::GenerateRandom;
    const ACCESS: Access = Access::Read;

    fn targets(&self, _cx: &Context<'_>, _request: &kms::GenerateRandomRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("kms:GenerateRandom")])
    }

    async fn run(
        &self,
        _cx: LiveContext<'_>,
        request: kms::GenerateRandomRequest,
    ) -> Result<kms::GenerateRandomResponse, Error> {
        if request.recipient.is_some() || request.custom_key_store_id.is_some() {
            return unsupported("Randomness from elsewhere");
        }
        let bytes = random(&self.0, count(request.number_of_bytes)?);
        Ok(kms::GenerateRandomResponse { plaintext: Some(bytes.to_vec()), ..Default::default() })
    }
}
