// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Suspend and resume by a debugger (Linux 6.5).

use gpreempt_common::{
    counters::Counter,
    record::{cause, QueuesResumed, QueuesSuspended},
};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::process_pid,
    ring::{count, write, About, Wake},
    thread::{enter, leave, Now},
};

entry! {
    suspend_enter, suspend_enter_f: |ctx| group_entry(ctx, cause::SUSPEND);
    resume_enter, resume_enter_f: |ctx| group_entry(ctx, cause::RESUME);
    debug_off_enter, debug_off_enter_f: |ctx| debug_off_entry(ctx);
}
exit! {
    suspend_leave, suspend_leave_f: |ctx| suspend_exit(ctx);
    resume_leave, resume_leave_f: |ctx| resume_exit(ctx);
    debug_off_leave, debug_off_leave_f: |ctx| debug_off_exit(ctx);
}

/// `kfd_dbg_trap_disable(target)`: also when the debugger dies.
#[inline(always)]
fn debug_off_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let pid = process_pid(ctx.arg(0));
    enter(
        &mut thread.debug,
        &mut thread.cause,
        &now,
        cause::DEBUG_TRAP,
        pid,
    );
}

#[inline(always)]
fn debug_off_exit(_ctx: &impl Exit) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        return;
    };
    leave(&mut thread.debug, &mut thread.cause, &now);
}

/// `suspend_queues(p, num_queues, ...)`, `resume_queues(p, num_queues, ids)`: `p` is the debugged process.
#[inline(always)]
fn group_entry(ctx: &impl Entry, cause: u16) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    let pid = process_pid(ctx.arg(0));
    thread.group_requested = u64::from(ctx.arg(1) as u32);
    enter(&mut thread.group, &mut thread.cause, &now, cause, pid);
}

/// Header and number of queues asked for. The return value is the number of queues done or a negative errno.
#[inline(always)]
fn group_exit(ctx: &impl Exit, now: &Now, cause: u16) -> Option<(About, u32)> {
    let Some(thread) = now.known_thread() else {
        count(Counter::Unmatched);
        return None;
    };
    let pid = thread.cause.pid;
    let total_ns = leave(&mut thread.group, &mut thread.cause, now)?;
    let about = About {
        total_ns,
        cause,
        status: ctx.ret() as i32,
        pid,
    };
    Some((about, thread.group_requested as u32))
}

#[inline(always)]
fn suspend_exit(ctx: &impl Exit) {
    let now = Now::read();
    if let Some((about, requested)) = group_exit(ctx, &now, cause::SUSPEND) {
        let count = if about.status > 0 {
            about.status as u32
        } else {
            0
        };
        write(&now, about, Wake::Now, QueuesSuspended { count, requested });
    }
}

#[inline(always)]
fn resume_exit(ctx: &impl Exit) {
    let now = Now::read();
    if let Some((about, requested)) = group_exit(ctx, &now, cause::RESUME) {
        let count = if about.status > 0 {
            about.status as u32
        } else {
            0
        };
        write(&now, about, Wake::Now, QueuesResumed { count, requested });
    }
}
