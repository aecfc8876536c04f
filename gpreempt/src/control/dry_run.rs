// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells what would be done and changes nothing. A patched driver is asked to check every target (`KFD_GPREEMPT_DRY_RUN`); for
//! the other means, what can be known without stopping anything is looked up in procfs.

use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use nix::errno::Errno;

use super::patched::Patched;
use super::{
    why, Backend, BackendKind, ControlError, HoldOptions, Outcome, Refusal, Target, TargetOutcome,
};
use crate::kfd::{process, Root};

/// The backend.
pub struct DryRun {
    root: Root,
    would: BackendKind,
    patched: Option<Patched>,
}

impl DryRun {
    /// As the given means would do it.
    ///
    /// # Errors
    /// The patched driver cannot be opened.
    pub fn new(root: &Root, would: BackendKind) -> Result<Self, ControlError> {
        let patched = match would {
            BackendKind::Patched => Some(Patched::new(root)?.dry_run()),
            _ => None,
        };
        Ok(Self {
            root: root.clone(),
            would,
            patched,
        })
    }

    /// Why a target would be refused, as far as procfs tells.
    fn refusal(&self, target: &Target) -> Option<Refusal> {
        let (root, pid) = (&self.root, target.pid);
        if !process::is_alive(root, pid, target.start_ticks) {
            return Some(why::ended(why::SEIZE, pid));
        }
        // Both stock ways need the caller to be the target's tracer (kfd_ioctl, Linux 6.12).
        if let Some(tracer) = process::tracer(root, pid) {
            return Some(why::traced(root, pid, tracer));
        }
        let owner = std::fs::metadata(root.path(&format!("/proc/{pid}")))
            .ok()?
            .uid();
        let me = nix::unistd::geteuid();
        let foreign = !me.is_root() && owner != me.as_raw();
        foreign.then(|| why::not_traceable(root, pid, Errno::EPERM))
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
        if let Some(patched) = &mut self.patched {
            return patched.preempt(targets, options);
        }
        let started = Instant::now();
        let mut outcomes = Vec::new();
        for target in targets {
            let refusal = self.refusal(target);
            let outcome = |queue, queues| TargetOutcome {
                pid: target.pid,
                queue,
                queues: if refusal.is_none() { queues } else { 0 },
                changed: if refusal.is_none() { queues } else { 0 },
                refusal: refusal.clone(),
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
