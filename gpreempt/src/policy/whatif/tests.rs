// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::event::{Cause, Comm, Hold, QueueFormat, QueueType};
use crate::policy::tests::{MS, S};
use crate::policy::{GuardName, Trigger};

const CONFIG: &str = "[policy]\nname = \"priority\"
[policy.priority]\nlinger = \"50ms\"
[guards]\nmax_pause = \"2s\"\nmin_run = \"500ms\"\npause_share = 1\n
[[rule]]\ncomm = \"serve\"\nclass = \"online\"
[[rule]]\ncomm = \"train\"\nclass = \"offline\"\ngroup = \"train\"\n";

const SERVE: u32 = 7;

fn at(ts_ns: u64, pid: u32, event: Event) -> Happening {
    Happening {
        ts_ns,
        total_ns: 0,
        cause: Cause::Other,
        status: 0,
        pid: Pid::known(pid),
        actor_pid: Pid(pid),
        actor_tid: pid,
        event,
    }
}

fn created(ts_ns: u64, pid: u32, gpu: u32) -> Happening {
    let comm = if pid == SERVE { "serve" } else { "train" };
    let event = Event::QueueCreated {
        gpu_id: GpuId(gpu),
        queue_id: QueueId(0),
        queue_type: QueueType::Compute,
        format: QueueFormat::Aql,
        ring_bytes: 65536,
        priority: 7,
        percent: 100,
        doorbell: 0,
        evicted: false,
        comm: Comm::from_procfs(comm.as_bytes()),
    };
    at(ts_ns, pid, event)
}

fn destroyed(ts_ns: u64, pid: u32, gpu: u32) -> Happening {
    let event = Event::QueueDestroyed {
        gpu_id: GpuId(gpu),
        queue_id: QueueId(0),
    };
    at(ts_ns, pid, event)
}

fn play(known: &Known, happenings: &[Happening], end_ns: u64) -> WhatIf {
    what_if(&Config::parse(CONFIG).unwrap(), known, happenings, end_ns)
}

#[test]
fn a_job_is_held_while_an_online_process_has_queues() {
    let happenings = [
        created(10 * S, 1, 1),
        created(10 * S, 2, 2),
        created(11 * S, SERVE, 1),
        destroyed(12 * S, SERVE, 1),
    ];
    let seen = play(&Known::default(), &happenings, 20 * S);
    let [hold, release] = &seen.decisions[..] else {
        panic!("{:#?}", seen.decisions);
    };
    assert_eq!((hold.now_ns, release.now_ns), (11 * S, 12 * S));
    assert_eq!(hold.to_hold[0].pids, [Pid(1), Pid(2)], "the whole gang");
    assert_eq!(hold.to_hold[0].trigger, Trigger::Pending);
    let train = seen.jobs[&"train".into()];
    let expected = Totals {
        held_ns: S,
        run_ns: 9 * S,
        holds: 1,
        ..Totals::default()
    };
    assert_eq!(train, expected);
}

#[test]
fn guards_and_lingers_act_between_events() {
    let happenings = [created(S, 1, 1), created(S, SERVE, 1)];
    let seen = play(&Known::default(), &happenings, 11 * S);
    let train = seen.jobs[&"train".into()];
    // 20 ms of margin and 1 ms come off each pause of 2 s, and 500 ms of run follow: 1 s to 2.979 s, 3.479 s to 5.458 s, ...
    assert_eq!(train.holds, 5);
    assert_eq!(train.held_ns, 4 * 1979 * MS + 84 * MS);
    assert!(seen
        .decisions
        .iter()
        .flat_map(|d| &d.to_release)
        .all(|order| order.guard == Some(GuardName::MaxPause)));
}

#[test]
fn the_caller_may_know_the_requests() {
    let known = Known {
        requests: Some(vec![(2 * S, 2 * S + 100 * MS), (4 * S, 4 * S + 200 * MS)]),
        ..Known::default()
    };
    let happenings = [created(S, 1, 1), created(S, SERVE, 1)];
    let seen = play(&known, &happenings, 10 * S);
    let times: Vec<u64> = seen.decisions.iter().map(|d| d.now_ns / MS).collect();
    assert_eq!(times, [2000, 2150, 4000, 4250]);
    assert_eq!(seen.jobs[&"train".into()].held_ns, 400 * MS);
}

#[test]
fn what_was_held_in_the_recording_is_told_beside_it() {
    let hold = |ts_ns, held| {
        let hold = Hold {
            gpu_id: GpuId(1),
            count: 1,
            owner_pid: Some(Pid(99)),
            cause: HoldCause::Ioctl,
            lock_wait_ns: 0,
            hw_ns: 0,
        };
        let event = match held {
            true => Event::QueuesHeld(hold),
            false => Event::QueuesReleased(hold),
        };
        at(ts_ns, 1, event)
    };
    let happenings = [created(S, 1, 1), hold(2 * S, true), hold(5 * S, false)];
    let seen = play(&Known::default(), &happenings, 10 * S);
    assert_eq!(seen.decisions, []);
    let train = seen.jobs[&"train".into()];
    assert_eq!((train.recorded_ns, train.run_ns), (3 * S, 9 * S));
}

#[test]
fn a_job_that_ends_is_held_no_more() {
    let exit = Event::ProcessExited {
        start_boottime_ns: 0,
        ns_pid: None,
        comm: Comm::default(),
    };
    let happenings = [
        created(S, 1, 1),
        created(S, SERVE, 1),
        at(2 * S, 1, exit),
        destroyed(2 * S, 1, 1),
        created(4 * S, 1, 1),
    ];
    let seen = play(&Known::default(), &happenings, 5 * S);
    let train = seen.jobs[&"train".into()];
    assert_eq!((train.holds, train.run_ns), (2, 0));
    assert_eq!(train.held_ns, 2 * S);
}
