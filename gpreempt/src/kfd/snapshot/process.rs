// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes of a picture: what procfs says of them.

use super::files::Lacks;
use super::{container, Lack, Process};
use crate::event::Pid;
use crate::kfd::{process, task, Root};

/// Ascending, as `pids` are.
pub(super) fn read(root: &Root, pids: &[Pid], lacks: &mut Lacks) -> Vec<Process> {
    // The driver's pids are the host's: in another pid namespace procfs has other processes under these numbers.
    if !pids.is_empty() && !process::sees_host_pids(root) {
        lacks.add(Lack {
            what: "names, users, containers and indices of processes".to_owned(),
            why: "this is another pid namespace than the host's, whose pids the driver tells"
                .to_owned(),
            fix:
                "run it on the host, or in a container that shares its pids (docker run --pid=host)"
                    .to_owned(),
        });
        return pids.iter().map(|pid| nameless(*pid)).collect();
    }
    pids.iter().map(|pid| one(root, *pid)).collect()
}

fn nameless(pid: Pid) -> Process {
    Process {
        pid,
        ns_pid: None,
        comm: None,
        cgroup: None,
        container: None,
        start_ticks: None,
        uid: None,
    }
}

/// What procfs says of one process.
#[must_use]
pub fn one(root: &Root, pid: Pid) -> Process {
    let cgroup = process::main_cgroup(root, pid);
    Process {
        pid,
        ns_pid: process::ns_pids(root, pid)
            .last()
            .copied()
            .filter(|ns_pid| *ns_pid != pid.0),
        comm: task::comm(root, pid),
        container: cgroup.as_deref().and_then(container::id),
        cgroup,
        start_ticks: process::start_ticks(root, pid),
        uid: process::uid(root, pid),
    }
}
