// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rig of a real machine: backends, the observer that looks at what they did, and the reasons to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::record::Operation;
use super::run::{Cycle, End, Rig, Seen};
use crate::control::lease::Guard;
use crate::control::observe::{Action, Call, CallKind, How, Observation, Observer};
use crate::control::{Backend, BackendKind, ControlError, HoldOptions, Outcome, Target};
use crate::event::{GpuId, Pid};
use crate::kfd::{process, Root};

/// How long to look for what the driver reported done.
const LOOK: Duration = Duration::from_secs(1);

/// What ends a run from outside: a signal's number.
pub type Stop<'a> = dyn FnMut() -> Option<i32> + 'a;

/// Makes a backend.
pub type Open<'a> = dyn FnMut(BackendKind) -> Result<Box<dyn Backend>, ControlError> + 'a;

/// Tells which of how many rounds begins, and how long the rest takes about.
pub type Tell<'a> = dyn FnMut(u32, u32, Option<Duration>) + 'a;

/// A real machine. Dropping it restarts whatever is held.
pub struct Machine<'a> {
    root: Root,
    job: Vec<Target>,
    backends: BTreeMap<BackendKind, Opened>,
    guard: Box<dyn Guard>,
    observer: Observer,
    options: HoldOptions,
    began: Option<Instant>,
    timed_out: Option<String>,
    open: Box<Open<'a>>,
    stop: Box<Stop<'a>>,
    tell: Box<Tell<'a>>,
}

/// A backend and the processes that it has met since it was opened.
struct Opened {
    backend: Box<dyn Backend>,
    met: BTreeSet<Pid>,
}

impl<'a> Machine<'a> {
    /// For this job. `open` makes a backend, as often as one is needed.
    pub fn new(
        root: Root,
        job: Vec<Target>,
        guard: Box<dyn Guard>,
        observer: Observer,
        options: HoldOptions,
        open: Box<Open<'a>>,
    ) -> Self {
        Self {
            root,
            job,
            backends: BTreeMap::new(),
            guard,
            observer,
            options,
            began: None,
            timed_out: None,
            open,
            stop: Box::new(|| None),
            tell: Box::new(|_, _, _| {}),
        }
    }

    /// Asks this before each stop whether a signal came.
    #[must_use]
    pub fn stopping(mut self, stop: Box<Stop<'a>>) -> Self {
        self.stop = stop;
        self
    }

    /// Tells this before each round.
    #[must_use]
    pub fn telling(mut self, tell: Box<Tell<'a>>) -> Self {
        self.tell = tell;
        self
    }

    /// Before anything is stopped by means that the kernel does not undo in every case.
    fn watch(&mut self, backend: BackendKind, targets: &[Target]) -> Result<(), ControlError> {
        if traces(backend) {
            for target in targets {
                self.guard.watch(target.pid, target.start_ticks, backend)?;
            }
        }
        Ok(())
    }

    fn opened(&mut self, kind: BackendKind) -> Result<&mut Opened, ControlError> {
        if !self.backends.contains_key(&kind) {
            let backend = (self.open)(kind)?;
            let met = BTreeSet::new();
            self.backends.insert(kind, Opened { backend, met });
        }
        self.backends.get_mut(&kind).ok_or_else(|| {
            ControlError::Failed(anyhow::anyhow!("the {kind} backend could not be kept"))
        })
    }
}

fn forget(guard: &mut dyn Guard, targets: &[Target]) {
    for target in targets {
        guard.forget(target.pid);
    }
}

/// Whether a backend traces its targets, of which only one at a time can.
fn traces(kind: BackendKind) -> bool {
    matches!(kind, BackendKind::DebugTrap | BackendKind::Criu)
}

impl Rig for Machine<'_> {
    /// Others must not trace the job meanwhile, both because there can be one tracer and because a process with a debugger
    /// attached is not what the others are to be measured on.
    fn ready(&mut self, backend: BackendKind, targets: &[Target]) -> Result<(), ControlError> {
        self.backends
            .retain(|kind, _| *kind == backend || !traces(*kind));
        self.guard.beat()?;
        self.watch(backend, targets)?;
        let options = self.options;
        let opened = self.opened(backend)?;
        let strangers = targets
            .iter()
            .any(|target| !opened.met.contains(&target.pid));
        if traces(backend) && strangers {
            // Attaches. What goes wrong goes wrong again when it is measured, and is told then.
            let _ = opened.backend.preempt(targets, &options);
            opened.backend.resume_all()?;
        }
        opened.met.extend(targets.iter().map(|target| target.pid));
        Ok(())
    }

    fn act(
        &mut self,
        backend: BackendKind,
        operation: Operation,
        targets: &[Target],
    ) -> Result<Outcome, ControlError> {
        let options = self.options;
        self.guard.beat()?;
        let opened = self.opened(backend)?;
        match operation {
            Operation::Preempt => opened.backend.preempt(targets, &options),
            Operation::Resume => opened.backend.resume(targets),
        }
    }

    fn release(&mut self, backend: BackendKind) -> Result<(), ControlError> {
        if let Some(mut opened) = self.backends.remove(&backend) {
            // Dropped after that, which is the second try.
            let outcome = opened.backend.resume_all()?;
            let stopped = outcome.targets.iter().find_map(|target| {
                let refusal = target.refusal.as_ref()?;
                let alive = self.job.iter().any(|t| {
                    t.pid == target.pid && process::is_alive(&self.root, t.pid, t.start_ticks)
                });
                alive.then(|| anyhow::anyhow!("process {}: {refusal}", target.pid))
            });
            if let Some(error) = stopped {
                return Err(error.into());
            }
        }
        forget(self.guard.as_mut(), &self.job);
        Ok(())
    }

    fn begin(&mut self) {
        self.observer.begin();
    }

    fn seen(&mut self, operation: Operation, targets: &[Target]) -> Seen {
        let action = match operation {
            Operation::Preempt => Action::Stopped,
            Operation::Resume => Action::Running,
        };
        let observation = self.observer.confirm(action, targets, LOOK);
        if operation == Operation::Resume {
            // The driver answered for all of them.
            forget(self.guard.as_mut(), targets);
        }
        let timeout = -(Errno::ETIME as i32);
        if observation.calls.iter().any(|call| call.status == timeout) {
            self.timed_out = Some("the driver's unmap ended with ETIME".to_owned());
        }
        of(&observation, self.observer.how())
    }

    fn pause(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn stop(&mut self) -> Option<End> {
        if let Some(what) = self.timed_out.take() {
            return Some(End::TimedOut(what));
        }
        if let Some(signal) = (self.stop)() {
            return Some(End::Signal(signal));
        }
        let gone = self
            .job
            .iter()
            .find(|target| !process::is_alive(&self.root, target.pid, target.start_ticks))?;
        Some(End::JobGone(gone.pid))
    }

    fn progress(&mut self, round: u32, rounds: u32) {
        let began = *self.began.get_or_insert_with(Instant::now);
        let left = began
            .elapsed()
            .checked_div(round)
            .and_then(|each| each.checked_mul(rounds - round));
        (self.tell)(round, rounds, left);
    }
}

fn of(observation: &Observation, source: How) -> Seen {
    let calls = &observation.calls;
    let parts = parts(calls);
    Seen {
        confirmed: (observation.how != How::Driver).then_some(observation.confirmed),
        lock_wait_ns: parts.and_then(|(lock_wait_ns, _)| lock_wait_ns),
        hw_ns: parts.map(|(_, hw_ns)| hw_ns),
        cycles: (source == How::Events).then(|| cycles(calls)),
    }
}

/// Time in which the hardware worked on any of the calls, and time in which any of them waited for a lock and no hardware
/// worked. Threads of a backend that act on several processes at once wait for each other's turn at the hardware: adding their
/// waits up would count that time twice. The wait is not known where the driver takes the lock in a function that cannot be
/// probed (`suspend_queues`, Linux 6.12: a wait of 0), nor where nothing was taken off. `None` of no calls, which says nothing.
fn parts(calls: &[Call]) -> Option<(Option<u64>, u64)> {
    if calls.is_empty() {
        return None;
    }
    let unmaps = || calls.iter().filter(|call| call.kind == CallKind::Unmapped);
    let fences: Vec<_> = unmaps()
        .map(|call| before(call.ts_ns, call.hw_ns))
        .collect();
    let waits =
        unmaps().map(|call| before(call.ts_ns.saturating_sub(call.total_ns), call.lock_wait_ns));
    let busy = covered(&fences);
    let either = covered(&waits.chain(fences).collect::<Vec<_>>());
    let told = unmaps().next().is_some() && unmaps().all(|call| call.lock_wait_ns > 0);
    Some((told.then_some(either - busy), busy))
}

/// The time before a moment.
fn before(end_ns: u64, length_ns: u64) -> (u64, u64) {
    (end_ns.saturating_sub(length_ns), end_ns)
}

/// Length of the union of spans of time.
fn covered(spans: &[(u64, u64)]) -> u64 {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    let mut covered = 0;
    let mut until = 0;
    for (from, to) in sorted {
        covered += to.saturating_sub(from.max(until));
        until = until.max(to);
    }
    covered
}

/// Pairs of unmap and map on the same node. An unmap that no map follows left nobody behind who could be disturbed.
fn cycles(calls: &[Call]) -> Vec<Cycle> {
    let mut off: BTreeMap<GpuId, u64> = BTreeMap::new();
    let mut cycles = Vec::new();
    for call in calls {
        match call.kind {
            CallKind::Unmapped => {
                off.insert(call.gpu_id, call.ts_ns.saturating_sub(call.hw_ns));
            }
            CallKind::Mapped => {
                if let Some(since) = off.remove(&call.gpu_id) {
                    cycles.push(Cycle {
                        gpu_id: call.gpu_id,
                        off_ns: call.ts_ns.saturating_sub(since),
                    });
                }
            }
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Cause;

    fn call(kind: CallKind, gpu: u32, ts_ns: u64, hw_ns: u64) -> Call {
        Call {
            ts_ns,
            kind,
            gpu_id: GpuId(gpu),
            cause: Cause::Suspend,
            pid: None,
            lock_wait_ns: 0,
            hw_ns,
            total_ns: hw_ns,
            status: 0,
        }
    }

    #[test]
    fn waiting_for_our_own_turn_is_no_wait_for_a_lock() {
        // Two threads at once: the second waits while the hardware works for the first, after 10 of waiting for somebody else.
        let first = Call {
            lock_wait_ns: 1,
            total_ns: 100,
            ..call(CallKind::Unmapped, 1, 1110, 100)
        };
        let second = Call {
            lock_wait_ns: 120,
            total_ns: 100,
            ..call(CallKind::Unmapped, 1, 1215, 100)
        };
        // Waits from 995 to 1115; the hardware works from 1010 to 1110 and from 1115 to 1215.
        assert_eq!(parts(&[first, second]), Some((Some(20), 200)));
        let not_told = Call {
            lock_wait_ns: 0,
            ..second
        };
        assert_eq!(parts(&[first, not_told]), Some((None, 200)));
        assert_eq!(parts(&[call(CallKind::Mapped, 1, 5, 0)]), Some((None, 0)));
        assert_eq!(parts(&[]), None);
    }

    #[test]
    fn off_is_from_unmap_sent_to_submitted() {
        use CallKind::{Mapped, Unmapped};
        let calls = [
            call(Unmapped, 1, 1000, 300),
            call(Unmapped, 2, 1100, 50),
            call(Mapped, 1, 1200, 0),
            call(Unmapped, 1, 2000, 100),
            call(Mapped, 1, 2010, 0),
            call(Mapped, 1, 2500, 0),
        ];
        let cycle = |off_ns| Cycle {
            gpu_id: GpuId(1),
            off_ns,
        };
        assert_eq!(cycles(&calls), [cycle(500), cycle(110)]);
    }
}
