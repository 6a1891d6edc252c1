use std::sync::Arc;
use terroir_policy::{
    HostStatement, Operator, OperatorStatement, Site, SiteStatement, StatementError, is_country, is_operator_id,
    is_territory, open, peek, sign,
};
use terroir_store::{Key, Txn};
use terroir_tlog::{SigningKey, VerifierKey};
use terroir_types::{Error, HostId, Timestamp};

use crate::model::{
    HostPlaceRecord, OperatorRecord, SiteRecord, StatementRecord, host_place_key, operator_key, site_key, statement_key,
};

const INVALID: &str = "InvalidParameterValue";

/// Longest text and most entries of an attribute.
const MAX_TEXT: usize = 128;
const MAX_SET: usize = 64;
/// Thousandths. No data centre takes ten times what its machines do.
const PUE_MILLI: std::ops::RangeInclusive<u32> = 1_000..=10_000;

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid(INVALID, message)
}

fn refused(error: &StatementError) -> Error {
    invalid(error.to_string())
}

/// Errors: `NoSuchEntity`.
pub fn find_operator(txn: &Txn, id: &str) -> Result<Arc<OperatorRecord>, Error> {
    txn.get::<OperatorRecord>(&operator_key(id))?
        .ok_or_else(|| Error::not_found("NoSuchEntity", format!("there is no operator '{id}'")))
}

/// Errors: `NoSuchEntity`.
pub fn find_site(txn: &Txn, id: &str) -> Result<Arc<SiteRecord>, Error> {
    txn.get::<SiteRecord>(&site_key(id))?
        .ok_or_else(|| Error::not_found("NoSuchEntity", format!("there is no site '{id}'")))
}

/// In order of their ids; not tracked.
pub fn list_operators(txn: &Txn) -> Result<Vec<Arc<OperatorRecord>>, Error> {
    let rows = txn.peek_range::<OperatorRecord>(&Key::new("operator"))?;
    Ok(rows.into_iter().map(|(_, record)| record).collect())
}

/// In the order in which they came; not tracked.
pub fn list_sites(txn: &Txn) -> Result<Vec<Arc<SiteRecord>>, Error> {
    let rows = txn.peek_range::<SiteRecord>(&Key::new("site"))?;
    let mut sites: Vec<_> = rows.into_iter().map(|(_, record)| record).collect();
    sites.sort_by_key(|record| record.number);
    Ok(sites)
}

/// Id of the availability zone that the site is: `el1-az2` for the second one of `eu-local-1`.
pub fn zone_id(region: &str, site: &SiteRecord) -> String {
    let short: String = region.split('-').filter_map(|part| part.chars().next()).collect();
    format!("{short}-az{}", site.number)
}

/// Takes over what an operator says of itself. The key of the first statement is the one that counts.
///
/// Errors: `InvalidParameterValue` for a statement that is not signed, older than the one known, or with attributes
/// that are none.
pub fn put_operator(txn: &mut Txn, note: &str, now: Timestamp) -> Result<Arc<OperatorRecord>, Error> {
    let (statement, key) = OperatorStatement::open(note).map_err(|error| refused(&error))?;
    check_operator(&statement.operator)?;
    let id = statement.operator.id.clone();
    let before = txn.get::<OperatorRecord>(&operator_key(&id))?;
    if let Some(before) = &before {
        if before.key != key.to_string() {
            return Err(invalid(format!("the operator '{id}' is known with another key: {}", before.key)));
        }
        check_newer(before.generation, statement.generation, &before.signed, note)?;
    }
    let record = OperatorRecord {
        operator: statement.operator,
        key: statement.key,
        generation: statement.generation,
        signed: note.to_owned(),
        added_at: before.map_or(now, |before| before.added_at),
    };
    txn.put(&operator_key(&id), &record)?;
    keep(txn, note)?;
    Ok(Arc::new(record))
}

/// What was signed stays for good: receipts refer to it.
fn keep(txn: &mut Txn, note: &str) -> Result<(), Error> {
    txn.put(&statement_key(&crate::receipt::sha256_hex(note)), &StatementRecord { signed: note.to_owned() })
}

/// The same statement again changes nothing, another one must be newer.
fn check_newer(known: u64, offered: u64, known_note: &str, note: &str) -> Result<(), Error> {
    if offered > known || known_note == note {
        return Ok(());
    }
    Err(invalid(format!("the statement has generation {offered}, and generation {known} is known already")))
}

/// Takes over what an operator says of one of its sites.
///
/// Errors: as [`put_operator`]; `NoSuchEntity` for an operator that is not known; a site never changes its operator.
pub fn put_site(txn: &mut Txn, region: &str, note: &str, now: Timestamp) -> Result<Arc<SiteRecord>, Error> {
    let said: SiteStatement = peek(note).map_err(|error| refused(&error))?;
    let operator = find_operator(txn, &said.site.operator)?;
    let statement: SiteStatement = open(note, &key_of(&operator)?).map_err(|error| refused(&error))?;
    check_site(region, &statement.site)?;
    let id = statement.site.id.clone();
    // Numbers are unique: the sites are compared at the commit.
    let sites = txn.range::<SiteRecord>(&Key::new("site"))?;
    let before = sites.iter().find(|(_, record)| record.site.id == id).map(|(_, record)| Arc::clone(record));
    if let Some(before) = &before {
        if before.site.operator != statement.site.operator {
            return Err(invalid(format!("the site '{id}' is of the operator '{}'", before.site.operator)));
        }
        check_newer(before.generation, statement.generation, &before.signed, note)?;
    }
    let next = sites.iter().map(|(_, record)| record.number).max().unwrap_or(0) + 1;
    let record = SiteRecord {
        site: statement.site,
        number: before.as_ref().map_or(next, |before| before.number),
        generation: statement.generation,
        signed: note.to_owned(),
        added_at: before.map_or(now, |before| before.added_at),
    };
    txn.put(&site_key(&id), &record)?;
    keep(txn, note)?;
    Ok(Arc::new(record))
}

/// Takes over what an operator says of one of its hosts.
///
/// Errors: as [`put_site`].
pub fn put_host(txn: &mut Txn, note: &str) -> Result<Arc<HostPlaceRecord>, Error> {
    let said: HostStatement = peek(note).map_err(|error| refused(&error))?;
    let site = find_site(txn, &said.site)?;
    let operator = find_operator(txn, &site.site.operator)?;
    let statement: HostStatement = open(note, &key_of(&operator)?).map_err(|error| refused(&error))?;
    if let Some(zone) = statement.fire_zone.as_ref().filter(|zone| !site.site.fire_zones.contains(*zone)) {
        return Err(invalid(format!("the site '{}' has no fire zone '{zone}'", site.site.id)));
    }
    let key = host_place_key(statement.host);
    if let Some(before) = txn.get::<HostPlaceRecord>(&key)? {
        check_newer(before.generation, statement.generation, &before.signed, note)?;
    }
    let record = HostPlaceRecord {
        host: statement.host,
        site: statement.site,
        fire_zone: statement.fire_zone,
        generation: statement.generation,
        signed: note.to_owned(),
    };
    txn.put(&key, &record)?;
    keep(txn, note)?;
    Ok(Arc::new(record))
}

pub fn remove_host(txn: &mut Txn, host: HostId) {
    txn.delete(&host_place_key(host));
}

fn key_of(operator: &OperatorRecord) -> Result<VerifierKey, Error> {
    operator.key.parse().map_err(Error::internal)
}

fn check_text(what: &str, text: &str) -> Result<(), Error> {
    if text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(format!("{what} is longer than {MAX_TEXT} characters or holds control characters")))
}

fn check_country(what: &str, code: Option<&String>) -> Result<(), Error> {
    match code.filter(|code| !is_country(code)) {
        Some(code) => Err(invalid(format!("{what}: '{code}' is no country of ISO 3166 (two capital letters)"))),
        None => Ok(()),
    }
}

fn check_set<'a>(what: &str, set: impl ExactSizeIterator<Item = &'a String>) -> Result<(), Error> {
    if set.len() > MAX_SET {
        return Err(invalid(format!("{what} has more than {MAX_SET} entries")));
    }
    for entry in set {
        check_text(what, entry)?;
        if entry.trim().is_empty() {
            return Err(invalid(format!("{what} holds an empty entry")));
        }
    }
    Ok(())
}

fn check_operator(operator: &Operator) -> Result<(), Error> {
    if !is_operator_id(&operator.id) {
        let form = "up to 63 of a-z, 0-9, '.' and '-'";
        return Err(invalid(format!("'{}' is not an operator's id: {form}", operator.id)));
    }
    check_text("the name", &operator.name)?;
    check_text("the parent's name", &operator.parent)?;
    check_country("seat", operator.seat.as_ref())?;
    check_country("parent_country", operator.parent_country.as_ref())?;
    check_set("certifications", operator.certifications.iter())?;
    let Some(jurisdictions) = &operator.jurisdictions else { return Ok(()) };
    check_set("jurisdictions", jurisdictions.iter())?;
    match jurisdictions.iter().find(|code| !is_territory(code)) {
        Some(code) => Err(invalid(format!("jurisdictions: '{code}' is no country of ISO 3166, nor EU or EEA"))),
        None => Ok(()),
    }
}

fn check_site(region: &str, site: &Site) -> Result<(), Error> {
    let suffix = site.id.strip_prefix(region).unwrap_or_default();
    if suffix.is_empty() || suffix.len() > 4 || !suffix.bytes().all(|b| b.is_ascii_lowercase()) {
        let example = format!("{region}b");
        return Err(invalid(format!("'{}' is no site of this region: call it {example}, for example", site.id)));
    }
    check_text("city", &site.city)?;
    check_text("grid_zone", &site.grid_zone)?;
    check_country("country", site.country.as_ref())?;
    check_set("fire_zones", site.fire_zones.iter())?;
    match site.pue_milli.filter(|pue| !PUE_MILLI.contains(pue)) {
        Some(pue) => Err(invalid(format!("a PUE of {pue} thousandths is not between 1 and 10"))),
        None => Ok(()),
    }
}

/// Signs, and takes over, what this operator says of itself now.
///
/// Errors: those of [`put_operator`].
pub fn sign_operator(
    txn: &mut Txn,
    operator: Operator,
    key: &SigningKey,
    now: Timestamp,
) -> Result<Arc<OperatorRecord>, Error> {
    let before = txn.get::<OperatorRecord>(&operator_key(&operator.id))?;
    if let Some(before) = before.as_ref().filter(|before| before.operator == operator) {
        return Ok(Arc::clone(before));
    }
    let generation = before.map_or(0, |before| before.generation) + 1;
    let statement = OperatorStatement { operator, key: key.verifier().to_string(), generation, at: now };
    put_operator(txn, &sign(&statement, key).map_err(|error| refused(&error))?, now)
}

/// Signs, and takes over, what this operator says of one of its sites now.
///
/// Errors: those of [`put_site`].
pub fn sign_site(
    txn: &mut Txn,
    region: &str,
    site: Site,
    key: &SigningKey,
    now: Timestamp,
) -> Result<Arc<SiteRecord>, Error> {
    let before = txn.get::<SiteRecord>(&site_key(&site.id))?;
    if let Some(before) = before.as_ref().filter(|before| before.site == site) {
        return Ok(Arc::clone(before));
    }
    let generation = before.map_or(0, |before| before.generation) + 1;
    let statement = SiteStatement { site, generation, at: now };
    put_site(txn, region, &sign(&statement, key).map_err(|error| refused(&error))?, now)
}

/// Signs, and takes over, where one of this operator's hosts is.
///
/// Errors: those of [`put_host`].
pub fn sign_host(
    txn: &mut Txn,
    host: HostId,
    site: &str,
    fire_zone: Option<String>,
    key: &SigningKey,
    now: Timestamp,
) -> Result<Arc<HostPlaceRecord>, Error> {
    let before = txn.get::<HostPlaceRecord>(&host_place_key(host))?;
    let same = |before: &&Arc<HostPlaceRecord>| before.site == site && before.fire_zone == fire_zone;
    if let Some(before) = before.as_ref().filter(same) {
        return Ok(Arc::clone(before));
    }
    let generation = before.map_or(0, |before| before.generation) + 1;
    let statement = HostStatement { host, site: site.to_owned(), fire_zone, generation, at: now };
    put_host(txn, &sign(&statement, key).map_err(|error| refused(&error))?)
}

/// The operator and the site that a cloud has from its first start on.
pub struct OwnSite<'a> {
    pub region: &'a str,
    pub operator: &'a str,
    /// Id of the site.
    pub site: &'a str,
    pub country: Option<String>,
    pub key: &'a SigningKey,
}

/// Makes this cloud's operator and site known if they are not. What they do not state yet is not stated.
///
/// Errors: those of [`put_operator`] and [`put_site`].
pub fn ensure_own(txn: &mut Txn, own: &OwnSite<'_>, now: Timestamp) -> Result<(), Error> {
    if txn.get::<OperatorRecord>(&operator_key(own.operator))?.is_none() {
        let operator = Operator { id: own.operator.to_owned(), name: own.operator.to_owned(), ..Operator::default() };
        sign_operator(txn, operator, own.key, now)?;
    }
    if txn.get::<SiteRecord>(&site_key(own.site))?.is_none() {
        let site = Site {
            id: own.site.to_owned(),
            operator: own.operator.to_owned(),
            country: own.country.clone(),
            ..Site::default()
        };
        sign_site(txn, own.region, site, own.key, now)?;
    }
    super::set_store_site(txn, own.site)
}
