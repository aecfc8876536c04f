// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hold that ends whatever happens: by release, by drop (so also when a panic unwinds), and, if this process dies or hangs, by
//! those who watch it: the kernel on a patched driver, a supervisor process otherwise.
//!
//! The holder says that it lives three times a lease: [`Kept::renew`]. Without that the lease ends.

use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::wait::Kept;
use super::{Backend, BackendKind, ControlError, HoldOptions, Outcome, Target, TargetOutcome};
use crate::event::Pid;
use crate::kfd::{process, Root};

/// Renewals in one lease: two may come late or fail before it ends.
const RENEWALS_PER_LEASE: u32 = 3;

/// Who restarts what is held when this process cannot: a supervisor process, or nobody where the kernel does it.
pub trait Guard: Send {
    /// Tells what is about to be stopped.
    ///
    /// # Errors
    /// When the guard is gone. Nothing must be stopped then.
    fn watch(
        &mut self,
        pid: Pid,
        start_ticks: u64,
        backend: BackendKind,
    ) -> Result<(), ControlError>;

    /// Tells that it runs again.
    fn forget(&mut self, pid: Pid);

    /// Says that restarting begins, which may take as long as the driver waits for a GPU.
    fn busy(&mut self) {}

    /// Says that this process lives.
    ///
    /// # Errors
    /// When the guard is gone. What is held must be released then.
    fn beat(&mut self) -> Result<(), ControlError>;
}

/// For backends whose hold the kernel ends with its holder and its lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelGuards;

impl Guard for KernelGuards {
    fn watch(&mut self, _: Pid, _: u64, _: BackendKind) -> Result<(), ControlError> {
        Ok(())
    }

    fn forget(&mut self, _: Pid) {}

    fn beat(&mut self) -> Result<(), ControlError> {
        Ok(())
    }
}

/// Queues that are held. Dropping it restarts them.
pub struct Hold {
    backend: Box<dyn Backend>,
    guard: Box<dyn Guard>,
    targets: Vec<Target>,
    lease: Duration,
    taken: Instant,
    renewed: Instant,
    timed_out: bool,
    active: bool,
}

/// How a hold ended.
#[derive(Debug)]
pub struct Released {
    /// What the backend did.
    pub outcome: Result<Outcome, ControlError>,
    /// How long it was held.
    pub held: Duration,
}

impl Hold {
    /// Stops the targets. What is refused is in the outcome; the rest is held.
    ///
    /// # Errors
    /// Nothing is held: the guard is gone, or no target could be tried.
    pub fn take(
        backend: Box<dyn Backend>,
        guard: Box<dyn Guard>,
        targets: Vec<Target>,
        options: &HoldOptions,
    ) -> Result<(Self, Outcome), ControlError> {
        let mut hold = Self::nothing(backend, guard, options.lease);
        let outcome = hold.add(targets, options)?;
        Ok((hold, outcome))
    }

    /// Holds nothing yet.
    #[must_use]
    pub fn nothing(backend: Box<dyn Backend>, guard: Box<dyn Guard>, lease: Duration) -> Self {
        let now = Instant::now();
        Self {
            backend,
            guard,
            targets: Vec::new(),
            lease,
            taken: now,
            renewed: now,
            timed_out: false,
            active: true,
        }
    }

    /// Stops more targets, or more queues of those that are held. What is refused is in the outcome; the rest is held.
    ///
    /// # Errors
    /// Nothing more is held: the guard is gone, or no target could be tried.
    pub fn add(
        &mut self,
        targets: Vec<Target>,
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError> {
        let kind = self.backend.kind();
        for target in &targets {
            self.guard.watch(target.pid, target.start_ticks, kind)?;
        }
        let before: Vec<Pid> = self.targets.iter().map(|target| target.pid).collect();
        // From here on a panic drops it, which releases.
        self.targets
            .retain(|held| !targets.iter().any(|target| target.pid == held.pid));
        let asked: Vec<Pid> = targets.iter().map(|target| target.pid).collect();
        self.targets.extend(targets.iter().cloned());
        let outcome = match self.backend.preempt(&targets, options) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.keep(|pid| !asked.contains(&pid) || before.contains(&pid));
                return Err(error);
            }
        };
        self.taken = Instant::now();
        // A supervisor is patient from `watch` to here, where calls of the driver wait for the GPU, and no longer.
        self.guard.beat()?;
        // Of a process of which any part is held, all that was asked for stays: releasing what is not held does nothing.
        self.keep(|pid| {
            let of_it = |target: &&TargetOutcome| target.pid == pid && target.refusal.is_none();
            !asked.contains(&pid) || outcome.targets.iter().find(of_it).is_some()
        });
        self.timed_out |= outcome.timed_out();
        Ok(outcome)
    }

    /// Forgets targets that are not held.
    fn keep(&mut self, held: impl Fn(Pid) -> bool) {
        let (stay, go): (Vec<Target>, Vec<Target>) =
            self.targets.drain(..).partition(|target| held(target.pid));
        self.targets = stay;
        for target in go {
            self.guard.forget(target.pid);
        }
    }

    /// Which means hold.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        self.backend.kind()
    }

    /// What is held.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// When the driver had answered that it is held.
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// Whether a GPU did not answer in time. It is reset and every KFD process of the host is lost: no more may be stopped.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// Restarts some of it, for instance what was not seen to stop. What the backend could not restart stays held.
    ///
    /// # Errors
    /// As [`Backend::resume`].
    pub fn let_go(&mut self, targets: &[Target]) -> Result<Outcome, ControlError> {
        self.guard.busy();
        let outcome = self.backend.resume(targets)?;
        self.guard.beat()?;
        let refused = |pid: Pid| {
            let of_it = |target: &&TargetOutcome| target.pid == pid && target.refusal.is_some();
            outcome.targets.iter().find(of_it).is_some()
        };
        let targets: Vec<&Target> = targets
            .iter()
            .filter(|target| !refused(target.pid))
            .collect();
        for gone in &targets {
            for held in &mut self.targets {
                if held.pid == gone.pid && !gone.whole {
                    held.queues.retain(|queue| !gone.queues.contains(queue));
                }
            }
        }
        let gone: Vec<Pid> = self
            .targets
            .iter()
            .filter(|held| {
                let named = targets.iter().any(|gone| gone.pid == held.pid);
                let whole = targets
                    .iter()
                    .any(|gone| gone.pid == held.pid && gone.whole);
                whole || (named && !held.whole && held.queues.is_empty())
            })
            .map(|held| held.pid)
            .collect();
        self.keep(|pid| !gone.contains(&pid));
        Ok(outcome)
    }

    /// Restarts everything. The backend stays attached to the targets until the hold is dropped: detaching changes runlists
    /// too, and whoever measures the restart must not count that.
    pub fn release(&mut self) -> Released {
        let held = self.taken.elapsed();
        Released {
            outcome: self.end(),
            held,
        }
    }

    fn end(&mut self) -> Result<Outcome, ControlError> {
        self.guard.busy();
        let outcome = self.backend.resume_all();
        // A guard that still watches what could not be restarted tries it by its own means.
        if outcome.as_ref().is_ok_and(Outcome::complete) {
            self.active = false;
            self.keep(|_| false);
        }
        outcome
    }
}

impl Kept for Hold {
    fn renewal_due(&self) -> Instant {
        self.renewed + self.lease / RENEWALS_PER_LEASE
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        if self.timed_out {
            return Err(ControlError::Failed(anyhow!(
                "the GPU did not answer in time; nothing more is stopped"
            )));
        }
        self.guard.beat()?;
        self.backend.renew()?;
        self.renewed = Instant::now();
        Ok(())
    }

    fn any_alive(&self, root: &Root) -> bool {
        self.targets
            .iter()
            .any(|target| process::is_alive(root, target.pid, target.start_ticks))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.active {
            // Nobody is left to tell; the backend's own drop and the guard come after this.
            let _ = self.end();
        }
    }
}

#[cfg(test)]
mod tests;
