// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Queues: created, updated, destroyed, refused.

use gpreempt_common::{
    counters::Counter,
    record::{cause, QueueCreated, QueueDestroyed, QueueRejected, QueueUpdated},
};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::{comm, lead_thread, offset, process_pid, u32_at, u64_at, u8_at},
    ring::{count, write, About, Wake},
    thread::{enter, known_thread, leave, Now, Queue, Thread, FOUND_NOTHING, FOUND_QUEUE},
};

entry! {
    create_enter, create_enter_f: |ctx| ioctl_entry(ctx, cause::CREATE_QUEUE);
    destroy_enter, destroy_enter_f: |ctx| ioctl_entry(ctx, cause::DESTROY_QUEUE);
    update_enter, update_enter_f: |ctx| ioctl_entry(ctx, cause::UPDATE_QUEUE);
    criu_enter, criu_enter_f: |ctx| criu_entry(ctx);
    debug_enter, debug_enter_f: |ctx| ioctl_entry(ctx, cause::DEBUG_TRAP);
    queue_added, queue_added_f: |ctx| added(ctx);
    queue_deleted, queue_deleted_f: |ctx| deleted(ctx);
    queue_update_enter, queue_update_enter_f: |ctx| update_entry(ctx);
}
exit! {
    create_leave, create_leave_f: |ctx| create_exit(ctx);
    destroy_leave, destroy_leave_f: |ctx| destroy_exit(ctx);
    update_leave, update_leave_f: |ctx| update_exit(ctx);
    other_leave, other_leave_f: |ctx| other_exit(ctx);
    queue_update_leave, queue_update_leave_f: |ctx| updated(ctx);
}

/// `kfd_ioctl_*(filep, p, data)`: the caller is the process, except for CRIU. The one program on the way of a call that
/// fails early, so it reads nothing.
#[inline(always)]
fn ioctl_entry(_ctx: &impl Entry, cause: u16) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.ioctl_found = FOUND_NOTHING;
    enter(&mut thread.ioctl, &mut thread.cause, &now, cause, now.pid());
}

/// `kfd_ioctl_criu(filep, p, data)`: `p` is the process to be paused or restored, the caller its tracer.
#[inline(always)]
fn criu_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let pid = process_pid(ctx.arg(1));
    enter(&mut thread.ioctl, &mut thread.cause, &now, cause::CRIU, pid);
}

/// kfd_ioctl_criu and kfd_ioctl_set_debug_trap only lend their name to what happens in them.
#[inline(always)]
fn other_exit(_ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        return;
    };
    thread.scheduler_entry_ns = 0;
    leave(&mut thread.ioctl, &mut thread.cause, &now);
}

/// Ends an ioctl: the thread and the duration. The entry was not seen where there is none.
#[inline(always)]
fn ioctl_exit(now: &Now) -> Option<(&'static mut Thread, u64)> {
    let Some(thread) = now.known_thread() else {
        count(Counter::Unmatched);
        return None;
    };
    thread.scheduler_entry_ns = 0;
    let total_ns = leave(&mut thread.ioctl, &mut thread.cause, now)?;
    Some((thread, total_ns))
}

#[inline(always)]
fn rejected(now: &Now, cause: u16, status: i32, total_ns: u64) {
    let about = About {
        total_ns,
        cause,
        status,
        pid: now.pid(),
    };
    write(now, about, Wake::Later, QueueRejected { reserved: 0 });
}

#[inline(always)]
fn create_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some((thread, total_ns)) = ioctl_exit(&now) else {
        return;
    };
    let status = ctx.ret() as i32;
    if status != 0 {
        return rejected(&now, cause::CREATE_QUEUE, status, total_ns);
    }
    if thread.ioctl_found != FOUND_QUEUE {
        count(Counter::Unmatched);
        return;
    }
    let queue = &thread.queue;
    if queue.pid != now.pid() {
        // kfd_ioctl checks that the caller owns the file, so the offsets are wrong.
        count(Counter::Mismatch);
    }
    let about = About {
        total_ns,
        cause: cause::CREATE_QUEUE,
        status,
        pid: queue.pid,
    };
    write(&now, about, Wake::Now, queue.created);
}

#[inline(always)]
fn destroy_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some((thread, total_ns)) = ioctl_exit(&now) else {
        return;
    };
    let status = ctx.ret() as i32;
    // pqm_destroy_queue removes the queue also where the hardware did not answer (-ETIME, -EIO).
    if thread.ioctl_found != FOUND_QUEUE {
        if status != 0 {
            return rejected(&now, cause::DESTROY_QUEUE, status, total_ns);
        }
        count(Counter::Unmatched);
        return;
    }
    let queue = &thread.queue;
    let about = About {
        total_ns,
        cause: cause::DESTROY_QUEUE,
        status,
        pid: queue.pid,
    };
    let body = QueueDestroyed {
        gpu_id: queue.created.gpu_id,
        queue_id: queue.created.queue_id,
    };
    write(&now, about, Wake::Now, body);
}

#[inline(always)]
fn update_exit(ctx: &impl Exit) {
    let now = Now::read();
    let Some((thread, total_ns)) = ioctl_exit(&now) else {
        return;
    };
    let status = ctx.ret() as i32;
    if status != 0 {
        return rejected(&now, cause::UPDATE_QUEUE, status, total_ns);
    }
    if thread.ioctl_found != FOUND_QUEUE {
        count(Counter::Unmatched);
        return;
    }
    let queue = &thread.queue;
    let about = About {
        total_ns,
        cause: cause::UPDATE_QUEUE,
        status,
        pid: queue.pid,
    };
    let body = QueueUpdated {
        gpu_id: queue.created.gpu_id,
        queue_id: queue.created.queue_id,
        priority: queue.created.priority,
        percent: queue.created.percent,
        active: queue.active,
        reserved: 0,
    };
    write(&now, about, Wake::Now, body);
}

#[inline(always)]
fn in_ioctl(thread: &Thread, cause: u16) -> bool {
    thread.ioctl.start_ns != 0 && thread.cause.cause == cause
}

#[inline(always)]
fn queue_gpu_id(queue: u64) -> u32 {
    u32_at(u64_at(queue, offset!(queue_device)), offset!(node_id))
}

#[inline(always)]
fn describe(queue: u64, task: u64) -> QueueCreated {
    QueueCreated {
        ring_bytes: u64_at(queue, offset!(queue_ring_bytes)),
        gpu_id: queue_gpu_id(queue),
        queue_id: u32_at(queue, offset!(queue_id)),
        queue_type: u32_at(queue, offset!(queue_type)),
        format: u32_at(queue, offset!(queue_format)),
        priority: u32_at(queue, offset!(queue_priority)),
        percent: u32_at(queue, offset!(queue_percent)),
        doorbell: u32_at(queue, offset!(queue_doorbell_off)),
        evicted: u32::from(u8_at(queue, offset!(queue_is_evicted)) != 0),
        comm: comm(task),
    }
}

/// `kfd_procfs_add_queue(q)`: last step of `pqm_create_queue`, everything in the queue is set.
#[inline(always)]
fn added(ctx: &impl Entry) {
    let queue = ctx.arg(0);
    let now = Now::read();
    let task = lead_thread(u64_at(queue, offset!(queue_process)));
    let pid = u32_at(task, offset!(task_tgid));
    let mut cause = cause::OTHER;
    if let Some(thread) = now.known_thread() {
        if in_ioctl(thread, cause::CREATE_QUEUE) {
            // The queue may be gone when the ioctl returns (another thread destroys it): remember all of it.
            thread.queue = Queue {
                pid,
                active: 0,
                created: describe(queue, task),
            };
            thread.ioctl_found = FOUND_QUEUE;
            return;
        }
        cause = thread.cause.cause;
    }
    let about = About {
        total_ns: 0,
        cause,
        status: 0,
        pid,
    };
    write(&now, about, Wake::Now, describe(queue, task));
}

/// `kfd_procfs_del_queue(q)`: from `pqm_destroy_queue`, and from `pqm_uninit` when the process ends.
#[inline(always)]
fn deleted(ctx: &impl Entry) {
    let queue = ctx.arg(0);
    let now = Now::read();
    let pid = process_pid(u64_at(queue, offset!(queue_process)));
    let gpu_id = queue_gpu_id(queue);
    let queue_id = u32_at(queue, offset!(queue_id));
    if let Some(thread) = now.known_thread() {
        if in_ioctl(thread, cause::DESTROY_QUEUE) {
            thread.queue.pid = pid;
            thread.queue.created.gpu_id = gpu_id;
            thread.queue.created.queue_id = queue_id;
            thread.ioctl_found = FOUND_QUEUE;
            return;
        }
    }
    let about = About {
        total_ns: 0,
        cause: cause::PROCESS_EXIT,
        status: 0,
        pid,
    };
    write(&now, about, Wake::Now, QueueDestroyed { gpu_id, queue_id });
}

/// `update_queue(dqm, q, minfo)`: from the update ioctl, and for CU masks.
#[inline(always)]
fn update_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.scheduler_entry_ns = now.ns;
    thread.updated_queue = ctx.arg(1);
}

/// Return of `update_queue`: the queue holds its new values, and the caller still holds the process's mutex.
#[inline(always)]
fn updated(_ctx: &impl Exit) {
    let Some(thread) = known_thread() else { return };
    let queue = thread.updated_queue;
    thread.updated_queue = 0;
    thread.scheduler_entry_ns = 0;
    if queue == 0 || !in_ioctl(thread, cause::UPDATE_QUEUE) {
        return;
    }
    let pid = process_pid(u64_at(queue, offset!(queue_process)));
    let found = &mut thread.queue;
    found.pid = pid;
    found.active = u32::from(u8_at(queue, offset!(queue_is_active)) != 0);
    found.created.gpu_id = queue_gpu_id(queue);
    found.created.queue_id = u32_at(queue, offset!(queue_id));
    found.created.priority = u32_at(queue, offset!(queue_priority));
    found.created.percent = u32_at(queue, offset!(queue_percent));
    thread.ioctl_found = FOUND_QUEUE;
}
