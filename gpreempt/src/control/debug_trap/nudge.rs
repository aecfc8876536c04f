// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that wait for the answer of a debugger that is no more.
//!
//! Under a debugger, RUNTIME_ENABLE waits until the debugger answers (`runtime_enable`, `runtime_disable`, Linux 6.12), and the end
//! of debugging does not end that wait. An interrupted wait does: the call returns EINTR, ROCm's runtime repeats it, and
//! without a debugger it does not wait.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::control::ptrace::{Change, Tracee};
use crate::event::Pid;
use crate::kfd::Root;

/// Kernel functions in which such a thread sleeps, by what the compiler inlined.
const WAITS_IN: &[&str] = &[
    "kfd_ioctl_runtime_enable",
    "runtime_enable",
    "runtime_disable",
    "down_interruptible",
    "__down_interruptible",
];

const STOP_WITHIN: Duration = Duration::from_millis(500);

/// Interrupts each thread of the process that waits so. How many. A thread that is traced is left to its tracer, who interrupts
/// it to detach.
pub(crate) fn blocked_in_runtime_enable(pid: Pid) -> usize {
    threads(pid)
        .into_iter()
        .filter(|tid| waits(pid, *tid) && interrupt(*tid).is_ok())
        .count()
}

fn threads(pid: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir(Root::real().path(&format!("/proc/{pid}/task"))) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn waits(pid: Pid, tid: Pid) -> bool {
    Root::real()
        .text(&format!("/proc/{pid}/task/{tid}/wchan"))
        .is_ok_and(|function| WAITS_IN.contains(&function.as_str()))
}

fn interrupt(tid: Pid) -> nix::Result<()> {
    let tracee = Tracee::seize(tid)?;
    tracee.interrupt()?;
    let until = Instant::now() + STOP_WITHIN;
    while Instant::now() < until {
        match tracee.poll() {
            Some(Change::Stopped(stop)) => {
                tracee.detach(stop);
                return Ok(());
            }
            Some(Change::Ended | Change::Lost) => return Err(Errno::ESRCH),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(Errno::ETIMEDOUT)
}
