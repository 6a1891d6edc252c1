//! nftables in the host's own namespace, in a table of this tag only: guests reach no port of the host and none of the
//! denied networks, whatever their own namespace lets through; towards the outside they use the host's address.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::names::Names;
use super::ruleset::Ruleset;
use super::spans::{self, Family};

pub fn host_ruleset(
    names: &Names,
    public: &BTreeSet<Ipv4Addr>,
    vpc_link_address: Ipv4Addr,
    denied: &[IpNet],
) -> Ruleset {
    let mut rules = Ruleset::new(names.host_table());
    let inet = rules.family("inet");
    let set = inet.set("public", "type ipv4_addr;");
    for address in public {
        set.insert(address);
    }
    let set = inet.set("senders", "type ipv4_addr;");
    for address in public.iter().chain([&vpc_link_address]) {
        set.insert(address);
    }
    let denied = denied.iter().filter(|net| Family::of_net(**net) == Family::V4).map(|net| spans::of_net(*net));
    let set = inet.set("denied", "type ipv4_addr; flags interval;");
    for span in spans::union(denied) {
        set.insert(Family::V4.text(span));
    }
    let edges = format!("\"{}*\"", names.edge_prefix());
    inet.base_chain(
        "input",
        "type filter hook input priority -10; policy accept;",
        [format!("iifname {edges} ct state != {{ established, related }} drop")],
    );
    inet.base_chain(
        "forward",
        "type filter hook forward priority -10; policy accept;",
        [
            format!("iifname {edges} meta nfproto ipv6 drop"),
            format!("oifname {edges} meta nfproto ipv6 drop"),
            format!("iifname {edges} ip saddr != @senders drop"),
            format!("iifname {edges} ip daddr @denied ct state != {{ established, related }} drop"),
            format!("oifname {edges} ip daddr != @senders drop"),
        ],
    );
    inet.base_chain(
        "outward",
        "type nat hook postrouting priority srcnat; policy accept;",
        [format!("oifname != {edges} ip saddr @public masquerade")],
    );
    rules
}
