// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pictures of trees that are made up, with dumps of every shape that drivers print.

mod machine;

use std::sync::{Arc, Mutex};

use super::*;
use crate::kfd::states::QueueState;
use crate::kfd::tree::Tree;
use machine::{Dump, Machine, GPU, SDMA};

fn picture(machine: &Machine) -> Snapshot {
    collect(&machine.root(), Want { hqds: true })
}

fn queue(snapshot: &Snapshot, pid: u32, id: u32) -> &Queue {
    snapshot
        .queue(Pid(pid), GpuId(GPU), QueueId(id))
        .expect("the queue is there")
}

/// A process with two compute queues, of which the second is at 0 %, and a copy queue; another process without queues.
fn machine(name: &str, dump: Dump) -> Machine {
    let machine = Machine::new(name, dump);
    machine.process(212, "kfd-load");
    machine.process(300, "idle");
    machine.queue(212, 0, 0, 16_384);
    machine.queue(212, 1, 0, 16_384);
    machine.queue(212, 2, SDMA, 65_536);
    machine.states(&[
        machine.state(212, 0),
        QueueState {
            percent: Some(0),
            active: Some(false),
            ..machine.state(212, 1)
        },
        machine.state(212, 2),
    ]);
    machine.runlist(&[(212, &[(0, false), (2, true)])]);
    machine.mqds(&[(212, &[(2, true), (1, false), (0, false)]), (300, &[])]);
    machine.hqds(212, &[(0, false), (2, true)]);
    machine.indices(212, 0, 10, 3);
    machine.indices(212, 1, 5, 5);
    machine
}

#[test]
fn every_source_says_its_part_of_a_queue() {
    for (at, dump) in Dump::ALL.iter().enumerate() {
        let machine = machine(&format!("whole-{at}"), *dump);
        let snapshot = picture(&machine);
        assert_eq!(snapshot.lacks, [], "{dump:?}");
        let first = queue(&snapshot, 212, 0);
        assert_eq!(
            (first.state, &first.reason),
            (State::Mapped, &None),
            "{dump:?}"
        );
        assert_eq!(first.depth(), Some(7));
        assert_eq!(first.aql, Some(true));
        assert_eq!((first.priority, first.percent), (Some(7), Some(100)));
        assert_eq!(first.doorbell, Some(machine.doorbell(212, 0)));
        let slots: Vec<(u32, u32)> = first.slots.iter().map(|s| (s.xcc, s.vmid)).collect();
        let expected: Vec<(u32, u32)> = (0..dump.xccs).map(|xcc| (xcc, 8)).collect();
        assert_eq!(slots, expected, "{dump:?}");
        assert_eq!(first.saves.len(), dump.xccs as usize);
        assert_eq!(first.saves[0], (0x1049_b372_1df2, 0x1049_b372_306a));
        assert_eq!(first.restores[0], (0x1049_b377_afd2, 0x1049_b377_b126));

        let second = queue(&snapshot, 212, 1);
        assert_eq!(second.state, State::Disabled, "{dump:?}");
        assert_eq!(second.reason.as_deref(), Some("0 %"));
        assert_eq!((second.depth(), second.slots.len()), (Some(0), 0));

        let copies = queue(&snapshot, 212, 2);
        assert_eq!(
            (copies.state, copies.queue_type),
            (State::Mapped, QueueType::Sdma)
        );
        assert_eq!((copies.depth(), copies.slots.len()), (None, 1));
        assert_eq!(copies.saves, []);

        let gpu = &snapshot.gpus[0];
        let runlist = Runlist {
            compute_queues: 1,
            sdma_queues: 1,
            processes: 1,
            oversubscribed: false,
        };
        assert_eq!((gpu.runlist, gpu.slots_used), (Some(runlist), Some(1)));
        let pids: Vec<u32> = snapshot.processes.iter().map(|p| p.pid.0).collect();
        assert_eq!(pids, [212, 300], "a process without queues is one, too");
    }
}

#[test]
fn a_recording_gives_the_same_picture() {
    let machine = machine("recorded", Dump::ALL[0]);
    let (root, captured) = machine.root().capturing();
    let live = collect(&root, Want { hqds: true });
    let tree = Arc::new(Mutex::new(Tree::default()));
    for (path, content) in captured.lock().unwrap().take() {
        tree.lock().unwrap().insert(&path, &content);
    }
    let played = collect(&Root::recorded(tree), Want { hqds: true });
    assert_eq!(format!("{played:?}"), format!("{live:?}"));
    assert_eq!(played.queues.len(), 3);
}

#[test]
fn without_debugfs_the_drivers_structs_tell_the_state() {
    let machine = machine("no-debugfs", Dump::ALL[0]);
    machine.remove("/sys/kernel/debug");
    let snapshot = picture(&machine);
    assert_eq!(queue(&snapshot, 212, 0).state, State::Mapped);
    assert_eq!(queue(&snapshot, 212, 1).state, State::Disabled);
    assert_eq!(queue(&snapshot, 212, 0).depth(), Some(7));
    assert_eq!(snapshot.gpus[0].runlist, None);
    let lacks: Vec<_> = snapshot
        .lacks
        .iter()
        .map(|lack| lack.why.as_str())
        .collect();
    assert_eq!(lacks, ["there is no /sys/kernel/debug/kfd"; 3]);
}

#[test]
fn with_sysfs_alone_queues_are_listed() {
    let machine = machine("sysfs", Dump::ALL[0]);
    machine.remove("/sys/kernel/debug");
    machine.no_states();
    let snapshot = picture(&machine);
    let first = queue(&snapshot, 212, 0);
    assert_eq!((first.state, first.ring_bytes), (State::Unknown, 16_384));
    assert_eq!((first.depth(), first.priority), (None, None));
    assert!(snapshot
        .lacks
        .iter()
        .any(|lack| lack.what.starts_with("state, ") && lack.why == "no permission"));
}

#[test]
fn without_structs_only_what_can_be_no_other_is_joined() {
    let machine = Machine::new("no-structs", Dump::ALL[1]);
    machine.process(212, "one");
    machine.process(300, "two");
    machine.process(400, "many");
    machine.queue(212, 0, 0, 16_384);
    machine.queue(300, 0, 0, 16_384);
    machine.queue(300, 1, 0, 16_384);
    for id in 0..3 {
        machine.queue(400, id, 0, 16_384);
    }
    machine.no_states();
    machine.runlist(&[
        (212, &[(0, false)]),
        (300, &[(0, false), (1, false)]),
        (400, &[(1, false)]),
    ]);
    machine.mqds(&[
        (212, &[(0, false)]),
        (300, &[(1, false), (0, false)]),
        (400, &[(2, false), (1, false), (0, false)]),
    ]);
    machine.indices(212, 0, 9, 1);
    let snapshot = picture(&machine);
    let only = queue(&snapshot, 212, 0);
    assert_eq!((only.state, only.depth()), (State::Mapped, Some(8)));
    assert_eq!((only.priority, only.percent), (Some(7), None));
    // Both are listed, whichever is which.
    assert_eq!(queue(&snapshot, 300, 1).state, State::Mapped);
    assert_eq!(queue(&snapshot, 300, 1).doorbell, None);
    // One of three is listed.
    assert_eq!(queue(&snapshot, 400, 1).state, State::Unknown);
}

#[test]
fn a_runlist_that_is_being_written_is_said_to_be_unreadable() {
    let machine = machine("torn", Dump::ALL[0]);
    machine.file(
        "/sys/kernel/debug/kfd/rls",
        &format!("Node 1, gpu_id {GPU:x}:\n  00000000: 00000000 00000000\n"),
    );
    let snapshot = picture(&machine);
    assert_eq!(snapshot.lacks.len(), 1);
    assert!(snapshot.lacks[0].why.contains("holds no packet"));
    assert_eq!(
        queue(&snapshot, 212, 0).state,
        State::Mapped,
        "by the structs"
    );
}

#[test]
fn a_node_without_runlists_has_what_is_active() {
    let machine = machine("mes", Dump::ALL[0]);
    machine.node("gfx_target_version 110000\nnum_cp_queues 24\n");
    machine.file(
        "/sys/kernel/debug/kfd/rls",
        &format!("Node 1, gpu_id {GPU:x}:\n  No active runlist\n"),
    );
    let snapshot = picture(&machine);
    assert_eq!(queue(&snapshot, 212, 0).state, State::Mapped);
    assert_eq!(queue(&snapshot, 212, 1).state, State::Disabled);
    assert_eq!(snapshot.gpus[0].runlist, None);
}

#[test]
fn an_active_queue_that_is_not_listed_is_not_mapped() {
    let machine = machine("hung", Dump::ALL[0]);
    machine.file(
        "/sys/kernel/debug/kfd/rls",
        &format!("Node 1, gpu_id {GPU:x}:\n  No active runlist\n"),
    );
    let snapshot = picture(&machine);
    let first = queue(&snapshot, 212, 0);
    assert_eq!(first.state, State::Unmapped);
    assert_eq!(
        first.reason.as_deref(),
        Some("active, but not in the runlist")
    );
    assert_eq!(snapshot.gpus[0].runlist, Some(Runlist::default()));
}

#[test]
fn what_keeps_a_queue_off_is_told_the_strongest_first() {
    let machine = machine("states", Dump::ALL[0]);
    machine.runlist(&[]);
    let base = || QueueState {
        active: Some(false),
        ..machine.state(212, 0)
    };
    let evicted = QueueState {
        evicted: Some(true),
        evictions: Some(2),
        ..base()
    };
    let suspended = QueueState {
        suspended: Some(true),
        ..evicted.clone()
    };
    let parked = QueueState {
        hold: Some(2),
        ..suspended.clone()
    };
    let held = QueueState {
        hold: Some(3),
        ..parked.clone()
    };
    let gone = QueueState {
        being_destroyed: Some(true),
        ..base()
    };
    let no_ring = QueueState {
        ring_address: Some(0),
        ..base()
    };
    for (state, stands, reason) in [
        (evicted, State::Evicted, "its process is evicted 2 times"),
        (
            suspended,
            State::Suspended,
            "suspended by a debugger, its process is evicted 2 times",
        ),
        (
            parked,
            State::Parked,
            "parked by a reservation, suspended by a debugger, its process is evicted 2 times",
        ),
        (
            held,
            State::Held,
            "held, parked by a reservation, suspended by a debugger, its process is evicted 2 times",
        ),
        (no_ring, State::Disabled, "no ring"),
        (gone, State::Unmapped, "being destroyed"),
    ] {
        machine.states(&[state]);
        let snapshot = picture(&machine);
        let queue = queue(&snapshot, 212, 0);
        assert_eq!((queue.state, queue.reason.as_deref()), (stands, Some(reason)));
    }
}

#[test]
fn processes_are_described() {
    const ID: &str = "4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77";
    let machine = machine("processes", Dump::ALL[0]);
    machine.file(
        "/proc/212/status",
        "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t212\t7\n",
    );
    machine.file(
        "/proc/212/cgroup",
        &format!("1:name=systemd:/\n0::/system.slice/docker-{ID}.scope\n"),
    );
    machine.file(
        "/proc/212/stat",
        "212 (kfd-load) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20\n",
    );
    machine.file(
        "/proc/300/cgroup",
        &format!("12:memory:/docker/{ID}\n3:cpu:/\n0::/\n"),
    );
    let snapshot = picture(&machine);
    let process = snapshot.process(Pid(212)).unwrap();
    assert_eq!(
        (process.uid, process.ns_pid, process.start_ticks),
        (Some(1000), Some(7), Some(777))
    );
    assert_eq!(process.container.as_deref(), Some(ID));
    let v1 = snapshot.process(Pid(300)).unwrap();
    assert_eq!(v1.container.as_deref(), Some(ID), "cgroup v1");
}

#[test]
fn indices_that_were_not_recorded_are_a_lack() {
    let machine = machine("no-memory", Dump::ALL[0]);
    machine.remove(&machine.index_file(212, 1, true));
    let snapshot = picture(&machine);
    assert_eq!(queue(&snapshot, 212, 1).depth(), None);
    assert_eq!(snapshot.lacks.len(), 1);
    assert_eq!(snapshot.lacks[0].what, "depth and rate of 1 queue");
}
