// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events and pictures make a run.

use std::collections::BTreeMap;

use super::super::member::Who;
use super::super::run::tests::{queue, run_of};
use super::*;
use crate::event::{Comm, UnmapFilter};
use crate::kfd::snapshot::Runlist;
use crate::kfd::topology::GpuNode;
use crate::kfd::Root;
use crate::sink::filter::Filter;

const GPU: GpuId = GpuId(1);
const MS: u64 = 1_000_000;

struct Test {
    current: Current,
    members: Membership,
    model: Model,
}

impl Test {
    fn new(filter: Filter) -> Self {
        Self {
            current: Current::new(run_of(&[])),
            members: Membership::new(Root::at("/nonexistent".into()), Who::All(filter)),
            model: Model::default(),
        }
    }

    fn event(&mut self, ms: u64, pid: u32, event: Event) -> bool {
        let happening = Happening {
            ts_ns: ms * MS,
            total_ns: 10,
            cause: Cause::CreateQueue,
            status: 0,
            pid: Some(Pid(pid)),
            actor_pid: Pid(pid),
            actor_tid: pid,
            event,
        };
        let context = self.model.apply(&happening);
        self.current
            .event(&happening, &context, &self.model, &mut self.members)
    }

    fn attached(&mut self, ms: u64, pid: u32) {
        let event = Event::ProcessAttached {
            start_boottime_ns: ms,
            cgroup_id: 0,
            ns_pid: None,
            comm: Comm::from_procfs(b"model\n"),
        };
        self.event(ms, pid, event);
    }

    fn exited(&mut self, ms: u64, pid: u32) {
        let event = Event::ProcessExited {
            start_boottime_ns: 0,
            ns_pid: None,
            comm: Comm::from_procfs(b"model\n"),
        };
        self.event(ms, pid, event);
    }

    /// The runlist is taken off, submitted with so many queues, and then the queue is told.
    fn created(&mut self, ms: u64, pid: u32, queue_id: u32, mapped: u32) -> bool {
        self.cycle(ms, pid, mapped);
        self.event(
            ms,
            pid,
            Event::QueueCreated {
                gpu_id: GPU,
                queue_id: QueueId(queue_id),
                queue_type: QueueType::Compute,
                format: QueueFormat::Aql,
                ring_bytes: 4096,
                priority: 7,
                percent: 100,
                doorbell: queue_id,
                evicted: false,
                comm: Comm::from_procfs(b"model\n"),
            },
        )
    }

    fn destroyed(&mut self, ms: u64, pid: u32, queue_id: u32, mapped: u32) {
        self.cycle(ms, pid, mapped);
        let event = Event::QueueDestroyed {
            gpu_id: GPU,
            queue_id: QueueId(queue_id),
        };
        self.event(ms, pid, event);
    }

    /// Without queues nothing is submitted.
    fn cycle(&mut self, ms: u64, pid: u32, mapped: u32) {
        let event = Event::RunlistUnmapped {
            gpu_id: GPU,
            filter: UnmapFilter::Dynamic,
            lock_wait_ns: 0,
            fence_ns: 10,
        };
        self.event(ms, pid, event);
        if mapped > 0 {
            let event = Event::RunlistMapped {
                gpu_id: GPU,
                queues: mapped,
                cp_queues: mapped,
                processes: 1,
                oversubscribed: false,
            };
            self.event(ms, pid, event);
        }
    }

    /// Queues 0 to `on` of process 7, each on its slot of one XCC.
    fn picture(&mut self, ms: u64, on: u32) {
        let queues = (0..on).map(|id| snapshot::Queue {
            mqd_address: Some(u64::from(id)),
            slots: vec![Slot {
                xcc: 0,
                pipe: 0,
                queue: id,
                vmid: 8,
            }],
            ..queue(7, id, State::Mapped)
        });
        let gpu = snapshot::Gpu {
            node: GpuNode {
                node: 1,
                gpu_id: GPU,
                name: String::new(),
                properties: BTreeMap::new(),
            },
            runlist: Some(Runlist::default()),
            slots_total: 24,
            slots_used: Some(on),
        };
        let snapshot = Snapshot {
            gpus: vec![gpu],
            queues: queues.collect(),
            ..Snapshot::default()
        };
        self.current.picture(snapshot, ms * MS, (ms + 5) * MS);
    }

    fn finish(self) -> Run {
        self.current.finish(Some(&self.model), 10_000 * MS)
    }
}

#[test]
fn a_model_from_its_first_queue_to_its_last() {
    let mut test = Test::new(Filter::default());
    test.attached(10, 7);
    assert!(test.created(20, 7, 0, 1), "something to see");
    test.created(30, 7, 1, 2);
    test.picture(500, 2);
    test.destroyed(900, 7, 1, 1);
    test.destroyed(910, 7, 0, 0);
    test.exited(920, 7);
    let run = test.finish();
    assert_eq!((run.members.len(), run.lives.len()), (1, 2));
    assert_eq!(run.members[0].to_ns, Some(920 * MS));
    for life in &run.lives {
        assert_eq!((life.slots.sightings, life.slots.one_each), (1, 1));
        assert_eq!(life.mqds.len(), 1);
        assert!(life.created_ns.is_some() && life.destroyed_ns.is_some());
    }
    assert_eq!((run.sums.compared, run.sums.equal), (1, 1));
    assert_eq!(run.unmaps_own, 4);
    let levels: Vec<u32> = run.levels.iter().map(|level| level.cp_queues).collect();
    assert_eq!(
        levels,
        [1, 2, 1, 0],
        "nothing is mapped after the last queue"
    );
}

#[test]
fn a_picture_that_was_taken_while_a_runlist_changed_is_not_judged() {
    let mut test = Test::new(Filter::default());
    test.created(100, 7, 0, 1);
    // Just after it.
    test.picture(120, 1);
    // While it is taken, the runlist changes: known later.
    test.picture(400, 0);
    test.cycle(402, 7, 1);
    // Nothing happens, and it shows less than the driver has.
    test.picture(800, 0);
    let run = test.finish();
    assert_eq!((run.pictures, run.unsettled), (3, 2));
    assert_eq!((run.sums.compared, run.sums.equal), (1, 0));
    assert_eq!(run.sums.differ, [(800 * MS, GPU, 1, 0)]);
    assert_eq!(run.lives[0].slots.sightings, 0);
}

#[test]
fn a_queue_on_another_slot_has_moved() {
    let mut use_of = SlotUse::default();
    let slot = |queue| Slot {
        xcc: 0,
        pipe: 0,
        queue,
        vmid: 8,
    };
    for slots in [&[slot(1)][..], &[slot(1)], &[], &[slot(2)]] {
        use_of.see(slots, 1);
    }
    assert_eq!((use_of.sightings, use_of.one_each), (4, 3));
    assert_eq!((use_of.none, use_of.moves), (1, 1));
    assert_eq!(use_of.all.len(), 2);
}

#[test]
fn others_are_left_out_and_a_pid_used_again_is_another_process() {
    let filter = Filter {
        pids: vec![Pid(7)],
        ..Filter::default()
    };
    let mut test = Test::new(filter);
    test.attached(10, 8);
    test.created(20, 8, 0, 1);
    test.attached(30, 7);
    test.created(40, 7, 0, 2);
    test.exited(50, 7);
    // Its queue goes after it, under its pid.
    test.destroyed(60, 7, 0, 1);
    test.attached(70, 7);
    test.created(80, 7, 0, 2);
    let run = test.finish();
    assert_eq!(run.members.len(), 2);
    let of: Vec<usize> = run.lives.iter().map(|life| life.member).collect();
    assert_eq!(of, [0, 1]);
    assert_eq!(run.lives[0].destroyed_ns, Some(60 * MS));
    assert_eq!((run.unmaps_own, run.unmaps_others), (3, 1));
}
