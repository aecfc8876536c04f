// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that have a record of their own: their slices, and what they do to queues.

use std::collections::VecDeque;
use std::io::{self, Write};

use super::is_parking;
use super::lanes::Slice;
use super::packets::{Args, Packets, SliceName};
use super::process::{queue_args, Process};
use super::state::By;
use crate::event::{Cause, Event, Happening, Pid};
use crate::model::Context;

/// Runlist operations that no call was found for yet. A call makes few, and its record follows them.
const MOST: usize = 256;

/// Runlist operations, by the thread that made them.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(u32, u64, u64)>);

impl Recent {
    /// Thread `tid` made one, which ended at `ts_ns`.
    pub(super) fn add(&mut self, tid: u32, ts_ns: u64, flow: u64) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((tid, ts_ns, flow));
    }

    /// Those that happened within a call of the same thread.
    pub(super) fn of_call(&mut self, call: &Happening) -> Vec<u64> {
        let within = call.ts_ns.saturating_sub(call.total_ns)..=call.ts_ns;
        let mut flows = Vec::new();
        self.0.retain(|(tid, ts_ns, flow)| {
            if *tid != call.actor_tid {
                return true;
            }
            if within.contains(ts_ns) {
                flows.push(*flow);
            }
            // What the thread did before belongs to a call that is over.
            false
        });
        flows
    }
}

/// Writes the slice of a call, or an instant where there was no call to time.
pub(super) fn write<W: Write>(
    packets: &mut Packets<W>,
    process: &mut Process,
    happening: &Happening,
    context: &Context,
    flows: Vec<u64>,
) -> io::Result<()> {
    let Some((name, args)) = describe(happening, context) else {
        return Ok(());
    };
    let Happening {
        ts_ns, total_ns, ..
    } = *happening;
    if total_ns == 0 {
        return process.events.instant(packets, ts_ns, &name, &args);
    }
    let slice = Slice {
        name,
        begin_ns: ts_ns.saturating_sub(total_ns),
        end_ns: ts_ns,
        args: args.status(happening.status),
        flows,
        inner: Vec::new(),
    };
    process.calls.write(packets, &slice)
}

fn describe(happening: &Happening, context: &Context) -> Option<(SliceName, Args)> {
    let by_actor = || Args::new().by(Pid::known(happening.actor_pid.0), context.actor_comm);
    Some(match happening.event {
        Event::ProcessAttached { ns_pid, .. } => {
            let args = Args::new();
            let args = match ns_pid.or(context.ns_pid) {
                Some(ns_pid) => args.uint("ns_pid", ns_pid),
                None => args,
            };
            let args = match &context.cgroup {
                Some(cgroup) => args.text("cgroup", cgroup),
                None => args,
            };
            ("opened /dev/kfd".into(), args)
        }
        Event::ProcessExited { .. } => ("exited".into(), Args::new()),
        Event::QueueExisting { .. } => return None,
        Event::QueueCreated {
            gpu_id,
            queue_id,
            queue_type,
            format,
            ring_bytes,
            priority,
            percent,
            doorbell,
            ..
        } => {
            let args = queue_args(gpu_id, queue_id)
                .text("queue_type", queue_type.name())
                .text("format", format.name())
                .uint("ring_bytes", ring_bytes)
                .uint("priority", priority)
                .uint("percent", percent)
                .uint("doorbell", doorbell);
            let name = match happening.cause {
                Cause::Criu => "restore queue (criu)",
                _ => "create queue",
            };
            (name.into(), args)
        }
        Event::QueueUpdated {
            gpu_id,
            queue_id,
            priority,
            percent,
            active,
        } => {
            let args = queue_args(gpu_id, queue_id)
                .uint("priority", priority)
                .uint("percent", percent)
                .bool("active", active);
            ("update queue".into(), args)
        }
        Event::QueueDestroyed { gpu_id, queue_id } => {
            let name = match happening.total_ns {
                0 => "queue torn down",
                _ => "destroy queue",
            };
            (name.into(), queue_args(gpu_id, queue_id))
        }
        Event::QueueRejected => {
            let name = match happening.cause {
                Cause::CreateQueue => "create queue: refused",
                Cause::UpdateQueue => "update queue: refused",
                Cause::DestroyQueue => "destroy queue: refused",
                _ => "refused",
            };
            (name.into(), Args::new())
        }
        Event::ProcessEvicted {
            gpu_id,
            reason,
            depth,
        } => {
            let args = by_actor().text("gpu_id", gpu_id).uint("depth", depth);
            (format!("evict ({})", reason.name()).into(), args)
        }
        Event::ProcessRestored { gpu_id, depth } => {
            let args = by_actor().text("gpu_id", gpu_id).uint("depth", depth);
            let args = match context.evicted_ns {
                Some(evicted_ns) => args.uint("evicted_ns", evicted_ns),
                None => args,
            };
            ("restore".into(), args)
        }
        Event::QueuesSuspended { count, requested } => {
            let args = by_actor().uint("count", count).uint("requested", requested);
            ("suspend".into(), args)
        }
        Event::QueuesResumed { count, requested } => {
            let args = by_actor().uint("count", count).uint("requested", requested);
            ("resume".into(), args)
        }
        Event::QueuesHeld(hold) | Event::QueuesReleased(hold) => {
            let what = match (happening.event, is_parking(hold.cause)) {
                (Event::QueuesHeld(_), false) => "hold",
                (Event::QueuesHeld(_), true) => "park",
                (_, false) => "release",
                (_, true) => "unpark",
            };
            let args = Args::new()
                .by(hold.owner_pid, context.owner_comm)
                .text("gpu_id", hold.gpu_id)
                .uint("count", hold.count)
                .uint("lock_wait_ns", hold.lock_wait_ns)
                .uint("hw_ns", hold.hw_ns);
            (format!("{what} ({})", hold.cause.name()).into(), args)
        }
        Event::RunlistUnmapped { .. } | Event::RunlistMapped { .. } | Event::GpuReset { .. } => {
            return None
        }
    })
}

/// What a call does to the process and its queues. What they show follows from it later.
pub(super) fn apply<W: Write>(
    packets: &mut Packets<W>,
    process: &mut Process,
    happening: &Happening,
    context: &Context,
) -> io::Result<()> {
    let ts_ns = happening.ts_ns;
    let by = By {
        pid: Pid::known(happening.actor_pid.0),
        comm: context.actor_comm,
    };
    match happening.event {
        Event::ProcessAttached { .. } => process.exited = false,
        Event::ProcessExited { .. } => process.exited = true,
        Event::QueueExisting {
            gpu_id,
            queue_id,
            queue_type,
            ..
        } => process.add_queue(packets, (gpu_id, queue_id), queue_type, ts_ns, ts_ns)?,
        Event::QueueCreated {
            gpu_id,
            queue_id,
            queue_type,
            percent,
            ..
        } => {
            let begin_ns = ts_ns.saturating_sub(happening.total_ns);
            process.add_queue(packets, (gpu_id, queue_id), queue_type, ts_ns, begin_ns)?;
            process.set_inactive(gpu_id, queue_id, percent == 0);
        }
        Event::QueueUpdated {
            gpu_id,
            queue_id,
            percent,
            active,
            ..
        } => process.set_inactive(gpu_id, queue_id, percent == 0 || !active),
        Event::QueueDestroyed { gpu_id, queue_id } => {
            process.remove_queue(packets, (gpu_id, queue_id), ts_ns)?;
        }
        Event::ProcessEvicted { gpu_id, reason, .. } => {
            // Evictions nest: the first one counts.
            process.evicted.entry(gpu_id).or_insert(reason);
        }
        Event::ProcessRestored { gpu_id, depth } => {
            if depth == 0 {
                process.evicted.remove(&gpu_id);
            }
        }
        Event::QueuesSuspended { count, .. } => {
            process.suspend(process.suspended.0.saturating_add(count), by);
        }
        Event::QueuesResumed { count, .. } => {
            process.suspend(process.suspended.0.saturating_sub(count), by);
        }
        Event::QueuesHeld(hold) => {
            let counts = process.holds(is_parking(hold.cause));
            let held = counts.entry(hold.gpu_id).or_default();
            let owner = By {
                pid: hold.owner_pid,
                comm: context.owner_comm,
            };
            *held = (held.0.saturating_add(hold.count), owner);
        }
        Event::QueuesReleased(hold) => {
            let counts = process.holds(is_parking(hold.cause));
            let held = counts.entry(hold.gpu_id).or_default();
            held.0 = held.0.saturating_sub(hold.count);
            if held.0 == 0 {
                counts.remove(&hold.gpu_id);
            }
        }
        Event::QueueRejected
        | Event::RunlistUnmapped { .. }
        | Event::RunlistMapped { .. }
        | Event::GpuReset { .. } => {}
    }
    Ok(())
}
