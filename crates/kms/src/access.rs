//! What must be allowed before a key is used: its policy decides, and grants beside it.

use std::sync::Arc;
use terroir_action::{Caller, Grantee as Means, Target};
use terroir_store::Txn;
use terroir_types::Error;

use crate::model::{Constraint, EncryptionContext, Grant, Grantee, KmsKey};
use crate::ops;
use crate::reference::Found;

/// What is to be done with a key, as far as grants and condition keys go into it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use<'a> {
    Manage,
    /// With an encryption context.
    Cryptographic(&'a EncryptionContext),
    /// A new grant.
    Grant {
        operations: &'a [String],
        constraint: Option<&'a Constraint>,
    },
}

/// Who asks, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub caller: &'a Caller,
    pub region: &'a str,
    /// Signing name of the service that asks for the caller.
    pub via: Option<&'static str>,
}

impl Asker<'_> {
    /// The permission `kms:OPERATION` on a key. Of a key that does not exist its account has no policy that decides, so
    /// that whoever may ask there is told so; another account's is refused in the same words as one that exists.
    pub(crate) fn target(self, txn: &Txn, operation: &str, found: &Found, what: Use<'_>) -> Result<Target, Error> {
        let asked = found.reference.arn(self.region);
        let mut target = Target::on(format!("kms:{operation}"), asked.clone());
        if let Some(key) = &found.key {
            target.resource = Some(key.arn(self.region));
            target.resource_tags.clone_from(&key.tenant.tags);
            target = target.owned_by(key.account, Some(Arc::clone(&key.tenant.policy)));
            target.policy_decides = true;
            target.shown = (key.account != self.caller.account).then_some(asked);
            self.find_grants(txn, operation, key, what, &mut target)?;
        }
        Ok(self.keys(target, found, what))
    }

    fn keys(self, mut target: Target, found: &Found, what: Use<'_>) -> Target {
        let key = |target: Target, name: &str, value: &str| target.key(name, value);
        target = key(target, "kms:CallerAccount", &self.caller.account.to_string());
        target = key(target, "kms:KeySpec", "SYMMETRIC_DEFAULT");
        target = key(target, "kms:KeyUsage", "ENCRYPT_DECRYPT");
        let origin = found.key.as_ref().map_or("AWS_KMS", |key| key.origin());
        target = key(target, "kms:KeyOrigin", origin);
        target = key(target, "kms:MultiRegion", "false");
        if let crate::reference::Reference::Alias(_, name) = &found.reference {
            target = key(target, "kms:RequestAlias", name);
        }
        if let Some(via) = self.via {
            target = key(target, "kms:ViaService", &format!("{via}.{}.amazonaws.com", self.region));
            target = key(target, "aws:ViaAWSService", "true");
            for name in ["aws:CalledVia", "aws:CalledViaFirst", "aws:CalledViaLast"] {
                target = key(target, name, &format!("{via}.amazonaws.com"));
            }
        }
        match what {
            Use::Manage => {}
            Use::Cryptographic(context) => {
                target = key(target, "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT");
                for (name, value) in context {
                    target = key(target, &format!("kms:EncryptionContext:{name}"), value);
                }
                if !context.is_empty() {
                    target.keys.push(("kms:EncryptionContextKeys".to_owned(), context.keys().cloned().collect()));
                }
            }
            Use::Grant { operations, constraint } => {
                target.keys.push(("kms:GrantOperations".to_owned(), operations.to_vec()));
                target = key(target, "kms:GrantIsForAWSResource", if self.via.is_some() { "true" } else { "false" });
                if let Some(constraint) = constraint {
                    let kind = match constraint {
                        Constraint::Equals(_) => "EncryptionContextEquals",
                        Constraint::Contains(_) => "EncryptionContextSubset",
                    };
                    target = key(target, "kms:GrantConstraintType", kind);
                }
            }
        }
        target
    }

    /// Notes in the target whether a grant on the key lets the caller in.
    fn find_grants(
        self,
        txn: &Txn,
        operation: &str,
        key: &KmsKey,
        what: Use<'_>,
        target: &mut Target,
    ) -> Result<(), Error> {
        if !ops::GRANT_OPERATIONS.contains(&operation) {
            return Ok(());
        }
        for name in terroir_iam::caller_names(txn, self.caller)? {
            let index = ops::grantee_index(txn, key.account, key.id, &name.arn);
            for (entry, _) in txn.peek_range::<Grantee>(&index)? {
                let Some(grant) = txn.peek::<Grant>(&Grant::all(key.account, key.id).child(entry.last()))? else {
                    continue;
                };
                let same = grant.tenant.grantee.id.is_none() || grant.tenant.grantee.id == name.id;
                if same && admits(&grant, operation, what) {
                    match name.means {
                        None => target.granted = true,
                        Some(means) if target.grantee != Some(Means::Caller) => target.grantee = Some(means),
                        Some(_) => {}
                    }
                }
            }
        }
        Ok(())
    }
}

fn admits(grant: &Grant, operation: &str, what: Use<'_>) -> bool {
    let constraint = grant.tenant.constraint.as_ref();
    let listed = |operation: &str| grant.operations.iter().any(|known| known == operation);
    listed(operation)
        && match what {
            Use::Manage => true,
            Use::Cryptographic(context) => constraint.is_none_or(|constraint| constraint.admits(context)),
            // Nothing may be passed on that was not given.
            Use::Grant { operations, constraint: wanted } => {
                operations.iter().all(|operation| listed(operation))
                    && constraint.is_none_or(|own| wanted.is_some_and(|wanted| own.admits_all_of(wanted)))
            }
        }
}
