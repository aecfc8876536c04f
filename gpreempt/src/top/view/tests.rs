// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use ratatui::Terminal;
use snapbox::{assert_data_eq, str, IntoData as _};

use super::*;
use crate::event::{Event, GpuId, Pid, QueueId};
use crate::kfd::snapshot::{Lack, Slot, State as Stand};
use crate::model::Rule;
use crate::top::feed::Unmap;
use crate::top::keys;
use crate::top::state::tests::{Machine, GPU, S};
use crate::top::state::{Action, Status};

/// What a terminal of this size shows, without blanks at the ends of lines.
fn screen(state: &mut State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    fit(state, Rect::new(0, 0, width, height));
    terminal
        .draw(|frame| draw(state, Ink::PLAIN, frame))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let mut line = String::new();
        let mut hidden = 0;
        for x in 0..width {
            // The second half of a wide character is a cell of its own.
            if hidden == 0 {
                line.push_str(buffer[(x, y)].symbol());
                hidden = text::width(buffer[(x, y)].symbol()).max(1);
            }
            hidden -= 1;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn state_of(machine: &Machine) -> State {
    let mut state = State::default();
    machine.looked_at(&mut state, 2 * S);
    state
}

/// Two processes on an oversubscribed GPU, seen for a while.
fn busy() -> State {
    let mut machine = Machine::three();
    machine.picture.processes[0].container = Some("3f2a9c81d0e7".to_owned());
    machine.picture.processes[0].cgroup =
        Some("/kubepods.slice/pod1/cri-containerd-3f2a9c81d0e7.scope".to_owned());
    machine.picture.queues[1].state = Stand::Evicted;
    let map = Event::RunlistMapped {
        gpu_id: GPU,
        queues: 30,
        cp_queues: 26,
        processes: 2,
        oversubscribed: true,
    };
    let mut state = State::default();
    for second in 2..12u64 {
        machine.event(second * S, 200, map);
        machine
            .feed
            .unmaps
            .entry(GPU)
            .or_default()
            .push_back(Unmap {
                ts_ns: second * S,
                total_ns: second * 10_000,
            });
        for queue in &mut machine.picture.queues {
            let read = queue.read_index.unwrap() + 123_456 * u64::from(queue.pid.0 / 100);
            queue.read_index = Some(read);
            queue.write_index = Some(read + second * 7);
        }
        machine.looked_at(&mut state, second * S);
    }
    state.gpus[0].over = Some(crate::top::state::Over {
        for_ns: Some(14_200_000_000),
        by: Some(("serve[200]".to_owned(), crate::event::Cause::CreateQueue)),
        rule: Some(Rule::Queues),
    });
    for (at, row) in state.rows.iter_mut().enumerate() {
        row.preemptions = Some(at as u64 * 123_456);
        row.off_share = Some(at as f64 * 0.3);
        row.latencies_ns = (0..20).map(|n| n * (at as u64 + 1)).collect();
    }
    state
}

/// Two processes on an oversubscribed GPU, one of whose queues is idle and another was never used.
fn troubled() -> (Machine, State) {
    let mut machine = Machine::three();
    machine.queue(200, 1, 0, 0);
    machine.picture.queues[0].write_index = Some(1000);
    let limits = crate::model::Limits {
        slots: Some(24),
        max_processes: None,
    };
    machine.feed.model.begin(S);
    machine.feed.model.set_limits(GPU, limits);
    let map = |cp_queues, oversubscribed| Event::RunlistMapped {
        gpu_id: GPU,
        queues: cp_queues,
        cp_queues,
        processes: 2,
        oversubscribed,
    };
    machine.event(S, 100, map(24, false));
    machine.event(2 * S, 200, map(26, true));
    let mut state = State::default();
    for second in 2..=62 {
        machine.pictured(&mut state, second * S);
    }
    (machine, state)
}

#[test]
fn findings_in_the_header() {
    let (_, mut state) = troubled();
    assert_data_eq!(
        screen(&mut state, 80, 24),
        str![[r#"
gpreempt top  3 WARN (f)  1 GPU, 2 processes, 4 queues  0 events/s  0 lost
 52a1 gfx942 [||||||||||||||||||||||||] 24 used 0 free of 24  2 proc  0 ops/s
 OVERSUBSCRIBED for 1m00s by serve[200] (create_queue): more queues than slots
 WARN idle GPU 52a1 made[100] queue 0: mapped, and no packet for 1m00s; 1000 pa…
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
>train[100]      52a1:0 compute mapped         0       0     0     0
 train[100]      52a1:1 compute mapped        50       0     0     0
 serve[200]      52a1:0 compute mapped         1       0     0     0
 serve[200]      52a1:1 compute mapped         0       0     0     0














F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
    // Where there is little room, the table has it.
    assert_data_eq!(
        screen(&mut state, 60, 10),
        str![[r#"
gpreempt top  3 WARN (f)  1 GPU, 2 processes, 4 queues
 52a1 gfx942 24 used 0 free of 24  2 proc  0 ops/s
 OVERSUBSCRIBED for 1m00s by serve[200] (create_queue): mor…
 PROCESS[PID]    GPU:Q  STATE      DEPTH  RATE/s   PRE OFF%↓
>train[100]      52a1:0 mapped         0       0     0     0
 train[100]      52a1:1 mapped        50       0     0     0
 serve[200]      52a1:0 mapped         1       0     0     0
 serve[200]      52a1:1 mapped         0       0     0     0

F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert

"#]]
    );
}

#[test]
fn findings_in_full() {
    let (mut machine, mut state) = troubled();
    state.act(Action::Findings);
    assert_data_eq!(
        screen(&mut state, 80, 24),
        str![[r#"
gpreempt top  3 WARN (f)  1 GPU, 2 processes, 4 queues  0 events/s  0 lost
 52a1 gfx942 [||||||||||||||||||||||||] 24 used 0 free of 24  2 proc  0 ops/s
 OVERSUBSCRIBED for 1m00s by serve[200] (create_queue): more queues than slots
 WARN idle GPU 52a1 made[100] queue 0: mapped, and no packet for 1m00s; 1000 pa…
Findings
 WARN oversubscribed GPU 52a1 made[200]: for 1m00s: 26 compute queues for 24
      slots; made[200] crossed the line (create_queue)
      queues take turns for milliseconds: end or hold processes with idle
      queues, or give processes fewer queues
 WARN idle GPU 52a1 made[100] queue 0: mapped, and no packet for 1m00s; 1000
      packets before
      it takes a slot of an oversubscribed GPU: hold its process, or have it
      destroy the queue
 WARN unused GPU 52a1 made[200] queue 1: no packet was ever written into it in
      the 1m01s that it exists
      it takes a slot of an oversubscribed GPU: hold its process, or have it
      destroy the queue






Esc Back Up/Down Scroll

"#]]
    );
    // Nothing is cut where it is narrow; it scrolls.
    for _ in 0..3 {
        state.act(Action::Down);
    }
    assert_data_eq!(
        screen(&mut state, 40, 10),
        str![[r#"
gpreempt top  3 WARN (f)
 52a1 gfx942 24 used 0 free of 24
 OVERSUBSCRIBED for 1m00s by serve[200]…
      24 slots; made[200] crossed the
      line (create_queue)
      queues take turns for
      milliseconds: end or hold
      processes with idle queues, or
      give processes fewer queues
Esc Back Up/Down Scroll

"#]]
    );
    machine.picture.queues.clear();
    let over = Event::RunlistMapped {
        gpu_id: GPU,
        queues: 1,
        cp_queues: 1,
        processes: 1,
        oversubscribed: false,
    };
    machine.event(63 * S, 100, over);
    machine.pictured(&mut state, 64 * S);
    state.act(Action::First);
    assert_data_eq!(
        screen(&mut state, 80, 8),
        str![[r#"
gpreempt top  1 GPU, 2 processes, 4 queues  0.5 events/s  0 lost
 52a1 gfx942 [|.......................] 1 used 23 free of 24  1 proc  0.5 ops/s
Findings

 nothing worth knowing


Esc Back Up/Down Scroll

"#]]
    );
}

#[test]
fn a_driver_that_does_not_answer() {
    let mut state = busy();
    state.late_ns = Some(3_200_000_000);
    assert_data_eq!(
        screen(&mut state, 80, 8),
        str![[r#"
gpreempt top  1 WARN (f)  1 GPU, 2 processes, 3 queues  1.0 events/s  0 lost
 the driver has not answered for 3.20s
 52a1 gfx942 [|||||||||||||] 24 used 0 free of 24  2 proc  1.0 ops/s  unmap 60µs
 OVERSUBSCRIBED for 14.2s by serve[200] (create_queue): more queues than slots
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
>train[100]      52a1:0 compute mapped        77    123k     0     0 ▃▄▄▅▅▅▆▆▇▇█
 train[100]      52a1:1 compute evicted       77    123k  123k    30 ▃▄▄▅▅▅▆▆▇▇█
F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn no_gpu() {
    assert_data_eq!(
        screen(&mut state_of(&Machine::without_gpu()), 80, 10),
        str![[r#"
gpreempt top  0 GPUs, 0 processes, 0 queues  0 lost
 PROCESS[PID]    GPU:Q TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY

 no GPU: the driver lists none (`gpreempt doctor` says more)





F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn idle() {
    assert_data_eq!(
        screen(&mut state_of(&Machine::idle()), 80, 10),
        str![[r#"
gpreempt top  1 GPU, 0 processes, 0 queues  0 lost
 52a1 gfx942 24 slots
 PROCESS[PID]    GPU:Q TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY

 no queues: idle




F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn busy_in_80_columns() {
    assert_data_eq!(
        screen(&mut busy(), 80, 24),
        str![[r#"
gpreempt top  1 WARN (f)  1 GPU, 2 processes, 3 queues  1.0 events/s  0 lost
 52a1 gfx942 [|||||||||||||] 24 used 0 free of 24  2 proc  1.0 ops/s  unmap 60µs
 OVERSUBSCRIBED for 14.2s by serve[200] (create_queue): more queues than slots
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
>train[100]      52a1:0 compute mapped        77    123k     0     0 ▃▄▄▅▅▅▆▆▇▇█
 train[100]      52a1:1 compute evicted       77    123k  123k    30 ▃▄▄▅▅▅▆▆▇▇█
 serve[200]      52a1:0 compute mapped        77    246k  246k    60 ▃▄▄▅▅▅▆▆▇▇█
















F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn busy_in_120_columns() {
    assert_data_eq!(
        screen(&mut busy(), 120, 40),
        str![[r#"
gpreempt top  1 WARN (f)  1 GPU, 2 processes, 3 queues  1.0 events/s  0 lost
 52a1 gfx942 [||||||||||||||||||||||||] 24 used 0 free of 24  2 proc  1.0 ops/s  unmap 60µs   ▁▂▂▃▄▅▅▆▇█
 OVERSUBSCRIBED for 14.2s by serve[200] (create_queue): more queues than slots
 PROCESS[PID]    CONTAINER    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓  PRIO    % LATENCY    CGROUP
>train[100]      3f2a9c81d0e7 52a1:0 compute mapped        77    123k     0     0     7  100 ▄▄▅▅▅▆▆▇▇█ …a9c81d0e7.scope
 train[100]      3f2a9c81d0e7 52a1:1 compute evicted       77    123k  123k    30     7  100 ▄▄▅▅▅▆▆▇▇█ …a9c81d0e7.scope
 serve[200]                   52a1:0 compute mapped        77    246k  246k    60     7  100 ▄▄▅▅▅▆▆▇▇█
































F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU f Findings Space Pause q Quit

"#]]
    );
}

#[test]
fn busy_in_40_columns() {
    assert_data_eq!(
        screen(&mut busy(), 40, 8),
        str![[r#"
gpreempt top  1 WARN (f)
 52a1 gfx942 24 used 0 free of 24
 OVERSUBSCRIBED for 14.2s by serve[200]…
 PROCESS[PID]    GPU:Q  STATE     OFF%↓
>train[100]      52a1:0 mapped        0
 train[100]      52a1:1 evicted      30
 serve[200]      52a1:0 mapped       60
F1 Help F3 Search F4 Filter F5 Tree

"#]]
    );
}

#[test]
fn too_small() {
    assert_data_eq!(
        screen(&mut busy(), 20, 5),
        str![[r#"
terminal too small
20x5, needs 40x8
q quits



"#]]
    );
}

#[test]
fn a_tree() {
    let mut state = busy();
    state.act(Action::Tree);
    assert_data_eq!(
        screen(&mut state, 80, 14),
        str![[r#"
gpreempt top  1 WARN (f)  1 GPU, 2 processes, 3 queues  1.0 events/s  0 lost
 52a1 gfx942 [|||||||||||||] 24 used 0 free of 24  2 proc  1.0 ops/s  unmap 60µs
 OVERSUBSCRIBED for 14.2s by serve[200] (create_queue): more queues than slots
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
 train[100]  2 queues  container 3f2a9c81d0e7
>  train[100]    52a1:0 compute mapped        77    123k     0     0
   train[100]    52a1:1 compute evicted       77    123k     0     0
 serve[200]  1 queue
   serve[200]    52a1:0 compute mapped        77    246k     0     0




F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn two_hundred_queues_scrolled() {
    let mut machine = Machine::idle();
    machine.process(100, b"train");
    for queue_id in 0..200 {
        machine.queue(100, queue_id, 0, 0);
    }
    let mut state = state_of(&machine);
    fit(&mut state, Rect::new(0, 0, 80, 12));
    for _ in 0..5 {
        state.act(Action::PageDown);
    }
    assert_data_eq!(
        screen(&mut state, 80, 12),
        str![[r#"
gpreempt top  1 GPU, 1 process, 200 queues  0 lost
 52a1 gfx942 24 slots
 PROCESS[PID]    GPU:Q    TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
 train[100]      52a1:33  compute mapped         0       -     0     0
 train[100]      52a1:34  compute mapped         0       -     0     0
 train[100]      52a1:35  compute mapped         0       -     0     0
 train[100]      52a1:36  compute mapped         0       -     0     0
 train[100]      52a1:37  compute mapped         0       -     0     0
 train[100]      52a1:38  compute mapped         0       -     0     0
 train[100]      52a1:39  compute mapped         0       -     0     0
>train[100]      52a1:40  compute mapped         0       -     0     0
F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn hostile_names() {
    let mut machine = Machine::idle();
    machine.process(1_234_567, b"\x1b[2J\x07\xff");
    machine.process(7, "日本語の名前".as_bytes());
    machine.picture.processes[1].cgroup = Some("/a\x1b]0;pwned\x07/\u{202e}b".to_owned());
    machine.queue(1_234_567, 0, 0, u64::MAX / 2);
    machine.queue(7, 4_294_967_295, 0, 123_456);
    assert_data_eq!(screen(&mut state_of(&machine), 110, 8), str![[r#"
gpreempt top  1 GPU, 2 processes, 2 queues  0 lost
 52a1 gfx942 24 slots
 PROCESS[PID]             GPU:Q           TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓  PRIO    % LATENCY
>日本語の名\xe5[7]        52a1:4294967295 compute mapped      123k       -     0     0     7  100
 \x1b[2J\x07\xff[1234567] 52a1:0          compute mapped      9.2E       -     0     0     7  100


F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU f Findings Space Pause q Quit

"#]].raw());
}

#[test]
fn losses_and_missing_probes_are_in_the_first_line() {
    let mut machine = Machine::three();
    machine.feed.model.lost(1234);
    machine.feed.status = Status::Events { missed: 2 };
    let text = screen(&mut state_of(&machine), 80, 24);
    let first = text.lines().next().unwrap();
    assert_data_eq!(
        first,
        str!["gpreempt top  LOST 1234 events  2 probes missing  1 GPU, 2 processes, 3 queues"]
    );
}

#[test]
fn without_permission() {
    let mut machine = Machine::three();
    machine.feed = crate::top::feed::Feed {
        status: Status::None("no permission: CAP_BPF and CAP_PERFMON are missing".to_owned()),
        ..Default::default()
    };
    assert_data_eq!(
        screen(&mut state_of(&machine), 80, 10),
        str![[r#"
gpreempt top  1 GPU, 2 processes, 3 queues
 no events, pictures only: no permission: CAP_BPF and CAP_PERFMON are missing
 52a1 gfx942 24 slots
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
>train[100]      52a1:0 compute mapped         5       -     -     -
 train[100]      52a1:1 compute mapped        50       -     -     -
 serve[200]      52a1:0 compute mapped         1       -     -     -


F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn help() {
    let mut machine = Machine::idle();
    machine.picture.lacks.push(Lack {
        what: "depth of queues".to_owned(),
        why: "the memory of other users' processes cannot be read".to_owned(),
        fix: "run it as root".to_owned(),
    });
    let mut state = state_of(&machine);
    state.act(Action::Help);
    assert_data_eq!(
        screen(&mut state, 80, 36),
        str![[r#"
gpreempt top  1 GPU, 0 processes, 0 queues  0 lost
 not seen: depth of queues: the memory of other users' processes cannot be read
 52a1 gfx942 24 slots
Keys
  Up Down j k         select a queue; the selection stays on it when rows move
  PgUp PgDn Home End  by pages, to the first, to the last
  Enter i             details of the selected queue
  s                   read hardware slots too, or no more: costs register reads
  F3 /                search; F3 again: the next one
  F4 /                filter: process, container, cgroup, GPU, type, state
  F5 t                tree: queues below their processes
  F6 > <              sort by the next column, or the one before
  I                   invert the order
  g                   one GPU after the other, then all
  f                   findings: what is worth knowing, and what to do about it
  Space p             pause; a recording is stopped
  + -                 play a recording faster, slower
  F1 h ?              help
  Ctrl-L  Ctrl-Z      draw again; suspend the program
  q F10 Esc Ctrl-C    quit

Columns
  STATE    mapped: in the runlist, which does not mean that it runs
  DEPTH    packets written and not read
  RATE/s   packets read a second, of the last look
  PRE      times taken off the GPU since watching began
  OFF%     share of the last minute off the GPU
  LATENCY  time off for each time taken off, one bar a look
  unmap    median of the last minute: the driver's whole call

Not seen
  depth of queues: the memory of other users' processes cannot be read: run it
  as root


Esc Back Up/Down Scroll

"#]]
    );
}

#[test]
fn details() {
    let mut state = busy();
    state.act(Action::First);
    state.act(Action::Details);
    let selected = state.selected.unwrap();
    let row = state
        .rows
        .iter_mut()
        .find(|row| row.key == selected)
        .unwrap();
    let queue = row.queue.as_mut().unwrap();
    queue.slots = (0..2)
        .map(|xcc| Slot {
            xcc,
            pipe: 1,
            queue: 3,
            vmid: 8,
        })
        .collect();
    queue.saves = vec![(1000, 1500)];
    let mut by_cause = [0; crate::event::Cause::COUNT];
    by_cause[crate::event::Cause::Evict.index()] = 3;
    by_cause[crate::event::Cause::CreateQueue.index()] = 12;
    row.usage = Some(crate::model::Usage {
        preemptions: 15,
        by_cause,
        last_cause: Some((crate::event::Cause::CreateQueue, Some(Pid(200)))),
        ..Default::default()
    });
    row.last_by = Some("serve[200]".to_owned());
    assert_data_eq!(
        screen(&mut state, 80, 40),
        str![[r#"
gpreempt top  1 WARN (f)  1 GPU, 2 processes, 3 queues  1.0 events/s  0 lost
 52a1 gfx942 [|||||||||||||] 24 used 0 free of 24  2 proc  1.0 ops/s  unmap 60µs
 OVERSUBSCRIBED for 14.2s by serve[200] (create_queue): more queues than slots
Queue 52a1:0 of train[100]
  state       mapped
  type        compute, aql packets
  user        0
  container   3f2a9c81d0e7
  cgroup      /kubepods.slice/pod1/cri-containerd-3f2a9c81d0e7.scope
  age         10.0s
  priority    7 of 15, 100 % of the time

Use
  ring        64KiB
  packets     1235637 written, 1235560 read, 77 wait
  rate        123k/s
  depth       ▁▂▂▃▄▅▅▆▇█ max 77
  off the GPU 15 times; 0 % of the last minute
  share off             max 0 %
  each time    ▁▁▁▁▂▂▂▃▃▄▄▅▅▅▆▆▇▇█ max 19ns
  by cause    create_queue 12, evict 3
  last by     serve[200] (create_queue)

Hardware
  doorbell    4096
  mqd         0x8000003000
  wptr        0x7f0000001000
  rptr        0x7f0000001080
  slot        xcc 0 pipe 1 queue 3 vmid 8
  slot        xcc 1 pipe 1 queue 3 vmid 8
  wave save   xcc 0: 500 ticks of the GPU's counter








Esc Back s Slots Up/Down Scroll

"#]]
    );
}

#[test]
fn a_filter_being_typed() {
    let mut state = busy();
    state.act(Action::Filter);
    for c in "serve".chars() {
        state.act(Action::Type(c));
    }
    assert_data_eq!(
        screen(&mut state, 80, 10),
        str![[r#"
gpreempt top  1 WARN (f)  1 GPU, 2 processes, 1 of 3 queues  1.0 events/s
 52a1 gfx942 [|||||||||||||] 24 used 0 free of 24  2 proc  1.0 ops/s  unmap 60µs
 OVERSUBSCRIBED for 14.2s by serve[200] (create_queue): more queues than slots
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
>serve[200]      52a1:0 compute mapped        77    246k     0     0




Filter: serve_  Enter done  Esc clear

"#]]
    );
}

#[test]
fn many_gpus_in_few_lines() {
    let mut machine = Machine::three();
    for gpu_id in 0..8 {
        machine.gpu(GpuId(0x1000 + gpu_id));
    }
    assert_data_eq!(
        screen(&mut state_of(&machine), 80, 14),
        str![[r#"
gpreempt top  9 GPUs, 2 processes, 3 queues  0 lost
 52a1 gfx942 24 slots
 1000 gfx942 24 slots
 1001 gfx942 24 slots
 1002 gfx942 24 slots
 1003 gfx942 24 slots
 and 4 GPUs more; g shows one at a time
 PROCESS[PID]    GPU:Q  TYPE    STATE      DEPTH  RATE/s   PRE OFF%↓ LATENCY
>train[100]      52a1:0 compute mapped         5       -     0     0
 train[100]      52a1:1 compute mapped        50       -     0     0
 serve[200]      52a1:0 compute mapped         1       -     0     0


F1 Help F3 Search F4 Filter F5 Tree F6 Sort I Invert Enter Queue g GPU

"#]]
    );
}

#[test]
fn colours_only_where_they_are_wished() {
    let colours = |ink| {
        let mut state = busy();
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        fit(&mut state, Rect::new(0, 0, 80, 24));
        terminal.draw(|frame| draw(&state, ink, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        buffer.content().iter().any(|cell| cell.fg != Color::Reset)
    };
    assert!(colours(Ink::new(true)));
    assert!(!colours(Ink::new(false)));
}

/// Any key of the keyboard, the ones that mean something more often.
fn any_key() -> impl Strategy<Value = KeyEvent> {
    let code = prop_oneof![
        any::<char>().prop_map(KeyCode::Char),
        prop::sample::select("jkhi?/\\tpgIsf<>+- q".chars().collect::<Vec<_>>())
            .prop_map(KeyCode::Char),
        (0u8..14).prop_map(KeyCode::F),
        prop::sample::select(vec![
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::PageUp,
            KeyCode::PageDown,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Backspace,
            KeyCode::Tab,
        ]),
    ];
    let modifiers = prop_oneof![
        4 => Just(KeyModifiers::NONE),
        1 => Just(KeyModifiers::CONTROL),
        1 => Just(KeyModifiers::SHIFT),
    ];
    (code, modifiers).prop_map(|(code, modifiers)| KeyEvent::new(code, modifiers))
}

#[derive(Clone, Debug)]
enum Step {
    Key(KeyEvent),
    Size(u16, u16),
    Create(u32, u32),
    Destroy(u32, u32),
    Look,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_key().prop_map(Step::Key),
        1 => (1u16..200, 1u16..60).prop_map(|(width, height)| Step::Size(width, height)),
        2 => (1u32..5, 0u32..40).prop_map(|(pid, queue)| Step::Create(pid, queue)),
        1 => (1u32..5, 0u32..40).prop_map(|(pid, queue)| Step::Destroy(pid, queue)),
        2 => Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_keys_at_any_size_are_survived(steps in proptest::collection::vec(any_step(), 0..80)) {
        let mut machine = Machine::idle();
        let mut state = State::default();
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Key(key) => {
                    let _ = keys::action(state.mode, key).and_then(|action| state.act(action));
                }
                Step::Size(width, height) => terminal.backend_mut().resize(width, height),
                Step::Create(pid, queue) => {
                    machine.queue(pid, queue, u64::from(queue) * 7, u64::from(pid));
                }
                Step::Destroy(pid, queue) => {
                    let queue_id = QueueId(queue);
                    machine.event(S, pid, Event::QueueDestroyed { gpu_id: GPU, queue_id });
                    machine.picture.queues.retain(|q| (q.pid, q.queue_id) != (Pid(pid), queue_id));
                }
                Step::Look => machine.looked_at(&mut state, (at as u64 + 2) * S),
            }
            let area = terminal.backend().buffer().area;
            fit(&mut state, area);
            terminal.draw(|frame| draw(&state, Ink::new(true), frame)).unwrap();
            // What is selected is there, and on the screen.
            if let Some(row) = state.selected {
                prop_assert!(state.rows.iter().any(|other| other.key == row));
            }
            prop_assert!(state.top <= state.lines.len());
        }
    }
}
