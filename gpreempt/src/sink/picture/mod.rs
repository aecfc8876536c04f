// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `queues`: the contract with tools. The JSON schema and docs/json-records.md are generated from here.

mod select;
pub mod table;

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::finding::Finding;
use super::record::Id64;
use crate::event::{Cause, Comm, Escaped, GpuId, Pid, QueueFormat, QueueId, QueueType};
use crate::kfd::snapshot::{self, Lack, Slot, Snapshot, State};
use crate::model::{Model, QueueKey};
pub use select::{Select, Sort};

/// One line of `queues --format json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum PictureRecord {
    /// A queue.
    Queue(Box<Queue>),
    /// Something worth knowing of the queues that are shown.
    Finding(Finding),
    /// Something that could not be found out.
    Lack(Lack),
    /// The last line of a picture: the GPUs and the processes.
    Snapshot(Taken),
}

/// A queue.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Queue {
    /// When the picture was taken.
    pub ts_ns: u64,
    /// Owner, in the initial pid namespace.
    pub pid: Pid,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Its pid in its own namespace, where that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// Path of its cgroup, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Id of its container, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Type.
    pub queue_type: QueueType,
    /// Where it stands.
    pub state: State,
    /// Everything that keeps it off the GPU, or why its state is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Packet format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<QueueFormat>,
    /// 0 to 15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Dword index on the doorbell BAR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doorbell: Option<u32>,
    /// GPU address of its descriptor on XCC 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqd_address: Option<Id64>,
    /// User address of the write index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wptr_address: Option<Id64>,
    /// User address of the read index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rptr_address: Option<Id64>,
    /// Packets written so far; AQL queues only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_index: Option<u64>,
    /// Packets that the GPU has read so far; AQL queues only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_index: Option<u64>,
    /// Packets that wait: written and not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u64>,
    /// Packets that the GPU read per second, between the picture before, or a sample just before, and this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_per_s: Option<f64>,
    /// Hardware slots that it is on; null without `--hqds`.
    pub slots: Option<Vec<Slot>>,
    /// Last wave save on each XCC, by the GPU's counter. Empty if there never was one, or that is not known.
    pub saves: Vec<Ticks>,
    /// Last wave restore on each XCC, likewise.
    pub restores: Vec<Ticks>,
    /// When it was created, if that was watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_ns: Option<u64>,
    /// Times that it was taken off while mapped, since watching it began; only with `--watch` or from a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preemptions: Option<u64>,
    /// Time off the GPU since watching it began; only with `--watch` or from a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_ns: Option<u64>,
    /// Why it was taken off last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cause: Option<Cause>,
}

/// Begin and end by the GPU's own counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Ticks {
    /// Begin.
    pub start_ticks: Id64,
    /// End.
    pub end_ticks: Id64,
}

/// The last line of a picture.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Taken {
    /// When.
    pub ts_ns: u64,
    /// Queues that exist.
    pub queues: usize,
    /// Of these, those that filters let through.
    pub shown: usize,
    /// Nodes.
    pub gpus: Vec<Gpu>,
    /// Every process that has /dev/kfd open, also those without queues.
    pub processes: Vec<Process>,
}

/// A node.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "GpuNow")]
pub struct Gpu {
    /// Key.
    pub gpu_id: GpuId,
    /// Number of the topology node.
    pub node: u32,
    /// Instruction set, `gfx942`.
    pub gfx: String,
    /// XCCs of the node.
    pub num_xcc: u64,
    /// Compute slots per XCC that the scheduler may use.
    pub slots_total: u32,
    /// Of these, connected to a queue; null without `--hqds`.
    pub slots_used: Option<u32>,
    /// Compute queues in the runlist; null where there is none or it cannot be read.
    pub mapped_compute: Option<u32>,
    /// Copy queues in the runlist.
    pub mapped_sdma: Option<u32>,
    /// Processes in the runlist.
    pub mapped_processes: Option<u32>,
    /// Whether the runlist holds more than the hardware does at once.
    pub oversubscribed: Option<bool>,
    /// Since when it is; only with `--watch` or from a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oversubscribed_since_ns: Option<u64>,
    /// Process whose call made it so; only with `--watch` or from a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oversubscribed_by: Option<Pid>,
    /// Queues that exist.
    pub queues: usize,
    /// Processes with queues.
    pub processes: usize,
}

/// A process that has /dev/kfd open.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProcessNow")]
pub struct Process {
    /// In the initial pid namespace.
    pub pid: Pid,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// In its own namespace, where that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Path of its cgroup, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Id of its container, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Start, in ticks of USER_HZ since boot: with the pid, its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ticks: Option<u64>,
    /// Queues that it has.
    pub queues: usize,
}

/// A picture with what is known from elsewhere, ready to be shown.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Queues that are shown, in their order.
    pub queues: Vec<Queue>,
    /// What is worth knowing of them; given with [`Picture::tell`].
    pub findings: Vec<Finding>,
    /// What could not be found out.
    pub lacks: Vec<Lack>,
    /// The rest.
    pub taken: Taken,
    /// Slots were asked for.
    pub with_slots: bool,
    /// There is a history to tell of.
    pub with_history: bool,
}

/// Read indices by queue, and when they were read.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// CLOCK_BOOTTIME, or any clock that the next sample has too.
    pub ts_ns: u64,
    /// Where known.
    pub read_indices: HashMap<QueueKey, u64>,
}

impl Sample {
    /// Of a picture.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            ts_ns: snapshot.ts_ns,
            read_indices: snapshot
                .queues
                .iter()
                .filter_map(|queue| Some((key(queue), queue.read_index?)))
                .collect(),
        }
    }
}

fn key(queue: &snapshot::Queue) -> QueueKey {
    QueueKey {
        pid: queue.pid,
        gpu_id: queue.gpu_id,
        queue_id: queue.queue_id,
    }
}

/// What a picture is made of beside the snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// An earlier sample, for rates.
    pub before: Option<&'a Sample>,
    /// What was watched.
    pub model: Option<&'a Model>,
    /// Slots were asked for.
    pub with_slots: bool,
}

impl Picture {
    /// Of a snapshot, as far as it is selected.
    #[must_use]
    pub fn new(snapshot: &Snapshot, select: &Select, beside: Beside<'_>) -> Self {
        let mut queues: Vec<Queue> = snapshot
            .queues
            .iter()
            .map(|queue| of_queue(queue, snapshot, beside))
            .filter(|queue| select.takes(queue))
            .collect();
        select.sort(&mut queues);
        let count = |of: &dyn Fn(&snapshot::Queue) -> bool| {
            snapshot.queues.iter().filter(|queue| of(queue)).count()
        };
        let taken = Taken {
            ts_ns: snapshot.ts_ns,
            queues: snapshot.queues.len(),
            shown: queues.len(),
            gpus: snapshot
                .gpus
                .iter()
                .map(|gpu| of_gpu(gpu, snapshot, beside.model))
                .collect(),
            processes: snapshot
                .processes
                .iter()
                .map(|process| Process {
                    pid: process.pid,
                    comm: process.comm,
                    ns_pid: process.ns_pid,
                    uid: process.uid,
                    cgroup: process.cgroup.as_deref().map(escaped),
                    container: process.container.as_deref().map(escaped),
                    start_ticks: process.start_ticks,
                    queues: count(&|queue| queue.pid == process.pid),
                })
                .collect(),
        };
        Self {
            queues,
            findings: Vec::new(),
            lacks: snapshot.lacks.clone(),
            taken,
            with_slots: beside.with_slots,
            with_history: beside.model.is_some(),
        }
    }

    /// Shows these findings too, as far as they are of a queue, a process or a node that is selected.
    pub fn tell(&mut self, findings: Vec<Finding>, select: &Select) {
        self.findings = findings;
        self.findings
            .retain(|finding| select.takes_finding(finding, &self.queues));
    }

    /// Its records, the last one the snapshot.
    pub fn records(self) -> impl Iterator<Item = PictureRecord> {
        let queues = self.queues.into_iter().map(Box::new);
        queues
            .map(PictureRecord::Queue)
            .chain(self.findings.into_iter().map(PictureRecord::Finding))
            .chain(self.lacks.into_iter().map(PictureRecord::Lack))
            .chain([PictureRecord::Snapshot(self.taken)])
    }
}

fn escaped(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

fn of_queue(queue: &snapshot::Queue, snapshot: &Snapshot, beside: Beside<'_>) -> Queue {
    let process = snapshot.process(queue.pid);
    let key = key(queue);
    let model = beside.model;
    let created_ns = model.and_then(|model| model.queue(&key)?.created_ns);
    let usage = model.and_then(|model| model.usage(&key));
    let ticks = |of: &[(u64, u64)]| {
        of.iter()
            .map(|(start, end)| Ticks {
                start_ticks: Id64(*start),
                end_ticks: Id64(*end),
            })
            .collect()
    };
    Queue {
        ts_ns: snapshot.ts_ns,
        pid: queue.pid,
        comm: process.and_then(|process| process.comm),
        ns_pid: process.and_then(|process| process.ns_pid),
        cgroup: process.and_then(|process| process.cgroup.as_deref().map(escaped)),
        container: process.and_then(|process| process.container.as_deref().map(escaped)),
        gpu_id: queue.gpu_id,
        queue_id: queue.queue_id,
        queue_type: queue.queue_type,
        state: queue.state,
        reason: queue.reason.clone(),
        ring_bytes: queue.ring_bytes,
        format: queue.aql.map(|aql| match aql {
            true => QueueFormat::Aql,
            false => QueueFormat::Pm4,
        }),
        priority: queue.priority,
        percent: queue.percent,
        doorbell: queue.doorbell,
        mqd_address: queue.mqd_address.map(Id64),
        wptr_address: queue.wptr_address.map(Id64),
        rptr_address: queue.rptr_address.map(Id64),
        write_index: queue.write_index,
        read_index: queue.read_index,
        depth: queue.depth(),
        packets_per_s: beside
            .before
            .and_then(|before| rate(before, key, queue.read_index?, snapshot.ts_ns)),
        slots: beside.with_slots.then(|| queue.slots.clone()),
        saves: ticks(&queue.saves),
        restores: ticks(&queue.restores),
        created_ns,
        preemptions: usage.as_ref().map(|usage| usage.preemptions),
        off_ns: usage.as_ref().map(|usage| usage.off_until(snapshot.ts_ns)),
        last_cause: usage
            .and_then(|usage| usage.last_cause)
            .map(|(cause, _)| cause),
    }
}

/// An index that went back is that of another queue at the same id.
fn rate(before: &Sample, key: QueueKey, read_index: u64, ts_ns: u64) -> Option<f64> {
    let packets = read_index.checked_sub(*before.read_indices.get(&key)?)?;
    let ns = ts_ns.checked_sub(before.ts_ns).filter(|ns| *ns > 0)?;
    #[allow(clippy::cast_precision_loss, reason = "a rate has few digits")]
    let rate = packets as f64 * 1e9 / ns as f64;
    Some((rate * 10.0).round() / 10.0)
}

fn of_gpu(gpu: &snapshot::Gpu, snapshot: &Snapshot, model: Option<&Model>) -> Gpu {
    let gpu_id = gpu.node.gpu_id;
    let oversubscription = model.and_then(|model| model.gpu(gpu_id)?.oversubscription);
    let queues = || {
        snapshot
            .queues
            .iter()
            .filter(|queue| queue.gpu_id == gpu_id)
    };
    let mut pids: Vec<Pid> = queues().map(|queue| queue.pid).collect();
    pids.dedup();
    Gpu {
        gpu_id,
        node: gpu.node.node,
        gfx: gpu.node.gfx(),
        num_xcc: gpu.node.num_xcc(),
        slots_total: gpu.slots_total,
        slots_used: gpu.slots_used,
        mapped_compute: gpu.runlist.map(|runlist| runlist.compute_queues),
        mapped_sdma: gpu.runlist.map(|runlist| runlist.sdma_queues),
        mapped_processes: gpu.runlist.map(|runlist| runlist.processes),
        oversubscribed: gpu.runlist.map(|runlist| runlist.oversubscribed),
        oversubscribed_since_ns: oversubscription.map(|o| o.since_ns),
        oversubscribed_by: oversubscription.and_then(|o| o.by),
        queues: queues().count(),
        processes: pids.len(),
    }
}

#[cfg(test)]
mod tests;
