// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Resets of a GPU.

use gpreempt_common::{
    counters::Counter,
    offsets::UNKNOWN,
    record::{cause, reset_phase, GpuReset},
};

use crate::{
    context::{entry, exit, Entry, Exit},
    kernel::{dqm_gpu_id, offset, u32_at, u64_at},
    ring::{count, write, About, Wake},
    thread::{enter, leave, Now},
};

entry! {
    reset_enter, reset_enter_f: |ctx| reset_entry(ctx);
    hang, hang_f: |ctx| hung(ctx);
    hang_work, hang_work_f: |ctx| hung_work(ctx);
}
exit! {
    pre_reset_leave, pre_reset_leave_f: |ctx| reset_exit(ctx, reset_phase::PRE);
    post_reset_leave, post_reset_leave_f: |ctx| reset_exit(ctx, reset_phase::POST);
}

/// `kgd2kfd_pre_reset(kfd, ...)`, `kgd2kfd_post_reset(kfd)`.
#[inline(always)]
fn reset_entry(ctx: &impl Entry) {
    let now = Now::read();
    let Some(thread) = now.thread() else { return };
    thread.reset_device = ctx.arg(0);
    enter(&mut thread.reset, &mut thread.cause, &now, cause::RESET, 0);
}

/// A device is several nodes since Linux 6.5, the node itself before.
#[inline(always)]
fn first_node_gpu_id(device: u64) -> u32 {
    let nodes = offset!(kfd_dev_nodes);
    let node = if nodes == UNKNOWN {
        device
    } else {
        u64_at(device, nodes)
    };
    u32_at(node, offset!(node_id))
}

#[inline(always)]
fn reset_exit(ctx: &impl Exit, phase: u32) {
    let now = Now::read();
    let Some(thread) = now.known_thread() else {
        count(Counter::Unmatched);
        return;
    };
    let Some(total_ns) = leave(&mut thread.reset, &mut thread.cause, &now) else {
        return;
    };
    let about = About {
        total_ns,
        cause: cause::RESET,
        status: ctx.ret() as i32,
        pid: 0,
    };
    write(
        &now,
        about,
        Wake::Now,
        GpuReset {
            gpu_id: first_node_gpu_id(thread.reset_device),
            phase,
        },
    );
}

/// `kfd_hws_hang(dqm)`.
#[inline(always)]
fn hung(ctx: &impl Entry) {
    hang_record(ctx.arg(0));
}

/// Not timed: it only schedules the reset.
#[inline(always)]
fn hang_record(dqm: u64) {
    let now = Now::read();
    let about = About {
        total_ns: 0,
        cause: cause::RESET,
        status: 0,
        pid: 0,
    };
    write(
        &now,
        about,
        Wake::Now,
        GpuReset {
            gpu_id: dqm_gpu_id(dqm),
            phase: reset_phase::HANG,
        },
    );
}

/// `kfd_process_hw_exception(work)`: what `kfd_hws_hang` schedules, where the compiler inlined that (6.1).
#[inline(always)]
fn hung_work(ctx: &impl Entry) {
    let work = offset!(dqm_hw_exception_work);
    if work != UNKNOWN {
        hang_record(ctx.arg(0).wrapping_sub(u64::from(work)));
    }
}
