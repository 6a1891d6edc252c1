use serde::{Deserialize, Serialize};

/// What a host has, or what something needs of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub vcpus: u64,
    pub memory_bytes: u64,
    pub volume_bytes: u64,
}

impl Room {
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            volume_bytes: self.volume_bytes.saturating_add(other.volume_bytes),
        }
    }

    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            volume_bytes: self.volume_bytes.saturating_sub(other.volume_bytes),
        }
    }

    pub const fn holds(self, other: Self) -> bool {
        self.vcpus >= other.vcpus && self.memory_bytes >= other.memory_bytes && self.volume_bytes >= other.volume_bytes
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.max(other.vcpus),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            volume_bytes: self.volume_bytes.max(other.volume_bytes),
        }
    }
}
