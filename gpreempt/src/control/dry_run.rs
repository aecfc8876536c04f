// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells what would be done and changes nothing: what can be known without opening the device is looked up in sysfs and procfs.
//! That somebody else holds a process on a patched driver cannot be known so.

use std::time::Instant;

use nix::errno::Errno;

use super::errno::{self, Call};
use super::{
    criu, why, Backend, BackendKind, ControlError, HoldOptions, Outcome, Refusal, Target,
    TargetOutcome,
};
use crate::kfd::uapi::gpreempt::Entry;
use crate::kfd::{process, Root};
use crate::source::permission::Capabilities;

/// The backend.
pub struct DryRun {
    root: Root,
    would: BackendKind,
}

impl DryRun {
    /// As the given means would do it.
    #[must_use]
    pub fn new(root: &Root, would: BackendKind) -> Self {
        Self {
            root: root.clone(),
            would,
        }
    }

    /// Why a target would be refused.
    fn refusal(&self, target: &Target, options: &HoldOptions) -> Option<Refusal> {
        let (root, pid) = (&self.root, target.pid);
        let patched = self.would == BackendKind::Patched;
        if !process::is_alive(root, pid, target.start_ticks) {
            return Some(match patched {
                true => errno::refusal(Call::BatchUnmap, Errno::ESRCH, &Entry::default()),
                false => why::ended(why::SEIZE, pid),
            });
        }
        let may = Capabilities::of_this_process();
        if patched {
            let foreign = self.is_foreign(target) && !may.can_hold_all();
            return foreign
                .then(|| errno::refusal(Call::BatchUnmap, Errno::EPERM, &Entry::default()));
        }
        if self.would == BackendKind::Criu {
            if let Some(refusal) = criu::partial(target, options) {
                return Some(refusal);
            }
        }
        // Both stock ways need the caller to be the target's tracer (kfd_ioctl, Linux 6.12).
        if let Some(tracer) = process::tracer(root, pid) {
            return Some(why::traced(root, pid, tracer));
        }
        let foreign = self.is_foreign(target) && !may.can_trace_all();
        foreign.then(|| why::not_traceable(root, pid, Errno::EPERM))
    }

    /// Whether it is another user's.
    fn is_foreign(&self, target: &Target) -> bool {
        process::owner(&self.root, target.pid)
            .is_some_and(|owner| owner != nix::unistd::geteuid().as_raw())
    }
}

impl Backend for DryRun {
    fn kind(&self) -> BackendKind {
        BackendKind::DryRun
    }

    fn preempt(
        &mut self,
        targets: &[Target],
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError> {
        let started = Instant::now();
        let mut outcomes = Vec::new();
        for target in targets {
            let refusal = self.refusal(target, options);
            let outcome = |queue, queues| TargetOutcome {
                pid: target.pid,
                queue,
                queues: if refusal.is_none() { queues } else { 0 },
                changed: if refusal.is_none() { queues } else { 0 },
                refusal: refusal.clone(),
                kept_off: None,
            };
            // CRIU's pause knows whole processes only.
            if target.whole || self.would == BackendKind::Criu {
                let queues = u32::try_from(target.queues.len()).unwrap_or(u32::MAX);
                outcomes.push(outcome(None, queues));
            } else {
                outcomes.extend(
                    target
                        .queues
                        .iter()
                        .map(|queue| outcome(Some((queue.gpu_id, queue.queue_id)), 1)),
                );
            }
        }
        Ok(Outcome {
            targets: outcomes,
            total_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            ..Outcome::default()
        })
    }

    fn resume(&mut self, _: &[Target]) -> Result<Outcome, ControlError> {
        Ok(Outcome::default())
    }

    fn resume_all(&mut self) -> Result<Outcome, ControlError> {
        Ok(Outcome::default())
    }

    fn renew(&mut self) -> Result<(), ControlError> {
        Ok(())
    }
}
