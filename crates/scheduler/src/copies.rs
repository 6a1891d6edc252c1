//! Several copies of one thing, as far apart as the policy wants.

use terroir_policy::{Forbidden, KeyCustody, Place, separate};
use terroir_types::{HostId, IdSource};

use crate::cluster::{Admission, Cluster, Request, draw};
use crate::{Avoid, NoPlace, Why};

/// More copies of one thing are not placed at once.
pub const MAX_COPIES: usize = 16;
/// Places that are looked at before it counts as impossible.
const MOST_TRIES: usize = 20_000;

/// What to place, beside what there is already.
#[derive(Debug, Clone, Copy)]
pub struct Copies<'a> {
    /// Up to [`MAX_COPIES`].
    pub count: usize,
    /// Where the original and other copies are.
    pub others: &'a [Place<'a>],
}

struct Search<'a, 's> {
    cluster: &'a Cluster,
    request: &'s Request<'s>,
    admission: &'s Admission,
    ids: &'s dyn IdSource,
    tries: usize,
    places: Vec<Place<'a>>,
    chosen: Vec<HostId>,
    /// What was missing of the distance when it came nearest to being enough.
    too_near: Option<Forbidden>,
}

impl Cluster {
    /// Draws hosts for all copies: no host twice, and with what is there already as far apart as the policy wants.
    ///
    /// # Errors
    /// [`NoPlace`] with the reasons; the rule about distances is one of them.
    pub fn place_copies<'a>(
        &'a self,
        copies: Copies<'a>,
        request: &Request<'_>,
        admission: &Admission,
        ids: &dyn IdSource,
    ) -> Result<Vec<HostId>, NoPlace> {
        let admission = self.current(admission);
        let mut search = Search {
            cluster: self,
            request,
            admission: &admission,
            ids,
            tries: 0,
            places: copies.others.to_vec(),
            chosen: Vec::new(),
            too_near: None,
        };
        if search.extend(copies.count.min(MAX_COPIES)) {
            return Ok(search.chosen);
        }
        let mut none = self.explain(request, &admission);
        if let Some(rule) = search.too_near {
            // Room there is: what is missing is distance.
            let roomy = none.counts.remove(&Why::Full).unwrap_or_default();
            none.count(Why::Forbidden(rule), roomy);
        }
        Err(none)
    }
}

impl Search<'_, '_> {
    /// Whether the distance can still become enough with so many copies more.
    fn can_do(&mut self, missing: usize) -> bool {
        let Err(rule) = separate(self.admission.policy(), &self.places) else { return true };
        let (wanted, distinct) = distance(&rule);
        let can = distinct + missing >= wanted;
        // The best that there was is what people want to know.
        if !can && self.too_near.as_ref().is_none_or(|known| distance(known).1 < distinct) {
            self.too_near = Some(rule);
        }
        can
    }

    fn extend(&mut self, missing: usize) -> bool {
        if !self.can_do(missing) {
            return false;
        }
        if missing == 0 {
            return true;
        }
        for class in self.farthest_first() {
            if self.tries == MOST_TRIES {
                return false;
            }
            self.tries += 1;
            let hosts: Vec<HostId> = self.chosen.iter().chain(self.request.avoid.hosts).copied().collect();
            let request = Request { avoid: Avoid { hosts: &hosts, ..self.request.avoid }, ..self.request.clone() };
            let best = self.cluster.best(&request, self.admission, std::iter::once(class));
            let Some(host) = draw(&best, self.ids) else { continue };
            self.chosen.push(host);
            self.places.push(self.cluster.classes[class].place(KeyCustody::Operator));
            if self.extend(missing - 1) {
                return true;
            }
            self.chosen.pop();
            self.places.pop();
        }
        false
    }

    /// Classes in places that are new first: if distance is missing, it is found soon.
    fn farthest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.cluster.classes.len()).collect();
        order.sort_by_cached_key(|class| {
            // Distances do not depend on who holds the keys.
            let place = self.cluster.classes[*class].place(KeyCustody::Operator);
            let same_operator = self.places.iter().any(|other| other.operator.id == place.operator.id);
            let same_zone = self.places.iter().any(|other| other.fire_zone() == place.fire_zone());
            usize::from(same_operator) + usize::from(same_zone)
        });
        order
    }
}

/// How much distance a rule wants, and how much there is.
fn distance(rule: &Forbidden) -> (usize, usize) {
    match rule {
        Forbidden::Operators { wanted, distinct } | Forbidden::FireZones { wanted, distinct } => {
            (*wanted as usize, *distinct as usize)
        }
        // No rule about distances; never fulfilled by more copies.
        _ => (usize::MAX, 0),
    }
}
