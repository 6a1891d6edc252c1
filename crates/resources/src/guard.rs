use serde::{Deserialize, Serialize};
use std::fmt::Display;
use terroir_store::{Key, Txn, record};
use terroir_types::{AccountId, Error};

/// A number that transactions agree on: how many of something an account has. Two transactions that change the same
/// count conflict, so a limit holds exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    #[serde(rename = "n")]
    pub count: i64,
}

record!(Count { kind: "guard", version: 1 });

fn guard_key(account: AccountId, name: impl Display) -> Key {
    Key::new(format!("guard/{account}/{name}"))
}

/// Adds `delta` to the account's count `name` and gives the new count. A count that comes to zero is removed.
///
/// Errors: `over()` if the count grew above `limit`. Shrinking is always allowed, also above a lowered limit.
pub fn add_to_count(
    txn: &mut Txn,
    account: AccountId,
    name: &str,
    delta: i64,
    limit: i64,
    over: impl FnOnce() -> Error,
) -> Result<i64, Error> {
    let key = guard_key(account, name);
    let before = txn.get::<Count>(&key)?.map_or(0, |guard| guard.count);
    let after = before.saturating_add(delta);
    if delta > 0 && after > limit {
        return Err(over());
    }
    if after < 0 {
        return Err(Error::internal(format_args!("the count {key} would become {after}")));
    }
    if after == 0 {
        // A row that is rewritten and then gone again still conflicts with whoever read it.
        if before != 0 {
            txn.delete(&key);
        }
    } else {
        txn.put(&key, &Count { count: after })?;
    }
    Ok(after)
}

/// What the count is; for showing, not for deciding.
pub fn count(txn: &Txn, account: AccountId, name: &str) -> Result<i64, Error> {
    Ok(txn.peek::<Count>(&guard_key(account, name))?.map_or(0, |guard| guard.count))
}
