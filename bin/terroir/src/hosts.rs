//! What the agents of this machine dial, wired: the gateway of `compute`, roles from `iam`, bytes from object storage.

use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use terroir_agent_api::{
    BlobSink, ControlPlane, CrossingError, Cursor, HostFacts, HostQuery, HostReport, QueryAnswer, ReportAck,
    RoleCredentials, SpecPage,
};
use terroir_compute::gateway::{HostGateway, RoleCredentialSource};
use terroir_compute::model::{RemovedHost, removed_host_key};
use terroir_iam::Iam;
use terroir_types::{AccountId, Error, HostId, InstanceId};

use crate::server::Cloud;

/// The gateway, for agents on this machine: whoever may open the socket is root here, so its host joins by itself.
pub struct LocalHosts {
    pub gateway: Arc<HostGateway>,
    pub cloud: Cloud,
}

impl LocalHosts {
    async fn join(&self, host: HostId, facts: HostFacts) -> Result<(), CrossingError> {
        let known = terroir_sovereignty::model::host_place_key(host);
        let txn = self.cloud.store.stale();
        if txn.peek::<terroir_sovereignty::model::HostPlaceRecord>(&known).is_ok_and(|host| host.is_some()) {
            return Ok(());
        }
        if removed(&txn, host)? {
            return Err(was_removed(host));
        }
        drop(txn);
        let now = self.cloud.clock.now();
        let zone = self.cloud.settings.zone();
        let join = |txn: &mut terroir_store::Txn| {
            // Tracked: it may be removed in this moment.
            if txn.get::<RemovedHost>(&removed_host_key(host))?.is_some() {
                return Err(Error::conflict("IncorrectState", format!("the host {host} was removed")));
            }
            terroir_compute::ops::register_host(txn, host, &zone, facts.clone(), now)?;
            terroir_sovereignty::ops::sign_host(txn, host, &zone, None, &self.cloud.operator_key, now).map(drop)
        };
        self.cloud.store.transact(&[], join).await.map_err(|error| CrossingError::Refused(error.to_string()))?;
        tracing::info!(%host, "a host joined");
        Ok(())
    }
}

/// Whether the operator has removed this machine's host: then it does not join by itself again.
fn removed(txn: &terroir_store::Txn, host: HostId) -> Result<bool, CrossingError> {
    terroir_compute::ops::was_removed(txn, host).map_err(|error| CrossingError::Unreachable(error.to_string()))
}

fn was_removed(host: HostId) -> CrossingError {
    CrossingError::Refused(format!("{host} was removed; `terroir host readmit {host}` lets it come back"))
}

#[async_trait]
impl ControlPlane for LocalHosts {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        if removed(&self.cloud.store.stale(), host)? {
            // It is there, and has nothing to do: nobody has to wait for it.
            self.cloud.host_dialled.store(true, Ordering::Release);
            return Err(was_removed(host));
        }
        let page = self.gateway.pull_spec(host, cursor, wait).await?;
        self.cloud.host_dialled.store(true, Ordering::Release);
        Ok(page)
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        if let Some(facts) = &report.facts {
            self.join(report.host, facts.clone()).await?;
        }
        self.gateway.report(report).await
    }

    async fn queries(&self, host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        self.gateway.queries(host, wait).await
    }

    async fn answer(&self, host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        self.gateway.answer(host, query, answer).await
    }

    async fn fetch_blob(&self, host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        self.gateway.fetch_blob(host, name, sink).await
    }

    async fn credentials(&self, host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        self.gateway.credentials(host, instance).await
    }
}

pub struct Roles(pub Iam);

#[async_trait]
impl RoleCredentialSource for Roles {
    async fn credentials(
        &self,
        account: AccountId,
        profile: &str,
        instance: InstanceId,
    ) -> Result<Option<RoleCredentials>, Error> {
        let issued = self.0.role_credentials(account, profile, &instance.to_string()).await?;
        Ok(issued.map(|role| RoleCredentials {
            role_name: role.role_name,
            access_key_id: role.session.access_key_id,
            secret_access_key: role.session.secret,
            session_token: role.session.token,
            issued_at: role.session.issued_at,
            expires_at: role.session.expires_at,
        }))
    }
}
