// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run that is going on: events and pictures in, a [`Run`] out. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use super::member::Membership;
use super::run::{
    Level, Life, Member, Run, SlotUse, Stretch, MOST_DIFFERENCES, MOST_LEVELS, MOST_LIVES,
    MOST_MEMBERS, MOST_STRETCHES,
};
use crate::event::{Cause, Event, GpuId, Happening, Pid, QueueFormat, QueueId, QueueType};
use crate::kfd::snapshot::{self, Slot, Snapshot, State};
use crate::model::{Context, Model, QueueKey};

/// A picture that is taken so soon after a change may show what was before.
const CHANGING_NS: u64 = 50_000_000;
/// Changes of runlists that are remembered to judge a picture by.
const MOST_CHANGES: usize = 4096;
/// A time off a node's runlist that is worth a place in the plot; others are the everyday change of a runlist.
const LONG_NS: u64 = 10_000_000;

/// The run that is going on.
pub(super) struct Current {
    pub(super) run: Run,
    by_pid: HashMap<Pid, usize>,
    strangers: HashSet<Pid>,
    alive: HashMap<QueueKey, usize>,
    levels: HashMap<GpuId, Level>,
    /// The last changes of runlists.
    changes: VecDeque<Change>,
    /// A picture that is not judged yet.
    pending: Option<Pending>,
}

/// A runlist was taken off, or submitted.
#[derive(Clone, Copy, Debug)]
struct Change {
    ts_ns: u64,
    gpu_id: GpuId,
    /// Queues that are mapped from then on.
    queues: u32,
}

/// A picture, and when it was taken.
struct Pending {
    from_ns: u64,
    to_ns: u64,
    snapshot: Snapshot,
    /// Which lives its queues were then: they may have ended when it is judged.
    lives: HashMap<QueueKey, usize>,
}

impl Current {
    pub(super) fn new(run: Run) -> Self {
        Self {
            run,
            by_pid: HashMap::new(),
            strangers: HashSet::new(),
            alive: HashMap::new(),
            levels: HashMap::new(),
            changes: VecDeque::new(),
            pending: None,
        }
    }

    /// The end.
    pub(super) fn finish(mut self, model: Option<&Model>, ts_ns: u64) -> Run {
        self.settle();
        let mut run = self.run;
        run.to_ns = ts_ns.max(run.from_ns);
        for usage in model
            .map(|model| model.process_usage(ts_ns))
            .unwrap_or_default()
        {
            // The last process of that pid is the one that is remembered.
            let mut owner = run.members.iter_mut().rev();
            if let Some(member) = owner.find(|member| member.pid == usage.pid) {
                member.preemptions += usage.preemptions;
                member.preemptions_own += usage.by_own;
                member.off_ns += usage.off_ns;
            }
        }
        run
    }

    /// Takes one event. Whether there is something new to see.
    pub(super) fn event(
        &mut self,
        happening: &Happening,
        context: &Context,
        model: &Model,
        members: &mut Membership,
    ) -> bool {
        let ts_ns = happening.ts_ns;
        if let Some(pid) = happening.pid {
            let attached = matches!(happening.event, Event::ProcessAttached { .. });
            self.meet(pid, attached, ts_ns, model, members);
        }
        let member = happening.pid.and_then(|pid| self.by_pid.get(&pid).copied());
        let counts = happening.event.gpu_id().is_none_or(|gpu| members.on(gpu));
        let lives = member.filter(|_| counts);
        self.run.latencies.take(happening, context);
        if let Some(off) = context.off {
            self.stretch(happening, off.ns, off.cause);
        }
        match (happening.event, lives) {
            (Event::RunlistUnmapped { gpu_id, .. }, _) => {
                match member {
                    Some(_) => self.run.unmaps_own += 1,
                    None => self.run.unmaps_others += 1,
                }
                self.change(ts_ns, gpu_id, 0);
            }
            (
                Event::RunlistMapped {
                    gpu_id,
                    queues,
                    cp_queues,
                    processes,
                    oversubscribed,
                },
                _,
            ) => {
                self.change(ts_ns, gpu_id, queues);
                self.level(Level {
                    ts_ns,
                    gpu_id,
                    queues,
                    cp_queues,
                    processes,
                    oversubscribed,
                });
            }
            (
                Event::QueueExisting {
                    gpu_id,
                    queue_id,
                    queue_type,
                    ring_bytes,
                    ..
                },
                Some(at),
            ) => {
                let queue = (queue_type, None, ring_bytes, None);
                self.live(at, happening.pid, gpu_id, queue_id, queue, None);
                return true;
            }
            (
                Event::QueueCreated {
                    gpu_id,
                    queue_id,
                    queue_type,
                    format,
                    ring_bytes,
                    doorbell,
                    ..
                },
                Some(at),
            ) => {
                let queue = (queue_type, Some(format), ring_bytes, Some(doorbell));
                self.live(at, happening.pid, gpu_id, queue_id, queue, Some(ts_ns));
                return true;
            }
            (Event::QueueDestroyed { gpu_id, queue_id }, _) => {
                self.empty(gpu_id, ts_ns);
                if let Some(pid) = happening.pid {
                    let key = QueueKey {
                        pid,
                        gpu_id,
                        queue_id,
                    };
                    if let Some(at) = self.alive.remove(&key) {
                        self.run.lives[at].destroyed_ns = Some(ts_ns);
                        return true;
                    }
                }
            }
            (Event::ProcessExited { .. }, Some(at)) => self.run.members[at].to_ns = Some(ts_ns),
            (
                Event::ProcessEvicted { .. }
                | Event::ProcessRestored { .. }
                | Event::QueuesSuspended { .. }
                | Event::QueuesResumed { .. }
                | Event::QueuesHeld(_)
                | Event::QueuesReleased(_),
                Some(_),
            ) => return true,
            _ => {}
        }
        false
    }

    /// Notes a process when it is first seen.
    fn meet(
        &mut self,
        pid: Pid,
        attached: bool,
        ts_ns: u64,
        model: &Model,
        members: &mut Membership,
    ) {
        if let Some(at) = self.by_pid.get(&pid) {
            let member = &mut self.run.members[*at];
            // Queues go after their process, under the same pid.
            if member.to_ns.is_none() || !attached {
                // It may have executed another program.
                member.comm = model.comm(pid).or(member.comm);
                return;
            }
        } else if self.strangers.contains(&pid) && !attached {
            return;
        }
        let belongs = members.of(pid, model);
        if belongs.is_some() && self.run.members.len() >= MOST_MEMBERS {
            // Its queues are not kept.
            self.run.lives_dropped += 1;
            return;
        }
        match belongs {
            Some(belongs) => {
                self.by_pid.insert(pid, self.run.members.len());
                self.run.members.push(Member {
                    pid,
                    comm: model.comm(pid),
                    party: belongs.0,
                    from_ns: ts_ns,
                    to_ns: None,
                    preemptions: 0,
                    preemptions_own: 0,
                    off_ns: 0,
                });
            }
            None => {
                self.strangers.insert(pid);
            }
        }
    }

    fn live(
        &mut self,
        member: usize,
        pid: Option<Pid>,
        gpu_id: GpuId,
        queue_id: QueueId,
        (queue_type, format, ring_bytes, doorbell): (
            QueueType,
            Option<QueueFormat>,
            u64,
            Option<u32>,
        ),
        created_ns: Option<u64>,
    ) {
        let Some(pid) = pid else { return };
        if self.run.lives.len() >= MOST_LIVES {
            self.run.lives_dropped += 1;
            return;
        }
        let key = QueueKey {
            pid,
            gpu_id,
            queue_id,
        };
        // One whose end was not seen ended before this.
        if let Some(old) = self.alive.insert(key, self.run.lives.len()) {
            self.run.lives[old].destroyed_ns = created_ns;
        }
        self.run.lives.push(Life {
            member,
            key,
            created_ns,
            destroyed_ns: None,
            queue_type,
            format,
            ring_bytes,
            doorbell,
            mqds: Default::default(),
            packets: None,
            slots: SlotUse::default(),
        });
    }

    fn change(&mut self, ts_ns: u64, gpu_id: GpuId, queues: u32) {
        if self.changes.len() == MOST_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Change {
            ts_ns,
            gpu_id,
            queues,
        });
    }

    /// After the last queue of a node went, no runlist is submitted again.
    fn empty(&mut self, gpu_id: GpuId, ts_ns: u64) {
        let last = self.changes.iter().rfind(|c| c.gpu_id == gpu_id);
        let level = self.levels.get(&gpu_id).copied();
        if let (Some(Change { queues: 0, .. }), Some(level)) = (last, level) {
            self.level(Level {
                ts_ns,
                queues: 0,
                cp_queues: 0,
                oversubscribed: false,
                ..level
            });
        }
    }

    fn level(&mut self, level: Level) {
        let same = |last: &Level| {
            Level {
                ts_ns: level.ts_ns,
                ..*last
            } == level
        };
        if self.levels.get(&level.gpu_id).is_some_and(same) {
            return;
        }
        self.levels.insert(level.gpu_id, level);
        match self.run.levels.len() < MOST_LEVELS {
            true => self.run.levels.push(level),
            false => self.run.levels_dropped += 1,
        }
    }

    fn stretch(&mut self, happening: &Happening, ns: u64, cause: Cause) {
        // The runlist's own time off is that of all queues, whoever caused it.
        let of_node = matches!(happening.event, Event::RunlistMapped { .. });
        let pid = happening.pid.filter(|_| !of_node);
        let concerns = match pid {
            Some(pid) => self.by_pid.contains_key(&pid),
            None => of_node && ns >= LONG_NS,
        };
        if !concerns || self.run.stretches.len() >= MOST_STRETCHES {
            return;
        }
        self.run.stretches.push(Stretch {
            from_ns: happening.ts_ns.saturating_sub(ns),
            to_ns: happening.ts_ns,
            gpu_id: happening.event.gpu_id(),
            pid,
            queue_id: happening.event.queue_id(),
            cause,
        });
    }

    /// Judges the last picture, now that everything that happened while it was taken is known: one that was taken while a runlist
    /// changed may show either side of that.
    fn settle(&mut self) {
        let Some(Pending {
            from_ns,
            to_ns,
            snapshot,
            lives,
        }) = self.pending.take()
        else {
            return;
        };
        let during = from_ns.saturating_sub(CHANGING_NS)..=to_ns;
        for gpu in &snapshot.gpus {
            let gpu_id = gpu.node.gpu_id;
            let mut of = self.changes.iter().filter(|change| change.gpu_id == gpu_id);
            if of.clone().any(|change| during.contains(&change.ts_ns)) {
                self.run.unsettled += 1;
                continue;
            }
            let before = of.rfind(|change| change.ts_ns <= from_ns);
            let told = before.map(|change| change.queues);
            self.slots(&snapshot, gpu, &lives);
            if let Some(told) = told {
                self.sum(&snapshot, gpu, told, from_ns);
            }
        }
    }

    fn slots(
        &mut self,
        snapshot: &Snapshot,
        gpu: &snapshot::Gpu,
        lives: &HashMap<QueueKey, usize>,
    ) {
        if gpu.slots_used.is_none() {
            return;
        }
        let xccs = usize::try_from(gpu.node.num_xcc().max(1)).unwrap_or(1);
        for (key, queue) in mapped(snapshot, gpu.node.gpu_id) {
            if let Some(at) = lives.get(&key) {
                let expected = if queue.queue_type.is_sdma() { 1 } else { xccs };
                self.run.lives[*at].slots.see(&queue.slots, expected);
            }
        }
    }

    fn sum(&mut self, snapshot: &Snapshot, gpu: &snapshot::Gpu, told: u32, ts_ns: u64) {
        if gpu.runlist.is_none() {
            return;
        }
        let gpu_id = gpu.node.gpu_id;
        let ours = u32::try_from(mapped(snapshot, gpu_id).count()).unwrap_or(u32::MAX);
        let sums = &mut self.run.sums;
        sums.compared += 1;
        if ours == told {
            sums.equal += 1;
        } else if sums.differ.len() < MOST_DIFFERENCES {
            sums.differ.push((ts_ns, gpu_id, told, ours));
        }
    }

    /// Takes what a picture shows of the queues that live.
    pub(super) fn picture(&mut self, snapshot: Snapshot, from_ns: u64, to_ns: u64) {
        self.settle();
        let run = &mut self.run;
        run.pictures += 1;
        if let Some(lack) = snapshot.lacks.first() {
            run.blind
                .get_or_insert_with(|| format!("{}: {}", lack.what, lack.why));
        }
        let mut lives = HashMap::new();
        for queue in &snapshot.queues {
            let key = key(queue);
            if let Some(at) = self.alive.get(&key).copied() {
                lives.insert(key, at);
                let life = &mut run.lives[at];
                life.mqds.extend(queue.mqd_address);
                life.packets = queue.write_index.or(life.packets);
            }
        }
        self.pending = Some(Pending {
            from_ns,
            to_ns,
            snapshot,
            lives,
        });
    }
}

fn key(queue: &snapshot::Queue) -> QueueKey {
    QueueKey {
        pid: queue.pid,
        gpu_id: queue.gpu_id,
        queue_id: queue.queue_id,
    }
}

/// Queues of a node that a picture shows as mapped.
fn mapped(
    snapshot: &Snapshot,
    gpu_id: GpuId,
) -> impl Iterator<Item = (QueueKey, &snapshot::Queue)> {
    snapshot
        .queues
        .iter()
        .filter(move |queue| queue.gpu_id == gpu_id && queue.state == State::Mapped)
        .map(|queue| (key(queue), queue))
}

impl SlotUse {
    fn see(&mut self, slots: &[Slot], expected: usize) {
        self.sightings += 1;
        let mut xccs: Vec<u32> = slots.iter().map(|slot| slot.xcc).collect();
        xccs.sort_unstable();
        xccs.dedup();
        self.one_each += u64::from(slots.len() == expected && xccs.len() == expected);
        self.none += u64::from(slots.is_empty());
        if !self.last.is_empty() && !slots.is_empty() {
            let places = |slots: &[Slot]| -> Vec<(u32, u32, u32)> {
                let places = slots.iter().map(|slot| (slot.xcc, slot.pipe, slot.queue));
                let mut places: Vec<_> = places.collect();
                places.sort_unstable();
                places
            };
            self.moves += u64::from(places(&self.last) != places(slots));
        }
        if !slots.is_empty() {
            self.last = slots.to_vec();
        }
        let places = slots.iter().map(|slot| (slot.xcc, slot.pipe, slot.queue));
        self.all.extend(places);
    }
}

#[cfg(test)]
#[path = "collector_tests.rs"]
mod tests;
