use std::sync::Arc;
use terroir_policy::{KeyCustody, Place};
use terroir_store::Txn;
use terroir_types::{Error, HostId};

use crate::model::{HostPlaceRecord, OperatorRecord, SiteRecord, host_place_key, operator_key, site_key};

/// Where a host is, from what its operator signed. What is not known of it is not stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlace {
    pub operator: Arc<OperatorRecord>,
    pub site: Arc<SiteRecord>,
    pub fire_zone: Option<String>,
    /// The host's own statement; empty if there is none yet.
    pub signed: String,
}

impl HostPlace {
    /// None if its site is not known. Not tracked.
    pub fn find(txn: &Txn, host: HostId, zone: &str) -> Result<Option<Self>, Error> {
        let Some((operator, site)) = zone_place(txn, zone)? else { return Ok(None) };
        let said = txn.peek::<HostPlaceRecord>(&host_place_key(host))?.filter(|said| said.site == zone);
        let (fire_zone, signed) = said.map(|said| (said.fire_zone.clone(), said.signed.clone())).unwrap_or_default();
        Ok(Some(Self { operator, site, fire_zone, signed }))
    }

    pub fn place(&self, key_custody: KeyCustody) -> Place<'_> {
        Place {
            operator: &self.operator.operator,
            site: &self.site.site,
            host_fire_zone: self.fire_zone.as_deref(),
            key_custody,
        }
    }
}

/// Operator and site of an availability zone; none if it is no known site. Not tracked.
pub fn zone_place(txn: &Txn, zone: &str) -> Result<Option<(Arc<OperatorRecord>, Arc<SiteRecord>)>, Error> {
    let Some(site) = txn.peek::<SiteRecord>(&site_key(zone))? else { return Ok(None) };
    let operator = txn.peek::<OperatorRecord>(&operator_key(&site.site.operator))?;
    let operator = operator.ok_or_else(|| Error::internal(format_args!("the operator of {zone} is not known")))?;
    Ok(Some((operator, site)))
}
