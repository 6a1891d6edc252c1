use terroir_action::{Registry, Target};
use terroir_aws_model::{Decode, Empty, iam};
use terroir_types::Error;

use super::page::page;
use super::user::Subject;
use super::{action, targets};
use crate::model::{AccessKey, AccessKeyUse, User};
use crate::names::{self, Entity};
use crate::ops;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateAccessKey>();
    registry.add::<ListAccessKeys>();
    registry.add::<UpdateAccessKey>();
    registry.add::<DeleteAccessKey>();
    registry.add::<GetAccessKeyLastUsed>();
}

fn status(key: &AccessKey) -> Option<String> {
    Some(if key.active { "Active" } else { "Inactive" }.to_owned())
}

action!(CreateAccessKey, Write, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    let (key, secret) = ops::create_access_key(cx.txn, cx.caller.account, subject.owner(), cx.ids, cx.now)?;
    let shape = iam::AccessKey {
        access_key_id: Some(key.id.clone()),
        create_date: Some(key.created_at),
        secret_access_key: Some(secret.expose().clone()),
        status: status(&key),
        user_name: subject.name(),
    };
    Ok(iam::CreateAccessKeyResponse { access_key: Some(shape) })
});

action!(ListAccessKeys, Read, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    let mut keys = ops::list_access_keys(cx.txn, cx.account(), subject.owner())?;
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    let keyed = keys.iter().map(|key| {
        let shape = iam::AccessKeyMetadata {
            access_key_id: Some(key.id.clone()),
            create_date: Some(key.created_at),
            status: status(key),
            user_name: subject.name(),
        };
        (key.id.clone(), shape)
    });
    let scope = subject.name().unwrap_or_default();
    let page = page(cx, "ListAccessKeys", &scope, r.page(), keyed)?;
    Ok(iam::ListAccessKeysResponse {
        access_key_metadata: page.items,
        is_truncated: page.is_truncated,
        marker: page.marker,
    })
});

action!(UpdateAccessKey, Write, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let active = match r.status.as_str() {
        "Active" => true,
        "Inactive" => false,
        other => {
            let message = format!(
                "1 validation error detected: Value '{other}' at 'status' failed to satisfy constraint: Member must satisfy enum value set: [Active, Inactive]"
            );
            return Err(Error::invalid("ValidationError", message));
        }
    };
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    ops::set_access_key_active(cx.txn, cx.caller.account, subject.owner(), &r.access_key_id, active)?;
    Ok(Empty)
});

action!(DeleteAccessKey, Write, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
    let subject = Subject::of(cx, r.user_name.as_ref())?;
    ops::delete_access_key(cx.txn, cx.caller.account, subject.owner(), &r.access_key_id)?;
    Ok(Empty)
});

action!(
    GetAccessKeyLastUsed,
    Read,
    |cx, r| {
        let key = cx.txn.get::<AccessKey>(&AccessKey::key(&r.access_key_id))?.filter(|key| key.account == cx.account());
        let user = match key.as_ref().and_then(|key| key.user.as_ref()) {
            Some(id) => names::by_id::<User>(cx.txn, cx.account(), id)?,
            None => None,
        };
        match user {
            Some(user) => Ok(vec![Target::on("", user.arn())]),
            None => targets::one::<User>(cx, "*"),
        }
    },
    |cx, r| {
        let id = &r.access_key_id;
        let key = cx.txn.get::<AccessKey>(&AccessKey::key(id))?.filter(|key| key.account == cx.account());
        let unknown = || Error::not_found("NoSuchEntity", format!("The Access Key with id {id} cannot be found."));
        let key = key.ok_or_else(unknown)?;
        let user_name = match &key.user {
            Some(user) => names::by_id::<User>(cx.txn, cx.account(), user)?.map(|user| user.name().to_owned()),
            None => ops::account(cx.txn, cx.account())?.map(|account| account.tenant.name.clone()),
        };
        let used = cx.txn.get::<AccessKeyUse>(&AccessKeyUse::key(id))?;
        let never = || Some("N/A".to_owned());
        let last = iam::AccessKeyLastUsed {
            last_used_date: used.as_ref().map(|used| used.at),
            region: used.as_ref().map_or_else(never, |used| Some(used.region.clone())),
            service_name: used.as_ref().map_or_else(never, |used| Some(used.service.clone())),
        };
        Ok(iam::GetAccessKeyLastUsedResponse { access_key_last_used: Some(last), user_name })
    }
);
