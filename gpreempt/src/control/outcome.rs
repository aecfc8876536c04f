// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a stop or a restart did, as far as the driver answered.

use nix::errno::Errno;

use super::debug_trap::ENABLE;
use crate::event::{GpuId, Pid, QueueId};

/// Of one call of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One for each process and, where single queues were named, for each of these.
    pub targets: Vec<TargetOutcome>,
    /// Longest wait for a GPU's scheduler lock, if the backend tells.
    pub lock_wait_ns: Option<u64>,
    /// Longest time a GPU took to answer, if the backend tells.
    pub hw_ns: Option<u64>,
    /// From before the first call into the kernel to after the last one, in user space.
    pub total_ns: u64,
}

/// One process, or one queue of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetOutcome {
    /// The process.
    pub pid: Pid,
    /// Set where a single queue was named.
    pub queue: Option<(GpuId, QueueId)>,
    /// Queues of it that are now stopped (or now run again).
    pub queues: u32,
    /// Of these, queues that this call stopped (or let go); the others were so before.
    pub changed: u32,
    /// Why it could not be done.
    pub refusal: Option<Refusal>,
    /// Restarted as far as this is ours: what else keeps its queues off the GPU, if the driver told.
    pub kept_off: Option<&'static str>,
}

/// Why one target was refused. The others are not concerned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {what}; {fix}")]
pub struct Refusal {
    /// Name of the call that failed: `AMDKFD_IOC_DBG_TRAP SUSPEND_QUEUES`, `ptrace SEIZE`.
    pub call: &'static str,
    /// Its errno, if it has one.
    pub errno: Option<Errno>,
    /// What that means here.
    pub what: String,
    /// What the user can do.
    pub fix: String,
}

/// What a refused target would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// More rights.
    Permission,
    /// Another driver, GPU or backend.
    Feature,
    /// Something else, mostly another moment.
    Other,
}

impl Refusal {
    /// What it would take.
    #[must_use]
    pub fn lack(&self) -> Lack {
        match self.errno {
            // The debugger is refused, not the caller: `kfd_dbg_trap_enable` is EPERM where the runtime is not enabled.
            Some(Errno::EPERM | Errno::ENODEV | Errno::EINVAL) if self.call == ENABLE => {
                Lack::Feature
            }
            Some(Errno::EPERM | Errno::EACCES) => Lack::Permission,
            Some(Errno::EOPNOTSUPP) => Lack::Feature,
            _ => Lack::Other,
        }
    }
}

impl Outcome {
    /// What it would take if nothing could be done, and all for the same reason.
    #[must_use]
    pub fn lack(&self) -> Lack {
        let mut lacks = self
            .targets
            .iter()
            .filter_map(|target| target.refusal.as_ref())
            .map(Refusal::lack);
        match lacks.next() {
            Some(first) if lacks.all(|lack| lack == first) => first,
            _ => Lack::Other,
        }
    }

    /// Whether every target was done.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.targets.iter().all(|target| target.refusal.is_none())
    }

    /// Whether the GPU did not answer in time, which ends all preemption: every KFD process of the host is lost.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.targets.iter().any(|target| {
            target
                .refusal
                .as_ref()
                .is_some_and(|refusal| refusal.errno == Some(Errno::ETIME))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(call: &'static str, errno: Errno) -> TargetOutcome {
        TargetOutcome {
            pid: Pid(1),
            queue: None,
            queues: 0,
            changed: 0,
            refusal: Some(Refusal {
                call,
                errno: Some(errno),
                what: String::new(),
                fix: String::new(),
            }),
            kept_off: None,
        }
    }

    #[test]
    fn what_is_lacking_is_told_if_it_is_the_same_for_all() {
        let lack = |targets: &[TargetOutcome]| {
            Outcome {
                targets: targets.to_vec(),
                ..Outcome::default()
            }
            .lack()
        };
        let foreign = refused("ptrace SEIZE", Errno::EPERM);
        let not_enabled = refused(ENABLE, Errno::EPERM);
        let no_hws = refused("AMDKFD_IOC_BATCH_UNMAP_QUEUES", Errno::EOPNOTSUPP);
        let ended = refused("ptrace SEIZE", Errno::ESRCH);
        assert_eq!(lack(&[foreign.clone(), foreign.clone()]), Lack::Permission);
        assert_eq!(lack(&[not_enabled, no_hws]), Lack::Feature);
        assert_eq!(lack(&[foreign, ended.clone()]), Lack::Other);
        assert_eq!(lack(&[ended]), Lack::Other);
        assert_eq!(lack(&[]), Lack::Other);
    }
}
