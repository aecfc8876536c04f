// SPDX-License-Identifier: MIT OR Apache-2.0
//! One struct per record kind. A record is a [`Header`] followed by the body that its kind names, of exactly
//! that size, in host byte order. One record is written per probed call, at its return.
//!
//! Every struct derives zerocopy's traits: padding is a compile error, on the BPF target as on the host.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest `comm` of the kernel, NUL included (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

/// A process opened /dev/kfd. `kfd_create_process`.
pub const PROCESS_ATTACHED: u16 = 1;
/// A KFD process lost its address space (exit or exec). `kfd_process_notifier_release`.
pub const PROCESS_EXITED: u16 = 2;
/// A queue exists. `kfd_procfs_add_queue` inside `kfd_ioctl_create_queue`, or CRIU restore.
pub const QUEUE_CREATED: u16 = 3;
/// `kfd_ioctl_update_queue` succeeded.
pub const QUEUE_UPDATED: u16 = 4;
/// A queue is gone. `kfd_procfs_del_queue`, by ioctl or process teardown.
pub const QUEUE_DESTROYED: u16 = 5;
/// A create, update or destroy ioctl failed.
pub const QUEUE_REJECTED: u16 = 6;
/// `unmap_queues_cpsch` that really sent an UNMAP_QUEUES packet.
pub const RUNLIST_UNMAPPED: u16 = 7;
/// `map_queues_cpsch` that really sent a RUN_LIST packet.
pub const RUNLIST_MAPPED: u16 = 8;
/// `evict_process_queues_cpsch`: one process on one node.
pub const PROCESS_EVICTED: u16 = 9;
/// `restore_process_queues_cpsch`: one process on one node.
pub const PROCESS_RESTORED: u16 = 10;
/// `suspend_queues` (debugger API).
pub const QUEUES_SUSPENDED: u16 = 11;
/// `resume_queues` (debugger API).
pub const QUEUES_RESUMED: u16 = 12;
/// `kgd2kfd_pre_reset`, `kgd2kfd_post_reset`, `kfd_hws_hang`.
pub const GPU_RESET: u16 = 13;
/// `kfd_gpreempt_note` of a driver with this project's patches: queues of one process on one node were held.
pub const QUEUES_HELD: u16 = 14;
/// `kfd_gpreempt_note`: queues of one process on one node were released.
pub const QUEUES_RELEASED: u16 = 15;

/// Starts every record. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// CLOCK_BOOTTIME when the record was written, that is at the return of the call.
    pub ts_ns: u64,
    /// Duration of the probed call, entry to return on the same thread; 0 where there is no call to time.
    pub total_ns: u64,
    /// Bytes of the whole record, header included.
    pub len: u16,
    /// One of the kinds above.
    pub kind: u16,
    /// Why: one of [`cause`].
    pub cause: u16,
    /// Zero.
    pub reserved: u16,
    /// Return value of the call: 0 or a negative errno (a count for suspend and resume).
    pub status: i32,
    /// Process (tgid) that the record is about or on whose behalf the runlist changed; 0 = none known.
    pub pid: u32,
    /// Process (tgid) of the thread that made the call.
    pub actor_pid: u32,
    /// Thread that made the call.
    pub actor_tid: u32,
}

/// Why something happened, as far as the calling thread tells.
pub mod cause {
    /// Nothing on this thread named a cause.
    pub const OTHER: u16 = 0;
    /// `kfd_ioctl_create_queue`.
    pub const CREATE_QUEUE: u16 = 1;
    /// `kfd_ioctl_destroy_queue`.
    pub const DESTROY_QUEUE: u16 = 2;
    /// `kfd_ioctl_update_queue`.
    pub const UPDATE_QUEUE: u16 = 3;
    /// Teardown of a process: `process_termination_cpsch`, `kfd_process_wq_release`.
    pub const PROCESS_EXIT: u16 = 4;
    /// `kfd_process_evict_queues`, `evict_process_queues_cpsch`.
    pub const EVICT: u16 = 5;
    /// `kfd_process_restore_queues`, `restore_process_queues_cpsch`.
    pub const RESTORE: u16 = 6;
    /// `suspend_queues`.
    pub const SUSPEND: u16 = 7;
    /// `resume_queues`.
    pub const RESUME: u16 = 8;
    /// Debugger attach, detach and flags: `kfd_ioctl_set_debug_trap`, `kfd_dbg_trap_disable`.
    pub const DEBUG_TRAP: u16 = 9;
    /// `kfd_ioctl_criu`.
    pub const CRIU: u16 = 10;
    /// GPU reset.
    pub const RESET: u16 = 11;
    /// Scheduler start or stop: `start_cpsch`, `stop_cpsch`.
    pub const SCHEDULER: u16 = 12;
    /// `kfd_gpreempt_apply_node` that holds; the process is the owner of the hold.
    pub const HOLD: u16 = 13;
    /// `kfd_gpreempt_apply_node` that releases; the process is the owner of the hold.
    pub const RELEASE: u16 = 14;
    /// `kfd_gpreempt_apply_node` that parks queues for a reservation or lets them go; the process is its owner.
    pub const RESERVE: u16 = 15;
}

/// `kind` of `struct kfd_gpreempt_op` and `struct kfd_gpreempt_note` (kfd_gpreempt.h of the patched driver).
pub mod hold_kind {
    /// Queues are held.
    pub const HOLD: u32 = 1;
    /// Queues are released.
    pub const RELEASE: u32 = 2;
    /// A reservation parks queues and lets them go.
    pub const RESERVE: u32 = 3;
}

/// `cause` of `struct kfd_gpreempt_op` and `struct kfd_gpreempt_note` (kfd_gpreempt.h of the patched driver).
pub mod hold_cause {
    /// The owner asked for it.
    pub const IOCTL: u32 = 0;
    /// A privileged process released what another one held.
    pub const FORCE: u32 = 1;
    /// The lease ended.
    pub const LEASE: u32 = 2;
    /// The owner closed its file.
    pub const FD_CLOSE: u32 = 3;
    /// The owner exited or executed another program.
    pub const OWNER_EXIT: u32 = 4;
    /// A reservation parked queues or let them go.
    pub const RESERVATION: u32 = 5;
    /// A queue was created held, because its process is.
    pub const INHERIT: u32 = 6;
}

/// Reasons of an eviction: `enum KFD_QUEUE_EVICTION_TRIGGERS` of include/uapi/linux/kfd_ioctl.h, plus one.
pub mod evict_reason {
    /// `KFD_QUEUE_EVICTION_TRIGGER_SVM`.
    pub const SVM: u32 = 0;
    /// `KFD_QUEUE_EVICTION_TRIGGER_USERPTR`.
    pub const USERPTR: u32 = 1;
    /// `KFD_QUEUE_EVICTION_TRIGGER_TTM`.
    pub const TTM: u32 = 2;
    /// `KFD_QUEUE_EVICTION_TRIGGER_SUSPEND`.
    pub const SUSPEND: u32 = 3;
    /// `KFD_QUEUE_EVICTION_CRIU_CHECKPOINT`.
    pub const CRIU_CHECKPOINT: u32 = 4;
    /// `KFD_QUEUE_EVICTION_CRIU_RESTORE`.
    pub const CRIU_RESTORE: u32 = 5;
    /// Evicted without `kfd_process_evict_queues`: a VM fault or a reset (`kfd_dqm_evict_pasid`).
    pub const UNTRIGGERED: u32 = u32::MAX;
}

/// Phases of [`GpuReset`].
pub mod reset_phase {
    /// `kfd_hws_hang`: the hardware scheduler stopped answering.
    pub const HANG: u32 = 0;
    /// `kgd2kfd_pre_reset`.
    pub const PRE: u32 = 1;
    /// `kgd2kfd_post_reset`.
    pub const POST: u32 = 2;
}

macro_rules! bodies {
    ($( $(#[$doc:meta])* $kind:ident $name:ident { $( $(#[$fdoc:meta])* $field:ident : $ty:ty, )* } )+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
            #[repr(C)]
            pub struct $name { $( $(#[$fdoc])* pub $field: $ty, )* }

            impl Body for $name {
                const KIND: u16 = $kind;
            }
        )+

        /// Name, kind and body size of every record kind.
        pub const KINDS: &[(&str, u16, usize)] = &[
            $( (stringify!($name), $kind, size_of::<$name>()), )+
        ];
    };
}

/// A record body and the kind that announces it.
pub trait Body: FromBytes + IntoBytes + KnownLayout + Immutable + Copy {
    /// The kind in the header.
    const KIND: u16;
}

/// A whole record as it lies in the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Record<B> {
    /// Common to all kinds.
    pub header: Header,
    /// Of the kind that the header names.
    pub body: B,
}

bodies! {
    /// [`PROCESS_ATTACHED`]. `header.pid` is the group leader's pid in the initial pid namespace.
    PROCESS_ATTACHED ProcessAttached {
        /// `task_struct.start_boottime` of the group leader: with the pid, the process's key.
        start_boottime_ns: u64,
        /// cgroup v2 id of the thread that opened /dev/kfd (inode number in cgroupfs).
        cgroup_id: u64,
        /// Pid in the process's own pid namespace; 0 = unknown.
        ns_pid: u32,
        /// Zero.
        reserved: u32,
        /// Name of the group leader, NUL-terminated unless full.
        comm: [u8; COMM_BYTES],
    }
    /// [`PROCESS_EXITED`].
    PROCESS_EXITED ProcessExited {
        /// As in [`ProcessAttached`].
        start_boottime_ns: u64,
        /// As in [`ProcessAttached`]; 0 where the pid is detached already.
        ns_pid: u32,
        /// Zero.
        reserved: u32,
        /// Name of the group leader.
        comm: [u8; COMM_BYTES],
    }
    /// [`QUEUE_CREATED`]. `total_ns` covers the whole ioctl; 0 for a CRIU restore.
    QUEUE_CREATED QueueCreated {
        /// Bytes of the ring.
        ring_bytes: u64,
        /// `kfd_node.id`.
        gpu_id: u32,
        /// Unique in its process, from 0.
        queue_id: u32,
        /// `enum kfd_queue_type`: 0 compute, 1 SDMA, 2 HIQ, 3 DIQ, 4 SDMA XGMI, 5 SDMA by engine id.
        queue_type: u32,
        /// `enum kfd_queue_format`: 0 PM4, 1 AQL.
        format: u32,
        /// 0 to 15.
        priority: u32,
        /// 0 to 100; 0 = not to be run.
        percent: u32,
        /// `queue_properties.doorbell_off`: dword index on the doorbell BAR.
        doorbell: u32,
        /// `queue_properties.is_evicted`: created while its process was evicted.
        evicted: u32,
        /// Name of the group leader.
        comm: [u8; COMM_BYTES],
    }
    /// [`QUEUE_UPDATED`]. `total_ns` covers the whole ioctl.
    QUEUE_UPDATED QueueUpdated {
        /// `kfd_node.id`.
        gpu_id: u32,
        /// Unique in its process.
        queue_id: u32,
        /// After the update.
        priority: u32,
        /// After the update.
        percent: u32,
        /// `queue_properties.is_active` after the update.
        active: u32,
        /// Zero.
        reserved: u32,
    }
    /// [`QUEUE_DESTROYED`]. `total_ns` covers the ioctl; 0 when the process was torn down.
    QUEUE_DESTROYED QueueDestroyed {
        /// `kfd_node.id`.
        gpu_id: u32,
        /// Unique in its process.
        queue_id: u32,
    }
    /// [`QUEUE_REJECTED`]. `header.cause` names the ioctl, `header.status` the errno.
    QUEUE_REJECTED QueueRejected {
        /// Zero.
        reserved: u64,
    }
    /// [`RUNLIST_UNMAPPED`]. `total_ns` covers `unmap_queues_cpsch`.
    RUNLIST_UNMAPPED RunlistUnmapped {
        /// From entry of the operation's scheduler function (create_queue_cpsch, evict_process_queues_cpsch, ...) to entry
        /// of `unmap_queues_cpsch`: the wait for the dqm lock, and the little work done under it before. 0 = no such function seen.
        lock_wait_ns: u64,
        /// In `amdkfd_fence_wait_timeout`: the time the hardware scheduler took. 0 = it was not reached.
        fence_ns: u64,
        /// `kfd_node.id`.
        gpu_id: u32,
        /// `enum kfd_unmap_queues_filter` as passed to this kernel.
        filter: u32,
    }
    /// [`RUNLIST_MAPPED`]. `total_ns` covers `map_queues_cpsch`: submitted, not running.
    RUNLIST_MAPPED RunlistMapped {
        /// `kfd_node.id`.
        gpu_id: u32,
        /// Active queues in the runlist, of all types (`dqm->active_queue_count`).
        queues: u32,
        /// Of these, compute queues (`dqm->active_cp_queue_count`).
        cp_queues: u32,
        /// Registered processes (`dqm->processes_count`).
        processes: u32,
        /// `pm->is_over_subscription`: 0 or 1.
        oversubscribed: u32,
        /// Zero.
        reserved: u32,
    }
    /// [`PROCESS_EVICTED`]. `total_ns` covers `evict_process_queues_cpsch`.
    PROCESS_EVICTED ProcessEvicted {
        /// `kfd_node.id`.
        gpu_id: u32,
        /// One of [`evict_reason`].
        reason: u32,
        /// `qpd->evicted` after the call: how many evictions are in force; only the first stops the queues.
        depth: u32,
        /// Zero.
        reserved: u32,
    }
    /// [`PROCESS_RESTORED`]. `total_ns` covers `restore_process_queues_cpsch`.
    PROCESS_RESTORED ProcessRestored {
        /// `kfd_node.id`.
        gpu_id: u32,
        /// `qpd->evicted` after the call: 0 = the queues may run again.
        depth: u32,
    }
    /// [`QUEUES_SUSPENDED`]. `header.pid` is the debugged process, `actor_pid` the debugger.
    QUEUES_SUSPENDED QueuesSuspended {
        /// Queues really suspended: the positive return value.
        count: u32,
        /// Queues asked for.
        requested: u32,
    }
    /// [`QUEUES_RESUMED`].
    QUEUES_RESUMED QueuesResumed {
        /// Queues really resumed.
        count: u32,
        /// Queues asked for (0 = all).
        requested: u32,
    }
    /// [`GPU_RESET`].
    GPU_RESET GpuReset {
        /// `kfd_node.id` of the device's first node.
        gpu_id: u32,
        /// One of [`reset_phase`].
        phase: u32,
    }
    /// [`QUEUES_HELD`]. `header.pid` is the process whose queues are held, `total_ns` what the driver measured of its work.
    QUEUES_HELD QueuesHeld {
        /// Wait for the dqm lock, as the driver measured it.
        lock_wait_ns: u64,
        /// From UNMAP_QUEUES to the fence, as the driver measured it; 0 = the hardware was not asked.
        hw_ns: u64,
        /// `kfd_node.id`.
        gpu_id: u32,
        /// Queues whose hold was set.
        count: u32,
        /// Process (tgid) that owns the hold.
        owner_pid: u32,
        /// One of [`hold_cause`].
        cause: u32,
    }
    /// [`QUEUES_RELEASED`]. As [`QueuesHeld`].
    QUEUES_RELEASED QueuesReleased {
        /// As in [`QueuesHeld`].
        lock_wait_ns: u64,
        /// As in [`QueuesHeld`].
        hw_ns: u64,
        /// `kfd_node.id`.
        gpu_id: u32,
        /// Queues whose hold was cleared.
        count: u32,
        /// Process (tgid) that owned the hold.
        owner_pid: u32,
        /// One of [`hold_cause`].
        cause: u32,
    }
}

/// Not a record: what the program `self_check` reads of the thread that runs it, for user space to compare with /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SelfCheck {
    /// `task_struct.start_boottime`.
    pub start_boottime_ns: u64,
    /// `task_struct.tgid`.
    pub tgid: u32,
    /// What `bpf_get_current_pid_tgid` says that it is, in whatever namespace user space lives.
    pub expected_tgid: u32,
    /// Zero.
    pub reserved: u32,
    /// Thread id in its own pid namespace; 0 = unknown.
    pub ns_pid: u32,
    /// `task_struct.comm`.
    pub comm: [u8; COMM_BYTES],
}

const _: () = assert!(size_of::<Header>() == 40);
