// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The known fact: user space runs this program once in its own thread and compares what the offset table makes of it with
//! what /proc says of the same thread. Never attached.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task},
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};
use gpreempt_common::record::SelfCheck;

use crate::kernel::{comm, ns_pid, offset, u32_at, u64_at};

#[map]
static CHECKED: Array<SelfCheck> = Array::with_max_entries(1, 0);

#[raw_tracepoint]
pub fn self_check(_ctx: RawTracePointContext) -> i32 {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let found = SelfCheck {
        start_boottime_ns: u64_at(task, offset!(task_start_boottime)),
        tgid: u32_at(task, offset!(task_tgid)),
        expected_tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        reserved: 0,
        ns_pid: ns_pid(task),
        comm: comm(task),
    };
    let _ = CHECKED.set(0, found, 0);
    0
}
