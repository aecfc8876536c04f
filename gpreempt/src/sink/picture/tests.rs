// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::event::{Event, Happening};
use crate::kfd::snapshot::{Process as Owner, Want};
use crate::kfd::Root;
use crate::sink::table::Layout;

const GPU: GpuId = GpuId(0x52a1);

fn queue(pid: u32, id: u32, state: State) -> snapshot::Queue {
    snapshot::Queue {
        pid: Pid(pid),
        gpu_id: GPU,
        queue_id: QueueId(id),
        queue_type: QueueType::Compute,
        ring_bytes: 65_536,
        state,
        reason: None,
        priority: Some(7),
        percent: Some(100),
        aql: Some(true),
        doorbell: Some(4096),
        mqd_address: Some(1 << 60),
        wptr_address: None,
        rptr_address: None,
        write_index: Some(100),
        read_index: Some(90),
        slots: Vec::new(),
        saves: Vec::new(),
        restores: Vec::new(),
    }
}

fn owner(pid: u32, comm: &[u8], container: Option<&str>) -> Owner {
    Owner {
        pid: Pid(pid),
        ns_pid: container.map(|_| 7),
        comm: Some(Comm::from_procfs(comm)),
        cgroup: None,
        container: container.map(str::to_owned),
        start_ticks: None,
        uid: None,
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        ts_ns: 2_000_000_000,
        processes: vec![
            owner(212, b"kfd-load", None),
            owner(300, b"a\x1b[31m", Some("4c01db0b339c4c7e")),
        ],
        queues: vec![
            queue(212, 0, State::Mapped),
            snapshot::Queue {
                read_index: None,
                write_index: None,
                ..queue(212, 1, State::Disabled)
            },
            snapshot::Queue {
                write_index: Some(5000),
                ..queue(300, 0, State::Held)
            },
        ],
        ..snapshot::collect(&Root::at("/nonexistent".into()), Want::default())
    }
}

fn ids(picture: &Picture) -> Vec<(u32, u32)> {
    picture
        .queues
        .iter()
        .map(|q| (q.pid.0, q.queue_id.0))
        .collect()
}

#[test]
fn filters_and_order() {
    let of = |select: Select| ids(&Picture::new(&snapshot(), &select, Beside::default()));
    assert_eq!(of(Select::default()), [(212, 0), (212, 1), (300, 0)]);
    let states = vec![State::Held, State::Disabled];
    assert_eq!(
        of(Select {
            states,
            ..Select::default()
        }),
        [(212, 1), (300, 0)]
    );
    let comms = vec!["kfd*".parse().unwrap()];
    assert_eq!(
        of(Select {
            comms,
            ..Select::default()
        }),
        [(212, 0), (212, 1)]
    );
    let pids = vec![Pid(300)];
    assert_eq!(
        of(Select {
            pids,
            ..Select::default()
        }),
        [(300, 0)]
    );
    let gpus = vec!["1".parse().unwrap()];
    assert_eq!(
        of(Select {
            gpus,
            ..Select::default()
        }),
        []
    );
    let types = vec![QueueType::Sdma];
    assert_eq!(
        of(Select {
            types,
            ..Select::default()
        }),
        []
    );
    // What is not known comes last.
    let sort = Sort::Depth;
    assert_eq!(
        of(Select {
            sort,
            ..Select::default()
        }),
        [(300, 0), (212, 0), (212, 1)]
    );
    let sort = Sort::State;
    assert_eq!(
        of(Select {
            sort,
            ..Select::default()
        }),
        [(212, 0), (300, 0), (212, 1)]
    );
}

#[test]
fn rates_need_two_samples_of_the_same_queue() {
    let now = snapshot();
    let mut before = Sample::of(&now);
    before.ts_ns -= 500_000_000;
    let key = |pid, id| QueueKey {
        pid: Pid(pid),
        gpu_id: GPU,
        queue_id: QueueId(id),
    };
    before.read_indices.insert(key(212, 0), 40);
    // Its id was given to another queue.
    before.read_indices.insert(key(300, 0), 4000);
    let beside = Beside {
        before: Some(&before),
        ..Beside::default()
    };
    let picture = Picture::new(&now, &Select::default(), beside);
    let rates: Vec<_> = picture.queues.iter().map(|q| q.packets_per_s).collect();
    assert_eq!(rates, [Some(100.0), None, None]);
    let beside = Beside {
        before: Some(&Sample::of(&now)),
        ..Beside::default()
    };
    let picture = Picture::new(&now, &Select::default(), beside);
    assert_eq!(picture.queues[0].packets_per_s, None, "no time passed");
}

#[test]
fn history_comes_from_what_was_watched() {
    let mut model = Model::default();
    model.apply(&Happening {
        ts_ns: 500_000_000,
        pid: Some(Pid(212)),
        actor_pid: Pid(212),
        event: Event::QueueCreated {
            gpu_id: GPU,
            queue_id: QueueId(0),
            queue_type: QueueType::Compute,
            format: QueueFormat::Aql,
            ring_bytes: 65_536,
            priority: 7,
            percent: 100,
            doorbell: 4096,
            evicted: false,
            comm: Comm::default(),
        },
        ..happening()
    });
    let beside = Beside {
        model: Some(&model),
        ..Beside::default()
    };
    let picture = Picture::new(&snapshot(), &Select::default(), beside);
    assert_eq!(picture.queues[0].created_ns, Some(500_000_000));
    assert_eq!(picture.queues[1].created_ns, None);
    let mut text = Vec::new();
    picture.write(&mut text, Layout::default()).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(" AGE ") && text.contains("1.50s"), "{text}");
}

fn happening() -> Happening {
    Happening {
        ts_ns: 0,
        total_ns: 0,
        cause: Cause::CreateQueue,
        status: 0,
        pid: None,
        actor_pid: Pid(0),
        actor_tid: 0,
        event: Event::QueueRejected,
    }
}

#[test]
fn hostile_names_are_harmless() {
    let mut snapshot = snapshot();
    snapshot.processes[1].container = Some("\x1b]0;x\x07".to_owned());
    snapshot.processes[1].cgroup = Some("/a\nb".to_owned());
    let picture = Picture::new(&snapshot, &Select::default(), Beside::default());
    let mut text = Vec::new();
    picture.write(&mut text, Layout::default()).unwrap();
    assert!(!text.contains(&0x1b), "{}", String::from_utf8_lossy(&text));
    for record in picture.records() {
        let line = serde_json::to_string(&record).unwrap();
        assert!(!line.contains("\\u001b"), "{line}");
    }
}

#[test]
fn lines_fit_the_terminal() {
    let mut snapshot = snapshot();
    snapshot.queues[2].reason = Some("held, its process is evicted 2 times".to_owned());
    let picture = Picture::new(&snapshot, &Select::default(), Beside::default());
    for columns in [40, 60, 80, 132] {
        let mut text = Vec::new();
        let layout = Layout {
            width: Some(columns),
            ..Layout::default()
        };
        picture.write(&mut text, layout).unwrap();
        for line in String::from_utf8(text).unwrap().lines() {
            assert!(
                unicode_width::UnicodeWidthStr::width(line) <= columns,
                "{columns}: {line}"
            );
        }
    }
}
