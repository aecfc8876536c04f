// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sequences as the driver makes them: the unmap and the map of a call, then the record of the call itself.

use proptest::prelude::*;

use super::*;
use crate::event::{
    Event, EvictReason, Hold, HoldCause, QueueFormat, QueueId, QueueType, UnmapFilter,
};
use crate::model::Rule;

const GPU: GpuId = GpuId(0x52a1);

fn comm() -> Comm {
    Comm::from_procfs(b"job")
}

/// A machine and its clock.
struct Machine {
    model: Model,
    now: u64,
    tid: u32,
    mapped: u32,
}

impl Machine {
    fn new() -> Self {
        Self {
            model: Model::default(),
            now: 1000,
            tid: 1,
            mapped: 0,
        }
    }

    fn tell(&mut self, pid: u32, cause: Cause, total_ns: u64, event: Event) {
        let status = 0;
        self.tell_status(pid, cause, total_ns, status, event);
    }

    fn tell_status(&mut self, pid: u32, cause: Cause, total_ns: u64, status: i32, event: Event) {
        self.model.apply(&Happening {
            ts_ns: self.now,
            total_ns,
            cause,
            status,
            pid: Pid::known(pid),
            actor_pid: Pid(pid),
            actor_tid: self.tid,
            event,
        });
    }

    fn wait(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self
    }

    fn unmap(&mut self, pid: u32, cause: Cause) -> &mut Self {
        let event = Event::RunlistUnmapped {
            gpu_id: GPU,
            filter: UnmapFilter::Dynamic,
            lock_wait_ns: 0,
            fence_ns: 0,
        };
        self.tell(pid, cause, 3, event);
        self
    }

    fn map(&mut self, pid: u32, cause: Cause) -> &mut Self {
        let (queues, oversubscribed) = (self.mapped, false);
        self.map_as(pid, cause, queues, 1, oversubscribed)
    }

    fn map_as(
        &mut self,
        pid: u32,
        cause: Cause,
        queues: u32,
        processes: u32,
        oversubscribed: bool,
    ) -> &mut Self {
        let event = Event::RunlistMapped {
            gpu_id: GPU,
            queues,
            cp_queues: queues,
            processes,
            oversubscribed,
        };
        self.tell(pid, cause, 1, event);
        self
    }

    /// Five nanoseconds between unmap and map, five more to the return.
    fn around(&mut self, pid: u32, cause: Cause) -> u64 {
        self.wait(10)
            .unmap(pid, cause)
            .wait(5)
            .map(pid, cause)
            .wait(5);
        20
    }

    fn create(&mut self, pid: u32, queue: u32) -> &mut Self {
        self.mapped += 1;
        let total = self.around(pid, Cause::CreateQueue);
        self.created(pid, queue, 100, total)
    }

    fn created(&mut self, pid: u32, queue: u32, percent: u32, total_ns: u64) -> &mut Self {
        let event = Event::QueueCreated {
            gpu_id: GPU,
            queue_id: QueueId(queue),
            queue_type: QueueType::Compute,
            format: QueueFormat::Aql,
            ring_bytes: 65536,
            priority: 7,
            percent,
            doorbell: 0,
            evicted: false,
            comm: comm(),
        };
        self.tell(pid, Cause::CreateQueue, total_ns, event);
        self
    }

    fn update(&mut self, pid: u32, queue: u32, percent: u32) -> &mut Self {
        let total = self.around(pid, Cause::UpdateQueue);
        let event = Event::QueueUpdated {
            gpu_id: GPU,
            queue_id: QueueId(queue),
            priority: 7,
            percent,
            active: percent > 0,
        };
        self.tell(pid, Cause::UpdateQueue, total, event);
        self
    }

    fn destroy(&mut self, pid: u32, queue: u32) -> &mut Self {
        let total = self.around(pid, Cause::DestroyQueue);
        self.destroyed(pid, queue, Cause::DestroyQueue, total)
    }

    fn destroyed(&mut self, pid: u32, queue: u32, cause: Cause, total_ns: u64) -> &mut Self {
        let event = Event::QueueDestroyed {
            gpu_id: GPU,
            queue_id: QueueId(queue),
        };
        self.tell(pid, cause, total_ns, event);
        self
    }

    fn evict(&mut self, pid: u32, depth: u32) -> &mut Self {
        let total = match depth {
            1 => self.around(pid, Cause::Evict),
            _ => 0,
        };
        let event = Event::ProcessEvicted {
            gpu_id: GPU,
            reason: EvictReason::Ttm,
            depth,
        };
        self.tell(pid, Cause::Evict, total, event);
        self
    }

    fn restore(&mut self, pid: u32, depth: u32) -> &mut Self {
        let total = match depth {
            0 => self.around(pid, Cause::Restore),
            _ => 0,
        };
        let event = Event::ProcessRestored { gpu_id: GPU, depth };
        self.tell(pid, Cause::Restore, total, event);
        self
    }

    fn exit(&mut self, pid: u32) -> &mut Self {
        let event = Event::ProcessExited {
            start_boottime_ns: 1,
            ns_pid: None,
            comm: comm(),
        };
        self.tell(pid, Cause::Other, 0, event);
        self
    }

    fn usage(&self, pid: u32, queue: u32) -> Usage {
        let key = QueueKey {
            pid: Pid(pid),
            gpu_id: GPU,
            queue_id: QueueId(queue),
        };
        self.model.usage(&key).expect("the queue exists")
    }

    fn of_process(&self, pid: u32) -> ProcessUsage {
        let mut all = self.model.process_usage(self.now);
        all.retain(|usage| usage.pid == Pid(pid));
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

#[test]
fn every_change_of_the_node_takes_every_queue_off() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0);
    let first = m.usage(7, 0);
    assert_eq!((first.preemptions, first.off_ns), (1, 5));
    assert_eq!(first.last_cause, Some((Cause::CreateQueue, Some(Pid(8)))));
    assert_eq!(first.by_cause[Cause::CreateQueue.index()], 1);
    assert_eq!(first.by_own, 0);
    // The unmap of its own creation came before it was mapped.
    let second = m.usage(8, 0);
    assert_eq!((second.preemptions, second.off_ns), (0, 0));
    assert_eq!((second.last_cause, second.off_since_ns), (None, None));
    m.create(8, 1);
    assert_eq!((m.usage(8, 0).preemptions, m.usage(8, 0).by_own), (1, 1));
    assert_eq!((m.usage(7, 0).preemptions, m.usage(7, 0).by_own), (2, 0));
}

#[test]
fn a_queue_is_off_from_the_unmap_of_the_call_that_stops_it() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0);
    m.wait(100);
    let unmap_ns = m.now + 10;
    m.update(7, 0, 0);
    let usage = m.usage(7, 0);
    assert_eq!(usage.off_since_ns, Some(unmap_ns));
    assert_eq!(usage.preemptions, 2);
    assert_eq!(usage.last_cause, Some((Cause::UpdateQueue, Some(Pid(7)))));
    // What happens to the node while it is at 0 % is no preemption of it.
    m.wait(1000).create(8, 1);
    assert_eq!(m.usage(7, 0).preemptions, 2);
    let map_ns = m.now + 15;
    m.update(7, 0, 100);
    let usage = m.usage(7, 0);
    assert_eq!(usage.off_since_ns, None);
    assert_eq!(usage.preemptions, 2);
    assert_eq!(usage.off_ns, 5 + map_ns - unmap_ns);
    m.create(8, 2);
    assert_eq!(m.usage(7, 0).preemptions, 3);
    assert_eq!(m.usage(7, 0).off_ns, 5 + map_ns - unmap_ns + 5);
}

#[test]
fn another_thread_between_the_unlock_and_the_return_does_not_confuse() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0);
    m.wait(100);
    m.unmap(7, Cause::UpdateQueue);
    let off_at = m.now;
    m.wait(5).map(7, Cause::UpdateQueue).wait(1);
    m.tid = 2;
    m.unmap(8, Cause::CreateQueue)
        .wait(4)
        .map(8, Cause::CreateQueue);
    m.wait(1).tid = 1;
    let event = Event::QueueUpdated {
        gpu_id: GPU,
        queue_id: QueueId(0),
        priority: 7,
        percent: 0,
        active: false,
    };
    m.tell(7, Cause::UpdateQueue, 30, event);
    let usage = m.usage(7, 0);
    assert_eq!(usage.off_since_ns, Some(off_at));
    assert_eq!(usage.preemptions, 2, "that of thread 2 does not count");
    assert_eq!(usage.last_cause, Some((Cause::UpdateQueue, Some(Pid(7)))));
    assert_eq!(m.usage(8, 0).preemptions, 2, "both");
}

#[test]
fn a_queue_created_at_zero_percent_was_never_taken_off() {
    let mut m = Machine::new();
    m.created(7, 0, 0, 20);
    let start = m.now;
    m.wait(100).create(8, 0);
    assert_eq!(m.usage(7, 0).preemptions, 0);
    assert_eq!(m.usage(7, 0).off_until(m.now), m.now - start);
}

#[test]
fn evictions_nest() {
    let mut m = Machine::new();
    m.create(7, 0).create(7, 1).create(8, 0);
    m.update(7, 1, 0);
    let before = m.usage(7, 0);
    let off_at = m.now + 10;
    m.evict(7, 1).wait(50).evict(7, 2).wait(50);
    assert_eq!(m.usage(7, 0).off_since_ns, Some(off_at));
    m.restore(7, 1).wait(50);
    assert_eq!(m.usage(7, 0).off_since_ns, Some(off_at), "one is in force");
    let on_at = m.now + 15;
    m.restore(7, 0);
    let usage = m.usage(7, 0);
    assert_eq!(usage.off_since_ns, None);
    assert_eq!(usage.off_ns, before.off_ns + on_at - off_at);
    assert_eq!(usage.preemptions, before.preemptions + 1);
    assert_eq!(usage.by_cause[Cause::Evict.index()], 1);
    assert_eq!(usage.last_cause, Some((Cause::Evict, Some(Pid(7)))));
    assert!(m.usage(7, 1).off_since_ns.is_some(), "it is still at 0 %");
    assert_eq!(
        m.usage(8, 0).by_cause[Cause::Evict.index()],
        1,
        "the neighbour too, for a moment"
    );
    assert_eq!(m.usage(8, 0).by_cause[Cause::Restore.index()], 1);
    // Created while evicted: off until the restore.
    m.evict(7, 1).wait(5).created(7, 2, 100, 0);
    let created = m.now;
    assert_eq!(m.usage(7, 2).off_until(created + 10), 10);
    m.restore(7, 0);
    assert_eq!(m.usage(7, 2).off_ns, m.now - 5 - created);
}

#[test]
fn destruction_is_no_preemption_and_totals_stay() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0).create(8, 1);
    m.destroy(8, 0);
    assert_eq!(
        m.of_process(8).preemptions,
        1 + 1,
        "1 by 8:1, then 8:1 by the destroy of 8:0"
    );
    assert_eq!(m.of_process(8).queues, 1);
    m.update(7, 0, 0)
        .wait(500)
        .destroyed(7, 0, Cause::DestroyQueue, 0);
    let usage = m.of_process(7);
    assert_eq!((usage.queues, usage.queues_seen), (0, 1));
    assert_eq!(
        usage.preemptions, 4,
        "8:0, 8:1, destroy of 8:0, its own update"
    );
    assert_eq!(usage.off_ns, 3 * 5 + 500 + 10);
    m.exit(7);
    let usage = m.of_process(7);
    assert!(usage.ended && usage.comm == Some(comm()));
    assert_eq!(usage.preemptions, 4);
    // A process of the same pid starts from nothing, beside the first.
    m.create(7, 0);
    assert_eq!(m.model.process_usage(m.now).len(), 3);
}

#[test]
fn teardown_of_a_process_is_no_preemption_of_it() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0);
    let before = m.usage(8, 0).preemptions;
    m.exit(8).around(8, Cause::ProcessExit);
    m.destroyed(8, 0, Cause::ProcessExit, 0);
    let usage = m.of_process(8);
    assert!(usage.ended);
    assert_eq!(usage.preemptions, before);
    assert_eq!(m.usage(7, 0).by_cause[Cause::ProcessExit.index()], 1);
}

#[test]
fn an_empty_node_stays_off() {
    let mut m = Machine::new();
    m.create(7, 0).wait(10);
    // update_queue takes the runlist off, and there is nothing to submit.
    m.unmap(7, Cause::UpdateQueue).wait(5);
    let event = Event::QueueUpdated {
        gpu_id: GPU,
        queue_id: QueueId(0),
        priority: 7,
        percent: 0,
        active: false,
    };
    m.tell(7, Cause::UpdateQueue, 10, event);
    m.wait(1000).map(8, Cause::CreateQueue).wait(5);
    m.created(8, 0, 100, 10);
    assert_eq!(m.usage(8, 0).off_ns, 0);
    assert_eq!(m.usage(7, 0).off_until(m.now), 1000 + 5 + 5);
    assert_eq!(m.usage(7, 0).preemptions, 1);
}

#[test]
fn nothing_is_off_on_a_node_without_queues() {
    let mut m = Machine::new();
    m.create(7, 0).wait(10);
    // destroy_queue takes the runlist off, and there is nothing to submit.
    m.unmap(7, Cause::DestroyQueue).wait(5);
    m.destroyed(7, 0, Cause::DestroyQueue, 10);
    m.wait(1000);
    let map = Happening {
        ts_ns: m.now,
        total_ns: 1,
        cause: Cause::CreateQueue,
        status: 0,
        pid: Pid::known(8),
        actor_pid: Pid(8),
        actor_tid: 2,
        event: Event::RunlistMapped {
            gpu_id: GPU,
            queues: 1,
            cp_queues: 1,
            processes: 1,
            oversubscribed: false,
        },
    };
    assert_eq!(m.model.apply(&map).off, None);
}

#[test]
fn a_failed_unmap_takes_nothing_off() {
    let mut m = Machine::new();
    m.create(7, 0);
    let event = Event::RunlistUnmapped {
        gpu_id: GPU,
        filter: UnmapFilter::Dynamic,
        lock_wait_ns: 0,
        fence_ns: 0,
    };
    m.tell_status(7, Cause::Evict, 9000, -62, event);
    m.wait(100);
    assert_eq!(m.usage(7, 0).preemptions, 0);
    assert_eq!(m.usage(7, 0).off_until(m.now), 0);
}

#[test]
fn what_was_lost_counts_as_nothing() {
    let mut m = Machine::new();
    m.create(7, 0);
    // The map after it was lost; the next unmap shows that there was one.
    m.wait(10).unmap(8, Cause::CreateQueue).wait(100_000);
    assert_eq!(m.usage(7, 0).off_until(m.now), 100_000, "so it seems");
    m.unmap(8, Cause::CreateQueue)
        .wait(5)
        .map(8, Cause::CreateQueue);
    let usage = m.usage(7, 0);
    assert_eq!((usage.preemptions, usage.off_ns), (2, 5));
    // An unmap was lost: nobody knows how long it was off.
    m.wait(50).map(8, Cause::CreateQueue);
    assert_eq!(m.usage(7, 0).off_ns, 5);
    // A destruction was lost: the id is used again.
    m.create(7, 0);
    let usage = m.of_process(7);
    assert_eq!((usage.queues, usage.queues_seen), (1, 2));
}

#[test]
fn a_lost_map_takes_nothing_from_what_was_seen_before() {
    let mut m = Machine::new();
    m.create(7, 0).wait(10).unmap(7, Cause::Evict);
    let off_at = m.now;
    let evicted = Event::ProcessEvicted {
        gpu_id: GPU,
        reason: EvictReason::Ttm,
        depth: 1,
    };
    m.wait(1).tell(7, Cause::Evict, 5, evicted);
    // No runlist was seen to be submitted, neither after this nor before the next unmap.
    let restored = Event::ProcessRestored {
        gpu_id: GPU,
        depth: 0,
    };
    m.wait(1000).tell(7, Cause::Restore, 5, restored);
    let evicted_ns = m.now - off_at;
    m.wait(300);
    m.unmap(8, Cause::CreateQueue)
        .wait(5)
        .map(8, Cause::CreateQueue);
    // As much of what follows may be missing as it was a part of the stretch that was lost, and nothing of what was before.
    let off_ns = m.usage(7, 0).off_ns;
    assert!((evicted_ns..=evicted_ns + 5).contains(&off_ns), "{off_ns}");
}

#[test]
fn the_driver_takes_everything_with_it_but_the_totals() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0).update(7, 0, 0).wait(100);
    m.model.driver_gone(m.now);
    assert_eq!(m.model.queues().count(), 0);
    let usage = m.of_process(7);
    assert!(usage.ended);
    assert_eq!((usage.preemptions, usage.off_ns), (2, 5 + 100 + 10));
    assert!(m.model.gpu(GPU).is_none());
}

fn hold(count: u32) -> Hold {
    Hold {
        gpu_id: GPU,
        count,
        owner_pid: Some(Pid(300)),
        cause: HoldCause::Ioctl,
        lock_wait_ns: 0,
        hw_ns: 0,
    }
}

#[test]
fn a_process_is_off_when_all_its_queues_are_held() {
    let mut m = Machine::new();
    m.create(7, 0).create(7, 1);
    m.tell(7, Cause::Hold, 5, Event::QueuesHeld(hold(1)));
    assert_eq!(m.usage(7, 0).off_since_ns, None, "one of two: which?");
    let total = m.around(300, Cause::Hold);
    m.tell(7, Cause::Hold, total, Event::QueuesHeld(hold(1)));
    let off_at = m.now - 10;
    assert_eq!(m.usage(7, 0).off_since_ns, Some(off_at));
    assert_eq!(
        m.usage(7, 1).last_cause,
        Some((Cause::Hold, Some(Pid(300))))
    );
    m.wait(100);
    let total = m.around(300, Cause::Release);
    m.tell(7, Cause::Release, total, Event::QueuesReleased(hold(2)));
    let usage = m.usage(7, 1);
    assert_eq!(
        (usage.off_since_ns, usage.off_ns),
        (None, m.now - 5 - off_at)
    );
}

#[test]
fn a_process_is_off_when_all_its_queues_are_suspended() {
    let mut m = Machine::new();
    m.create(7, 0).create(7, 1);
    let suspended = |count| Event::QueuesSuspended {
        count,
        requested: 2,
    };
    let total = m.around(7, Cause::Suspend);
    m.tell(7, Cause::Suspend, total, suspended(2));
    let off_at = m.now - 10;
    assert_eq!(m.usage(7, 0).off_since_ns, Some(off_at));
    let total = m.around(7, Cause::Resume);
    let resumed = Event::QueuesResumed {
        count: 2,
        requested: 0,
    };
    m.tell(7, Cause::Resume, total, resumed);
    assert_eq!(m.usage(7, 0).off_since_ns, None);
}

#[test]
fn oversubscription_names_who_crossed_the_line_and_when() {
    let mut m = Machine::new();
    m.model.set_limits(
        GPU,
        Limits {
            slots: Some(2),
            max_processes: None,
        },
    );
    m.map_as(7, Cause::CreateQueue, 2, 1, false).wait(10);
    m.map_as(8, Cause::CreateQueue, 3, 2, true);
    let since_ns = m.now;
    m.wait(10).map_as(9, Cause::CreateQueue, 4, 3, true);
    let over = m.model.gpu(GPU).and_then(|gpu| gpu.oversubscription);
    assert_eq!(
        over,
        Some(Oversubscription {
            since_ns,
            by: Some(Pid(8)),
            cause: Cause::CreateQueue,
            rule: Some(Rule::Queues),
            cp_queues: 3,
            processes: 2,
        })
    );
    m.map_as(9, Cause::DestroyQueue, 2, 3, false);
    assert_eq!(m.model.gpu(GPU).and_then(|gpu| gpu.oversubscription), None);
    // So it was when watching began: nobody was seen doing it.
    let mut m = Machine::new();
    m.model.begin(500);
    m.map_as(7, Cause::UpdateQueue, 30, 2, true);
    let over = m.model.gpu(GPU).and_then(|gpu| gpu.oversubscription);
    assert_eq!(
        over.map(|o| (o.since_ns, o.by, o.rule)),
        Some((500, None, None))
    );
}

#[test]
fn takers_are_named_with_their_cost() {
    let mut m = Machine::new();
    m.create(7, 0).create(8, 0).create(8, 1);
    let taken: Vec<_> = m
        .model
        .taken(GPU)
        .filter(|(_, by, _)| *by == Some(Pid(8)))
        .collect();
    assert_eq!(
        taken,
        [(
            Cause::CreateQueue,
            Some(Pid(8)),
            Taken {
                stops: 2,
                queues: 1 + 2,
                off_ns: 10,
                unmap_ns: 6
            }
        )]
    );
}

/// Something that may happen; a map follows each unmap, as under the driver's lock, or is lost.
#[derive(Clone, Debug)]
enum Step {
    Create(u32, u32),
    CreateIdle(u32, u32),
    Update(u32, u32, u32),
    Destroy(u32, u32),
    Evict(u32, u32),
    Restore(u32, u32),
    Hold(u32, u32),
    Release(u32, u32),
    Exit(u32),
    Unmap(u32),
    Map(u32),
    Wait(u64),
    Thread(u32),
    Gone,
}

fn any_step() -> impl Strategy<Value = Step> {
    let pid = 1u32..4;
    let queue = 0u32..3;
    prop_oneof![
        4 => (pid.clone(), queue.clone()).prop_map(|(p, q)| Step::Create(p, q)),
        1 => (pid.clone(), queue.clone()).prop_map(|(p, q)| Step::CreateIdle(p, q)),
        3 => (pid.clone(), queue.clone(), 0u32..2).prop_map(|(p, q, r)| Step::Update(p, q, r * 100)),
        2 => (pid.clone(), queue).prop_map(|(p, q)| Step::Destroy(p, q)),
        2 => (pid.clone(), 1u32..3).prop_map(|(p, d)| Step::Evict(p, d)),
        2 => (pid.clone(), 0u32..2).prop_map(|(p, d)| Step::Restore(p, d)),
        1 => (pid.clone(), 0u32..3).prop_map(|(p, n)| Step::Hold(p, n)),
        1 => (pid.clone(), 0u32..3).prop_map(|(p, n)| Step::Release(p, n)),
        1 => pid.clone().prop_map(Step::Exit),
        1 => pid.clone().prop_map(Step::Unmap),
        1 => pid.clone().prop_map(Step::Map),
        3 => (0u64..500).prop_map(Step::Wait),
        1 => (1u32..3).prop_map(Step::Thread),
        1 => Just(Step::Gone),
    ]
}

fn take(m: &mut Machine, step: &Step) {
    match *step {
        Step::Create(pid, queue) => {
            m.create(pid, queue);
        }
        Step::CreateIdle(pid, queue) => {
            m.created(pid, queue, 0, 7);
        }
        Step::Update(pid, queue, percent) => {
            m.update(pid, queue, percent);
        }
        Step::Destroy(pid, queue) => {
            m.destroy(pid, queue);
        }
        Step::Evict(pid, depth) => {
            m.evict(pid, depth);
        }
        Step::Restore(pid, depth) => {
            m.restore(pid, depth);
        }
        Step::Hold(pid, n) => m.tell(pid, Cause::Hold, 2, Event::QueuesHeld(hold(n))),
        Step::Release(pid, n) => m.tell(pid, Cause::Release, 2, Event::QueuesReleased(hold(n))),
        Step::Exit(pid) => {
            m.exit(pid);
        }
        Step::Unmap(pid) => {
            m.unmap(pid, Cause::Other);
        }
        Step::Map(pid) => {
            m.map(pid, Cause::Other);
        }
        Step::Wait(ns) => {
            m.wait(ns);
        }
        Step::Thread(tid) => m.tid = tid,
        Step::Gone => m.model.driver_gone(m.now),
    }
    m.wait(1);
}

proptest! {
    #[test]
    fn no_queue_is_off_longer_than_it_is_there(steps in proptest::collection::vec(any_step(), 0..120)) {
        let mut m = Machine::new();
        for step in &steps {
            take(&mut m, step);
            let keys: Vec<QueueKey> = m.model.queues().map(|(key, _)| *key).collect();
            for key in keys {
                let usage = m.model.usage(&key).expect("every queue has an account");
                prop_assert!(usage.since_ns <= m.now);
                let wall_ns = m.now - usage.since_ns;
                prop_assert!(usage.off_until(m.now) <= wall_ns, "{:?} of {}: {:?}", key, wall_ns, usage);
                prop_assert_eq!(usage.by_cause.iter().sum::<u64>(), usage.preemptions, "{:?}", usage);
                prop_assert!(usage.by_own <= usage.preemptions);
                prop_assert_eq!(usage.last_cause.is_some(), usage.preemptions > 0, "{:?}", usage);
            }
        }
    }

    #[test]
    fn processes_are_the_sum_of_their_queues(steps in proptest::collection::vec(any_step(), 0..120)) {
        let mut m = Machine::new();
        for step in &steps {
            take(&mut m, step);
        }
        let queues: Vec<QueueKey> = m.model.queues().map(|(key, _)| *key).collect();
        let all = m.model.process_usage(m.now);
        let living: u32 = all.iter().map(|usage| usage.queues).sum();
        prop_assert_eq!(living as usize, queues.len());
        for usage in &all {
            prop_assert_eq!(usage.by_cause.iter().sum::<u64>(), usage.preemptions);
            prop_assert!(u64::from(usage.queues) <= usage.queues_seen);
            let least: u64 = queues
                .iter()
                .filter(|key| !usage.ended && key.pid == usage.pid)
                .map(|key| m.model.usage(key).expect("an account").preemptions)
                .sum();
            prop_assert!(usage.preemptions >= least);
        }
        let stops: u64 = m.model.taken(GPU).map(|(_, _, taken)| taken.stops).sum();
        let unmaps = m.model.gpu(GPU).map_or(0, |gpu| gpu.unmaps);
        prop_assert_eq!(stops, unmaps, "none of these fails");
    }
}
