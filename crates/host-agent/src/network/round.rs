//! One round: bring the machine to what the spec says. Blocking; runs on a thread of its own in the host's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use terroir_agent_api::{HostSpec, InterfacePhase};
use terroir_types::VpcId;

use super::desired::{Desired, LinkAddresses, Place, desired};
use super::names::{EXT, Names, is_tap_name, tap_name};
use super::netlink::Netlink;
use super::plan::plan;
use super::ruleset::Ruleset;
use super::state::{Observed, ObservedLink, Op};
use super::vpc::{Sorted, sort};
use super::{NetworkError, NetworkOptions, NetworkOutcome, namespace, nft};

/// What a process remembers from round to round. Losing it costs one replacement of each table.
#[derive(Debug, Default)]
pub struct Memory {
    /// Namespaces by name; held, so that one whose name somebody removed keeps its guests and gets its name back.
    namespaces: BTreeMap<String, Arc<File>>,
    /// What nftables was last told, by namespace name; the host's under "".
    applied: BTreeMap<String, Applied>,
}

#[derive(Debug)]
struct Applied {
    rules: Ruleset,
    generation: u32,
    /// Only in the host's namespace, where others change their own tables: in ours any change is an intrusion.
    fingerprint: Option<[u8; 32]>,
}

/// What became of one namespace.
#[derive(Debug, Default)]
struct Visit {
    /// By link; `None` concerns all of them.
    errors: Vec<(Option<String>, String)>,
    ext_missing: bool,
}

/// Runs a round. `found` learns which namespace belongs to which VPC.
pub fn run(
    options: &NetworkOptions,
    memory: &mut Memory,
    spec: &HostSpec,
    found: &mut BTreeMap<VpcId, Arc<File>>,
) -> NetworkOutcome {
    let sorted = sort(spec);
    let mut outcome = NetworkOutcome::default();
    for (id, detail) in &sorted.refused {
        outcome.interfaces.insert(*id, InterfacePhase::Failed { detail: detail.clone() });
    }
    match attempt(options, memory, &sorted, &mut outcome.problems) {
        Ok(round) => {
            found.clear();
            for vpc in sorted.vpcs.values() {
                let name = round.names.namespace(vpc.section.index);
                if let Some(namespace) = memory.namespaces.get(&name) {
                    found.insert(vpc.section.id, namespace.clone());
                }
            }
            round.phases(&sorted, &mut outcome);
        }
        Err(error) => {
            let interfaces = sorted.vpcs.values().flat_map(|vpc| vpc.interfaces.iter().map(|i| i.section.id));
            for id in interfaces.chain(sorted.deleted.iter().map(|section| section.id)) {
                outcome.interfaces.insert(id, InterfacePhase::Failed { detail: error.to_string() });
            }
            outcome.problems.push(error.to_string());
        }
    }
    outcome
}

struct Round {
    names: Names,
    visits: BTreeMap<String, Visit>,
    /// Trouble in the host's namespace that keeps every guest from the outside.
    host_errors: Vec<String>,
}

fn attempt(
    options: &NetworkOptions,
    memory: &mut Memory,
    sorted: &Sorted<'_>,
    problems: &mut Vec<String>,
) -> Result<Round, NetworkError> {
    let names = Names::new(&options.tag)?;
    let link = LinkAddresses::from_pool(options.edge_pool)?;
    let netlink = Netlink::open()?;
    let own = netlink.own_addresses(|name| name.starts_with(&names.edge_prefix()))?;
    let own = own.into_iter().filter(|address| !beyond_reach(*address)).collect();
    let wanted = desired(sorted, &names, link, &own);
    problems.extend(wanted.problems.iter().cloned());

    let kept_edges = retire(&names, memory, &wanted, &netlink, problems)?;
    for name in wanted.vpcs.keys() {
        let namespace = ensure(memory, name)?;
        memory.namespaces.insert(name.clone(), namespace);
    }
    let mut round = Round { names, visits: BTreeMap::new(), host_errors: Vec::new() };
    host_round(&mut round, memory, &wanted, &netlink, &kept_edges, problems);
    for (name, place) in &wanted.vpcs {
        let mut visit = visit(memory, name, place, sorted, problems);
        if visit.ext_missing {
            mend_link(&round.names, memory, &wanted, &netlink, name);
            host_round(&mut round, memory, &wanted, &netlink, &kept_edges, problems);
            visit = self::visit(memory, name, place, sorted, problems);
        }
        round.visits.insert(name.clone(), visit);
    }
    Ok(round)
}

/// No packet to these is ever forwarded, whatever the rules say.
fn beyond_reach(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

fn same_namespace(a: &File, b: &File) -> bool {
    matches!((a.metadata(), b.metadata()), (Ok(a), Ok(b)) if a.dev() == b.dev() && a.ino() == b.ino())
}

/// The namespace called `name`: the one we know, else the one that has the name, else a new one.
fn ensure(memory: &Memory, name: &str) -> Result<Arc<File>, NetworkError> {
    match (memory.namespaces.get(name), namespace::open(name)?) {
        (Some(known), Some(named)) if same_namespace(known, &named) => Ok(known.clone()),
        (Some(known), _) => {
            namespace::remove(name)?;
            namespace::give_name(known, name)?;
            Ok(known.clone())
        }
        (None, Some(named)) => Ok(Arc::new(named)),
        (None, None) => namespace::create(name).map(Arc::new),
    }
}

/// Removes namespaces of VPCs that are not in the spec, except where a guest is still plugged in. Answers with the
/// edges of those.
fn retire(
    names: &Names,
    memory: &mut Memory,
    wanted: &Desired,
    netlink: &Netlink,
    problems: &mut Vec<String>,
) -> Result<BTreeSet<String>, NetworkError> {
    let mut kept = BTreeSet::new();
    for name in namespace::list()? {
        let Some(index) = names.namespace_index(&name) else { continue };
        if wanted.vpcs.contains_key(&name) {
            continue;
        }
        let edge = names.edge(index)?;
        if let Some(file) = namespace::open(&name)? {
            let observed = namespace::within(file.as_fd(), || Netlink::open()?.observe(std::iter::empty()))?;
            let in_use = observed.links.iter().any(|(link, found)| is_tap_name(link) && found.carrier);
            if in_use {
                problems.push(format!("namespace {name} has guests, but its VPC is not in the spec: left as it is"));
                kept.insert(edge);
                continue;
            }
        }
        remove_namespace(&name, &edge, memory, netlink)?;
    }
    Ok(kept)
}

/// Link first: the namespace itself may live on for a while in somebody's descriptor.
fn remove_namespace(name: &str, edge: &str, memory: &mut Memory, netlink: &Netlink) -> Result<(), NetworkError> {
    memory.applied.remove(name);
    memory.namespaces.remove(name);
    if netlink.observe(std::iter::empty())?.links.contains_key(edge) {
        netlink.apply(&Op::DeleteLink(edge.to_owned()), &|_| None)?;
    }
    if let Some(file) = namespace::open(name)? {
        namespace::within(file.as_fd(), || {
            let inside = Netlink::open()?;
            for link in inside.observe(std::iter::empty())?.links.keys().filter(|link| is_tap_name(link)) {
                inside.apply(&Op::DeleteLink(link.clone()), &|_| None)?;
            }
            Ok(())
        })?;
    }
    namespace::remove(name)
}

/// The host's own namespace: rules first, so that no link ever stands without them.
fn host_round(
    round: &mut Round,
    memory: &mut Memory,
    wanted: &Desired,
    netlink: &Netlink,
    kept_edges: &BTreeSet<String>,
    problems: &mut Vec<String>,
) {
    let errors = &mut round.host_errors;
    errors.clear();
    let place = &wanted.host;
    if let Err(error) = apply_rules(memory, "", &place.rules) {
        errors.push(error.to_string());
        return;
    }
    let observed = match netlink.observe(place.state.settings.keys()) {
        Ok(observed) => observed,
        Err(error) => {
            errors.push(error.to_string());
            return;
        }
    };
    let prefix = round.names.edge_prefix();
    let plan = plan(&place.state, &observed, |link| link.starts_with(&prefix) && !kept_edges.contains(link));
    problems.extend(plan.problems);
    let namespace_of = |edge: &str| -> Option<BorrowedFd<'_>> {
        wanted.edges.get(edge).and_then(|name| memory.namespaces.get(name)).map(|file| file.as_fd())
    };
    for op in &plan.ops {
        tracing::debug!(%op, "host network");
        if let Err(error) = netlink.apply(op, &namespace_of) {
            errors.push(error.to_string());
        }
    }
}

/// The edge is there, but its other end is not where it should be.
fn mend_link(names: &Names, memory: &Memory, wanted: &Desired, netlink: &Netlink, namespace: &str) {
    let edge = wanted.edges.iter().find(|(_, name)| *name == namespace).map(|(edge, _)| edge.clone());
    let Some(edge) = edge.filter(|edge| edge.starts_with(&names.edge_prefix())) else { return };
    tracing::warn!(namespace, edge, known = memory.namespaces.len(), "the link between host and VPC is made anew");
    // Not there is as good; anything else shows when the host's round makes it again.
    let _ = netlink.apply(&Op::DeleteLink(edge), &|_| None);
}

fn visit(memory: &mut Memory, name: &str, place: &Place, sorted: &Sorted<'_>, problems: &mut Vec<String>) -> Visit {
    let Some(namespace) = memory.namespaces.get(name).cloned() else { return Visit::default() };
    let given_up: BTreeSet<String> = sorted.deleted.iter().map(|section| tap_name(section.id)).collect();
    let inside = namespace::within(namespace.as_fd(), || {
        apply_rules(memory, name, &place.rules)?;
        let netlink = Netlink::open()?;
        let observed = netlink.observe(place.state.settings.keys())?;
        Ok(visit_links(&netlink, name, place, &observed, &given_up))
    });
    match inside {
        Ok((visit, strays)) => {
            problems.extend(strays);
            visit
        }
        Err(error) => {
            problems.push(error.to_string());
            Visit { errors: vec![(None, error.to_string())], ext_missing: false }
        }
    }
}

fn visit_links(
    netlink: &Netlink,
    name: &str,
    place: &Place,
    observed: &Observed,
    given_up: &BTreeSet<String>,
) -> (Visit, Vec<String>) {
    if !observed.links.contains_key(EXT) {
        let errors = vec![(None, format!("the link between {name} and the host is missing"))];
        return (Visit { errors, ext_missing: true }, Vec::new());
    }
    let stray = |link: &str, found: &ObservedLink| {
        is_tap_name(link) && found.carrier && !place.state.links.contains_key(link) && !given_up.contains(link)
    };
    let strays: BTreeSet<&String> = observed.links.iter().filter(|(l, f)| stray(l, f)).map(|(l, _)| l).collect();
    let owned = |link: &str| matches!(link, EXT | "lo") || is_tap_name(link) && !strays.contains(&link.to_owned());
    let plan = plan(&place.state, observed, owned);
    let mut visit = Visit::default();
    for op in &plan.ops {
        tracing::debug!(namespace = name, %op, "host network");
        if let Err(error) = netlink.apply(op, &|_| None) {
            visit.errors.push((link_of(op).filter(|link| is_tap_name(link)), error.to_string()));
        }
    }
    let mut problems = plan.problems;
    problems.extend(strays.iter().map(|tap| format!("{tap} in {name} is in use, but no interface of the spec")));
    problems.extend(visit.errors.iter().map(|(_, error)| format!("{name}: {error}")));
    (visit, problems)
}

/// The link that an operation is about.
fn link_of(op: &Op) -> Option<String> {
    use super::state::Via;
    match op {
        Op::DeleteLink(link)
        | Op::CreateTap(link)
        | Op::CreateVeth(link)
        | Op::SetLink(link, _)
        | Op::AddAddress(link, _)
        | Op::DeleteAddress(link, _)
        | Op::PutNeighbour(link, ..)
        | Op::DeleteNeighbour(link, _) => Some(link.clone()),
        Op::PutRoute(_, Via::Link(link) | Via::Gateway { link, .. })
        | Op::DeleteRoute(_, Via::Link(link) | Via::Gateway { link, .. }) => Some(link.clone()),
        Op::PutRoute(_, Via::Unreachable) | Op::DeleteRoute(_, Via::Unreachable) => None,
        Op::WriteSetting(path, _) => path.split('/').find(|part| is_tap_name(part)).map(str::to_owned),
    }
}

/// Brings the calling thread's nftables to `rules`: not at all if they are known to be there, by a change if the kernel
/// is known to hold what it was last told, else by replacing the table.
fn apply_rules(memory: &mut Memory, place: &str, rules: &Ruleset) -> Result<(), NetworkError> {
    let in_host = place.is_empty();
    let name = if in_host { "the host" } else { place };
    let before = nft::generation()?;
    let known = match memory.applied.remove(place) {
        Some(applied) if applied.generation == before => Some(applied),
        Some(applied) if in_host && applied.fingerprint == nft::fingerprint(name, &rules.table)? => Some(applied),
        _ => None,
    };
    let script = match &known {
        Some(applied) => rules.change_from(&applied.rules),
        None => rules.replacement(),
    };
    if script.is_empty() {
        if let Some(applied) = known {
            memory.applied.insert(place.to_owned(), Applied { generation: before, ..applied });
        }
        return Ok(());
    }
    if let Err(error) = nft::run(name, &script) {
        if known.is_none() {
            return Err(error);
        }
        tracing::warn!(place = name, %error, "a change of the rules was refused; the table is replaced");
        nft::run(name, &rules.replacement())?;
    }
    let generation = nft::generation()?;
    let fingerprint = if in_host { nft::fingerprint(name, &rules.table)? } else { None };
    memory.applied.insert(place.to_owned(), Applied { rules: rules.clone(), generation, fingerprint });
    Ok(())
}

impl Round {
    fn phases(&self, sorted: &Sorted<'_>, outcome: &mut NetworkOutcome) {
        outcome.problems.extend(self.host_errors.iter().cloned());
        for vpc in sorted.vpcs.values() {
            let name = self.names.namespace(vpc.section.index);
            for interface in &vpc.interfaces {
                let detail = match self.visits.get(&name) {
                    None => Some(format!("{} cannot be built here", vpc.section.id)),
                    Some(visit) => visit.error_of(&interface.tap).or_else(|| self.host_errors.first().cloned()),
                };
                let phase = detail.map_or(InterfacePhase::Ready, |detail| InterfacePhase::Failed { detail });
                outcome.interfaces.insert(interface.section.id, phase);
            }
        }
        for section in &sorted.deleted {
            let name = sorted.vpcs.get(&section.vpc).map(|vpc| self.names.namespace(vpc.section.index));
            let visit = name.and_then(|name| self.visits.get(&name));
            let detail = visit.and_then(|visit| visit.error_of(&tap_name(section.id)));
            let phase = detail.map_or(InterfacePhase::Released, |detail| InterfacePhase::Failed { detail });
            outcome.interfaces.insert(section.id, phase);
        }
    }
}

impl Visit {
    fn error_of(&self, tap: &str) -> Option<String> {
        let concerns = |link: &Option<String>| link.as_deref().is_none_or(|link| link == tap);
        self.errors.iter().find(|(link, _)| concerns(link)).map(|(_, error)| error.clone())
    }
}

/// Removes every namespace, link and table of the tag; goes on after an error and answers with the first.
pub fn remove_all(options: &NetworkOptions, memory: &mut Memory) -> Result<(), NetworkError> {
    let names = Names::new(&options.tag)?;
    let netlink = Netlink::open()?;
    let mut first_error = None;
    let mut note = |result: Result<(), NetworkError>| {
        if let Err(error) = result {
            tracing::warn!(%error, "removing the host's networks");
            first_error.get_or_insert(error);
        }
    };
    for name in namespace::list()? {
        if let Some(index) = names.namespace_index(&name) {
            note(names.edge(index).and_then(|edge| remove_namespace(&name, &edge, memory, &netlink)));
        }
    }
    for link in netlink.observe(std::iter::empty())?.links.keys() {
        if link.starts_with(&names.edge_prefix()) {
            note(netlink.apply(&Op::DeleteLink(link.clone()), &|_| None));
        }
    }
    let table = names.host_table();
    note(nft::run("the host", &format!("add table inet {table}\ndelete table inet {table}\n")));
    *memory = Memory::default();
    first_error.map_or(Ok(()), Err)
}
