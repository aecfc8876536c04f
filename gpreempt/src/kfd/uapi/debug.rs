// SPDX-License-Identifier: MIT OR Apache-2.0
//! `AMDKFD_IOC_DBG_TRAP` of `include/uapi/linux/kfd_ioctl.h`: the driver's debugger interface, as far as it stops and restarts
//! the queues of another process.
//!
//! Every call but [`Device::disable`] must come from the thread that traces the target's main thread
//! (`kfd_ioctl_set_debug_trap`, Linux 6.12: `ptrace_parent(target->lead_thread) != current` is EPERM).
//!
//! Kernel support: UAPI 1.13, Linux 6.5. Not in Linux 6.1.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First UAPI version with this interface.
pub const SINCE_VERSION: (u32, u32) = (1, 13);

/// Most queues that one process may have (`KFD_MAX_NUM_OF_QUEUES_PER_PROCESS`, kfd_priv.h).
pub const MAX_QUEUES: usize = 1024;

/// In a queue id that came back: the hardware did not do it (`KFD_DBG_QUEUE_ERROR_MASK`).
pub const QUEUE_ERROR: u32 = 1 << 30;
/// In a queue id that came back: no such queue, or it is new, or being destroyed (`KFD_DBG_QUEUE_INVALID_MASK`).
pub const QUEUE_INVALID: u32 = 1 << 31;

/// A queue was created. Queues are born with it, and `suspend_single_queue` refuses them until it is cleared.
pub const EC_QUEUE_NEW: u64 = 1 << (31 - 1);
/// The process enabled or disabled its runtime, and waits until the debugger answers.
pub const EC_PROCESS_RUNTIME: u64 = 1 << (EC_PROCESS_RUNTIME_CODE - 1);
const EC_PROCESS_RUNTIME_CODE: u32 = 48;

/// `runtime_state`: the process has not enabled its runtime, or has disabled it.
pub const RUNTIME_DISABLED: u32 = 0;
/// `runtime_state`: queues can be suspended.
pub const RUNTIME_ENABLED: u32 = 1;
/// `runtime_state`: another debugger uses what the hardware has only once.
pub const RUNTIME_BUSY: u32 = 2;
/// `runtime_state`: the runlist of a GPU could not be updated.
pub const RUNTIME_ERROR: u32 = 3;

/// SUSPEND's grace period: let the scheduler use its own (`USE_DEFAULT_GRACE_PERIOD`, kfd_device_queue_manager.h). Any other
/// value costs two packets more, before and after the unmap.
const DEFAULT_GRACE_PERIOD: u32 = u32::MAX;

const OP_ENABLE: u32 = 0;
const OP_DISABLE: u32 = 1;
const OP_SEND_RUNTIME_EVENT: u32 = 2;
const OP_SUSPEND_QUEUES: u32 = 6;
const OP_RESUME_QUEUES: u32 = 7;
const OP_QUERY_EXCEPTION_INFO: u32 = 12;
const OP_GET_QUEUE_SNAPSHOT: u32 = 13;

/// `struct kfd_runtime_info`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RuntimeInfo {
    /// Address of the runtime's debugger structure, in the process.
    pub r_debug: u64,
    /// [`RUNTIME_ENABLED`] and its like.
    pub runtime_state: u32,
    /// Whether waves get their trap temporaries set up.
    pub ttmp_setup: u32,
}

/// `struct kfd_queue_snapshot_entry`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct QueueSnapshot {
    /// Exceptions pending before this call cleared some.
    pub exception_status: u64,
    /// Address of the ring, in the process.
    pub ring_base_address: u64,
    /// Address of the write pointer.
    pub write_pointer_address: u64,
    /// Address of the read pointer.
    pub read_pointer_address: u64,
    /// Where its waves are saved.
    pub ctx_save_restore_address: u64,
    /// Id, unique in the process.
    pub queue_id: u32,
    /// Node.
    pub gpu_id: u32,
    /// Bytes of the ring.
    pub ring_size: u32,
    /// `KFD_IOC_QUEUE_TYPE_*`: 0 PM4, 1 SDMA, 2 AQL, 3 SDMA over XGMI.
    pub queue_type: u32,
    /// Bytes of the save area.
    pub ctx_save_restore_area_size: u32,
    /// 0.
    pub reserved: u32,
}

impl QueueSnapshot {
    /// Whether it is a queue of a DMA engine.
    #[must_use]
    pub fn is_sdma(&self) -> bool {
        matches!(self.queue_type, 1 | 3 | 4)
    }

    /// Whether nobody had cleared [`EC_QUEUE_NEW`] since it was created.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.exception_status & EC_QUEUE_NEW != 0
    }
}

/// `struct kfd_ioctl_get_version_args`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VersionArgs {
    major: u32,
    minor: u32,
}

/// `struct kfd_ioctl_dbg_trap_args`; its union as three words, which the constructors below fill.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
struct DbgTrapArgs {
    pid: u32,
    op: u32,
    words: [u64; 3],
}

const GET_VERSION: u64 = nix::request_code_read!(b'K', 0x01, size_of::<VersionArgs>());
const DBG_TRAP: u64 = nix::request_code_readwrite!(b'K', 0x26, size_of::<DbgTrapArgs>());

const _: () = {
    assert!(GET_VERSION == 0x8008_4b01);
    assert!(DBG_TRAP == 0xc020_4b26);
    assert!(size_of::<RuntimeInfo>() == 16);
    assert!(size_of::<QueueSnapshot>() == 64);
};

/// Two neighbouring u32 members as the word that covers them; x86-64 is little-endian.
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[cfg(target_endian = "big")]
compile_error!("pair() is for little-endian machines");

/// An open `/dev/kfd` of this process, asked with these calls.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Calls through this descriptor of `/dev/kfd`, which this process must have opened itself.
    #[must_use]
    pub fn new(kfd: OwnedFd) -> Self {
        Self(kfd)
    }

    /// `AMDKFD_IOC_GET_VERSION`: major and minor version of the UAPI.
    ///
    /// # Errors
    /// EBADF through a descriptor that another process opened.
    pub fn version(&self) -> nix::Result<(u32, u32)> {
        let mut args = VersionArgs::default();
        // SAFETY: the number encodes the size of the struct, which the driver fills with two integers.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                GET_VERSION,
                std::ptr::from_mut(&mut args),
            )
        };
        Errno::result(result).map(|_| (args.major, args.minor))
    }

    /// `ENABLE`: makes this process the debugger of `pid`. From then on each of `exceptions` writes a byte into `notify`, which
    /// must be a pipe or file.
    ///
    /// # Errors
    /// EINVAL no HWS or no debugger interface, ESRCH, EPERM, ENODEV GPU without it, EBUSY global wave sync in use, EALREADY.
    /// With EALREADY the driver has forgotten who the debugger was: it took note of us before it looked
    /// (`kfd_ioctl_set_debug_trap`, Linux 6.12).
    pub fn enable(
        &self,
        pid: u32,
        exceptions: u64,
        notify: BorrowedFd<'_>,
    ) -> nix::Result<RuntimeInfo> {
        let mut info = RuntimeInfo::default();
        let notify = u32::try_from(notify.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        let mut args = DbgTrapArgs {
            pid,
            op: OP_ENABLE,
            words: [
                exceptions,
                std::ptr::from_mut(&mut info) as u64,
                pair(size_of::<RuntimeInfo>() as u32, notify),
            ],
        };
        self.call(&mut args)?;
        Ok(info)
    }

    /// `DISABLE`: ends debugging `pid`; every queue suspended so is resumed. From any thread, and in Linux 6.12 any process.
    ///
    /// # Errors
    /// EINVAL nobody debugs it, ESRCH.
    pub fn disable(&self, pid: u32) -> nix::Result<()> {
        let mut args = DbgTrapArgs {
            pid,
            op: OP_DISABLE,
            words: [0; 3],
        };
        self.call(&mut args).map(drop)
    }

    /// `SEND_RUNTIME_EVENT` with [`EC_PROCESS_RUNTIME`]: lets the process go on that enables or disables its runtime.
    ///
    /// # Errors
    /// EINVAL not debugged, ESRCH.
    pub fn answer_runtime(&self, pid: u32) -> nix::Result<()> {
        let mut args = DbgTrapArgs {
            pid,
            op: OP_SEND_RUNTIME_EVENT,
            words: [EC_PROCESS_RUNTIME, 0, 0],
        };
        self.call(&mut args).map(drop)
    }

    /// `QUERY_EXCEPTION_INFO` of [`EC_PROCESS_RUNTIME`], clearing it: the state that the runtime changed to, or `None` if it
    /// did not.
    ///
    /// # Errors
    /// EINVAL not debugged, ESRCH.
    pub fn take_runtime_change(&self, pid: u32) -> nix::Result<Option<RuntimeInfo>> {
        let mut info = RuntimeInfo::default();
        let mut args = DbgTrapArgs {
            pid,
            op: OP_QUERY_EXCEPTION_INFO,
            words: [
                std::ptr::from_mut(&mut info) as u64,
                pair(size_of::<RuntimeInfo>() as u32, 0),
                pair(EC_PROCESS_RUNTIME_CODE, 1),
            ],
        };
        match self.call(&mut args) {
            Ok(_) => Ok(Some(info)),
            Err(Errno::ENODATA) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// `GET_QUEUE_SNAPSHOT`: all queues of the process, clearing the exceptions of `clear`.
    ///
    /// # Errors
    /// EINVAL not debugged, ESRCH.
    pub fn snapshot(&self, pid: u32, clear: u64) -> nix::Result<Vec<QueueSnapshot>> {
        let mut entries = vec![QueueSnapshot::default(); MAX_QUEUES];
        let mut args = DbgTrapArgs {
            pid,
            op: OP_GET_QUEUE_SNAPSHOT,
            words: [
                clear,
                entries.as_mut_ptr() as u64,
                pair(MAX_QUEUES as u32, size_of::<QueueSnapshot>() as u32),
            ],
        };
        self.call(&mut args)?;
        entries.truncate((args.words[2] & 0xffff_ffff) as usize);
        Ok(entries)
    }

    /// `SUSPEND_QUEUES`. Returns how many are suspended now; `ids` of the others carry [`QUEUE_ERROR`] or [`QUEUE_INVALID`].
    /// Faults keep being reported to the process's own runtime.
    ///
    /// # Errors
    /// EPERM the process has not enabled its runtime, EINVAL not debugged, ESRCH.
    pub fn suspend(&self, pid: u32, ids: &mut [u32]) -> nix::Result<u32> {
        let mut args = DbgTrapArgs {
            pid,
            op: OP_SUSPEND_QUEUES,
            words: [
                0,
                ids.as_mut_ptr() as u64,
                pair(count(ids)?, DEFAULT_GRACE_PERIOD),
            ],
        };
        self.call(&mut args)
    }

    /// `RESUME_QUEUES`, likewise.
    ///
    /// # Errors
    /// As [`Device::suspend`].
    pub fn resume(&self, pid: u32, ids: &mut [u32]) -> nix::Result<u32> {
        let mut args = DbgTrapArgs {
            pid,
            op: OP_RESUME_QUEUES,
            words: [ids.as_mut_ptr() as u64, pair(count(ids)?, 0), 0],
        };
        self.call(&mut args)
    }

    /// The call's non-negative result: a count for SUSPEND and RESUME.
    fn call(&self, args: &mut DbgTrapArgs) -> nix::Result<u32> {
        // SAFETY: the number encodes the size of the struct. Addresses in it were made by the methods above from values that
        // they borrow mutably until this returns, with their true lengths, and any bytes are valid there.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), DBG_TRAP, std::ptr::from_mut(args)) };
        Errno::result(result).map(|count| u32::try_from(count).unwrap_or(0))
    }
}

fn count(ids: &[u32]) -> nix::Result<u32> {
    if ids.len() > MAX_QUEUES {
        return Err(Errno::EINVAL);
    }
    u32::try_from(ids.len()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_those_of_the_header() {
        assert_eq!(EC_QUEUE_NEW, 0x4000_0000);
        assert_eq!(EC_PROCESS_RUNTIME, 0x8000_0000_0000);
    }

    #[test]
    fn neighbours_lie_in_the_order_of_memory() {
        assert_eq!(pair(1, 2).to_ne_bytes(), [1, 0, 0, 0, 2, 0, 0, 0]);
    }
}
