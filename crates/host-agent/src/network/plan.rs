//! What differs between what should be and what is, as operations in an order that works. Pure.

use super::state::{Link, LinkKind, Observed, Op, State, Via};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// What stands in the way and is not ours to remove.
    pub problems: Vec<String>,
}

/// `owns` tells by name which links, and what hangs on them, may be changed and removed here.
pub fn plan(desired: &State, observed: &Observed, owns: impl Fn(&str) -> bool) -> Plan {
    let mut plan = Plan::default();
    links(&mut plan, desired, observed, &owns);
    let fresh = |link: &str| plan_creates(desired, observed, link);
    let mut ops = Vec::new();
    for (link, address) in &observed.addresses {
        let kept = desired.addresses.contains(&(link.clone(), *address)) || !desired.links.contains_key(link);
        if owns(link) && !kept && !fresh(link) {
            ops.push(Op::DeleteAddress(link.clone(), *address));
        }
    }
    for (link, address) in &desired.addresses {
        if fresh(link) || !observed.addresses.contains(&(link.clone(), *address)) {
            ops.push(Op::AddAddress(link.clone(), *address));
        }
    }
    for (path, value) in &desired.settings {
        if observed.settings.get(path) != Some(value) {
            ops.push(Op::WriteSetting(path.clone(), value.clone()));
        }
    }
    let forgets = |link: &str| {
        plan.ops.iter().any(|op| matches!(op, Op::SetLink(name, Link { mac: Some(_), .. }) if name == link))
    };
    for ((link, address), mac) in &desired.neighbours {
        if fresh(link) || forgets(link) || observed.neighbours.get(&(link.clone(), *address)) != Some(mac) {
            ops.push(Op::PutNeighbour(link.clone(), *address, *mac));
        }
    }
    for (link, address) in observed.neighbours.keys() {
        let wanted = desired.neighbours.contains_key(&(link.clone(), *address));
        if owns(link) && !wanted && desired.links.contains_key(link) && !fresh(link) && !forgets(link) {
            ops.push(Op::DeleteNeighbour(link.clone(), *address));
        }
    }
    plan.ops.extend(ops);
    routes(&mut plan, desired, observed, &owns);
    plan
}

/// Whether `link` will be made anew, so that nothing observed on it counts.
fn plan_creates(desired: &State, observed: &Observed, link: &str) -> bool {
    match (desired.links.get(link), observed.links.get(link)) {
        (Some(wanted), Some(found)) => wanted.kind != found.kind,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn links(plan: &mut Plan, desired: &State, observed: &Observed, owns: &impl Fn(&str) -> bool) {
    for (name, found) in &observed.links {
        let ours = owns(name) && found.kind != LinkKind::Loopback;
        if ours && !desired.links.contains_key(name) {
            plan.ops.push(Op::DeleteLink(name.clone()));
        }
    }
    for (name, wanted) in &desired.links {
        let fresh = plan_creates(desired, observed, name);
        let found = observed.links.get(name);
        if fresh && found.is_some() {
            plan.ops.push(Op::DeleteLink(name.clone()));
        }
        if fresh {
            match wanted.kind {
                LinkKind::Tap => plan.ops.push(Op::CreateTap(name.clone())),
                LinkKind::Veth => plan.ops.push(Op::CreateVeth(name.clone())),
                LinkKind::Loopback | LinkKind::Other => {}
            }
        }
        // Only what differs: the kernel forgets a link's neighbours when its MAC is set, even to what it was.
        let found = found.filter(|_| !fresh);
        let change = Link {
            kind: wanted.kind,
            mtu: wanted.mtu.filter(|mtu| found.is_none_or(|found| *mtu != found.mtu)),
            mac: wanted.mac.filter(|mac| found.is_none_or(|found| Some(*mac) != found.mac)),
        };
        if change.mtu.is_some() || change.mac.is_some() || !found.is_some_and(|found| found.up) {
            plan.ops.push(Op::SetLink(name.clone(), change));
        }
    }
}

fn routes(plan: &mut Plan, desired: &State, observed: &Observed, owns: &impl Fn(&str) -> bool) {
    let leads_through_ours = |via: &Via| match via {
        Via::Link(link) | Via::Gateway { link, .. } => owns(link),
        // Only VPC namespaces have these, and there everything is ours.
        Via::Unreachable => true,
    };
    for (net, (made_by_us, via)) in &observed.routes {
        if let (true, Some(via)) = (made_by_us, via)
            && leads_through_ours(via)
            && !desired.routes.contains_key(net)
            && !lost_with_its_link(plan, via)
        {
            plan.ops.push(Op::DeleteRoute(*net, via.clone()));
        }
    }
    for (net, wanted) in &desired.routes {
        match observed.routes.get(net) {
            Some((_, Some(via))) if via == wanted && !lost_with_its_link(plan, via) => {}
            Some((made_by_us, via)) if !made_by_us && !via.as_ref().is_some_and(leads_through_ours) => {
                plan.problems.push(format!("the route to {net} is somebody else's, so guests there are out of reach"));
            }
            _ => plan.ops.push(Op::PutRoute(*net, wanted.clone())),
        }
    }
}

fn lost_with_its_link(plan: &Plan, via: &Via) -> bool {
    match via {
        Via::Link(link) | Via::Gateway { link, .. } => {
            plan.ops.iter().any(|op| matches!(op, Op::DeleteLink(name) if name == link))
        }
        Via::Unreachable => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::desired::{LinkAddresses, desired};
    use crate::network::live::rig;
    use crate::network::names::{Names, is_tap_name};
    use crate::network::state::ObservedLink;
    use crate::network::vpc::sort;
    use std::collections::BTreeMap;
    use terroir_agent_api::{HostSpec, Section};

    fn spec(interfaces: &[u8]) -> HostSpec {
        let mut spec = HostSpec::new();
        for section in [rig::vpc(1), rig::group(1, 1, &[], &[])] {
            spec.insert(section.key(), section);
        }
        for last in interfaces {
            let mut section = rig::interface(1, *last, &[1]);
            section.public_address = (*last == 11).then(|| "198.51.100.10".parse().unwrap());
            let section = Section::Interface(section);
            spec.insert(section.key(), section);
        }
        spec
    }

    /// The host's state and the VPC's.
    fn states(interfaces: &[u8]) -> [State; 2] {
        let names = Names::new("0a1b2c3d").unwrap();
        let link = LinkAddresses::from_pool("169.254.96.0/30".parse().unwrap()).unwrap();
        let spec = spec(interfaces);
        let mut wanted = desired(&sort(&spec), &names, link, &std::collections::BTreeSet::new());
        [wanted.host.state, wanted.vpcs.remove("t0a1b2c3d-v1").unwrap().state]
    }

    /// What the kernel shows once `state` is in place.
    fn settled(state: &State) -> Observed {
        let link = |(index, (name, link)): (u32, (&String, &Link))| {
            let found = ObservedLink {
                index,
                kind: link.kind,
                up: true,
                carrier: true,
                mtu: link.mtu.unwrap_or(65_536),
                mac: link.mac,
            };
            (name.clone(), found)
        };
        Observed {
            links: (1..).zip(&state.links).map(link).collect(),
            addresses: state.addresses.clone(),
            routes: state.routes.iter().map(|(net, via)| (*net, (true, Some(via.clone())))).collect(),
            neighbours: state.neighbours.clone(),
            settings: state.settings.clone(),
        }
    }

    fn owned_by_host(link: &str) -> bool {
        link.starts_with("t0a1b2c3de")
    }

    fn owned_inside(link: &str) -> bool {
        matches!(link, "ext" | "lo") || is_tap_name(link)
    }

    fn text(plan: &Plan) -> String {
        plan.ops.iter().map(|op| format!("{op}\n")).chain(plan.problems.iter().map(|p| format!("! {p}\n"))).collect()
    }

    #[test]
    fn golden_plans() {
        let mut script = String::new();
        let mut step = |title: &str, plans: &[Plan]| {
            script.push_str(&format!("# {title}\n"));
            script.extend(plans.iter().map(text));
        };
        let [host, inside] = states(&[11, 12]);
        let empty = Observed::default();
        let bare = Observed {
            links: BTreeMap::from([("ext".to_owned(), settled(&inside).links["ext"].clone())]),
            ..Observed::default()
        };
        step("from nothing", &[plan(&host, &empty, owned_by_host), plan(&inside, &bare, owned_inside)]);
        let all = [plan(&host, &settled(&host), owned_by_host), plan(&inside, &settled(&inside), owned_inside)];
        assert_eq!(all, [Plan::default(), Plan::default()], "nothing to do");
        let [fewer_host, fewer] = states(&[12]);
        step(
            "one interface less",
            &[plan(&fewer_host, &settled(&host), owned_by_host), plan(&fewer, &settled(&inside), owned_inside)],
        );
        let tap = rig::interface(1, 11, &[]);
        let tap = crate::network::tap_name(tap.id);
        let mut damaged = settled(&inside);
        damaged.links.get_mut(&tap).unwrap().mac = Some([2; 6]);
        damaged.links.get_mut("ext").unwrap().up = false;
        damaged.links.insert("foreign".to_owned(), damaged.links["lo"].clone());
        damaged.settings.insert("ipv4/ip_forward".to_owned(), "0".to_owned());
        damaged.routes.insert("10.0.0.11/32".parse().unwrap(), (false, Some(Via::Link("ext".to_owned()))));
        damaged.routes.insert("192.0.2.0/24".parse().unwrap(), (false, Some(Via::Link("foreign".to_owned()))));
        step("damaged by others", &[plan(&inside, &damaged, owned_inside)]);
        let mut taken = settled(&host);
        taken.links.insert("uplink".to_owned(), taken.links["t0a1b2c3de00001"].clone());
        taken.routes.insert("198.51.100.10/32".parse().unwrap(), (false, Some(Via::Link("uplink".to_owned()))));
        step("a public address led elsewhere by others", &[plan(&host, &taken, owned_by_host)]);
        let mut wrong_kind = settled(&inside);
        wrong_kind.links.get_mut(&tap).unwrap().kind = LinkKind::Veth;
        step("something else under a tap's name", &[plan(&inside, &wrong_kind, owned_inside)]);
        rig::compare_with_golden("plans.txt", &script);
    }
}
