// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;

use super::*;
use crate::event::{Cause, Hold, HoldCause, Kind, UnmapFilter};

const GPU: GpuId = GpuId(0x52a1);

fn comm(name: &str) -> Comm {
    Comm::from_procfs(name.as_bytes())
}

fn at(ts_ns: u64, pid: u32, event: Event) -> Happening {
    Happening {
        ts_ns,
        total_ns: 1,
        cause: Cause::Other,
        status: 0,
        pid: Pid::known(pid),
        actor_pid: Pid(pid),
        actor_tid: pid,
        event,
    }
}

fn created(queue_id: u32) -> Event {
    Event::QueueCreated {
        gpu_id: GPU,
        queue_id: QueueId(queue_id),
        queue_type: QueueType::Compute,
        format: QueueFormat::Aql,
        ring_bytes: 65536,
        priority: 7,
        percent: 100,
        doorbell: 4096,
        evicted: false,
        comm: comm("job"),
    }
}

fn destroyed(queue_id: u32) -> Event {
    Event::QueueDestroyed {
        gpu_id: GPU,
        queue_id: QueueId(queue_id),
    }
}

fn attached(start_boottime_ns: u64, name: &str) -> Event {
    Event::ProcessAttached {
        start_boottime_ns,
        cgroup_id: 1,
        ns_pid: Some(5),
        comm: comm(name),
    }
}

fn evicted(reason: EvictReason, depth: u32) -> Event {
    Event::ProcessEvicted {
        gpu_id: GPU,
        reason,
        depth,
    }
}

#[test]
fn a_queue_lives_from_create_to_destroy() {
    let mut model = Model::default();
    model.apply(&at(100, 7, created(0)));
    let updated = Event::QueueUpdated {
        gpu_id: GPU,
        queue_id: QueueId(0),
        priority: 3,
        percent: 0,
        active: false,
    };
    assert_eq!(model.apply(&at(150, 7, updated)).created_ns, Some(100));
    assert_eq!(model.queues().next().unwrap().1.percent, Some(0));
    let context = model.apply(&at(400, 7, destroyed(0)));
    assert_eq!(context.lifetime_ns, Some(300));
    assert_eq!(context.created_ns, Some(100));
    assert_eq!(context.comm, Some(comm("job")));
    assert_eq!(model.queues().count(), 0);
}

#[test]
fn the_same_id_in_two_processes_is_two_queues() {
    let mut model = Model::default();
    model.apply(&at(100, 7, created(0)));
    model.apply(&at(200, 8, created(0)));
    assert_eq!(
        model.apply(&at(300, 7, destroyed(0))).lifetime_ns,
        Some(200)
    );
    assert_eq!(
        model.apply(&at(300, 8, destroyed(0))).lifetime_ns,
        Some(100)
    );
}

#[test]
fn an_existing_queue_has_no_known_age() {
    let mut model = Model::default();
    let existing = Event::QueueExisting {
        gpu_id: GPU,
        queue_id: QueueId(2),
        queue_type: QueueType::Sdma,
        ring_bytes: 1 << 20,
        comm: comm("old"),
    };
    model.apply(&at(50, 7, existing));
    let context = model.apply(&at(90, 7, destroyed(2)));
    assert_eq!(
        (context.lifetime_ns, context.created_ns, context.comm),
        (None, None, Some(comm("old")))
    );
}

#[test]
fn a_snapshot_does_not_overwrite_what_events_told() {
    let mut model = Model::default();
    model.apply(&at(40, 7, created(2)));
    let existing = Event::QueueExisting {
        gpu_id: GPU,
        queue_id: QueueId(2),
        queue_type: QueueType::Compute,
        ring_bytes: 65536,
        comm: comm("job"),
    };
    model.apply(&at(50, 7, existing));
    assert_eq!(model.apply(&at(90, 7, destroyed(2))).lifetime_ns, Some(50));
}

#[test]
fn nested_evictions_count_from_the_first_to_the_last() {
    let mut model = Model::default();
    model.apply(&at(1000, 7, evicted(EvictReason::Ttm, 1)));
    model.apply(&at(2000, 7, evicted(EvictReason::Userptr, 2)));
    let inner = model.apply(&at(
        3000,
        7,
        Event::ProcessRestored {
            gpu_id: GPU,
            depth: 1,
        },
    ));
    assert_eq!(
        (inner.evicted_ns, inner.reason),
        (None, Some(EvictReason::Ttm))
    );
    let outer = model.apply(&at(
        5000,
        7,
        Event::ProcessRestored {
            gpu_id: GPU,
            depth: 0,
        },
    ));
    assert_eq!(
        (outer.evicted_ns, outer.reason),
        (Some(4000), Some(EvictReason::Ttm))
    );
    let stray = model.apply(&at(
        6000,
        7,
        Event::ProcessRestored {
            gpu_id: GPU,
            depth: 0,
        },
    ));
    assert_eq!(stray.evicted_ns, None);
}

fn hold(count: u32, cause: HoldCause) -> Hold {
    Hold {
        gpu_id: GPU,
        count,
        owner_pid: Some(Pid(300)),
        cause,
        lock_wait_ns: 0,
        hw_ns: 0,
    }
}

#[test]
fn a_held_process_is_known_by_node_and_owner() {
    let mut model = Model::default();
    model.learn(Pid(300), Some(comm("gpreempt")));
    for queue in 0..3 {
        model.apply(&at(100, 7, created(queue)));
    }
    let held = Event::QueuesHeld(hold(3, HoldCause::Ioctl));
    let context = model.apply(&at(200, 7, held));
    assert_eq!(context.comm, Some(comm("job")));
    assert_eq!(context.owner_comm, Some(comm("gpreempt")));
    let state = model.held(Pid(7), GPU);
    assert_eq!((state.queues, state.owner_pid), (3, Some(Pid(300))));
    // Destroyed while held: nobody releases it.
    model.apply(&at(300, 7, destroyed(0)));
    assert_eq!(model.held(Pid(7), GPU).queues, 2);
    let released = Event::QueuesReleased(hold(2, HoldCause::Lease));
    assert_eq!(model.apply(&at(500, 7, released)).held_ns, Some(300));
    assert_eq!(model.held(Pid(7), GPU).queues, 0);
    model.apply(&at(600, 7, held));
    let exited = Event::ProcessExited {
        start_boottime_ns: 1,
        ns_pid: None,
        comm: comm("job"),
    };
    model.apply(&at(700, 7, exited));
    assert_eq!(model.held(Pid(7), GPU).queues, 0);
}

#[test]
fn names_outlive_the_process_for_its_teardown() {
    let mut model = Model::default();
    model.apply(&at(10, 7, attached(1, "job")));
    model.set_cgroup(Pid(7), "/kubepods/pod1".into());
    model.apply(&at(20, 7, created(0)));
    let exited = Event::ProcessExited {
        start_boottime_ns: 1,
        ns_pid: None,
        comm: comm("job"),
    };
    let context = model.apply(&at(30, 7, exited));
    assert_eq!(context.lifetime_ns, Some(20));
    assert_eq!(context.ns_pid, Some(5));
    assert_eq!(context.cgroup.as_deref(), Some("/kubepods/pod1"));
    let context = model.apply(&at(40, 7, destroyed(0)));
    assert_eq!(
        (context.comm, context.lifetime_ns),
        (Some(comm("job")), Some(20))
    );
}

#[test]
fn a_reused_pid_does_not_inherit() {
    let mut model = Model::default();
    model.apply(&at(10, 7, attached(1, "first")));
    model.apply(&at(20, 7, created(0)));
    model.apply(&at(25, 7, evicted(EvictReason::Ttm, 1)));
    model.apply(&at(30, 7, attached(2, "second")));
    assert_eq!(model.queues().count(), 0, "the exit of the first was lost");
    assert_eq!(model.comm(Pid(7)), Some(comm("second")));
    assert_eq!(
        model
            .apply(&at(
                40,
                7,
                Event::ProcessRestored {
                    gpu_id: GPU,
                    depth: 0
                }
            ))
            .evicted_ns,
        None
    );
}

#[test]
fn a_second_open_keeps_queues_and_age() {
    let mut model = Model::default();
    model.apply(&at(10, 7, attached(1, "job")));
    model.apply(&at(20, 7, created(0)));
    model.apply(&at(30, 7, attached(1, "job")));
    assert_eq!(model.queues().count(), 1);
    let exited = Event::ProcessExited {
        start_boottime_ns: 1,
        ns_pid: None,
        comm: comm("job"),
    };
    assert_eq!(model.apply(&at(40, 7, exited)).lifetime_ns, Some(30));
}

#[test]
fn a_node_remembers_its_runlist() {
    let mut model = Model::default();
    let map = Event::RunlistMapped {
        gpu_id: GPU,
        queues: 30,
        cp_queues: 26,
        processes: 3,
        oversubscribed: true,
    };
    model.apply(&at(1, 7, map));
    let gpu = model.gpu(GPU).unwrap();
    assert!(gpu.mapped && gpu.oversubscribed);
    let unmap = Event::RunlistUnmapped {
        gpu_id: GPU,
        filter: UnmapFilter::Dynamic,
        lock_wait_ns: 0,
        fence_ns: 0,
    };
    let hung = Happening {
        status: -62,
        ..at(2, 7, unmap)
    };
    model.apply(&hung);
    assert!(
        model.gpu(GPU).unwrap().mapped,
        "a failed unmap leaves the runlist where it is"
    );
    model.apply(&at(3, 7, unmap));
    assert!(!model.gpu(GPU).unwrap().mapped);
}

#[test]
fn an_empty_name_does_not_hide_a_known_one() {
    let mut model = Model::default();
    model.apply(&at(10, 7, attached(1, "")));
    assert!(model.wants_name(Pid(7)), "it can be looked up elsewhere");
    model.learn(Pid(7), Some(comm("job")));
    assert_eq!(
        model.apply(&at(20, 7, attached(1, ""))).comm,
        Some(comm("job"))
    );
    assert!(model.wants_name(Pid(7)), "it may be another process by now");
    model.learn(Pid(7), Some(comm("job")));
    assert_eq!(
        model.apply(&at(30, 7, destroyed(0))).comm,
        Some(comm("job"))
    );
    let exited = Event::ProcessExited {
        start_boottime_ns: 1,
        ns_pid: None,
        comm: comm(""),
    };
    assert_eq!(model.apply(&at(40, 7, exited)).comm, Some(comm("job")));
    assert_eq!(model.comm(Pid(7)), Some(comm("job")));
}

#[test]
fn strangers_are_asked_for_once() {
    let mut model = Model::default();
    assert!(model.wants_name(Pid(99)));
    model.learn(Pid(99), None);
    assert!(!model.wants_name(Pid(99)));
    assert!(!model.wants_name(Pid(0)));
    model.apply(&at(1, 99, attached(1, "job")));
    assert_eq!(model.comm(Pid(99)), Some(comm("job")));
}

/// A life of processes and queues: few ids, so that they meet.
fn any_happening() -> impl Strategy<Value = Happening> {
    let event = prop_oneof![
        (0u32..3).prop_map(created),
        (0u32..3).prop_map(destroyed),
        (0u64..3).prop_map(|start| attached(start, "job")),
        (1u32..3).prop_map(|depth| evicted(EvictReason::Ttm, depth)),
        (0u32..2).prop_map(|depth| Event::ProcessRestored { gpu_id: GPU, depth }),
        Just(Event::ProcessExited {
            start_boottime_ns: 1,
            ns_pid: None,
            comm: comm("job")
        }),
        Just(Event::QueueRejected),
        (0u32..3).prop_map(|count| Event::QueuesHeld(hold(count, HoldCause::Ioctl))),
        (0u32..3).prop_map(|count| Event::QueuesReleased(hold(count, HoldCause::Lease))),
    ];
    (any::<u64>(), 0u32..4, event).prop_map(|(ts_ns, pid, event)| at(ts_ns, pid, event))
}

proptest! {
    #[test]
    fn any_order_of_events_is_survived(events in proptest::collection::vec(any_happening(), 0..200)) {
        let mut model = Model::default();
        for event in &events {
            model.apply(event);
        }
        prop_assert_eq!(model.tally().events(), events.len() as u64);
        prop_assert!(model.queues().count() <= 9, "3 processes with 3 queue ids each");
        let by_kind: u64 = model.tally().by_kind().map(|(_, n)| n).sum();
        prop_assert_eq!(by_kind, events.len() as u64);
    }

    #[test]
    fn balanced_lives_leave_nothing(ids in proptest::collection::vec((1u32..50, 0u32..8), 1..60)) {
        let mut model = Model::default();
        for (pid, queue) in &ids {
            model.apply(&at(1, *pid, created(*queue)));
        }
        for (pid, queue) in &ids {
            model.apply(&at(2, *pid, destroyed(*queue)));
        }
        prop_assert_eq!(model.queues().count(), 0);
        prop_assert!(model.tally().by_kind().all(|(kind, _)| matches!(kind, Kind::QueueCreated | Kind::QueueDestroyed)));
    }
}
