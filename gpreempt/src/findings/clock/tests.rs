// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;

use super::*;
use crate::event::{Cause, Pid, UnmapFilter};
use crate::kfd::snapshot::{Queue, State};

const GPU: GpuId = GpuId(0x52a1);
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn picture(saves: &[(u64, u64)]) -> Snapshot {
    Snapshot {
        queues: vec![Queue {
            saves: saves.to_vec(),
            ..Queue::bare(7, GPU, 0, State::Mapped)
        }],
        ..Snapshot::default()
    }
}

fn happening(ts_ns: u64, total_ns: u64, event: Event) -> Happening {
    Happening {
        ts_ns,
        total_ns,
        cause: Cause::Evict,
        status: 0,
        pid: None,
        actor_pid: Pid(9),
        actor_tid: 9,
        event,
    }
}

fn unmap(begin_ns: u64, end_ns: u64) -> Happening {
    let event = Event::RunlistUnmapped {
        gpu_id: GPU,
        filter: UnmapFilter::Dynamic,
        lock_wait_ns: 0,
        fence_ns: 0,
    };
    happening(end_ns, end_ns - begin_ns, event)
}

fn map(ts_ns: u64, oversubscribed: bool) -> Happening {
    let event = Event::RunlistMapped {
        gpu_id: GPU,
        queues: 1,
        cp_queues: 1,
        processes: 1,
        oversubscribed,
    };
    happening(ts_ns, 1000, event)
}

/// What a counter of 100 MHz shows.
fn ticks(ns: u64) -> u64 {
    77 + ns / 10
}

/// A picture each second, and an unmap of a millisecond with a save in each of these, 300 ms after it.
fn watched(seconds: impl Iterator<Item = u64>, saves: &[u64]) -> Clocks {
    let mut clocks = Clocks::default();
    clocks.begin(0);
    let mut last = (0, 0);
    for second in seconds {
        clocks.picture(&picture(&[last]), second * S, second * S + MS);
        if saves.contains(&second) {
            let begin_ns = second * S + 300 * MS;
            clocks.event(&unmap(begin_ns, begin_ns + MS));
            last = (ticks(begin_ns + 100_000), ticks(begin_ns + 500_000));
        }
    }
    clocks.settle();
    clocks
}

#[test]
fn two_saves_are_enough_if_events_say_when_they_were() {
    let clocks = watched(1..=5, &[1, 3]);
    let rate = clocks.rate(GPU).expect("two saves, two seconds apart");
    assert!((rate.hz - 1e8).abs() <= 1e8 * rate.error, "{rate:?}");
    assert!(rate.error < 0.002, "{rate:?}");
    assert_eq!(rate.ns(4890), 48_900);
    assert_eq!(rate.to_string(), "100.0 MHz ±0.2 %");
    assert_eq!(watched(1..=5, &[1]).rate(GPU), None, "one save");
    assert_eq!(watched(1..=5, &[]).rate(GPU), None);
}

#[test]
fn without_events_it_takes_longer() {
    let without = |last| {
        let mut clocks = Clocks::default();
        let saves = [(1, 0), (2, 15 * S / 10), (last, last * S - S / 2)];
        for (second, save_ns) in saves {
            let end = ticks(save_ns);
            clocks.picture(&picture(&[(end - 5, end)]), second * S, second * S);
        }
        clocks.settle();
        clocks.rate(GPU)
    };
    assert_eq!(
        without(10),
        None,
        "some time in eight seconds: that is little"
    );
    let mut clocks = Clocks::default();
    for (second, save_ns) in [
        (1, 0),
        (2, 15 * S / 10),
        (501, 15 * S / 10),
        (502, 5015 * S / 10),
    ] {
        let end = ticks(save_ns);
        clocks.picture(&picture(&[(end - 5, end)]), second * S, second * S);
    }
    clocks.settle();
    let rate = clocks.rate(GPU).expect("500 s apart, to a second");
    assert!((rate.hz - 1e8).abs() <= 1e8 * rate.error, "{rate:?}");
    assert!(rate.error > 0.002, "{rate:?}");
}

#[test]
fn a_lost_event_makes_windows_wide() {
    let mut clocks = Clocks::default();
    clocks.begin(0);
    let node = clocks.watched(GPU);
    node.unmaps.push_back((2 * S, 3 * S));
    assert_eq!(node.narrowed(S, 9 * S), (2 * S, 3 * S));
    clocks.lost(4 * S);
    assert_eq!(clocks.watched(GPU).narrowed(S, 9 * S), (S, 9 * S));
}

#[test]
fn calls_that_reach_into_the_window_count() {
    let mut clocks = Clocks::default();
    clocks.begin(0);
    for (begin, end) in [(1, 2), (4, 6), (7, 8), (9, 12), (13, 14)] {
        clocks.event(&unmap(begin * S, end * S));
    }
    let node = clocks.watched(GPU);
    assert_eq!(node.narrowed(5 * S, 10 * S), (5 * S, 10 * S));
    assert_eq!(node.narrowed(7 * S, 8 * S + 1), (7 * S, 8 * S));
}

#[test]
fn an_oversubscribed_gpu_saves_of_its_own_accord() {
    let mut clocks = Clocks::default();
    clocks.begin(0);
    clocks.event(&map(S, true));
    clocks.event(&unmap(2 * S, 3 * S));
    assert_eq!(clocks.watched(GPU).narrowed(S, 9 * S), (S, 9 * S));
    clocks.event(&map(4 * S, false));
    clocks.event(&unmap(6 * S, 7 * S));
    assert_eq!(clocks.watched(GPU).narrowed(S, 9 * S), (S, 9 * S));
    assert_eq!(clocks.watched(GPU).narrowed(5 * S, 9 * S), (6 * S, 7 * S));
}

#[test]
fn a_counter_that_was_reset_begins_anew() {
    let mut counter = Counter::default();
    let sighting = |ticks, second: u64| Sighting {
        ticks: (ticks, ticks),
        ns: (second * S, second * S + 1000),
    };
    counter.see(sighting(1_000_000_000, 10));
    counter.see(sighting(2_000_000_000, 20));
    assert!(counter.rate().is_some());
    counter.see(sighting(5, 30));
    assert_eq!(counter.rate(), None);
    counter.see(sighting(1_000_000_005, 40));
    let rate = counter.rate().expect("two since the reset");
    assert!((rate.hz - 1e8).abs() <= 1e8 * rate.error, "{rate:?}");
    // Forwards, but not by as much as before.
    counter.see(sighting(1_000_000_006, 50));
    assert_eq!((counter.rate(), counter.sightings.len()), (None, 1));
}

#[test]
fn a_save_that_is_read_half_written_is_not_taken() {
    let mut clocks = Clocks::default();
    for (second, save) in [(1, (0, 0)), (2, (500, 100)), (3, (500, 600))] {
        clocks.picture(&picture(&[save]), second * S, second * S);
    }
    clocks.settle();
    let sightings = &clocks.nodes[&GPU].counter.sightings;
    assert_eq!(sightings.len(), 1);
    assert_eq!(sightings[0].ticks, (600, 600));
}

proptest! {
    /// Whatever the frequency, the load and the moments of pictures: it is within the bounds.
    #[test]
    fn the_truth_is_within_the_bounds(
        khz in 20_000u64..200_000,
        offset in 0u64..1 << 40,
        steps in proptest::collection::vec((1u64..5000, 1u64..2000, 0u64..100, any::<bool>(), any::<bool>()), 3..60),
    ) {
        let counter = |ns: u64| offset + 1 + u64::try_from(u128::from(ns) * u128::from(khz) / 1_000_000).unwrap();
        let mut clocks = Clocks::default();
        let mut now_ns = 1000 * S;
        clocks.begin(now_ns);
        let mut last = (0, 0);
        let mut saves = Vec::new();
        for (pause_ms, took_us, within, looks, saved) in steps {
            now_ns += pause_ms * MS;
            let (begin_ns, end_ns) = (now_ns, now_ns + took_us * 1000);
            let save_ns = begin_ns + took_us * 10 * within;
            if saved {
                last = (counter(begin_ns), counter(save_ns));
                saves.push(save_ns);
            }
            now_ns = end_ns;
            clocks.event(&unmap(begin_ns, end_ns));
            if looks {
                now_ns += MS;
                clocks.picture(&picture(&[last]), now_ns, now_ns + MS / 2);
                now_ns += MS;
            }
        }
        clocks.settle();
        if let Some(rate) = clocks.rate(GPU) {
            let hz = khz as f64 * 1000.0;
            prop_assert!((rate.hz - hz).abs() <= hz * MOST_ERROR * 1.1, "{rate:?} {hz}");
            prop_assert!((rate.hz - hz).abs() <= rate.hz * rate.error + 1.0, "{rate:?} {hz}");
            prop_assert!(saves.len() >= 2);
        }
    }

    #[test]
    fn any_events_and_pictures_are_survived(steps in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<(u64, u64)>(), 0..4u8), 0..200)) {
        let mut clocks = Clocks::default();
        for (a, b, save, what) in steps {
            match what {
                0 => clocks.event(&happening(a, b, unmap(0, 0).event)),
                1 => clocks.event(&map(a, b % 2 == 0)),
                2 => clocks.lost(a),
                _ => clocks.picture(&picture(&[save]), a, b),
            }
            if let Some(rate) = clocks.rate(GPU) {
                prop_assert!(rate.hz > 0.0 && (0.0..=MOST_ERROR).contains(&rate.error));
            }
            let node = clocks.nodes.get(&GPU);
            prop_assert!(node.is_none_or(|node| node.unmaps.len() <= MOST_UNMAPS && node.counter.sightings.len() <= MOST_SIGHTINGS));
        }
    }
}
