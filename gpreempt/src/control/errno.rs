// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the errnos of our ioctls mean, and what to do about them.

use nix::errno::Errno;

use super::Refusal;
use crate::kfd::uapi::gpreempt::{state, Entry};

/// Which ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    BatchUnmap,
    FastRemap,
    Reserve,
}

impl Call {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BatchUnmap => "AMDKFD_IOC_BATCH_UNMAP_QUEUES",
            Self::FastRemap => "AMDKFD_IOC_FAST_REMAP",
            Self::Reserve => "AMDKFD_IOC_SET_HQD_RESERVATION",
        }
    }
}

/// An errno as its constant is called.
#[must_use]
pub fn name(errno: Errno) -> String {
    format!("{errno:?}")
}

pub(super) fn refusal(call: Call, errno: Errno, entry: &Entry) -> Refusal {
    let (what, fix) = match errno {
        Errno::ESRCH => (
            "the process has ended, or the pid is another process's by now",
            "select again",
        ),
        Errno::ENXIO => (
            "the process has no GPU context any more: it is exiting, or executed another program",
            "select again",
        ),
        Errno::ENOENT => ("no such queue, or no such GPU for this process", "select again"),
        Errno::EPERM | Errno::EACCES if call == Call::FastRemap => (
            "not permitted: the process is another user's, or somebody else holds it",
            "run as root",
        ),
        Errno::EPERM | Errno::EACCES => (
            "not permitted: the process is another user's",
            "run as that user, as root, or with CAP_SYS_NICE",
        ),
        Errno::EBUSY if call == Call::Reserve => (
            "the process is offline for another reservation",
            "end that one first: `gpreempt reserve --show` names its owner",
        ),
        Errno::EBUSY => (
            "somebody else holds queues of it",
            "wait until they are released, or release them as root: `gpreempt resume --pid`",
        ),
        Errno::EOPNOTSUPP => (
            "this GPU runs without a hardware scheduler",
            "load amdgpu with sched_policy=0",
        ),
        Errno::EIO => ("the GPU is being reset", "try again; the kernel log tells more"),
        Errno::ETIME => (
            "the GPU did not answer in time; the driver resets it, and every GPU process of this host is lost",
            "restart all of them, and read the kernel log",
        ),
        Errno::ENOTRECOVERABLE => (
            "queues of it were lost in a reset of the GPU",
            "restart that process",
        ),
        Errno::ENOMEM => ("the kernel is out of memory", "try again"),
        _ if entry.state & state::RESET != 0 => (
            "queues of it were lost in a reset of the GPU",
            "restart that process",
        ),
        _ => ("the driver refused", "read the kernel log"),
    };
    Refusal {
        call: call.name(),
        errno: Some(errno),
        what: what.to_owned(),
        fix: fix.to_owned(),
    }
}

/// What else keeps queues off the GPU that were released; `None` if some of them run.
pub(super) fn kept_off(found: u32) -> Option<&'static str> {
    let causes = [
        (state::HELD_OTHER, "somebody else holds it"),
        (state::EVICTED, "its memory is evicted"),
        (state::SUSPENDED, "a debugger has suspended it"),
        (state::CAPPED, "a reservation keeps its slots for others"),
    ];
    if found & state::ACTIVE != 0 {
        return None;
    }
    let cause = causes.iter().find(|(bit, _)| found & bit != 0);
    Some(cause.map_or("its owner has set it to 0 %", |(_, cause)| cause))
}

pub(super) fn still_active() -> Refusal {
    Refusal {
        call: Call::BatchUnmap.name(),
        errno: None,
        what: "the driver answered success, but a queue of it is still in the runlist".to_owned(),
        fix: "it was let go; report this with the kernel log".to_owned(),
    }
}
