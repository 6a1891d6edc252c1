use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use terroir_policy::{Forbidden, KeyCustody, Operator, Place, Policy, Site, decide};
use terroir_types::{HostId, IdSource};

use crate::tree::{MaxTree, ROOT};
use crate::{Avoid, NoPlace, Room, Why};

/// Why a host takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    Cordoned,
    Lost,
}

/// A host as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: HostId,
    pub architecture: String,
    pub closed: Option<Closed>,
    pub free: Room,
    pub operator: Arc<Operator>,
    /// Its site is its zone.
    pub site: Arc<Site>,
    /// If its site has several.
    pub fire_zone: Option<String>,
}

/// Which of the hosts with room is the better one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The one with the most memory free.
    #[default]
    Spread,
    /// The first one, so that others stay empty.
    Pack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    pub needs: Room,
    /// Id of a site.
    pub zone: Option<&'a str>,
    /// Only this host, because a disk of it is there.
    pub host: Option<HostId>,
    pub architecture: Option<&'a str>,
    pub strategy: Strategy,
    pub avoid: Avoid<'a>,
}

impl Request<'_> {
    pub fn of(needs: Room) -> Self {
        Self {
            needs,
            zone: None,
            host: None,
            architecture: None,
            strategy: Strategy::default(),
            avoid: Avoid::default(),
        }
    }
}

/// What a policy says to each class of hosts. Good as long as no class comes or changes; [`Cluster::place`] sees to that.
#[derive(Debug, Clone)]
pub struct Admission {
    policy: Policy,
    key_custody: KeyCustody,
    verdicts: Vec<Option<Forbidden>>,
    generation: u64,
}

impl Admission {
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// Hosts of one site, fire zone and architecture.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) operator: Arc<Operator>,
    pub(crate) site: Arc<Site>,
    pub(crate) fire_zone: Option<String>,
    architecture: String,
    tree: MaxTree,
    /// By their place in the tree.
    hosts: Vec<HostId>,
    cordoned: usize,
    lost: usize,
    removed: usize,
}

impl Class {
    pub(crate) fn place(&self, key_custody: KeyCustody) -> Place<'_> {
        Place { operator: &self.operator, site: &self.site, host_fire_zone: self.fire_zone.as_deref(), key_custody }
    }

    fn count(&self) -> usize {
        self.hosts.len() - self.removed
    }

    fn is_of(&self, host: &Candidate) -> bool {
        self.site == host.site
            && self.operator == host.operator
            && self.fire_zone == host.fire_zone
            && self.architecture == host.architecture
    }

    fn closed(&mut self, closed: Closed) -> &mut usize {
        match closed {
            Closed::Cordoned => &mut self.cordoned,
            Closed::Lost => &mut self.lost,
        }
    }

    /// Why none of them is one for the request, whatever room they have.
    fn why_none(&self, request: &Request<'_>, verdict: Option<&Forbidden>) -> Option<Why> {
        if let Some(wanted) = request.zone.filter(|zone| *zone != self.site.id) {
            return Some(Why::OtherZone { wanted: wanted.to_owned() });
        }
        if let Some(wanted) = request.architecture.filter(|architecture| *architecture != self.architecture) {
            return Some(Why::OtherArchitecture { wanted: wanted.to_owned() });
        }
        if let Some(rule) = verdict {
            return Some(Why::Forbidden(rule.clone()));
        }
        request.avoid.is_place(&self.place(KeyCustody::Operator)).then_some(Why::TooNear)
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    class: usize,
    place: usize,
    free: Room,
    closed: Option<Closed>,
}

/// Hosts, indexed for placement.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub(crate) classes: Vec<Class>,
    /// Classes by site, for few comparisons.
    by_site: HashMap<String, Vec<usize>>,
    slots: HashMap<HostId, Slot>,
    generation: u64,
}

/// Among how many of the best hosts one is drawn.
const BEST: usize = 3;

impl FromIterator<Candidate> for Cluster {
    fn from_iter<I: IntoIterator<Item = Candidate>>(hosts: I) -> Self {
        let mut cluster = Self::default();
        for host in hosts {
            cluster.put(host);
        }
        cluster
    }
}

impl Cluster {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a host, or takes over what changed about it.
    pub fn put(&mut self, host: Candidate) {
        self.remove(host.id);
        let class = self.class_of(&host);
        let entry = &mut self.classes[class];
        if let Some(closed) = host.closed {
            *entry.closed(closed) += 1;
        }
        let place = entry.tree.push(if host.closed.is_none() { Some(host.free) } else { None });
        entry.hosts.push(host.id);
        self.slots.insert(host.id, Slot { class, place, free: host.free, closed: host.closed });
    }

    fn class_of(&mut self, host: &Candidate) -> usize {
        let at_site = self.by_site.entry(host.site.id.clone()).or_default();
        if let Some(found) = at_site.iter().copied().find(|class| self.classes[*class].is_of(host)) {
            return found;
        }
        self.generation += 1;
        at_site.push(self.classes.len());
        self.classes.push(Class {
            operator: Arc::clone(&host.operator),
            site: Arc::clone(&host.site),
            fire_zone: host.fire_zone.clone(),
            architecture: host.architecture.clone(),
            tree: MaxTree::default(),
            hosts: Vec::new(),
            cordoned: 0,
            lost: 0,
            removed: 0,
        });
        self.classes.len() - 1
    }

    /// Takes a host away; nothing happens if it is not there.
    pub fn remove(&mut self, id: HostId) {
        let Some(slot) = self.slots.remove(&id) else { return };
        let class = &mut self.classes[slot.class];
        class.tree.set(slot.place, None);
        class.removed += 1;
        if let Some(closed) = slot.closed {
            *class.closed(closed) -= 1;
        }
    }

    /// Room that a host has from now on; nothing happens if it is not there.
    pub fn set_free(&mut self, id: HostId, free: Room) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.free = free;
        if slot.closed.is_none() {
            self.classes[slot.class].tree.set(slot.place, Some(free));
        }
    }

    /// Room of a host is used; nothing happens if it is not there.
    pub fn take(&mut self, id: HostId, room: Room) {
        if let Some(free) = self.free(id) {
            self.set_free(id, free.minus(room));
        }
    }

    pub fn free(&self, id: HostId) -> Option<Room> {
        self.slots.get(&id).map(|slot| slot.free)
    }

    pub fn place_of(&self, id: HostId) -> Option<Place<'_>> {
        self.slots.get(&id).map(|slot| self.classes[slot.class].place(KeyCustody::Operator))
    }

    /// What the policy says to the hosts, for any number of placements under it.
    pub fn admit(&self, policy: &Policy, key_custody: KeyCustody) -> Admission {
        let verdicts = self.classes.iter().map(|class| decide(policy, &class.place(key_custody)).err());
        Admission { policy: policy.clone(), key_custody, verdicts: verdicts.collect(), generation: self.generation }
    }

    pub(crate) fn current<'a>(&self, admission: &'a Admission) -> Cow<'a, Admission> {
        if admission.generation == self.generation {
            Cow::Borrowed(admission)
        } else {
            Cow::Owned(self.admit(&admission.policy, admission.key_custody))
        }
    }

    /// Draws a host for `request`. Nothing is reserved: see [`Cluster::take`].
    ///
    /// # Errors
    /// [`NoPlace`] with the reasons.
    pub fn place(&self, request: &Request<'_>, admission: &Admission, ids: &dyn IdSource) -> Result<HostId, NoPlace> {
        let admission = self.current(admission);
        if let Some(only) = request.host {
            return self.place_on(only, request, &admission);
        }
        let best = self.best(request, &admission, 0..self.classes.len());
        draw(&best, ids).ok_or_else(|| self.explain(request, &admission))
    }

    /// The few best hosts among these classes.
    pub(crate) fn best(
        &self,
        request: &Request<'_>,
        admission: &Admission,
        classes: impl Iterator<Item = usize>,
    ) -> Vec<HostId> {
        let open = classes.filter(|index| {
            let class = &self.classes[*index];
            class.tree.holding(ROOT, request.needs).is_some()
                && class.why_none(request, admission.verdicts[*index].as_ref()).is_none()
        });
        match request.strategy {
            Strategy::Spread => self.emptiest(request, open),
            Strategy::Pack => {
                let mut found = Vec::new();
                for index in open {
                    first_fitting(&self.classes[index], request, ROOT, &mut found);
                }
                found
            }
        }
    }

    /// Best first: a node is looked into only if nothing else can have more memory free.
    fn emptiest(&self, request: &Request<'_>, classes: impl Iterator<Item = usize>) -> Vec<HostId> {
        let needs = request.needs;
        // Of equal ones the deeper, then the earlier one.
        let mut heap = BinaryHeap::new();
        let see = |heap: &mut BinaryHeap<_>, class: usize, node: usize| {
            if let Some(room) = self.classes[class].tree.holding(node, needs) {
                heap.push((room.memory_bytes, node.ilog2(), Reverse((class, node))));
            }
        };
        classes.for_each(|class| see(&mut heap, class, ROOT));
        let mut found = Vec::with_capacity(BEST);
        while let Some((_, _, Reverse((index, node)))) = heap.pop() {
            let class = &self.classes[index];
            match class.tree.place(node) {
                Some(place) if request.avoid.is_host(class.hosts[place]) => {}
                Some(place) => {
                    found.push(class.hosts[place]);
                    if found.len() == BEST {
                        break;
                    }
                }
                None => [2 * node, 2 * node + 1].into_iter().for_each(|child| see(&mut heap, index, child)),
            }
        }
        found
    }

    fn place_on(&self, only: HostId, request: &Request<'_>, admission: &Admission) -> Result<HostId, NoPlace> {
        let mut none = NoPlace::new(request.needs);
        let Some(slot) = self.slots.get(&only) else { return Err(none) };
        let class = &self.classes[slot.class];
        let why = class.why_none(request, admission.verdicts[slot.class].as_ref()).or(match slot.closed {
            Some(Closed::Cordoned) => Some(Why::Cordoned),
            Some(Closed::Lost) => Some(Why::Lost),
            None if request.avoid.is_host(only) => Some(Why::TooNear),
            None if !slot.free.holds(request.needs) => Some(Why::Full),
            None => None,
        });
        none.most_free = slot.free;
        match why {
            None => Ok(only),
            Some(why) => {
                none.count(why, 1);
                Err(none)
            }
        }
    }

    pub(crate) fn explain(&self, request: &Request<'_>, admission: &Admission) -> NoPlace {
        let mut none = NoPlace::new(request.needs);
        for (index, (class, verdict)) in self.classes.iter().zip(&admission.verdicts).enumerate() {
            if let Some(why) = class.why_none(request, verdict.as_ref()) {
                none.count(why, class.count());
                continue;
            }
            none.count(Why::Cordoned, class.cordoned);
            none.count(Why::Lost, class.lost);
            let is_open = |slot: &&Slot| slot.class == index && slot.closed.is_none();
            let near = request.avoid.hosts.iter().filter_map(|host| self.slots.get(host)).filter(is_open).count();
            none.count(Why::TooNear, near);
            none.count(Why::Full, class.count() - class.cordoned - class.lost - near);
            none.most_free = none.most_free.max(class.tree.most().unwrap_or_default());
        }
        none
    }
}

/// From left to right.
fn first_fitting(class: &Class, request: &Request<'_>, node: usize, found: &mut Vec<HostId>) {
    if found.len() == BEST || class.tree.holding(node, request.needs).is_none() {
        return;
    }
    match class.tree.place(node) {
        Some(place) if request.avoid.is_host(class.hosts[place]) => {}
        Some(place) => found.push(class.hosts[place]),
        None => {
            first_fitting(class, request, 2 * node, found);
            first_fitting(class, request, 2 * node + 1, found);
        }
    }
}

pub(crate) fn draw(best: &[HostId], ids: &dyn IdSource) -> Option<HostId> {
    match best {
        [] => None,
        [one] => Some(*one),
        // Fewer than 2^64.
        _ => Some(best[usize::try_from(ids.next_u64() % best.len() as u64).unwrap_or(0)]),
    }
}
