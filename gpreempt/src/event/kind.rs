// SPDX-License-Identifier: MIT OR Apache-2.0
//! The closed vocabularies of events: their kinds, causes and reasons, named once for every output.

use gpreempt_common::record;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $( $(#[$vdoc:meta])* $variant:ident = $text:literal, )+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
        pub enum $name {
            $( $(#[$vdoc])* #[serde(rename = $text)] #[value(name = $text)] $variant, )+
        }

        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &[Self] = &[$( Self::$variant ),+];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its place in [`Self::ALL`].
            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }

            /// The name that JSON and options use.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }
    };
}

vocabulary! {
    /// What an event is. The names are the `type` of JSON records.
    Kind {
        /// A process opened /dev/kfd.
        ProcessAttached = "process_attached",
        /// A KFD process lost its address space: exit or exec.
        ProcessExited = "process_exited",
        /// A queue that was there at the start.
        QueueExisting = "queue_existing",
        /// A queue was created.
        QueueCreated = "queue_created",
        /// A queue's priority, percentage or ring changed.
        QueueUpdated = "queue_updated",
        /// A queue is gone.
        QueueDestroyed = "queue_destroyed",
        /// Create, update or destroy failed.
        QueueRejected = "queue_rejected",
        /// A node's runlist was taken off the hardware.
        RunlistUnmapped = "runlist_unmapped",
        /// A node's runlist was submitted.
        RunlistMapped = "runlist_mapped",
        /// A process's queues were evicted from a node.
        ProcessEvicted = "process_evicted",
        /// A process's queues were restored on a node.
        ProcessRestored = "process_restored",
        /// A debugger suspended queues.
        QueuesSuspended = "queues_suspended",
        /// A debugger resumed queues.
        QueuesResumed = "queues_resumed",
        /// A GPU hung or was reset.
        GpuReset = "gpu_reset",
        /// Queues of a process on a node were held (patched driver).
        QueuesHeld = "queues_held",
        /// Queues of a process on a node were released (patched driver).
        QueuesReleased = "queues_released",
    }
}

vocabulary! {
    /// Why something happened, as far as the calling thread tells.
    Cause {
        /// A create queue ioctl.
        CreateQueue = "create_queue",
        /// A destroy queue ioctl.
        DestroyQueue = "destroy_queue",
        /// An update queue ioctl.
        UpdateQueue = "update_queue",
        /// Teardown of a process.
        ProcessExit = "process_exit",
        /// An eviction.
        Evict = "evict",
        /// A restore after an eviction.
        Restore = "restore",
        /// A debugger's suspend.
        Suspend = "suspend",
        /// A debugger's resume.
        Resume = "resume",
        /// A debugger attached, detached or changed flags.
        DebugTrap = "debug_trap",
        /// Checkpoint or restore.
        Criu = "criu",
        /// A GPU reset.
        Reset = "reset",
        /// Start or stop of the scheduler.
        Scheduler = "scheduler",
        /// Queues are held; the process is the owner of the hold.
        Hold = "hold",
        /// Held queues are released; the process is the owner of the hold.
        Release = "release",
        /// A reservation parks queues or lets them go; the process is its owner.
        Reserve = "reserve",
        /// Nothing on the thread named a cause.
        Other = "other",
    }
}

impl Cause {
    /// From the number in a record header; numbers of a newer kernel side are `Other`.
    #[must_use]
    pub fn from_raw(raw: u16) -> Self {
        use record::cause as c;
        match raw {
            c::CREATE_QUEUE => Self::CreateQueue,
            c::DESTROY_QUEUE => Self::DestroyQueue,
            c::UPDATE_QUEUE => Self::UpdateQueue,
            c::PROCESS_EXIT => Self::ProcessExit,
            c::EVICT => Self::Evict,
            c::RESTORE => Self::Restore,
            c::SUSPEND => Self::Suspend,
            c::RESUME => Self::Resume,
            c::DEBUG_TRAP => Self::DebugTrap,
            c::CRIU => Self::Criu,
            c::RESET => Self::Reset,
            c::SCHEDULER => Self::Scheduler,
            c::HOLD => Self::Hold,
            c::RELEASE => Self::Release,
            c::RESERVE => Self::Reserve,
            _ => Self::Other,
        }
    }
}

vocabulary! {
    /// Why a process was evicted.
    EvictReason {
        /// Shared virtual memory moved.
        Svm = "svm",
        /// Pages behind a user pointer moved.
        Userptr = "userptr",
        /// The memory manager needed VRAM.
        Ttm = "ttm",
        /// The system or the device suspends.
        Suspend = "suspend",
        /// Checkpoint.
        CriuCheckpoint = "criu_checkpoint",
        /// Restore of a checkpoint.
        CriuRestore = "criu_restore",
        /// A memory fault or a reset evicted it without naming a trigger.
        Untriggered = "untriggered",
        /// A trigger that this version does not know.
        Unknown = "unknown",
    }
}

impl EvictReason {
    /// From the number in a record.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        use record::evict_reason as r;
        match raw {
            r::SVM => Self::Svm,
            r::USERPTR => Self::Userptr,
            r::TTM => Self::Ttm,
            r::SUSPEND => Self::Suspend,
            r::CRIU_CHECKPOINT => Self::CriuCheckpoint,
            r::CRIU_RESTORE => Self::CriuRestore,
            r::UNTRIGGERED => Self::Untriggered,
            _ => Self::Unknown,
        }
    }
}

vocabulary! {
    /// Why queues were held or released.
    HoldCause {
        /// The owner asked for it.
        Ioctl = "ioctl",
        /// A privileged process released what another one held.
        Force = "force",
        /// The lease ended.
        Lease = "lease",
        /// The owner closed its file.
        FdClose = "fd_close",
        /// The owner exited or executed another program.
        OwnerExit = "owner_exit",
        /// A reservation parked queues or let them go.
        Reservation = "reservation",
        /// A queue was created held, because its process is held.
        Inherit = "inherit",
        /// A cause that this version does not know.
        Unknown = "unknown",
    }
}

impl HoldCause {
    /// From the number in a record.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        use record::hold_cause as c;
        match raw {
            c::IOCTL => Self::Ioctl,
            c::FORCE => Self::Force,
            c::LEASE => Self::Lease,
            c::FD_CLOSE => Self::FdClose,
            c::OWNER_EXIT => Self::OwnerExit,
            c::RESERVATION => Self::Reservation,
            c::INHERIT => Self::Inherit,
            _ => Self::Unknown,
        }
    }
}

vocabulary! {
    /// `enum kfd_queue_type`.
    QueueType {
        /// Compute.
        Compute = "compute",
        /// Copy engine.
        Sdma = "sdma",
        /// The driver's own queue to the hardware scheduler.
        Hiq = "hiq",
        /// Debug interface queue.
        Diq = "diq",
        /// Copy engine on the inter-GPU links.
        SdmaXgmi = "sdma_xgmi",
        /// Copy engine chosen by its number (Linux 6.12).
        SdmaByEngine = "sdma_by_engine",
        /// A type that this version does not know.
        Unknown = "unknown",
    }
}

impl QueueType {
    /// From the driver's number (kfd_priv.h, Linux 6.12).
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Compute,
            1 => Self::Sdma,
            2 => Self::Hiq,
            3 => Self::Diq,
            4 => Self::SdmaXgmi,
            5 => Self::SdmaByEngine,
            _ => Self::Unknown,
        }
    }

    /// Whether it runs on a copy engine.
    #[must_use]
    pub fn is_sdma(self) -> bool {
        matches!(self, Self::Sdma | Self::SdmaXgmi | Self::SdmaByEngine)
    }
}

vocabulary! {
    /// `enum kfd_queue_format`.
    QueueFormat {
        /// PM4 packets, the command processor's own.
        Pm4 = "pm4",
        /// AQL packets, of the HSA specification.
        Aql = "aql",
        /// A format that this version does not know.
        Unknown = "unknown",
    }
}

impl QueueFormat {
    /// From the driver's number (kfd_priv.h, Linux 6.12).
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Pm4,
            1 => Self::Aql,
            _ => Self::Unknown,
        }
    }
}

vocabulary! {
    /// `enum kfd_unmap_queues_filter`: which queues an UNMAP_QUEUES packet takes off.
    UnmapFilter {
        /// All, static ones too.
        All = "all",
        /// All that the hardware scheduler placed.
        Dynamic = "dynamic",
        /// Those of one process.
        ByPasid = "by_pasid",
        /// A filter that this version does not know.
        Unknown = "unknown",
    }
}

impl UnmapFilter {
    /// From the driver's number (kfd_priv.h, Linux 6.1 to 7.3).
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::All,
            2 => Self::Dynamic,
            3 => Self::ByPasid,
            _ => Self::Unknown,
        }
    }
}

vocabulary! {
    /// Where a hang or reset stands.
    ResetPhase {
        /// The hardware scheduler stopped answering.
        Hang = "hang",
        /// The reset begins; every process is evicted.
        Pre = "pre",
        /// The reset is over; evicted processes are not restored.
        Post = "post",
        /// A phase that this version does not know.
        Unknown = "unknown",
    }
}

impl ResetPhase {
    /// From the number in a record.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        use record::reset_phase as p;
        match raw {
            p::HANG => Self::Hang,
            p::PRE => Self::Pre,
            p::POST => Self::Post,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_index_their_own_table() {
        for (at, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(kind.index(), at, "{}", kind.name());
        }
    }

    #[test]
    fn serde_and_name_agree() {
        for kind in Kind::ALL {
            assert_eq!(
                serde_json::to_string(kind).unwrap(),
                format!("\"{}\"", kind.name())
            );
        }
    }
}
