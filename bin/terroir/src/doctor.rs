//! `terroir doctor`: what is wrong with this machine, and how to mend it.

use comfy_table::Table;
use nix::unistd::Uid;
use serde::Serialize;
use std::path::{Path, PathBuf};

use crate::layout::Layout;
use crate::settings::{HypervisorSetting, Settings};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Good,
    /// Works, but not as well as it could.
    Weak,
    /// The cloud cannot run like this.
    Bad,
}

#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do; empty if nothing.
    pub mend: String,
}

const GIB: u64 = 1 << 30;
const LEAST_MEMORY: u64 = 4 * GIB;
const LEAST_DISK: u64 = 20 * GIB;
/// Programs that the host's half calls, with the Debian package that brings each.
const PROGRAMS: [(&str, &str); 4] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils"), ("ip", "iproute2"), ("nft", "nftables")];

impl Finding {
    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, detail: detail.into(), mend: String::new() }
    }

    fn weak(what: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Weak, detail: detail.into(), mend: mend.into() }
    }

    fn bad(what: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Bad, detail: detail.into(), mend: mend.into() }
    }
}

pub fn run(layout: &Layout, json: bool) -> Result<(), String> {
    let settings = Settings::read(layout)?;
    let findings = examine(layout, &settings);
    if json {
        println!("{}", serde_json::to_string_pretty(&findings).map_err(|error| error.to_string())?);
    } else {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Weak => "weak",
                Verdict::Bad => "BAD",
            };
            let mend = if finding.mend.is_empty() { String::new() } else { format!(" → {}", finding.mend) };
            table.add_row([mark.to_owned(), finding.what.to_owned(), format!("{}{mend}", finding.detail)]);
        }
        println!("{table}");
    }
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    if bad == 0 { Ok(()) } else { Err(format!("{bad} of {} checks failed", findings.len())) }
}

/// Only what would make the start fail in a way that is hard to understand.
pub fn check_before_start(settings: &Settings) -> Result<(), String> {
    if settings.hypervisor == HypervisorSetting::Simulated {
        return Ok(());
    }
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| find_program(name).is_none()).map(|(_, p)| *p).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("programs are missing: apt-get install {}", missing.join(" ")))
}

fn examine(layout: &Layout, settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![processor(), accelerator(), memory(), disk(layout.root()), privileges(settings)];
    findings.extend(PROGRAMS.map(|(name, package)| program(name, package)));
    findings.extend(kernel_features());
    findings.push(cgroups());
    findings.push(port(layout, settings));
    findings.push(clock());
    findings
}

fn processor() -> Finding {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cfg!(target_arch = "x86_64") {
        Finding::good("processor", format!("{model}, {threads} threads"))
    } else {
        Finding::bad("processor", std::env::consts::ARCH, "use a machine with an x86_64 processor")
    }
}

fn accelerator() -> Finding {
    let found = terroir_host_agent::detect_accelerator();
    if found.kind == "kvm" {
        Finding::good("acceleration", "KVM")
    } else {
        let mend = "instances run, some ten times slower: use a machine (or a VM with nested virtualisation) whose processor has vmx or svm";
        Finding::weak("acceleration", format!("TCG, not KVM: {}", found.reason), mend)
    }
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0);
    let detail = format!("{:.1} GiB", (kib * 1024) as f64 / GIB as f64);
    // A machine sold with 4 GiB shows a little less.
    if kib * 1024 >= LEAST_MEMORY / 10 * 9 {
        Finding::good("memory", detail)
    } else {
        Finding::weak("memory", detail, "4 GiB or more are recommended")
    }
}

fn disk(root: &Path) -> Finding {
    let folder = nearest_existing(root);
    match nix::sys::statvfs::statvfs(&folder) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let detail = format!("{:.1} GiB free at {}", free as f64 / GIB as f64, folder.display());
            if free >= LEAST_DISK {
                Finding::good("disk", detail)
            } else {
                Finding::weak(
                    "disk",
                    detail,
                    "20 GB or more are recommended: free some space or choose another --data-dir",
                )
            }
        }
        Err(error) => Finding::bad("disk", format!("{}: {error}", folder.display()), "choose another --data-dir"),
    }
}

fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn privileges(settings: &Settings) -> Finding {
    if Uid::effective().is_root() {
        Finding::good("privileges", "root")
    } else if settings.hypervisor == HypervisorSetting::Simulated {
        Finding::good("privileges", "an ordinary user, which is enough for simulated instances")
    } else {
        Finding::bad("privileges", "an ordinary user", "run with sudo, or use --hypervisor simulated")
    }
}

fn program(name: &'static str, package: &str) -> Finding {
    match find_program(name) {
        Some(path) => Finding::good(name, path.display().to_string()),
        None => Finding::bad(name, "not found", format!("apt-get install {package}")),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

fn kernel_features() -> Vec<Finding> {
    let tun = if Path::new("/dev/net/tun").exists() {
        Finding::good("tun", "/dev/net/tun")
    } else {
        Finding::bad("tun", "/dev/net/tun is missing", "modprobe tun")
    };
    let namespaces = if Path::new("/proc/self/ns/net").exists() {
        Finding::good("network namespaces", "there")
    } else {
        Finding::bad("network namespaces", "missing", "use a kernel with CONFIG_NET_NS")
    };
    vec![tun, namespaces]
}

fn cgroups() -> Finding {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let has_v2_cpu =
        std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|text| text.contains("cpu"));
    if has_v2_cpu {
        Finding::good("control groups", "version 2")
    } else if mounts.lines().any(|line| line.contains(" cgroup ") && line.contains("cpu")) {
        Finding::good("control groups", "version 1")
    } else {
        Finding::weak(
            "control groups",
            "no controllers are mounted",
            "instances are not limited in CPU and memory by the kernel: mount cgroup2 at /sys/fs/cgroup",
        )
    }
}

fn port(layout: &Layout, settings: &Settings) -> Finding {
    let ours = crate::supervisor::SupervisorRecord::read(layout)
        .process(crate::supervisor::SERVER)
        .is_some_and(crate::supervisor::ProcessRecord::is_running);
    match std::net::TcpListener::bind(settings.listen) {
        Ok(_) => Finding::good("port", format!("{} is free", settings.listen)),
        Err(_) if ours => Finding::good("port", format!("{} is this cloud's", settings.listen)),
        Err(error) => Finding::bad("port", format!("{}: {error}", settings.listen), "choose another with --listen"),
    }
}

/// Signed requests are refused when clocks differ by more than five minutes.
fn clock() -> Finding {
    use terroir_types::{Clock, SystemClock};
    let now = SystemClock.now();
    let built_after = terroir_types::Timestamp::parse_rfc3339("2026-11-01T00:00:00Z");
    if built_after.is_some_and(|earliest| now > earliest) {
        Finding::good("time", now.to_rfc3339_seconds())
    } else {
        Finding::bad("time", now.to_rfc3339_seconds(), "the clock is wrong: set it, and run an NTP client")
    }
}
