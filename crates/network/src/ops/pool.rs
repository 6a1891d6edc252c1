use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use terroir_store::Txn;
use terroir_types::{Error, ErrorClass};

use crate::model::{AddressPool, PublicClaim};
use crate::ops::Scope;

/// Adds a pool of public addresses to a zone, unless it is there already. For configuration, not for tenants.
///
/// Errors: `InvalidParameterValue` for a network that has no usable address or overlaps another pool.
pub fn add_pool(txn: &mut Txn, zone: &str, network: IpNet) -> Result<(), Error> {
    let network = network.trunc();
    if usable(network) == 0 {
        let message = format!("'{network}' is not an IPv4 network of /8 to /30");
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    let all = txn.range::<AddressPool>(&terroir_store::Key::new("address-pool"))?;
    for (key, pool) in &all {
        let same = pool.network == network;
        if same && key.segment(1) == Some(zone) {
            return Ok(());
        }
        if pool.network.contains(&network) || network.contains(&pool.network) {
            let message = format!("'{network}' overlaps the pool {} of zone {:?}", pool.network, key.segment(1));
            return Err(Error::invalid("InvalidParameterValue", message));
        }
    }
    let numbers = all.iter().filter(|(key, _)| key.segment(1) == Some(zone));
    let next = numbers.filter_map(|(key, _)| key.last().parse::<u32>().ok()).max().map_or(0, |last| last + 1);
    txn.put(&AddressPool::key(zone, next), &AddressPool { network })
}

/// The pools of a zone, in the order in which they were added.
pub fn pools(txn: &Txn, zone: &str) -> Result<Vec<IpNet>, Error> {
    let pools = txn.peek_range::<AddressPool>(&AddressPool::of_zone(zone))?;
    Ok(pools.into_iter().map(|(_, pool)| pool.network).collect())
}

/// Claims a free public address of the zone, or the wanted one.
///
/// Errors: `InsufficientAddressCapacity` if none is free, `InvalidParameterValue` for a wanted one outside the pools,
/// `InvalidAddress.InUse` for one that is taken.
pub(crate) fn claim(
    scope: &mut Scope<'_>,
    zone: &str,
    wanted: Option<IpAddr>,
    claim: &PublicClaim,
) -> Result<IpAddr, Error> {
    let pools = pools(scope.txn, zone)?;
    let address = match wanted {
        Some(address) => {
            if !pools.iter().any(|pool| pool.contains(&address)) {
                let message = format!("The address '{address}' does not belong to a pool of zone {zone}");
                return Err(Error::invalid("InvalidParameterValue", message));
            }
            if scope.txn.get::<PublicClaim>(&PublicClaim::key(address))?.is_some() {
                let message = format!("The address '{address}' is in use");
                return Err(Error::conflict("InvalidAddress.InUse", message));
            }
            address
        }
        None => find_free(scope, &pools)?.ok_or_else(|| {
            let message = format!("There are not enough free public addresses in zone {zone} to satisfy the request.");
            Error::new(ErrorClass::Capacity, "InsufficientAddressCapacity", message)
        })?,
    };
    scope.txn.put(&PublicClaim::key(address), claim)?;
    Ok(address)
}

pub(crate) fn release(scope: &mut Scope<'_>, address: IpAddr) {
    scope.txn.delete(&PublicClaim::key(address));
}

/// From a random start on, so that transactions seldom meet; a whole round only when nearly everything is taken.
fn find_free(scope: &Scope<'_>, pools: &[IpNet]) -> Result<Option<IpAddr>, Error> {
    for pool in pools {
        let IpNet::V4(net) = pool else { continue };
        let (base, usable) = (net.network().to_bits(), usable(*pool));
        let start = u32::try_from(scope.ids.next_u64() % u64::from(usable.max(1))).unwrap_or(0);
        for step in 0..usable {
            let offset = 1 + (start + step) % usable;
            let address = IpAddr::V4(Ipv4Addr::from_bits(base + offset));
            let key = PublicClaim::key(address);
            if scope.txn.peek::<PublicClaim>(&key)?.is_none() && scope.txn.get::<PublicClaim>(&key)?.is_none() {
                return Ok(Some(address));
            }
        }
    }
    Ok(None)
}

/// Addresses of a pool that can be given away: all but the first and the last.
fn usable(network: IpNet) -> u32 {
    match network {
        IpNet::V4(net) if (8..=30).contains(&net.prefix_len()) => (1 << (32 - net.prefix_len())) - 2,
        _ => 0,
    }
}
