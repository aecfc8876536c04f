// SPDX-License-Identifier: MIT OR Apache-2.0
//! A picture of the machine's compute queues at one moment: what sysfs, procfs, debugfs and the driver's own structs say of them,
//! joined. What could not be read is a [`Lack`] with its reason, never a silent gap.
//!
//! Never opens /dev/kfd. Everything is read through the [`Root`], so that it can be taken of a recording too.

mod container;
mod files;
mod indices;
mod join;
mod process;

use std::io;

use serde::Serialize;

use super::states::States;
use super::topology::GpuNode;
use super::{boottime_ns, Root};
use crate::event::{Comm, GpuId, Pid, QueueId, QueueType};
use files::{Files, Lacks};
pub use indices::read_indices;
pub use process::one as process;

/// What is read beside the cheap parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Registers of every hardware slot (debugfs `hqds`): thousands of register reads under a lock. Only on request.
    pub hqds: bool,
}

/// A picture.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// CLOCK_BOOTTIME when it was begun; 0 in a recording, whose reader knows the time.
    pub ts_ns: u64,
    /// By node number.
    pub gpus: Vec<Gpu>,
    /// Ascending by pid: every process that has /dev/kfd open, also without queues.
    pub processes: Vec<Process>,
    /// Ascending by pid, node, id.
    pub queues: Vec<Queue>,
    /// What could not be found out.
    pub lacks: Vec<Lack>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// What the topology says.
    pub node: GpuNode,
    /// What is mapped, where debugfs can be read and the node has a runlist.
    pub runlist: Option<Runlist>,
    /// Compute slots per XCC that the scheduler may use (`num_cp_queues`).
    pub slots_total: u32,
    /// Of these, connected to a queue on XCC 0; only with [`Want::hqds`].
    pub slots_used: Option<u32>,
}

/// A node's runlist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runlist {
    /// Compute queues in it.
    pub compute_queues: u32,
    /// Copy queues in it.
    pub sdma_queues: u32,
    /// Processes in it, those without an active queue too.
    pub processes: u32,
    /// It chains to itself: more than the hardware holds at once.
    pub oversubscribed: bool,
}

/// A process that has /dev/kfd open.
#[derive(Clone, Debug)]
pub struct Process {
    /// In the initial namespace.
    pub pid: Pid,
    /// In its own, where that is another number.
    pub ns_pid: Option<u32>,
    /// Its name.
    pub comm: Option<Comm>,
    /// Path of its cgroup (v2, else the first of v1).
    pub cgroup: Option<String>,
    /// Id of its container, if the cgroup's path tells one.
    pub container: Option<String>,
    /// Start, in ticks of USER_HZ since boot.
    pub start_ticks: Option<u64>,
    /// User id.
    pub uid: Option<u32>,
}

/// Where a queue stands. The first that applies.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    schemars::JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the runlist: submitted to the scheduler, which does not mean that it runs.
    Mapped,
    /// Held by a patched driver.
    Held,
    /// Parked by a reservation of a patched driver.
    Parked,
    /// Suspended by a debugger.
    Suspended,
    /// Its process is evicted (memory, checkpoint, reset).
    Evicted,
    /// Its owner set it to 0 %, or gave it no ring.
    Disabled,
    /// Not in the runlist, and why is not known.
    Unmapped,
    /// Nothing says whether it is in the runlist.
    Unknown,
}

impl State {
    /// Its word, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Held => "held",
            Self::Parked => "parked",
            Self::Suspended => "suspended",
            Self::Evicted => "evicted",
            Self::Disabled => "disabled",
            Self::Unmapped => "unmapped",
            Self::Unknown => "unknown",
        }
    }
}

/// A user queue.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Owner.
    pub pid: Pid,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Type.
    pub queue_type: QueueType,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// See there.
    pub state: State,
    /// What else is known of why: everything that keeps it off, or why that is not known.
    pub reason: Option<String>,
    /// 0 to 15.
    pub priority: Option<u32>,
    /// 0 to 100.
    pub percent: Option<u32>,
    /// AQL (true) or PM4 packets.
    pub aql: Option<bool>,
    /// Dword index on the doorbell BAR.
    pub doorbell: Option<u32>,
    /// GPU address of its descriptor on XCC 0.
    pub mqd_address: Option<u64>,
    /// User address of the write index.
    pub wptr_address: Option<u64>,
    /// User address of the read index.
    pub rptr_address: Option<u64>,
    /// Packets written so far, from the owner's memory.
    pub write_index: Option<u64>,
    /// Packets read so far, from the owner's memory.
    pub read_index: Option<u64>,
    /// Hardware slots; only with [`Want::hqds`]. One per XCC while it is on the hardware.
    pub slots: Vec<Slot>,
    /// Firmware's clock of the last wave save and restore on each XCC, in ticks of the GPU counter: (start, end).
    pub saves: Vec<(u64, u64)>,
    /// Likewise.
    pub restores: Vec<(u64, u64)>,
}

/// A hardware slot that a queue is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Slot {
    /// XCC, or 0 for SDMA.
    pub xcc: u32,
    /// Pipe of the compute engine, or SDMA engine.
    pub pipe: u32,
    /// Queue of the pipe, or run list controller.
    pub queue: u32,
    /// Address space; 0 for SDMA.
    pub vmid: u32,
}

/// Something that could not be found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Lack {
    /// What is missing from the picture.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

impl Queue {
    /// A compute queue of which nothing else is known.
    #[cfg(test)]
    pub(crate) fn bare(pid: u32, gpu_id: GpuId, queue_id: u32, state: State) -> Self {
        Self {
            pid: Pid(pid),
            gpu_id,
            queue_id: QueueId(queue_id),
            queue_type: QueueType::Compute,
            ring_bytes: 65536,
            state,
            reason: None,
            priority: None,
            percent: None,
            aql: None,
            doorbell: None,
            mqd_address: None,
            wptr_address: None,
            rptr_address: None,
            write_index: None,
            read_index: None,
            slots: Vec::new(),
            saves: Vec::new(),
            restores: Vec::new(),
        }
    }

    /// Packets that wait: written and not read.
    #[must_use]
    pub fn depth(&self) -> Option<u64> {
        Some(self.write_index?.saturating_sub(self.read_index?))
    }
}

impl Snapshot {
    /// A queue of it.
    #[must_use]
    pub fn queue(&self, pid: Pid, gpu_id: GpuId, queue_id: QueueId) -> Option<&Queue> {
        self.queues
            .iter()
            .find(|queue| (queue.pid, queue.gpu_id, queue.queue_id) == (pid, gpu_id, queue_id))
    }

    /// A process of it.
    #[must_use]
    pub fn process(&self, pid: Pid) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }
}

/// What reads the driver's own structs. An error of kind `Unsupported`: nothing here can; others are of a recording without them.
pub type ReadStates<'a> = &'a mut dyn FnMut() -> io::Result<States>;

/// Takes a picture from files alone: all that there is of a recording, which holds the driver's structs too.
#[must_use]
pub fn collect(root: &Root, want: Want) -> Snapshot {
    collect_with(root, want, &mut || Err(io::ErrorKind::Unsupported.into()))
}

/// Takes a picture. `states` reads the driver's structs, which no file has.
#[must_use]
pub fn collect_with(root: &Root, want: Want, states: ReadStates<'_>) -> Snapshot {
    let ts_ns = now_ns(root);
    let mut lacks = Lacks::default();
    let nodes = super::topology::read(root);
    let files = Files::read(root, want, &nodes, states, &mut lacks);
    let processes = process::read(root, &files.pids, &mut lacks);
    let mut queues: Vec<Queue> = files
        .queues
        .iter()
        .map(|queue| join::queue(queue, &files))
        .collect();
    queues.sort_by_key(|queue| (queue.pid, files.node_number(queue.gpu_id), queue.queue_id));
    read_indices(root, &mut queues, &mut |lack| lacks.add(lack));
    let gpus = nodes.into_iter().map(|node| files.gpu(node)).collect();
    Snapshot {
        ts_ns,
        gpus,
        processes,
        queues,
        lacks: lacks.0,
    }
}

/// CLOCK_BOOTTIME of the running machine; 0 of another, whose time its reader knows.
#[must_use]
pub fn now_ns(root: &Root) -> u64 {
    match root.is_real() {
        true => boottime_ns(),
        false => 0,
    }
}

#[cfg(test)]
mod tests;
