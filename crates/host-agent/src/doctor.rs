//! What this machine has and lacks for running guests; the host's part of `terroir doctor`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::{AgentOptions, detect_accelerator, facts};

const GIB: u64 = 1 << 30;
const WANTED_MEMORY_BYTES: u64 = 4 * GIB;
const WANTED_DISK_BYTES: u64 = 20 * GIB;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Good,
    /// Works, but worse than it could.
    Poor,
    /// Guests cannot run.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found, in a sentence.
    pub finding: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Check {
    fn good(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, finding: finding.into(), remedy: None }
    }

    fn other(name: &'static str, verdict: Verdict, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict, finding: finding.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at the machine; changes nothing.
pub fn check(options: &AgentOptions) -> Vec<Check> {
    let mut checks =
        vec![processor(), root(), program(&options.qemu, "qemu-system-x86"), program(&options.qemu_img, "qemu-utils")];
    checks.push(program(Path::new("nft"), "nftables"));
    checks.push(file("tap devices", "/dev/net/tun", "modprobe tun"));
    checks.push(file("network namespaces", "/proc/self/ns/net", "a kernel with CONFIG_NET_NS"));
    checks.push(control_groups());
    checks.push(memory());
    checks.push(disk(options));
    checks
}

fn processor() -> Check {
    let accelerator = detect_accelerator();
    if accelerator.is_kvm() {
        return Check::good("processor", format!("KVM: {}", accelerator.reason));
    }
    let finding = format!("guests run by translation (TCG), many times slower: {}", accelerator.reason);
    Check::other("processor", Verdict::Poor, finding, "a machine with hardware virtualization")
}

fn root() -> Check {
    if nix::unistd::geteuid().is_root() {
        return Check::good("root", "this is root");
    }
    Check::other("root", Verdict::Bad, "this is not root", "run as root, or use --hypervisor simulated")
}

fn program(path: &Path, package: &str) -> Check {
    let name = match package {
        "qemu-system-x86" => "QEMU",
        "qemu-utils" => "qemu-img",
        _ => "nftables",
    };
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Check::good(name, text.lines().next().unwrap_or_default().trim())
        }
        Ok(output) => {
            let finding = format!("{} does not run: {}", path.display(), output.status);
            Check::other(name, Verdict::Bad, finding, format!("apt-get install {package}"))
        }
        Err(error) => {
            let finding = format!("{} does not run: {error}", path.display());
            Check::other(name, Verdict::Bad, finding, format!("apt-get install {package}"))
        }
    }
}

fn file(name: &'static str, path: &str, remedy: &str) -> Check {
    if Path::new(path).exists() {
        return Check::good(name, format!("{path} is there"));
    }
    Check::other(name, Verdict::Bad, format!("{path} is missing"), remedy)
}

fn control_groups() -> Check {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if ["cpu", "memory", "pids"].iter().all(|c| unified.split_whitespace().any(|have| have == *c)) {
        return Check::good("control groups", "version 2");
    }
    if Path::new("/sys/fs/cgroup/cpu/cgroup.procs").exists() {
        return Check::good("control groups", "version 1");
    }
    let finding = "no cpu controller: guests run without limits";
    Check::other("control groups", Verdict::Poor, finding, "mount cgroup2 at /sys/fs/cgroup")
}

fn memory() -> Check {
    let bytes = facts::memory_bytes();
    let finding = format!("{} MiB", bytes >> 20);
    if bytes >= WANTED_MEMORY_BYTES {
        return Check::good("memory", finding);
    }
    Check::other("memory", Verdict::Poor, finding, "4 GiB or more")
}

fn disk(options: &AgentOptions) -> Check {
    let existing = options.data_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let free = nix::sys::statvfs::statvfs(existing).map(|s| s.blocks_available().saturating_mul(s.fragment_size()));
    match free {
        Ok(free) if free >= WANTED_DISK_BYTES => {
            Check::good("disk", format!("{} GiB free in {}", free / GIB, existing.display()))
        }
        Ok(free) => {
            let verdict = if free > options.volume_reserve_bytes { Verdict::Poor } else { Verdict::Bad };
            let finding = format!("{} MiB free in {}", free >> 20, existing.display());
            Check::other("disk", verdict, finding, "make room, or choose another --data-dir")
        }
        Err(error) => Check::other("disk", Verdict::Bad, error.to_string(), "choose another --data-dir"),
    }
}
