// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments that `preempt`, `resume` and `reserve` share.

use std::time::Duration;

use super::output::Format;
use super::{Exit, Failure};
use crate::control::select::{self, CgroupGlob, Only, QueueArg, SelectError, Selector};
use crate::control::{BackendKind, ControlError, Lack, Outcome, Target};
use crate::event::{GpuId, Pid};
use crate::kfd::name::{CommGlob, GpuArg};
use crate::kfd::Root;

/// Shortest lease: a holder on a busy machine must be able to renew it.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
/// Longest lease, the kernel's limit (`KFD_GPREEMPT_MAX_MS`).
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

const HEADING: &str = "Selectors (several: all that any of them names)";

/// Whom.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Selectors {
    /// A process, with the queues that it creates later
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = select::pid_arg, help_heading = HEADING)]
    pid: Vec<Pid>,
    /// A queue: process, gpu_id, queue id, as in 1234:52a1:0
    #[arg(long, value_name = "PID:GPU:QUEUE", value_delimiter = ',', help_heading = HEADING)]
    queue: Vec<QueueArg>,
    /// Every KFD process in a cgroup whose path matches, and in those below it
    #[arg(long, value_name = "GLOB", help_heading = HEADING)]
    cgroup: Vec<CgroupGlob>,
    /// Every KFD process of this name: *, ? and [...] as in a shell
    #[arg(long, value_name = "GLOB", help_heading = HEADING)]
    comm: Vec<CommGlob>,
}

/// Names of the arguments of [`Selectors`].
pub(super) const SELECTORS: [&str; 4] = ["pid", "queue", "cgroup", "comm"];

impl Selectors {
    pub(super) fn list(&self) -> Vec<Selector> {
        let pids = self.pid.iter().copied().map(Selector::Pid);
        let queues = self.queue.iter().copied().map(Selector::Queue);
        let cgroups = self.cgroup.iter().cloned().map(Selector::Cgroup);
        let comms = self.comm.iter().cloned().map(Selector::Comm);
        pids.chain(queues).chain(cgroups).chain(comms).collect()
    }

    pub(super) fn names_queues(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn resolve(&self, root: &Root, only: Only) -> Result<Vec<Target>, Failure> {
        let targets = select::resolve(root, &self.list(), only)?;
        if targets.is_empty() {
            // All of them ended between being found and being looked at.
            return Err(anyhow::anyhow!(
                "the processes ended while they were selected: nothing to do"
            )
            .into());
        }
        Ok(targets)
    }
}

/// `--gpu` and `--no-sdma`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Restrict {
    /// Only queues on this GPU: gpu_id, hexadecimal as in tables or decimal as in JSON
    #[arg(long, value_name = "GPU_ID")]
    gpu: Option<GpuArg>,
    /// Leave SDMA queues alone: copies go on
    #[arg(long)]
    no_sdma: bool,
}

impl Restrict {
    pub(super) fn only(self, root: &Root) -> Result<Only, Failure> {
        select::check_host(root)?;
        Ok(Only {
            gpu: self.gpu.map(|gpu| gpu_id(root, gpu)).transpose()?,
            no_sdma: self.no_sdma,
        })
    }
}

pub(super) fn gpu_id(root: &Root, gpu: GpuArg) -> Result<GpuId, Failure> {
    Ok(select::gpu(root, gpu)?)
}

/// `--backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum WantedBackend {
    /// The best of the others that works here
    #[default]
    Auto,
    /// Our ioctls, on a patched driver
    Patched,
    /// Suspend as a debugger does (Linux 6.5)
    DebugTrap,
    /// Pause as a checkpoint does (Linux 5.18): whole processes, on every GPU
    Criu,
}

impl WantedBackend {
    pub(super) fn kind(self) -> Option<BackendKind> {
        match self {
            Self::Auto => None,
            Self::Patched => Some(BackendKind::Patched),
            Self::DebugTrap => Some(BackendKind::DebugTrap),
            Self::Criu => Some(BackendKind::Criu),
        }
    }
}

/// `--format`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Output {
    /// How it is reported: for people, or one object a line for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
}

/// A plain number is seconds.
pub(super) fn lease(text: &str) -> Result<Duration, String> {
    let lease = super::watch::duration(text)?;
    if (SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease) {
        return Ok(lease);
    }
    Err("expected 100ms to 1h".to_owned())
}

/// How the program ends when nothing could be done.
pub(super) fn refused(outcome: &Outcome) -> Exit {
    match outcome.lack() {
        Lack::Permission => Exit::NoPermission,
        Lack::Feature => Exit::Unavailable,
        Lack::Other => Exit::Failed,
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Unavailable { .. } => Self::new(Exit::Unavailable, error),
            ControlError::NoPermission { .. } => Self::new(Exit::NoPermission, error),
            // Its own chain, which it would show a second time as its source.
            ControlError::Failed(error) => Self::new(Exit::Failed, error),
        }
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Control(error) => error.into(),
            // What no machine could satisfy.
            SelectError::Myself { .. }
            | SelectError::LeftOut { .. }
            | SelectError::AmbiguousGpu { .. } => Self::new(Exit::Usage, error),
            _ => Self::new(Exit::Failed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_have_limits() {
        assert_eq!(lease("5"), Ok(Duration::from_secs(5)));
        assert_eq!(lease("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(lease("1h"), Ok(LONGEST_LEASE));
        for wrong in ["0", "99ms", "3601", "", "-1", "for ever"] {
            assert!(lease(wrong).is_err(), "{wrong}");
        }
    }
}
