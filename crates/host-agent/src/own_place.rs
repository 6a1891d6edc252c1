//! Where this host is, as its operator signed it: what it judges orders by.
//!
//! The first operator's key that a host is told is the one that counts for good, and no statement is replaced by an
//! older one: whoever takes over the control plane cannot talk a host into being somewhere else.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use terroir_agent_api::{Demand, SignedPlace};
use terroir_policy::{
    HostStatement, KeyCustody, Operator, OperatorStatement, Place, Site, SiteStatement, decide, open,
};
use terroir_types::HostId;

/// What a host knows of its own place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnPlace {
    pub operator: Operator,
    pub site: Site,
    pub fire_zone: Option<String>,
}

impl OwnPlace {
    /// Why an order must not be carried out here; none: it may.
    pub fn refuses(&self, demand: &Demand) -> Option<String> {
        if demand.operator != self.operator.id || demand.site != self.site.id {
            return Some(format!(
                "the order is for the site '{}' of '{}', and this host is at '{}' of '{}'",
                demand.site, demand.operator, self.site.id, self.operator.id
            ));
        }
        let place = Place {
            operator: &self.operator,
            site: &self.site,
            host_fire_zone: self.fire_zone.as_deref(),
            key_custody: KeyCustody::Operator,
        };
        decide(&demand.policy, &place).err().map(|rule| rule.to_string())
    }
}

/// The statements that count, in the agent's folder.
#[derive(Debug)]
pub struct OwnPlaceFile {
    path: PathBuf,
    host: HostId,
    known: Option<Known>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    /// The operator's public key.
    key: String,
    statements: SignedPlace,
}

struct Read {
    place: OwnPlace,
    generations: [u64; 3],
}

fn read(known: &Known, host: HostId) -> Result<Read, String> {
    let key = known.key.parse().map_err(|error| format!("{error}"))?;
    let signed = &known.statements;
    let operator: OperatorStatement = open(&signed.operator, &key).map_err(|error| error.to_string())?;
    let site: SiteStatement = open(&signed.site, &key).map_err(|error| error.to_string())?;
    let said: HostStatement = open(&signed.host, &key).map_err(|error| error.to_string())?;
    if said.host != host || said.site != site.site.id || site.site.operator != operator.operator.id {
        return Err("the statements are not about this host, its site and its operator".to_owned());
    }
    let place = OwnPlace { operator: operator.operator, site: site.site, fire_zone: said.fire_zone };
    Ok(Read { place, generations: [operator.generation, site.generation, said.generation] })
}

impl OwnPlaceFile {
    /// # Errors
    /// A sentence for a file that is there and cannot be read: without what was pinned nothing may be judged.
    pub fn open(folder: &Path, host: HostId) -> Result<Self, String> {
        let path = folder.join("place.json");
        let known = match std::fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        Ok(Self { path, host, known })
    }

    pub fn place(&self) -> Option<OwnPlace> {
        read(self.known.as_ref()?, self.host).ok().map(|read| read.place)
    }

    /// Takes over what the control plane passes on, if the operator signed it and it is newer.
    ///
    /// # Errors
    /// A sentence that says why it does not count; what counted before goes on to.
    pub fn take(&mut self, statements: &SignedPlace) -> Result<(), String> {
        if self.known.as_ref().is_some_and(|known| known.statements == *statements) {
            return Ok(());
        }
        let (_, told) = OperatorStatement::open(&statements.operator).map_err(|error| error.to_string())?;
        let key = self.known.as_ref().map_or_else(|| told.to_string(), |known| known.key.clone());
        let offered = Known { key, statements: statements.clone() };
        let fresh = read(&offered, self.host)?;
        if let Some(known) = &self.known {
            let before = read(known, self.host)?;
            let mut pairs = before.generations.iter().zip(&fresh.generations);
            let is_older = match before.place.site.id == fresh.place.site.id {
                true => pairs.any(|(before, now)| now < before),
                // Another site has generations of its own; that of the host says which is the newer place.
                false => fresh.generations[2] <= before.generations[2],
            };
            if is_older {
                return Err("the statements about this host's place are older than those that it knows".to_owned());
            }
        }
        let bytes = serde_json::to_vec(&offered).map_err(|error| error.to_string())?;
        self.write(&bytes).map_err(|error| format!("{}: {error}", self.path.display()))?;
        self.known = Some(offered);
        Ok(())
    }

    /// Whole or not at all.
    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use terroir_policy::{Policy, sign};
    use terroir_tlog::SigningKey;
    use terroir_types::{ResourceId, SeededRandom, Timestamp};

    fn host(seed: u64) -> HostId {
        HostId::generate(&SeededRandom::new(seed))
    }

    struct Said<'a> {
        key: &'a SigningKey,
        host: HostId,
        site: &'a str,
        parent: &'a str,
        generations: [u64; 3],
    }

    impl Said<'_> {
        fn signed(&self) -> SignedPlace {
            let at = Timestamp::from_millis(1);
            let operator = Operator {
                id: self.key.verifier().name().to_owned(),
                seat: Some("FR".to_owned()),
                parent_country: Some(self.parent.to_owned()),
                jurisdictions: Some(BTreeSet::new()),
                ..Operator::default()
            };
            let site = Site {
                id: self.site.to_owned(),
                operator: operator.id.clone(),
                country: Some("FR".to_owned()),
                ..Site::default()
            };
            let key = self.key.verifier().to_string();
            let [a, b, c] = self.generations;
            let said =
                HostStatement { host: self.host, site: self.site.to_owned(), fire_zone: None, generation: c, at };
            SignedPlace {
                operator: sign(&OperatorStatement { operator, key, generation: a, at }, self.key).unwrap(),
                site: sign(&SiteStatement { site, generation: b, at }, self.key).unwrap(),
                host: sign(&said, self.key).unwrap(),
            }
        }
    }

    #[test]
    fn only_what_the_operator_signed_last_counts() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed("own.example", &[1; 32]).unwrap();
        let thief = SigningKey::from_seed("own.example", &[2; 32]).unwrap();
        let said =
            |key, seed, site, parent, generations| Said { key, host: host(seed), site, parent, generations }.signed();
        let open = || OwnPlaceFile::open(folder.path(), host(1)).unwrap();
        let mut file = open();
        assert_eq!(file.place(), None);
        file.take(&said(&key, 1, "a", "FR", [2, 2, 2])).unwrap();
        for (statements, complaint) in [
            (said(&thief, 1, "a", "FR", [9, 9, 9]), "not signed with the key"),
            (said(&key, 2, "a", "FR", [3, 3, 3]), "not about this host"),
            (said(&key, 1, "a", "FR", [1, 2, 2]), "older"),
            (said(&key, 1, "b", "FR", [2, 1, 2]), "older"),
            (
                SignedPlace { site: said(&key, 1, "b", "FR", [2, 2, 3]).site, ..said(&key, 1, "a", "FR", [2, 2, 3]) },
                "not about",
            ),
        ] {
            let error = file.take(&statements).unwrap_err();
            assert!(error.contains(complaint), "{error} / {complaint}");
        }
        assert_eq!(open().place().unwrap().site.id, "a", "what counted goes on to, also in the next life");
        file.take(&said(&key, 1, "a", "US", [3, 2, 2])).unwrap();
        assert_eq!(open().place().unwrap().operator.parent_country.as_deref(), Some("US"));
        file.take(&said(&key, 1, "b", "US", [3, 1, 3])).unwrap();
        std::fs::write(folder.path().join("place.json"), "{").unwrap();
        assert!(OwnPlaceFile::open(folder.path(), host(1)).is_err(), "what was pinned is not forgotten");
    }

    #[test]
    fn an_order_that_contradicts_the_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed("own.example", &[1; 32]).unwrap();
        let mut file = OwnPlaceFile::open(folder.path(), host(1)).unwrap();
        let place = Said { key: &key, host: host(1), site: "a", parent: "US", generations: [1; 3] }.signed();
        file.take(&place).unwrap();
        let place = file.place().unwrap();
        let demand = |operator: &str, site: &str, policy: &str| Demand {
            operator: operator.to_owned(),
            site: site.to_owned(),
            policy: Policy::parse(policy).unwrap(),
        };
        for (demand, refused) in [
            (demand("own.example", "a", r#"{"countries":{"allow":["FR"]}}"#), None),
            (
                demand("own.example", "a", r#"{"parents":{"deny":["US"]}}"#),
                Some("denies the country of the operator's parent"),
            ),
            // Forged: it names a place that would be allowed, and this is not it.
            (demand("other.example", "b", r#"{"parents":{"deny":["US"]}}"#), Some("the order is for the site 'b'")),
            (demand("own.example", "b", "{}"), Some("this host is at 'a'")),
            (demand("own.example", "a", r#"{"key_custody":"customer"}"#), Some("keys held by the customer")),
        ] {
            match (place.refuses(&demand), refused) {
                (None, None) => {}
                (Some(rule), Some(words)) => assert!(rule.contains(words), "{rule} / {words}"),
                (got, wanted) => panic!("{demand:?}: {got:?}, wanted {wanted:?}"),
            }
        }
    }
}
