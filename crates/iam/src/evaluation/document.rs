//! Reading and checking policy documents.

use super::condition::Condition;
use super::json::Json;
use super::pattern::{ArnPattern, Pattern, Syntax};
use terroir_types::AccountId;

/// Where a document is used; each kind has its own grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// Attached to a user, group or role, or passed when a session begins: says what its holder may do.
    Identity,
    /// A role's trust policy: says who may become the role.
    Trust,
}

/// Why a document is refused; the text is for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

fn malformed<T>(text: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(text.into()))
}

/// A policy document in a form that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub(super) statements: Vec<Statement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub effect: Effect,
    pub principals: Option<Selection<Named>>,
    pub actions: Selection<Pattern>,
    /// `None` in a trust policy, whose resource is the role itself.
    pub resources: Option<Selection<ArnPattern>>,
    pub conditions: Vec<Condition>,
}

/// `Action` or `NotAction`, and the like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Selection<T> {
    pub inverted: bool,
    pub values: Vec<T>,
}

impl<T> Selection<T> {
    pub(super) fn selects(&self, matches: impl Fn(&T) -> bool) -> bool {
        self.values.iter().any(matches) != self.inverted
    }
}

/// A principal as a trust policy names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Everyone,
    /// Any principal of the account whom the account itself allows.
    Account(AccountId),
    /// A user, role or session, in full.
    Arn(String),
    /// For example `ec2.amazonaws.com`.
    Service(String),
    /// An identity provider; none exists here, so nobody is this principal.
    Federated,
}

/// A principal that a trust policy names and that can be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedPrincipal<'a> {
    Account(AccountId),
    /// Of a user, role or session.
    Arn(&'a str),
}

/// Most statements of one document; the size limits of each place keep real documents far below.
const MAX_STATEMENTS: usize = 1_000;

impl Document {
    /// # Errors
    /// [`Malformed`] with AWS's wording where AWS has one.
    pub fn parse(text: &str, kind: DocumentKind) -> Result<Self, Malformed> {
        let Ok(Json::Object(members)) = Json::parse(text) else {
            return malformed("Syntax errors in policy.");
        };
        let mut variables = false;
        let mut statements = None;
        for (name, value) in &members {
            match (name.as_str(), value) {
                ("Version", Json::Text(version)) => match version.as_str() {
                    "2012-10-17" => variables = true,
                    "2008-10-17" => {}
                    _ => return malformed("The policy must contain a valid version string"),
                },
                ("Id", Json::Text(_)) => {}
                ("Statement", Json::List(list)) => statements = Some(list.as_slice()),
                ("Statement", one @ Json::Object(_)) => statements = Some(std::slice::from_ref(one)),
                _ => return malformed("Syntax errors in policy."),
            }
        }
        let Some(statements) = statements.filter(|list| !list.is_empty() && list.len() <= MAX_STATEMENTS) else {
            return malformed("Syntax errors in policy.");
        };
        let mut sids = Vec::new();
        let statements =
            statements.iter().map(|json| statement(json, kind, variables, &mut sids)).collect::<Result<_, _>>()?;
        Ok(Self { statements })
    }

    /// The accounts, users, roles and sessions that the document names as principals.
    pub fn principals(&self) -> impl Iterator<Item = NamedPrincipal<'_>> {
        let named = self.statements.iter().filter_map(|statement| statement.principals.as_ref());
        named.flat_map(|selection| &selection.values).filter_map(|named| match named {
            Named::Account(account) => Some(NamedPrincipal::Account(*account)),
            Named::Arn(arn) => Some(NamedPrincipal::Arn(arn)),
            Named::Everyone | Named::Service(_) | Named::Federated => None,
        })
    }
}

fn statement(json: &Json, kind: DocumentKind, variables: bool, sids: &mut Vec<String>) -> Result<Statement, Malformed> {
    let Json::Object(members) = json else { return malformed("Syntax errors in policy.") };
    let (mut effect, mut principals, mut actions, mut resources) = (None, None, None, None);
    let mut conditions = Vec::new();
    for (name, value) in members {
        match name.as_str() {
            "Sid" => sid(value, sids)?,
            "Effect" => {
                effect = Some(match value {
                    Json::Text(text) if text == "Allow" => Effect::Allow,
                    Json::Text(text) if text == "Deny" => Effect::Deny,
                    _ => return malformed("Syntax errors in policy."),
                });
            }
            "Action" | "NotAction" => {
                let values = texts(value)?.iter().map(|text| action(text)).collect::<Result<_, _>>()?;
                set(&mut actions, Selection { inverted: name == "NotAction", values })?;
            }
            "Resource" | "NotResource" => {
                let values = texts(value)?.iter().map(|text| resource(text, variables)).collect::<Result<_, _>>()?;
                set(&mut resources, Selection { inverted: name == "NotResource", values })?;
            }
            "Principal" | "NotPrincipal" => {
                set(&mut principals, Selection { inverted: name == "NotPrincipal", values: principal(value)? })?;
            }
            "Condition" => conditions = condition(value, variables)?,
            _ => return malformed("Syntax errors in policy."),
        }
    }
    let (Some(effect), Some(actions)) = (effect, actions) else { return malformed("Syntax errors in policy.") };
    match kind {
        DocumentKind::Identity if principals.is_some() => {
            return malformed("Policy document should not specify a principal.");
        }
        DocumentKind::Identity if resources.is_none() => {
            return malformed("Policy statement must contain resources.");
        }
        DocumentKind::Trust if resources.is_some() => return malformed("Has prohibited field Resource"),
        DocumentKind::Trust => match &principals {
            None => return malformed("Missing required field Principal"),
            // NotPrincipal with Allow would let in everybody else, people without an account included.
            Some(principals) if principals.inverted && effect == Effect::Allow => {
                return malformed("Allow with NotPrincipal is not allowed.");
            }
            Some(_) => sts_only(members)?,
        },
        DocumentKind::Identity => {}
    }
    Ok(Statement { effect, principals, actions, resources, conditions })
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => malformed("Syntax errors in policy."),
    }
}

fn sid(value: &Json, sids: &mut Vec<String>) -> Result<(), Malformed> {
    let Json::Text(sid) = value else { return malformed("Syntax errors in policy.") };
    if !sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return malformed(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*",
        );
    }
    if !sid.is_empty() && sids.contains(sid) {
        return malformed("Statement IDs (SID) in a single policy must be unique.");
    }
    sids.push(sid.clone());
    Ok(())
}

/// A text or a list of texts, not empty.
fn texts(json: &Json) -> Result<Vec<&str>, Malformed> {
    let list = match json {
        Json::Text(text) => Some(vec![text.as_str()]),
        Json::List(list) => {
            list.iter().map(|item| if let Json::Text(text) = item { Some(text.as_str()) } else { None }).collect()
        }
        _ => None,
    };
    match list {
        Some(list) if !list.is_empty() => Ok(list),
        _ => malformed("Syntax errors in policy."),
    }
}

fn action(text: &str) -> Result<Pattern, Malformed> {
    let (vendor, name) = match text.split_once(':') {
        _ if text == "*" => ("*", "*"),
        Some(parts) => parts,
        None => return malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."),
    };
    if vendor.is_empty() || !vendor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-*?".contains(&b)) {
        return malformed(format!("Vendor {vendor} is not valid"));
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"*?".contains(&b)) {
        return malformed("Action names must be alpha-numeric, with * and ? as wildcards.");
    }
    Pattern::parse(text, Syntax { wildcards: true, variables: false }).map_err(Malformed)
}

fn resource(text: &str, variables: bool) -> Result<ArnPattern, Malformed> {
    let parts = text.splitn(6, ':').count();
    let is_arn = text.starts_with("arn:") && (parts == 6 || text.contains('*'));
    if text != "*" && !is_arn {
        return malformed(format!("Resource {text} must be in ARN format or \"*\"."));
    }
    ArnPattern::parse(text, Syntax { wildcards: true, variables }).map_err(Malformed)
}

fn condition(json: &Json, variables: bool) -> Result<Vec<Condition>, Malformed> {
    let Json::Object(operators) = json else { return malformed("Syntax errors in policy.") };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Json::Object(keys) = keys else { return malformed("Syntax errors in policy.") };
        for (key, values) in keys {
            conditions.push(Condition::parse(operator, key, values, variables).map_err(Malformed)?);
        }
    }
    Ok(conditions)
}

fn principal(json: &Json) -> Result<Vec<Named>, Malformed> {
    let types = match json {
        Json::Text(text) if text == "*" => return Ok(vec![Named::Everyone]),
        Json::Object(types) if !types.is_empty() => types,
        _ => return malformed("Invalid principal in policy."),
    };
    let mut named = Vec::new();
    for (kind, values) in types {
        for text in texts(values)? {
            named.push(match kind.as_str() {
                "AWS" => aws_principal(text)?,
                "Service" => Named::Service(text.to_ascii_lowercase()),
                "Federated" | "CanonicalUser" => Named::Federated,
                _ => return malformed(format!("Invalid principal in policy: \"{kind}\":\"{text}\"")),
            });
        }
    }
    Ok(named)
}

fn aws_principal(text: &str) -> Result<Named, Malformed> {
    if text == "*" {
        return Ok(Named::Everyone);
    }
    if let Ok(account) = text.parse() {
        return Ok(Named::Account(account));
    }
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    if let ["arn", "aws", "iam" | "sts", "", account, resource] = parts.as_slice()
        && let Ok(account) = account.parse()
        && !resource.contains(['*', '?'])
    {
        let known = ["user/", "role/", "assumed-role/"].iter().any(|prefix| resource.starts_with(prefix));
        match *resource {
            "root" => return Ok(Named::Account(account)),
            _ if known => return Ok(Named::Arn(text.to_owned())),
            _ => {}
        }
    }
    malformed(format!("Invalid principal in policy: \"AWS\":\"{text}\""))
}

/// A trust policy speaks of nothing but STS.
fn sts_only(members: &[(String, Json)]) -> Result<(), Malformed> {
    let actions = members.iter().filter(|(name, _)| name == "Action" || name == "NotAction");
    for (_, value) in actions {
        for text in texts(value)? {
            if text != "*" && !text.to_ascii_lowercase().starts_with("sts:") {
                return malformed("AssumeRole policy may only specify STS AssumeRole actions.");
            }
        }
    }
    Ok(())
}
