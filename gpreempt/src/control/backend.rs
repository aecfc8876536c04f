// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contract of all means to stop and restart queues.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::{eaccess, AccessFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Target};
use crate::event::GpuId;
use crate::kfd::{module, uapi, Root};

/// The means there are.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// `AMDKFD_IOC_BATCH_UNMAP_QUEUES` and `AMDKFD_IOC_FAST_REMAP` of a driver with our patches.
    Patched,
    /// `AMDKFD_IOC_UPDATE_QUEUE` by the job itself, which `gpreempt run` started; only the daemon can ask it.
    #[value(skip)]
    Agent,
    /// Suspend and resume by the driver's debugger interface (Linux 6.5).
    DebugTrap,
    /// Pause and unpause by the driver's checkpoint interface (Linux 5.18).
    Criu,
    /// Tells what would be done.
    DryRun,
}

impl BackendKind {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Agent => "agent",
            Self::DebugTrap => "debug-trap",
            Self::Criu => "criu",
            Self::DryRun => "dry-run",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldOptions {
    /// Only queues on this node.
    pub gpu: Option<GpuId>,
    /// Leave SDMA queues alone.
    pub no_sdma: bool,
    /// How long the hold lives without [`Backend::renew`], where the kernel keeps that time.
    pub lease: Duration,
}

/// Why a backend cannot be used at all, or why a whole call failed. What concerns one target is a
/// [`super::Refusal`] of its outcome.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The driver, kernel or GPU lacks what the backend needs.
    #[error("{what}; {fix}")]
    Unavailable {
        /// What is missing.
        what: String,
        /// What the user can do.
        fix: String,
    },
    /// A permission is missing.
    #[error("{what}; {fix}")]
    NoPermission {
        /// Which.
        what: String,
        /// How to get it.
        fix: String,
    },
    /// A call failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// A means to stop and restart queues. Dropping it restarts whatever it still holds.
pub trait Backend: Send {
    /// Which.
    fn kind(&self) -> BackendKind;

    /// Stops queues. Returns when the driver has answered for all targets. Holding what is held already is success with
    /// `changed` 0. A refused target is left as it was before.
    ///
    /// # Errors
    /// When no target could be tried at all; nothing stays stopped by this call then.
    fn preempt(
        &mut self,
        targets: &[Target],
        options: &HoldOptions,
    ) -> Result<Outcome, ControlError>;

    /// Restarts queues that this backend holds. Targets that ended meanwhile are success with no queues.
    ///
    /// # Errors
    /// When no target could be tried at all.
    fn resume(&mut self, targets: &[Target]) -> Result<Outcome, ControlError>;

    /// Restarts everything this backend holds.
    ///
    /// # Errors
    /// As [`Backend::resume`].
    fn resume_all(&mut self) -> Result<Outcome, ControlError>;

    /// Says that the holder lives: the hold's lease begins anew.
    ///
    /// # Errors
    /// When the hold cannot be extended, or is gone.
    fn renew(&mut self) -> Result<(), ControlError>;
}

/// Says why `/dev/kfd` cannot be opened, without opening it: the end of a process that had it open updates the runlist of
/// every GPU (`process_termination_cpsch`, Linux 6.12).
///
/// # Errors
/// As [`open_kfd`], as far as that can be known.
pub fn check_kfd(root: &Root) -> Result<(), ControlError> {
    let wanted = AccessFlags::R_OK | AccessFlags::W_OK;
    match eaccess(&root.path(uapi::DEVICE), wanted) {
        Ok(()) => Ok(()),
        Err(_) => open_kfd(root).map(drop),
    }
}

/// Opens `/dev/kfd`, and says what to do if that cannot be done.
///
/// # Errors
/// No driver, no GPU, no permission, or a reset is going on.
pub fn open_kfd(root: &Root) -> Result<OwnedFd, ControlError> {
    uapi::open(root).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let absent = module::absent(root);
            match module::loaded(root) {
                None => ControlError::Unavailable {
                    what: absent.why,
                    fix: absent.fix,
                },
                Some(_) => ControlError::Unavailable {
                    what: "the driver is loaded, but there is no /dev/kfd here".to_owned(),
                    fix: "in a container, pass it in (docker run --device=/dev/kfd)".to_owned(),
                },
            }
        }
        io::ErrorKind::PermissionDenied => ControlError::NoPermission {
            what: "no permission to open /dev/kfd".to_owned(),
            fix: "run as root, or become a member of the group that owns it (render on most systems)".to_owned(),
        },
        // kfd_create_process of Linux 7.3 refuses where there is no GPU; kfd_open of all versions while one is reset.
        _ if error.raw_os_error() == Some(libc::EINVAL) => ControlError::Unavailable {
            what: "the driver does not let /dev/kfd be opened now: it has no GPU, or a GPU is being reset".to_owned(),
            fix: "`gpreempt doctor` shows the GPUs; try again after the reset".to_owned(),
        },
        _ => ControlError::Failed(anyhow::Error::from(error).context("cannot open /dev/kfd")),
    })
}
