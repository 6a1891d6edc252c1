use std::fs::OpenOptions;

/// How guests' processors are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    /// `kvm` or `tcg`.
    pub kind: &'static str,
    /// Why it is this one, in a sentence.
    pub reason: String,
}

impl Accelerator {
    pub fn is_kvm(&self) -> bool {
        self.kind == "kvm"
    }
}

/// KVM where the processor has virtualization and `/dev/kvm` opens, TCG elsewhere. A `/dev/kvm`
/// without the processor's help is an emulation, and far slower than TCG.
pub fn detect_accelerator() -> Accelerator {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop);
    choose(&cpuinfo, device.map_err(|e| e.to_string()))
}

fn choose(cpuinfo: &str, device: Result<(), String>) -> Accelerator {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let virtualization = flags.split_ascii_whitespace().find(|flag| matches!(*flag, "vmx" | "svm"));
    match (virtualization, device) {
        (Some(flag), Ok(())) => {
            Accelerator { kind: "kvm", reason: format!("the processor has {flag} and /dev/kvm opens") }
        }
        (None, _) => Accelerator {
            kind: "tcg",
            reason: "the processor shows neither vmx nor svm: switch virtualization on in the firmware, \
                     or nested virtualization at the hoster"
                .to_owned(),
        },
        (Some(flag), Err(error)) => Accelerator {
            kind: "tcg",
            reason: format!("the processor has {flag} but /dev/kvm does not open ({error}): load kvm_intel or kvm_amd"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_both_the_processor_and_the_device() {
        for (cpuinfo, device, kind) in [
            ("flags\t: fpu vmx sse", Ok(()), "kvm"),
            ("flags\t: fpu svm", Ok(()), "kvm"),
            ("flags\t: fpu sse", Ok(()), "tcg"),
            ("flags\t: fpu vmx", Err("no".to_owned()), "tcg"),
            ("model\t: vmx", Ok(()), "tcg"),
            ("", Err("no".to_owned()), "tcg"),
        ] {
            assert_eq!(choose(cpuinfo, device).kind, kind, "{cpuinfo}");
        }
    }
}
