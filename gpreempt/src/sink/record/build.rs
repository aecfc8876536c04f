// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records from events and from what the other rooms found.

use nix::errno::Errno;

use super::{
    Gpu, GpuReset, Id64, Probe, ProcessAttached, ProcessEvicted, ProcessExited, ProcessRestored,
    QueueCreated, QueueDestroyed, QueueExisting, QueueOp, QueueRejected, QueueUpdated, QueuesHeld,
    QueuesReleased, QueuesResumed, QueuesSuspended, Record, RunlistMapped, RunlistUnmapped,
};
use crate::event::{Cause, Event, Happening, Pid};
use crate::kfd::topology::GpuNode;
use crate::model::Context;
use crate::source;

impl Record {
    /// The record of one event.
    #[must_use]
    pub fn of(happening: &Happening, context: &Context) -> Self {
        let Happening {
            ts_ns,
            total_ns,
            cause,
            status,
            pid,
            actor_pid,
            ..
        } = *happening;
        let Context {
            comm,
            actor_comm,
            created_ns,
            lifetime_ns,
            evicted_ns,
            ..
        } = *context;
        // Whom to name as the origin of a change that concerns a whole node.
        let (cause_pid, cause_comm) = if pid.is_some() {
            (pid, comm)
        } else {
            (Pid::known(actor_pid.0), actor_comm)
        };
        match happening.event {
            Event::ProcessAttached {
                start_boottime_ns,
                cgroup_id,
                ns_pid,
                ..
            } => Self::ProcessAttached(ProcessAttached {
                ts_ns,
                pid,
                comm,
                ns_pid: ns_pid.or(context.ns_pid),
                start_boottime_ns: Id64(start_boottime_ns),
                cgroup_id: Id64(cgroup_id),
                cgroup: context.cgroup.clone(),
            }),
            Event::ProcessExited {
                start_boottime_ns,
                ns_pid,
                ..
            } => Self::ProcessExited(ProcessExited {
                ts_ns,
                pid,
                comm,
                ns_pid: ns_pid.or(context.ns_pid),
                start_boottime_ns: Id64(start_boottime_ns),
                cgroup: context.cgroup.clone(),
                lifetime_ns,
            }),
            Event::QueueExisting {
                gpu_id,
                queue_id,
                queue_type,
                ring_bytes,
                ..
            } => Self::QueueExisting(QueueExisting {
                ts_ns,
                pid,
                comm,
                gpu_id,
                queue_id,
                queue_type,
                ring_bytes,
            }),
            Event::QueueCreated {
                gpu_id,
                queue_id,
                queue_type,
                format,
                ring_bytes,
                priority,
                percent,
                doorbell,
                evicted,
                ..
            } => Self::QueueCreated(QueueCreated {
                ts_ns,
                pid,
                comm,
                gpu_id,
                queue_id,
                queue_type,
                format,
                priority,
                percent,
                ring_bytes,
                doorbell,
                evicted,
                cause,
                total_ns,
            }),
            Event::QueueUpdated {
                gpu_id,
                queue_id,
                priority,
                percent,
                active,
            } => Self::QueueUpdated(QueueUpdated {
                ts_ns,
                pid,
                comm,
                gpu_id,
                queue_id,
                created_ns,
                percent,
                priority,
                active,
                total_ns,
            }),
            Event::QueueDestroyed { gpu_id, queue_id } => Self::QueueDestroyed(QueueDestroyed {
                ts_ns,
                pid,
                comm,
                gpu_id,
                queue_id,
                created_ns,
                lifetime_ns,
                cause,
                total_ns,
            }),
            Event::QueueRejected => Self::QueueRejected(QueueRejected {
                ts_ns,
                pid: cause_pid,
                comm: cause_comm,
                op: match cause {
                    Cause::CreateQueue => QueueOp::Create,
                    Cause::UpdateQueue => QueueOp::Update,
                    Cause::DestroyQueue => QueueOp::Destroy,
                    _ => QueueOp::Other,
                },
                errno: errno_name(status),
                status,
                total_ns,
            }),
            Event::RunlistUnmapped {
                gpu_id,
                filter,
                lock_wait_ns,
                fence_ns,
            } => Self::RunlistUnmapped(RunlistUnmapped {
                ts_ns,
                gpu_id,
                filter,
                cause,
                cause_pid,
                cause_comm,
                lock_wait_ns,
                fence_ns,
                total_ns,
                status,
            }),
            Event::RunlistMapped {
                gpu_id,
                queues,
                cp_queues,
                processes,
                oversubscribed,
            } => Self::RunlistMapped(RunlistMapped {
                ts_ns,
                gpu_id,
                cause,
                cause_pid,
                cause_comm,
                queues,
                cp_queues,
                processes,
                oversubscribed,
                total_ns,
                status,
            }),
            Event::ProcessEvicted {
                gpu_id,
                reason,
                depth,
            } => Self::ProcessEvicted(ProcessEvicted {
                ts_ns,
                pid,
                comm,
                gpu_id,
                reason,
                depth,
                actor_pid,
                actor_comm,
                total_ns,
                status,
            }),
            Event::ProcessRestored { gpu_id, depth } => Self::ProcessRestored(ProcessRestored {
                ts_ns,
                pid,
                comm,
                gpu_id,
                reason: context.reason,
                depth,
                evicted_ns,
                actor_pid,
                actor_comm,
                total_ns,
                status,
            }),
            Event::QueuesSuspended { count, requested } => Self::QueuesSuspended(QueuesSuspended {
                ts_ns,
                pid,
                comm,
                count,
                requested,
                actor_pid,
                actor_comm,
                total_ns,
                status,
            }),
            Event::QueuesResumed { count, requested } => Self::QueuesResumed(QueuesResumed {
                ts_ns,
                pid,
                comm,
                count,
                requested,
                actor_pid,
                actor_comm,
                total_ns,
                status,
            }),
            Event::GpuReset { gpu_id, phase } => Self::GpuReset(GpuReset {
                ts_ns,
                gpu_id,
                phase,
                total_ns,
            }),
            Event::QueuesHeld(hold) => Self::QueuesHeld(QueuesHeld {
                ts_ns,
                pid,
                comm,
                gpu_id: hold.gpu_id,
                count: hold.count,
                owner_pid: hold.owner_pid,
                owner_comm: context.owner_comm,
                cause: hold.cause,
                status,
                lock_wait_ns: hold.lock_wait_ns,
                hw_ns: hold.hw_ns,
                total_ns,
            }),
            Event::QueuesReleased(hold) => Self::QueuesReleased(QueuesReleased {
                ts_ns,
                pid,
                comm,
                gpu_id: hold.gpu_id,
                count: hold.count,
                owner_pid: hold.owner_pid,
                owner_comm: context.owner_comm,
                cause: hold.cause,
                held_ns: context.held_ns,
                status,
                lock_wait_ns: hold.lock_wait_ns,
                hw_ns: hold.hw_ns,
                total_ns,
            }),
        }
    }
}

/// `EINVAL` for -22; the number itself where it has no name.
#[must_use]
pub fn errno_name(status: i32) -> String {
    match Errno::from_raw(status.saturating_neg()) {
        Errno::UnknownErrno => status.to_string(),
        errno => format!("{errno:?}"),
    }
}

impl From<&source::Probe> for Probe {
    fn from(probe: &source::Probe) -> Self {
        Self {
            function: probe.function.clone(),
            symbol: probe.symbol.clone(),
            attached: probe.attached,
            required: probe.required,
            applies: probe.applies,
            lost_without: probe.lost_without.clone(),
            reason: probe.reason.clone(),
        }
    }
}

impl From<&GpuNode> for Gpu {
    fn from(node: &GpuNode) -> Self {
        Self {
            gpu_id: node.gpu_id,
            node: node.node,
            name: node.name.clone(),
            gfx: node.gfx(),
            pci: node.pci(),
            unique_id: Id64(node.unique_id()),
            num_xcc: node.num_xcc(),
            num_cp_queues: node.num_cp_queues(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::errno_name;

    #[test]
    fn errnos_have_names() {
        assert_eq!(errno_name(-22), "EINVAL");
        assert_eq!(errno_name(-62), "ETIME");
        assert_eq!(errno_name(-9999), "-9999");
        assert_eq!(errno_name(i32::MIN), "-2147483648");
    }
}
