//! Reading and checking policy documents.

use super::condition::Condition;
use super::json::Json;
use super::pattern::{ArnPattern, Pattern, Syntax};
use std::collections::BTreeSet;
use terroir_action::glob_matches;
use terroir_types::AccountId;

/// Where a document is used; each kind has its own grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// Attached to a user, group or role, or passed when a session begins: says what its holder may do.
    Identity,
    /// A role's trust policy: says who may become the role.
    Trust,
    /// Attached to a resource: says who may do what with it.
    Resource,
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
    /// Condition keys that some statement looks at, in lower case.
    keys: BTreeSet<String>,
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
    pub action_texts: Vec<String>,
    /// `None` in a trust policy, whose resource is the role itself.
    pub resources: Option<Selection<ArnPattern>>,
    pub conditions: Vec<Condition>,
}

impl Statement {
    fn keys(&self) -> impl Iterator<Item = &str> {
        let of_resources = self.resources.iter().flat_map(|all| &all.values).flat_map(ArnPattern::variables);
        self.conditions.iter().flat_map(Condition::keys).chain(of_resources)
    }
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

/// A principal as the policy of a resource names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Everyone,
    /// Any principal of the account whom the account itself allows.
    Account(AccountId),
    /// A user, role or session, in full.
    Arn(String),
    /// For example `ec2.amazonaws.com`.
    Service(String),
    /// An identity provider, by ARN or name.
    Federated(String),
}

/// A principal that a document names and that can be looked up.
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
            statements.iter().map(|json| statement(json, kind, variables, &mut sids)).collect::<Result<Vec<_>, _>>()?;
        let keys = statements.iter().flat_map(Statement::keys).map(str::to_owned).collect();
        Ok(Self { statements, keys })
    }

    /// Whether a statement looks at a condition key whose name begins with `prefix`, which is in lower case.
    pub fn asks_for(&self, prefix: &str) -> bool {
        self.keys.iter().any(|key| key.starts_with(prefix))
    }

    /// The accounts, users, roles and sessions that the document names as principals.
    pub fn principals(&self) -> impl Iterator<Item = NamedPrincipal<'_>> {
        let named = self.statements.iter().filter_map(|statement| statement.principals.as_ref());
        named.flat_map(|selection| &selection.values).filter_map(|named| match named {
            Named::Account(account) => Some(NamedPrincipal::Account(*account)),
            Named::Arn(arn) => Some(NamedPrincipal::Arn(arn)),
            Named::Everyone | Named::Service(_) | Named::Federated(_) => None,
        })
    }

    /// Every action of the document, as it was written.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.statements.iter().flat_map(|statement| &statement.action_texts).map(String::as_str)
    }

    /// Whether some statement may allow an action of a service (`ec2`), whatever its resources and conditions say.
    pub fn may_allow_service(&self, service: &str) -> bool {
        let reaches = |text: &String| {
            let vendor = text.split(':').next().unwrap_or_default();
            glob_matches(&vendor.to_ascii_lowercase(), &service.to_ascii_lowercase())
        };
        // NotAction leaves something of a service out only if it names all of it.
        let names_all = |text: &String| text == "*" || text.ends_with(":*") && reaches(text);
        self.statements.iter().filter(|statement| statement.effect == Effect::Allow).any(|statement| {
            if statement.actions.inverted {
                !statement.action_texts.iter().any(names_all)
            } else {
                statement.action_texts.iter().any(reaches)
            }
        })
    }

    /// Every resource of the document, as it was written.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        let all = self.statements.iter().filter_map(|statement| statement.resources.as_ref());
        all.flat_map(|selection| &selection.values).map(ArnPattern::text)
    }
}

fn statement(json: &Json, kind: DocumentKind, variables: bool, sids: &mut Vec<String>) -> Result<Statement, Malformed> {
    let Json::Object(members) = json else { return malformed("Syntax errors in policy.") };
    let (mut effect, mut principals, mut actions, mut resources) = (None, None, None, None);
    let (mut conditions, mut action_texts) = (Vec::new(), Vec::new());
    for (name, value) in members {
        match name.as_str() {
            "Sid" => sid(value, kind, sids)?,
            "Effect" => {
                effect = Some(match value {
                    Json::Text(text) if text == "Allow" => Effect::Allow,
                    Json::Text(text) if text == "Deny" => Effect::Deny,
                    _ => return malformed("Syntax errors in policy."),
                });
            }
            "Action" | "NotAction" => {
                let written = texts(value)?;
                action_texts.extend(written.iter().map(|text| (*text).to_owned()));
                let values = written.iter().map(|text| action(text)).collect::<Result<_, _>>()?;
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
    let Some(effect) = effect else { return malformed("Syntax errors in policy.") };
    let Some(actions) = actions else { return malformed("Policy statement must contain actions.") };
    match kind {
        DocumentKind::Identity if principals.is_some() => {
            return malformed("Policy document should not specify a principal.");
        }
        DocumentKind::Identity if resources.is_none() => {
            return malformed("Policy statement must contain resources.");
        }
        DocumentKind::Identity => {}
        DocumentKind::Trust if resources.is_some() => return malformed("Has prohibited field Resource"),
        DocumentKind::Resource if resources.is_none() => return malformed("Missing required field Resource"),
        DocumentKind::Trust | DocumentKind::Resource if principals.is_none() => {
            return malformed("Missing required field Principal");
        }
        DocumentKind::Resource => {}
        DocumentKind::Trust => {
            // NotPrincipal with Allow would let in everybody else, people without an account included.
            if principals.as_ref().is_some_and(|principals| principals.inverted) && effect == Effect::Allow {
                return malformed("Allow with NotPrincipal is not allowed.");
            }
            sts_only(members)?;
        }
    }
    Ok(Statement { effect, principals, actions, action_texts, resources, conditions })
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => malformed("Syntax errors in policy."),
    }
}

fn sid(value: &Json, kind: DocumentKind, sids: &mut Vec<String>) -> Result<(), Malformed> {
    let Json::Text(sid) = value else { return malformed("Syntax errors in policy.") };
    // Those of resources are sentences in AWS's own examples and default policies.
    if kind != DocumentKind::Resource && !sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
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
                "Federated" => Named::Federated(text.to_owned()),
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
        let known =
            ["user/", "role/", "assumed-role/", "federated-user/"].iter().any(|prefix| resource.starts_with(prefix));
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
