// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::event::{Pid, QueueId};
use crate::findings::{find, Finding, Kind};
use crate::kfd::snapshot::Process;

const GPU: GpuId = GpuId(0x52a1);
const S: u64 = 1_000_000_000;

fn queue(state: State, written: u64, read: u64) -> Queue {
    Queue {
        write_index: Some(written),
        read_index: Some(read),
        ..Queue::bare(7, GPU, 0, state)
    }
}

fn of(queues: Vec<Queue>) -> Snapshot {
    Snapshot {
        queues,
        ..Snapshot::default()
    }
}

/// What is found after pictures at these seconds.
fn found(pictures: &[(u64, Queue)]) -> Vec<Finding> {
    let mut history = History::default();
    for (second, queue) in pictures {
        history.picture(of(vec![queue.clone()]), second * S, second * S);
    }
    let now_ns = pictures.last().map_or(0, |(second, _)| second * S);
    find(&history.evidence(None, 10 * S, now_ns))
}

#[test]
fn a_queue_is_idle_as_long_as_nothing_moved_in_any_picture() {
    let still = |second| (second, queue(State::Mapped, 40, 40));
    let findings = found(&[still(1), still(3), still(12), still(16)]);
    assert_eq!(findings.len(), 1);
    assert_eq!(
        findings[0].evidence,
        "mapped, and no packet for 15.0s; 40 packets before"
    );
    assert_eq!(found(&[still(1), still(10)]), []);
    for between in [
        queue(State::Evicted, 40, 40),
        queue(State::Mapped, 41, 40),
        queue(State::Mapped, 41, 41),
    ] {
        let then = queue(State::Mapped, between.write_index.unwrap(), 41);
        let pictures = [still(1), (9, between.clone()), (12, then)];
        assert_eq!(found(&pictures), [], "{between:?}");
    }
}

#[test]
fn a_queue_of_the_same_id_is_another_when_its_index_goes_back() {
    let findings = found(&[
        (1, queue(State::Mapped, 40, 40)),
        (12, queue(State::Mapped, 0, 0)),
    ]);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].kind, Kind::UnusedQueue);
    assert_eq!(findings[0].evidence, "no packet was ever written into it");
    let findings = found(&[
        (1, queue(State::Mapped, 0, 0)),
        (12, queue(State::Mapped, 0, 0)),
    ]);
    assert_eq!(
        findings[0].evidence,
        "no packet was ever written into it in the 11.0s that it was seen"
    );
}

#[test]
fn a_queue_is_no_older_than_its_process() {
    let findings = |start_ticks| {
        let mut picture = of(vec![queue(State::Mapped, 0, 0)]);
        picture.processes = vec![Process {
            pid: Pid(7),
            ns_pid: None,
            comm: None,
            cgroup: None,
            container: None,
            start_ticks: Some(start_ticks),
            uid: None,
        }];
        let mut history = History::default();
        history.picture(picture, 100 * S, 100 * S);
        find(&history.evidence(None, 10 * S, 100 * S)).len()
    };
    assert_eq!(findings(8_999), 1, "started 10.01 s ago");
    assert_eq!(findings(9_001), 0, "started 9.99 s ago");
}

#[test]
fn what_is_remembered_is_bounded_by_what_there_is() {
    let mut history = History::default();
    for second in 1..100 {
        let mut one = queue(State::Mapped, 1, 1);
        one.queue_id = QueueId(u32::try_from(second).unwrap());
        history.picture(of(vec![one]), second * S, second * S);
    }
    assert_eq!(history.queues.len(), 1);
}
