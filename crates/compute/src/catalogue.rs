//! The instance types there are: a file that the operator can edit, kept as records so that every node and every
//! transaction sees the same ones.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use terroir_store::{Key, Txn, record};
use terroir_types::Error;

/// The list that comes with the program.
pub const DEFAULT_CATALOGUE: &str = include_str!("catalogue.toml");

/// One instance type, at `instance-type/<name>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceType {
    pub name: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads_per_core: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ghz: Option<f64>,
    #[serde(default)]
    pub burstable: bool,
    #[serde(default)]
    pub network: String,
    /// Most network interfaces.
    #[serde(default = "two")]
    pub interfaces: u32,
    /// Most IPv4 addresses of one interface.
    #[serde(default = "two")]
    pub addresses: u32,
    #[serde(default = "yes")]
    pub current: bool,
}

record!(InstanceType { kind: "instance-type", version: 1 });

const fn two() -> u32 {
    2
}

const fn yes() -> bool {
    true
}

impl InstanceType {
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_mib << 20
    }

    pub fn threads_per_core(&self) -> u32 {
        self.threads_per_core.unwrap_or(if self.vcpus > 1 { 2 } else { 1 })
    }

    pub fn cores(&self) -> u32 {
        (self.vcpus / self.threads_per_core()).max(1)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    instance_type: Vec<InstanceType>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    #[error("the catalogue of instance types cannot be read: {0}")]
    Syntax(String),
    #[error("the instance type '{0}' is in the catalogue twice")]
    Twice(String),
    #[error("the instance type '{name}' is not usable: {why}")]
    Unusable { name: String, why: &'static str },
}

/// Reads a catalogue file.
pub fn parse(text: &str) -> Result<BTreeMap<String, InstanceType>, CatalogueError> {
    let file: File = toml::from_str(text).map_err(|error| CatalogueError::Syntax(error.to_string()))?;
    let mut types = BTreeMap::new();
    for instance_type in file.instance_type {
        let name = instance_type.name.clone();
        let unusable = |why| Err(CatalogueError::Unusable { name: name.clone(), why });
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let well_formed = name.split_once('.').is_some_and(|(family, size)| {
            !family.is_empty() && !size.is_empty() && family.chars().chain(size.chars()).all(legal)
        });
        if !well_formed {
            return unusable("its name is not FAMILY.SIZE in lower case");
        }
        if instance_type.vcpus == 0 || instance_type.vcpus > 1024 {
            return unusable("it needs 1 to 1024 vcpus");
        }
        if instance_type.memory_mib < 64 || instance_type.memory_mib > 64 << 20 {
            return unusable("it needs 64 MiB to 64 TiB of memory");
        }
        if instance_type.threads_per_core.is_some_and(|threads| threads == 0 || threads > instance_type.vcpus) {
            return unusable("its threads_per_core do not fit its vcpus");
        }
        if types.insert(name.clone(), instance_type).is_some() {
            return Err(CatalogueError::Twice(name));
        }
    }
    Ok(types)
}

/// Makes the records say what the file says. Types that are gone from the file can no longer be launched; instances
/// that have one keep it.
pub fn load(txn: &mut Txn, types: &BTreeMap<String, InstanceType>) -> Result<(), Error> {
    for (key, known) in txn.range::<InstanceType>(&Key::new("instance-type"))? {
        if !types.contains_key(&known.name) {
            txn.delete(&key);
        }
    }
    for (name, wanted) in types {
        let key = key(name);
        if txn.get::<InstanceType>(&key)?.as_deref() != Some(wanted) {
            txn.put(&key, wanted)?;
        }
    }
    Ok(())
}

fn key(name: &str) -> Key {
    Key::new(format!("instance-type/{name}"))
}

/// Errors: `InvalidInstanceType`.
pub fn find(txn: &Txn, name: &str) -> Result<Arc<InstanceType>, Error> {
    let known = if name.contains('/') { None } else { txn.get::<InstanceType>(&key(name))? };
    known.ok_or_else(|| {
        Error::invalid("InvalidInstanceType", format!("The following supplied instance types do not exist: [{name}]"))
    })
}

/// All types in order of their names; not tracked.
pub fn all(txn: &Txn) -> Result<Vec<Arc<InstanceType>>, Error> {
    Ok(txn.peek_range::<InstanceType>(&Key::new("instance-type"))?.into_iter().map(|(_, t)| t).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_catalogue_has_awss_figures() {
        let types = parse(DEFAULT_CATALOGUE).unwrap();
        for (name, vcpus, memory_mib, cores) in [
            ("tr1.pico", 1, 128, 1),
            ("t2.micro", 1, 1024, 1),
            ("t3.nano", 2, 512, 1),
            ("t3.micro", 2, 1024, 1),
            ("t3.2xlarge", 8, 32_768, 4),
            ("m5.large", 2, 8192, 1),
            ("m5.2xlarge", 8, 32_768, 4),
            ("c5.large", 2, 4096, 1),
            ("c5.9xlarge", 36, 73_728, 18),
            ("r5.xlarge", 4, 32_768, 2),
        ] {
            let found = &types[name];
            assert_eq!((found.vcpus, found.memory_mib, found.cores()), (vcpus, memory_mib, cores), "{name}");
        }
    }

    #[test]
    fn a_broken_catalogue_is_refused_in_words() {
        let entry = |name: &str, rest: &str| format!("[[instance_type]]\nname = \"{name}\"\n{rest}\n");
        let good = "vcpus = 1\nmemory_mib = 128";
        for (text, words) in [
            ("x = 1".to_owned(), "cannot be read"),
            (entry("a.b", "vcpus = 1"), "memory_mib"),
            (entry("a.b", "vcpus = 1\nmemory_mib = 128\ncolour = \"red\""), "colour"),
            (entry("pico", good), "FAMILY.SIZE"),
            (entry("A.pico", good), "FAMILY.SIZE"),
            (entry("a.b", "vcpus = 0\nmemory_mib = 128"), "vcpus"),
            (entry("a.b", "vcpus = 1\nmemory_mib = 1"), "memory"),
            (entry("a.b", "vcpus = 1\nmemory_mib = 128\nthreads_per_core = 2"), "threads_per_core"),
            (entry("a.b", good) + &entry("a.b", good), "twice"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{error} / {words}");
        }
    }
}
