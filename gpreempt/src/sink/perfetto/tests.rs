// SPDX-License-Identifier: MIT OR Apache-2.0
//! From events to slices.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::read::{Slice, Trace};
use super::Perfetto;
use crate::event::{
    Cause, Comm, Event, EvictReason, GpuId, Happening, Hold, HoldCause, Pid, QueueFormat, QueueId,
    QueueType, ResetPhase, UnmapFilter,
};
use crate::model::{Limits, Model};
use crate::sink::record::{DriverChange, DriverState, End, Id64, Lost, Record, Startup, Summary};
use crate::sink::Sink as _;

const GPU: GpuId = GpuId(0xcf19);
const LOAD: Pid = Pid(212);

struct Writer {
    sink: Perfetto<Shared>,
    bytes: Shared,
    model: Model,
    last_ns: u64,
}

#[derive(Clone, Default)]
struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Writer {
    fn new() -> Self {
        let bytes = Shared::default();
        let mut writer = Self {
            sink: Perfetto::new(bytes.clone()),
            bytes,
            model: Model::default(),
            last_ns: 0,
        };
        writer.record(&Record::Startup(Box::new(Startup {
            ts_ns: 0,
            unix_ns: Id64(1_700_000_000_000_000_000),
            version: "1".to_owned(),
            schema: 1,
            kernel: "6.12".to_owned(),
            module: "amdgpu".to_owned(),
            module_version: None,
            offsets: "btf".to_owned(),
            ring_bytes: 1,
            probes_attached: 32,
            probes_missed: 0,
            probes: Vec::new(),
            gpus: Vec::new(),
        })));
        writer
    }

    fn record(&mut self, record: &Record) {
        self.sink.record(record).unwrap();
    }

    fn event(&mut self, happening: &Happening) -> &mut Self {
        self.last_ns = self.last_ns.max(happening.ts_ns);
        let context = self.model.apply(happening);
        self.sink
            .unfiltered(happening, &context, &self.model)
            .unwrap();
        self
    }

    fn end(mut self) -> Vec<u8> {
        let summary = Summary {
            ts_ns: self.last_ns + 100,
            duration_ns: self.last_ns,
            end: End::Recording,
            events: Vec::new(),
            shown: 0,
            filtered: 0,
            lost: 0,
            undecoded: 0,
            unmatched: 0,
            read_fault: 0,
        };
        self.record(&Record::Summary(summary));
        let bytes = self.bytes.0.borrow().clone();
        bytes
    }

    fn cut_off(mut self) -> Vec<u8> {
        self.sink.flush().unwrap();
        let bytes = self.bytes.0.borrow().clone();
        bytes
    }
}

fn at(ts_ns: u64, total_ns: u64, cause: Cause, event: Event) -> Happening {
    Happening {
        ts_ns,
        total_ns,
        cause,
        status: 0,
        pid: Some(LOAD),
        actor_pid: LOAD,
        actor_tid: LOAD.0,
        event,
    }
}

fn by(actor: u32, happening: Happening) -> Happening {
    Happening {
        actor_pid: Pid(actor),
        actor_tid: actor,
        ..happening
    }
}

fn comm() -> Comm {
    Comm::from_procfs(b"kfd-load\n")
}

fn created(queue_id: u32) -> Event {
    Event::QueueCreated {
        gpu_id: GPU,
        queue_id: QueueId(queue_id),
        queue_type: QueueType::Compute,
        format: QueueFormat::Aql,
        ring_bytes: 4096,
        priority: 7,
        percent: 100,
        doorbell: 1,
        evicted: false,
        comm: comm(),
    }
}

fn unmapped(lock_wait_ns: u64, fence_ns: u64) -> Event {
    Event::RunlistUnmapped {
        gpu_id: GPU,
        filter: UnmapFilter::Dynamic,
        lock_wait_ns,
        fence_ns,
    }
}

fn mapped(queues: u32, oversubscribed: bool) -> Event {
    Event::RunlistMapped {
        gpu_id: GPU,
        queues,
        cp_queues: queues,
        processes: 1,
        oversubscribed,
    }
}

/// What is on a track, a line for each slice: begin and end in ns, indented by depth.
fn lines(trace: &Trace, track: &str) -> String {
    let mut slices = trace.on(track);
    slices.sort_by_key(|slice| slice.begin_ns);
    let mut text = String::new();
    for slice in slices {
        let Slice {
            begin_ns, end_ns, ..
        } = slice;
        let end = end_ns.map_or("...".to_owned(), |end| end.to_string());
        let indent = "  ".repeat(slice.depth);
        let _ = writeln!(text, "{indent}{begin_ns}-{end} {}", slice.name);
    }
    text
}

/// Two queues, created one after the other.
fn two_queues() -> Writer {
    let mut writer = Writer::new();
    let create = Cause::CreateQueue;
    writer
        .event(&at(110, 10, create, mapped(1, false)))
        .event(&at(120, 40, create, created(0)))
        .event(&at(210, 8, create, unmapped(4, 6)))
        .event(&at(215, 3, create, mapped(2, false)))
        .event(&at(220, 40, create, created(1)));
    writer
}

fn trace(writer: Writer) -> Trace {
    let trace = Trace::read(&writer.end()).unwrap();
    assert!(!trace.is_open());
    trace
}

const QUEUE_0: &str = "GPU cf19 queue 0 (compute)";
const QUEUE_1: &str = "GPU cf19 queue 1 (compute)";

#[test]
fn creating_a_queue_takes_the_others_off() {
    let trace = trace(two_queues());
    assert_eq!(
        lines(&trace, QUEUE_0),
        "110-210 mapped\n210-215 unmapped (create_queue)\n215-320 mapped\n"
    );
    assert_eq!(lines(&trace, QUEUE_1), "215-320 mapped\n");
    assert_eq!(
        lines(&trace, "runlist"),
        "100-110 map (create_queue)\n198-210 unmap (create_queue)\n  198-202 lock wait\n  204-210 fence\n212-215 map (create_queue)\n"
    );
    assert_eq!(
        lines(&trace, "driver calls"),
        "80-120 create queue\n180-220 create queue\n"
    );
    let unmapped = trace.on(QUEUE_0)[1];
    assert_eq!(unmapped.args["by_pid"], "212");
    assert_eq!(unmapped.args["cause"], "create_queue");
    assert_eq!(trace.pid_of(unmapped), Some(212));
}

#[test]
fn a_call_is_joined_with_what_it_did_to_the_runlist() {
    let trace = trace(two_queues());
    let calls = trace.on("driver calls");
    let operations = trace.on("runlist");
    let flows: Vec<u64> = operations
        .iter()
        .filter(|slice| slice.depth == 0)
        .flat_map(|slice| slice.flows.clone())
        .collect();
    assert_eq!(flows.len(), 3);
    assert_eq!(calls[0].flows, flows[..1]);
    assert_eq!(calls[1].flows, flows[1..]);
}

#[test]
fn an_evicted_queue_is_not_mapped_in_between() {
    let mut writer = two_queues();
    let evicted = Event::ProcessEvicted {
        gpu_id: GPU,
        reason: EvictReason::Ttm,
        depth: 1,
    };
    let restored = Event::ProcessRestored {
        gpu_id: GPU,
        depth: 0,
    };
    writer
        .event(&by(9, at(310, 5, Cause::Evict, unmapped(0, 4))))
        .event(&by(9, at(315, 2, Cause::Evict, mapped(1, false))))
        .event(&by(9, at(320, 20, Cause::Evict, evicted)))
        .event(&by(9, at(410, 5, Cause::Restore, unmapped(0, 4))))
        .event(&by(9, at(415, 2, Cause::Restore, mapped(2, false))))
        .event(&by(9, at(420, 20, Cause::Restore, restored)));
    let trace = trace(writer);
    assert_eq!(
        lines(&trace, QUEUE_1),
        "215-310 mapped\n310-315 unmapped (evict)\n315-415 evicted (ttm)\n415-520 mapped\n"
    );
    assert_eq!(
        lines(&trace, "driver calls"),
        "80-120 create queue\n180-220 create queue\n300-320 evict (ttm)\n400-420 restore\n"
    );
}

#[test]
fn a_destroyed_queue_is_not_mapped_in_between() {
    let mut writer = two_queues();
    let destroyed = |queue_id| Event::QueueDestroyed {
        gpu_id: GPU,
        queue_id: QueueId(queue_id),
    };
    writer
        .event(&at(310, 5, Cause::DestroyQueue, unmapped(0, 4)))
        .event(&at(315, 2, Cause::DestroyQueue, mapped(1, false)))
        .event(&at(330, 40, Cause::DestroyQueue, destroyed(1)))
        .event(&at(410, 5, Cause::ProcessExit, unmapped(0, 4)))
        .event(&at(430, 0, Cause::ProcessExit, destroyed(0)));
    let trace = trace(writer);
    assert_eq!(
        lines(&trace, QUEUE_1),
        "215-310 mapped\n310-330 unmapped (destroy_queue)\n"
    );
    assert_eq!(
        lines(&trace, QUEUE_0),
        "110-210 mapped\n210-215 unmapped (create_queue)\n215-310 mapped\n310-315 unmapped (destroy_queue)\n315-410 mapped\n\
         410-430 unmapped (process_exit)\n"
    );
    assert_eq!(lines(&trace, "life"), "430-430 queue torn down\n");
}

#[test]
fn the_driver_does_not_say_which_queues_are_held() {
    let hold = |count, cause| Hold {
        gpu_id: GPU,
        count,
        owner_pid: Some(Pid(300)),
        cause,
        lock_wait_ns: 0,
        hw_ns: 0,
    };
    let mut writer = two_queues();
    writer
        .event(&at(
            300,
            5,
            Cause::Hold,
            Event::QueuesHeld(hold(1, HoldCause::Ioctl)),
        ))
        .event(&at(
            310,
            5,
            Cause::Hold,
            Event::QueuesHeld(hold(1, HoldCause::Ioctl)),
        ))
        .event(&at(
            320,
            5,
            Cause::Release,
            Event::QueuesReleased(hold(2, HoldCause::Lease)),
        ));
    let trace = trace(writer);
    let expected = "215-300 mapped\n300-310 perhaps held\n310-320 held\n320-420 mapped\n";
    assert_eq!(lines(&trace, QUEUE_1), expected);
    let held = trace.on(QUEUE_1)[2];
    assert_eq!(held.args["by_pid"], "300");
}

#[test]
fn inactive_and_suspended_queues() {
    let mut writer = two_queues();
    let updated = |percent| Event::QueueUpdated {
        gpu_id: GPU,
        queue_id: QueueId(1),
        priority: 7,
        percent,
        active: percent > 0,
    };
    let suspended = Event::QueuesSuspended {
        count: 2,
        requested: 2,
    };
    let resumed = Event::QueuesResumed {
        count: 2,
        requested: 0,
    };
    writer
        .event(&at(310, 5, Cause::UpdateQueue, unmapped(0, 4)))
        .event(&at(315, 2, Cause::UpdateQueue, mapped(1, false)))
        .event(&at(320, 30, Cause::UpdateQueue, updated(0)))
        .event(&by(300, at(400, 30, Cause::Suspend, suspended)))
        .event(&by(300, at(500, 30, Cause::Resume, resumed)));
    let trace = trace(writer);
    assert_eq!(
        lines(&trace, QUEUE_1),
        "215-310 mapped\n310-315 unmapped (update_queue)\n315-400 inactive\n400-500 suspended\n500-600 inactive\n"
    );
}

#[test]
fn oversubscription_and_counts() {
    let mut writer = two_queues();
    let limits = Limits {
        slots: Some(24),
        max_processes: None,
    };
    writer.model.set_limits(GPU, limits);
    writer
        .event(&at(310, 5, Cause::Other, mapped(30, true)))
        .event(&at(320, 5, Cause::Other, unmapped(0, 0)))
        .event(&at(330, 5, Cause::Other, mapped(31, true)))
        .event(&at(340, 5, Cause::Other, mapped(2, false)));
    let trace = trace(writer);
    assert_eq!(lines(&trace, "oversubscribed"), "310-340 oversubscribed\n");
    let over = &trace.on("oversubscribed")[0].args;
    assert_eq!(over["rule"], "queues");
    assert_eq!(over["culprit"], "kfd-load[212]");
    assert_eq!(over["compute_queues"], "30");
    let (queues, _) = trace
        .tracks
        .iter()
        .find(|(_, track)| track.name == "queues in runlist")
        .unwrap();
    let counts: Vec<i64> = trace
        .counts
        .iter()
        .filter(|(track, ..)| track == queues)
        .map(|(.., value)| *value)
        .collect();
    assert_eq!(counts, [1, 0, 2, 30, 0, 31, 2]);
}

#[test]
fn overlapping_calls_get_tracks_of_their_own() {
    let mut writer = two_queues();
    // One waits for the lock while the other unmaps.
    writer
        .event(&by(
            1,
            at(1000, 500, Cause::CreateQueue, unmapped(100, 400)),
        ))
        .event(&by(2, at(1500, 400, Cause::Evict, unmapped(700, 300))));
    let trace = trace(writer);
    let tracks: std::collections::BTreeSet<u64> = trace
        .on("runlist")
        .iter()
        .map(|slice| slice.track)
        .collect();
    assert_eq!(tracks.len(), 2);
}

#[test]
fn the_same_events_give_the_same_bytes() {
    assert_eq!(two_queues().end(), two_queues().end());
}

#[test]
fn a_file_that_is_cut_off_shows_what_was_going_on() {
    let trace = Trace::read(&two_queues().cut_off()).unwrap();
    assert!(trace.is_open());
    assert!(lines(&trace, QUEUE_0).ends_with("215-... mapped\n"));
}

#[test]
fn losses_resets_and_an_unloaded_driver() {
    let mut writer = two_queues();
    writer.record(&Record::Lost(Lost {
        ts_ns: 250,
        count: 7,
        total: 7,
    }));
    let reset = |phase| Event::GpuReset { gpu_id: GPU, phase };
    writer
        .event(&at(300, 0, Cause::Reset, reset(ResetPhase::Pre)))
        .event(&at(400, 0, Cause::Reset, reset(ResetPhase::Post)));
    writer.record(&Record::Driver(DriverChange {
        ts_ns: 500,
        state: DriverState::Gone,
        module: None,
        module_version: None,
        probes_attached: None,
        probes_missed: None,
        gpus: Vec::new(),
    }));
    let trace = trace(writer);
    assert_eq!(
        lines(&trace, "gpreempt"),
        "0-0 start\n250-250 records lost\n500-500 driver gone\n500-500 end\n"
    );
    assert_eq!(
        lines(&trace, "resets"),
        "300-300 reset begins\n400-400 reset is over\n"
    );
    assert!(lines(&trace, QUEUE_1).ends_with("215-500 mapped\n"));
}

#[test]
fn names_of_processes_are_escaped() {
    let mut writer = Writer::new();
    writer.event(&at(
        10,
        0,
        Cause::Other,
        Event::ProcessAttached {
            start_boottime_ns: 1,
            cgroup_id: 0,
            ns_pid: None,
            comm: Comm::from_procfs(b"evil\x1b[2J\n"),
        },
    ));
    let trace = trace(writer);
    let process = trace.tracks.values().find(|track| track.pid.is_some());
    assert_eq!(process.unwrap().name, "evil\\x1b[2J");
}

fn any_event() -> impl Strategy<Value = Event> {
    let gpu = prop_oneof![Just(GPU), Just(GpuId(7))];
    let queue = (gpu.clone(), 0..3_u32);
    let hold = (gpu.clone(), 0..4_u32, any::<bool>()).prop_map(|(gpu_id, count, parked)| Hold {
        gpu_id,
        count,
        owner_pid: Some(Pid(300)),
        cause: match parked {
            true => HoldCause::Reservation,
            false => HoldCause::Ioctl,
        },
        lock_wait_ns: 1,
        hw_ns: 1,
    });
    prop_oneof![
        Just(Event::ProcessAttached {
            start_boottime_ns: 1,
            cgroup_id: 0,
            ns_pid: None,
            comm: comm()
        }),
        Just(Event::ProcessExited {
            start_boottime_ns: 1,
            ns_pid: None,
            comm: comm()
        }),
        queue
            .clone()
            .prop_map(|(gpu_id, queue_id)| Event::QueueExisting {
                gpu_id,
                queue_id: QueueId(queue_id),
                queue_type: QueueType::Sdma,
                ring_bytes: 1,
                comm: comm(),
            }),
        queue
            .clone()
            .prop_map(|(gpu_id, queue_id)| match created(queue_id) {
                Event::QueueCreated {
                    queue_id,
                    queue_type,
                    format,
                    ring_bytes,
                    priority,
                    percent,
                    doorbell,
                    evicted,
                    comm,
                    ..
                } => Event::QueueCreated {
                    gpu_id,
                    queue_id,
                    queue_type,
                    format,
                    ring_bytes,
                    priority,
                    percent,
                    doorbell,
                    evicted,
                    comm,
                },
                other => other,
            }),
        (queue.clone(), any::<bool>()).prop_map(|((gpu_id, queue_id), active)| {
            Event::QueueUpdated {
                gpu_id,
                queue_id: QueueId(queue_id),
                priority: 1,
                percent: 1,
                active,
            }
        }),
        queue.prop_map(|(gpu_id, queue_id)| Event::QueueDestroyed {
            gpu_id,
            queue_id: QueueId(queue_id)
        }),
        Just(Event::QueueRejected),
        (gpu.clone(), 0..400_u64, 0..400_u64).prop_map(|(gpu_id, lock_wait_ns, fence_ns)| {
            Event::RunlistUnmapped {
                gpu_id,
                filter: UnmapFilter::All,
                lock_wait_ns,
                fence_ns,
            }
        }),
        (gpu.clone(), any::<bool>()).prop_map(|(gpu_id, oversubscribed)| Event::RunlistMapped {
            gpu_id,
            queues: 2,
            cp_queues: 1,
            processes: 1,
            oversubscribed
        }),
        (gpu.clone(), 0..3_u32).prop_map(|(gpu_id, depth)| Event::ProcessEvicted {
            gpu_id,
            reason: EvictReason::Svm,
            depth
        }),
        (gpu.clone(), 0..2_u32)
            .prop_map(|(gpu_id, depth)| Event::ProcessRestored { gpu_id, depth }),
        (0..4_u32).prop_map(|count| Event::QueuesSuspended {
            count,
            requested: count
        }),
        (0..4_u32).prop_map(|count| Event::QueuesResumed {
            count,
            requested: 0
        }),
        gpu.prop_map(|gpu_id| Event::GpuReset {
            gpu_id,
            phase: ResetPhase::Hang
        }),
        hold.clone().prop_map(Event::QueuesHeld),
        hold.prop_map(Event::QueuesReleased),
    ]
}

prop_compose! {
    fn any_happening()(
        event in any_event(),
        ts_ns in prop_oneof![9 => 1_000..5_000_u64, 1 => any::<u64>()],
        total_ns in prop_oneof![Just(0), 0..2_000_u64, any::<u64>()],
        cause in proptest::sample::select(Cause::ALL),
        status in prop_oneof![4 => Just(0), 1 => Just(-62)],
        pid in prop_oneof![Just(None), Just(Some(LOAD)), Just(Some(Pid(300)))],
        actor in 0..4_u32,
    ) -> Happening {
        Happening { ts_ns, total_ns, cause, status, pid, actor_pid: Pid(actor), actor_tid: actor, event }
    }
}

proptest! {
    /// Whatever comes, in whatever order: [`Trace::read`] finds nothing wrong, nothing stays open, no slice ends before it begins, slices
    /// within others are within their time, and those of one track follow each other.
    #[test]
    fn any_events_make_a_sound_trace(happenings in proptest::collection::vec(any_happening(), 0..120), gone in any::<bool>()) {
        let mut writer = Writer::new();
        for (at, happening) in happenings.iter().enumerate() {
            writer.event(happening);
            if gone && at == 60 {
                writer.record(&Record::Driver(DriverChange {
                    ts_ns: happening.ts_ns,
                    state: DriverState::Gone,
                    module: None,
                    module_version: None,
                    probes_attached: None,
                    probes_missed: None,
                    gpus: Vec::new(),
                }));
            }
        }
        writer.last_ns = writer.last_ns.min(u64::MAX - 100);
        let bytes = writer.end();
        let trace = Trace::read(&bytes);
        prop_assert!(trace.is_ok(), "{trace:?}");
        let trace = trace.unwrap();
        prop_assert!(!trace.is_open());
        let mut last: std::collections::HashMap<(u64, usize), u64> = std::collections::HashMap::new();
        let mut outer: std::collections::HashMap<(u64, usize), (u64, u64)> = std::collections::HashMap::new();
        for slice in &trace.slices {
            let end_ns = slice.end_ns.unwrap();
            prop_assert!(slice.begin_ns <= end_ns);
            let key = (slice.track, slice.depth);
            prop_assert!(last.get(&key).is_none_or(|end_ns| *end_ns <= slice.begin_ns));
            last.insert(key, end_ns);
            outer.insert(key, (slice.begin_ns, end_ns));
            if slice.depth > 0 {
                let (begin_ns, outer_end_ns) = outer[&(slice.track, slice.depth - 1)];
                prop_assert!(begin_ns <= slice.begin_ns && end_ns <= outer_end_ns);
            }
        }
    }

    /// A file that was cut off anywhere is sound up to there.
    #[test]
    fn a_file_cut_off_anywhere_is_sound(cut in 0.0..1.0_f64) {
        let bytes = two_queues().end();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place within the file")]
        let end = (bytes.len() as f64 * cut) as usize;
        let whole = whole_packets(&bytes[..end]);
        prop_assert!(Trace::read(&bytes[..whole]).is_ok());
    }
}

/// Where the last packet ends that is there as a whole.
fn whole_packets(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let mut rest = &bytes[at..];
        let before = rest.len();
        if prost::encoding::decode_key(&mut rest).is_err() {
            return at;
        }
        let Ok(length) = prost::encoding::decode_varint(&mut rest) else {
            return at;
        };
        let length = usize::try_from(length).unwrap();
        if rest.len() < length {
            return at;
        }
        at += before - rest.len() + length;
    }
}
