//! From a caller and what must be allowed to yes or no.
//!
//! The caller's policies are found in one snapshot, their documents are parsed (or taken from the cache), and every
//! target is decided. A session's own policies must allow too. `sts:AssumeRole` on a role is decided together with the
//! role's trust policy; on everything else, nothing reaches into another account.

use std::sync::Arc;
use terroir_action::{Caller, CallerKind, Target};
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, ErrorClass, Timestamp};

use crate::builtin;
use crate::evaluation::{Decision, Document, DocumentKind, Keys, Principal, Question, Trust, decide, decide_trust};
use crate::model::{Grants, Group, ManagedPolicy, PolicyDocument, Role, User};
use crate::names::{Entity, by_id, find};
use crate::ops::document_hash;
use crate::service::{Iam, RequestFacts};

/// Attempts to load a set of policies that is being changed.
const ATTEMPTS: usize = 4;
const ASSUME_ROLE: &str = "sts:AssumeRole";

/// Where the text of one policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Stored { account: AccountId, holder: String, hash: String },
    Text(String),
}

/// What one snapshot says of a caller.
#[derive(Default)]
struct Standing {
    identity: Vec<Source>,
    /// `aws:PrincipalTag/...`
    tags: terroir_resources::Tags,
    /// The role's ARN for a session, else the caller's own.
    principal_arn: Option<Arn>,
}

/// The parsed policies that apply to a request.
struct Applicable {
    identity: Vec<Arc<Document>>,
    session: Vec<Arc<Document>>,
    /// For `sts:AssumeRole`: per target, the role and its trust policy.
    trust: Vec<Option<(Arc<Role>, Arc<Document>)>>,
    standing: Standing,
}

impl Iam {
    /// Whether the caller may do everything in `targets`.
    ///
    /// # Errors
    /// `AccessDenied` of class `Denied`, with AWS's wording.
    pub async fn authorize(&self, caller: &Caller, targets: &[Target], facts: &RequestFacts) -> Result<(), Error> {
        if targets.is_empty() {
            return Ok(());
        }
        let txn = self.store().read().await?;
        self.authorize_in(&txn, caller, targets, facts).await
    }

    /// As [`Iam::authorize`], in a snapshot that the caller has.
    pub async fn authorize_in(
        &self,
        txn: &Txn,
        caller: &Caller,
        targets: &[Target],
        facts: &RequestFacts,
    ) -> Result<(), Error> {
        let applicable = self.applicable(txn, caller, targets).await?;
        for (target, trust) in targets.iter().zip(&applicable.trust) {
            let keys = condition_keys(caller, &applicable.standing, target, facts);
            let resource = target.resource.as_ref().map_or("*", Arn::as_str);
            let question = Question { action: &target.permission, resource, keys: &keys };
            if target.permission == ASSUME_ROLE {
                assume_role(caller, &applicable, trust.as_ref(), target, question)?;
            } else {
                usual(caller, &applicable, target, question)?;
            }
        }
        Ok(())
    }

    /// Whether a role's trust policy lets this service become it.
    pub(crate) async fn trusts_service(&self, role: &Role, service: &str) -> Result<bool, Error> {
        let Some(document) = self.document(DocumentKind::Trust, &trust_source(role)).await? else { return Ok(false) };
        let mut keys = Keys::default();
        keys.set_one("aws:CurrentTime", self.now().to_rfc3339_seconds());
        let arn = role.arn();
        let question = Question { action: ASSUME_ROLE, resource: arn.as_str(), keys: &keys };
        Ok(decide_trust(&document, Principal::Service(service), question) == Trust::Direct)
    }

    async fn applicable(&self, txn: &Txn, caller: &Caller, targets: &[Target]) -> Result<Applicable, Error> {
        let mut newer: Option<Txn> = None;
        'attempt: for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                newer = Some(self.store().read().await?);
            }
            let txn = newer.as_ref().unwrap_or(txn);
            let standing = standing(txn, caller)?;
            let mut roles = Vec::with_capacity(targets.len());
            for target in targets {
                roles.push(trusting_role(txn, target)?);
            }
            let mut identity = Vec::with_capacity(standing.identity.len());
            for source in &standing.identity {
                match self.document(DocumentKind::Identity, source).await? {
                    Some(document) => identity.push(document),
                    None => continue 'attempt,
                }
            }
            let mut trust = Vec::with_capacity(targets.len());
            for role in roles {
                match role {
                    None => trust.push(None),
                    Some(role) => match self.document(DocumentKind::Trust, &trust_source(&role)).await? {
                        Some(document) => trust.push(Some((role, document))),
                        None => continue 'attempt,
                    },
                }
            }
            let session = match &caller.kind {
                CallerKind::AssumedRole { policies, .. } => policies
                    .iter()
                    .map(|text| self.parsed(DocumentKind::Identity, &document_hash(text), text))
                    .collect::<Result<_, _>>()?,
                CallerKind::Root | CallerKind::User { .. } => Vec::new(),
            };
            return Ok(Applicable { identity, session, trust, standing });
        }
        Err(Error::unavailable("The caller's policies are being changed. Try again later."))
    }

    /// `None`: the document was replaced after the snapshot that named it.
    async fn document(&self, kind: DocumentKind, source: &Source) -> Result<Option<Arc<Document>>, Error> {
        match source {
            Source::Text(text) => self.parsed(kind, &document_hash(text), text).map(Some),
            Source::Stored { account, holder, hash } => {
                if let Some(document) = self.cached_document(kind, hash) {
                    return Ok(Some(document));
                }
                let key = PolicyDocument::key(*account, holder, hash);
                match self.store().get_direct::<PolicyDocument>(&key).await? {
                    Some((document, _)) => self.parsed(kind, hash, &document.tenant.text).map(Some),
                    None => Ok(None),
                }
            }
        }
    }
}

fn standing(txn: &Txn, caller: &Caller) -> Result<Standing, Error> {
    let mut standing = Standing { principal_arn: Some(caller.arn.clone()), ..Standing::default() };
    match &caller.kind {
        CallerKind::Root => {}
        CallerKind::User { .. } => {
            let Some(user) = by_id::<User>(txn, caller.account, &caller.user_id)? else { return Ok(standing) };
            standing.tags = user.tenant.tags.clone();
            collect(txn, caller.account, &user.id, &user.tenant.grants, &mut standing.identity)?;
            for group in &user.groups {
                if let Some(group) = by_id::<Group>(txn, caller.account, group)? {
                    collect(txn, caller.account, &group.id, &group.tenant.grants, &mut standing.identity)?;
                }
            }
        }
        CallerKind::AssumedRole { .. } => {
            let id = caller.user_id.split(':').next().unwrap_or_default();
            let Some(role) = by_id::<Role>(txn, caller.account, id)? else { return Ok(standing) };
            standing.tags = role.tenant.about.tags.clone();
            standing.principal_arn = Some(role.arn());
            collect(txn, caller.account, &role.id, &role.tenant.about.grants, &mut standing.identity)?;
        }
    }
    Ok(standing)
}

fn collect(txn: &Txn, account: AccountId, holder: &str, grants: &Grants, into: &mut Vec<Source>) -> Result<(), Error> {
    for policy in grants.inline.values() {
        into.push(Source::Stored { account, holder: holder.to_owned(), hash: policy.hash.clone() });
    }
    for id in &grants.attached {
        if let Some(policy) = builtin::by_id(id) {
            into.push(Source::Text(policy.document.to_owned()));
        } else if let Some(policy) = by_id::<ManagedPolicy>(txn, account, id)? {
            into.push(Source::Stored { account, holder: policy.id.clone(), hash: policy.document.clone() });
        }
    }
    Ok(())
}

fn trust_source(role: &Role) -> Source {
    Source::Stored { account: role.account, holder: role.id.clone(), hash: role.trust.clone() }
}

/// The role that an `sts:AssumeRole` target names, if there is such a role.
fn trusting_role(txn: &Txn, target: &Target) -> Result<Option<Arc<Role>>, Error> {
    let Some(arn) = target.resource.as_ref().filter(|_| target.permission == ASSUME_ROLE) else { return Ok(None) };
    match role_by_arn(txn, arn) {
        Ok(role) => Ok(Some(role)),
        Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Errors: `NoSuchEntity`.
pub(crate) fn role_by_arn(txn: &Txn, arn: &Arn) -> Result<Arc<Role>, Error> {
    let name = arn.resource().strip_prefix("role/").and_then(|rest| rest.rsplit('/').next()).unwrap_or_default();
    let Some(account) = arn.account() else { return Err(Role::unknown(name)) };
    let role = find::<Role>(txn, account, name)?;
    if role.arn() == *arn { Ok(role) } else { Err(Role::unknown(name)) }
}

fn condition_keys(caller: &Caller, standing: &Standing, target: &Target, facts: &RequestFacts) -> Keys {
    let mut keys = Keys::default();
    for (name, values) in &target.keys {
        keys.set(name, values.iter().cloned());
    }
    let service = target.permission.split(':').next().unwrap_or_default();
    for (tag, value) in &target.resource_tags {
        keys.set_one(&format!("aws:ResourceTag/{tag}"), value);
        keys.set_one(&format!("{service}:ResourceTag/{tag}"), value);
    }
    for (tag, value) in &standing.tags {
        keys.set_one(&format!("aws:PrincipalTag/{tag}"), value);
    }
    if let Some(address) = facts.source_ip {
        keys.set_one("aws:SourceIp", address.to_canonical().to_string());
    }
    if let Some(agent) = &facts.user_agent {
        keys.set_one("aws:UserAgent", agent);
    }
    if let Some(arn) = &standing.principal_arn {
        keys.set_one("aws:PrincipalArn", arn.as_str());
    }
    let kind = match &caller.kind {
        CallerKind::Root => "Account",
        CallerKind::User { name } => {
            keys.set_one("aws:username", name);
            "User"
        }
        CallerKind::AssumedRole { .. } => "AssumedRole",
    };
    keys.set_one("aws:PrincipalType", kind);
    keys.set_one("aws:userid", &caller.user_id);
    keys.set_one("aws:PrincipalAccount", caller.account.to_string());
    keys.set_one("aws:PrincipalIsAWSService", "false");
    keys.set_one("aws:RequestedRegion", &facts.region);
    keys.set_one("aws:SecureTransport", facts.secure.to_string());
    set_time(&mut keys, facts.now);
    if service == "ec2" {
        keys.set_one("ec2:Region", &facts.region);
    }
    keys
}

fn set_time(keys: &mut Keys, now: Timestamp) {
    keys.set_one("aws:CurrentTime", now.to_rfc3339_seconds());
    keys.set_one("aws:EpochTime", now.secs().to_string());
}

/// Why something is not allowed; the words are AWS's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    NoIdentityPolicy,
    NoSessionPolicy,
    NoResourcePolicy,
    ExplicitIdentity,
    ExplicitSession,
    ExplicitTrust,
    RootAssumesRole,
}

fn denied(caller: &Caller, target: &Target, reason: Reason) -> Error {
    let action = &target.permission;
    let because = match reason {
        Reason::NoIdentityPolicy => format!("because no identity-based policy allows the {action} action"),
        Reason::NoSessionPolicy => format!("because no session policy allows the {action} action"),
        Reason::NoResourcePolicy => format!("because no resource-based policy allows the {action} action"),
        Reason::ExplicitIdentity => "with an explicit deny in an identity-based policy".to_owned(),
        Reason::ExplicitSession => "with an explicit deny in a session policy".to_owned(),
        Reason::ExplicitTrust => "with an explicit deny in a resource-based policy".to_owned(),
        Reason::RootAssumesRole => {
            return Error::new(ErrorClass::Denied, "AccessDenied", "Roles may not be assumed by root accounts.");
        }
    };
    let resource = target.resource.as_ref().map(|arn| format!(" on resource: {arn}")).unwrap_or_default();
    let message = format!("User: {} is not authorized to perform: {action}{resource} {because}", caller.arn);
    Error::new(ErrorClass::Denied, "AccessDenied", message)
}

/// What the caller's own policies say, and its session's.
fn own_decision(caller: &Caller, applicable: &Applicable, question: Question<'_>) -> Result<(), Reason> {
    if caller.kind == CallerKind::Root {
        return Ok(());
    }
    let identity = decide(applicable.identity.iter().map(|document| &**document), question);
    if identity == Decision::ExplicitDeny {
        return Err(Reason::ExplicitIdentity);
    }
    for document in &applicable.session {
        match decide([&**document], question) {
            Decision::ExplicitDeny => return Err(Reason::ExplicitSession),
            Decision::ImplicitDeny => return Err(Reason::NoSessionPolicy),
            Decision::Allow => {}
        }
    }
    if identity == Decision::Allow { Ok(()) } else { Err(Reason::NoIdentityPolicy) }
}

fn is_foreign(caller: &Caller, target: &Target) -> bool {
    target.resource.as_ref().and_then(Arn::account).is_some_and(|account| account != caller.account)
}

fn usual(caller: &Caller, applicable: &Applicable, target: &Target, question: Question<'_>) -> Result<(), Error> {
    own_decision(caller, applicable, question).map_err(|reason| denied(caller, target, reason))?;
    if is_foreign(caller, target) { Err(denied(caller, target, Reason::NoResourcePolicy)) } else { Ok(()) }
}

/// A trust policy that names the caller itself is enough inside an account; one that names its account, or one of
/// another account, wants the caller's own policies to allow as well.
fn assume_role(
    caller: &Caller,
    applicable: &Applicable,
    trust: Option<&(Arc<Role>, Arc<Document>)>,
    target: &Target,
    question: Question<'_>,
) -> Result<(), Error> {
    let refuse = |reason| Err(denied(caller, target, reason));
    if caller.kind == CallerKind::Root {
        return refuse(Reason::RootAssumesRole);
    }
    let own = own_decision(caller, applicable, question);
    if let Err(reason @ (Reason::ExplicitIdentity | Reason::ExplicitSession | Reason::NoSessionPolicy)) = own {
        return refuse(reason);
    }
    let arn = applicable.standing.principal_arn.as_ref().unwrap_or(&caller.arn);
    let session = matches!(caller.kind, CallerKind::AssumedRole { .. }).then_some(caller.arn.as_str());
    let id = caller.user_id.split(':').next().unwrap_or_default();
    let trust = trust.map_or(Trust::ImplicitDeny, |(role, document)| {
        // A name that was freed and taken again is not the principal that was trusted.
        let known = |arn: &str| role.tenant.trusted.get(arn).is_some_and(|trusted| trusted == id);
        let principal = Principal::Aws {
            account: caller.account,
            arn: if known(arn.as_str()) { arn.as_str() } else { "" },
            session: session.filter(|arn| known(arn)),
        };
        decide_trust(document, principal, question)
    });
    match (trust, own) {
        (Trust::ExplicitDeny, _) => refuse(Reason::ExplicitTrust),
        (Trust::Direct, _) if !is_foreign(caller, target) => Ok(()),
        (Trust::Direct | Trust::ThroughAccount, Ok(())) => Ok(()),
        (_, Err(reason)) => refuse(reason),
        (Trust::ImplicitDeny, Ok(())) => refuse(Reason::NoResourcePolicy),
    }
}
