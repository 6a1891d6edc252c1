//! Processes that need not be our children, known by boot, number and start time: numbers are used again, and a machine
//! that boots as it did before gives the same number at the same tick.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: Uuid,
    pub pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    pub start_ticks: u64,
}

impl ProcessId {
    /// `None` if there is no such process.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start_ticks) = stat(pid)?;
        Some(Self { boot: this_boot()?, pid, start_ticks })
    }

    pub fn of_self() -> Option<Self> {
        i32::try_from(std::process::id()).ok().and_then(Self::of)
    }

    /// Running, and not a zombie that waits for its parent.
    pub fn is_alive(self) -> bool {
        this_boot() == Some(self.boot)
            && stat(self.pid).is_some_and(|(state, ticks)| ticks == self.start_ticks && state != 'Z' && state != 'X')
    }

    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // The process may end between the look and the signal; both outcomes are what the caller wants.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    pub async fn wait_for_end(self) {
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks, waits, and kills at the deadline.
    pub async fn stop(self, deadline: Duration) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(deadline, self.wait_for_end()).await.is_err() {
            self.signal(Signal::SIGKILL);
            self.wait_for_end().await;
        }
    }
}

fn this_boot() -> Option<Uuid> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().parse().ok()
}

/// State letter and start time.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may itself hold spaces and parentheses.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// Whether systemd has started this very process (`SYSTEMD_EXEC_PID`, systemd.exec(5)).
pub fn is_unit() -> bool {
    let own = nix::unistd::getpid().as_raw();
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid.parse() == Ok(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_another_with_its_number() {
        let own = ProcessId::of_self().unwrap();
        assert!(own.is_alive());
        assert!(own.resident_bytes().unwrap() > 100_000);
        assert!(!ProcessId { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        assert!(!ProcessId { boot: Uuid::new_v4(), ..own }.is_alive(), "the same number and tick of an earlier boot");
        assert_eq!(ProcessId::of(i32::MAX), None);
    }
}
