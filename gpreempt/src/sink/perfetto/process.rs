// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracks of a process: its queues, and what was asked for or done to it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use super::lanes::Lanes;
use super::line::Line;
use super::packets::{Args, Packets};
use super::state::{Among, By, Facts, Runlist, State};
use super::track::Track;
use crate::event::{Comm, EvictReason, GpuId, Pid, QueueId, QueueType};

#[derive(Debug)]
pub(super) struct Process {
    track: Track,
    comm: Option<Comm>,
    pub(super) calls: Lanes,
    pub(super) events: Line,
    queues: BTreeMap<(GpuId, QueueId), Queue>,
    /// The key of the newest queue that had an id: it must not come again.
    newest_ns: BTreeMap<(GpuId, QueueId), u64>,
    pub(super) evicted: BTreeMap<GpuId, EvictReason>,
    pub(super) suspended: (u32, By),
    held: BTreeMap<GpuId, (u32, By)>,
    parked: BTreeMap<GpuId, (u32, By)>,
    pub(super) exited: bool,
}

#[derive(Debug)]
struct Queue {
    line: Line,
    shown: Option<State>,
    suspended: (Among, By),
    inactive: bool,
    dying: bool,
}

impl Process {
    /// Describes its tracks.
    pub(super) fn new<W: Write>(
        packets: &mut Packets<W>,
        pid: Pid,
        comm: Option<Comm>,
        since_ns: u64,
    ) -> io::Result<Self> {
        let track = Track::process(pid, since_ns);
        packets.process_track(track, pid, comm)?;
        let events = track.part("life", 0);
        packets.track(
            events,
            Some(track),
            "life",
            Some("The process opened /dev/kfd, exited; its queues were torn down"),
        )?;
        Ok(Self {
            track,
            comm,
            calls: Lanes::new(
                track,
                "driver calls",
                "What the process asked of the driver, and what was done to it",
            ),
            events: Line::new(events),
            queues: BTreeMap::new(),
            newest_ns: BTreeMap::new(),
            evicted: BTreeMap::new(),
            suspended: (0, By::default()),
            held: BTreeMap::new(),
            parked: BTreeMap::new(),
            exited: false,
        })
    }

    /// Its name became known, or it executed another program.
    pub(super) fn named<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        pid: Pid,
        comm: Option<Comm>,
    ) -> io::Result<()> {
        if comm.is_none() || comm == self.comm {
            return Ok(());
        }
        self.comm = comm;
        packets.process_track(self.track, pid, comm)
    }

    /// A queue is there from now on. One of the same id must be gone, whether that was seen or not.
    pub(super) fn add_queue<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        (gpu_id, queue_id): (GpuId, QueueId),
        queue_type: QueueType,
        key_ns: u64,
        begin_ns: u64,
    ) -> io::Result<()> {
        self.remove_queue(packets, (gpu_id, queue_id), begin_ns)?;
        let newest_ns = self.newest_ns.entry((gpu_id, queue_id)).or_insert(0);
        *newest_ns = key_ns.max(*newest_ns + 1);
        let track = Track::queue(self.track, gpu_id, queue_id, *newest_ns);
        let name = format!("GPU {gpu_id} queue {queue_id} ({})", queue_type.name());
        packets.track(track, Some(self.track), &name, None)?;
        let queue = Queue {
            line: Line::new(track),
            shown: None,
            suspended: (Among::No, By::default()),
            inactive: false,
            dying: false,
        };
        self.queues.insert((gpu_id, queue_id), queue);
        Ok(())
    }

    pub(super) fn remove_queue<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        key: (GpuId, QueueId),
        ts_ns: u64,
    ) -> io::Result<()> {
        let Some(mut queue) = self.queues.remove(&key) else {
            return Ok(());
        };
        queue.line.end(packets, ts_ns)?;
        // A queue that is gone is neither held nor suspended: no more can be than there are.
        let at_most = |count: &mut u32, most: usize| {
            *count = (*count).min(u32::try_from(most).unwrap_or(u32::MAX));
        };
        at_most(&mut self.suspended.0, self.queues.len());
        let on_node = self.queues.range(all_on(key.0)).count();
        for counts in [&mut self.held, &mut self.parked] {
            if let Some(held) = counts.get_mut(&key.0) {
                at_most(&mut held.0, on_node);
            }
            counts.retain(|_, held| held.0 > 0);
        }
        Ok(())
    }

    /// Counts of held queues, or of those that a reservation parks.
    pub(super) fn holds(&mut self, parked: bool) -> &mut BTreeMap<GpuId, (u32, By)> {
        match parked {
            true => &mut self.parked,
            false => &mut self.held,
        }
    }

    pub(super) fn set_inactive(&mut self, gpu_id: GpuId, queue_id: QueueId, inactive: bool) {
        if let Some(queue) = self.queues.get_mut(&(gpu_id, queue_id)) {
            queue.inactive = inactive;
        }
    }

    /// It is being torn down on the node: its queues are taken off for good.
    pub(super) fn dies(&mut self, gpu_id: GpuId) {
        for (_, queue) in self.queues.range_mut(all_on(gpu_id)) {
            queue.dying = true;
        }
    }

    /// Nodes that it has queues on.
    pub(super) fn nodes(&self) -> Vec<GpuId> {
        let mut nodes: Vec<GpuId> = self.queues.keys().map(|(gpu_id, _)| *gpu_id).collect();
        nodes.dedup();
        nodes
    }

    pub(super) fn has_queue_on(&self, gpu_id: GpuId) -> bool {
        self.queues.range(all_on(gpu_id)).next().is_some()
    }

    /// It exited, and the last of its queues is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.exited && self.queues.is_empty()
    }

    /// Queues were suspended or resumed, so that `count` of all are now.
    pub(super) fn suspend(&mut self, count: u32, by: By) {
        self.suspended = (count, by);
        let among = Among::of(count, self.queues.len());
        for queue in self.queues.values_mut() {
            queue.suspended = (among, by);
        }
    }

    /// Shows what its queues on the node are doing since `ts_ns`.
    pub(super) fn show<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        gpu_id: GpuId,
        runlist: Runlist,
        ts_ns: u64,
    ) -> io::Result<()> {
        let all = self.queues.range(all_on(gpu_id)).count();
        let among = |counts: &BTreeMap<GpuId, (u32, By)>| {
            let (count, by) = counts.get(&gpu_id).copied().unwrap_or_default();
            (Among::of(count, all), by)
        };
        let facts = Facts {
            runlist,
            evicted: self.evicted.get(&gpu_id).copied(),
            held: among(&self.held),
            parked: among(&self.parked),
            ..Facts::default()
        };
        for (_, queue) in self.queues.range_mut(all_on(gpu_id)) {
            queue.show(packets, facts, ts_ns)?;
        }
        Ok(())
    }

    /// Ends everything.
    pub(super) fn close<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        ts_ns: u64,
    ) -> io::Result<()> {
        let queues = std::mem::take(&mut self.queues);
        for mut queue in queues.into_values() {
            queue.line.end(packets, ts_ns)?;
        }
        Ok(())
    }
}

impl Queue {
    fn show<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        facts: Facts,
        ts_ns: u64,
    ) -> io::Result<()> {
        let state = State::of(&Facts {
            suspended: self.suspended,
            inactive: self.inactive,
            dying: self.dying,
            ..facts
        });
        if self.shown.is_some_and(|shown| shown.goes_on_as(&state)) {
            return Ok(());
        }
        self.shown = Some(state);
        self.line
            .begin(packets, ts_ns, &state.name(), &state.args())
    }
}

/// Arguments of a call on a queue.
pub(super) fn queue_args(gpu_id: GpuId, queue_id: QueueId) -> Args {
    Args::new()
        .text("gpu_id", gpu_id)
        .uint("queue_id", queue_id.0)
}

/// Keys of all queues on a node.
fn all_on(gpu_id: GpuId) -> RangeInclusive<(GpuId, QueueId)> {
    (gpu_id, QueueId(0))..=(gpu_id, QueueId(u32::MAX))
}
