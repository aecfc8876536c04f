// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured, and which events measure it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::event::{Event, Happening};
use crate::model::Context;

/// A duration. Each says what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The create queue ioctl, lock wait, unmap and map included.
    Create,
    /// The update queue ioctl.
    Update,
    /// The destroy queue ioctl; queues of a process that is torn down have none.
    Destroy,
    /// `unmap_queues_cpsch`: taking a node's runlist off.
    Unmap,
    /// Of that, the time that the hardware scheduler took.
    Fence,
    /// The wait for the lock of a node's scheduler, before an unmap, a hold or a release.
    LockWait,
    /// `map_queues_cpsch`: submitting a runlist.
    Map,
    /// `evict_process_queues_cpsch`: stopping a process on a node.
    Evict,
    /// `restore_process_queues_cpsch`: letting it run again.
    Restore,
    /// From an eviction to the restore that lets the queues run.
    Evicted,
    /// A debugger's suspend, the copies of control stacks included.
    Suspend,
    /// A debugger's resume.
    Resume,
    /// What a patched driver did to hold queues of a process on a node.
    Hold,
    /// What it did to release them.
    Release,
    /// From the first hold of a process on a node to the release of the last.
    Held,
    /// Time off the hardware: from the return of the call that took queues off to the return of the call that submitted them again.
    /// One sample for each runlist that follows another, and one for each process or queue that was off for longer than its node.
    OffHardware,
}

impl Measure {
    /// Every one, in the order in which they are shown.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Create,
        Self::Update,
        Self::Destroy,
        Self::Unmap,
        Self::Fence,
        Self::LockWait,
        Self::Map,
        Self::Evict,
        Self::Restore,
        Self::Evicted,
        Self::Suspend,
        Self::Resume,
        Self::Hold,
        Self::Release,
        Self::Held,
        Self::OffHardware,
    ];

    /// How many there are.
    pub const COUNT: usize = 16;

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Destroy => "destroy",
            Self::Unmap => "unmap",
            Self::Fence => "fence",
            Self::LockWait => "lock wait",
            Self::Map => "map",
            Self::Evict => "evict",
            Self::Restore => "restore",
            Self::Evicted => "evicted",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Held => "held",
            Self::OffHardware => "off hardware",
        }
    }
}

/// What an event measures, with the word for its cause. What was not measured (0) is left out, and so are calls that failed.
pub fn samples(
    happening: &Happening,
    context: &Context,
    each: &mut dyn FnMut(Measure, u64, &'static str),
) {
    let total_ns = happening.total_ns;
    let cause = happening.cause.name();
    let failed = happening.status < 0;
    let mut tell = |measure, ns: u64, why| {
        if ns > 0 && !failed {
            each(measure, ns, why);
        }
    };
    match happening.event {
        Event::QueueCreated { .. } => tell(Measure::Create, total_ns, cause),
        Event::QueueUpdated { .. } => tell(Measure::Update, total_ns, cause),
        Event::QueueDestroyed { .. } => tell(Measure::Destroy, total_ns, cause),
        Event::RunlistUnmapped {
            lock_wait_ns,
            fence_ns,
            ..
        } => {
            tell(Measure::Unmap, total_ns, cause);
            tell(Measure::Fence, fence_ns, cause);
            tell(Measure::LockWait, lock_wait_ns, cause);
        }
        Event::RunlistMapped { .. } => tell(Measure::Map, total_ns, cause),
        Event::ProcessEvicted { reason, .. } => tell(Measure::Evict, total_ns, reason.name()),
        Event::ProcessRestored { .. } => {
            let reason = context.reason.map_or("other", |reason| reason.name());
            tell(Measure::Restore, total_ns, reason);
            tell(Measure::Evicted, context.evicted_ns.unwrap_or(0), reason);
        }
        Event::QueuesSuspended { .. } => tell(Measure::Suspend, total_ns, cause),
        Event::QueuesResumed { .. } => tell(Measure::Resume, total_ns, cause),
        Event::QueuesHeld(hold) => {
            tell(Measure::Hold, total_ns, hold.cause.name());
            tell(Measure::LockWait, hold.lock_wait_ns, hold.cause.name());
        }
        Event::QueuesReleased(hold) => {
            tell(Measure::Release, total_ns, hold.cause.name());
            tell(Measure::LockWait, hold.lock_wait_ns, hold.cause.name());
            tell(
                Measure::Held,
                context.held_ns.unwrap_or(0),
                hold.cause.name(),
            );
        }
        Event::ProcessAttached { .. }
        | Event::ProcessExited { .. }
        | Event::QueueExisting { .. }
        | Event::QueueRejected
        | Event::GpuReset { .. } => {}
    }
    if let Some(off) = context.off {
        tell(Measure::OffHardware, off.ns, off.cause.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_listed_once_in_order() {
        for (at, measure) in Measure::ALL.iter().enumerate() {
            assert_eq!(*measure as usize, at, "{}", measure.name());
        }
    }
}
