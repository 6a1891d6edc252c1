//! Whether the policy of a resource lets in everybody, by Amazon S3's "The meaning of 'public'".

use super::condition::Condition;
use super::document::{Document, Effect, Named, Statement};

/// Condition keys that, held to fixed values, make a statement speak of known callers only. All in lower case.
const NARROWING: &[&str] = &[
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
];

impl Document {
    /// Whether some statement allows something to callers who are neither named nor held to fixed values.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(is_public)
    }
}

fn is_public(statement: &Statement) -> bool {
    let everyone = statement
        .principals
        .as_ref()
        .is_some_and(|principals| principals.inverted || principals.values.contains(&Named::Everyone));
    let narrowed = |condition: &Condition| condition.is_fixed() && NARROWING.contains(&condition.key());
    statement.effect == Effect::Allow && everyone && !statement.conditions.iter().any(narrowed)
}
