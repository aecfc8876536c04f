// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types and constants of the header. Every struct has the same layout for as long as the SONAME has the same number: options grow
//! at their end and say by `struct_size` what the caller knows; elements of arrays have reserved members.

use std::ffi::c_char;

/// Version of the interface that this header describes: the number of the SONAME in the upper half, additions counted in the
/// lower half. gpreempt_abi_version() tells that of the library that was loaded.
pub const GPREEMPT_ABI_VERSION: u32 = 1;

/// Done.
pub const GPREEMPT_OK: i32 = 0;
/// A permission is missing.
pub const GPREEMPT_EPERM: i32 = -1;
/// There is no such queue, GPU or hint.
pub const GPREEMPT_ENOENT: i32 = -2;
/// There is no such process, or it does not use a GPU for computing.
pub const GPREEMPT_ESRCH: i32 = -3;
/// A call into the driver, or to the daemon, failed.
pub const GPREEMPT_EIO: i32 = -5;
/// Somebody else holds it.
pub const GPREEMPT_EBUSY: i32 = -16;
/// An argument cannot be used.
pub const GPREEMPT_EINVAL: i32 = -22;
/// The array is too short for what there is.
pub const GPREEMPT_ENOSPC: i32 = -28;
/// The GPU did not answer in time and is reset: every GPU process of the host is lost.
pub const GPREEMPT_ETIME: i32 = -62;
/// The driver, the kernel or the GPU cannot do that.
pub const GPREEMPT_ENOTSUP: i32 = -95;
/// No daemon listens on the socket.
pub const GPREEMPT_ENODAEMON: i32 = -111;
/// Some were done and some were not: look at the results.
pub const GPREEMPT_EPARTIAL: i32 = -1000;
/// A fault of the library itself.
pub const GPREEMPT_EINTERNAL: i32 = -1001;

/// gpreempt_queue.queue_id: every queue of the process, also those that it creates later.
pub const GPREEMPT_ALL_QUEUES: u32 = 0xffff_ffff;
/// gpreempt_queue.gpu_id: every GPU.
pub const GPREEMPT_ALL_GPUS: u32 = 0;
/// A number that is not known.
pub const GPREEMPT_UNKNOWN: u32 = 0xffff_ffff;
/// Longest lease, in milliseconds: an hour.
pub const GPREEMPT_MAX_LEASE_MS: u32 = 3_600_000;

/// gpreempt_hint.flags: gpreempt_hint_begin() returns only when offline queues have been stopped, or it is known that they will
/// not be.
pub const GPREEMPT_HINT_WAIT: u32 = 1;
/// gpreempt_hint.flags: the hint outlives this process. Else it ends with it.
pub const GPREEMPT_HINT_OUTLIVES: u32 = 2;

/// gpreempt_queue_info.queue_type: compute.
pub const GPREEMPT_QUEUE_COMPUTE: u32 = 0;
/// gpreempt_queue_info.queue_type: copies.
pub const GPREEMPT_QUEUE_SDMA: u32 = 1;

/// gpreempt_queue_info.state: nothing says whether it is in the runlist; that takes root and debugfs.
pub const GPREEMPT_STATE_UNKNOWN: u32 = 0;
/// gpreempt_queue_info.state: in the runlist, which does not mean that it runs.
pub const GPREEMPT_STATE_MAPPED: u32 = 1;
/// gpreempt_queue_info.state: not in the runlist.
pub const GPREEMPT_STATE_UNMAPPED: u32 = 2;

/// Queues of another process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct gpreempt_queue {
    /// The process, as this process sees it.
    pub pid: i32,
    /// The GPU's gpu_id, as in /sys/class/kfd/kfd/topology, or GPREEMPT_ALL_GPUS.
    pub gpu_id: u32,
    /// Id of the queue in its process, or GPREEMPT_ALL_QUEUES.
    pub queue_id: u32,
    /// 0.
    pub reserved: u32,
}

/// What became of one element of an array of queues or processes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct gpreempt_result {
    /// GPREEMPT_OK, or why not.
    pub code: i32,
    /// Queues of it that are now stopped, or now let go.
    pub queues: u32,
    /// Of these, queues that this call changed; the others were so before.
    pub changed: u32,
    /// 0.
    pub reserved: u32,
}

/// A queue, as gpreempt_list_queues() tells it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct gpreempt_queue_info {
    /// Its process, as the host numbers it.
    pub pid: i32,
    /// Its GPU.
    pub gpu_id: u32,
    /// Its id in the process.
    pub queue_id: u32,
    /// GPREEMPT_QUEUE_COMPUTE and others.
    pub queue_type: u32,
    /// GPREEMPT_STATE_MAPPED and others.
    pub state: u32,
    /// 0 to 15, or GPREEMPT_UNKNOWN.
    pub priority: u32,
    /// Size of its ring in bytes.
    pub ring_bytes: u64,
    /// Packets that wait in it, or UINT64_MAX where that is not known.
    pub pending: u64,
    /// Name of the process: at most 15 bytes and a NUL.
    pub comm: [c_char; 16],
    /// 0.
    pub reserved: [u64; 4],
}

/// Compute slots (HQDs) of a GPU. With the hardware scheduler nobody knows which queue is on which slot, nor when: what is told
/// is what the driver submitted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct gpreempt_hqd_status {
    /// In: sizeof(gpreempt_hqd_status). Out: how much of it was filled.
    pub struct_size: u32,
    /// Out: the GPU.
    pub gpu_id: u32,
    /// Slots that the scheduler may use on each XCC.
    pub slots_total: u32,
    /// Of these, taken by queues in the runlist, or GPREEMPT_UNKNOWN (that takes a patched driver, or root and debugfs).
    pub slots_used: u32,
    /// slots_total - slots_used, or GPREEMPT_UNKNOWN.
    pub slots_free: u32,
    /// Slots that offline processes leave free; 0 where the driver has no reservations.
    pub slots_reserved: u32,
    /// Compute queues in the runlist, or GPREEMPT_UNKNOWN. More than slots_total take turns.
    pub queues_mapped: u32,
    /// Queues that are parked by the reservation.
    pub queues_parked: u32,
    /// The process that reserved; 0 = nobody.
    pub reserved_by: i32,
    /// 1 if the runlist is time-sliced, 0 if not, or GPREEMPT_UNKNOWN.
    pub oversubscribed: u32,
}

/// What to keep free of offline processes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gpreempt_reservation {
    /// sizeof(gpreempt_reservation).
    pub struct_size: u32,
    /// The GPU.
    pub gpu_id: u32,
    /// So many slots; 0 = see percent. Both 0 end the reservation of this handle.
    pub slots: u32,
    /// So many hundredths of all slots, rounded up: 1 to 99.
    pub percent: u32,
    /// How often parked queues take turns, in milliseconds; 0 = 1000.
    pub rotate_ms: u32,
    /// How many there are in offline.
    pub offline_count: u32,
    /// The offline processes, all others are online. They replace those named before.
    pub offline: *const i32,
}

/// Options of gpreempt_hint_begin().
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct gpreempt_hint {
    /// sizeof(gpreempt_hint).
    pub struct_size: u32,
    /// GPREEMPT_HINT_WAIT, GPREEMPT_HINT_OUTLIVES.
    pub flags: u32,
    /// When the work begins, in milliseconds from now; 0 = it has begun.
    pub lead_ms: u32,
    /// The hint ends by itself after so many milliseconds, at most an hour; 0 = as the daemon is configured.
    pub expires_ms: u32,
}

// The layouts are the contract.
const _: () = {
    assert!(size_of::<gpreempt_queue>() == 16);
    assert!(size_of::<gpreempt_result>() == 16);
    assert!(size_of::<gpreempt_queue_info>() == 88);
    assert!(size_of::<gpreempt_hqd_status>() == 40);
    assert!(size_of::<gpreempt_reservation>() == 32);
    assert!(size_of::<gpreempt_hint>() == 16);
};
