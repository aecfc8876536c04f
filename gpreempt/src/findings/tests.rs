// SPDX-License-Identifier: MIT OR Apache-2.0
use std::collections::BTreeMap;

use super::*;
use crate::event::{Cause, Event, GpuId, Happening, QueueFormat, QueueId, QueueType, UnmapFilter};
use crate::kfd::snapshot::{Gpu, Process, Queue, Runlist, State};
use crate::kfd::topology::GpuNode;
use crate::model::Limits;

const GPU: GpuId = GpuId(0x52a1);

fn queue(pid: u32, queue_id: u32, state: State, written: u64, read: u64) -> Queue {
    Queue {
        write_index: Some(written),
        read_index: Some(read),
        ..Queue::bare(pid, GPU, queue_id, state)
    }
}

fn picture(queues: Vec<Queue>, runlist: Option<Runlist>) -> Snapshot {
    let process = |pid| Process {
        pid: Pid(pid),
        ns_pid: None,
        comm: Some(Comm::from_procfs(b"job")),
        cgroup: None,
        container: None,
        start_ticks: None,
        uid: None,
    };
    Snapshot {
        gpus: vec![Gpu {
            node: GpuNode {
                node: 1,
                gpu_id: GPU,
                name: String::new(),
                properties: BTreeMap::new(),
            },
            runlist,
            slots_total: 24,
            slots_used: None,
        }],
        processes: vec![process(7), process(8)],
        queues,
        ..Snapshot::default()
    }
}

fn of(kind: Kind, findings: &[Finding]) -> Vec<&Finding> {
    findings
        .iter()
        .filter(|finding| finding.kind == kind)
        .collect()
}

#[test]
fn nothing_to_judge_is_nothing_found() {
    assert!(find(&Evidence::default()).is_empty());
    let empty = picture(Vec::new(), Some(Runlist::default()));
    let evidence = Evidence {
        now: Some((&empty, 5)),
        before: Some((&empty, 1)),
        ..Evidence::default()
    };
    assert!(find(&evidence).is_empty());
}

#[test]
fn a_queue_is_idle_when_nothing_moved_between_two_pictures() {
    let before = picture(
        vec![
            queue(7, 0, State::Mapped, 100, 100),
            queue(7, 1, State::Mapped, 100, 100),
            queue(7, 2, State::Mapped, 100, 90),
            queue(7, 3, State::Held, 100, 100),
        ],
        None,
    );
    let now = picture(
        vec![
            queue(7, 0, State::Mapped, 100, 100),
            queue(7, 1, State::Mapped, 101, 101),
            queue(7, 2, State::Mapped, 100, 90),
            queue(7, 3, State::Mapped, 100, 100),
            queue(7, 4, State::Mapped, 100, 100),
        ],
        None,
    );
    let evidence = Evidence {
        now: Some((&now, 12_000_000_000)),
        before: Some((&before, 2_000_000_000)),
        idle_after_ns: 5_000_000_000,
        now_ns: 12_000_000_000,
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let idle = of(Kind::IdleQueue, &findings);
    assert_eq!(
        idle.len(),
        1,
        "one moved, one waits, one was held, one is new: {idle:?}"
    );
    assert_eq!(idle[0].queue_id, Some(QueueId(0)));
    assert_eq!(idle[0].severity, Severity::Info);
    assert_eq!(
        idle[0].evidence,
        "mapped, and no packet for 10.0s; 100 packets before"
    );
    let patient = Evidence {
        idle_after_ns: 11_000_000_000,
        ..evidence
    };
    assert!(of(Kind::IdleQueue, &find(&patient)).is_empty());
}

#[test]
fn unused_queues_matter_on_an_oversubscribed_gpu() {
    let runlist = Runlist {
        compute_queues: 25,
        processes: 2,
        oversubscribed: true,
        ..Runlist::default()
    };
    let now = picture(vec![queue(7, 0, State::Mapped, 0, 0)], Some(runlist));
    let evidence = Evidence {
        now: Some((&now, 5)),
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let unused = of(Kind::UnusedQueue, &findings);
    assert_eq!(unused.len(), 1);
    assert_eq!(unused[0].severity, Severity::Warn);
    let over = of(Kind::Oversubscribed, &findings);
    assert_eq!(over[0].evidence, "now: 25 compute queues for 24 slots");
}

#[test]
fn a_process_none_of_whose_queues_can_run_only_holds_a_place() {
    let now = picture(
        vec![
            queue(7, 0, State::Evicted, 5, 5),
            queue(7, 1, State::Disabled, 5, 5),
            queue(8, 0, State::Held, 5, 5),
            queue(8, 1, State::Mapped, 5, 5),
        ],
        None,
    );
    let evidence = Evidence {
        now: Some((&now, 5)),
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let places = of(Kind::PlaceOnly, &findings);
    assert_eq!(places.len(), 1);
    assert_eq!(places[0].pid, Some(Pid(7)));
    assert_eq!(places[0].evidence, "2 queues, none of which can run");
}

/// Two saves, a thousand seconds apart to a second, by a counter of 100 MHz.
fn clocked() -> History {
    const S: u64 = 1_000_000_000;
    let mut history = History::default();
    for (second, save_ticks) in [
        (1, 7),
        (2, 150_000_000),
        (1001, 150_000_000),
        (1002, 100_150_000_000),
    ] {
        let mut saved = queue(9, 0, State::Mapped, 5, 5);
        saved.saves = vec![(save_ticks - 5, save_ticks)];
        history.picture(picture(vec![saved], None), second * S, second * S);
    }
    history.settle();
    history
}

#[test]
fn firmware_times_are_ticks_until_the_clock_is_known() {
    let mut saved = queue(7, 0, State::Mapped, 5, 5);
    saved.saves = vec![(1000, 5730), (1010, 5900)];
    saved.restores = vec![(300_000, 300_340), (300_010, 300_290)];
    let mut never = queue(8, 0, State::Mapped, 5, 5);
    never.saves = vec![(0, 0)];
    never.restores = vec![(0, 0)];
    let now = picture(vec![saved, never], None);
    let evidence = Evidence {
        now: Some((&now, 5)),
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let saves = of(Kind::SaveRestore, &findings);
    assert_eq!(saves.len(), 1);
    assert_eq!(
        saves[0].evidence,
        "saving waves took 4890 ticks, restoring them 340 ticks, 299340 ticks from the start of the save to the end of the restore of 1 queue"
    );
    let history = clocked();
    let clocked = Evidence {
        history: Some(&history),
        ..evidence
    };
    let findings = find(&clocked);
    let saves = of(Kind::SaveRestore, &findings);
    assert!(
        saves[0]
            .evidence
            .starts_with("saving waves took 49µs, restoring them 3.4µs, 2.99ms from"),
        "{findings:?}"
    );
    assert!(
        saves[0].advice.contains("100.0 MHz ±0.2 %"),
        "{}",
        saves[0].advice
    );
    // What was so before is no news.
    let both = Evidence {
        before: Some((&now, 1)),
        ..evidence
    };
    assert!(of(Kind::SaveRestore, &find(&both)).is_empty());
}

fn runlist_event(ts_ns: u64, pid: u32, event: Event) -> Happening {
    Happening {
        ts_ns,
        total_ns: 1000,
        cause: Cause::CreateQueue,
        status: 0,
        pid: Pid::known(pid),
        actor_pid: Pid(pid),
        actor_tid: pid,
        event,
    }
}

fn map(cp_queues: u32, processes: u32, oversubscribed: bool) -> Event {
    Event::RunlistMapped {
        gpu_id: GPU,
        queues: cp_queues,
        cp_queues,
        processes,
        oversubscribed,
    }
}

#[test]
fn events_tell_who_oversubscribes_and_who_preempts() {
    let mut model = Model::default();
    model.begin(0);
    let limits = Limits {
        slots: Some(2),
        max_processes: None,
    };
    model.set_limits(GPU, limits);
    model.learn(Pid(8), Some(Comm::from_procfs(b"greedy")));
    let unmap = Event::RunlistUnmapped {
        gpu_id: GPU,
        filter: UnmapFilter::Dynamic,
        lock_wait_ns: 0,
        fence_ns: 0,
    };
    model.apply(&runlist_event(1_000_000, 7, map(2, 1, false)));
    model.apply(&runlist_event(2_000_000, 8, unmap));
    model.apply(&runlist_event(3_000_000, 8, map(3, 2, true)));
    let evidence = Evidence {
        model: Some(&model),
        now_ns: 5_000_000,
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let over = of(Kind::Oversubscribed, &findings);
    assert_eq!(over[0].pid, Some(Pid(8)));
    assert_eq!(
        over[0].to_string().lines().next(),
        Some("WARN oversubscribed GPU 52a1 greedy[8]: for 2.00ms: 3 compute queues for 2 slots; greedy[8] crossed the line (create_queue)")
    );
    let preempted = of(Kind::Preempted, &findings);
    assert_eq!(preempted.len(), 1);
    assert_eq!(
        preempted[0].evidence,
        "1 time by create_queue for greedy[8]: 2 queues on average, 1.0µs in taking them off and 1.00ms until they were submitted again, of 5.00ms"
    );
    assert_eq!(preempted[0].severity, Severity::Warn, "a fifth of the time");
    // Over: still to be told.
    model.apply(&runlist_event(6_000_000, 8, map(2, 2, false)));
    let evidence = Evidence {
        model: Some(&model),
        now_ns: 9_000_000,
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let over = of(Kind::Oversubscribed, &findings);
    assert!(
        over[0]
            .evidence
            .starts_with("no longer, but for 3.00ms while it was watched: 3 compute"),
        "{over:?}"
    );
}

#[test]
fn events_tell_whose_queues_are_all_off() {
    let mut model = Model::default();
    let created = |queue_id, percent| Event::QueueCreated {
        gpu_id: GPU,
        queue_id: QueueId(queue_id),
        queue_type: QueueType::Compute,
        format: QueueFormat::Aql,
        ring_bytes: 1,
        priority: 7,
        percent,
        doorbell: 0,
        evicted: false,
        comm: Comm::from_procfs(b"job"),
    };
    model.apply(&runlist_event(1, 7, map(1, 2, false)));
    model.apply(&runlist_event(2, 7, created(0, 100)));
    model.apply(&runlist_event(3, 8, created(0, 0)));
    let evidence = Evidence {
        model: Some(&model),
        now_ns: 10,
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let places = of(Kind::PlaceOnly, &findings);
    assert_eq!(places.len(), 1, "{places:?}");
    assert_eq!(places[0].pid, Some(Pid(8)));
}

#[test]
fn a_picture_tells_of_a_runlist_that_no_event_told_of() {
    let mut model = Model::default();
    let unmap = Event::RunlistUnmapped {
        gpu_id: GPU,
        filter: UnmapFilter::Dynamic,
        lock_wait_ns: 0,
        fence_ns: 0,
    };
    model.apply(&runlist_event(1, 7, unmap));
    let runlist = Runlist {
        compute_queues: 25,
        processes: 2,
        oversubscribed: true,
        ..Runlist::default()
    };
    let now = picture(Vec::new(), Some(runlist));
    let evidence = Evidence {
        model: Some(&model),
        now: Some((&now, 5)),
        ..Evidence::default()
    };
    let findings = find(&evidence);
    let over = of(Kind::Oversubscribed, &findings);
    assert_eq!(over.len(), 1);
    assert_eq!(over[0].evidence, "now: 25 compute queues for 24 slots");
    // From the first event on, events are believed.
    model.apply(&runlist_event(2, 7, map(24, 2, false)));
    let evidence = Evidence {
        model: Some(&model),
        now: Some((&now, 5)),
        ..Evidence::default()
    };
    assert!(of(Kind::Oversubscribed, &find(&evidence)).is_empty());
}
