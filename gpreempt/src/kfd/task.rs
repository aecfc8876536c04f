// SPDX-License-Identifier: MIT OR Apache-2.0
//! What procfs says of a process: its name and its cgroup.

use super::Root;
use crate::event::{Comm, Pid};

/// Name of a process or kernel thread.
#[must_use]
pub fn comm(root: &Root, pid: Pid) -> Option<Comm> {
    let bytes = root.bytes(&format!("/proc/{pid}/comm")).ok()?;
    Some(Comm::from_procfs(&bytes)).filter(|comm| !comm.is_empty())
}

/// Path in the cgroup v2 hierarchy, if the directory there really has the id that the kernel gave. A process that moved
/// or is gone, a host without cgroup v2, and a view from inside a cgroup namespace give `None`.
#[must_use]
pub fn cgroup(root: &Root, pid: Pid, cgroup_id: u64) -> Option<String> {
    let text = root.text(&format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .find_map(|mount| {
            let inode = root.inode(&format!("{mount}{path}"))?;
            (inode == cgroup_id).then(|| path.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_name() {
        let root = Root::real();
        assert!(comm(&root, Pid(std::process::id())).is_some());
        assert!(comm(&root, Pid(u32::MAX)).is_none());
    }
}
