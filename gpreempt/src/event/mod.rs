// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes to events. No I/O and no clock; a record that cannot be understood is a value, [`Undecoded`], never a panic.

mod decode;
mod id;
mod kind;
mod text;

pub use decode::{decode, split, time_of, Undecoded};
pub use id::{GpuId, Pid, QueueId};
pub use kind::{
    Cause, EvictReason, HoldCause, Kind, QueueFormat, QueueType, ResetPhase, UnmapFilter,
};
pub use text::{Comm, Escaped};

/// Something that happened, as a record told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happening {
    /// CLOCK_BOOTTIME at the return of the probed call.
    pub ts_ns: u64,
    /// Duration of the probed call; 0 where there is no call to time.
    pub total_ns: u64,
    /// Why, as far as the calling thread tells.
    pub cause: Cause,
    /// Return value of the call: 0, a negative errno, or a count.
    pub status: i32,
    /// The process that this is about, or on whose behalf the runlist changed.
    pub pid: Option<Pid>,
    /// The process of the calling thread.
    pub actor_pid: Pid,
    /// The calling thread.
    pub actor_tid: u32,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process opened /dev/kfd.
    ProcessAttached {
        /// With the pid, the key of the process.
        start_boottime_ns: u64,
        /// cgroup v2 id; 0 = unknown.
        cgroup_id: u64,
        /// Pid in the process's own namespace.
        ns_pid: Option<u32>,
        /// Its name.
        comm: Comm,
    },
    /// A KFD process lost its address space.
    ProcessExited {
        /// With the pid, the key of the process.
        start_boottime_ns: u64,
        /// Pid in the process's own namespace.
        ns_pid: Option<u32>,
        /// Its name.
        comm: Comm,
    },
    /// A queue of the snapshot taken at the start, from sysfs. The time is that of the snapshot.
    QueueExisting {
        /// Node.
        gpu_id: GpuId,
        /// Queue.
        queue_id: QueueId,
        /// Type.
        queue_type: QueueType,
        /// Bytes of the ring.
        ring_bytes: u64,
        /// Name of the owner.
        comm: Comm,
    },
    /// A queue was created.
    QueueCreated {
        /// Node.
        gpu_id: GpuId,
        /// Queue.
        queue_id: QueueId,
        /// Type.
        queue_type: QueueType,
        /// Packet format.
        format: QueueFormat,
        /// Bytes of the ring.
        ring_bytes: u64,
        /// 0 to 15.
        priority: u32,
        /// 0 to 100; 0 = not to be run.
        percent: u32,
        /// Dword index on the doorbell BAR.
        doorbell: u32,
        /// Created while its process was evicted.
        evicted: bool,
        /// Name of the owner.
        comm: Comm,
    },
    /// A queue was updated; the values are those after it.
    QueueUpdated {
        /// Node.
        gpu_id: GpuId,
        /// Queue.
        queue_id: QueueId,
        /// 0 to 15.
        priority: u32,
        /// 0 to 100; 0 = not to be run.
        percent: u32,
        /// Whether it may run.
        active: bool,
    },
    /// A queue is gone.
    QueueDestroyed {
        /// Node.
        gpu_id: GpuId,
        /// Queue.
        queue_id: QueueId,
    },
    /// Create, update or destroy failed; the cause names the operation, the status the errno.
    QueueRejected,
    /// The runlist of a node was taken off the hardware.
    RunlistUnmapped {
        /// Node.
        gpu_id: GpuId,
        /// Which queues.
        filter: UnmapFilter,
        /// Wait for the lock of the node's scheduler; 0 = not seen.
        lock_wait_ns: u64,
        /// Time that the hardware scheduler took; 0 = not reached.
        fence_ns: u64,
    },
    /// The runlist of a node was submitted.
    RunlistMapped {
        /// Node.
        gpu_id: GpuId,
        /// Queues of all types in it.
        queues: u32,
        /// Compute queues in it.
        cp_queues: u32,
        /// Processes registered on the node.
        processes: u32,
        /// More than the hardware holds at once: it is time-sliced.
        oversubscribed: bool,
    },
    /// The queues of a process were evicted from a node.
    ProcessEvicted {
        /// Node.
        gpu_id: GpuId,
        /// Why.
        reason: EvictReason,
        /// Evictions in force; only the first stops queues. 0 = unknown.
        depth: u32,
    },
    /// The queues of a process were restored on a node.
    ProcessRestored {
        /// Node.
        gpu_id: GpuId,
        /// Evictions still in force; 0 = the queues may run.
        depth: u32,
    },
    /// A debugger suspended queues.
    QueuesSuspended {
        /// Really suspended.
        count: u32,
        /// Asked for.
        requested: u32,
    },
    /// A debugger resumed queues.
    QueuesResumed {
        /// Really resumed.
        count: u32,
        /// Asked for; 0 = all.
        requested: u32,
    },
    /// A GPU hung or was reset.
    GpuReset {
        /// First node of the device.
        gpu_id: GpuId,
        /// Where it stands.
        phase: ResetPhase,
    },
    /// A patched driver held queues of a process on a node.
    QueuesHeld(Hold),
    /// A patched driver released queues of a process on a node.
    QueuesReleased(Hold),
}

/// What a patched driver says of queues that it held or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Node.
    pub gpu_id: GpuId,
    /// Queues whose hold was set or cleared.
    pub count: u32,
    /// Owner of the hold.
    pub owner_pid: Option<Pid>,
    /// Why.
    pub cause: HoldCause,
    /// Wait for the lock of the node's scheduler.
    pub lock_wait_ns: u64,
    /// Time that the hardware scheduler took; 0 = it was not asked.
    pub hw_ns: u64,
}

impl Event {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::ProcessAttached { .. } => Kind::ProcessAttached,
            Self::ProcessExited { .. } => Kind::ProcessExited,
            Self::QueueExisting { .. } => Kind::QueueExisting,
            Self::QueueCreated { .. } => Kind::QueueCreated,
            Self::QueueUpdated { .. } => Kind::QueueUpdated,
            Self::QueueDestroyed { .. } => Kind::QueueDestroyed,
            Self::QueueRejected => Kind::QueueRejected,
            Self::RunlistUnmapped { .. } => Kind::RunlistUnmapped,
            Self::RunlistMapped { .. } => Kind::RunlistMapped,
            Self::ProcessEvicted { .. } => Kind::ProcessEvicted,
            Self::ProcessRestored { .. } => Kind::ProcessRestored,
            Self::QueuesSuspended { .. } => Kind::QueuesSuspended,
            Self::QueuesResumed { .. } => Kind::QueuesResumed,
            Self::GpuReset { .. } => Kind::GpuReset,
            Self::QueuesHeld(_) => Kind::QueuesHeld,
            Self::QueuesReleased(_) => Kind::QueuesReleased,
        }
    }

    /// The node it is about, if it is about one.
    #[must_use]
    pub fn gpu_id(&self) -> Option<GpuId> {
        match *self {
            Self::QueueExisting { gpu_id, .. }
            | Self::QueueCreated { gpu_id, .. }
            | Self::QueueUpdated { gpu_id, .. }
            | Self::QueueDestroyed { gpu_id, .. }
            | Self::RunlistUnmapped { gpu_id, .. }
            | Self::RunlistMapped { gpu_id, .. }
            | Self::ProcessEvicted { gpu_id, .. }
            | Self::ProcessRestored { gpu_id, .. }
            | Self::GpuReset { gpu_id, .. }
            | Self::QueuesHeld(Hold { gpu_id, .. })
            | Self::QueuesReleased(Hold { gpu_id, .. }) => Some(gpu_id),
            Self::ProcessAttached { .. }
            | Self::ProcessExited { .. }
            | Self::QueueRejected
            | Self::QueuesSuspended { .. }
            | Self::QueuesResumed { .. } => None,
        }
    }

    /// The queue it is about, if it is about one.
    #[must_use]
    pub fn queue_id(&self) -> Option<QueueId> {
        match *self {
            Self::QueueExisting { queue_id, .. }
            | Self::QueueCreated { queue_id, .. }
            | Self::QueueUpdated { queue_id, .. }
            | Self::QueueDestroyed { queue_id, .. } => Some(queue_id),
            _ => None,
        }
    }

    /// The process by whose will it happened, where the record names it beside the process that it is about.
    #[must_use]
    pub fn owner_pid(&self) -> Option<Pid> {
        match self {
            Self::QueuesHeld(hold) | Self::QueuesReleased(hold) => hold.owner_pid,
            _ => None,
        }
    }
}
