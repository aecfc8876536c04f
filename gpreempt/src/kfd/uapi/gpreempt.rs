// SPDX-License-Identifier: MIT OR Apache-2.0
//! `kernel-patch/uapi/kfd_gpreempt_ioctl.h`: hold and release the queues of other processes, keep HQD slots free. A test
//! compares every size, offset and number here with what a C compiler makes of that header.
//!
//! Kernel support: drivers with the patches of `kernel-patch/`.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the interface that this file describes.
pub const ABI_VERSION: u32 = 1;
/// Most entries of one call.
pub const MAX_ENTRIES: usize = 1024;
/// Longest lease and rotation.
pub const MAX_MS: u32 = 3_600_000;

/// [`Entry::gpu_id`]: every node.
pub const ALL_GPUS: u32 = 0;
/// [`Entry::queue_id`]: every queue.
pub const ALL_QUEUES: u32 = u32::MAX;

/// [`Entry::flags`]: queues that the process creates later start held. Only with [`ALL_QUEUES`].
pub const INHERIT: u32 = 1 << 0;
/// [`Entry::flags`]: SDMA queues are left alone.
pub const NO_SDMA: u32 = 1 << 1;

/// [`BatchArgs::flags`]: check and report, change nothing.
pub const DRY_RUN: u32 = 1 << 0;
/// [`BatchArgs::flags`]: release holds of other owners too. [`ReserveArgs::flags`]: clear another owner's reservation.
pub const FORCE: u32 = 1 << 1;

/// What is true of at least one queue of an entry: [`Entry::state`].
pub mod state {
    /// In the runlist.
    pub const ACTIVE: u32 = 1 << 0;
    /// Held by the caller.
    pub const HELD: u32 = 1 << 1;
    /// Held by another owner.
    pub const HELD_OTHER: u32 = 1 << 2;
    /// Parked by the reservation.
    pub const CAPPED: u32 = 1 << 3;
    /// Evicted.
    pub const EVICTED: u32 = 1 << 4;
    /// Suspended by a debugger.
    pub const SUSPENDED: u32 = 1 << 5;
    /// Lost in a reset.
    pub const RESET: u32 = 1 << 6;
}

/// [`ReserveArgs::op`]: tell what is.
pub const RESERVE_QUERY: u32 = 0;
/// [`ReserveArgs::op`]: reserve.
pub const RESERVE_SET: u32 = 1;
/// [`ReserveArgs::op`]: end the reservation.
pub const RESERVE_CLEAR: u32 = 2;

/// `struct kfd_gpreempt_entry`: queues of one process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Entry {
    /// Process, in the caller's pid namespace.
    pub pid: i32,
    /// Node, or [`ALL_GPUS`].
    pub gpu_id: u32,
    /// Queue, or [`ALL_QUEUES`].
    pub queue_id: u32,
    /// [`INHERIT`], [`NO_SDMA`].
    pub flags: u32,
    /// Field 22 of `/proc/PID/stat`; 0 = not compared.
    pub start_ticks: u64,
    /// Out: 0 or a negative errno.
    pub status: i32,
    /// Out: [`state`].
    pub state: u32,
    /// Out: queues that the entry names.
    pub n_matched: u32,
    /// Out: of these, queues whose hold this call set or cleared.
    pub n_changed: u32,
}

/// `struct kfd_gpreempt_batch_args`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BatchArgs {
    /// Address of the entries.
    pub entries_ptr: u64,
    /// How many; 0 asks for the version only.
    pub num_entries: u32,
    /// Bytes of one.
    pub entry_size: u32,
    /// [`DRY_RUN`], [`FORCE`].
    pub flags: u32,
    /// Hold: time for waves to end before they are saved, in 1000 GPU clocks; 0 = the driver's default.
    pub grace_period: u32,
    /// Hold: ends by itself after this time; 0 = no limit.
    pub lease_ms: u32,
    /// Out: the driver's version of the interface.
    pub abi_version: u32,
    /// Out: queues whose hold was set or cleared.
    pub num_changed: u32,
    /// Out: entries whose status is not 0.
    pub num_failed: u32,
    /// Out: GPUs whose runlist was updated.
    pub num_nodes: u32,
    /// 0.
    pub pad: u32,
    /// Out: longest wait for a GPU's scheduler lock.
    pub lock_wait_ns: u64,
    /// Out: longest time from UNMAP_QUEUES to the fence on one GPU.
    pub hw_ns: u64,
    /// Out: the whole call.
    pub total_ns: u64,
    /// 0.
    pub reserved: u64,
}

/// `struct kfd_gpreempt_reserve_args`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ReserveArgs {
    /// SET: address of the entries, of which `pid`, `start_ticks` and `status` count.
    pub entries_ptr: u64,
    /// How many.
    pub num_entries: u32,
    /// Bytes of one.
    pub entry_size: u32,
    /// Node.
    pub gpu_id: u32,
    /// [`RESERVE_QUERY`], [`RESERVE_SET`], [`RESERVE_CLEAR`].
    pub op: u32,
    /// CLEAR: [`FORCE`].
    pub flags: u32,
    /// SET: wanted, less than `slots_total`. Out: in force now.
    pub slots_reserved: u32,
    /// SET: how often parked queues take turns, 0 = 1000. Out: in force now.
    pub rotate_ms: u32,
    /// Out: the driver's version of the interface.
    pub abi_version: u32,
    /// Out: compute HQD slots that the scheduler may use.
    pub slots_total: u32,
    /// Out: compute queues in the runlist.
    pub cp_queues_active: u32,
    /// Out: queues parked by the reservation.
    pub queues_capped: u32,
    /// Out: processes in the runlist.
    pub processes: u32,
    /// Out: processes that run without time slicing.
    pub processes_max: u32,
    /// Out: 1 = the runlist is time-sliced.
    pub oversubscribed: u32,
    /// Out: who reserved; 0 = nobody.
    pub owner_pid: u32,
    /// Out: entries whose status is not 0; then nothing was set.
    pub num_failed: u32,
    /// 0.
    pub reserved: u64,
}

/// Numbers as the driver computes them.
pub mod request {
    use super::{BatchArgs, ReserveArgs};

    /// `AMDKFD_IOC_BATCH_UNMAP_QUEUES`.
    pub const BATCH_UNMAP_QUEUES: u64 =
        nix::request_code_readwrite!(b'K', 0xe0, size_of::<BatchArgs>());
    /// `AMDKFD_IOC_FAST_REMAP`.
    pub const FAST_REMAP: u64 = nix::request_code_readwrite!(b'K', 0xe1, size_of::<BatchArgs>());
    /// `AMDKFD_IOC_SET_HQD_RESERVATION`.
    pub const SET_HQD_RESERVATION: u64 =
        nix::request_code_readwrite!(b'K', 0xe2, size_of::<ReserveArgs>());
}

/// An open `/dev/kfd`, asked with these calls. What is held through it is released when it is closed.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Calls through this descriptor of `/dev/kfd`.
    #[must_use]
    pub fn new(kfd: OwnedFd) -> Self {
        Self(kfd)
    }

    /// The driver's version of the interface.
    ///
    /// # Errors
    /// ENOTTY from a driver without it, EINVAL from ROCm's.
    pub fn abi_version(&self) -> nix::Result<u32> {
        let mut args = BatchArgs {
            entry_size: entry_bytes(),
            ..BatchArgs::default()
        };
        self.batch(request::BATCH_UNMAP_QUEUES, &mut args, &mut [])?;
        Ok(args.abi_version)
    }

    /// `AMDKFD_IOC_BATCH_UNMAP_QUEUES`: holds. Of `args`, flags, grace period and lease count.
    ///
    /// # Errors
    /// Only where nothing of the batch was processed; else look at each entry's status.
    pub fn hold(&self, mut args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs> {
        self.batch(request::BATCH_UNMAP_QUEUES, &mut args, entries)?;
        Ok(args)
    }

    /// `AMDKFD_IOC_FAST_REMAP`: releases. Of `args`, flags count.
    ///
    /// # Errors
    /// As [`Device::hold`].
    pub fn release(&self, mut args: BatchArgs, entries: &mut [Entry]) -> nix::Result<BatchArgs> {
        self.batch(request::FAST_REMAP, &mut args, entries)?;
        Ok(args)
    }

    /// `AMDKFD_IOC_SET_HQD_RESERVATION`. Of `args`, node, op, flags, slots and rotation count.
    ///
    /// # Errors
    /// EBUSY another owner has reserved, EPERM, EINVAL, ENODEV no such node, EOPNOTSUPP no HWS.
    pub fn reservation(
        &self,
        mut args: ReserveArgs,
        entries: &mut [Entry],
    ) -> nix::Result<ReserveArgs> {
        args.entries_ptr = address(entries);
        args.num_entries = count(entries)?;
        args.entry_size = entry_bytes();
        // SAFETY: the number encodes the size of the struct; entries_ptr and num_entries describe the borrowed slice, which
        // nobody else touches through the call, and any bytes that the driver writes are valid entries.
        unsafe {
            retry(|| {
                libc::ioctl(
                    self.0.as_raw_fd(),
                    request::SET_HQD_RESERVATION,
                    std::ptr::from_mut(&mut args),
                )
            })?;
        }
        Ok(args)
    }

    fn batch(&self, request: u64, args: &mut BatchArgs, entries: &mut [Entry]) -> nix::Result<()> {
        args.entries_ptr = address(entries);
        args.num_entries = count(entries)?;
        args.entry_size = entry_bytes();
        // SAFETY: both numbers encode the size of the struct; entries_ptr and num_entries describe the borrowed slice, which
        // nobody else touches through the call, and any bytes that the driver writes are valid entries.
        unsafe {
            retry(|| libc::ioctl(self.0.as_raw_fd(), request, std::ptr::from_mut(&mut *args)))
        }
    }
}

/// Calls are idempotent: one that a signal interrupted is made again.
fn retry(mut call: impl FnMut() -> libc::c_int) -> nix::Result<()> {
    loop {
        match Errno::result(call()) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

fn address(entries: &mut [Entry]) -> u64 {
    if entries.is_empty() {
        0
    } else {
        entries.as_mut_ptr() as u64
    }
}

fn count(entries: &[Entry]) -> nix::Result<u32> {
    if entries.len() > MAX_ENTRIES {
        return Err(Errno::EINVAL);
    }
    u32::try_from(entries.len()).map_err(|_| Errno::EINVAL)
}

fn entry_bytes() -> u32 {
    // 40: fits.
    size_of::<Entry>() as u32
}

#[cfg(test)]
mod tests;
