//! From documents and a question to a decision.

use super::Keys;
use super::document::{Document, Effect, Named, Statement};
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

/// Who wants to become a role.
#[derive(Debug, Clone, Copy)]
pub enum Principal<'a> {
    /// A user, or a role session: `arn` is the user's or role's, `session` the session's.
    Aws { account: AccountId, arn: &'a str, session: Option<&'a str> },
    /// For example `ec2.amazonaws.com`.
    Service(&'a str),
}

/// What a trust policy says of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The principal itself is named.
    Direct,
    /// Its account is named: the account's own policies must allow it as well.
    ThroughAccount,
    ImplicitDeny,
    ExplicitDeny,
}

/// What a role's trust policy decides for `principal`; the question's resource is the role.
pub fn decide_trust(document: &Document, principal: Principal<'_>, question: Question<'_>) -> Trust {
    let mut trust = Trust::ImplicitDeny;
    for statement in &document.statements {
        let Some(principals) = &statement.principals else { continue };
        let named = |direct: bool| principals.selects(|named| names(named, principal, direct));
        if !(named(false) && speaks_of(statement, question)) {
            continue;
        }
        match statement.effect {
            Effect::Deny => return Trust::ExplicitDeny,
            Effect::Allow if named(true) => trust = Trust::Direct,
            Effect::Allow if trust == Trust::ImplicitDeny => trust = Trust::ThroughAccount,
            Effect::Allow => {}
        }
    }
    trust
}

/// `direct`: naming the account does not count.
fn names(named: &Named, principal: Principal<'_>, direct: bool) -> bool {
    match (named, principal) {
        (Named::Everyone, _) => true,
        (Named::Account(wanted), Principal::Aws { account, .. }) => !direct && *wanted == account,
        (Named::Arn(wanted), Principal::Aws { arn, session, .. }) => wanted == arn || session == Some(wanted),
        (Named::Service(wanted), Principal::Service(service)) => wanted.eq_ignore_ascii_case(service),
        (Named::Federated | Named::Account(_) | Named::Arn(_) | Named::Service(_), _) => false,
    }
}
