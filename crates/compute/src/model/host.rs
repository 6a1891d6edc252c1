use serde::{Deserialize, Serialize};
use terroir_agent_api::HostFacts;
use terroir_scheduler::Room;
use terroir_store::{Key, record};
use terroir_types::{HostId, Timestamp};

/// A host as the operator wants it. Where it is stands in `sovereignty`: its zone is its site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub id: HostId,
    /// Name of the availability zone that its site is.
    pub zone: String,
    pub mode: HostMode,
    pub registered_at: Timestamp,
}

record!(Host { kind: "host", version: 2, previous: HostOfVersion1 });

/// It carried copies of what is now signed in records of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostOfVersion1 {
    id: HostId,
    zone: String,
    mode: HostMode,
    registered_at: Timestamp,
}

record!(HostOfVersion1 { kind: "host", version: 1 });

impl From<HostOfVersion1> for Host {
    fn from(before: HostOfVersion1) -> Self {
        let HostOfVersion1 { id, zone, mode, registered_at } = before;
        Self { id, zone, mode, registered_at }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostMode {
    Active,
    /// Takes nothing new; what is there goes on.
    #[serde(alias = "drained")]
    Cordoned,
    /// Declared lost by the operator: it will never come back, nor what was on it.
    Lost,
}

/// A host as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    pub facts: HostFacts,
    pub boot_id: String,
}

record!(HostStatus { kind: "host-status", version: 1 });

/// What is promised of a host. A record of its own, because every placement compares it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCapacity {
    pub reserved: Room,
}

record!(HostCapacity { kind: "host-capacity", version: 1 });

pub fn host_key(id: HostId) -> Key {
    Key::new(format!("host/{id}"))
}

pub fn host_status_key(id: HostId) -> Key {
    Key::new(format!("host-status/{id}"))
}

pub fn host_capacity_key(id: HostId) -> Key {
    Key::new(format!("host-capacity/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_store::{Record, StoredForm};
    use terroir_types::{ResourceId, SeededRandom};

    /// As it was written before what operators sign had records of its own.
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct AsWritten {
        id: HostId,
        zone: String,
        site: (String, String),
        operator: String,
        mode: String,
        registered_at: Timestamp,
    }

    record!(AsWritten { kind: "host", version: 1 });

    #[test]
    fn hosts_of_version_1_are_read() {
        let id = HostId::generate(&SeededRandom::new(1));
        for (mode, expected) in
            [("active", HostMode::Active), ("drained", HostMode::Cordoned), ("lost", HostMode::Lost)]
        {
            let before = AsWritten {
                id,
                zone: "eu-local-1a".to_owned(),
                site: ("eu-local-1a".to_owned(), "FR".to_owned()),
                operator: "local".to_owned(),
                mode: mode.to_owned(),
                registered_at: Timestamp::from_secs(7),
            };
            let form = StoredForm::of(&before).unwrap();
            let host = Host::migrate(form.version, &form.clear, &form.tenant).unwrap();
            let now =
                Host { id, zone: "eu-local-1a".to_owned(), mode: expected, registered_at: Timestamp::from_secs(7) };
            assert_eq!(host, now, "{mode}");
        }
    }
}
