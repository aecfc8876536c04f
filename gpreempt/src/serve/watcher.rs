// SPDX-License-Identifier: MIT OR Apache-2.0
//! The events of the driver that matter to the controller, from a thread of their own.

use std::io;
use std::thread;
use std::time::Duration;

use super::controller::Seat;
use crate::control::TargetQueue;
use crate::engine::{self, Host as _, LiveHost, Options};
use crate::event::{Event, GpuId, Happening, Pid, QueueId, ResetPhase};
use crate::kfd::{boottime_ns, module, Root};
use crate::sink::record::{DriverState, Record};
use crate::sink::Sink;
use crate::source::{Attach, Driver, LiveOptions, ProbeSet};

/// Of what happens to processes and queues.
#[derive(Debug)]
pub(super) enum Change {
    /// A process opened /dev/kfd, or executed another program.
    Process(Pid),
    /// It has a queue more.
    Created(Pid, TargetQueue),
    /// It has a queue less.
    Destroyed(Pid, GpuId, QueueId),
    /// It has ended.
    Exited(Pid),
    /// A GPU hangs or is reset.
    Reset(GpuId, ResetPhase),
    /// Events are seen from now on; so many probes are missing.
    Watching(usize),
    /// They are not, and why.
    Blind(String),
    /// So many were lost in all.
    Lost(u64),
}

/// How often it is looked whether events were lost and whether the driver is still there.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// What the daemon hears of is rare, and what is lost is made up by a scan.
const RING_BYTES: u32 = 128 << 10;

/// Between two tries to attach.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Starts the thread. It ends when the controller has.
pub(super) fn start(root: &Root, seat: Seat) -> io::Result<()> {
    let root = root.clone();
    let named = thread::Builder::new().name("events".to_owned());
    named.spawn(move || loop {
        let why = watch(&root, &seat);
        if !now(&seat, Change::Blind(why)) {
            return;
        }
        thread::sleep(AGAIN_AFTER);
    })?;
    Ok(())
}

/// False if the controller has ended.
fn now(seat: &Seat, change: Change) -> bool {
    seat.happened(boottime_ns(), std::iter::once(change))
}

/// Watches until something ends it: why.
fn watch(root: &Root, seat: &Seat) -> String {
    let live = LiveOptions {
        probes: ProbeSet::Daemon,
        ring_bytes: RING_BYTES,
        ..LiveOptions::default()
    };
    let host = LiveHost::new(root.clone(), live, Attach::Auto);
    if host.driver() == Driver::Absent {
        // The controller may have ended: the watch will see that.
        now(seat, Change::Blind(module::absent(root).why));
    }
    let options = Options {
        wait: true,
        unsignalled: true,
        raw: true,
        tick: Some(LOOK_AROUND),
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let mut sinks: [Box<dyn Sink>; 1] = [Box::new(Listener::new(seat.clone()))];
    match runtime {
        Ok(runtime) => {
            // What it would tell people is told by `status`.
            let mut say = |_: &str| {};
            let watched = engine::watch(&host, options, &mut sinks, &mut say);
            match runtime.block_on(watched) {
                Ok(_) => "the watch ended".to_owned(),
                Err(error) => error.to_string(),
            }
        }
        Err(error) => error.to_string(),
    }
}

/// Collects what is read at a time, which is one event mostly, and has the controller act on it.
struct Listener {
    seat: Seat,
    /// When the first of them happened.
    since_ns: u64,
    changes: Vec<Change>,
}

impl Listener {
    fn new(seat: Seat) -> Self {
        Self {
            seat,
            since_ns: 0,
            changes: Vec::new(),
        }
    }

    fn note(&mut self, ns: u64, change: Change) {
        if self.changes.is_empty() {
            self.since_ns = ns;
        }
        self.changes.push(change);
    }
}

impl Sink for Listener {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        let change = match record {
            Record::Startup(startup) => Change::Watching(startup.probes_missed),
            Record::Driver(change) => match change.state {
                DriverState::Gone => Change::Blind("the driver was unloaded".to_owned()),
                _ => Change::Watching(change.probes_missed.unwrap_or(0)),
            },
            Record::Lost(lost) => Change::Lost(lost.total),
            _ => return Ok(()),
        };
        self.note(boottime_ns(), change);
        Ok(())
    }

    fn raw(&mut self, happening: &Happening) -> io::Result<()> {
        if let Some(change) = change(happening) {
            self.note(happening.ts_ns, change);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.changes.is_empty() || self.seat.happened(self.since_ns, self.changes.drain(..)) {
            return Ok(());
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// What an event changes for the controller.
fn change(happening: &Happening) -> Option<Change> {
    if let Event::GpuReset { gpu_id, phase, .. } = happening.event {
        return Some(Change::Reset(gpu_id, phase));
    }
    let pid = happening.pid?;
    match happening.event {
        Event::ProcessAttached { .. } => Some(Change::Process(pid)),
        Event::ProcessExited { .. } => Some(Change::Exited(pid)),
        Event::QueueCreated {
            gpu_id,
            queue_id,
            queue_type,
            ..
        } => {
            let queue = TargetQueue {
                gpu_id,
                queue_id,
                queue_type,
            };
            Some(Change::Created(pid, queue))
        }
        Event::QueueDestroyed {
            gpu_id, queue_id, ..
        } => Some(Change::Destroyed(pid, gpu_id, queue_id)),
        _ => None,
    }
}
