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
