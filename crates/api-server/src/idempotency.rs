//! Requests that may be repeated: the answer to a client token is kept in the transaction that made it.
//!
//! Rows live for 24 hours. A row that keeps a receipt instead of the body (RunInstances) lives on as long as one of the
//! resources that the receipt names is registered. Rows are outside the in-memory view.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::Duration;
use terroir_action::{Call, Context, Reply};
use terroir_aws_model::Service;
use terroir_resources::Resource;
use terroir_store::{Key, Store, Txn, record};
use terroir_types::{AccountId, Error, ErrorClass, Timestamp};

const LIFETIME: Duration = Duration::from_secs(24 * 3600);
const MAX_TOKEN_BYTES: usize = 128;
/// Rows looked at, and rows deleted, at a time.
const PAGE: usize = 500;

/// The answer that a client token had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdempotencyRow {
    pub account: AccountId,
    pub created_at: Timestamp,
    #[serde(skip, default)]
    pub tenant: IdempotencyTenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdempotencyTenant {
    /// SHA-256 of the request's parameters, in hex.
    pub fingerprint: String,
    pub request_id: String,
    pub receipt: Option<String>,
    pub body: Option<String>,
}

record!(IdempotencyRow {
    kind: "~idempotency",
    version: 1,
    in_view: false,
    account: |r| Some(r.account),
    tenant: tenant: IdempotencyTenant
});

/// A client token in use: where its row is and what the request said.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub key: Key,
    fingerprint: String,
}

impl Token {
    /// Errors: `InvalidParameterValue` for a token that is too long.
    pub(crate) fn new(
        txn: &Txn,
        account: AccountId,
        service: Service,
        action: &str,
        token: &str,
        parameters: &[(String, String)],
    ) -> Result<Self, Error> {
        if token.len() > MAX_TOKEN_BYTES {
            let message = format!("The client token has more than {MAX_TOKEN_BYTES} bytes.");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        let mac = txn.name_mac(Some(account), "client-token", token);
        let key = Key::new(format!("~idempotency/{account}/{}/{action}/{mac}", service.signing_name()));
        Ok(Self { key, fingerprint: fingerprint(parameters) })
    }

    /// The answer of an earlier request with this token, if there was one.
    ///
    /// Errors: `IdempotentParameterMismatch`; those of the replay.
    pub(crate) fn replay(&self, call: &dyn Call, cx: &mut Context<'_>) -> Result<Option<Reply>, Error> {
        let Some(row) = cx.txn.get::<IdempotencyRow>(&self.key)? else { return Ok(None) };
        let is_old = cx.now.since(row.created_at) >= LIFETIME;
        let kept = &row.tenant;
        match (&kept.receipt, &kept.body) {
            (Some(receipt), _) => {
                if is_old && !is_alive(cx.txn, row.account, receipt)? {
                    return Ok(None);
                }
                self.check(kept)?;
                call.replay(cx, receipt).map(Some)
            }
            (None, _) if is_old => Ok(None),
            (None, body) => {
                self.check(kept)?;
                let body = body.as_deref().unwrap_or_default().replace(&kept.request_id, cx.request_id);
                Ok(Some(Reply { body, receipt: None }))
            }
        }
    }

    fn check(&self, kept: &IdempotencyTenant) -> Result<(), Error> {
        if kept.fingerprint == self.fingerprint {
            return Ok(());
        }
        Err(Error::new(
            ErrorClass::Invalid,
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        ))
    }

    /// Keeps the answer, in the transaction that made it.
    pub(crate) fn keep(&self, cx: &mut Context<'_>, reply: &Reply) -> Result<(), Error> {
        let body = if reply.receipt.is_none() { Some(reply.body.clone()) } else { None };
        let row = IdempotencyRow {
            account: cx.caller.account,
            created_at: cx.now,
            tenant: IdempotencyTenant {
                fingerprint: self.fingerprint.clone(),
                request_id: cx.request_id.to_owned(),
                receipt: reply.receipt.clone(),
                body,
            },
        };
        cx.txn.put(&self.key, &row)
    }
}

/// Of the parameters in order of their names; those of signing do not count.
fn fingerprint(parameters: &[(String, String)]) -> String {
    let mut digest = Sha256::new();
    for (name, value) in parameters.iter().filter(|(name, _)| !name.to_ascii_lowercase().starts_with("x-amz-")) {
        for text in [name, value] {
            digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(text.as_bytes());
        }
    }
    hex::encode(digest.finalize())
}

/// Whether one of the resources that a receipt names is still there. Ids are what is between other characters.
fn is_alive(txn: &Txn, account: AccountId, receipt: &str) -> Result<bool, Error> {
    let ids = receipt.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    for id in ids.filter(|id| id.contains('-')) {
        let key = terroir_resources::key(account, id);
        if txn.peek::<Resource>(&key)?.is_some_and(|row| row.deleted_at.is_none()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes rows whose time is over. Returns how many.
pub(crate) async fn sweep(store: &Store, now: Timestamp) -> Result<usize, Error> {
    let prefix = Key::new("~idempotency");
    let (mut after, mut deleted) = (None, 0);
    loop {
        let rows = store.range_direct::<IdempotencyRow>(&prefix, after.as_ref(), PAGE).await?;
        let Some((last, _)) = rows.last() else { return Ok(deleted) };
        after = Some(last.clone());
        // Not older than the rows: what a row answers for may have been made with it.
        let txn = store.read().await?;
        let mut dead = Vec::new();
        for (key, row) in &rows {
            let is_old = now.since(row.created_at) >= LIFETIME;
            let alive = match &row.tenant.receipt {
                Some(receipt) if is_old => is_alive(&txn, row.account, receipt)?,
                _ => !is_old,
            };
            if !alive {
                dead.push(key.clone());
            }
        }
        deleted += dead.len();
        if !dead.is_empty() {
            // Reading them makes a row that was just written again a conflict, not a victim.
            let check = |txn: &mut Txn| {
                for key in &dead {
                    let fresh = txn.get::<IdempotencyRow>(key)?.is_some_and(|row| now.since(row.created_at) < LIFETIME);
                    if !fresh {
                        txn.delete(key);
                    }
                }
                Ok(())
            };
            store.transact(&dead, check).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_sweep_deletes_what_is_over_and_nothing_else() {
        let store = Store::in_memory_for_tests().await;
        let account = AccountId::from_number(123_456_789_012).expect("twelve digits");
        let start = Timestamp::from_secs(1_000_000);
        let row = |created_at, receipt: Option<&str>| IdempotencyRow {
            account,
            created_at,
            tenant: IdempotencyTenant { receipt: receipt.map(str::to_owned), ..IdempotencyTenant::default() },
        };
        let key = |n: usize| Key::new(format!("~idempotency/{account}/ec2/X/{n:04}"));
        let fresh = start.plus(LIFETIME).minus(Duration::from_secs(1));
        let fill = |txn: &mut Txn| {
            terroir_resources::register(txn, account, "i-1", "instance", Default::default(), start)?;
            for n in 0..PAGE + 10 {
                txn.put(&key(n), &row(start, None))?;
            }
            txn.put(&key(7), &row(fresh, None))?;
            txn.put(&key(8), &row(start, Some("r-1 i-1")))?;
            txn.put(&key(9), &row(start, Some("r-2 i-2")))
        };
        store.transact(&[], fill).await.expect("filled");
        assert_eq!(sweep(&store, start.plus(LIFETIME)).await.expect("swept"), PAGE + 8);
        let left = store.range_direct::<IdempotencyRow>(&Key::new("~idempotency"), None, 1000).await.expect("read");
        assert_eq!(left.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key(7), key(8)]);
    }
}
