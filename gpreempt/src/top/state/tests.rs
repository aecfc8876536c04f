// SPDX-License-Identifier: MIT OR Apache-2.0
use std::collections::BTreeMap;

use ratatui::layout::Rect;

use super::*;
use crate::event::{Cause, Comm, Event, Happening, QueueFormat, QueueId, QueueType};
use crate::findings::Kind;
use crate::kfd::snapshot::{self, State as Stand};
use crate::kfd::topology::GpuNode;
use crate::top::view;

pub(in crate::top) const GPU: GpuId = GpuId(0x52a1);
pub(in crate::top) const S: u64 = 1_000_000_000;

/// A machine that tests change: what events told of it and how it looks.
pub(in crate::top) struct Machine {
    pub(in crate::top) feed: Feed,
    pub(in crate::top) picture: Snapshot,
}

impl Machine {
    /// With one GPU of 24 slots, and probes attached.
    pub(in crate::top) fn idle() -> Self {
        let mut machine = Self::without_gpu();
        machine.gpu(GPU);
        machine
    }

    pub(in crate::top) fn without_gpu() -> Self {
        let feed = Feed {
            status: Status::Events { missed: 0 },
            ..Feed::default()
        };
        Self {
            feed,
            picture: Snapshot::default(),
        }
    }

    pub(in crate::top) fn gpu(&mut self, gpu_id: GpuId) {
        let properties = [("gfx_target_version", 90402), ("num_cp_queues", 24)];
        let properties: BTreeMap<String, u64> = properties
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        self.picture.gpus.push(snapshot::Gpu {
            node: GpuNode {
                node: 1,
                gpu_id,
                name: "sim".to_owned(),
                properties,
            },
            runlist: None,
            slots_total: 24,
            slots_used: None,
        });
    }

    pub(in crate::top) fn process(&mut self, pid: u32, name: &[u8]) {
        self.picture.processes.push(snapshot::Process {
            pid: Pid(pid),
            ns_pid: None,
            comm: Some(Comm::from_procfs(name)),
            cgroup: None,
            container: None,
            start_ticks: None,
            uid: Some(0),
        });
    }

    pub(in crate::top) fn queue(&mut self, pid: u32, queue_id: u32, read_index: u64, depth: u64) {
        self.event(
            S,
            pid,
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
                comm: Comm::from_procfs(b"made"),
            },
        );
        self.picture.queues.push(snapshot::Queue {
            pid: Pid(pid),
            gpu_id: GPU,
            queue_id: QueueId(queue_id),
            queue_type: QueueType::Compute,
            ring_bytes: 65536,
            state: Stand::Mapped,
            reason: None,
            priority: Some(7),
            percent: Some(100),
            aql: Some(true),
            doorbell: Some(4096),
            mqd_address: Some(0x0080_0000_3000),
            wptr_address: Some(0x7f00_0000_1000),
            rptr_address: Some(0x7f00_0000_1080),
            write_index: Some(read_index + depth),
            read_index: Some(read_index),
            slots: Vec::new(),
            saves: Vec::new(),
            restores: Vec::new(),
        });
    }

    pub(in crate::top) fn event(&mut self, ts_ns: u64, pid: u32, event: Event) {
        self.feed.model.apply(&Happening {
            ts_ns,
            total_ns: 75_000,
            cause: Cause::CreateQueue,
            status: 0,
            pid: Pid::known(pid),
            actor_pid: Pid(pid),
            actor_tid: pid,
            event,
        });
    }

    pub(in crate::top) fn looked_at(&self, state: &mut State, now_ns: u64) {
        state.look(now_ns, &self.feed, Some(self.picture.clone()));
    }

    /// The same with what was seen over time.
    pub(in crate::top) fn pictured(&mut self, state: &mut State, now_ns: u64) {
        let picture = self.picture.clone();
        self.feed.history.picture(picture, now_ns, now_ns);
        self.looked_at(state, now_ns);
    }

    /// Three queues of two processes.
    pub(in crate::top) fn three() -> Self {
        let mut machine = Self::idle();
        machine.process(100, b"train");
        machine.process(200, b"serve");
        machine.queue(100, 0, 1000, 5);
        machine.queue(100, 1, 2000, 50);
        machine.queue(200, 0, 3000, 1);
        machine
    }
}

fn seen(machine: &Machine) -> State {
    let mut state = State::default();
    machine.looked_at(&mut state, 2 * S);
    state.fit(20);
    state
}

fn order(state: &State) -> Vec<(u32, u32)> {
    let ids = |row: &Row| (row.key.pid.0, row.key.queue_id.0);
    state.rows.iter().map(ids).collect()
}

fn sorted_by(state: &mut State, column: Column) {
    while state.sort != column {
        state.act(Action::SortNext);
    }
}

#[test]
fn numbers_sort_from_the_largest_and_names_from_the_first() {
    let mut state = seen(&Machine::three());
    sorted_by(&mut state, Column::Depth);
    assert_eq!(order(&state), [(100, 1), (100, 0), (200, 0)]);
    state.act(Action::Invert);
    assert_eq!(order(&state), [(200, 0), (100, 0), (100, 1)]);
    sorted_by(&mut state, Column::Process);
    assert_eq!(
        order(&state),
        [(200, 0), (100, 0), (100, 1)],
        "serve, train"
    );
    state.act(Action::SortPrevious);
    assert_eq!(state.sort, Column::Cgroup);
    assert_eq!(
        order(&state),
        [(100, 0), (100, 1), (200, 0)],
        "alike: by key"
    );
}

#[test]
fn rates_come_from_two_looks() {
    let mut machine = Machine::three();
    let mut state = seen(&machine);
    assert_eq!(state.rows[0].rate, None);
    machine.picture.queues[0].read_index = Some(1500);
    machine.looked_at(&mut state, 4 * S);
    sorted_by(&mut state, Column::Rate);
    assert_eq!(order(&state)[0], (100, 0));
    assert_eq!(state.rows[0].rate, Some(250.0));
}

#[test]
fn the_selection_stays_on_its_queue_when_rows_move() {
    let mut machine = Machine::three();
    let mut state = seen(&machine);
    sorted_by(&mut state, Column::Depth);
    state.act(Action::Last);
    let selected = state.selected.unwrap();
    assert_eq!(selected.pid, Pid(200));
    machine.picture.queues[2].write_index = Some(9999);
    machine.looked_at(&mut state, 3 * S);
    assert_eq!(order(&state)[0], (200, 0));
    assert_eq!(state.selected, Some(selected));
    // It goes: the one in its place is selected.
    let destroyed = Event::QueueDestroyed {
        gpu_id: GPU,
        queue_id: QueueId(0),
    };
    machine.event(4 * S, 200, destroyed);
    machine.looked_at(&mut state, 5 * S);
    assert_eq!(order(&state), [(100, 1), (100, 0)]);
    assert_eq!(state.selected, Some(state.rows[0].key));
}

#[test]
fn details_close_when_their_queue_goes() {
    let mut machine = Machine::three();
    let mut state = seen(&machine);
    state.act(Action::Details);
    assert_eq!(state.mode, Mode::Details);
    machine.feed.model.driver_gone(0);
    machine.picture.queues.clear();
    machine.looked_at(&mut state, 3 * S);
    assert_eq!(
        (state.mode, state.rows.len(), state.selected),
        (Mode::Table, 0, None)
    );
}

fn typed(state: &mut State, text: &str) {
    for c in text.chars() {
        state.act(Action::Type(c));
    }
}

#[test]
fn a_filter_keeps_what_has_the_text() {
    let mut state = seen(&Machine::three());
    state.act(Action::Filter);
    typed(&mut state, "SERVE");
    assert_eq!(order(&state), [(200, 0)]);
    state.act(Action::Done);
    assert_eq!(state.rows.len(), 1, "the filter stays");
    state.act(Action::Filter);
    state.act(Action::Back);
    assert_eq!((state.rows.len(), state.mode), (3, Mode::Table));
    assert_eq!(state.act(Action::Back), Some(Effect::Quit));
}

#[test]
fn search_goes_to_the_next_one_and_hides_nothing() {
    let mut state = seen(&Machine::three());
    sorted_by(&mut state, Column::Depth);
    state.act(Action::First);
    state.act(Action::Search);
    typed(&mut state, "serve");
    assert_eq!(state.selected_row().unwrap().comm, "serve");
    assert_eq!(state.rows.len(), 3);
    state.act(Action::Back);
    state.act(Action::Search);
    typed(&mut state, "train");
    let first = state.selected;
    state.act(Action::Search);
    assert_ne!(state.selected, first);
    state.act(Action::Search);
    assert_eq!(state.selected, first, "round");
}

#[test]
fn the_tree_has_processes_without_queues() {
    let mut machine = Machine::three();
    machine.process(300, b"idler");
    let mut state = seen(&machine);
    state.act(Action::Tree);
    let groups: Vec<(&str, usize)> = state
        .groups
        .iter()
        .map(|group| (group.name.as_str(), group.queues))
        .collect();
    assert_eq!(
        groups,
        [("train[100]", 2), ("serve[200]", 1), ("idler[300]", 0)]
    );
    assert_eq!(state.lines.len(), 6);
    state.act(Action::Last);
    assert_eq!(state.selected_row().unwrap().comm, "serve");
}

#[test]
fn one_gpu_after_the_other_then_all() {
    let mut machine = Machine::three();
    machine.gpu(GpuId(0x9999));
    let mut state = seen(&machine);
    let mut shown = Vec::new();
    for _ in 0..4 {
        state.act(Action::NextGpu);
        shown.push((state.gpu_filter, state.rows.len()));
    }
    let other = GpuId(0x9999);
    assert_eq!(
        shown,
        [(Some(GPU), 3), (Some(other), 0), (None, 3), (Some(GPU), 3)]
    );
}

#[test]
fn a_pause_holds_the_screen_and_not_the_memory() {
    let mut machine = Machine::three();
    let mut state = seen(&machine);
    assert_eq!(state.act(Action::Pause), Some(Effect::Play));
    machine.picture.queues[0].write_index = Some(5000);
    machine.looked_at(&mut state, 3 * S);
    assert_eq!(state.rows[0].depth, Some(5));
    state.act(Action::Pause);
    machine.looked_at(&mut state, 4 * S);
    assert_eq!(state.rows[0].depth, Some(4000));
    assert_eq!(state.rows[0].depths.len(), 3);
}

#[test]
fn what_is_remembered_is_bounded_by_what_there_is() {
    let mut machine = Machine::idle();
    let mut state = State::default();
    for second in 0..400u32 {
        machine.queue(100, second, 0, 0);
        machine.looked_at(&mut state, u64::from(second + 2) * S);
        let queue_id = QueueId(second);
        machine.event(
            S,
            100,
            Event::QueueDestroyed {
                gpu_id: GPU,
                queue_id,
            },
        );
        machine.picture.queues.clear();
    }
    machine.looked_at(&mut state, 500 * S);
    assert_eq!((state.histories.len(), state.rows.len()), (0, 0));
}

#[test]
fn without_events_the_picture_says_what_there_is() {
    let mut machine = Machine::three();
    machine.feed = Feed {
        status: Status::None("no permission".to_owned()),
        ..Feed::default()
    };
    let state = seen(&machine);
    assert_eq!(state.rows.len(), 3);
    assert_eq!(state.rows[0].preemptions, None, "not 0: not known");
    assert_eq!(state.rows[0].off_share, None);
}

#[test]
fn with_losses_the_picture_is_believed() {
    let mut machine = Machine::three();
    machine.feed.model.lost(7);
    machine.picture.queues.pop();
    let state = seen(&machine);
    assert_eq!((state.rows.len(), state.lost), (2, 7));
}

#[test]
fn the_table_scrolls_with_the_selection() {
    let mut machine = Machine::idle();
    for queue_id in 0..200 {
        machine.queue(100, queue_id, 0, 0);
    }
    let mut state = seen(&machine);
    view::fit(&mut state, Rect::new(0, 0, 80, 24));
    sorted_by(&mut state, Column::Queue);
    state.act(Action::First);
    state.act(Action::PageDown);
    assert_eq!(state.selected.unwrap().queue_id, QueueId(20));
    state.act(Action::Last);
    assert_eq!(state.selected.unwrap().queue_id, QueueId(199));
    assert_eq!(state.top + 20, 200);
    state.act(Action::First);
    assert_eq!(state.top, 0);
}

#[test]
fn findings_are_what_is_so_now() {
    let mut machine = Machine::three();
    let mut state = State::default();
    let map = |oversubscribed| Event::RunlistMapped {
        gpu_id: GPU,
        queues: 26,
        cp_queues: 26,
        processes: 2,
        oversubscribed,
    };
    machine.event(S, 100, map(false));
    machine.event(2 * S, 200, map(true));
    machine.pictured(&mut state, 3 * S);
    let kinds = |state: &State| state.found().map(|f| f.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&state), [Kind::Oversubscribed]);
    machine.picture.queues[1].read_index = Some(2050);
    machine.pictured(&mut state, 4 * S);
    machine.pictured(&mut state, 15 * S);
    assert_eq!(kinds(&state), [Kind::Oversubscribed, Kind::IdleQueue]);
    assert_eq!(
        state.warnings().count(),
        2,
        "it takes a slot that others want"
    );
    // One GPU of two: its own alone.
    machine.gpu(GpuId(0x9999));
    machine.pictured(&mut state, 16 * S);
    state.act(Action::NextGpu);
    assert_eq!(state.found().count(), 2);
    state.act(Action::NextGpu);
    assert_eq!(state.found().count(), 0);
    state.act(Action::NextGpu);
    machine.event(17 * S, 200, map(false));
    machine.pictured(&mut state, 18 * S);
    assert_eq!(kinds(&state), [Kind::IdleQueue], "over");
    assert_eq!(state.warnings().count(), 0);
}
