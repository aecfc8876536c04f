// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that stay stopped although nobody holds them: paused by a checkpoint or by [`super::criu`] whose program and
//! supervisor were both killed, or suspended by a debugger whose tracing thread ended before its program.

use nix::errno::Errno;

use super::{criu, debug_trap, why, ControlError};
use crate::event::{Comm, Pid};
use crate::kfd::{process, queues, task, Root};

/// A process that was found stopped, or of which that could not be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The process.
    pub pid: Pid,
    /// Its name.
    pub comm: Comm,
    /// It was stopped, and runs again.
    pub healed: bool,
    /// What was found.
    pub what: String,
}

/// Looks at every KFD process, or at these, and restarts those that nobody holds. What is traced by somebody is left alone and
/// reported; what was not stopped is not.
///
/// UNPAUSE of a process that is not paused does nothing. But the process is traced for a moment: its main thread may see a system
/// call interrupted (EINTR from epoll_wait and the like), as by SIGSTOP and SIGCONT.
#[must_use]
pub fn heal(root: &Root, pids: Option<&[Pid]>) -> Vec<Stray> {
    let own = Pid(std::process::id());
    let known = match queues::processes(root) {
        Ok(known) => known,
        Err(error) => {
            return vec![Stray {
                pid: own,
                comm: name_of(root, own),
                healed: false,
                what: format!("cannot list KFD processes: {error}"),
            }]
        }
    };
    known
        .into_iter()
        .filter(|pid| *pid != own && pids.is_none_or(|pids| pids.contains(pid)))
        .filter_map(|pid| look(root, pid))
        .collect()
}

fn look(root: &Root, pid: Pid) -> Option<Stray> {
    // No start, no process.
    let started = process::start_ticks(root, pid)?;
    let comm = name_of(root, pid);
    let stray = |healed, what| {
        Some(Stray {
            pid,
            comm,
            healed,
            what,
        })
    };
    if let Some(tracer) = process::tracer(root, pid) {
        let tracer = why::tracer_name(root, tracer);
        return stray(
            false,
            format!("traced by {tracer}, which may hold it: left alone"),
        );
    }
    let mut found = Vec::new();
    let mut failed = Vec::new();
    match debug_trap::debug_disable(pid) {
        Ok(true) => found.push("a debugger that no longer traces it was attached"),
        // Nobody debugs it, or not for us to end.
        Ok(false) | Err(ControlError::NoPermission { .. } | ControlError::Unavailable { .. }) => {}
        Err(error) => failed.push(error.to_string()),
    }
    if debug_trap::blocked_in_runtime_enable(pid) > 0 {
        found.push("it waited for the answer of a debugger that is no more");
    }
    match criu::heal(root, pid, started) {
        Ok(true) => found.push("it was paused as for a checkpoint"),
        Ok(false) => {}
        // It ended meanwhile, or has no GPU.
        Err(refusal) if matches!(refusal.errno, Some(Errno::ESRCH | Errno::ENODEV)) => {}
        // It has closed the device, and has nothing that could be stopped.
        Err(refusal)
            if matches!(refusal.errno, Some(Errno::ENOENT | Errno::EBADF))
                && !has_queues(root, pid) => {}
        Err(refusal) => failed.push(refusal.to_string()),
    }
    match (found.is_empty(), failed.is_empty()) {
        (true, true) => None,
        (false, true) => stray(true, found.join("; ")),
        (_, false) => stray(false, failed.join("; ")),
    }
}

/// Also where that cannot be found out.
fn has_queues(root: &Root, pid: Pid) -> bool {
    queues::read(root).map_or(true, |all| all.iter().any(|queue| queue.pid == pid))
}

fn name_of(root: &Root, pid: Pid) -> Comm {
    task::comm(root, pid).unwrap_or_else(|| Comm::from_procfs(b"?"))
}
