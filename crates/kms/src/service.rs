use async_trait::async_trait;
use std::sync::Arc;
use terroir_action::{Caller, CallerKind, DataKey, DataKeys, KeyUse};
use terroir_iam::{Iam, RequestFacts};
use terroir_store::{Store, Txn};
use terroir_types::{AccountId, Clock, Error, ErrorClass, IdSource, Secret};
use zeroize::{Zeroize as _, Zeroizing};

use crate::access::{Asker, Use};
use crate::ciphertext::{self, Header};
use crate::external::{self, About, Proxies};
use crate::model::{EncryptionContext, KmsKey};
use crate::ops;
use crate::reference::{Found, Reference};

/// Encrypts and decrypts with keys; the one door for other parts of the cloud. A cheap handle.
#[derive(Clone)]
pub struct KeyService(Arc<Inner>);

struct Inner {
    iam: Iam,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    region: String,
    proxies: Arc<dyn Proxies>,
}

/// For whom, and for what, a key is used: what a proxy outside is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub caller: &'a Caller,
    pub operation: &'a str,
    pub request_id: &'a str,
    pub via: Option<&'a str>,
}

/// A text with the id of the material that it was encrypted with.
pub(crate) struct Opened {
    pub text: Zeroizing<Vec<u8>>,
    pub material: u32,
}

impl KeyService {
    pub fn new(
        iam: Iam,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        region: &str,
        proxies: Arc<dyn Proxies>,
    ) -> Self {
        Self(Arc::new(Inner { iam, clock, ids, region: region.to_owned(), proxies }))
    }

    pub(crate) fn proxies(&self) -> &dyn Proxies {
        &*self.0.proxies
    }

    fn about(&self, asked: Asked<'_>, key: &KmsKey) -> About {
        About {
            aws_principal_arn: Some(asked.caller.arn.to_string()),
            kms_key_arn: Some(key.arn(&self.0.region).to_string()),
            kms_operation: asked.operation.to_owned(),
            kms_request_id: asked.request_id.to_owned(),
            kms_via_service: asked.via.map(str::to_owned),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.0.iam.store()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(crate) fn ids(&self) -> &dyn IdSource {
        &*self.0.ids
    }

    /// Encrypts under a key that whoever asks may use. Errors: those of [`ops::check_usable`] and [`ops::encrypt`].
    pub(crate) async fn encrypt(
        &self,
        txn: &Txn,
        key: &KmsKey,
        context: &EncryptionContext,
        text: &[u8],
        asked: Asked<'_>,
    ) -> Result<Vec<u8>, Error> {
        ops::check_context(context)?;
        ops::check_usable(key, &self.0.region)?;
        let proxy = ops::proxy_of(txn, key)?;
        let blob = ops::encrypt(txn, key, context, text, &*self.0.ids)?;
        let Some((proxy, id)) = proxy else { return Ok(blob) };
        let (front, inner) = ciphertext::split(&blob)?;
        let data = ciphertext::outer_data(front, context);
        let about = self.about(asked, key);
        let outer = external::encrypt(self.proxies(), &proxy, &id, &about, &data, inner).await;
        Ok(ciphertext::wrap(front, &outer.map_err(external::Fault::of_use)?))
    }

    /// Decrypts what a key encrypted that whoever asks may use. Errors: those of [`ops::check_usable`] and
    /// [`ops::decrypt`].
    pub(crate) async fn decrypt(
        &self,
        txn: &Txn,
        key: &KmsKey,
        context: &EncryptionContext,
        blob: &[u8],
        asked: Asked<'_>,
    ) -> Result<Opened, Error> {
        ops::check_context(context)?;
        ops::check_usable(key, &self.0.region)?;
        if let Some((proxy, id)) = ops::proxy_of(txn, key)? {
            if !Header::read(blob)?.external {
                return Err(ciphertext::invalid());
            }
            let (front, outer) = ciphertext::unwrap(blob)?;
            let data = ciphertext::outer_data(front, context);
            let about = self.about(asked, key);
            let inner = external::decrypt(self.proxies(), &proxy, &id, &about, &data, &outer).await;
            // It means the same as if our own cipher had said it.
            let inner = inner.map_err(|fault| match fault {
                external::Fault::InvalidCiphertext => ciphertext::invalid(),
                other => other.of_use(),
            })?;
            let (text, header) = ops::decrypt(txn, key, context, &[front, inner.as_slice()].concat())?;
            return Ok(Opened { text, material: header.material });
        }
        let (text, header) = ops::decrypt(txn, key, context, blob)?;
        Ok(Opened { text, material: header.material })
    }

    /// Of a request that came by another door than the API.
    fn request_id(&self) -> String {
        uuid::Builder::from_random_bytes(self.0.ids.next_u128().to_le_bytes()).into_uuid().to_string()
    }

    /// The key that `found` leads to, if whoever asks may do this with it.
    async fn admitted(
        &self,
        txn: &Txn,
        operation: &str,
        found: Found,
        using: KeyUse<'_>,
    ) -> Result<Arc<KmsKey>, Error> {
        let asker = Asker { caller: using.caller, region: &self.0.region, via: Some(using.via) };
        let target = asker.target(txn, operation, &found, Use::Cryptographic(using.context))?;
        let facts = RequestFacts {
            now: self.0.clock.now(),
            region: self.0.region.clone(),
            secure: true,
            ..RequestFacts::default()
        };
        self.0.iam.authorize_in(txn, using.caller, &[target], &facts).await?;
        found.key(&self.0.region)
    }

    /// The name of the key that a service has in an account, after it was made if it was not there.
    async fn managed(&self, account: AccountId, via: &str) -> Result<Reference, Error> {
        let service = if via == "ec2" { "ebs" } else { via };
        let reference = Reference::Alias(account, format!("alias/aws/{service}"));
        if Found::look(&self.store().read().await?, reference.clone())?.key.is_none() {
            let (now, region) = (self.0.clock.now(), &self.0.region);
            let make = |txn: &mut Txn| ops::ensure_managed(txn, account, region, service, &*self.0.ids, now).map(drop);
            self.store().transact(&[], make).await?;
        }
        Ok(reference)
    }
}

fn asked<'a>(using: KeyUse<'a>, operation: &'a str, request_id: &'a str) -> Asked<'a> {
    Asked { caller: using.caller, operation, request_id, via: Some(using.via) }
}

#[async_trait]
impl DataKeys for KeyService {
    async fn generate(&self, key: Option<&str>, using: KeyUse<'_>) -> Result<DataKey, Error> {
        let account = using.caller.account;
        let reference = match key {
            Some(text) => Reference::parse(text, account, &self.0.region)?,
            // Who has no account has no such key, and none is made.
            None if matches!(using.caller.kind, CallerKind::Anonymous) || account == AccountId::NOBODY => {
                return Err(Error::new(ErrorClass::Denied, "AccessDenied", "Access Denied"));
            }
            None => self.managed(account, using.via).await?,
        };
        let txn = self.store().read().await?;
        let key = self.admitted(&txn, "GenerateDataKey", Found::look(&txn, reference)?, using).await?;
        let mut plaintext = [0; 32];
        self.0.ids.fill(&mut plaintext);
        let request_id = self.request_id();
        let blob =
            self.encrypt(&txn, &key, using.context, &plaintext, asked(using, "GenerateDataKey", &request_id)).await;
        let secret = Secret::new(plaintext);
        plaintext.zeroize();
        Ok(DataKey { plaintext: secret, blob: blob?, key: key.arn(&self.0.region) })
    }

    async fn open(&self, blob: &[u8], using: KeyUse<'_>) -> Result<Secret<[u8; 32]>, Error> {
        let header = Header::read(blob)?;
        let txn = self.store().read().await?;
        let found = Found::look(&txn, Reference::Key(header.account, header.key))?;
        let key = self.admitted(&txn, "Decrypt", found, using).await?;
        let request_id = self.request_id();
        let opened = self.decrypt(&txn, &key, using.context, blob, asked(using, "Decrypt", &request_id)).await?;
        let plaintext = opened.text.as_slice().try_into().map_err(|_| ciphertext::invalid())?;
        Ok(Secret::new(plaintext))
    }
}
