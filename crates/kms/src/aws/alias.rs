use std::sync::Arc;
use terroir_action::{Context, Registry, Target};
use terroir_aws_model::{Decode, Empty, kms};
use terroir_types::{Arn, Error};

use super::page::page;
use super::{OWN, action, on_key, the_key};
use crate::access::Use;
use crate::model::{Alias, KmsKey};
use crate::ops;
use crate::reference::{Found, Reference};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CreateAlias>();
    registry.add::<UpdateAlias>();
    registry.add::<DeleteAlias>();
    registry.add::<ListAliases>();
}

/// The permission on an alias, which only the account's own policies can give.
fn on_alias(cx: &Context<'_>, operation: &str, name: &str) -> Target {
    Target::on(format!("kms:{operation}"), alias_arn(cx, name))
}

fn alias_arn(cx: &Context<'_>, name: &str) -> Arn {
    Arn::new("kms", &cx.region.name, Some(cx.account()), name)
}

/// The permission on the key that an alias has now, if there is such a key.
fn on_its_key(cx: &Context<'_>, operation: &str, name: &str) -> Result<Option<Target>, Error> {
    let found = Found::look(cx.txn, Reference::Alias(cx.account(), name.to_owned()))?;
    found
        .key
        .clone()
        .map(|key: Arc<KmsKey>| {
            let found = Found { reference: Reference::Key(key.account, key.id), key: Some(key) };
            super::asker(cx).target(cx.txn, operation, &found, Use::Manage)
        })
        .transpose()
}

action!(
    CreateAlias,
    Write,
    |cx, r| {
        let key = on_key(cx, "CreateAlias", &r.target_key_id, OWN, Use::Manage)?;
        Ok(vec![on_alias(cx, "CreateAlias", &r.alias_name), key])
    },
    |cx, r| {
        let key = the_key(cx, &r.target_key_id, OWN)?;
        ops::create_alias(cx.txn, &key, &cx.region.name, &r.alias_name, cx.now)?;
        Ok(Empty)
    }
);

action!(
    UpdateAlias,
    Write,
    |cx, r| {
        let key = on_key(cx, "UpdateAlias", &r.target_key_id, OWN, Use::Manage)?;
        let alias = on_alias(cx, "UpdateAlias", &r.alias_name);
        Ok([Some(alias), on_its_key(cx, "UpdateAlias", &r.alias_name)?, Some(key)].into_iter().flatten().collect())
    },
    |cx, r| {
        let key = the_key(cx, &r.target_key_id, OWN)?;
        ops::update_alias(cx.txn, &key, &cx.region.name, &r.alias_name, cx.now)?;
        Ok(Empty)
    }
);

action!(
    DeleteAlias,
    Write,
    |cx, r| {
        let alias = on_alias(cx, "DeleteAlias", &r.alias_name);
        Ok([Some(alias), on_its_key(cx, "DeleteAlias", &r.alias_name)?].into_iter().flatten().collect())
    },
    |cx, r| {
        ops::delete_alias(cx.txn, cx.caller.account, &cx.region.name, &r.alias_name)?;
        Ok(Empty)
    }
);

action!(ListAliases, Read, |_cx, _r| Ok(vec![Target::any("kms:ListAliases")]), |cx, r| {
    let key = r.key_id.as_deref().map(|text| the_key(cx, text, OWN)).transpose()?;
    let mut all: Vec<_> = cx
        .txn
        .peek_range::<Alias>(&Alias::all(cx.account()))?
        .into_iter()
        .map(|(_, alias)| alias)
        .filter(|alias| key.as_ref().is_none_or(|key| key.id == alias.key))
        .collect();
    all.sort_by(|a, b| a.tenant.name.cmp(&b.tenant.name));
    let scope = key.map(|key| key.id.to_string()).unwrap_or_default();
    let items = all.into_iter().map(|alias| (alias.tenant.name.clone(), alias));
    let page = page(cx, "ListAliases", &scope, r.page(), (50, 100), items)?;
    let entry = |alias: Arc<Alias>| kms::AliasListEntry {
        alias_arn: Some(alias_arn(cx, &alias.tenant.name).to_string()),
        alias_name: Some(alias.tenant.name.clone()),
        creation_date: Some(alias.created_at),
        last_updated_date: Some(alias.updated_at),
        target_key_id: Some(alias.key.to_string()),
    };
    let aliases = page.items.into_iter().map(entry).collect();
    Ok(kms::ListAliasesResponse { aliases, next_marker: page.next_marker, truncated: page.truncated })
});
