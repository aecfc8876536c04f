// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events, and what was there at the start, to the state of every process, queue and GPU. Pure: no I/O and no clock.

mod accounting;
mod holds;
mod names;
mod nodes;
mod oversubscription;
mod processes;
mod shares;
mod stops;
mod takers;
mod tally;
mod usage;

use std::sync::Arc;

use foldhash::HashMap;

pub use holds::Held;
pub use oversubscription::Limits;
pub use takers::Taken;
pub use tally::Tally;
pub use usage::{Off, Oversubscription, ProcessUsage, Rule, Usage};

use crate::event::{
    Comm, Event, EvictReason, GpuId, Happening, Pid, QueueFormat, QueueId, QueueType,
};
use holds::Holds;
use nodes::Nodes;
use processes::Processes;
use shares::Shares;
use stops::Account;

/// A process that has /dev/kfd open.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// With the pid, its key; `None` for one that was there before the start.
    pub start_boottime_ns: Option<u64>,
    /// When it was seen to open /dev/kfd.
    pub attached_ns: Option<u64>,
    /// Its name.
    pub comm: Option<Comm>,
    /// Pid in its own namespace.
    pub ns_pid: Option<u32>,
    /// Path of its cgroup, as the caller resolved it.
    pub cgroup: Option<Arc<str>>,
}

/// What names a queue as long as it lives. Over time, its creation time belongs to the key: ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueKey {
    /// Owner.
    pub pid: Pid,
    /// Node.
    pub gpu_id: GpuId,
    /// Id in its process.
    pub queue_id: QueueId,
}

/// A user queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// When it was created; `None` if that was before the start.
    pub created_ns: Option<u64>,
    /// Type.
    pub queue_type: QueueType,
    /// Packet format; unknown for a queue that was there before the start.
    pub format: Option<QueueFormat>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// 0 to 15, if seen.
    pub priority: Option<u32>,
    /// 0 to 100, if seen.
    pub percent: Option<u32>,
    /// Dword index on the doorbell BAR, if seen.
    pub doorbell: Option<u32>,
}

/// A node, as far as events tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Queues in the runlist last submitted.
    pub queues: u32,
    /// Of these, compute queues.
    pub cp_queues: u32,
    /// Processes registered then.
    pub processes: u32,
    /// That runlist was oversubscribed.
    pub oversubscribed: bool,
    /// Since when and by whom, while it is.
    pub oversubscription: Option<Oversubscription>,
    /// The last one, when it is over.
    pub last_oversubscription: Option<Oversubscription>,
    /// How often it became so.
    pub oversubscriptions: u64,
    /// How long it was so, times that have ended.
    pub oversubscribed_ns: u64,
    /// A runlist is on the hardware, as far as seen.
    pub mapped: bool,
    /// Runlists taken off.
    pub unmaps: u64,
    /// Runlists submitted.
    pub maps: u64,
    /// Hangs and resets seen (phases hang and pre).
    pub resets: u64,
}

#[derive(Clone, Copy, Debug)]
struct Eviction {
    since_ns: u64,
    reason: EvictReason,
}

/// What the model knows about an event beyond its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Name of the process that the event is about.
    pub comm: Option<Comm>,
    /// Name of the process whose thread made the call.
    pub actor_comm: Option<Comm>,
    /// Name of the process that owns the hold.
    pub owner_comm: Option<Comm>,
    /// From the hold that stopped the first queue of the process on the node to the release of the last.
    pub held_ns: Option<u64>,
    /// When the queue was created.
    pub created_ns: Option<u64>,
    /// How long the queue or the attachment of the process lasted.
    pub lifetime_ns: Option<u64>,
    /// From the eviction that stopped the queues to the restore that lets them run.
    pub evicted_ns: Option<u64>,
    /// For a restore: why they had been evicted.
    pub reason: Option<EvictReason>,
    /// The time off the GPU that this ends: of the node by a map, of a process by a restore, release or resume, of a queue by an
    /// update.
    pub off: Option<Off>,
    /// Pid in its own namespace, where the record lacks it.
    pub ns_pid: Option<u32>,
    /// Path of the cgroup of the process.
    pub cgroup: Option<Arc<str>>,
}

/// A queue, and its part in its process's share of the runlist.
#[derive(Debug)]
struct Tracked {
    queue: Queue,
    account: Account,
}

/// The state of the machine's compute queues.
#[derive(Debug, Default)]
pub struct Model {
    /// When watching began, or the first event.
    since_ns: Option<u64>,
    processes: Processes,
    queues: HashMap<QueueKey, Tracked>,
    gpus: Nodes,
    limits: HashMap<GpuId, Limits>,
    evictions: HashMap<(Pid, GpuId), Eviction>,
    /// Queues that debuggers suspended, by process.
    suspended: HashMap<Pid, u32>,
    shares: Shares,
    holds: Holds,
    tally: Tally,
}

impl Model {
    /// Takes in one event and says what is known about it.
    #[inline]
    pub fn apply(&mut self, happening: &Happening) -> Context {
        let mut context = Context::default();
        self.apply_to(happening, &mut context);
        context
    }

    /// In place: copying what is returned costs as much as some of the lookups.
    fn apply_to(&mut self, happening: &Happening, context: &mut Context) {
        self.tally.count(happening.event.kind());
        let Happening { ts_ns, pid, .. } = *happening;
        self.since_ns.get_or_insert(ts_ns);
        context.comm = pid.and_then(|pid| self.processes.of_event(pid));
        context.actor_comm = match pid == Some(happening.actor_pid) {
            true => context.comm,
            false => self.comm(happening.actor_pid),
        };
        if let Some(owner) = happening.event.owner_pid() {
            context.owner_comm = self.comm(owner);
        }
        match happening.event {
            Event::ProcessAttached {
                start_boottime_ns,
                ns_pid,
                comm,
                ..
            } => {
                if let Some(pid) = pid {
                    self.attach(pid, start_boottime_ns, ts_ns, ns_pid, comm);
                    context.cgroup = self.processes.get(pid).and_then(|p| p.cgroup.clone());
                }
                context.comm = named(comm).or(context.comm);
            }
            Event::ProcessExited { comm, .. } => {
                if let Some(pid) = pid {
                    self.exit(pid, ts_ns, comm, context);
                }
                context.comm = named(comm).or(context.comm);
            }
            Event::QueueExisting {
                gpu_id,
                queue_id,
                queue_type,
                ring_bytes,
                comm,
            } => {
                if let Some(pid) = pid {
                    let queue = Queue {
                        created_ns: None,
                        queue_type,
                        format: None,
                        ring_bytes,
                        priority: None,
                        percent: None,
                        doorbell: None,
                    };
                    let key = QueueKey {
                        pid,
                        gpu_id,
                        queue_id,
                    };
                    if !self.queues.contains_key(&key) {
                        self.open_account(key, queue, happening);
                    }
                    let process = self.processes.entry(pid);
                    process.comm = named(comm).or(process.comm);
                }
                context.comm = named(comm).or(context.comm);
            }
            Event::QueueCreated {
                gpu_id,
                queue_id,
                queue_type,
                format,
                ring_bytes,
                priority,
                percent,
                doorbell,
                comm,
                ..
            } => {
                if let Some(pid) = pid {
                    let queue = Queue {
                        created_ns: Some(ts_ns),
                        queue_type,
                        format: Some(format),
                        ring_bytes,
                        priority: Some(priority),
                        percent: Some(percent),
                        doorbell: Some(doorbell),
                    };
                    let key = QueueKey {
                        pid,
                        gpu_id,
                        queue_id,
                    };
                    self.open_account(key, queue, happening);
                    let process = self.processes.entry(pid);
                    process.comm = named(comm).or(process.comm);
                }
                context.comm = named(comm).or(context.comm);
                context.created_ns = Some(ts_ns);
            }
            Event::QueueUpdated {
                gpu_id,
                queue_id,
                priority,
                percent,
                ..
            } => {
                if let Some(pid) = pid {
                    let key = QueueKey {
                        pid,
                        gpu_id,
                        queue_id,
                    };
                    if let Some(Tracked { queue, .. }) = self.queues.get_mut(&key) {
                        queue.priority = Some(priority);
                        queue.percent = Some(percent);
                        context.created_ns = queue.created_ns;
                        context.off = self.change_share(&key, percent > 0, happening);
                    }
                }
            }
            Event::QueueDestroyed { gpu_id, queue_id } => {
                if let Some(queue) = pid.and_then(|pid| {
                    let key = QueueKey {
                        pid,
                        gpu_id,
                        queue_id,
                    };
                    self.close_account(&key, happening)
                }) {
                    context.created_ns = queue.created_ns;
                    context.lifetime_ns = queue
                        .created_ns
                        .map(|created| ts_ns.saturating_sub(created));
                }
                if let Some(pid) = pid.filter(|pid| self.holds.any(*pid, gpu_id)) {
                    let left = self
                        .queues
                        .keys()
                        .filter(|key| key.pid == pid && key.gpu_id == gpu_id)
                        .count();
                    self.holds.at_most(pid, gpu_id, left);
                    self.weigh_holds(pid, gpu_id, happening);
                }
            }
            Event::RunlistUnmapped { gpu_id, .. } => self.unmapped(gpu_id, happening),
            Event::RunlistMapped {
                gpu_id,
                queues,
                cp_queues,
                processes,
                oversubscribed,
            } => {
                let limits = || self.limits.get(&gpu_id).copied().unwrap_or_default();
                let since_ns = self.since_ns.unwrap_or(ts_ns);
                let node = self.gpus.of_event(gpu_id);
                let gpu = &mut node.gpu;
                gpu.queues = queues;
                gpu.cp_queues = cp_queues;
                gpu.processes = processes;
                gpu.oversubscribed = oversubscribed;
                context.off = node.mapped(happening, limits, since_ns);
            }
            Event::ProcessEvicted { gpu_id, reason, .. } => {
                if let Some(pid) = pid {
                    // Evictions nest; the first one stops the queues, also if it reports an error (evict_process_queues_cpsch).
                    self.evictions.entry((pid, gpu_id)).or_insert(Eviction {
                        since_ns: ts_ns,
                        reason,
                    });
                    self.weigh_eviction(pid, gpu_id, true, happening);
                }
            }
            Event::ProcessRestored { gpu_id, depth } => {
                if let (Some(pid), 0) = (pid, depth) {
                    if let Some(eviction) = self.evictions.remove(&(pid, gpu_id)) {
                        context.evicted_ns = Some(ts_ns.saturating_sub(eviction.since_ns));
                        context.reason = Some(eviction.reason);
                    }
                    context.off = self.weigh_eviction(pid, gpu_id, false, happening);
                } else if let Some(pid) = pid {
                    context.reason = self.evictions.get(&(pid, gpu_id)).map(|e| e.reason);
                }
            }
            Event::QueuesHeld(hold) => {
                if let Some(pid) = pid {
                    self.holds.hold(pid, &hold, ts_ns);
                    self.weigh_holds(pid, hold.gpu_id, happening);
                }
            }
            Event::QueuesReleased(hold) => {
                if let Some(pid) = pid {
                    context.held_ns = self.holds.release(pid, &hold, ts_ns);
                    context.off = self.weigh_holds(pid, hold.gpu_id, happening);
                }
            }
            Event::GpuReset { gpu_id, phase } => {
                if phase != crate::event::ResetPhase::Post {
                    self.gpus.of_event(gpu_id).gpu.resets += 1;
                }
            }
            Event::QueuesSuspended { count, .. } => {
                if let Some(pid) = pid {
                    let suspended = self.suspended.entry(pid).or_default();
                    *suspended = suspended.saturating_add(count);
                    self.weigh_suspend(pid, happening);
                }
            }
            Event::QueuesResumed { count, .. } => {
                if let Some(suspended) = pid.and_then(|pid| self.suspended.get_mut(&pid)) {
                    *suspended = suspended.saturating_sub(count);
                }
                context.off = pid.and_then(|pid| self.weigh_suspend(pid, happening));
            }
            Event::QueueRejected => {}
        }
    }

    fn attach(
        &mut self,
        pid: Pid,
        start_boottime_ns: u64,
        ts_ns: u64,
        ns_pid: Option<u32>,
        comm: Comm,
    ) {
        let started = self
            .processes
            .get(pid)
            .and_then(|old| old.start_boottime_ns);
        if started.is_some_and(|start| start != start_boottime_ns) {
            // Another process under the same pid: the exit of the first was not seen, so its queues are stale.
            let comm = self.processes.remove(pid).and_then(|old| old.comm);
            self.close_accounts_of(pid, ts_ns, comm);
            self.evictions.retain(|(owner, _), _| *owner != pid);
            self.suspended.remove(&pid);
            self.holds.forget(pid);
        }
        self.processes.forget_name(pid);
        let process = self.processes.entry(pid);
        process.start_boottime_ns = Some(start_boottime_ns);
        // Every open of /dev/kfd tells; the first one counts.
        process.attached_ns.get_or_insert(ts_ns);
        process.comm = named(comm).or(process.comm);
        process.ns_pid = ns_pid;
    }

    fn exit(&mut self, pid: Pid, ts_ns: u64, comm: Comm, context: &mut Context) {
        if let Some(process) = self.processes.remove(pid) {
            context.lifetime_ns = process
                .attached_ns
                .map(|attached| ts_ns.saturating_sub(attached));
            context.ns_pid = process.ns_pid;
            context.cgroup = process.cgroup;
        }
        // Its queues follow with records of their own, from the worker that tears it down.
        let comm = named(comm).or(context.comm);
        self.processes.learn(pid, comm);
        self.evictions.retain(|(owner, _), _| *owner != pid);
        self.suspended.remove(&pid);
        self.holds.forget(pid);
        self.shares.exit(pid, comm);
    }

    /// The name of a process, if it was ever told.
    #[must_use]
    pub fn comm(&self, pid: Pid) -> Option<Comm> {
        self.processes.comm(pid)
    }

    /// True if the name of this process was never asked for: the caller may look it up and [`learn`](Self::learn) it.
    #[must_use]
    pub fn wants_name(&self, pid: Pid) -> bool {
        pid.0 != 0 && self.processes.is_unknown(pid)
    }

    /// Tells the name of a process that is not a GPU process, or that there is none to be had.
    pub fn learn(&mut self, pid: Pid, comm: Option<Comm>) {
        self.processes.learn(pid, comm);
    }

    /// Tells the cgroup of a process, which records name by id only.
    pub fn set_cgroup(&mut self, pid: Pid, path: Arc<str>) {
        self.processes.entry(pid).cgroup = Some(path);
    }

    /// Every queue, in no order.
    pub fn queues(&self) -> impl Iterator<Item = (&QueueKey, &Queue)> {
        self.queues
            .iter()
            .map(|(key, tracked)| (key, &tracked.queue))
    }

    /// A queue.
    #[must_use]
    pub fn queue(&self, key: &QueueKey) -> Option<&Queue> {
        self.queues.get(key).map(|tracked| &tracked.queue)
    }

    /// A process.
    #[must_use]
    pub fn process_of(&self, pid: Pid) -> Option<&Process> {
        self.processes.get(pid)
    }

    /// Every process, in no order.
    pub fn processes(&self) -> impl Iterator<Item = (Pid, &Process)> {
        self.processes.iter()
    }

    /// A node, if an event named it.
    #[must_use]
    pub fn gpu(&self, gpu_id: GpuId) -> Option<&Gpu> {
        self.gpus.get(gpu_id).map(|node| &node.gpu)
    }

    /// What is held of a process on a node, as far as seen: queues held before the start are not known.
    #[must_use]
    pub fn held(&self, pid: Pid, gpu_id: GpuId) -> Held {
        self.holds.get(pid, gpu_id)
    }

    /// Events by kind, and losses.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Records lost since the source started; returns how many of them are new.
    pub fn lost(&mut self, total: u64) -> u64 {
        self.tally.lost(total)
    }

    /// The driver went away and took every process, queue and runlist with it. Counts stay.
    pub fn driver_gone(&mut self, ts_ns: u64) {
        self.close_all_accounts(ts_ns);
        self.processes.clear();
        self.gpus.clear();
        self.limits.clear();
        self.evictions.clear();
        self.suspended.clear();
        self.holds.clear();
        self.tally.source_restarted();
    }
}

/// A kernel whose `task_struct` could not be read gives empty names.
fn named(comm: Comm) -> Option<Comm> {
    (!comm.is_empty()).then_some(comm)
}

#[cfg(test)]
mod tests;
