//! The operator's commands about objects, for the admin socket.

use axum::Json;
use axum::extract::{Path, State};
use std::sync::Arc;
use terroir_object_storage::backend::ObjectBackend;
use terroir_object_storage::quota::{self, Quota};
use terroir_object_storage::{ops, settings};
use terroir_store::Txn;
use terroir_types::{AccountId, Error};

use crate::admin_api::{ObjectUsage, QuotaRequest};
use crate::admin_server::{Admin, Answer};

pub fn account_id(text: &str) -> Result<AccountId, Error> {
    text.parse().map_err(|_| Error::invalid("InvalidParameterValue", format!("'{text}' is not an account's number")))
}

pub fn known_account(txn: &Txn, account: AccountId) -> Result<(), Error> {
    match terroir_iam::ops::account(txn, account)? {
        Some(_) => Ok(()),
        None => Err(Error::not_found("NoSuchEntity", format!("there is no account {account}"))),
    }
}

pub async fn set_quota(State(admin): State<Arc<Admin>>, Json(request): Json<QuotaRequest>) -> Answer<Vec<ObjectUsage>> {
    let account = account_id(&request.account_id)?;
    let quota = Quota { max_bytes: request.max_bytes, max_objects: request.max_objects };
    let set = |txn: &mut Txn| {
        known_account(txn, account)?;
        let Some(name) = &request.bucket else { return quota::set_for_account(txn, account, quota) };
        let bucket = ops::find_bucket(txn, name)?
            .filter(|bucket| bucket.account == account)
            .ok_or_else(|| Error::not_found("NoSuchBucket", format!("account {account} has no bucket {name}")))?;
        if quota.is_unlimited() {
            settings::remove::<Quota>(txn, bucket.id).map(drop)
        } else {
            settings::put(txn, &bucket, &quota)
        }
    };
    admin.cloud.store.transact(&[], set).await?;
    usage(&admin, account).await
}

pub async fn show_quotas(State(admin): State<Arc<Admin>>, Path(account): Path<String>) -> Answer<Vec<ObjectUsage>> {
    usage(&admin, account_id(&account)?).await
}

/// The account first, then its buckets.
async fn usage(admin: &Admin, account: AccountId) -> Answer<Vec<ObjectUsage>> {
    let txn = admin.cloud.store.read().await?;
    known_account(&txn, account)?;
    let row = |bucket: Option<String>, quota: Quota| ObjectUsage {
        account_id: account.to_string(),
        bucket,
        bytes: 0,
        objects: 0,
        max_bytes: quota.max_bytes,
        max_objects: quota.max_objects,
    };
    let mut rows = vec![row(None, quota::of_account(&txn, account)?)];
    for bucket in ops::list_buckets(&txn, account)? {
        let quota = settings::peek::<Quota>(&txn, bucket.id)?.unwrap_or_default();
        let used = admin.cloud.backend.usage(bucket.id).await.map_err(Error::from)?;
        rows[0].bytes += used.bytes;
        rows[0].objects += used.versions;
        rows.push(ObjectUsage {
            bytes: used.bytes,
            objects: used.versions,
            ..row(Some(bucket.name().to_owned()), quota)
        });
    }
    Ok(Json(rows))
}
