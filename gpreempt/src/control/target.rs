// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be stopped: a process, or some of its queues.

use crate::event::{Comm, GpuId, Pid, QueueId, QueueType};

/// A process some or all of whose queues are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In the initial pid namespace.
    pub pid: Pid,
    /// Field 22 of `/proc/PID/stat`, USER_HZ ticks: with the pid, the process's key.
    pub start_ticks: u64,
    /// Name of the group leader.
    pub comm: Comm,
    /// The queues meant, as sysfs knows them now.
    pub queues: Vec<TargetQueue>,
    /// Every queue of the process is meant, also those created later. Else exactly those in `queues`.
    pub whole: bool,
}

/// A queue of a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetQueue {
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Compute or SDMA.
    pub queue_type: QueueType,
}
