// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Processes that use KFD.

use aya_ebpf::{helpers::bpf_get_current_cgroup_id, macros::map, maps::HashMap};
use gpreempt_common::record::{cause, ProcessAttached, ProcessExited};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::{comm, lead_thread, ns_pid, offset, u32_at, u64_at},
    ring::{write, About, Wake},
    thread::Now,
};

/// Key of a process that the kernel can reuse only after a reboot: start time and pid.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Identity {
    start_boottime_ns: u64,
    pid: u64,
}

/// `struct kfd_process *` -> process: `kfd_create_process` returns the same one at each further open.
#[map]
static PROCESSES: HashMap<u64, Identity> =
    HashMap::with_max_entries(65536, 1 /* BPF_F_NO_PREALLOC */);

exit! {
    process_created, process_created_f: |ctx| created(ctx);
}
entry! {
    process_released, process_released_f: |ctx| released(ctx);
}

/// `kfd_create_process` returns a `struct kfd_process *` or an error pointer (the last 4095 addresses).
#[inline(always)]
fn created(ctx: &impl Exit) {
    let process = ctx.ret();
    if process == 0 || process > u64::MAX - 4095 {
        return;
    }
    let now = Now::read();
    let task = lead_thread(process);
    let pid = u32_at(task, offset!(task_tgid));
    let identity = Identity {
        start_boottime_ns: u64_at(task, offset!(task_start_boottime)),
        pid: u64::from(pid),
    };
    // SAFETY: the value is copied at once; at worst it is of a process that exits right now.
    if unsafe { PROCESSES.get(process) }.is_some_and(|known| *known == identity) {
        return;
    }
    // Full: the next open is reported again, which the reader takes for the same process.
    let _ = PROCESSES.insert(process, identity, 0);

    // A debugger makes the target's kfd_process (kfd_ioctl_set_debug_trap, Linux 6.5): then the cgroup is not ours to tell.
    let cgroup_id = if pid == now.pid() {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_current_cgroup_id() }
    } else {
        0
    };
    write(
        &now,
        About {
            total_ns: 0,
            cause: cause::OTHER,
            status: 0,
            pid,
        },
        Wake::Now,
        ProcessAttached {
            start_boottime_ns: identity.start_boottime_ns,
            cgroup_id,
            ns_pid: ns_pid(task),
            reserved: 0,
            comm: comm(task),
        },
    );
}

/// `kfd_process_notifier_release(mn, mm)`: the mmu notifier is a member of `struct kfd_process`. Written at entry: at return
/// the process may be freed.
#[inline(always)]
fn released(ctx: &impl Entry) {
    let process = ctx
        .arg(0)
        .wrapping_sub(u64::from(offset!(process_mmu_notifier)));
    let now = Now::read();
    let _ = PROCESSES.remove(process);
    let task = lead_thread(process);
    write(
        &now,
        About {
            total_ns: 0,
            cause: cause::PROCESS_EXIT,
            status: 0,
            pid: u32_at(task, offset!(task_tgid)),
        },
        Wake::Now,
        ProcessExited {
            start_boottime_ns: u64_at(task, offset!(task_start_boottime)),
            ns_pid: ns_pid(task),
            reserved: 0,
            comm: comm(task),
        },
    );
}
