//! The IAM and STS actions: the only place of this crate that sees AWS's request and response types.

use terroir_action::Registry;

use crate::Iam;

pub fn register(_registry: &mut Registry, _iam: &Iam) {}
