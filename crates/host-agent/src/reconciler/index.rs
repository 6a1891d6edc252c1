use std::collections::{BTreeMap, BTreeSet};
use terroir_agent_api::{BlobRef, InstanceSection, Section, SectionKey};

use crate::observed::ObjectKey;

/// Who must be looked at again when something else changes: from a blob, a volume or an interface
/// to the volumes and instances that wait for it.
#[derive(Debug, Default)]
pub(super) struct Dependants(BTreeMap<ObjectKey, BTreeSet<ObjectKey>>);

impl Dependants {
    pub(super) fn of(&self, key: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn insert(&mut self, section: &Section) {
        let Some(dependant) = object_key(section) else { return };
        for need in needs(section) {
            self.0.entry(need).or_default().insert(dependant.clone());
        }
    }

    pub(super) fn remove(&mut self, section: &Section) {
        let Some(dependant) = object_key(section) else { return };
        for need in needs(section) {
            if let Some(dependants) = self.0.get_mut(&need) {
                dependants.remove(&dependant);
                if dependants.is_empty() {
                    self.0.remove(&need);
                }
            }
        }
    }
}

/// The object that a section is about, if the reconciler works on it itself.
pub(super) fn object_key(section: &Section) -> Option<ObjectKey> {
    match section {
        Section::Volume(section) => Some(ObjectKey::Volume(section.id)),
        Section::Instance(section) => Some(ObjectKey::Instance(section.id)),
        Section::Interface(section) => Some(ObjectKey::Interface(section.id)),
        Section::Host(_) | Section::Vpc(_) | Section::SecurityGroup(_) | Section::GroupMembers(_) => None,
    }
}

/// The same, from the name of a section that is gone.
pub(super) fn object_key_of_name(key: &SectionKey) -> Option<ObjectKey> {
    let (kind, id) = key.split_once('/')?;
    match kind {
        "volume" => id.parse().ok().map(ObjectKey::Volume),
        "instance" => id.parse().ok().map(ObjectKey::Instance),
        "interface" => id.parse().ok().map(ObjectKey::Interface),
        _ => None,
    }
}

pub(super) fn blobs_of_instance(section: &InstanceSection) -> impl Iterator<Item = &BlobRef> {
    let boot = section.direct_boot.iter().flat_map(|boot| std::iter::once(&boot.kernel).chain(&boot.initrd));
    boot.chain(&section.metadata.user_data)
}

fn needs(section: &Section) -> Vec<ObjectKey> {
    match section {
        Section::Volume(volume) => volume.source.iter().map(|blob| ObjectKey::Blob(blob.sha256.clone())).collect(),
        Section::Instance(instance) => {
            let blobs = blobs_of_instance(instance).map(|blob| ObjectKey::Blob(blob.sha256.clone()));
            let volumes = instance.volumes.iter().map(|v| ObjectKey::Volume(v.volume));
            let interfaces = instance.interfaces.iter().map(|i| ObjectKey::Interface(i.interface));
            blobs.chain(volumes).chain(interfaces).collect()
        }
        _ => vec![],
    }
}
