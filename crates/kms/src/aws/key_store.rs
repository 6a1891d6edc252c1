use async_trait::async_trait;
use terroir_action::{Access, Context, LiveAction, LiveContext, Registry, Target};
use terroir_aws_model::{Decode, kms};
use terroir_types::{Error, Secret};

use super::page::page;
use super::{action, present, unsupported};
use crate::KeyService;
use crate::external::{self, About};
use crate::model::{Connection, KeyStore, KeyStoreTenant, Proxy};
use crate::ops;

pub(super) fn register(registry: &mut Registry, service: &KeyService) {
    registry.add_live(CreateCustomKeyStore(service.clone()));
    registry.add_live(ConnectCustomKeyStore(service.clone()));
    registry.add_live(UpdateCustomKeyStore(service.clone()));
    registry.add::<DisconnectCustomKeyStore>();
    registry.add::<DescribeCustomKeyStores>();
    registry.add::<DeleteCustomKeyStore>();
}

const PUBLIC: &str = "PUBLIC_ENDPOINT";

/// Errors: `UnsupportedOperationException`.
fn check_connectivity(asked: Option<&str>) -> Result<(), Error> {
    match asked {
        None | Some(PUBLIC) => Ok(()),
        Some(_) => unsupported("A connectivity other than PUBLIC_ENDPOINT"),
    }
}

fn about(operation: &str, request_id: &str) -> About {
    About {
        aws_principal_arn: None,
        kms_key_arn: None,
        kms_operation: operation.to_owned(),
        kms_request_id: request_id.to_owned(),
        kms_via_service: None,
    }
}

fn anywhere(operation: &str) -> Result<Vec<Target>, Error> {
    Ok(vec![Target::any(format!("kms:{operation}"))])
}

pub(super) struct CreateCustomKeyStore(KeyService);

#[async_trait]
impl LiveAction for CreateCustomKeyStore {
    type Op = kms::ops::CreateCustomKeyStore;
    const ACCESS: Access = Access::Write;

    fn targets(&self, _cx: &Context<'_>, _r: &kms::CreateCustomKeyStoreRequest) -> Result<Vec<Target>, Error> {
        anywhere("CreateCustomKeyStore")
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        r: kms::CreateCustomKeyStoreRequest,
    ) -> Result<kms::CreateCustomKeyStoreResponse, Error> {
        if r.custom_key_store_type.as_deref() != Some("EXTERNAL_KEY_STORE") {
            return unsupported("A custom key store of another type than EXTERNAL_KEY_STORE");
        }
        check_connectivity(r.xks_proxy_connectivity.as_deref())?;
        let credential = present(&r.xks_proxy_authentication_credential, "xksProxyAuthenticationCredential")?;
        let proxy = Proxy {
            endpoint: present(&r.xks_proxy_uri_endpoint, "xksProxyUriEndpoint")?.clone(),
            path: present(&r.xks_proxy_uri_path, "xksProxyUriPath")?.clone(),
            access_key_id: present(&credential.access_key_id, "accessKeyId")?.clone(),
            secret: Secret::new(present(&credential.raw_secret_access_key, "rawSecretAccessKey")?.clone()),
        };
        let (account, now) = (cx.caller.account, cx.clock.now());
        // What is wrong without asking the proxy is told without asking it.
        let new = KeyStoreTenant { name: r.custom_key_store_name.clone(), proxy: proxy.clone() };
        ops::check_new_store(&cx.store.read().await?, account, &new)?;
        let create =
            |txn: &mut terroir_store::Txn| ops::create_store(txn, account, &new.name, new.proxy.clone(), cx.ids, now);
        let about = about("CreateCustomKeyStore", cx.request_id);
        external::check_health(self.0.proxies(), &proxy, &about).await.map_err(external::Fault::of_store)?;
        let (store, _) = cx.store.transact(&[], create).await?;
        Ok(kms::CreateCustomKeyStoreResponse { custom_key_store_id: Some(store.id) })
    }
}

pub(super) struct ConnectCustomKeyStore(KeyService);

#[async_trait]
impl LiveAction for ConnectCustomKeyStore {
    type Op = kms::ops::ConnectCustomKeyStore;
    const ACCESS: Access = Access::Write;

    fn targets(&self, _cx: &Context<'_>, _r: &kms::ConnectCustomKeyStoreRequest) -> Result<Vec<Target>, Error> {
        anywhere("ConnectCustomKeyStore")
    }

    /// It has connected, or failed to, when it answers; DescribeCustomKeyStores says which.
    async fn run(
        &self,
        cx: LiveContext<'_>,
        r: kms::ConnectCustomKeyStoreRequest,
    ) -> Result<kms::ConnectCustomKeyStoreResponse, Error> {
        let (account, id) = (cx.caller.account, &r.custom_key_store_id);
        let store = ops::find_store(&cx.store.read().await?, account, id)?;
        if store.connection == Connection::Connected {
            return Err(Error::conflict(
                "CustomKeyStoreInvalidStateException",
                "The custom key store is connected already.",
            ));
        }
        let about = about("ConnectCustomKeyStore", cx.request_id);
        let connection = match external::check_health(self.0.proxies(), &store.tenant.proxy, &about).await {
            Ok(()) => Connection::Connected,
            Err(fault) => Connection::Failed(fault.connection_error().to_owned()),
        };
        cx.store.transact(&[], |txn| ops::set_connection(txn, account, id, connection.clone())).await?;
        Ok(kms::ConnectCustomKeyStoreResponse::default())
    }
}

pub(super) struct UpdateCustomKeyStore(KeyService);

#[async_trait]
impl LiveAction for UpdateCustomKeyStore {
    type Op = kms::ops::UpdateCustomKeyStore;
    const ACCESS: Access = Access::Write;

    fn targets(&self, _cx: &Context<'_>, _r: &kms::UpdateCustomKeyStoreRequest) -> Result<Vec<Target>, Error> {
        anywhere("UpdateCustomKeyStore")
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        r: kms::UpdateCustomKeyStoreRequest,
    ) -> Result<kms::UpdateCustomKeyStoreResponse, Error> {
        check_connectivity(r.xks_proxy_connectivity.as_deref())?;
        let (account, id) = (cx.caller.account, &r.custom_key_store_id);
        let change = |old: &KeyStore| -> Result<KeyStoreTenant, Error> {
            let mut tenant = old.tenant.clone();
            if let Some(name) = &r.new_custom_key_store_name {
                tenant.name.clone_from(name);
            }
            let proxy = &mut tenant.proxy;
            if let Some(endpoint) = &r.xks_proxy_uri_endpoint {
                proxy.endpoint.clone_from(endpoint);
            }
            if let Some(path) = &r.xks_proxy_uri_path {
                proxy.path.clone_from(path);
            }
            if let Some(credential) = &r.xks_proxy_authentication_credential {
                proxy.access_key_id.clone_from(present(&credential.access_key_id, "accessKeyId")?);
                proxy.secret = Secret::new(present(&credential.raw_secret_access_key, "rawSecretAccessKey")?.clone());
            }
            Ok(tenant)
        };
        let old = ops::find_store(&cx.store.read().await?, account, id)?;
        let tenant = change(&old)?;
        // A name alone needs no proxy.
        if tenant.proxy != old.tenant.proxy {
            let about = about("UpdateCustomKeyStore", cx.request_id);
            external::check_health(self.0.proxies(), &tenant.proxy, &about).await.map_err(external::Fault::of_store)?;
        }
        let update = |txn: &mut terroir_store::Txn| {
            let old = ops::find_store(txn, account, id)?;
            let tenant = change(&old)?;
            ops::update_store(txn, &old, tenant)
        };
        cx.store.transact(&[], update).await?;
        Ok(kms::UpdateCustomKeyStoreResponse::default())
    }
}

action!(DisconnectCustomKeyStore, Write, |_cx, _r| anywhere("DisconnectCustomKeyStore"), |cx, r| {
    let store = ops::find_store(cx.txn, cx.account(), &r.custom_key_store_id)?;
    if store.connection == Connection::Disconnected {
        let message = "The custom key store is not connected.";
        return Err(Error::conflict("CustomKeyStoreInvalidStateException", message));
    }
    ops::set_connection(cx.txn, cx.caller.account, &r.custom_key_store_id, Connection::Disconnected)?;
    Ok(kms::DisconnectCustomKeyStoreResponse::default())
});

action!(DeleteCustomKeyStore, Write, |_cx, _r| anywhere("DeleteCustomKeyStore"), |cx, r| {
    ops::delete_store(cx.txn, cx.caller.account, &r.custom_key_store_id)?;
    Ok(kms::DeleteCustomKeyStoreResponse::default())
});

fn entry(store: &KeyStore) -> kms::CustomKeyStoresListEntry {
    let (state, error) = match &store.connection {
        Connection::Connected => ("CONNECTED", None),
        Connection::Disconnected => ("DISCONNECTED", None),
        Connection::Failed(code) => ("FAILED", Some(code.clone())),
    };
    let proxy = &store.tenant.proxy;
    kms::CustomKeyStoresListEntry {
        custom_key_store_id: Some(store.id.clone()),
        custom_key_store_name: Some(store.tenant.name.clone()),
        custom_key_store_type: Some("EXTERNAL_KEY_STORE".to_owned()),
        connection_state: Some(state.to_owned()),
        connection_error_code: error,
        creation_date: Some(store.created_at),
        xks_proxy_configuration: Some(kms::XksProxyConfigurationType {
            connectivity: Some(PUBLIC.to_owned()),
            access_key_id: Some(proxy.access_key_id.clone()),
            uri_endpoint: Some(proxy.endpoint.clone()),
            uri_path: Some(proxy.path.clone()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

action!(DescribeCustomKeyStores, Read, |_cx, _r| anywhere("DescribeCustomKeyStores"), |cx, r| {
    let stores: Vec<_> = match (&r.custom_key_store_id, &r.custom_key_store_name) {
        (Some(_), Some(_)) => {
            let message = "A custom key store is named by its id or by its name.";
            return Err(Error::invalid("ValidationException", message));
        }
        (Some(id), None) => vec![ops::find_store(cx.txn, cx.account(), id)?],
        (None, name) => {
            let all = cx.txn.peek_range::<KeyStore>(&KeyStore::all(cx.account()))?;
            let named = |store: &KeyStore| name.as_ref().is_none_or(|name| *name == store.tenant.name);
            all.into_iter().map(|(_, store)| store).filter(|store| named(store)).collect()
        }
    };
    if stores.is_empty() && r.custom_key_store_name.is_some() {
        return Err(Error::not_found("CustomKeyStoreNotFoundException", "There is no such custom key store."));
    }
    let scope = format!("{:?} {:?}", r.custom_key_store_id, r.custom_key_store_name);
    let items = stores.into_iter().map(|store| (store.id.clone(), store));
    let page = page(cx, "DescribeCustomKeyStores", &scope, r.page(), (100, 1000), items)?;
    Ok(kms::DescribeCustomKeyStoresResponse {
        custom_key_stores: page.items.iter().map(|store| entry(store)).collect(),
        next_marker: page.next_marker,
        truncated: page.truncated,
    })
});
