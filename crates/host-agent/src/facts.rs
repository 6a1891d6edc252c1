use terroir_agent_api::{HostFacts, HypervisorKind};

use crate::host_storage::Storage;
use crate::{AgentOptions, detect_accelerator, simulated};

/// Kept from guests for the host itself: kernel, the three processes, page cache.
const OWN_MEMORY_BYTES: u64 = 1 << 30;

/// The kernel's boot id.
pub(crate) fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Memory of the machine, bytes; 0 if the kernel does not say.
pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

pub(crate) fn host_facts(options: &AgentOptions, storage: &dyn Storage, problems: Vec<String>) -> HostFacts {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let capacity = storage.capacity();
    let mut facts = HostFacts {
        name: name.unwrap_or_else(|| "localhost".to_owned()),
        hypervisor: options.hypervisor,
        accelerator: "none".to_owned(),
        accelerator_reason: Some("simulated: nothing runs".to_owned()),
        architecture: std::env::consts::ARCH.to_owned(),
        vcpus: simulated::VCPUS,
        memory_bytes: simulated::MEMORY_BYTES,
        volume_bytes_total: capacity.total,
        volume_bytes_free: capacity.free,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        problems,
    };
    if options.hypervisor == HypervisorKind::Qemu {
        let accelerator = detect_accelerator();
        facts.accelerator = accelerator.kind.to_owned();
        facts.accelerator_reason = (!accelerator.is_kvm()).then_some(accelerator.reason);
        facts.vcpus = u32::try_from(threads).unwrap_or(u32::MAX).saturating_mul(options.vcpu_overcommit.max(1));
        facts.memory_bytes = memory_bytes().saturating_sub(OWN_MEMORY_BYTES);
    }
    facts
}
