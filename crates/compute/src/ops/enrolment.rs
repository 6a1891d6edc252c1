use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::HostFacts;
use terroir_sovereignty::ops::find_site;
use terroir_store::{Key, Txn};
use terroir_types::{Error, ErrorClass, HostId, Timestamp};

use super::host::{no_host, register_host};
use crate::model::{
    Enrolment, Host, HostAuthority, HostMode, JoinTokenRecord, RemovedHost, enrolment_key, host_authority_key,
    host_key, join_token_key, removed_host_key,
};

/// Longest life of a token.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Tokens that count at the same time.
const MAX_TOKENS: usize = 10_000;

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("InvalidParameterValue", message)
}

fn not_let_in(message: &str) -> Error {
    Error::new(ErrorClass::Denied, "AccessDenied", message)
}

/// Where a machine that joins belongs.
#[derive(Debug, Clone, Copy)]
pub struct NewHost<'a> {
    pub zone: &'a str,
    pub fire_zone: Option<&'a str>,
    /// Only this host, which may be one already.
    pub host: Option<HostId>,
}

/// Makes a token count, by its hash. Those that are over are forgotten on the way.
///
/// Errors: `NoSuchEntity` for a site that is not known; `InvalidParameterValue` for another operator's site, a fire zone
/// that the site has not, a host that was declared lost, a life that is none or too long; `InvalidHostID.NotFound`; `LimitExceeded`.
pub fn add_join_token(
    txn: &mut Txn,
    operator: &str,
    hash: &str,
    place: NewHost<'_>,
    life: Duration,
    now: Timestamp,
) -> Result<JoinTokenRecord, Error> {
    let site = find_site(txn, place.zone)?;
    if site.site.operator != operator {
        let message =
            format!("'{}' is a site of {}: only that one lets hosts join there", place.zone, site.site.operator);
        return Err(invalid(message));
    }
    if let Some(zone) = place.fire_zone.filter(|zone| !site.site.fire_zones.contains(*zone)) {
        return Err(invalid(format!("the site '{}' has no fire zone '{zone}'", place.zone)));
    }
    if life.is_zero() || life > MAX_TOKEN_LIFE {
        return Err(invalid("a token counts for a second at least and for seven days at most"));
    }
    if let Some(host) = place.host {
        let known = find_enrolment(txn, host)?.ok_or_else(|| no_host(host))?;
        if known.zone != place.zone {
            return Err(invalid(format!("the host {host} is at the site '{}'", known.zone)));
        }
        if txn.get::<Host>(&host_key(host))?.is_some_and(|host| host.mode == HostMode::Lost) {
            return Err(invalid(format!("the host {host} was declared lost and does not come back")));
        }
    }
    let mut count = 0;
    for (key, token) in txn.range::<JoinTokenRecord>(&Key::new("join-token"))? {
        if token.expires_at <= now {
            txn.delete(&key);
        } else {
            count += 1;
        }
    }
    if count >= MAX_TOKENS {
        return Err(Error::conflict("LimitExceeded", format!("{MAX_TOKENS} tokens wait to be used")));
    }
    let record = JoinTokenRecord {
        zone: place.zone.to_owned(),
        fire_zone: place.fire_zone.map(str::to_owned),
        host: place.host,
        created_at: now,
        expires_at: now.plus(life),
    };
    txn.put(&join_token_key(hash), &record)?;
    Ok(record)
}

/// Spends a token on a host. Of two that come with the same token one gets in, since both read it.
///
/// Errors: `AccessDenied` for a token that does not count, and for a host that is one already.
pub fn enrol(
    txn: &mut Txn,
    hash: &str,
    host: HostId,
    key_sha256: &str,
    now: Timestamp,
) -> Result<Arc<Enrolment>, Error> {
    let before = find_enrolment(txn, host)?;
    let token = txn.get::<JoinTokenRecord>(&join_token_key(hash))?.filter(|token| now < token.expires_at);
    let Some(token) = token else {
        let is_again = |before: &Arc<Enrolment>| {
            before.token == hash && before.key_sha256 == key_sha256 && now < before.token_expires_at
        };
        return before
            .filter(is_again)
            .ok_or_else(|| not_let_in("the token does not count: it was used, is too old, or never was one"));
    };
    if token.host.is_some_and(|wanted| wanted != host) {
        return Err(not_let_in("the token is for another host"));
    }
    if token.host.is_none() && (before.is_some() || txn.get::<Host>(&host_key(host))?.is_some()) {
        return Err(not_let_in("this host has joined already; `terroir host token --host ID` lets it join again"));
    }
    let enrolment = Enrolment {
        host,
        zone: token.zone.clone(),
        fire_zone: token.fire_zone.clone(),
        enrolled_at: before.map_or(now, |before| before.enrolled_at),
        token: hash.to_owned(),
        token_expires_at: token.expires_at,
        key_sha256: key_sha256.to_owned(),
    };
    txn.delete(&join_token_key(hash));
    if txn.get::<RemovedHost>(&removed_host_key(host))?.is_some() {
        txn.delete(&removed_host_key(host));
    }
    txn.put(&enrolment_key(host), &enrolment)?;
    Ok(Arc::new(enrolment))
}

/// None for a host that has not joined, or was removed.
pub fn find_enrolment(txn: &Txn, host: HostId) -> Result<Option<Arc<Enrolment>>, Error> {
    txn.get::<Enrolment>(&enrolment_key(host))
}

/// Makes a host that has joined known, once it says what it has.
///
/// Errors: `AccessDenied` for a host that has not joined.
pub fn register_enrolled(txn: &mut Txn, host: HostId, facts: HostFacts, now: Timestamp) -> Result<(), Error> {
    let enrolment = find_enrolment(txn, host)?.ok_or_else(|| not_let_in("this host has not joined, or was removed"))?;
    register_host(txn, host, &enrolment.zone, facts, now)
}

/// Lets the host of the control plane's own machine come back after it was removed. Others come back with a token.
///
/// Errors: `InvalidHostID.NotFound` for a host that was not removed.
pub fn readmit(txn: &mut Txn, host: HostId) -> Result<(), Error> {
    txn.get::<RemovedHost>(&removed_host_key(host))?.ok_or_else(|| no_host(host))?;
    txn.delete(&removed_host_key(host));
    Ok(())
}

/// Not tracked.
pub fn was_removed(txn: &Txn, host: HostId) -> Result<bool, Error> {
    Ok(txn.peek::<RemovedHost>(&removed_host_key(host))?.is_some())
}

/// The authority that is known of an operator, which is `offered` if none was.
pub fn ensure_authority(txn: &mut Txn, operator: &str, offered: &HostAuthority) -> Result<Arc<HostAuthority>, Error> {
    let key = host_authority_key(operator);
    if let Some(known) = txn.get::<HostAuthority>(&key)? {
        return Ok(known);
    }
    txn.put(&key, offered)?;
    Ok(Arc::new(offered.clone()))
}
