use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::KeyCustody;

/// A legal entity that runs machines. Countries are ISO 3166-1 alpha-2 codes; `None` and an empty name mean "not stated".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operator {
    /// Chosen by itself, for example `hoster.example`; also the name of its key.
    pub id: String,
    pub name: String,
    /// Country of its seat.
    pub seat: Option<String>,
    /// Name of its ultimate parent; its own without one.
    pub parent: String,
    /// Country of its ultimate parent's seat; the same as `seat` without one.
    pub parent_country: Option<String>,
    /// Whose courts and authorities can compel it, beyond those of seat, parent and site: countries, `EU` or `EEA`.
    /// An empty set states that there are none; `None` states nothing.
    pub jurisdictions: Option<BTreeSet<String>>,
    pub certifications: BTreeSet<String>,
}

/// A place of one operator. A site is an availability zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Site {
    /// Name of the availability zone.
    pub id: String,
    /// Id of its operator.
    pub operator: String,
    pub country: Option<String>,
    pub city: String,
    /// What burns down together. The names count in the whole region: operators in one building give the same one.
    pub fire_zones: BTreeSet<String>,
    /// Of the electricity grid, as carbon data names it.
    pub grid_zone: String,
    /// Power usage effectiveness, thousandths.
    pub pue_milli: Option<u32>,
}

/// Where something is or would be, and who would hold the keys to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub operator: &'a Operator,
    pub site: &'a Site,
    /// Of the host, if its site has several; see [`Place::fire_zone`].
    pub host_fire_zone: Option<&'a str>,
    pub key_custody: KeyCustody,
}

impl<'a> Place<'a> {
    pub fn new(operator: &'a Operator, site: &'a Site) -> Self {
        Self { operator, site, host_fire_zone: None, key_custody: KeyCustody::Operator }
    }

    /// The host's own, or that of its site if there is only one. `None`: not stated.
    pub fn fire_zone(&self) -> Option<&'a str> {
        if self.host_fire_zone.is_some() {
            return self.host_fire_zone;
        }
        let mut zones = self.site.fire_zones.iter();
        zones.next().filter(|_| zones.next().is_none()).map(String::as_str)
    }

    /// The codes of everything whose law reaches the place; `None` if any of them is not stated.
    pub(crate) fn reach(&self) -> Option<impl Iterator<Item = &'a str>> {
        let Operator { seat, parent_country, jurisdictions, .. } = self.operator;
        let named = [self.site.country.as_deref()?, seat.as_deref()?, parent_country.as_deref()?];
        Some(named.into_iter().chain(jurisdictions.as_ref()?.iter().map(String::as_str)))
    }
}
