//! From a caller and what must be allowed to yes or no.
//!
//! The caller's policies are found in one snapshot, their documents are parsed (or taken from the cache), and every
//! target is judged ([`crate::evaluation::judge`]) together with the policy of its resource: the one that the target
//! carries, or, for `sts:AssumeRole` and its like, the role's trust policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_action::{Caller, CallerKind, Grantee, ResourcePolicy, Target};
use terroir_resources::Tags;
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, ErrorClass};

use crate::authorization_message;
use crate::builtin;
use crate::evaluation::{
    Document, DocumentKind, Keys, Layer, Opinion, Place, Policies, Principal, Question, Reach, Reason, decide_resource,
    judge,
};
use crate::model::{Grants, Group, ManagedPolicy, PolicyDocument, Role, User};
use crate::names::{Entity, by_id, find};
use crate::ops::document_hash;
use crate::request_keys::{self, RequestFacts};
use crate::service::Iam;

/// Attempts to load a set of policies that is being changed.
const ATTEMPTS: usize = 4;
const ASSUME_ROLE: &str = "sts:AssumeRole";

/// Where the text of one policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Stored { account: AccountId, holder: String, hash: String },
    Builtin { hash: &'static str, text: &'static str },
}

/// What one snapshot says of a caller.
struct Standing {
    /// None: needs no policy.
    identity: Option<Vec<Source>>,
    boundary: Option<Source>,
    tags: Tags,
    /// The role's ARN for a session, else the caller's own.
    principal_arn: Arn,
    /// ARN and id of the user behind a federated session.
    user: Option<(Arn, String)>,
}

/// A resource's policy, parsed, with the ids of whom it names.
struct OfResource {
    document: Arc<Document>,
    known: BTreeMap<String, String>,
}

/// The parsed policies that apply to a request.
struct Applicable {
    identity: Option<Vec<Arc<Document>>>,
    boundary: Option<Arc<Document>>,
    session: Option<Vec<Arc<Document>>>,
    /// Per target.
    resources: Vec<Option<OfResource>>,
    standing: Standing,
}

/// See [`Iam::rule_in`].
#[derive(Debug, Clone)]
pub struct Ruling {
    /// `Err` of class `Denied`, with AWS's wording.
    pub allowed: Result<(), Error>,
    pub depends: bool,
}

impl Applicable {
    fn documents(&self) -> impl Iterator<Item = &Document> {
        let sets = [&self.identity, &self.session].into_iter().flatten().flatten();
        let resources = self.resources.iter().flatten().map(|of_resource| &of_resource.document);
        sets.chain(&self.boundary).chain(resources).map(|document| &**document)
    }
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
        if targets.is_empty() {
            return Ok(());
        }
        let applicable = self.applicable(txn, caller, targets).await?;
        self.decide(&applicable, caller, targets, facts)
    }

    fn decide(
        &self,
        applicable: &Applicable,
        caller: &Caller,
        targets: &[Target],
        facts: &RequestFacts,
    ) -> Result<(), Error> {
        for target in targets {
            check_session(caller, &target.permission)?;
        }
        let standing = &applicable.standing;
        let of_caller = request_keys::of_caller(caller, &standing.principal_arn, &standing.tags, facts);
        for (target, of_resource) in targets.iter().zip(&applicable.resources) {
            let mut keys = of_caller.clone();
            request_keys::add_target(&mut keys, target);
            decide_target(caller, applicable, target, of_resource.as_ref(), &keys)
                .map_err(|refusal| self.denied(caller, target, refusal, &keys))?;
        }
        Ok(())
    }

    /// As [`Iam::authorize_in`]; beside the decision says whether a policy that had a say depends on a condition key
    /// whose name begins with `prefix`, which is in lower case. What is costly to find out is then worth asking for.
    ///
    /// # Errors
    /// Those of the store; that the caller may not is no error here.
    pub async fn rule_in(
        &self,
        txn: &Txn,
        caller: &Caller,
        targets: &[Target],
        facts: &RequestFacts,
        prefix: &str,
    ) -> Result<Ruling, Error> {
        let applicable = self.applicable(txn, caller, targets).await?;
        let depends = applicable.documents().any(|document| document.asks_for(prefix));
        match self.decide(&applicable, caller, targets, facts) {
            Err(error) if error.class() != ErrorClass::Denied => Err(error),
            allowed => Ok(Ruling { allowed, depends }),
        }
    }

    /// Whether a role's trust policy lets this service become it.
    pub(crate) async fn trusts_service(&self, role: &Role, service: &str) -> Result<bool, Error> {
        let Some(document) = self.document(DocumentKind::Trust, &trust_source(role)).await? else { return Ok(false) };
        let caller = Caller::service(service);
        let facts = RequestFacts { now: self.now(), ..RequestFacts::default() };
        let keys = request_keys::of_caller(&caller, &caller.arn, &Tags::new(), &facts);
        let arn = role.arn();
        let question = Question { action: ASSUME_ROLE, resource: arn.as_str(), keys: &keys };
        let opinion = decide_resource(&document, &role.tenant.trusted, Principal::Service(service), question);
        Ok(opinion == Opinion::Allows(Reach::Caller))
    }

    async fn applicable(&self, txn: &Txn, caller: &Caller, targets: &[Target]) -> Result<Applicable, Error> {
        let mut newer: Option<Txn> = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                newer = Some(self.store().read().await?);
            }
            let txn = newer.as_ref().unwrap_or(txn);
            if let Some(applicable) = self.applicable_in(txn, caller, targets).await? {
                return Ok(applicable);
            }
        }
        Err(Error::unavailable("The caller's policies are being changed. Try again later."))
    }

    /// `None`: a document was replaced after the snapshot.
    async fn applicable_in(&self, txn: &Txn, caller: &Caller, targets: &[Target]) -> Result<Option<Applicable>, Error> {
        let standing = standing(txn, caller)?;
        let mut roles = Vec::with_capacity(targets.len());
        for target in targets {
            roles.push(trusting_role(txn, target)?);
        }
        let identity = match &standing.identity {
            None => None,
            Some(sources) => {
                let mut documents = Vec::with_capacity(sources.len());
                for source in sources {
                    let Some(document) = self.document(DocumentKind::Identity, source).await? else { return Ok(None) };
                    documents.push(document);
                }
                Some(documents)
            }
        };
        let boundary = match &standing.boundary {
            None => None,
            Some(source) => match self.document(DocumentKind::Identity, source).await? {
                Some(document) => Some(document),
                None => return Ok(None),
            },
        };
        let mut resources = Vec::with_capacity(targets.len());
        for (target, role) in targets.iter().zip(roles) {
            let of_resource = match (role, &target.policy) {
                (Some(role), _) => match self.document(DocumentKind::Trust, &trust_source(&role)).await? {
                    Some(document) => Some(OfResource { document, known: role.tenant.trusted.clone() }),
                    None => return Ok(None),
                },
                (None, Some(policy)) => {
                    let document = self.parsed(DocumentKind::Resource, &policy.hash, &policy.text)?;
                    Some(OfResource { document, known: policy.principals.clone() })
                }
                (None, None) => None,
            };
            resources.push(of_resource);
        }
        let session = session_texts(caller)
            .map(|texts| {
                let parse = |text: &String| self.parsed(DocumentKind::Identity, &document_hash(text), text);
                texts.iter().map(parse).collect::<Result<Vec<_>, _>>()
            })
            .transpose()?;
        Ok(Some(Applicable { identity, boundary, session, resources, standing }))
    }

    /// `None`: the document was replaced after the snapshot that named it.
    async fn document(&self, kind: DocumentKind, source: &Source) -> Result<Option<Arc<Document>>, Error> {
        match source {
            Source::Builtin { hash, text } => self.parsed(kind, hash, text).map(Some),
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

/// Whether the policy of a resource by itself lets the caller do something there, or lets its account decide; conditions
/// that need more than the caller and the resource do not hold. A key's policy is asked this before it is taken.
///
/// Errors: `Internal` for a policy that was never checked.
pub fn policy_admits(
    txn: &Txn,
    caller: &Caller,
    policy: &ResourcePolicy,
    permission: &str,
    resource: &Arn,
    facts: &RequestFacts,
) -> Result<bool, Error> {
    let document = Document::parse(&policy.text, DocumentKind::Resource).map_err(Error::internal)?;
    let standing = standing(txn, caller)?;
    let mut keys = request_keys::of_caller(caller, &standing.principal_arn, &standing.tags, facts);
    request_keys::add_target(&mut keys, &Target::on(permission, resource.clone()));
    let question = Question { action: permission, resource: resource.as_str(), keys: &keys };
    let opinion = decide_resource(&document, &policy.principals, principal(caller, &standing), question);
    Ok(matches!(opinion, Opinion::Allows(reach) if reach > Reach::Nobody))
}

/// Names by which a list of grants may mean a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerName {
    pub arn: String,
    /// Of the user or role that has the ARN now; somebody else may have had it before.
    pub id: Option<String>,
    /// None: the name is the account's, which must itself allow the caller.
    pub means: Option<Grantee>,
}

/// All names of a caller, nearest first.
///
/// Errors: those of the store.
pub fn caller_names(txn: &Txn, caller: &Caller) -> Result<Vec<CallerName>, Error> {
    let standing = standing(txn, caller)?;
    let name =
        |arn: &str, id: Option<&str>, means| CallerName { arn: arn.to_owned(), id: id.map(str::to_owned), means };
    let of_account = |account| name(Arn::iam(account, "root").as_str(), None, None);
    let itself = Some(Grantee::Caller);
    Ok(match principal(caller, &standing) {
        Principal::Root(account) => vec![name(Arn::iam(account, "root").as_str(), None, itself)],
        Principal::User { account, arn, id } => vec![name(arn, Some(id), itself), of_account(account)],
        Principal::Role { account, arn, id, session } => {
            vec![name(session, Some(id), itself), name(arn, Some(id), Some(Grantee::Role)), of_account(account)]
        }
        Principal::Federated { account, arn, user } => {
            let behind = user.map(|(arn, id)| name(arn, Some(id), Some(Grantee::Role)));
            [Some(name(arn, None, itself)), behind, Some(of_account(account))].into_iter().flatten().collect()
        }
        Principal::Service(service) => vec![name(service, None, itself)],
        Principal::Web(_) | Principal::Anonymous => vec![],
    })
}

/// The policies that a session was given; none: it has no limits of its own.
fn session_texts(caller: &Caller) -> Option<&[String]> {
    match &caller.kind {
        CallerKind::AssumedRole { policies, .. } => Some(policies.as_slice()).filter(|policies| !policies.is_empty()),
        CallerKind::FederatedUser { policies, .. } => Some(policies),
        CallerKind::Root
        | CallerKind::User { .. }
        | CallerKind::WebIdentity { .. }
        | CallerKind::Service { .. }
        | CallerKind::Anonymous => None,
    }
}

fn standing(txn: &Txn, caller: &Caller) -> Result<Standing, Error> {
    let mut standing = Standing {
        identity: Some(Vec::new()),
        boundary: None,
        tags: Tags::new(),
        principal_arn: caller.arn.clone(),
        user: None,
    };
    match &caller.kind {
        CallerKind::Root | CallerKind::FederatedUser { user: None, .. } => standing.identity = None,
        CallerKind::User { .. } => of_user(txn, caller.account, &caller.user_id, &mut standing)?,
        CallerKind::FederatedUser { user: Some(id), .. } => of_user(txn, caller.account, id, &mut standing)?,
        CallerKind::AssumedRole { .. } => {
            let id = entity_id(caller);
            if let Some(role) = by_id::<Role>(txn, caller.account, id)? {
                let about = &role.tenant.about;
                standing.tags = about.tags.clone();
                standing.principal_arn = role.arn();
                standing.boundary = boundary(txn, caller.account, &about.grants)?;
                collect(txn, caller.account, &role.id, &about.grants, standing.identity.get_or_insert_default())?;
            }
        }
        CallerKind::WebIdentity { .. } | CallerKind::Service { .. } | CallerKind::Anonymous => {}
    }
    if let Some(session) = &caller.session {
        // Tags of people and roles are the same whatever their case.
        standing.tags.retain(|key, _| !session.tags.keys().any(|own| own.eq_ignore_ascii_case(key)));
        standing.tags.extend(session.tags.clone());
    }
    Ok(standing)
}

/// The id of the user or role that a caller is, or is a session of.
fn entity_id(caller: &Caller) -> &str {
    caller.user_id.split(':').next().unwrap_or_default()
}

fn of_user(txn: &Txn, account: AccountId, id: &str, standing: &mut Standing) -> Result<(), Error> {
    let Some(user) = by_id::<User>(txn, account, id)? else { return Ok(()) };
    standing.tags = user.tenant.tags.clone();
    standing.user = Some((user.arn(), user.id.clone()));
    standing.boundary = boundary(txn, account, &user.tenant.grants)?;
    let identity = standing.identity.get_or_insert_default();
    collect(txn, account, &user.id, &user.tenant.grants, identity)?;
    for group in &user.groups {
        if let Some(group) = by_id::<Group>(txn, account, group)? {
            collect(txn, account, &group.id, &group.tenant.grants, identity)?;
        }
    }
    Ok(())
}

fn collect(txn: &Txn, account: AccountId, holder: &str, grants: &Grants, into: &mut Vec<Source>) -> Result<(), Error> {
    for policy in grants.inline.values() {
        into.push(Source::Stored { account, holder: holder.to_owned(), hash: policy.hash.clone() });
    }
    for id in &grants.attached {
        into.extend(managed(txn, account, id)?);
    }
    Ok(())
}

fn managed(txn: &Txn, account: AccountId, id: &str) -> Result<Option<Source>, Error> {
    if let Some((policy, hash)) = builtin::with_hash(id) {
        return Ok(Some(Source::Builtin { hash, text: policy.document }));
    }
    let policy = by_id::<ManagedPolicy>(txn, account, id)?;
    Ok(policy.map(|policy| Source::Stored { account, holder: policy.id.clone(), hash: policy.document.clone() }))
}

fn boundary(txn: &Txn, account: AccountId, grants: &Grants) -> Result<Option<Source>, Error> {
    let Some(id) = &grants.boundary else { return Ok(None) };
    // A boundary cannot be deleted while it is in use. Without it nothing would be limited.
    let found = managed(txn, account, id)?;
    found.map(Some).ok_or_else(|| Error::internal(format_args!("the permissions boundary {id} is missing")))
}

fn trust_source(role: &Role) -> Source {
    Source::Stored { account: role.account, holder: role.id.clone(), hash: role.trust.clone() }
}

/// Whether a target is about becoming a role, which the role's trust policy decides. Sessions that are not of roles are
/// tagged too.
fn is_about_trust(target: &Target) -> bool {
    let permission = target.permission.as_str();
    matches!(permission, ASSUME_ROLE | "sts:AssumeRoleWithWebIdentity" | "sts:TagSession" | "sts:SetSourceIdentity")
        && target.resource.as_ref().is_some_and(|arn| arn.service() == "iam")
}

/// The role that a target about trust names, if there is such a role.
fn trusting_role(txn: &Txn, target: &Target) -> Result<Option<Arc<Role>>, Error> {
    let Some(arn) = target.resource.as_ref().filter(|_| is_about_trust(target)) else { return Ok(None) };
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

/// Why the caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Policies(Reason),
    RootAssumesRole,
}

fn decide_target(
    caller: &Caller,
    applicable: &Applicable,
    target: &Target,
    of_resource: Option<&OfResource>,
    keys: &Keys,
) -> Result<(), Refusal> {
    let is_root = caller.kind == CallerKind::Root;
    if is_root && target.permission == ASSUME_ROLE {
        return Err(Refusal::RootAssumesRole);
    }
    let resource = target.resource.as_ref().map_or("*", Arn::as_str);
    let question = Question { action: &target.permission, resource, keys };
    let place = Place {
        same_account: target.account().is_none_or(|account| account == caller.account),
        policy_decides: target.policy_decides || is_about_trust(target),
        policy_only_denies: target.policy_only_denies,
        granted: target.granted,
        grantee: match target.grantee {
            None => Reach::Nobody,
            Some(Grantee::Role) => Reach::Role,
            Some(Grantee::Caller) => Reach::Caller,
        },
    };
    let policies = Policies {
        identity: applicable.identity.as_deref(),
        boundary: applicable.boundary.as_ref().map(std::slice::from_ref),
        session: applicable.session.as_deref(),
        resource: of_resource.map(|of_resource| (&*of_resource.document, &of_resource.known)),
    };
    judge(principal(caller, &applicable.standing), policies, place, question).map_err(Refusal::Policies)
}

fn principal<'a>(caller: &'a Caller, standing: &'a Standing) -> Principal<'a> {
    let account = caller.account;
    match &caller.kind {
        CallerKind::Root => Principal::Root(account),
        CallerKind::User { .. } => Principal::User { account, arn: caller.arn.as_str(), id: &caller.user_id },
        CallerKind::AssumedRole { .. } => Principal::Role {
            account,
            arn: standing.principal_arn.as_str(),
            id: entity_id(caller),
            session: caller.arn.as_str(),
        },
        CallerKind::FederatedUser { .. } => Principal::Federated {
            account,
            arn: caller.arn.as_str(),
            user: standing.user.as_ref().map(|(arn, id)| (arn.as_str(), id.as_str())),
        },
        CallerKind::WebIdentity { provider } => Principal::Web(provider),
        CallerKind::Service { name } => Principal::Service(name),
        CallerKind::Anonymous => Principal::Anonymous,
    }
}

/// What AWS keeps from sessions that a user began for itself or for others, whatever policies say: of IAM all without a
/// multi-factor code, and of STS nearly all ("Comparing the AWS STS API operations").
///
/// Errors: `InvalidClientTokenId`, `AccessDenied`.
fn check_session(caller: &Caller, permission: &str) -> Result<(), Error> {
    let Some(session) = &caller.session else { return Ok(()) };
    let (with_code, may_assume) = match caller.kind {
        CallerKind::Root | CallerKind::User { .. } => (session.mfa_at.is_some(), true),
        CallerKind::FederatedUser { .. } => (false, false),
        _ => return Ok(()),
    };
    // Passing a role is a permission of other services' actions.
    if permission.starts_with("iam:") && permission != "iam:PassRole" && !with_code {
        let message = "The security token included in the request is invalid";
        return Err(Error::new(ErrorClass::Denied, "InvalidClientTokenId", message));
    }
    let about_roles = matches!(permission, ASSUME_ROLE | "sts:TagSession" | "sts:SetSourceIdentity");
    match permission.strip_prefix("sts:") {
        Some(action) if !(may_assume && about_roles) => {
            let message = format!("Cannot call {action} with session credentials");
            Err(Error::new(ErrorClass::Denied, "AccessDenied", message))
        }
        _ => Ok(()),
    }
}

impl Iam {
    /// The words are AWS's. EC2's refusals carry, sealed, what was known of the request.
    fn denied(&self, caller: &Caller, target: &Target, refusal: Refusal, keys: &Keys) -> Error {
        let access_denied = |message: String| Error::new(ErrorClass::Denied, "AccessDenied", message);
        let reason = match refusal {
            Refusal::RootAssumesRole => {
                return access_denied("Roles may not be assumed by root accounts.".to_owned());
            }
            Refusal::Policies(_) if caller.kind == CallerKind::Anonymous => {
                return access_denied("Access Denied".to_owned());
            }
            Refusal::Policies(reason) => reason,
        };
        let noun = |layer| match layer {
            Layer::Identity => ("an", "identity-based policy"),
            Layer::Boundary => ("a", "permissions boundary"),
            Layer::Session => ("a", "session policy"),
            Layer::Resource => ("a", "resource-based policy"),
        };
        let action = &target.permission;
        let because = match reason {
            Reason::Explicit(layer) => {
                let (article, noun) = noun(layer);
                format!("with an explicit deny in {article} {noun}")
            }
            Reason::Missing(layer) => format!("because no {} allows the {action} action", noun(layer).1),
        };
        let shown = target.shown.as_ref().or(target.resource.as_ref());
        let resource = shown.map(|arn| format!(" on resource: {arn}")).unwrap_or_default();
        let mut message = format!("User: {} is not authorized to perform: {action}{resource} {because}", caller.arn);
        if action.starts_with("ec2:") {
            let explicit = matches!(reason, Reason::Explicit(_));
            let ring = self.store().keys();
            if let Some(encoded) = authorization_message::encode(&**ring, caller, target, explicit, keys) {
                message.push_str(". Encoded authorization failure message: ");
                message.push_str(&encoded);
            }
        }
        access_denied(message)
    }
}
