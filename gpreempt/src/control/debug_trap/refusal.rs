// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver's errors mean to who stops queues by its debugger interface.

use nix::errno::Errno;

use crate::control::Refusal;
use crate::event::{GpuId, Pid, QueueId};
use crate::kfd::uapi::debug::{RUNTIME_BUSY, RUNTIME_DISABLED, RUNTIME_ERROR};

pub(in crate::control) const ENABLE: &str = "AMDKFD_IOC_DBG_TRAP ENABLE";
pub(super) const SUSPEND: &str = "AMDKFD_IOC_DBG_TRAP SUSPEND_QUEUES";
pub(super) const RESUME: &str = "AMDKFD_IOC_DBG_TRAP RESUME_QUEUES";
pub(super) const SNAPSHOT: &str = "AMDKFD_IOC_DBG_TRAP GET_QUEUE_SNAPSHOT";
pub(super) const ANSWER: &str = "AMDKFD_IOC_DBG_TRAP SEND_RUNTIME_EVENT";

const OTHER_BACKEND: &str = "use --backend criu, or --backend patched on a driver with our patches";

fn refusal(call: &'static str, errno: Errno, what: String, fix: &str) -> Refusal {
    Refusal {
        call,
        errno: Some(errno),
        what,
        fix: fix.to_owned(),
    }
}

pub(super) fn enable(pid: Pid, errno: Errno) -> Refusal {
    let (what, fix) = match errno {
        Errno::EALREADY => (
            format!("a debugger that no longer traces process {pid} was attached to it"),
            "it has been detached: run this again",
        ),
        Errno::EBUSY => (
            format!("process {pid} uses global wave sync, which excludes the debugger on this GPU"),
            OTHER_BACKEND,
        ),
        Errno::ENODEV => (
            format!("process {pid} has opened a GPU without debugger support (before gfx9)"),
            OTHER_BACKEND,
        ),
        Errno::EINVAL => (
            "the driver does not support its debugger interface here: no hardware scheduling (sched_policy=2)".to_owned(),
            "load amdgpu without sched_policy=2, or use --backend criu",
        ),
        errno => return call(ENABLE, pid, errno),
    };
    refusal(ENABLE, errno, what, fix)
}

/// The process's runtime is in a state in which nothing can be suspended.
pub(super) fn runtime(pid: Pid, state: u32) -> Refusal {
    if state == RUNTIME_ERROR {
        // Attaching updates the runlist of every GPU of the process (`kfd_dbg_trap_activate`, Linux 6.12).
        return hardware(ENABLE, pid);
    }
    let (what, fix) = match state {
        RUNTIME_DISABLED => (
            format!("process {pid} has not enabled its runtime for debuggers, as ROCm's does when it starts (AMDKFD_IOC_RUNTIME_ENABLE)"),
            OTHER_BACKEND,
        ),
        RUNTIME_BUSY => (
            format!("another debugger uses what this GPU has only once, so process {pid} cannot be attached to"),
            "end that debugger, or use --backend criu",
        ),
        _ => (
            format!("the driver could not switch the GPUs of process {pid} to debugging"),
            OTHER_BACKEND,
        ),
    };
    refusal(ENABLE, Errno::EPERM, what, fix)
}

pub(super) fn call(call: &'static str, pid: Pid, errno: Errno) -> Refusal {
    let (what, fix) = match errno {
        Errno::ESRCH => (
            format!("process {pid} or its main thread has ended"),
            "nothing is left to do unless other threads of it still run: then end this program, which restarts its queues",
        ),
        Errno::EPERM => (
            format!("process {pid} has disabled its runtime, as ROCm's does when it shuts down"),
            OTHER_BACKEND,
        ),
        Errno::EINVAL => (
            format!("process {pid} is not being debugged any more"),
            "run this again",
        ),
        _ => (
            format!("failed for process {pid}: {}", errno.desc()),
            OTHER_BACKEND,
        ),
    };
    refusal(call, errno, what, fix)
}

pub(super) fn no_queue(pid: Pid, gpu: GpuId, id: QueueId) -> Refusal {
    refusal(
        SUSPEND,
        Errno::ENOENT,
        format!("process {pid} has no queue {id} on GPU {gpu}"),
        "select again: gpreempt watch shows queues as they come and go",
    )
}

/// The runtime's state after attaching, or bit 30 of an id: `execute_queues_cpsch` failed, after `queue_preemption_timeout_ms` or because a reset is going on.
pub(super) fn hardware(call: &'static str, pid: Pid) -> Refusal {
    refusal(
        call,
        Errno::ETIME,
        format!("the GPU did not answer while queues of process {pid} were changed; the driver resets it, and every process that uses a GPU of this host is lost"),
        "look at the kernel's log, end the processes that use GPUs, and do not preempt before they are gone",
    )
}

pub(super) fn fewer(pid: Pid, said: u32, marked: u32) -> Refusal {
    refusal(
        SUSPEND,
        Errno::EIO,
        format!("for process {pid} the driver counted {said} queues as suspended and marked {marked}; they were resumed"),
        OTHER_BACKEND,
    )
}

pub(super) fn busy(pid: Pid, ids: &[QueueId]) -> Refusal {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    refusal(
        SUSPEND,
        Errno::EBUSY,
        format!("process {pid} has been creating or destroying queue {} all the time; its other queues were resumed", ids.join(", ")),
        "try again",
    )
}
