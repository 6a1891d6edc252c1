//! Simulations: what policies would decide, without anything being done.

use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use terroir_action::{Access, Action, Context, LiveAction, LiveContext, Registry, Request, Response, Target};
use terroir_aws_model::{Decode, PageRequest, iam};
use terroir_store::Txn;
use terroir_types::{AccountId, Arn, Error, Timestamp};
use tokio::task::spawn_blocking;

use super::page::page;
use super::targets;
use crate::evaluation::{
    Decision, Document, DocumentKind, Keys, Malformed, Place, Policies, Position, Principal, Question, Reason,
    context_keys, decide, judge, matching, statement_spans,
};
use crate::model::{Role, User};
use crate::names::{Entity, find};
use crate::ops::Holder;
use crate::policies_of::{NamedPolicy, holder_of_arn};
use crate::service::Iam;

pub(super) fn register(registry: &mut Registry, iam: &Iam) {
    registry.add_live(SimulatePrincipalPolicy(iam.clone()));
    registry.add_live(SimulateCustomPolicy);
    registry.add_live(GetContextKeysForPrincipalPolicy(iam.clone()));
    registry.add::<GetContextKeysForCustomPolicy>();
}

/// Most pairs of an action and a resource in one request.
const MAX_QUESTIONS: usize = 10_000;

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("InvalidInput", message)
}

/// A document that takes part, with what answers call it.
struct Part {
    id: String,
    source: &'static str,
    document: Arc<Document>,
    spans: Vec<(Position, Position)>,
}

impl Part {
    fn parse(id: String, source: &'static str, text: &str, kind: DocumentKind) -> Result<Self, Error> {
        let document = Document::parse(text, kind)
            .map_err(|Malformed(reason)| invalid(format!("The policy {id} is invalid: {reason}")))?;
        Ok(Self { id, source, document: Arc::new(document), spans: statement_spans(text) })
    }

    fn statement(&self, index: usize) -> iam::Statement {
        let place = |position: &Position| iam::Position {
            line: i32::try_from(position.line).ok(),
            column: i32::try_from(position.column).ok(),
        };
        let span = self.spans.get(index);
        iam::Statement {
            source_policy_id: Some(self.id.clone()),
            source_policy_type: Some(self.source.to_owned()),
            start_position: span.map(|(start, _)| place(start)),
            end_position: span.map(|(_, end)| place(end)),
        }
    }
}

/// Who is pretended to ask.
#[derive(Clone, Default)]
struct Pretended {
    account: Option<AccountId>,
    arn: String,
    id: String,
    /// Condition keys that a request of its would have.
    keys: Keys,
}

/// A whole simulation.
struct Simulation {
    identity: Vec<Part>,
    boundary: Vec<Part>,
    resource: Option<Part>,
    caller: Pretended,
    owner: Option<AccountId>,
    keys: Keys,
    /// Keys that the policies speak of and that have no value.
    missing: Vec<String>,
    actions: Vec<String>,
    resources: Vec<String>,
}

/// What both requests have in common.
#[derive(Debug)]
struct Asked<'a> {
    actions: &'a [String],
    resources: &'a [String],
    inputs: &'a [String],
    boundaries: &'a [String],
    resource_policy: Option<&'a String>,
    owner: Option<&'a String>,
    entries: &'a [iam::ContextEntry],
    handling: Option<&'a String>,
}

impl Asked<'_> {
    /// What a page token is bound to.
    fn scope(&self, source: &str) -> String {
        crate::ops::document_hash(&format!("{source} {self:?}"))
    }
}

fn inputs(list: &str, texts: &[String]) -> Result<Vec<Part>, Error> {
    let numbered = texts.iter().enumerate();
    numbered
        .map(|(index, text)| Part::parse(format!("{list}.{}", index + 1), "none", text, DocumentKind::Identity))
        .collect()
}

fn check_action(action: &str) -> Result<(), Error> {
    let well_formed = action.split_once(':').is_some_and(|(vendor, name)| {
        let plain = |text: &str, more: &[u8]| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        plain(vendor, b"-") && plain(name, b"*")
    });
    if well_formed { Ok(()) } else { Err(invalid(format!("Invalid Entity Action: {action}"))) }
}

const CONTEXT_TYPES: [&str; 12] = [
    "string",
    "stringList",
    "numeric",
    "numericList",
    "boolean",
    "booleanList",
    "ip",
    "ipList",
    "binary",
    "binaryList",
    "date",
    "dateList",
];

fn check_entry(entry: &iam::ContextEntry) -> Result<(&str, &[String]), Error> {
    let name = entry.context_key_name.as_deref().filter(|name| name.contains(':'));
    let name = name.ok_or_else(|| invalid("A context entry must have a key name with a prefix."))?;
    let kind = entry.context_key_type.as_deref().unwrap_or_default();
    if !CONTEXT_TYPES.contains(&kind) {
        return Err(invalid(format!("The context key {name} has an unknown type.")));
    }
    let values = entry.context_key_values.as_slice();
    if !kind.ends_with("List") && values.len() > 1 {
        return Err(invalid(format!("The context key {name} of type {kind} must have one value.")));
    }
    Ok((name, values))
}

const HANDLING: [&str; 6] = [
    "EC2-Classic-InstanceStore",
    "EC2-Classic-EBS",
    "EC2-VPC-InstanceStore",
    "EC2-VPC-InstanceStore-Subnet",
    "EC2-VPC-EBS",
    "EC2-VPC-EBS-Subnet",
];

impl Simulation {
    fn new(
        asked: &Asked<'_>,
        mut identity: Vec<Part>,
        own_boundary: Vec<Part>,
        own_texts: &[String],
        caller: Pretended,
        now: Timestamp,
    ) -> Result<Self, Error> {
        asked.actions.iter().try_for_each(|action| check_action(action))?;
        if asked.handling.is_some_and(|option| !HANDLING.contains(&option.as_str())) {
            return Err(invalid("Invalid Resource Handling Option."));
        }
        if asked.resource_policy.is_some() && caller.account.is_none() {
            return Err(invalid("A resource policy needs a CallerArn, which must be a user's."));
        }
        let resources = if asked.resources.is_empty() { vec!["*".to_owned()] } else { asked.resources.to_vec() };
        if asked.actions.len().saturating_mul(resources.len()) > MAX_QUESTIONS {
            return Err(invalid(format!("More than {MAX_QUESTIONS} pairs of action and resource.")));
        }
        if let Some(wrong) = resources.iter().find(|resource| *resource != "*" && Arn::parse(resource).is_err()) {
            return Err(invalid(format!("Invalid Entity Resource: {wrong}")));
        }
        identity.extend(inputs("PolicyInputList", asked.inputs)?);
        let boundary = match asked.boundaries {
            [] => own_boundary,
            given => inputs("PermissionsBoundaryPolicyInputList", given)?,
        };
        let resource = match asked.resource_policy {
            Some(text) => Some(Part::parse("ResourcePolicy".to_owned(), "resource", text, DocumentKind::Resource)?),
            None => None,
        };
        let mut keys = caller.keys.clone();
        keys.set_one("aws:CurrentTime", now.to_rfc3339_seconds());
        keys.set_one("aws:EpochTime", now.secs().to_string());
        for entry in asked.entries {
            let (name, values) = check_entry(entry)?;
            keys.set(name, values.iter().cloned());
        }
        let texts = own_texts.iter().chain(asked.inputs).chain(asked.boundaries).chain(asked.resource_policy);
        let mut missing = BTreeSet::new();
        for text in texts {
            let named = context_keys(text).map_err(|Malformed(reason)| invalid(reason))?;
            missing.extend(named.into_iter().filter(|key| keys.get(key).is_none()));
        }
        let owner = match asked.owner {
            None => caller.account,
            Some(text) => Some(account_of(text)?),
        };
        Ok(Self {
            identity,
            boundary,
            resource,
            caller,
            owner,
            keys,
            missing: missing.into_iter().collect(),
            actions: asked.actions.to_vec(),
            resources,
        })
    }

    /// Each action with each resource.
    fn questions(&self) -> impl Iterator<Item = (String, String)> {
        self.actions
            .iter()
            .flat_map(|action| self.resources.iter().map(move |resource| (action.clone(), resource.clone())))
    }

    fn result(&self, action: &str, resource: &str) -> iam::EvaluationResult {
        let question = Question { action, resource, keys: &self.keys };
        let account = self.caller.account.unwrap_or(AccountId::NOBODY);
        let principal = Principal::User { account, arn: &self.caller.arn, id: &self.caller.id };
        let documents = |parts: &[Part]| parts.iter().map(|part| Arc::clone(&part.document)).collect::<Vec<_>>();
        let (identity, boundary, known) = (documents(&self.identity), documents(&self.boundary), BTreeMap::new());
        let owner = Arn::parse(resource).ok().and_then(|arn| arn.account()).or(self.owner);
        let place = Place {
            same_account: self.caller.account.is_none() || owner.is_none_or(|owner| owner == account),
            ..Place::default()
        };
        let boundary = Some(boundary.as_slice()).filter(|boundary| !boundary.is_empty());
        let policies = Policies {
            identity: Some(&identity),
            boundary,
            session: None,
            resource: self.resource.as_ref().map(|part| (&*part.document, &known)),
        };
        let decision = match judge(principal, policies, place, question) {
            Ok(()) => "allowed",
            Err(Reason::Explicit(_)) => "explicitDeny",
            Err(Reason::Missing(_)) => "implicitDeny",
        };
        let all = self.identity.iter().chain(&self.boundary).map(|part| (part, None));
        let all = all.chain(self.resource.iter().map(|part| (part, Some((&known, principal)))));
        let mut matched = Vec::new();
        for (part, principal) in all {
            let statements = matching(&part.document, principal, question).into_iter();
            let telling = statements.filter(|(_, allows)| match decision {
                "allowed" => *allows,
                "explicitDeny" => !*allows,
                _ => false,
            });
            matched.extend(telling.map(|(index, _)| part.statement(index)));
        }
        let detail = boundary.map(|documents| iam::PermissionsBoundaryDecisionDetail {
            allowed_by_permissions_boundary: Some(
                decide(documents.iter().map(|document| &**document), question) == Decision::Allow,
            ),
        });
        iam::EvaluationResult {
            eval_action_name: Some(action.to_owned()),
            eval_decision: Some(decision.to_owned()),
            eval_resource_name: Some(resource.to_owned()),
            matched_statements: matched,
            missing_context_values: self.missing.clone(),
            permissions_boundary_decision_detail: detail,
            ..iam::EvaluationResult::default()
        }
    }
}

/// An account's number, or that of an ARN.
fn account_of(text: &str) -> Result<AccountId, Error> {
    let number = text.parse().ok().or_else(|| Arn::parse(text).ok()?.account());
    number.ok_or_else(|| invalid(format!("Invalid Resource Owner: {text}")))
}

/// The user of `CallerArn`, which need not exist.
fn pretended(text: &str) -> Result<Pretended, Error> {
    let wrong = || invalid(format!("Invalid Caller Arn: {text} must be the ARN of a user."));
    let arn = Arn::parse(text).map_err(|_| wrong())?;
    let (account, name) = match (arn.account(), arn.resource().strip_prefix("user/")) {
        (Some(account), Some(name)) => (account, name.rsplit('/').next().unwrap_or_default()),
        _ => return Err(wrong()),
    };
    let mut keys = Keys::default();
    keys.set_one("aws:username", name);
    principal_keys(&mut keys, account, text, "User");
    Ok(Pretended { account: Some(account), arn: text.to_owned(), id: String::new(), keys })
}

fn principal_keys(keys: &mut Keys, account: AccountId, arn: &str, kind: &str) {
    keys.set_one("aws:PrincipalArn", arn);
    keys.set_one("aws:PrincipalAccount", account.to_string());
    keys.set_one("aws:PrincipalType", kind);
    keys.set_one("aws:PrincipalIsAWSService", "false");
}

/// Decides the questions of one page, on a thread for long work: there may be many, and many policies.
async fn answer(
    cx: &LiveContext<'_>,
    mut txn: Txn,
    action: &str,
    scope: &str,
    request: PageRequest<'_>,
    simulation: Simulation,
) -> Result<iam::SimulatePolicyResponse, Error> {
    let keyed = simulation.questions().enumerate().map(|(index, question)| (format!("{index:06}"), question));
    let page = page(&context(cx, &mut txn), action, scope, request, keyed)?;
    drop(txn);
    let questions = page.items;
    let decide_all =
        move || questions.iter().map(|(action, resource)| simulation.result(action, resource)).collect::<Vec<_>>();
    Ok(iam::SimulatePolicyResponse {
        evaluation_results: spawn_blocking(decide_all).await.map_err(Error::internal)?,
        is_truncated: page.is_truncated,
        marker: page.marker,
    })
}

struct SimulateCustomPolicy;

#[async_trait]
impl LiveAction for SimulateCustomPolicy {
    type Op = iam::ops::SimulateCustomPolicy;
    const ACCESS: Access = Access::Read;

    fn targets(&self, _cx: &Context<'_>, _request: &iam::SimulateCustomPolicyRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("iam:SimulateCustomPolicy")])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: iam::SimulateCustomPolicyRequest,
    ) -> Result<iam::SimulatePolicyResponse, Error> {
        let asked = Asked {
            actions: &request.action_names,
            resources: &request.resource_arns,
            inputs: &request.policy_input_list,
            boundaries: &request.permissions_boundary_policy_input_list,
            resource_policy: request.resource_policy.as_ref(),
            owner: request.resource_owner.as_ref(),
            entries: &request.context_entries,
            handling: request.resource_handling_option.as_ref(),
        };
        let caller = request.caller_arn.as_deref().map(pretended).transpose()?.unwrap_or_default();
        let simulation = Simulation::new(&asked, Vec::new(), Vec::new(), &[], caller, cx.clock.now())?;
        let txn = cx.store.read().await?;
        let scope = asked.scope("");
        answer(&cx, txn, "SimulateCustomPolicy", &scope, request.page(), simulation).await
    }
}

fn context<'a>(cx: &LiveContext<'a>, txn: &'a mut Txn) -> Context<'a> {
    let LiveContext { caller, ids, region, request_id, .. } = *cx;
    Context { txn, caller, now: cx.clock.now(), ids, region, request_id }
}

struct SimulatePrincipalPolicy(Iam);

#[async_trait]
impl LiveAction for SimulatePrincipalPolicy {
    type Op = iam::ops::SimulatePrincipalPolicy;
    const ACCESS: Access = Access::Read;

    fn targets(&self, _cx: &Context<'_>, request: &iam::SimulatePrincipalPolicyRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::on("iam:SimulatePrincipalPolicy", targets::policy_arn(&request.policy_source_arn)?)])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: iam::SimulatePrincipalPolicyRequest,
    ) -> Result<iam::SimulatePolicyResponse, Error> {
        let account = cx.caller.account;
        let txn = cx.store.read().await?;
        let holder = holder_of_arn(&txn, account, &request.policy_source_arn)?;
        let own = self.0.policies_of(&txn, account, holder).await?;
        let boundary = match holder {
            Holder::Group(_) => None,
            Holder::User(_) | Holder::Role(_) => self.0.boundary_of(&txn, account, holder).await?,
        };
        let part =
            |policy: &NamedPolicy| Part::parse(source_id(policy), policy.source, &policy.text, DocumentKind::Identity);
        let identity = own.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        let own_boundary = boundary.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        let texts: Vec<String> = own.into_iter().chain(boundary).map(|policy| policy.text).collect();
        let mut caller = match (&request.caller_arn, holder) {
            (Some(text), _) => pretended(text)?,
            (None, Holder::User(name)) => of_user(&txn, account, name)?,
            (None, Holder::Role(name)) => of_role(&txn, account, name)?,
            (None, Holder::Group(_)) => Pretended::default(),
        };
        if request.caller_arn.is_none() && request.resource_policy.is_some() && !matches!(holder, Holder::User(_)) {
            caller.account = None;
        }
        let asked = Asked {
            actions: &request.action_names,
            resources: &request.resource_arns,
            inputs: &request.policy_input_list,
            boundaries: &request.permissions_boundary_policy_input_list,
            resource_policy: request.resource_policy.as_ref(),
            owner: request.resource_owner.as_ref(),
            entries: &request.context_entries,
            handling: request.resource_handling_option.as_ref(),
        };
        let simulation = Simulation::new(&asked, identity, own_boundary, &texts, caller, cx.clock.now())?;
        let scope = asked.scope(&request.policy_source_arn);
        answer(&cx, txn, "SimulatePrincipalPolicy", &scope, request.page(), simulation).await
    }
}

/// As the simulator names policies: `user_ann_inline` for inline ones, the name of managed ones.
fn source_id(policy: &NamedPolicy) -> String {
    match policy.arn {
        Some(_) => policy.name.clone(),
        None => format!("{}_{}_{}", policy.source, policy.holder, policy.name),
    }
}

fn of_user(txn: &Txn, account: AccountId, name: &str) -> Result<Pretended, Error> {
    let user = find::<User>(txn, account, name)?;
    let mut keys = Keys::default();
    keys.set_one("aws:username", user.name());
    keys.set_one("aws:userid", &user.id);
    for (tag, value) in &user.tenant.tags {
        keys.set_one(&format!("aws:PrincipalTag/{tag}"), value);
    }
    let arn = user.arn().to_string();
    principal_keys(&mut keys, account, &arn, "User");
    Ok(Pretended { account: Some(account), arn, id: user.id.clone(), keys })
}

fn of_role(txn: &Txn, account: AccountId, name: &str) -> Result<Pretended, Error> {
    let role = find::<Role>(txn, account, name)?;
    let mut keys = Keys::default();
    for (tag, value) in &role.tenant.about.tags {
        keys.set_one(&format!("aws:PrincipalTag/{tag}"), value);
    }
    let arn = role.arn().to_string();
    principal_keys(&mut keys, account, &arn, "AssumedRole");
    Ok(Pretended { account: Some(account), arn, id: role.id.clone(), keys })
}

fn keys_of(texts: &[String]) -> Result<iam::GetContextKeysForPolicyResponse, Error> {
    let mut names = BTreeSet::new();
    for text in texts {
        let kinds = [DocumentKind::Identity, DocumentKind::Resource, DocumentKind::Trust];
        if let Err(Malformed(reason)) = Document::parse(text, kinds[0])
            && kinds[1..].iter().all(|kind| Document::parse(text, *kind).is_err())
        {
            return Err(invalid(reason));
        }
        names.extend(context_keys(text).map_err(|Malformed(reason)| invalid(reason))?);
    }
    Ok(iam::GetContextKeysForPolicyResponse { context_key_names: names.into_iter().collect() })
}

struct GetContextKeysForCustomPolicy;

impl Action for GetContextKeysForCustomPolicy {
    type Op = iam::ops::GetContextKeysForCustomPolicy;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("iam:GetContextKeysForCustomPolicy")])
    }

    fn run(_cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        keys_of(&request.policy_input_list)
    }
}

struct GetContextKeysForPrincipalPolicy(Iam);

#[async_trait]
impl LiveAction for GetContextKeysForPrincipalPolicy {
    type Op = iam::ops::GetContextKeysForPrincipalPolicy;
    const ACCESS: Access = Access::Read;

    fn targets(
        &self,
        _cx: &Context<'_>,
        request: &iam::GetContextKeysForPrincipalPolicyRequest,
    ) -> Result<Vec<Target>, Error> {
        let arn = targets::policy_arn(&request.policy_source_arn)?;
        Ok(vec![Target::on("iam:GetContextKeysForPrincipalPolicy", arn)])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: iam::GetContextKeysForPrincipalPolicyRequest,
    ) -> Result<iam::GetContextKeysForPolicyResponse, Error> {
        let txn = cx.store.read().await?;
        let holder = holder_of_arn(&txn, cx.caller.account, &request.policy_source_arn)?;
        let own = self.0.policies_of(&txn, cx.caller.account, holder).await?;
        let mut texts: Vec<String> = own.into_iter().map(|policy| policy.text).collect();
        texts.extend(request.policy_input_list);
        keys_of(&texts)
    }
}
