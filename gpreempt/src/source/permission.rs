// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this process may do, and what this kernel lets anybody do.

use std::{fs, path::Path};

/// Capabilities of include/uapi/linux/capability.h that observing needs.
/// And that stopping queues by the stock driver's means needs.
const CAP_SYS_PTRACE: (u32, &str) = (19, "CAP_SYS_PTRACE");
const CAP_SYS_NICE: (u32, &str) = (23, "CAP_SYS_NICE");
const CAP_CHECKPOINT_RESTORE: (u32, &str) = (40, "CAP_CHECKPOINT_RESTORE");
const CAP_SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

/// Effective capabilities as the kernel shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Of this process; none where /proc does not say.
    #[must_use]
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::parse(&status)
    }

    /// From the text of /proc/PID/status.
    #[must_use]
    pub fn parse(status: &str) -> Self {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(
            line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
                .unwrap_or(0),
        )
    }

    fn has(self, (bit, _): (u32, &str)) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// The capabilities that loading and attaching kprobes lacks: CAP_BPF and CAP_PERFMON, which CAP_SYS_ADMIN contains.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        if self.has(CAP_SYS_ADMIN) {
            return Vec::new();
        }
        [CAP_BPF, CAP_PERFMON]
            .into_iter()
            .filter(|capability| !self.has(*capability))
            .map(|(_, name)| name)
            .collect()
    }

    /// BTF objects of modules are handed out to CAP_SYS_ADMIN only (`btf_get_fd_by_id`); without them kprobes do.
    #[must_use]
    pub fn can_use_fentry(self) -> bool {
        self.has(CAP_SYS_ADMIN)
    }

    /// Processes of other users, and more than Yama allows, can be traced.
    #[must_use]
    pub fn can_trace_all(self) -> bool {
        self.has(CAP_SYS_PTRACE)
    }

    /// A patched driver lets queues of other users be held.
    #[must_use]
    pub fn can_hold_all(self) -> bool {
        self.has(CAP_SYS_NICE)
    }

    /// `kfd_ioctl_criu` asks for one of two (`checkpoint_restore_ns_capable`, Linux 5.18 to 7.3).
    #[must_use]
    pub fn can_checkpoint(self) -> bool {
        self.has(CAP_CHECKPOINT_RESTORE) || self.has(CAP_SYS_ADMIN)
    }
}

/// Why no program can read kernel memory here, whoever asks: lockdown in mode `confidentiality`.
#[must_use]
pub fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    modes.contains("[confidentiality]").then(|| {
        "the kernel is locked down (mode confidentiality) and lets no program read its memory: boot with lockdown=integrity \
         or without lockdown"
            .to_owned()
    })
}

/// Number of the kprobe event source and the bit that makes it a return probe; `None` in a kernel without kprobes.
#[must_use]
pub fn kprobe_source() -> Option<(u32, u32)> {
    let directory = Path::new("/sys/bus/event_source/devices/kprobe");
    let number = fs::read_to_string(directory.join("type"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let format = fs::read_to_string(directory.join("format/retprobe")).ok()?;
    let bit = format.trim().strip_prefix("config:")?.parse().ok()?;
    Some((number, bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hex: &str) -> Capabilities {
        Capabilities::parse(&format!(
            "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{hex}\nCapBnd:\t000001ffffffffff\n"
        ))
    }

    #[test]
    fn root_has_all_and_nobody_none() {
        assert!(of("000001ffffffffff").missing().is_empty());
        assert_eq!(of("0000000000000000").missing(), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(
            Capabilities::parse("").missing(),
            ["CAP_BPF", "CAP_PERFMON"]
        );
    }

    #[test]
    fn either_sys_admin_or_both_others() {
        assert!(of("0000000000200000").missing().is_empty());
        assert_eq!(of("0000008000000000").missing(), ["CAP_PERFMON"]);
        assert!(of("000000c000000000").missing().is_empty());
        assert!(!of("000000c000000000").can_use_fentry());
    }

    #[test]
    fn what_stopping_takes() {
        assert!(of("0000000000080000").can_trace_all());
        assert!(!of("0000010000200000").can_trace_all());
        assert!(of("0000010000000000").can_checkpoint());
        assert!(of("0000000000200000").can_checkpoint());
        assert!(!of("000000c000080000").can_checkpoint());
    }
}
