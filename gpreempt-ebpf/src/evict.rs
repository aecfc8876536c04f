// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Evictions: the driver stops the queues of a process, and starts them again.

use gpreempt_common::{
    counters::Counter,
    record::{cause, evict_reason, ProcessEvicted, ProcessRestored},
};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::{dqm_gpu_id, offset, process_pid, qpd_process, u32_at},
    ring::{count, write, About, Wake},
    thread::{enter, leave, Now, Thread},
};

entry! {
    evict_all_enter, evict_all_enter_f: |ctx| evict_all_entry(ctx);
    restore_all_enter, restore_all_enter_f: |ctx| restore_all_entry(ctx);
    evict_enter, evict_enter_f: |ctx| node_entry(ctx, cause::EVICT);
    restore_enter, restore_enter_f: |ctx| node_entry(ctx, cause::RESTORE);
}
exit! {
    process_leave, process_leave_f: |ctx| process_exit(ctx);
    evict_leave, evict_leave_f: |ctx| evict_exit(ctx);
    restore_leave, restore_leave_f: |ctx| restore_exit(ctx);
}

/// `kfd_process_evict_queues(p, trigger)`: on every node of the process, one after another.
#[inline(always)]
fn evict_all_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let pid = process_pid(ctx.arg(0));
    enter(
        &mut thread.process,
        &mut thread.cause,
        &now,
        cause::EVICT,
        pid,
    );
    thread.evict_trigger = (ctx.arg(1) as u32).wrapping_add(1);
}

/// `kfd_process_restore_queues(p)`.
#[inline(always)]
fn restore_all_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let pid = process_pid(ctx.arg(0));
    enter(
        &mut thread.process,
        &mut thread.cause,
        &now,
        cause::RESTORE,
        pid,
    );
    thread.evict_trigger = 0;
}

#[inline(always)]
fn process_exit(_ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        return;
    };
    thread.evict_trigger = 0;
    leave(&mut thread.process, &mut thread.cause, &now);
}

/// `evict_process_queues_cpsch(dqm, qpd)`, `restore_process_queues_cpsch(dqm, qpd)`.
#[inline(always)]
fn node_entry(ctx: &impl Entry, cause: u16) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let qpd = ctx.arg(1);
    thread.scheduler_entry_ns = now.ns;
    thread.node_dqm = ctx.arg(0);
    thread.node_qpd = qpd;
    let pid = process_pid(qpd_process(qpd));
    enter(&mut thread.node, &mut thread.cause, &now, cause, pid);
}

/// What the return of either needs: thread, pid and duration.
#[inline(always)]
fn node_exit(now: &Now) -> Option<(&'static mut Thread, u32, u64)> {
    let Some(thread) = now.known_thread() else {
        count(Counter::Unmatched);
        return None;
    };
    thread.scheduler_entry_ns = 0;
    let pid = thread.cause.pid;
    let total_ns = leave(&mut thread.node, &mut thread.cause, now)?;
    Some((thread, pid, total_ns))
}

#[inline(always)]
fn evict_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some((thread, pid, total_ns)) = node_exit(&now) else {
        return;
    };
    let about = About {
        total_ns,
        cause: cause::EVICT,
        status: ctx.ret() as i32,
        pid,
    };
    let body = ProcessEvicted {
        gpu_id: dqm_gpu_id(thread.node_dqm),
        reason: match thread.evict_trigger {
            0 => evict_reason::UNTRIGGERED,
            trigger => trigger - 1,
        },
        depth: u32_at(thread.node_qpd, offset!(qpd_evicted)),
        reserved: 0,
    };
    write(&now, about, Wake::Now, body);
}

#[inline(always)]
fn restore_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some((thread, pid, total_ns)) = node_exit(&now) else {
        return;
    };
    let about = About {
        total_ns,
        cause: cause::RESTORE,
        status: ctx.ret() as i32,
        pid,
    };
    let body = ProcessRestored {
        gpu_id: dqm_gpu_id(thread.node_dqm),
        depth: u32_at(thread.node_qpd, offset!(qpd_evicted)),
    };
    write(&now, about, Wake::Now, body);
}
