//! The operator's commands about operators, sites, hosts and policies, for the admin socket.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;
use terroir_compute::model::{Enrolment, Host, HostMode, HostStatus, host_key, host_status_key};
use terroir_policy::{Operator, Site};
use terroir_sovereignty::model::{HostPlaceRecord, OperatorRecord, Policies, SiteRecord, host_place_key};
use terroir_sovereignty::ops;
use terroir_store::{Key, Txn};
use terroir_types::{Error, HostId};

use crate::admin_api::{
    HostFireZone, HostModeRequest, HostRow, OperatorChange, OperatorRow, PoliciesAnswer, PolicyRequest, SiteChange,
    SiteRow, StatementRequest,
};
use crate::admin_objects::{account_id, known_account};
use crate::admin_server::{Admin, Answer};
use crate::server::zones;

pub fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/operators", get(list_operators).post(add_operator))
        .route("/operators/own", post(set_operator))
        .route("/sites", get(list_sites).post(add_site))
        .route("/sites/own", post(set_site))
        .route("/hosts", get(list_hosts))
        .route("/hosts/mode", post(set_host_mode))
        .route("/hosts/fire-zone", post(set_fire_zone))
        .route("/hosts/remove", post(remove_host))
        .route("/policies", post(set_policy))
        .merge(crate::admin_hosts::routes())
        .merge(crate::admin_receipts::routes())
        .route("/policies/{account}", get(show_policies))
}

/// Runs a change; gives what it gave.
async fn change<R>(admin: &Admin, change: impl Fn(&mut Txn) -> Result<R, Error>) -> Result<R, Error> {
    Ok(admin.cloud.store.transact(&[], change).await?.0)
}

fn operator_row(admin: &Admin, record: &OperatorRecord) -> OperatorRow {
    OperatorRow {
        own: record.operator.id == admin.cloud.settings.operator,
        operator: record.operator.clone(),
        key: record.key.clone(),
        generation: record.generation,
        signed: record.signed.clone(),
    }
}

async fn list_operators(State(admin): State<Arc<Admin>>) -> Answer<Vec<OperatorRow>> {
    let txn = admin.cloud.store.read().await?;
    Ok(Json(ops::list_operators(&txn)?.iter().map(|record| operator_row(&admin, record)).collect()))
}

async fn add_operator(State(admin): State<Arc<Admin>>, Json(request): Json<StatementRequest>) -> Answer<OperatorRow> {
    let now = admin.cloud.clock.now();
    let record = change(&admin, |txn| ops::put_operator(txn, &request.statement, now)).await?;
    Ok(Json(operator_row(&admin, &record)))
}

/// What was not given stays as it is.
fn set<T: Clone>(attribute: &mut T, given: Option<&T>) {
    if let Some(given) = given {
        attribute.clone_from(given);
    }
}

fn set_some<T: Clone>(attribute: &mut Option<T>, given: Option<&T>) {
    if given.is_some() {
        *attribute = given.cloned();
    }
}

async fn set_operator(State(admin): State<Arc<Admin>>, Json(request): Json<OperatorChange>) -> Answer<OperatorRow> {
    let (now, key) = (admin.cloud.clock.now(), &admin.cloud.operator_key);
    let record = change(&admin, |txn| {
        let mut operator = Operator::clone(&ops::find_operator(txn, &admin.cloud.settings.operator)?.operator);
        set(&mut operator.name, request.name.as_ref());
        set(&mut operator.parent, request.parent.as_ref());
        set_some(&mut operator.seat, request.seat.as_ref());
        set_some(&mut operator.parent_country, request.parent_country.as_ref());
        if let Some(jurisdictions) = &request.jurisdictions {
            operator.jurisdictions = Some(jurisdictions.iter().cloned().collect());
        }
        if let Some(certifications) = &request.certifications {
            operator.certifications = certifications.iter().cloned().collect();
        }
        ops::sign_operator(txn, operator, key, now)
    });
    Ok(Json(operator_row(&admin, &*record.await?)))
}

fn site_row(admin: &Admin, record: &SiteRecord) -> SiteRow {
    SiteRow {
        zone_id: ops::zone_id(&admin.cloud.settings.region, record),
        site: record.site.clone(),
        generation: record.generation,
        signed: record.signed.clone(),
    }
}

async fn list_sites(State(admin): State<Arc<Admin>>) -> Answer<Vec<SiteRow>> {
    let txn = admin.cloud.store.read().await?;
    Ok(Json(ops::list_sites(&txn)?.iter().map(|record| site_row(&admin, record)).collect()))
}

/// A zone for the API, as soon as it is one.
async fn show_zones(admin: &Admin) -> Result<(), Error> {
    let txn = admin.cloud.store.read().await?;
    admin.cloud.region.set_zones(zones(&txn, &admin.cloud.settings.region)?);
    Ok(())
}

async fn add_site(State(admin): State<Arc<Admin>>, Json(request): Json<StatementRequest>) -> Answer<SiteRow> {
    let (now, region) = (admin.cloud.clock.now(), &admin.cloud.settings.region);
    let record = change(&admin, |txn| ops::put_site(txn, region, &request.statement, now)).await?;
    show_zones(&admin).await?;
    Ok(Json(site_row(&admin, &record)))
}

async fn set_site(State(admin): State<Arc<Admin>>, Json(request): Json<SiteChange>) -> Answer<SiteRow> {
    let (now, region) = (admin.cloud.clock.now(), &admin.cloud.settings.region);
    let record = change(&admin, |txn| {
        let operator = &admin.cloud.settings.operator;
        let found = ops::find_site(txn, &request.id);
        let mut site = match (request.is_new, found) {
            (true, Ok(_)) => {
                return Err(Error::conflict("EntityAlreadyExists", format!("there is a site '{}'", request.id)));
            }
            (true, Err(_)) => Site { id: request.id.clone(), operator: operator.clone(), ..Site::default() },
            (false, found) => found?.site.clone(),
        };
        if site.operator != *operator {
            let message = format!("'{}' is a site of {}: only that one can say what it is", site.id, site.operator);
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        set(&mut site.city, request.city.as_ref());
        set(&mut site.grid_zone, request.grid_zone.as_ref());
        set_some(&mut site.country, request.country.as_ref());
        set_some(&mut site.pue_milli, request.pue_milli.as_ref());
        if let Some(fire_zones) = &request.fire_zones {
            site.fire_zones = fire_zones.iter().cloned().collect();
        }
        ops::sign_site(txn, region, site, &admin.cloud.operator_key, now)
    })
    .await?;
    show_zones(&admin).await?;
    Ok(Json(site_row(&admin, &record)))
}

async fn list_hosts(State(admin): State<Arc<Admin>>) -> Answer<Vec<HostRow>> {
    let txn = admin.cloud.store.read().await?;
    let mut rows = Vec::new();
    for (_, host) in txn.peek_range::<Host>(&Key::new("host"))? {
        let status = txn.peek::<HostStatus>(&host_status_key(host.id))?;
        let place = txn.peek::<HostPlaceRecord>(&host_place_key(host.id))?;
        rows.push(HostRow {
            id: host.id,
            name: status.map(|status| status.facts.name.clone()).unwrap_or_default(),
            site: host.zone.clone(),
            fire_zone: place.and_then(|place| place.fire_zone.clone()),
            mode: match host.mode {
                HostMode::Active => "active",
                HostMode::Cordoned => "cordoned",
                HostMode::Lost => "lost",
            }
            .to_owned(),
        });
    }
    for (_, enrolment) in txn.peek_range::<Enrolment>(&Key::new("host-enrolment"))? {
        if txn.peek::<Host>(&host_key(enrolment.host))?.is_none() {
            rows.push(HostRow {
                id: enrolment.host,
                name: String::new(),
                site: enrolment.zone.clone(),
                fire_zone: enrolment.fire_zone.clone(),
                mode: "joined".to_owned(),
            });
        }
    }
    Ok(Json(rows))
}

async fn set_host_mode(State(admin): State<Arc<Admin>>, Json(request): Json<HostModeRequest>) -> Answer<()> {
    let mode = if request.cordoned { HostMode::Cordoned } else { HostMode::Active };
    change(&admin, |txn| {
        let host = txn.get::<Host>(&host_key(request.id))?;
        if host.is_some_and(|host| host.mode == HostMode::Lost) {
            let message = format!("The host {} was declared lost and does not come back.", request.id);
            return Err(Error::conflict("IncorrectState", message));
        }
        terroir_compute::ops::set_host_mode(txn, request.id, mode)
    })
    .await?;
    Ok(Json(()))
}

async fn set_fire_zone(State(admin): State<Arc<Admin>>, Json(request): Json<HostFireZone>) -> Answer<()> {
    let (now, key) = (admin.cloud.clock.now(), &admin.cloud.operator_key);
    change(&admin, |txn| {
        let host = txn.get::<Host>(&host_key(request.id))?;
        let site = host.map(|host| host.zone.clone()).ok_or_else(|| {
            Error::not_found("InvalidHostID.NotFound", format!("The host ID '{}' does not exist", request.id))
        })?;
        ops::sign_host(txn, request.id, &site, Some(request.fire_zone.clone()), key, now).map(drop)
    })
    .await?;
    Ok(Json(()))
}

async fn remove_host(State(admin): State<Arc<Admin>>, Json(id): Json<HostId>) -> Answer<()> {
    let now = admin.cloud.clock.now();
    change(&admin, |txn| terroir_compute::ops::remove_host(txn, id, now)).await?;
    Ok(Json(()))
}

fn answer(account: &str, policies: &Policies) -> Result<PoliciesAnswer, Error> {
    let json = |policy: &terroir_policy::Policy| serde_json::from_str(&policy.to_json()).map_err(Error::internal);
    Ok(PoliciesAnswer {
        account_id: account.to_owned(),
        policy: json(&policies.account)?,
        named: policies
            .named
            .iter()
            .map(|(name, policy)| Ok((name.clone(), json(policy)?)))
            .collect::<Result<_, Error>>()?,
    })
}

async fn set_policy(State(admin): State<Arc<Admin>>, Json(request): Json<PolicyRequest>) -> Answer<PoliciesAnswer> {
    let (account, now) = (account_id(&request.account_id)?, admin.cloud.clock.now());
    let policies = change(&admin, |txn| {
        known_account(txn, account)?;
        match (&request.name, &request.document) {
            (None, Some(document)) => ops::set_account_policy(txn, account, document, now),
            (Some(name), Some(document)) => ops::set_named_policy(txn, account, name, document, now),
            (Some(name), None) => ops::remove_named_policy(txn, account, name, now),
            (None, None) => Err(Error::invalid("InvalidParameterValue", "give a document or a name")),
        }
    })
    .await?;
    Ok(Json(answer(&request.account_id, &policies)?))
}

async fn show_policies(State(admin): State<Arc<Admin>>, Path(account): Path<String>) -> Answer<PoliciesAnswer> {
    let number = account_id(&account)?;
    let txn = admin.cloud.store.read().await?;
    known_account(&txn, number)?;
    Ok(Json(answer(&account, &ops::policies(&txn, number)?)?))
}
