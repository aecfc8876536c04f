// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of one run: its processes, the life of each of their queues, and how full the GPUs were. In bounded memory; what
//! does not fit is counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Cause, Comm, GpuId, Pid, QueueFormat, QueueId, QueueType};
use crate::kfd::snapshot::Slot;
use crate::model::QueueKey;
use crate::sink::finding::Finding;
use crate::sink::record::Gpu;
use crate::stat::collect::Collect;

/// Processes that are kept.
pub(super) const MOST_MEMBERS: usize = 20_000;
/// Lives of queues that are kept.
pub(super) const MOST_LIVES: usize = 50_000;
/// Changes of the load of GPUs that are kept.
pub(super) const MOST_LEVELS: usize = 20_000;
/// Stretches of time off the GPU that are kept.
pub(super) const MOST_STRETCHES: usize = 5_000;
/// Differences from the driver's count that are kept.
pub(super) const MOST_DIFFERENCES: usize = 1_000;

/// What a run was on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// The driver has the patches.
    pub patched: bool,
    /// The GPUs are simulated.
    pub simulated: bool,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// `run 1`, or the file that it is from.
    pub name: String,
    /// The commands that ran together; none if nothing was started.
    pub parties: Vec<String>,
    /// When it began.
    pub from_ns: u64,
    /// When it ended.
    pub to_ns: u64,
    /// What it was on.
    pub machine: Machine,
    /// What went wrong with a command.
    pub failed: Option<String>,
    /// The nodes.
    pub gpus: Vec<Gpu>,
    /// Processes that belong to it, by when they were first seen.
    pub members: Vec<Member>,
    /// Their queues, in order of creation.
    pub lives: Vec<Life>,
    /// Lives that were not kept.
    pub lives_dropped: u64,
    /// How full the GPUs were, whenever that changed.
    pub levels: Vec<Level>,
    /// Changes that were not kept.
    pub levels_dropped: u64,
    /// Longer times off the GPU than a runlist takes to change.
    pub stretches: Vec<Stretch>,
    /// Every duration.
    pub latencies: Collect,
    /// Runlists taken off on behalf of its processes.
    pub unmaps_own: u64,
    /// And on behalf of others.
    pub unmaps_others: u64,
    /// Records that were lost meanwhile.
    pub lost: u64,
    /// Pictures that were taken.
    pub pictures: u64,
    /// Of these, those that are not judged, once for each node whose runlist changed meanwhile.
    pub unsettled: u64,
    /// Why pictures lack the runlist or the slots.
    pub blind: Option<String>,
    /// What is worth knowing of its processes.
    pub findings: Vec<Finding>,
    /// Comparisons of the driver's own count of mapped queues with the sum over the processes.
    pub sums: Sums,
}

/// A process that belongs to a run.
#[derive(Clone, Debug)]
pub struct Member {
    /// It.
    pub pid: Pid,
    /// Its name.
    pub comm: Option<Comm>,
    /// Of which of [`Run::parties`]; `None` where nothing was started, or that could not be told.
    pub party: Option<usize>,
    /// When it was first seen.
    pub from_ns: u64,
    /// When it was seen to go.
    pub to_ns: Option<u64>,
    /// Times that one of its queues was taken off while mapped, summed over them.
    pub preemptions: u64,
    /// Of these, on its own behalf.
    pub preemptions_own: u64,
    /// Time off the GPU, summed over its queues.
    pub off_ns: u64,
}

/// A queue from its creation to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// Which of [`Run::members`] owns it.
    pub member: usize,
    /// Its key while it lives.
    pub key: QueueKey,
    /// `None` if it was there before.
    pub created_ns: Option<u64>,
    /// `None` if it was there at the end.
    pub destroyed_ns: Option<u64>,
    /// Type.
    pub queue_type: QueueType,
    /// Packet format, if seen.
    pub format: Option<QueueFormat>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Dword index on the doorbell BAR, if seen.
    pub doorbell: Option<u32>,
    /// GPU addresses of its descriptor on XCC 0, as pictures showed them.
    pub mqds: BTreeSet<u64>,
    /// Packets written, as the last picture showed.
    pub packets: Option<u64>,
    /// The hardware slots that pictures found it on.
    pub slots: SlotUse,
}

/// Where pictures found a queue.
#[derive(Clone, Debug, Default)]
pub struct SlotUse {
    /// Pictures that showed the slots of the node while the queue was mapped.
    pub sightings: u64,
    /// Of these, on exactly one slot of each XCC (SDMA: on one).
    pub one_each: u64,
    /// Of these, on none: it waited for its turn.
    pub none: u64,
    /// Times that it was on other slots than the time before.
    pub moves: u64,
    /// Where it was last.
    pub last: Vec<Slot>,
    /// Everywhere it was, as (XCC, pipe, queue).
    pub all: BTreeSet<(u32, u32, u32)>,
}

/// The load of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Since when.
    pub ts_ns: u64,
    /// Node.
    pub gpu_id: GpuId,
    /// Queues in its runlist.
    pub queues: u32,
    /// Of these, compute queues.
    pub cp_queues: u32,
    /// Processes registered.
    pub processes: u32,
    /// More than the hardware holds.
    pub oversubscribed: bool,
}

/// Queues that were off the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// From then.
    pub from_ns: u64,
    /// To then.
    pub to_ns: u64,
    /// Node; `None` = all.
    pub gpu_id: Option<GpuId>,
    /// Of which process; `None` = of all, the node's runlist was off.
    pub pid: Option<Pid>,
    /// Which queue; `None` = all of the process.
    pub queue_id: Option<QueueId>,
    /// Why.
    pub cause: Cause,
}

/// The driver's count of a runlist against the queues of all processes.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Pictures that could be compared.
    pub compared: u64,
    /// Of these, those that are equal.
    pub equal: u64,
    /// The first of those that differ: when, node, the driver's count, ours.
    pub differ: Vec<(u64, GpuId, u32, u32)>,
}

impl Run {
    /// One that begins.
    #[must_use]
    pub fn new(name: String, parties: Vec<String>, from_ns: u64, gpus: Vec<Gpu>) -> Self {
        Self {
            name,
            parties,
            from_ns,
            to_ns: from_ns,
            machine: Machine::default(),
            failed: None,
            gpus,
            members: Vec::new(),
            lives: Vec::new(),
            lives_dropped: 0,
            levels: Vec::new(),
            levels_dropped: 0,
            stretches: Vec::new(),
            latencies: Collect::new(from_ns, None),
            unmaps_own: 0,
            unmaps_others: 0,
            lost: 0,
            pictures: 0,
            unsettled: 0,
            blind: None,
            findings: Vec::new(),
            sums: Sums::default(),
        }
    }

    /// Its length.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }

    /// The members that had queues, and these.
    #[must_use]
    pub fn users(&self) -> Vec<(&Member, Vec<&Life>)> {
        let mut users: BTreeMap<usize, Vec<&Life>> = BTreeMap::new();
        for life in &self.lives {
            users.entry(life.member).or_default().push(life);
        }
        users
            .into_iter()
            .map(|(at, lives)| (&self.members[at], lives))
            .collect()
    }

    /// Whether everything was seen.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lost == 0 && self.lives_dropped == 0
    }

    /// XCCs of a node.
    #[must_use]
    pub fn xccs(&self, gpu_id: GpuId) -> u64 {
        let gpu = self.gpus.iter().find(|gpu| gpu.gpu_id == gpu_id);
        gpu.map_or(1, |gpu| gpu.num_xcc.max(1))
    }
}

impl Life {
    /// From when in its run.
    #[must_use]
    pub fn born_ns(&self, run: &Run) -> u64 {
        self.created_ns.unwrap_or(run.from_ns)
    }

    /// To when in its run.
    #[must_use]
    pub fn gone_ns(&self, run: &Run) -> u64 {
        self.destroyed_ns.unwrap_or(run.to_ns)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kfd::snapshot;

    pub(crate) const S: u64 = 1_000_000_000;

    /// A run of ten seconds from 0: process, queue, created at, destroyed at, in seconds.
    pub(crate) fn run_of(queues: &[(u32, u32, u64, Option<u64>)]) -> Run {
        let mut run = Run::new("run 1".to_owned(), vec!["model".to_owned()], 0, Vec::new());
        run.to_ns = 10 * S;
        for (pid, queue_id, created, destroyed) in queues {
            let known = run.members.iter().position(|m| m.pid == Pid(*pid));
            let member = known.unwrap_or_else(|| {
                run.members.push(Member {
                    pid: Pid(*pid),
                    comm: Some(Comm::from_procfs(b"model\n")),
                    party: Some(0),
                    from_ns: created * S,
                    to_ns: None,
                    preemptions: 0,
                    preemptions_own: 0,
                    off_ns: 0,
                });
                run.members.len() - 1
            });
            run.lives.push(Life {
                member,
                key: QueueKey {
                    pid: Pid(*pid),
                    gpu_id: GpuId(1),
                    queue_id: QueueId(*queue_id),
                },
                created_ns: Some(created * S),
                destroyed_ns: destroyed.map(|at| at * S),
                queue_type: QueueType::Compute,
                format: Some(QueueFormat::Aql),
                ring_bytes: 4096,
                doorbell: Some(pid * 1000 + queue_id),
                mqds: BTreeSet::new(),
                packets: None,
                slots: SlotUse::default(),
            });
        }
        run
    }

    /// A queue of a picture, on GPU 1.
    pub(crate) fn queue(pid: u32, queue_id: u32, state: snapshot::State) -> snapshot::Queue {
        snapshot::Queue::bare(pid, GpuId(1), queue_id, state)
    }

    /// Process 7 of the first command and process 8 of the second, with a queue each.
    pub(crate) fn two_parties() -> Run {
        let mut run = run_of(&[(7, 0, 1, None), (8, 0, 1, None)]);
        run.parties = vec!["a".to_owned(), "b".to_owned()];
        run.members[1].party = Some(1);
        run
    }
}
