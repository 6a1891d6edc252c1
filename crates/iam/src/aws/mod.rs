//! The IAM and STS actions: the only place of this crate that sees AWS's request and response types.

mod sts;

use terroir_action::Registry;

use crate::Iam;

/// Adds every IAM and STS action.
pub fn register(registry: &mut Registry, iam: &Iam) {
    sts::register(registry, iam);
}
