//! From documents and a question to a decision.
//!
//! [`decide`] and [`decide_resource`] each look at policies of one sort; [`judge`] puts all sorts together as AWS's "Policy
//! evaluation logic" says:
//!
//! ```text
//! an explicit deny anywhere                                            no
//! same account, its policy names the session (or user) itself          yes
//! same account, its policy names the role, boundary and session allow  yes
//! identity, boundary and session policies allow
//!     same account, unless the resource's policy decides               yes
//!     its policy allows too, or a list of grants                       yes
//! anything else                                                        no
//! ```

use super::Keys;
use super::document::{Document, Effect, Named, Statement};
use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_types::AccountId;

/// May this action be done on this resource?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// For example `ec2:RunInstances`.
    pub action: &'a str,
    /// An ARN, or `*` for actions without a resource.
    pub resource: &'a str,
    pub keys: &'a Keys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// No statement allows it.
    ImplicitDeny,
    /// A statement with the effect `Deny` speaks of it.
    ExplicitDeny,
}

/// What a set of identity policies, taken together, decides.
pub fn decide<'d>(documents: impl IntoIterator<Item = &'d Document>, question: Question<'_>) -> Decision {
    let mut decision = Decision::ImplicitDeny;
    for statement in documents.into_iter().flat_map(|document| &document.statements) {
        if speaks_of(statement, question) {
            match statement.effect {
                Effect::Deny => return Decision::ExplicitDeny,
                Effect::Allow => decision = Decision::Allow,
            }
        }
    }
    decision
}

fn speaks_of(statement: &Statement, question: Question<'_>) -> bool {
    let Question { action, resource, keys } = question;
    statement.actions.selects(|pattern| pattern.matches(action, keys, true))
        && statement.resources.as_ref().is_none_or(|all| all.selects(|pattern| pattern.matches(resource, keys)))
        && statement.conditions.iter().all(|condition| condition.holds(keys))
}

/// Who asks, as the policy of a resource sees it. Ids (`AIDA...`, `AROA...`) tell people apart who had one name in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal<'a> {
    Root(AccountId),
    User {
        account: AccountId,
        arn: &'a str,
        id: &'a str,
    },
    /// A session of a role: ARN and id are the role's.
    Role {
        account: AccountId,
        arn: &'a str,
        id: &'a str,
        session: &'a str,
    },
    /// A session of GetFederationToken; `user` is ARN and id of the user who gave it, none for the root.
    Federated {
        account: AccountId,
        arn: &'a str,
        user: Option<(&'a str, &'a str)>,
    },
    /// A person for whom the identity provider of this ARN vouches.
    Web(&'a str),
    /// For example `ec2.amazonaws.com`.
    Service(&'a str),
    Anonymous,
}

/// How near to a principal the policy of a resource names it, least first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Not at all.
    #[default]
    Nobody,
    /// Its account is named: the account's own policies must allow it as well.
    Account,
    /// The role of the session, or the user behind the federated session.
    Role,
    /// Who asks, itself; or everyone.
    Caller,
}

/// What the policy of a resource says of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opinion {
    ExplicitDeny,
    /// To whom it allows it, as near as it goes.
    Allows(Reach),
}

/// What the policy of a resource decides for a principal. A role's trust policy is one too: its resource is the role.
///
/// `known`: ARNs of users and roles in the policy, with their ids when it was written.
pub fn decide_resource(
    document: &Document,
    known: &BTreeMap<String, String>,
    principal: Principal<'_>,
    question: Question<'_>,
) -> Opinion {
    let mut widest = Reach::Nobody;
    for statement in &document.statements {
        let reach = reach_of_statement(statement, known, principal);
        if reach == Reach::Nobody || !speaks_of(statement, question) {
            continue;
        }
        match statement.effect {
            Effect::Deny => return Opinion::ExplicitDeny,
            Effect::Allow => widest = widest.max(reach),
        }
    }
    Opinion::Allows(widest)
}

fn reach_of_statement(statement: &Statement, known: &BTreeMap<String, String>, principal: Principal<'_>) -> Reach {
    let Some(principals) = &statement.principals else { return Reach::Nobody };
    let reaches = principals.values.iter().map(|named| reach(named, known, principal));
    let reach = reaches.max().unwrap_or(Reach::Nobody);
    match (principals.inverted, statement.effect) {
        (false, _) => reach,
        // Both in the direction that lets fewer in: an exception from a deny must name who asks, itself; one from an
        // allow may name its role or account.
        (true, Effect::Deny) if reach == Reach::Caller => Reach::Nobody,
        (true, Effect::Allow) if reach != Reach::Nobody => Reach::Nobody,
        (true, _) => reach_of_everyone(principal),
    }
}

/// The statements of a document that speak of a question, by their place in it, and whether each allows. Of a resource's
/// policy (`principal` is given) those that mean the principal.
pub fn matching(
    document: &Document,
    principal: Option<(&BTreeMap<String, String>, Principal<'_>)>,
    question: Question<'_>,
) -> Vec<(usize, bool)> {
    let means = |statement: &Statement| {
        principal.is_none_or(|(known, principal)| reach_of_statement(statement, known, principal) != Reach::Nobody)
    };
    let numbered = document.statements.iter().enumerate();
    let speaking = numbered.filter(|(_, statement)| means(statement) && speaks_of(statement, question));
    speaking.map(|(index, statement)| (index, statement.effect == Effect::Allow)).collect()
}

/// For whom only a third party vouches is not let in by "everyone": that must name the third party.
fn reach_of_everyone(principal: Principal<'_>) -> Reach {
    if matches!(principal, Principal::Web(_)) { Reach::Account } else { Reach::Caller }
}

fn reach(named: &Named, known: &BTreeMap<String, String>, principal: Principal<'_>) -> Reach {
    let is = |wanted: &str, arn: &str, id: &str| wanted == arn && known.get(wanted).is_none_or(|known| known == id);
    let when = |holds: bool, reach: Reach| if holds { reach } else { Reach::Nobody };
    match (named, principal) {
        (Named::Everyone, _) => reach_of_everyone(principal),
        (Named::Account(wanted), Principal::Root(account)) => when(*wanted == account, Reach::Caller),
        (
            Named::Account(wanted),
            Principal::User { account, .. } | Principal::Role { account, .. } | Principal::Federated { account, .. },
        ) => when(*wanted == account, Reach::Account),
        (Named::Arn(wanted), Principal::User { arn, id, .. }) => when(is(wanted, arn, id), Reach::Caller),
        (Named::Arn(wanted), Principal::Role { session, id, .. }) if is(wanted, session, id) => Reach::Caller,
        (Named::Arn(wanted), Principal::Role { arn, id, .. }) => when(is(wanted, arn, id), Reach::Role),
        (Named::Arn(wanted), Principal::Federated { arn, .. }) if wanted == arn => Reach::Caller,
        (Named::Arn(wanted), Principal::Federated { user: Some((arn, id)), .. }) => {
            when(is(wanted, arn, id), Reach::Role)
        }
        (Named::Federated(wanted), Principal::Web(provider)) => when(wanted == provider, Reach::Caller),
        (Named::Service(wanted), Principal::Service(name)) => when(wanted.eq_ignore_ascii_case(name), Reach::Caller),
        (Named::Account(_) | Named::Arn(_) | Named::Service(_) | Named::Federated(_), _) => Reach::Nobody,
    }
}

/// The policies that speak of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policies<'a> {
    /// Of the user with its groups, or of the role; none: an account's root, which needs none.
    pub identity: Option<&'a [Arc<Document>]>,
    /// The permissions boundary of the user or role; none: it has none.
    pub boundary: Option<&'a [Arc<Document>]>,
    /// Policies that the session was given, each of which must allow; none: it may do what its principal may.
    pub session: Option<&'a [Arc<Document>]>,
    /// The resource's, with the ids of whom it names (see [`decide_resource`]).
    pub resource: Option<(&'a Document, &'a BTreeMap<String, String>)>,
}

/// How caller and resource stand to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    pub same_account: bool,
    /// The resource's policy must allow even in its own account.
    pub policy_decides: bool,
    /// What the resource's policy allows does not count.
    pub policy_only_denies: bool,
    /// A list of grants names the caller's account, or everyone.
    pub granted: bool,
    /// A list of grants names the caller, as near as this.
    pub grantee: Reach,
}

/// A sort of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Identity,
    Boundary,
    Session,
    Resource,
}

/// Why something is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A policy of this sort denies it.
    Explicit(Layer),
    /// No policy of this sort allows it, and one would have to.
    Missing(Layer),
}

/// The whole decision.
pub fn judge(
    principal: Principal<'_>,
    policies: Policies<'_>,
    place: Place,
    question: Question<'_>,
) -> Result<(), Reason> {
    let together = |documents: &[Arc<Document>]| decide(documents.iter().map(|document| &**document), question);
    let identity = policies.identity.map_or(Decision::Allow, together);
    let boundary = policies.boundary.map_or(Decision::Allow, together);
    let session = policies.session.map_or(Decision::Allow, |documents| every(documents, question));
    let resource = policies.resource.map_or(Opinion::Allows(Reach::Nobody), |(document, known)| {
        decide_resource(document, known, principal, question)
    });
    let reach = match resource {
        Opinion::ExplicitDeny => return Err(Reason::Explicit(Layer::Resource)),
        Opinion::Allows(_) if place.policy_only_denies => Reach::Nobody,
        Opinion::Allows(reach) => reach,
    };
    let reach = if place.granted { reach.max(Reach::Account) } else { reach };
    let reach = reach.max(place.grantee);
    let layers = [(Layer::Identity, identity), (Layer::Boundary, boundary), (Layer::Session, session)];
    if let Some((layer, _)) = layers.iter().find(|(_, decision)| *decision == Decision::ExplicitDeny) {
        return Err(Reason::Explicit(*layer));
    }
    let missing = |layers: &[(Layer, Decision)]| {
        layers.iter().find(|(_, decision)| *decision != Decision::Allow).map(|(l, _)| *l)
    };
    if matches!(principal, Principal::Web(_) | Principal::Service(_) | Principal::Anonymous) {
        let listed = place.granted && principal == Principal::Anonymous;
        let allowed = reach == Reach::Caller || listed;
        return if allowed { Ok(()) } else { Err(Reason::Missing(Layer::Resource)) };
    }
    let needed = match reach {
        Reach::Caller if place.same_account => &layers[3..],
        Reach::Role if place.same_account => &layers[1..],
        _ => &layers[..],
    };
    if let Some(layer) = missing(needed) {
        return Err(Reason::Missing(layer));
    }
    if reach == Reach::Nobody && (place.policy_decides || !place.same_account) {
        return Err(Reason::Missing(Layer::Resource));
    }
    Ok(())
}

/// Policies that must each allow; none at all allow nothing.
fn every(documents: &[Arc<Document>], question: Question<'_>) -> Decision {
    let mut decision = if documents.is_empty() { Decision::ImplicitDeny } else { Decision::Allow };
    for document in documents {
        match decide([&**document], question) {
            Decision::ExplicitDeny => return Decision::ExplicitDeny,
            Decision::ImplicitDeny => decision = Decision::ImplicitDeny,
            Decision::Allow => {}
        }
    }
    decision
}
