// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of `watch`: the contract with tools. The JSON schema and docs/json-records.md are generated from here.
//!
//! Times are CLOCK_BOOTTIME in nanoseconds; durations are measured in the kernel between entry and return of one call.
//! 64-bit ids that may exceed 2^53 are strings.

mod build;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use build::errno_name;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::event::{
    Cause, Comm, EvictReason, GpuId, HoldCause, Kind, Pid, QueueFormat, QueueId, QueueType,
    ResetPhase, UnmapFilter,
};

/// A 64-bit id, written as a string of decimal digits: JSON numbers are exact to 2^53 only in many readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Id64(pub u64);

impl Serialize for Id64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// One line of `watch --format json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum Record {
    /// The first line: what was found and attached.
    Startup(Box<Startup>),
    /// A process opened /dev/kfd. Every open tells; the same pid and start time are the same process.
    ProcessAttached(ProcessAttached),
    /// A GPU process lost its address space: it exits or executes another program. Its queues go next.
    ProcessExited(ProcessExited),
    /// A queue that was there at the start, from sysfs, which does not tell priority or state. A queue being created at
    /// that very moment can be told twice, as existing and as created.
    QueueExisting(QueueExisting),
    /// A queue was created.
    QueueCreated(QueueCreated),
    /// A queue was updated; the values are those after it.
    QueueUpdated(QueueUpdated),
    /// A queue is gone.
    QueueDestroyed(QueueDestroyed),
    /// A create, update or destroy failed.
    QueueRejected(QueueRejected),
    /// All queues of a node were taken off the hardware, those of processes that are not concerned too.
    RunlistUnmapped(RunlistUnmapped),
    /// The queues of a node were submitted to the hardware scheduler. Submitted, not running.
    RunlistMapped(RunlistMapped),
    /// The queues of a process were evicted from a node.
    ProcessEvicted(ProcessEvicted),
    /// One eviction of a process on a node ended.
    ProcessRestored(ProcessRestored),
    /// A debugger suspended queues of a process.
    QueuesSuspended(QueuesSuspended),
    /// A debugger resumed queues of a process.
    QueuesResumed(QueuesResumed),
    /// A GPU hung or was reset.
    GpuReset(GpuReset),
    /// A patched driver held queues of a process on a node, or a reservation parked them.
    QueuesHeld(QueuesHeld),
    /// A patched driver let held queues of a process on a node go, or a reservation did.
    QueuesReleased(QueuesReleased),
    /// Records were lost: the stream has a gap before this line.
    Lost(Lost),
    /// The driver went away or came back.
    Driver(DriverChange),
    /// The last line.
    Summary(Summary),
}

/// What was found and attached.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Startup {
    /// When.
    pub ts_ns: u64,
    /// The same moment in nanoseconds since 1970, to tell the time of day of any `ts_ns`.
    pub unix_ns: Id64,
    /// Version of gpreempt.
    pub version: String,
    /// Version of these records; grows when a field changes its meaning or goes away.
    pub schema: u32,
    /// Release of the running kernel.
    pub kernel: String,
    /// Module that carries amdkfd, `vmlinux` when it is built in.
    pub module: String,
    /// Its version or srcversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_version: Option<String>,
    /// Where the offsets of struct members came from: `btf` or `profile:PATH`.
    pub offsets: String,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
    /// Probes that are attached.
    pub probes_attached: usize,
    /// Probes that were wanted and are not attached.
    pub probes_missed: usize,
    /// Every planned probe.
    pub probes: Vec<Probe>,
    /// GPU nodes.
    pub gpus: Vec<Gpu>,
}

/// One planned probe and what became of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Probe {
    /// Kernel function.
    pub function: String,
    /// Symbol of this kernel that it was attached to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Whether it is attached.
    pub attached: bool,
    /// Without it `watch` refuses to start.
    pub required: bool,
    /// False for a function that only a patched driver has, where the driver is not patched: nothing is missing then, and
    /// `probes_missed` does not count it.
    pub applies: bool,
    /// What the stream lacks while it is not attached.
    pub lost_without: String,
    /// Why it is not attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A GPU node: a GPU, or one partition of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gpu {
    /// Key.
    pub gpu_id: GpuId,
    /// Number of the topology node.
    pub node: u32,
    /// Name that the driver gives.
    pub name: String,
    /// Instruction set, `gfx942`.
    pub gfx: String,
    /// PCI address of the device; partitions share it.
    pub pci: String,
    /// Id of the device; 0 where it has none.
    pub unique_id: Id64,
    /// XCCs of the node.
    pub num_xcc: u64,
    /// Compute queue slots per XCC.
    pub num_cp_queues: u64,
}

/// `process_attached`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProcessAttached {
    /// When.
    pub ts_ns: u64,
    /// Process, in the initial pid namespace.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Its pid in its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// When it started: with the pid, its key.
    pub start_boottime_ns: Id64,
    /// cgroup v2 id.
    pub cgroup_id: Id64,
    /// Path of that cgroup, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Arc<str>>,
}

/// `process_exited`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProcessExited {
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Its pid in its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// When it started: with the pid, its key.
    pub start_boottime_ns: Id64,
    /// Path of its cgroup, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Arc<str>>,
    /// Since it was seen to open /dev/kfd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_ns: Option<u64>,
}

/// `queue_existing`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueueExisting {
    /// When it was seen.
    pub ts_ns: u64,
    /// Owner.
    pub pid: Option<Pid>,
    /// Name of the owner, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Type.
    pub queue_type: QueueType,
    /// Bytes of the ring.
    pub ring_bytes: u64,
}

/// `queue_created`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueueCreated {
    /// When: with pid, gpu_id and queue_id, its key (`created_ns`).
    pub ts_ns: u64,
    /// Owner.
    pub pid: Option<Pid>,
    /// Name of the owner, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// Type.
    pub queue_type: QueueType,
    /// Packet format.
    pub format: QueueFormat,
    /// 0 to 15.
    pub priority: u32,
    /// 0 to 100; 0 = not to be run.
    pub percent: u32,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Dword index on the doorbell BAR.
    pub doorbell: u32,
    /// Created while its process was evicted: it does not run yet.
    pub evicted: bool,
    /// `create_queue`, or `criu` for a restored checkpoint.
    pub cause: Cause,
    /// Duration of the ioctl; 0 for a restored checkpoint.
    pub total_ns: u64,
}

/// `queue_updated`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueueUpdated {
    /// When.
    pub ts_ns: u64,
    /// Owner.
    pub pid: Option<Pid>,
    /// Name of the owner, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// When the queue was created, if that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_ns: Option<u64>,
    /// 0 to 100; 0 = not to be run.
    pub percent: u32,
    /// 0 to 15.
    pub priority: u32,
    /// Whether it may run.
    pub active: bool,
    /// Duration of the ioctl.
    pub total_ns: u64,
}

/// `queue_destroyed`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueueDestroyed {
    /// When.
    pub ts_ns: u64,
    /// Owner.
    pub pid: Option<Pid>,
    /// Name of the owner, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
    /// When the queue was created, if that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_ns: Option<u64>,
    /// How long it lived, if its creation was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_ns: Option<u64>,
    /// `destroy_queue`, or `process_exit` for a teardown.
    pub cause: Cause,
    /// Duration of the ioctl; 0 for a teardown.
    pub total_ns: u64,
}

/// `queue_rejected`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueueRejected {
    /// When.
    pub ts_ns: u64,
    /// Process that asked.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// What it asked for.
    pub op: QueueOp,
    /// Name of the error, `EINVAL`.
    pub errno: String,
    /// Negative error number.
    pub status: i32,
    /// Duration of the ioctl.
    pub total_ns: u64,
}

/// What was asked for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueOp {
    /// To create a queue.
    Create,
    /// To update one.
    Update,
    /// To destroy one.
    Destroy,
    /// Not told.
    Other,
}

/// `runlist_unmapped`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunlistUnmapped {
    /// When.
    pub ts_ns: u64,
    /// Node.
    pub gpu_id: GpuId,
    /// Which queues.
    pub filter: UnmapFilter,
    /// Why.
    pub cause: Cause,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause_pid: Option<Pid>,
    /// Name of that process, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub cause_comm: Option<Comm>,
    /// Wait for the lock of the node's scheduler, and the little work done under it before; 0 = not seen.
    pub lock_wait_ns: u64,
    /// Time that the hardware scheduler took to take the queues off; 0 = it was not asked to.
    pub fence_ns: u64,
    /// Duration of `unmap_queues_cpsch`.
    pub total_ns: u64,
    /// 0, or a negative error number: -62 (ETIME) is a queue that did not let go, and a GPU reset follows.
    pub status: i32,
}

/// `runlist_mapped`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RunlistMapped {
    /// When.
    pub ts_ns: u64,
    /// Node.
    pub gpu_id: GpuId,
    /// Why.
    pub cause: Cause,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause_pid: Option<Pid>,
    /// Name of that process, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub cause_comm: Option<Comm>,
    /// Active queues in the runlist.
    pub queues: u32,
    /// Of these, compute queues.
    pub cp_queues: u32,
    /// Processes registered on the node, those without an active queue too.
    pub processes: u32,
    /// More than the hardware holds at once: queues take turns.
    pub oversubscribed: bool,
    /// Duration of `map_queues_cpsch`.
    pub total_ns: u64,
    /// 0, or a negative error number.
    pub status: i32,
}

/// `process_evicted`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProcessEvicted {
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Why.
    pub reason: EvictReason,
    /// Evictions in force; only the first stops queues. 0 = this kernel's count could not be read.
    pub depth: u32,
    /// Process whose thread did it.
    pub actor_pid: Pid,
    /// Its name, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub actor_comm: Option<Comm>,
    /// Duration of `evict_process_queues_cpsch`, lock wait and unmap included.
    pub total_ns: u64,
    /// 0, or a negative error number.
    pub status: i32,
}

/// `process_restored`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProcessRestored {
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Why it had been evicted, if that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<EvictReason>,
    /// Evictions still in force; 0 = the queues may run.
    pub depth: u32,
    /// From the eviction that stopped the queues to this; only when they may run again and the eviction was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted_ns: Option<u64>,
    /// Process whose thread did it.
    pub actor_pid: Pid,
    /// Its name, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub actor_comm: Option<Comm>,
    /// Duration of `restore_process_queues_cpsch`, lock wait and mapping included.
    pub total_ns: u64,
    /// 0, or a negative error number.
    pub status: i32,
}

/// `queues_suspended`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueuesSuspended {
    /// When.
    pub ts_ns: u64,
    /// Process that is debugged.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Queues really suspended. Fewer than `requested` is no error for the driver: new queues are refused silently.
    pub count: u32,
    /// Queues asked for.
    pub requested: u32,
    /// Debugger.
    pub actor_pid: Pid,
    /// Its name, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub actor_comm: Option<Comm>,
    /// Duration of `suspend_queues`, the copies of control stacks included.
    pub total_ns: u64,
    /// Return value: a count, or a negative error number.
    pub status: i32,
}

/// `queues_resumed`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueuesResumed {
    /// When.
    pub ts_ns: u64,
    /// Process that is debugged.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Queues really resumed.
    pub count: u32,
    /// Queues asked for; 0 = all.
    pub requested: u32,
    /// Debugger.
    pub actor_pid: Pid,
    /// Its name, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub actor_comm: Option<Comm>,
    /// Duration of `resume_queues`.
    pub total_ns: u64,
    /// Return value: a count, or a negative error number.
    pub status: i32,
}

/// `gpu_reset`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GpuReset {
    /// When.
    pub ts_ns: u64,
    /// First node of the device.
    pub gpu_id: GpuId,
    /// Where it stands.
    pub phase: ResetPhase,
    /// Duration of the probed call.
    pub total_ns: u64,
}

/// `queues_held`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueuesHeld {
    /// When, after the hardware answered.
    pub ts_ns: u64,
    /// Process whose queues are held.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Queues that were not held before.
    pub count: u32,
    /// Process that holds them, or reserved.
    pub owner_pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub owner_comm: Option<Comm>,
    /// Why.
    pub cause: HoldCause,
    /// 0, or a negative error number: -62 (ETIME) is a queue that did not let go, and a GPU reset follows.
    pub status: i32,
    /// Wait for the lock of the node's scheduler.
    pub lock_wait_ns: u64,
    /// From asking the hardware scheduler to its answer; 0 = it was not asked.
    pub hw_ns: u64,
    /// What the driver did on this node, both of these included.
    pub total_ns: u64,
}

/// `queues_released`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct QueuesReleased {
    /// When, after the queues were submitted.
    pub ts_ns: u64,
    /// Process whose queues were held.
    pub pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub comm: Option<Comm>,
    /// Node.
    pub gpu_id: GpuId,
    /// Queues that are no longer held.
    pub count: u32,
    /// Process that held them, or reserved; for `force`, the one that forced it.
    pub owner_pid: Option<Pid>,
    /// Its name, escaped.
    #[schemars(with = "Option<String>")]
    pub owner_comm: Option<Comm>,
    /// Why.
    pub cause: HoldCause,
    /// Since the first queue of the process on the node was held; only with the release of the last, if that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_ns: Option<u64>,
    /// 0, or a negative error number.
    pub status: i32,
    /// Wait for the lock of the node's scheduler.
    pub lock_wait_ns: u64,
    /// From asking the hardware scheduler to take what runs off to its answer; 0 = it was not asked: nothing else ran.
    pub hw_ns: u64,
    /// What the driver did on this node, both of these included.
    pub total_ns: u64,
}

/// `lost`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Lost {
    /// When it was noticed.
    pub ts_ns: u64,
    /// Records lost since the line before of this type.
    pub count: u64,
    /// Records lost in all.
    pub total: u64,
}

/// What became of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriverState {
    /// It is there and probes are attached.
    Loaded,
    /// It is not there: nothing can happen until it comes back.
    Gone,
}

/// `driver`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DriverChange {
    /// When it was noticed.
    pub ts_ns: u64,
    /// Now.
    pub state: DriverState,
    /// Module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Its version or srcversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_version: Option<String>,
    /// Probes attached to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes_attached: Option<usize>,
    /// Probes wanted and not attached to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes_missed: Option<usize>,
    /// GPU nodes that it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
}

/// Why the watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// `--duration` is over.
    Duration,
    /// `--count` events were shown.
    Count,
    /// Interrupted by SIGINT.
    Sigint,
    /// Ended by SIGTERM.
    Sigterm,
    /// Terminal closed: SIGHUP.
    Sighup,
    /// The command that was run ended.
    Command,
    /// The recording ends here.
    Recording,
    /// The reader of the output went away.
    Reader,
    /// It failed; the message is on stderr.
    Error,
}

/// `summary`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Summary {
    /// When.
    pub ts_ns: u64,
    /// Since the start.
    pub duration_ns: u64,
    /// Why it ended.
    pub end: End,
    /// Events shown, by type.
    #[schemars(with = "BTreeMap<Kind, u64>")]
    #[serde(serialize_with = "by_kind")]
    pub events: Vec<(Kind, u64)>,
    /// Events shown.
    pub shown: u64,
    /// Events that filters left out.
    pub filtered: u64,
    /// Records lost because the ring buffer was full.
    pub lost: u64,
    /// Records that this version does not understand.
    pub undecoded: u64,
    /// Calls that returned without their entry having been seen; they have no record.
    pub unmatched: u64,
    /// Kernel memory that could not be read; the fields concerned are 0.
    pub read_fault: u64,
}

fn by_kind<S: Serializer>(events: &[(Kind, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(events.iter().map(|(kind, n)| (kind.name(), n)))
}

/// Version of the records.
pub const SCHEMA: u32 = 1;
