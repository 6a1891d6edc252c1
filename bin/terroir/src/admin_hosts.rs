//! The operator's commands about hosts that come and go, for the admin socket.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;
use std::time::Duration;
use terroir_compute::model::HostMode;
use terroir_compute::ops::{self, NewHost};
use terroir_pki::JoinToken;
use terroir_sovereignty::model::{HostPlaceRecord, host_place_key};
use terroir_store::Txn;
use terroir_types::{Error, HostId};

use crate::admin_api::{HostLeft, LeftInstance, LeftVolume, NewTokenAnswer, NewTokenRequest};
use crate::admin_server::{Admin, Answer};
use crate::remote_hosts;

pub fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/hosts/token", post(make_token))
        .route("/hosts/left/{id}", get(left))
        .route("/hosts/declare-lost", post(declare_lost))
        .route("/hosts/readmit", post(readmit))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("InvalidParameterValue", message)
}

async fn make_token(State(admin): State<Arc<Admin>>, Json(request): Json<NewTokenRequest>) -> Answer<NewTokenAnswer> {
    let cloud = &admin.cloud;
    let authority = cloud.host_authority.as_ref().ok_or_else(|| {
        invalid("no host can join: start this cloud with --hosts-listen ADDRESS:PORT, where other machines reach it")
    })?;
    let servers =
        if request.servers.is_empty() { remote_hosts::addresses(&cloud.settings) } else { request.servers.clone() };
    if let Some(wrong) = servers.iter().find(|server| !is_address(server)) {
        return Err(invalid(format!("'{wrong}' is no ADDRESS:PORT that a machine could dial")).into());
    }
    if servers.is_empty() {
        let message = "which address of this machine others dial is not known: give it with --server ADDRESS:PORT, or \
                       set hosts_addresses in terroir.toml";
        return Err(invalid(message).into());
    }
    let token = JoinToken::create(servers, authority.fingerprint(), &*cloud.ids);
    let (hash, now) = (JoinToken::hash(&token.secret), cloud.clock.now());
    let add = |txn: &mut Txn| -> Result<_, Error> {
        // A host that comes back stays where it was.
        let place = match request.host {
            Some(host) => txn.peek::<HostPlaceRecord>(&host_place_key(host))?,
            None => None,
        };
        let known = place.as_ref().map(|place| (place.site.clone(), place.fire_zone.clone()));
        let (known_site, known_fire_zone) = known.unwrap_or_else(|| (cloud.settings.zone(), None));
        let zone = request.site.clone().unwrap_or(known_site);
        let fire_zone = request.fire_zone.clone().or(known_fire_zone);
        let place = NewHost { zone: &zone, fire_zone: fire_zone.as_deref(), host: request.host };
        let life = Duration::from_secs(request.ttl_secs);
        ops::add_join_token(txn, &cloud.settings.operator, &hash, place, life, now)
    };
    let (record, _) = cloud.store.transact(&[], add).await?;
    Ok(Json(NewTokenAnswer {
        token: token.to_text().expose().clone(),
        site: record.zone,
        servers: token.servers,
        expires_at: record.expires_at.to_rfc3339_seconds(),
    }))
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let named =
        host.parse::<std::net::IpAddr>().map_or(!host.is_empty() && !host.contains(':'), |ip| !ip.is_unspecified());
    named && port.parse::<u16>().is_ok_and(|port| port > 0)
}

async fn left(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer<HostLeft> {
    let txn = admin.cloud.store.read().await?;
    let left = ops::left_on(&txn, id.parse()?)?;
    let instance = |(account, id, state): &(terroir_types::AccountId, terroir_types::InstanceId, _)| LeftInstance {
        account_id: account.to_string(),
        instance_id: id.to_string(),
        state: terroir_compute::state::InstanceState::name(*state).to_owned(),
    };
    let volume = |(account, id): &(terroir_types::AccountId, terroir_types::VolumeId)| LeftVolume {
        account_id: account.to_string(),
        volume_id: id.to_string(),
    };
    Ok(Json(HostLeft {
        instances: left.instances.iter().map(instance).collect(),
        volumes: left.volumes.iter().map(volume).collect(),
    }))
}

async fn declare_lost(State(admin): State<Arc<Admin>>, Json(id): Json<HostId>) -> Answer<()> {
    let declare = |txn: &mut Txn| ops::set_host_mode(txn, id, HostMode::Lost);
    admin.cloud.store.transact(&[], declare).await?;
    tracing::warn!(host = %id, "a host was declared lost");
    Ok(Json(()))
}

async fn readmit(State(admin): State<Arc<Admin>>, Json(id): Json<HostId>) -> Answer<()> {
    admin.cloud.store.transact(&[], |txn| ops::readmit(txn, id)).await?;
    Ok(Json(()))
}
