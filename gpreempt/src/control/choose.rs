// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which backend, and why not the others. In order of preference: `patched` (the kernel ends the hold with its holder and its lease, no
//! tracing, one runlist update per GPU), `agent` for jobs that have one (the daemon sees to that), `debug-trap` (the kernel ends it with its holder), `criu` (nobody but our supervisor ends
//! it; every GPU of the process is disturbed).

use std::fmt::Write as _;

use nix::errno::Errno;

use super::criu::Criu;
use super::debug_trap::{self, DebugTrap, ENABLE};
use super::dry_run::DryRun;
use super::{check_kfd, patched, Backend, BackendKind, ControlError, Outcome, Refusal};
use crate::kfd::Root;

/// In order of preference.
pub const PREFERENCE: [BackendKind; 3] = [
    BackendKind::Patched,
    BackendKind::DebugTrap,
    BackendKind::Criu,
];

/// What was chosen.
pub struct Choice {
    /// The means.
    pub backend: Box<dyn Backend>,
    /// Why these, and why not those that would have been preferred.
    pub reason: String,
}

/// Chooses a backend, and another one if that turns out not to do.
pub struct Chooser {
    root: Root,
    wanted: Option<BackendKind>,
    rejected: Vec<(BackendKind, ControlError)>,
}

impl Chooser {
    /// Of the backend that was asked for, or of all.
    #[must_use]
    pub fn new(root: &Root, wanted: Option<BackendKind>) -> Self {
        Self {
            root: root.clone(),
            wanted,
            rejected: Vec::new(),
        }
    }

    /// The backend that was asked for, or the first of [`PREFERENCE`] that is usable and was not rejected.
    ///
    /// # Errors
    /// The one asked for cannot be used, or none can.
    pub fn choose(&mut self) -> Result<Choice, ControlError> {
        let root = self.root.clone();
        self.pick(|kind| open(&root, kind))
    }

    fn pick(
        &mut self,
        mut open: impl FnMut(BackendKind) -> Result<Box<dyn Backend>, ControlError>,
    ) -> Result<Choice, ControlError> {
        if let Some(kind) = self.wanted {
            return Ok(Choice {
                backend: open(kind)?,
                reason: "asked for".to_owned(),
            });
        }
        let (backend, kind) = first(&mut self.rejected, &mut open)?;
        Ok(Choice {
            backend,
            reason: reason(kind, &self.rejected),
        })
    }

    /// One that does nothing, in place of the one that [`Chooser::choose`] would choose, as far as that can be known without
    /// opening the device.
    ///
    /// # Errors
    /// As [`Chooser::choose`].
    pub fn dry_run(self) -> Result<Choice, ControlError> {
        let root = self.root.clone();
        let (kind, reason) = self.usable()?;
        Ok(Choice {
            backend: Box::new(DryRun::new(&root, kind)),
            reason: format!("dry run; it would be {kind}: {reason}"),
        })
    }

    /// What [`Chooser::choose`] would choose, and why, as far as that can be known without opening the device.
    ///
    /// # Errors
    /// As [`Chooser::choose`].
    pub fn usable(mut self) -> Result<(BackendKind, String), ControlError> {
        let root = self.root.clone();
        if let Some(kind) = self.wanted {
            check(&root, kind)?;
            return Ok((kind, "asked for".to_owned()));
        }
        let ((), kind) = first(&mut self.rejected, &mut |kind| check(&root, kind))?;
        Ok((kind, reason(kind, &self.rejected)))
    }

    /// Whether another backend could do what this one was refused: a process that debuggers cannot attach to. If so, it is not chosen again.
    pub fn reject(&mut self, kind: BackendKind, outcome: &Outcome) -> bool {
        let Some(refusal) = outcome
            .targets
            .iter()
            .filter_map(|target| target.refusal.as_ref())
            .find(|refusal| self.wanted.is_none() && debuggers_cannot(kind, refusal))
        else {
            return false;
        };
        self.rejected.push((
            kind,
            ControlError::Unavailable {
                what: refusal.what.clone(),
                fix: refusal.fix.clone(),
            },
        ));
        true
    }
}

/// The driver refuses the debugger, not the caller: runtime not enabled, no debugger support, or something else excludes it.
fn debuggers_cannot(kind: BackendKind, refusal: &Refusal) -> bool {
    kind == BackendKind::DebugTrap
        && refusal.call == ENABLE
        && matches!(
            refusal.errno,
            Some(Errno::EPERM | Errno::EBUSY | Errno::ENODEV | Errno::EINVAL)
        )
}

/// The first that can be used. Those that cannot are noted.
fn first<T>(
    rejected: &mut Vec<(BackendKind, ControlError)>,
    usable: &mut impl FnMut(BackendKind) -> Result<T, ControlError>,
) -> Result<(T, BackendKind), ControlError> {
    for kind in PREFERENCE {
        if rejected.iter().any(|(rejected, _)| *rejected == kind) {
            continue;
        }
        match usable(kind) {
            Ok(found) => return Ok((found, kind)),
            Err(error) => rejected.push((kind, error)),
        }
    }
    Err(none(rejected))
}

fn reason(kind: BackendKind, refused: &[(BackendKind, ControlError)]) -> String {
    let mut reason = match kind {
        BackendKind::Patched => "the driver is patched",
        BackendKind::Agent => "the job obeys",
        BackendKind::DebugTrap => "the driver lets debuggers suspend queues",
        BackendKind::Criu => "the driver lets checkpoints pause processes",
        BackendKind::DryRun => "nothing is changed",
    }
    .to_owned();
    for (kind, error) in refused {
        let _ = write!(reason, "; not {kind}: {}", what(error));
    }
    reason
}

/// The cause without the advice, which is for those who asked for that backend.
fn what(error: &ControlError) -> String {
    match error {
        ControlError::Unavailable { what, .. } | ControlError::NoPermission { what, .. } => {
            what.clone()
        }
        ControlError::Failed(error) => format!("{error:#}"),
    }
}

fn none(refused: &[(BackendKind, ControlError)]) -> ControlError {
    let what: Vec<String> = refused
        .iter()
        .map(|(kind, error)| format!("{kind}: {}", what(error)))
        .collect();
    let what = format!("no backend can be used here ({})", what.join("; "));
    // If a permission is all that one lacks, that is what to get.
    for (kind, error) in refused {
        if let ControlError::NoPermission { fix, .. } = error {
            return ControlError::NoPermission {
                what,
                fix: format!("for {kind}, {fix}"),
            };
        }
    }
    ControlError::Unavailable {
        what,
        fix: "load amdgpu with the patches of kernel-patch/, or a kernel with CONFIG_HSA_AMD from Linux 6.5; `gpreempt doctor` \
              shows what is here"
            .to_owned(),
    }
}

/// Why a backend is not usable, as far as that can be known without opening the device.
fn check(root: &Root, kind: BackendKind) -> Result<(), ControlError> {
    match kind {
        BackendKind::Patched => {
            patched::advertised(root)?;
            check_kfd(root)
        }
        BackendKind::DebugTrap => debug_trap::check(root),
        BackendKind::Agent => Err(only_the_daemon()),
        // It opens nothing before it has a target.
        BackendKind::Criu => Criu::new().map(drop),
        BackendKind::DryRun => Ok(()),
    }
}

/// Jobs connect to the daemon, which has them as `agent::Agents`.
fn only_the_daemon() -> ControlError {
    ControlError::Unavailable {
        what: "jobs obey the daemon alone".to_owned(),
        fix: "start jobs by `gpreempt run`, and have `gpreempt ctl hold` ask the daemon".to_owned(),
    }
}

/// Makes a backend usable.
///
/// # Errors
/// Why it is not.
pub fn open(root: &Root, kind: BackendKind) -> Result<Box<dyn Backend>, ControlError> {
    match kind {
        BackendKind::Patched => Ok(Box::new(patched::Patched::new(root)?)),
        BackendKind::Agent => Err(only_the_daemon()),
        BackendKind::DebugTrap => Ok(Box::new(DebugTrap::new()?)),
        BackendKind::Criu => Ok(Box::new(Criu::new()?)),
        BackendKind::DryRun => Ok(Box::new(DryRun::new(root, BackendKind::DebugTrap))),
    }
}

#[cfg(test)]
mod tests;
