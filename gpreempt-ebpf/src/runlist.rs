// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The runlist of a node: taken from the hardware scheduler, given to it again.

use gpreempt_common::{
    counters::Counter,
    record::{cause, RunlistMapped, RunlistUnmapped},
};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::{dqm_gpu_id, offset, process_pid, qpd_process, u32_at, u8_at},
    ring::{count, write, About, Wake},
    thread::{enter, known_thread, leave, Now},
};

entry! {
    scheduler_enter, scheduler_enter_f: |ctx| scheduler_entry(ctx);
    terminate_enter, terminate_enter_f: |ctx| terminate_entry(ctx);
    start_stop_enter, start_stop_enter_f: |ctx| start_stop_entry(ctx);
    unmap_enter, unmap_enter_f: |ctx| unmap_entry(ctx);
    unmap_sent, unmap_sent_f: |ctx| sent_unmap(ctx);
    fence_enter, fence_enter_f: |ctx| fence_entry(ctx);
    map_enter, map_enter_f: |ctx| map_entry(ctx);
    runlist_sent, runlist_sent_f: |ctx| sent_runlist(ctx);
}
exit! {
    scheduler_leave, scheduler_leave_f: |ctx| scheduler_exit(ctx);
    unmap_leave, unmap_leave_f: |ctx| unmap_exit(ctx);
    fence_leave, fence_leave_f: |ctx| fence_exit(ctx);
    map_leave, map_leave_f: |ctx| map_exit(ctx);
}

/// create_queue_cpsch, destroy_queue_cpsch: they take the dqm lock first, so the lock wait counts from here.
#[inline(always)]
fn scheduler_entry(_ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.scheduler_entry_ns = now.ns;
}

/// `process_termination_cpsch(dqm, qpd)`.
#[inline(always)]
fn terminate_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.scheduler_entry_ns = now.ns;
    let pid = process_pid(qpd_process(ctx.arg(1)));
    enter(
        &mut thread.scheduler,
        &mut thread.cause,
        &now,
        cause::PROCESS_EXIT,
        pid,
    );
}

/// `start_cpsch(dqm)`, `stop_cpsch(dqm)`. No process's doing; a reset in progress is the better name.
#[inline(always)]
fn start_stop_entry(_ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.scheduler_entry_ns = now.ns;
    let cause = if thread.cause.cause == cause::RESET {
        cause::RESET
    } else {
        cause::SCHEDULER
    };
    enter(&mut thread.scheduler, &mut thread.cause, &now, cause, 0);
}

#[inline(always)]
fn scheduler_exit(_ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        return;
    };
    thread.scheduler_entry_ns = 0;
    leave(&mut thread.scheduler, &mut thread.cause, &now);
}

/// `unmap_queues_cpsch(dqm, filter, ...)`, with the dqm lock held.
#[inline(always)]
fn unmap_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let unmap = &mut thread.unmap;
    unmap.start_ns = now.ns;
    unmap.dqm = ctx.arg(0);
    unmap.filter = ctx.arg(1) as u32;
    unmap.fence_start_ns = 0;
    unmap.fence_ns = 0;
    unmap.sent = 0;
    // Only the first unmap of an operation waited for the lock.
    unmap.lock_wait_ns = match thread.scheduler_entry_ns {
        0 => 0,
        entry_ns => now.ns - entry_ns,
    };
    thread.scheduler_entry_ns = 0;
}

/// `pm_send_unmap_queue`: without it unmap_queues_cpsch had nothing to do.
#[inline(always)]
fn sent_unmap(_ctx: &impl Entry) {
    if let Some(thread) = known_thread() {
        thread.unmap.sent = 1;
    }
}

/// `amdkfd_fence_wait_timeout`: polls what the hardware scheduler writes.
#[inline(always)]
fn fence_entry(_ctx: &impl Entry) {
    let now = Now::read();
    if let Some(thread) = now.known_thread() {
        thread.unmap.fence_start_ns = now.ns;
    }
}

#[inline(always)]
fn fence_exit(_ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        return;
    };
    let unmap = &mut thread.unmap;
    if unmap.start_ns != 0 && unmap.fence_start_ns != 0 {
        unmap.fence_ns += now.ns - unmap.fence_start_ns;
    }
    unmap.fence_start_ns = 0;
}

#[inline(always)]
fn unmap_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        count(Counter::Unmatched);
        return;
    };
    let unmap = &mut thread.unmap;
    let start_ns = unmap.start_ns;
    unmap.start_ns = 0;
    if start_ns == 0 {
        count(Counter::Unmatched);
        return;
    }
    if unmap.sent == 0 {
        return;
    }
    let about = About {
        total_ns: now.ns - start_ns,
        cause: thread.cause.cause,
        status: ctx.ret() as i32,
        pid: thread.cause.pid,
    };
    let body = RunlistUnmapped {
        lock_wait_ns: unmap.lock_wait_ns,
        fence_ns: unmap.fence_ns,
        gpu_id: dqm_gpu_id(unmap.dqm),
        filter: unmap.filter,
    };
    // A runlist_mapped follows at once in nearly all cases and wakes the reader.
    let wake = if about.status == 0 {
        Wake::Later
    } else {
        Wake::Now
    };
    write(&now, about, wake, body);
}

/// `map_queues_cpsch(dqm)`, with the dqm lock held.
#[inline(always)]
fn map_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.map.start_ns = now.ns;
    thread.map.dqm = ctx.arg(0);
    thread.map.packet_manager = 0;
}

/// `pm_send_runlist(pm, queues)`: without it map_queues_cpsch had nothing to map.
#[inline(always)]
fn sent_runlist(ctx: &impl Entry) {
    if let Some(thread) = known_thread() {
        thread.map.packet_manager = ctx.arg(0);
    }
}

/// The lock is still held: the counts are those that pm_send_runlist built the runlist from.
#[inline(always)]
fn map_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        count(Counter::Unmatched);
        return;
    };
    let map = &mut thread.map;
    let start_ns = map.start_ns;
    map.start_ns = 0;
    if start_ns == 0 {
        count(Counter::Unmatched);
        return;
    }
    let (dqm, packet_manager) = (map.dqm, map.packet_manager);
    if packet_manager == 0 {
        return;
    }
    let about = About {
        total_ns: now.ns - start_ns,
        cause: thread.cause.cause,
        status: ctx.ret() as i32,
        pid: thread.cause.pid,
    };
    let body = RunlistMapped {
        gpu_id: dqm_gpu_id(dqm),
        queues: u32_at(dqm, offset!(dqm_active_queue_count)),
        cp_queues: u32_at(dqm, offset!(dqm_active_cp_queue_count)),
        processes: u32_at(dqm, offset!(dqm_processes_count)),
        oversubscribed: u32::from(u8_at(packet_manager, offset!(pm_is_over_subscription)) != 0),
        reserved: 0,
    };
    write(&now, about, Wake::Now, body);
}
