// SPDX-License-Identifier: MIT OR Apache-2.0
//! What procfs says of a process: its name, pid namespace, cgroup, and this program's own capabilities.

use std::os::unix::fs::MetadataExt as _;

use super::Root;
use crate::event::{Comm, Pid};

/// Name of a process or kernel thread.
#[must_use]
pub fn comm(root: &Root, pid: Pid) -> Option<Comm> {
    let bytes = std::fs::read(root.path(&format!("/proc/{pid}/comm"))).ok()?;
    Some(Comm::from_procfs(&bytes)).filter(|comm| !comm.is_empty())
}

/// Path in the cgroup v2 hierarchy, if the directory there really has the id that the kernel gave. A process that moved
/// or is gone, a host without cgroup v2, and a view from inside a cgroup namespace give `None`.
#[must_use]
pub fn cgroup(root: &Root, pid: Pid, cgroup_id: u64) -> Option<String> {
    let text = std::fs::read_to_string(root.path(&format!("/proc/{pid}/cgroup"))).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().find_map(|mount| {
        let meta = std::fs::metadata(root.path(&format!("{mount}{path}"))).ok()?;
        (meta.ino() == cgroup_id).then(|| path.to_owned())
    })
}

/// A capability by number and name (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Bit number.
    pub bit: u32,
    /// Name.
    pub name: &'static str,
}

/// Load eBPF programs.
pub const CAP_BPF: Capability = Capability { bit: 39, name: "CAP_BPF" };
/// Attach them to kernel functions and read kernel memory.
pub const CAP_PERFMON: Capability = Capability { bit: 38, name: "CAP_PERFMON" };
/// Stands for both on any kernel.
pub const CAP_SYS_ADMIN: Capability = Capability { bit: 21, name: "CAP_SYS_ADMIN" };
/// See kernel symbol addresses under kptr_restrict 1.
pub const CAP_SYSLOG: Capability = Capability { bit: 34, name: "CAP_SYSLOG" };

/// Effective capabilities of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads them from `/proc/self/status`.
    #[must_use]
    pub fn of_this_process(root: &Root) -> Option<Self> {
        let status = root.text("/proc/self/status").ok()?;
        let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(hex.trim(), 16).ok().map(Self)
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> capability.bit & 1 == 1
    }

    /// What `watch` needs and does not have.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        [CAP_BPF, CAP_PERFMON]
            .into_iter()
            .filter(|c| !self.has(*c) && !self.has(CAP_SYS_ADMIN))
            .map(|c| c.name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_stands_for_both() {
        assert_eq!(Capabilities(0).missing(), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(Capabilities(1 << 39).missing(), ["CAP_PERFMON"]);
        assert!(Capabilities(1 << 39 | 1 << 38).missing().is_empty());
        assert!(Capabilities(1 << 21).missing().is_empty());
    }

    #[test]
    fn this_process_has_a_name_and_capabilities() {
        let root = Root::real();
        assert!(comm(&root, Pid(std::process::id())).is_some());
        assert!(Capabilities::of_this_process(&root).is_some());
        assert!(comm(&root, Pid(u32::MAX)).is_none());
    }
}
