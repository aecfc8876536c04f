// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Holds and releases by a driver with this project's patches.
//!
//! The driver's own threads hold and release too: its workers when a lease ends and for all but one node of a call. So the
//! owner comes from what the driver says of the operation, never from the thread.

use gpreempt_common::record::{cause, hold_kind, QueuesHeld, QueuesReleased};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::{offset, u32_at, u64_at},
    ring::{write, About, Wake},
    thread::{enter, leave, Now},
};

entry! {
    hold_enter, hold_enter_f: |ctx| apply_entry(ctx);
    hold_note, hold_note_f: |ctx| noted(ctx);
}
exit! {
    hold_leave, hold_leave_f: |ctx| apply_exit(ctx);
}

/// `kfd_gpreempt_apply_node(dqm, op)`: takes the dqm lock, so that the lock wait of the unmap in it counts from here.
#[inline(always)]
fn apply_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let op = ctx.arg(1);
    let cause = match u32_at(op, offset!(hold_op_kind)) {
        hold_kind::HOLD => cause::HOLD,
        hold_kind::RELEASE => cause::RELEASE,
        hold_kind::RESERVE => cause::RESERVE,
        _ => cause::OTHER,
    };
    let owner = u32_at(op, offset!(hold_op_owner_pid));
    thread.scheduler_entry_ns = now.ns;
    enter(&mut thread.group, &mut thread.cause, &now, cause, owner);
}

#[inline(always)]
fn apply_exit(_ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        return;
    };
    thread.scheduler_entry_ns = 0;
    leave(&mut thread.group, &mut thread.cause, &now);
}

/// `kfd_gpreempt_note(note)`: an empty function that the driver calls once for each process and node whose queues changed,
/// after the hardware answered. The driver did the timing.
#[inline(always)]
fn noted(ctx: &impl Entry) {
    let note = ctx.arg(0);
    let now = Now::read();
    let about = |cause| About {
        total_ns: u64_at(note, offset!(hold_note_total_ns)),
        cause,
        status: u32_at(note, offset!(hold_note_status)) as i32,
        pid: u32_at(note, offset!(hold_note_pid)),
    };
    let held = QueuesHeld {
        lock_wait_ns: u64_at(note, offset!(hold_note_lock_wait_ns)),
        hw_ns: u64_at(note, offset!(hold_note_hw_ns)),
        gpu_id: u32_at(note, offset!(hold_note_gpu_id)),
        count: u32_at(note, offset!(hold_note_queues)),
        owner_pid: u32_at(note, offset!(hold_note_owner_pid)),
        cause: u32_at(note, offset!(hold_note_cause)),
    };
    if u32_at(note, offset!(hold_note_kind)) == hold_kind::RELEASE {
        let released = QueuesReleased {
            lock_wait_ns: held.lock_wait_ns,
            hw_ns: held.hw_ns,
            gpu_id: held.gpu_id,
            count: held.count,
            owner_pid: held.owner_pid,
            cause: held.cause,
        };
        write(&now, about(cause::RELEASE), Wake::Now, released);
    } else {
        write(&now, about(cause::HOLD), Wake::Now, held);
    }
}
