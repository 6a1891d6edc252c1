//! The handle through which requests are authenticated and authorized, by the API server and by object storage alike.

use std::sync::Arc;
use std::time::Duration;
use terroir_action::{Caller, CallerKind, Session};
use terroir_store::{Store, Txn};
use terroir_types::{AccountId, Arn, Clock, Error, IdSource, Secret, Timestamp};

use crate::cache::RecentMap;
use crate::evaluation::{Document, DocumentKind};
use crate::model::{AccessKey, AccessKeyUse, InstanceProfile, Role, User};
use crate::names::{Entity, by_id, id_of};
use crate::ops;
use crate::session::{self, Claims, SESSION_KEY_PREFIX, SessionCredentials, Whose};

/// Why a caller could not be established. Each service has its own code for each.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthenticationError {
    /// No such access key, or it is inactive, or what it belonged to is gone.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// A session's key without its token, a token with a long-lived key, or a token that is not ours.
    #[error("The security token included in the request is invalid.")]
    InvalidToken,
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<terroir_store::StoreError> for AuthenticationError {
    fn from(error: terroir_store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Credentials of an instance's role.
#[derive(Debug, Clone)]
pub struct RoleCredentials {
    pub role_name: String,
    pub session: SessionCredentials,
}

const INSTANCE_SESSION: Duration = Duration::from_secs(12 * 3600);
/// How exactly the last use of an access key is recorded.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);
const CACHED_DOCUMENTS: usize = 4096;

/// Authenticates and authorizes. A cheap handle.
#[derive(Clone)]
pub struct Iam(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    documents: RecentMap<(DocumentKind, String), Arc<Document>>,
    /// Keys whose use was recorded lately, with when.
    used: RecentMap<String, Timestamp>,
    /// By caller's id: wrong codes of multi-factor devices in a row, and when the last one came.
    mfa_failures: RecentMap<String, (u32, Timestamp)>,
}

impl Iam {
    pub fn new(store: Store, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        let documents = RecentMap::new(CACHED_DOCUMENTS);
        let (used, mfa_failures) = (RecentMap::new(CACHED_DOCUMENTS), RecentMap::new(CACHED_DOCUMENTS));
        Self(Arc::new(Inner { store, clock, ids, documents, used, mfa_failures }))
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The secret that belongs to an access key id. For a session's key this says nothing of whether the session is
    /// valid: [`Iam::authenticate_session`] must follow, with the token.
    ///
    /// # Errors
    /// `UnknownKey`.
    pub async fn secret(&self, access_key_id: &str) -> Result<Secret<String>, AuthenticationError> {
        let txn = self.0.store.read().await?;
        self.secret_in(&txn, access_key_id)
    }

    /// As [`Iam::secret`], in a snapshot that the caller has.
    pub fn secret_in(&self, txn: &Txn, access_key_id: &str) -> Result<Secret<String>, AuthenticationError> {
        if access_key_id.starts_with(SESSION_KEY_PREFIX) {
            return Ok(session::secret(&**self.0.store.keys(), access_key_id));
        }
        Ok(self.active_key(txn, access_key_id)?.tenant.secret.clone())
    }

    fn active_key(&self, txn: &Txn, id: &str) -> Result<Arc<AccessKey>, AuthenticationError> {
        let plausible = id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let key = if plausible { txn.get::<AccessKey>(&AccessKey::key(id))? } else { None };
        key.filter(|key| key.active).ok_or(AuthenticationError::UnknownKey)
    }

    /// Who has this access key and token. The signature is checked apart, against [`Iam::secret`].
    ///
    /// # Errors
    /// `UnknownKey`, `InvalidToken`, `ExpiredToken`.
    pub async fn authenticate_session(
        &self,
        access_key_id: &str,
        token: Option<&str>,
    ) -> Result<Caller, AuthenticationError> {
        let txn = self.0.store.read().await?;
        self.authenticate_in(&txn, access_key_id, token)
    }

    /// As [`Iam::authenticate_session`], in a snapshot that the caller has.
    pub fn authenticate_in(
        &self,
        txn: &Txn,
        access_key_id: &str,
        token: Option<&str>,
    ) -> Result<Caller, AuthenticationError> {
        let token = token.filter(|token| !token.is_empty());
        if !access_key_id.starts_with(SESSION_KEY_PREFIX) {
            let key = self.active_key(txn, access_key_id)?;
            if token.is_some() {
                return Err(AuthenticationError::InvalidToken);
            }
            return match &key.user {
                None => root_caller(txn, key.account, access_key_id),
                Some(user) => user_caller(txn, key.account, user, access_key_id),
            };
        }
        let token = token.ok_or(AuthenticationError::InvalidToken)?;
        let claims =
            session::open(&**self.0.store.keys(), access_key_id, token).ok_or(AuthenticationError::InvalidToken)?;
        if self.0.clock.now() >= claims.expires_at {
            return Err(AuthenticationError::ExpiredToken);
        }
        let caller = match claims.whose {
            Whose::Root => root_caller(txn, claims.account, access_key_id)?,
            Whose::User(id) => user_caller(txn, claims.account, &id, access_key_id)?,
            Whose::Role { id, session } => {
                let role = by_id::<Role>(txn, claims.account, &id)?.ok_or(AuthenticationError::InvalidToken)?;
                role_caller(&role, session, claims.policies, access_key_id)
            }
            Whose::Federated { user, name } => {
                // It ends with whoever gave it.
                let giver = match &user {
                    Some(id) => user_caller(txn, claims.account, id, access_key_id)?,
                    None => root_caller(txn, claims.account, access_key_id)?,
                };
                federated_caller(giver, user, name, claims.policies)
            }
        };
        Ok(Caller { session: Some(Arc::new(claims.session)), ..caller })
    }

    /// Whether [`Iam::record_use`] would have nothing to do.
    pub fn use_is_recorded(&self, access_key_id: &str) -> bool {
        let recorded = |at| self.0.clock.now().since(at) < USE_GRANULARITY;
        access_key_id.starts_with(SESSION_KEY_PREFIX)
            || self.0.used.get(&access_key_id.to_owned()).is_some_and(recorded)
    }

    /// Records that a long-lived key was used, once an hour at most. Failure to do so fails nothing else.
    pub async fn record_use(&self, access_key_id: &str, service: &str, region: &str) {
        if self.use_is_recorded(access_key_id) {
            return;
        }
        let (id, now) = (access_key_id.to_owned(), self.0.clock.now());
        self.0.used.insert(id.clone(), now);
        let recorded = self
            .0
            .store
            .transact(&[], |txn| {
                let key = AccessKeyUse::key(&id);
                let known = txn.get::<AccessKey>(&AccessKey::key(&id))?.is_some();
                let fresh = txn.get::<AccessKeyUse>(&key)?.is_some_and(|last| now.since(last.at) < USE_GRANULARITY);
                if known && !fresh {
                    let last = AccessKeyUse { at: now, service: service.to_owned(), region: region.to_owned() };
                    txn.put(&key, &last)?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = recorded {
            tracing::warn!(%error, "the use of an access key was not recorded");
        }
    }

    /// A session, of which the caller has checked that it may begin. `policies` limit it further; the moment of issue is
    /// set here.
    pub(crate) fn issue(
        &self,
        account: AccountId,
        whose: Whose,
        policies: Vec<String>,
        session: Session,
        duration: Duration,
    ) -> Result<SessionCredentials, Error> {
        let now = self.0.clock.now();
        let session = Session { issued_at: now, ..session };
        let claims = Claims { account, whose, expires_at: now.plus(duration), policies, session };
        session::issue(&**self.0.store.keys(), &*self.0.ids, &claims)
    }

    /// Fresh credentials, valid for 12 hours, of the role in an instance profile (`AIPA...`); the session is named
    /// after the instance. None if the profile or its role is gone, or the role does not trust EC2.
    pub async fn role_credentials(
        &self,
        account: AccountId,
        profile_id: &str,
        instance: &str,
    ) -> Result<Option<RoleCredentials>, Error> {
        let txn = self.0.store.read().await?;
        let Some(profile) = by_id::<InstanceProfile>(&txn, account, profile_id)? else { return Ok(None) };
        let Some(role) = ops::role_of_profile(&txn, &profile)? else { return Ok(None) };
        if !self.trusts_service(&role, "ec2.amazonaws.com").await? {
            return Ok(None);
        }
        let whose = Whose::Role { id: role.id.clone(), session: instance.to_owned() };
        let session = Session { instance: Some(instance.to_owned()), ..Session::default() };
        let session = self.issue(account, whose, Vec::new(), session, INSTANCE_SESSION)?;
        Ok(Some(RoleCredentials { role_name: role.name().to_owned(), session }))
    }

    /// Who a service of this cloud is while it acts as a role that trusts it, for example S3 when it replicates. None if
    /// there is no such role, or it does not trust the service.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn assumed_by_service(
        &self,
        txn: &Txn,
        role: &Arn,
        service: &str,
        session: &str,
    ) -> Result<Option<Caller>, Error> {
        let Some(account) = role.account() else { return Ok(None) };
        let name = role.resource().rsplit('/').next().unwrap_or_default();
        let Some(id) = id_of::<Role>(txn, account, name)? else { return Ok(None) };
        let found = by_id::<Role>(txn, account, &id)?.filter(|found| found.arn() == *role);
        let Some(found) = found else { return Ok(None) };
        if !self.trusts_service(&found, service).await? {
            return Ok(None);
        }
        Ok(Some(role_caller(&found, session.to_owned(), Vec::new(), "")))
    }

    pub(crate) fn cached_document(&self, kind: DocumentKind, hash: &str) -> Option<Arc<Document>> {
        self.0.documents.get(&(kind, hash.to_owned()))
    }

    /// The parsed form of a text, from the cache if it is there.
    pub(crate) fn parsed(&self, kind: DocumentKind, hash: &str, text: &str) -> Result<Arc<Document>, Error> {
        if let Some(document) = self.cached_document(kind, hash) {
            return Ok(document);
        }
        // Documents are checked when they are written; one that no longer parses must not count as an empty one.
        let document = Document::parse(text, kind)
            .map_err(|error| Error::internal(format_args!("the stored policy {hash} does not parse: {error}")))?;
        let document = Arc::new(document);
        self.0.documents.insert((kind, hash.to_owned()), Arc::clone(&document));
        Ok(document)
    }

    pub(crate) fn mfa_failures(&self) -> &RecentMap<String, (u32, Timestamp)> {
        &self.0.mfa_failures
    }

    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

fn root_caller(txn: &Txn, account: AccountId, access_key_id: &str) -> Result<Caller, AuthenticationError> {
    let root = ops::account(txn, account)?.ok_or(AuthenticationError::UnknownKey)?;
    Ok(Caller {
        account,
        arn: root.arn(),
        user_id: account.to_string(),
        access_key_id: access_key_id.to_owned(),
        kind: CallerKind::Root,
        session: None,
    })
}

fn user_caller(txn: &Txn, account: AccountId, id: &str, access_key_id: &str) -> Result<Caller, AuthenticationError> {
    let user = by_id::<User>(txn, account, id)?.ok_or(AuthenticationError::UnknownKey)?;
    Ok(Caller {
        account,
        arn: user.arn(),
        user_id: user.id.clone(),
        access_key_id: access_key_id.to_owned(),
        kind: CallerKind::User { name: user.name().to_owned() },
        session: None,
    })
}

fn role_caller(role: &Role, session: String, policies: Vec<String>, access_key_id: &str) -> Caller {
    Caller {
        account: role.account,
        arn: session_arn(role, &session),
        user_id: format!("{}:{session}", role.id),
        access_key_id: access_key_id.to_owned(),
        kind: CallerKind::AssumedRole { role: role.name().to_owned(), session, policies },
        session: None,
    }
}

fn federated_caller(giver: Caller, user: Option<String>, name: String, policies: Vec<String>) -> Caller {
    Caller {
        arn: Arn::new("sts", "", Some(giver.account), format_args!("federated-user/{name}")),
        user_id: format!("{}:{name}", giver.account),
        kind: CallerKind::FederatedUser { user, name, policies },
        ..giver
    }
}

pub(crate) fn session_arn(role: &Role, session: &str) -> Arn {
    Arn::new("sts", "", Some(role.account), format_args!("assumed-role/{}/{session}", role.name()))
}
